// What the kernels for CUDA share: element types, and sums over the threads of a block in a fixed order.
//
// S is the type that arrays are stored in, T the type of the arithmetic: float for 16-bit S, else S.
template <typename S, int SIZE = sizeof(S)> struct xpd_wide { typedef S type; };
template <typename S> struct xpd_wide<S, 2> { typedef float type; };

#ifdef XPD_RAW  // in a RawModule only: the following needs the threads of a block
#define WARP 0xffffffffu

template <typename A> __device__ A warp_sum(A v) {
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(WARP, v, d);
    return v;
}
template <typename A> __device__ A warp_max(A v) {
    for (int d = 16; d; d /= 2) v = xpd_max(v, __shfl_xor_sync(WARP, v, d));
    return v;
}
// Over all threads of a one-dimensional block, and for all of them; `part` is shared, an A for each warp.
template <typename A> __device__ A block_sum(A v, A *part) {
    v = warp_sum(v);
    __syncthreads();  // `part` may still be read by the previous call
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : A(0));
}
template <typename A> __device__ A block_max(A v, A *part) {
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : A(0));
}
// Over the rows of a block of (32, rows) threads: the sum of each column, for all of its threads; `part` is shared,
// an A for each thread.
template <typename A> __device__ A column_sum(A v, A *part) {
    const int at = threadIdx.y * 32 + threadIdx.x;
    __syncthreads();
    part[at] = v;
    for (int half = blockDim.y / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) part[at] += part[at + half * 32];
    }
    __syncthreads();
    return part[threadIdx.x];
}
// Whether this block is the last of `blocks` to arrive here: it then sees what all others wrote before. The order in
// which it adds their sums is fixed, so the total is the same in every run. `counter` is zero before and after.
__device__ inline bool is_last(unsigned *counter, unsigned blocks, unsigned *shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        *shared = atomicAdd(counter, 1u) == blocks - 1;
        if (*shared) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return *shared;
}
// Over all threads of a one-dimensional grid, for those of its last block: true there, and false in all others.
// `partial` is a double for each block, `part` and `last` are shared.
__device__ inline bool grid_sum(double *sum, double *partial, double *part, unsigned *counter, unsigned *last) {
    *sum = block_sum(*sum, part);
    if (threadIdx.x == 0) partial[blockIdx.x] = *sum;
    if (!is_last(counter, gridDim.x, last)) return false;
    *sum = 0;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) *sum += partial[b];
    *sum = block_sum(*sum, part);
    return true;
}
#endif
