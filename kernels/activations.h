// Activations: a = forward(z, k), da/dz = derivative(saved, k), elementwise; k is the formula's parameter.
//
// `saved` is a where the list says `output`, z where it says `input`. Formulas and sources: xpdense/activations.py,
// which is the specification. Bytes moved per element in one pass: forward reads z and writes a (2 items); backward
// reads saved and da and writes dz (3 items); the column sums of dz stay in a cache.
// name, what is saved
#define XPD_ACTIVATIONS(X)                                                                                            \
    X(identity, output) X(sigmoid, output) X(tanh, output) X(relu, output) X(leaky_relu, output) X(elu, output)       \
    X(selu, output) X(gelu, input) X(gelu_tanh, input) X(silu, input) X(mish, input) X(softplus, output)              \
    X(hard_sigmoid, output) X(hard_tanh, output)

template <typename T> XPD_FN T xpd_logistic(T z) {
    T e = xpd_exp(z < T(0) ? z : -z), d = T(1) / (T(1) + e);
    return z < T(0) ? e * d : d;
}
template <typename T> XPD_FN T xpd_log_one_plus_exp(T z) {
    return xpd_max(z, T(0)) + xpd_log1p(xpd_exp(z < T(0) ? z : -z));
}

template <typename T> struct act_identity {
    static XPD_FN T forward(T z, T) { return z; }
    static XPD_FN T derivative(T, T) { return T(1); }
};
template <typename T> struct act_sigmoid {
    static XPD_FN T forward(T z, T) { return xpd_logistic(z); }
    static XPD_FN T derivative(T a, T) { return a * (T(1) - a); }
};
template <typename T> struct act_tanh {
    static XPD_FN T forward(T z, T) { return xpd_tanh(z); }
    static XPD_FN T derivative(T a, T) { return T(1) - a * a; }
};
template <typename T> struct act_relu {
    static XPD_FN T forward(T z, T) { return xpd_max(z, T(0)); }
    static XPD_FN T derivative(T a, T) { return a > T(0) ? T(1) : T(0); }
};
template <typename T> struct act_leaky_relu {
    static XPD_FN T forward(T z, T slope) { return xpd_max(z, slope * z); }
    static XPD_FN T derivative(T a, T slope) { return a > T(0) ? T(1) : slope; }
};
template <typename T> struct act_elu {
    static XPD_FN T forward(T z, T alpha) { return z > T(0) ? z : alpha * xpd_expm1(xpd_min(z, T(0))); }
    static XPD_FN T derivative(T a, T alpha) { return a > T(0) ? T(1) : a + alpha; }
};
template <typename T> struct act_selu {
    static constexpr T scale = T(1.0507009873554805), alpha = T(1.6732632423543772);
    static XPD_FN T forward(T z, T) { return scale * (z > T(0) ? z : alpha * xpd_expm1(xpd_min(z, T(0)))); }
    static XPD_FN T derivative(T a, T) { return a > T(0) ? T(scale) : a + T(scale) * T(alpha); }
};
template <typename T> struct act_gelu {  // z Phi(z)
    static XPD_FN T cdf(T z) { return T(0.5) * (T(1) + xpd_erf(z * T(0.70710678118654752440))); }
    static XPD_FN T forward(T z, T) { return z * cdf(z); }
    static XPD_FN T derivative(T z, T) {
        T near = xpd_max(xpd_min(z, T(40)), T(-40));
        return cdf(z) + z * xpd_exp(T(-0.5) * near * near) * T(0.39894228040143267794);
    }
};
template <typename T> struct act_gelu_tanh {
    static constexpr T c = T(0.79788456080286535588), k = T(0.044715);
    static XPD_FN T near(T z) { return xpd_max(xpd_min(z, T(40)), T(-40)); }  // beyond, tanh is 1; z^3 may overflow
    static XPD_FN T inner(T z) { return xpd_tanh(T(c) * (z + T(k) * z * z * z)); }
    static XPD_FN T forward(T z, T) { return T(0.5) * z * (T(1) + inner(near(z))); }
    static XPD_FN T derivative(T z, T) {
        T n = near(z), t = inner(n);
        return T(0.5) * (T(1) + t) + T(0.5) * n * (T(1) - t * t) * T(c) * (T(1) + T(3) * T(k) * n * n);
    }
};
template <typename T> struct act_silu {
    static XPD_FN T forward(T z, T) { return z * xpd_logistic(z); }
    static XPD_FN T derivative(T z, T) {
        T s = xpd_logistic(z);
        return s * (T(1) + z * (T(1) - s));
    }
};
// z tanh(log(1 + exp z)); with e = exp(-|z|) the tanh is a ratio: (1 + 2e) / (1 + 2e + 2e^2), or for z < 0
// e(e + 2) / (e(e + 2) + 2).
template <typename T> struct act_mish {
    static XPD_FN T ratio(T z, T e) {
        T up = z < T(0) ? e * (e + T(2)) : T(1) + T(2) * e;
        return up / (up + T(2) * (z < T(0) ? T(1) : e * e));
    }
    static XPD_FN T forward(T z, T) { return z * ratio(z, xpd_exp(z < T(0) ? z : -z)); }
    static XPD_FN T derivative(T z, T) {
        T e = xpd_exp(z < T(0) ? z : -z), t = ratio(z, e), d = T(1) / (T(1) + e);
        return t + z * (z < T(0) ? e * d : d) * (T(1) - t * t);
    }
};
template <typename T> struct act_softplus {
    static XPD_FN T forward(T z, T) { return xpd_log_one_plus_exp(z); }
    static XPD_FN T derivative(T a, T) { return -xpd_expm1(-a); }
};
template <typename T> struct act_hard_sigmoid {
    static XPD_FN T forward(T z, T) { return xpd_max(xpd_min(z / T(6) + T(0.5), T(1)), T(0)); }
    static XPD_FN T derivative(T a, T) { return a > T(0) && a < T(1) ? T(1) / T(6) : T(0); }
};
template <typename T> struct act_hard_tanh {
    static XPD_FN T forward(T z, T) { return xpd_max(xpd_min(z, T(1)), T(-1)); }
    static XPD_FN T derivative(T a, T) { return xpd_abs(a) < T(1) ? T(1) : T(0); }
};

