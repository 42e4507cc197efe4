// The norms: over the features by a warp for each row, over the batch by a block for each 32 columns.
//
// x, y, x_hat, dy, dx (rows, cols); gain, bias, dgain, dbias (cols,); statistics (3, rows) or (3, cols): 1 / std, mean,
// variance. Over the features: block 32 x warps, any grid. Over the batch, and for the sums down the columns: block
// (32, a power of two), grid cols / 32. Bytes moved per element: see norms.h.
extern "C" __global__ void normalize_rows(const S *x, const S *gain, const S *bias, S *y, S *x_hat, T *statistics,
                                          long long rows, long long cols) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (long long row = (long long)blockIdx.x * warps + threadIdx.x / 32; row < rows; row += gridDim.x * warps) {
        const long long at = row * cols;
        T mean = 0, variance = 0;
        for (long long j = lane; j < cols; j += 32) mean += T(x[at + j]);
        mean = warp_sum(mean) / T(cols);
        for (long long j = lane; j < cols; j += 32) {
            const T d = T(x[at + j]) - mean;
            variance += d * d;
        }
        variance = warp_sum(variance) / T(cols);
        const T rstd = xpd_norm<T>::rstd(variance, T(EPSILON));
        for (long long j = lane; j < cols; j += 32) {
            const T h = (T(x[at + j]) - mean) * rstd;
            x_hat[at + j] = S(h);
            y[at + j] = S(xpd_norm<T>::forward(h, T(gain[j]), T(bias[j])));
        }
        if (lane == 0) statistics[row] = rstd, statistics[rows + row] = mean, statistics[2 * rows + row] = variance;
    }
}

extern "C" __global__ void normalize_rows_backward(const S *dy, const S *gain, const S *x_hat, const T *rstd, S *dx,
                                                   long long rows, long long cols) {
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (long long row = (long long)blockIdx.x * warps + threadIdx.x / 32; row < rows; row += gridDim.x * warps) {
        const long long at = row * cols;
        T mean = 0, projection = 0;
        for (long long j = lane; j < cols; j += 32) {
            const T g = T(dy[at + j]) * T(gain[j]);
            mean += g, projection += g * T(x_hat[at + j]);
        }
        mean = warp_sum(mean) / T(cols), projection = warp_sum(projection) / T(cols);
        for (long long j = lane; j < cols; j += 32)
            dx[at + j] = S(xpd_norm<T>::backward(T(dy[at + j]) * T(gain[j]), mean, T(x_hat[at + j]), projection,
                                                 rstd[row]));
    }
}

extern "C" __global__ void normalize_columns(const S *x, const S *gain, const S *bias, S *y, S *x_hat, T *statistics,
                                             long long rows, long long cols) {
    __shared__ T part[1024];
    const long long col = blockIdx.x * 32 + threadIdx.x;
    const bool mine = col < cols;
    T mean = 0, variance = 0;
    if (mine)
        for (long long i = threadIdx.y; i < rows; i += blockDim.y) mean += T(x[i * cols + col]);
    mean = column_sum(mean, part) / T(rows);
    if (mine)
        for (long long i = threadIdx.y; i < rows; i += blockDim.y) {
            const T d = T(x[i * cols + col]) - mean;
            variance += d * d;
        }
    variance = column_sum(variance, part) / T(rows);
    if (!mine) return;
    const T rstd = xpd_norm<T>::rstd(variance, T(EPSILON));
    for (long long i = threadIdx.y; i < rows; i += blockDim.y) {
        const T h = (T(x[i * cols + col]) - mean) * rstd;
        x_hat[i * cols + col] = S(h);
        y[i * cols + col] = S(xpd_norm<T>::forward(h, T(gain[col]), T(bias[col])));
    }
    if (threadIdx.y == 0) statistics[col] = rstd, statistics[cols + col] = mean, statistics[2 * cols + col] = variance;
}

// The sums of dy x_hat and of dy down the columns; with a norm over the batch also dx, which is a function of them.
extern "C" __global__ void normalize_columns_backward(const S *dy, const S *gain, const S *x_hat, const T *rstd, S *dx,
                                                      S *dgain, S *dbias, long long rows, long long cols,
                                                      long long makes_dx) {
    __shared__ T part[1024];
    const long long col = blockIdx.x * 32 + threadIdx.x;
    const bool mine = col < cols;
    T along = 0, sum = 0;
    if (mine)
        for (long long i = threadIdx.y; i < rows; i += blockDim.y) {
            const T d = T(dy[i * cols + col]);
            along += d * T(x_hat[i * cols + col]), sum += d;
        }
    along = column_sum(along, part), sum = column_sum(sum, part);
    if (!mine) return;
    if (threadIdx.y == 0) dgain[col] = S(along), dbias[col] = S(sum);
    if (!makes_dx) return;
    const T factor = T(gain[col]) * rstd[col], mean = sum / T(rows), projection = along / T(rows);
    for (long long i = threadIdx.y; i < rows; i += blockDim.y) {
        const long long at = i * cols + col;
        dx[at] = S(xpd_norm<T>::backward(T(dy[at]), mean, T(x_hat[at]), projection, factor));
    }
}
