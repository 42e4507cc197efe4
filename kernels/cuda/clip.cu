// The factor of every gradient in an update. With CLIPPED it is min(1, norm_allowed / (norm + 1e-6)) with the norm of
// all gradients together; if that is beyond 8e37 in float32, the device flushes the factor to 0.
//
// With SCALED the gradients are those of a loss that was multiplied by the loss scale; the factor divides by it. If a
// gradient is not finite, the factor is 0, the update is skipped, and the scale is halved; after GROWTH good steps it
// is doubled (Micikevicius et al., arXiv:1710.03740).
// g (size,); partial (2, gridDim.x); counter (1,), zero; scaling (LOSS_SCALING,), see
// slots.h; factor (1,). Block 32 x warps, any grid.
// Bytes moved per element: reads g (twice, the second time from a cache: the norm is formed relative to the largest).
extern "C" __global__ void clip(const S *g, double *partial, unsigned *counter, T *scaling, T *factor, long long size,
                                double norm_allowed) {
    __shared__ double part[32];
    __shared__ unsigned last;
    const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
    double most = 0, sum = 0;
    for (long long i = first; i < size; i += step) most = xpd_max(most, double(xpd_abs(T(g[i]))));
    most = block_max(most, part);
    if (most != 0)
        for (long long i = first; i < size; i += step) {
            const double part_of = double(T(g[i])) / most;
            sum += part_of * part_of;
        }
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) partial[blockIdx.x] = most, partial[gridDim.x + blockIdx.x] = sum;
    if (!is_last(counter, gridDim.x, &last)) return;
    most = sum = 0;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) most = xpd_max(most, partial[b]);
    most = block_max(most, part);
    if (most != 0)
        for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) {
            const double part_of = partial[b] / most;
            sum += partial[gridDim.x + b] * part_of * part_of;
        }
    sum = block_sum(sum, part);
    if (threadIdx.x) return;
    double norm = most * sqrt(sum), f = 1;
#ifdef SCALED
    norm /= double(scaling[slots::loss_scale]);
#endif
#ifdef CLIPPED
    f = norm_allowed / (norm + 1e-6);
    f = f < 1 || f != f ? f : 1;
#endif
#ifdef SCALED
    const bool finite = norm - norm == 0;
    T &scale = scaling[slots::loss_scale], &good_steps = scaling[slots::good_steps];
    f = finite ? f / double(scale) : 0;
    good_steps = finite ? good_steps + T(1) : T(0);
    if (!finite) scale = xpd_max(scale * T(0.5), T(6.103515625e-5));  // 2^-14
    if (good_steps >= T(GROWTH)) scale = xpd_min(scale * T(2), T(16777216)), good_steps = T(0);  // 2^24
#endif
    *factor = T(f);
}
