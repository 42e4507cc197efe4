// An L2 penalty: adds strength times the sum of the squares of w (size,) to value ().
//
// w and value are of the computed type. partial (gridDim.x,); counter (1,), zero. Block 32 x warps, any grid.
// Bytes moved per element: reads w (1 item).
extern "C" __global__ void penalize(const T *w, T *value, double *partial, unsigned *counter, long long size,
                                    double strength) {
    __shared__ double part[32];
    __shared__ unsigned last;
    double sum = 0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (long long)gridDim.x * blockDim.x)
        sum += double(w[i]) * double(w[i]);
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!is_last(counter, gridDim.x, &last)) return;
    sum = 0;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += partial[b];
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) *value = T(double(*value) + strength * sum);
}
