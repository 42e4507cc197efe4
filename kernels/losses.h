// Losses at the logits, elementwise ones: value(z, t, k) and gradient(z, t, k) = d value / dz; k is the parameter.
//
// The loss of a row is the mean of value over its outputs, and its dz the gradient of the mean; softmax cross-entropy
// has one value a row. cpu/loops.h and cuda/losses.cu reduce the rows. Formulas and sources: xpdense/losses.py. Bytes
// moved per element in one pass: reads z and t, writes dz (3 items).
#define XPD_LOSSES(X)                                                                                                 \
    X(binary_cross_entropy) X(squared_error) X(absolute_error) X(huber) X(poisson) X(quantile)

template <typename T> struct loss_binary_cross_entropy {
    static XPD_FN T value(T z, T t, T) { return xpd_max(z, T(0)) - z * t + xpd_log1p(xpd_exp(z < T(0) ? z : -z)); }
    static XPD_FN T gradient(T z, T t, T) { return xpd_logistic(z) - t; }
};
template <typename T> struct loss_squared_error {
    static XPD_FN T value(T z, T t, T) { return (z - t) * (z - t); }
    static XPD_FN T gradient(T z, T t, T) { return T(2) * (z - t); }
};
template <typename T> struct loss_absolute_error {
    static XPD_FN T value(T z, T t, T) { return xpd_abs(z - t); }
    static XPD_FN T gradient(T z, T t, T) { return z > t ? T(1) : z < t ? T(-1) : z - t; }
};
template <typename T> struct loss_huber {
    static XPD_FN T gradient(T z, T t, T delta) { return xpd_max(xpd_min(z - t, delta), -delta); }
    static XPD_FN T value(T z, T t, T delta) {
        T near = gradient(z, t, delta);
        return near * ((z - t) - T(0.5) * near);
    }
};
template <typename T> struct loss_poisson {
    static XPD_FN T value(T z, T t, T) { return xpd_exp(z) - t * z; }
    static XPD_FN T gradient(T z, T t, T) { return xpd_exp(z) - t; }
};
template <typename T> struct loss_quantile {
    static XPD_FN T value(T z, T t, T q) { return xpd_max(q * (t - z), (q - T(1)) * (t - z)); }
    static XPD_FN T gradient(T z, T t, T q) { return z < t ? -q : z > t ? T(1) - q : z - t; }
};

// Softmax cross-entropy of a row: with z' = z - max(z) and e = exp(z'), the sums over the row of e, t and t z'.
template <typename T> struct loss_softmax {
    static XPD_FN T value(T sum_e, T sum_t, T sum_tz) { return xpd_log(sum_e) * sum_t - sum_tz; }
    static XPD_FN T gradient(T e, T sum_t_over_sum_e, T t) { return e * sum_t_over_sum_e - t; }
};
