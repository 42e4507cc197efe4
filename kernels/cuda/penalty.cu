// An L2 penalty: adds strength times the sum of the squares of w (size,) to value ().
//
// w and value are of the computed type. partial (gridDim.x,); counter (1,), zero. Block 32 x warps, any grid.
// Bytes moved per element: reads w (1 item).
extern "C" __global__ void penalize(const T *w, T *value, double *partial, unsigned *counter, long long size,
                                    double strength) {
    __shared__ double part[32];
    __shared__ unsigned last;
    double sum = 0;
    const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
    for (long long i = first; i < size; i += step)
        sum += double(w[i]) * double(w[i]);
    if (grid_sum(&sum, partial, part, counter, &last) && threadIdx.x == 0)
        *value = T(double(*value) + strength * sum);
}
