// The loss-gradient path: the (weighted) mean over the batch of a loss and its gradient at the logits, in one pass.
//
// z, dz (rows, cols); target (rows, cols), or class numbers (rows,) with LABELS; weight (rows,) with WEIGHTED;
// value (); partial (gridDim.x,); counter (1,), zero; scaling (LOSS_SCALING,), see slots.h: with SCALED, the loss scale
// is a factor of dz. One warp a row: block 32 x warps, any grid. FACTOR is a factor of value and dz. LOSS names an
// elementwise loss of losses.h; without it, softmax cross-entropy with smoothing K.
// Bytes moved per element: reads z and the target, writes dz (3 items).
#ifdef LOSS
template <typename S, typename T> __device__ T row_loss(const S *z, const T *t, S *dz, long long cols, T scale) {
    T sum = 0;
    for (long long j = threadIdx.x % 32; j < cols; j += 32) {
        const T x = T(z[j]);
        sum += LOSS<T>::value(x, t[j], T(K));
        dz[j] = S(LOSS<T>::gradient(x, t[j], T(K)) * scale);
    }
    return warp_sum(sum);
}
#else
// The target of column j, smoothed. The row of a class number outside of 0 .. cols - 1 has no class, as in
// the specification.
#ifdef LABELS
#define TARGET(j) ((j == *t ? T(1) - T(K) : T(0)) + T(K) / T(cols))
template <typename S, typename T, typename L>
__device__ T row_loss(const S *z, const L *t, S *dz, long long cols, T scale) {
#else
#define TARGET(j) (t[j] * (T(1) - T(K)) + T(K) / T(cols))
template <typename S, typename T> __device__ T row_loss(const S *z, const T *t, S *dz, long long cols, T scale) {
#endif
    const int lane = threadIdx.x % 32;
    T most = T(z[0]), sum_e = 0, sum_t = 0, sum_tz = 0;
    for (long long j = lane; j < cols; j += 32) most = xpd_max(most, T(z[j]));
    most = warp_max(most);
    for (long long j = lane; j < cols; j += 32) {
        const T shifted = T(z[j]) - most, target = TARGET(j);
        sum_e += xpd_exp(shifted), sum_t += target, sum_tz += target * shifted;
    }
    sum_e = warp_sum(sum_e), sum_t = warp_sum(sum_t), sum_tz = warp_sum(sum_tz);
    for (long long j = lane; j < cols; j += 32)
        dz[j] = S(loss_softmax<T>::gradient(xpd_exp(T(z[j]) - most), sum_t / sum_e, TARGET(j)) * scale);
    return loss_softmax<T>::value(sum_e, sum_t, sum_tz);
}
#endif

#ifdef LABELS
#define TYPE long long
#define ROW 1
#else
#define TYPE T
#define ROW cols
#endif

extern "C" __global__ void loss(const S *z, const TYPE *target, const T *weight, S *dz, T *value, double *partial,
                                unsigned *counter, const T *scaling, long long rows, long long cols) {
    __shared__ double part[32];
    __shared__ unsigned last;
    const int warps = blockDim.x / 32;
    double total = double(rows), sum = 0;
#ifdef WEIGHTED
    total = 0;
    for (long long i = threadIdx.x; i < rows; i += blockDim.x) total += double(weight[i]);
    total = block_sum(total, part);
    if (!(total > 0)) total = 1;
#endif
#ifdef FACTOR
    total /= FACTOR;
#endif
    for (long long row = (long long)blockIdx.x * warps + threadIdx.x / 32; row < rows; row += gridDim.x * warps) {
        double row_weight = 1 / total;
#ifdef WEIGHTED
        row_weight *= double(weight[row]);
#endif
#ifdef LOSS
        row_weight /= double(cols);
#endif
        T up = T(row_weight);
#ifdef SCALED
        up *= scaling[slots::loss_scale];
#endif
        const T mine = row_loss(z + row * cols, target + row * ROW, dz + row * cols, cols, up);
        // A row of weight 0 may have an infinite loss.
        if (threadIdx.x % 32 == 0 && row_weight != 0) sum += double(mine) * row_weight;
    }
    if (grid_sum(&sum, partial, part, counter, &last) && threadIdx.x == 0) *value = T(sum);
}
