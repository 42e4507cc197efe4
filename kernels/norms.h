// Norms: y = x_hat gain + bias with x_hat = (x - mean) rstd, and their derivatives, elementwise.
//
// The means are over the batch (BatchNorm) or over a row's features (LayerNorm); cpu/loops.h and cuda/norms.cu compute
// them. Specification and sources: xpdense/ops/generic.py. Bytes moved per element: forward reads x and writes x_hat
// and y (3 items, and x again for each of the two sums if a row does not fit a cache); backward reads dy and x_hat and
// writes dx (3 items).
template <typename T> struct xpd_norm {
    static XPD_FN T rstd(T variance, T epsilon) { return T(1) / xpd_sqrt(variance + epsilon); }
    static XPD_FN T forward(T x_hat, T gain, T bias) { return x_hat * gain + bias; }
    // g = dy gain and factor = rstd over the features; g = dy and factor = gain rstd over the batch, where gain is one
    // number for all rows. mean is that of g, projection that of g x_hat.
    static XPD_FN T backward(T g, T mean, T x_hat, T projection, T factor) {
        return (g - mean - x_hat * projection) * factor;
    }
    // With given statistics, outside training.
    static XPD_FN T fixed(T x, T mean, T variance, T gain, T bias, T epsilon) {
        return (x - mean) * (gain * rstd(variance, epsilon)) + bias;
    }
};
