// The activation-derivative path: dz = da act'(saved) and the column sums of dz, the gradient of the bias, in one pass.
//
// All arrays are (rows, cols), contiguous; dbias (cols,); partial (gridDim.y, cols); counter (gridDim.x,), zeros.
// Block (32, a power of two), grid (cols / 32, any). Without ACT it computes the column sums of da alone.
// Bytes moved per element: reads saved and da, writes dz (3 items; 1 without ACT).
extern "C" __global__ void column_sums(const S *saved, const S *da, S *dz, S *dbias, T *partial, unsigned *counter,
                                       long long rows, long long cols) {
    __shared__ T part[1024];
    __shared__ unsigned last;
    const long long col = blockIdx.x * 32 + threadIdx.x;
    T sum = 0;
    if (col < cols)
        for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
            T d = T(da[row * cols + col]);
#ifdef ACT
            d *= ACT<T>::derivative(T(saved[row * cols + col]), T(K));
            dz[row * cols + col] = S(d);
#endif
            sum += d;
        }
    sum = column_sum(sum, part);
    const bool mine = threadIdx.y == 0 && col < cols;
    if (gridDim.y > 1) {
        if (mine) partial[blockIdx.y * cols + col] = sum;
        if (!is_last(counter + blockIdx.x, gridDim.y, &last)) return;
        sum = 0;
        if (mine)
            for (unsigned b = 0; b < gridDim.y; ++b) sum += partial[b * cols + col];
    }
    if (mine) dbias[col] = S(sum);
}
