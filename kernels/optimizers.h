// Optimizers: one element of the arena. p parameter, g gradient (clipped, with coupled decay added), then its state, h
// the scalars of this step (slots.h), c the constants of the rule, which each rule names.
//
// Formulas and sources: xpdense/optimizers.py. Bytes moved per element in one pass: reads p, g and the state, writes p
// and the state (3 items without a state buffer, 5 with one, 7 with two).
// name, number of state buffers
#define XPD_OPTIMIZERS(X)                                                                                             \
    X(sgd, 0) X(momentum, 1) X(nesterov, 1) X(rmsprop, 1) X(adagrad, 1) X(adam, 2) X(lion, 1)

template <typename T> struct rule_sgd {
    static XPD_FN void step(T &p, T g, T &, T &, const T *h, const T *) { p -= h[slots::rate] * g; }
};
template <typename T> struct rule_momentum {
    enum constants { momentum };
    static XPD_FN void step(T &p, T g, T &v, T &, const T *h, const T *c) {
        v = c[momentum] * v + g;
        p -= h[slots::rate] * v;
    }
};
template <typename T> struct rule_nesterov {
    enum constants { momentum };
    static XPD_FN void step(T &p, T g, T &v, T &, const T *h, const T *c) {
        v = c[momentum] * v + g;
        p -= h[slots::rate] * (g + c[momentum] * v);
    }
};
template <typename T> struct rule_rmsprop {  // rest: 1 - decay
    enum constants { decay, rest, epsilon };
    static XPD_FN void step(T &p, T g, T &s, T &, const T *h, const T *c) {
        s = c[decay] * s + c[rest] * g * g;
        p -= h[slots::rate] * g / (xpd_sqrt(s) + c[epsilon]);
    }
};
template <typename T> struct rule_adagrad {
    enum constants { epsilon };
    static XPD_FN void step(T &p, T g, T &s, T &, const T *h, const T *c) {
        s += g * g;
        p -= h[slots::rate] * g / (xpd_sqrt(s) + c[epsilon]);
    }
};
template <typename T> struct rule_adam {  // the scalings of m and v are in the scalars of the step
    enum constants { beta1, beta2 };
    static XPD_FN void step(T &p, T g, T &m, T &v, const T *h, const T *c) {
        m = c[beta1] * m + g;
        v = c[beta2] * v + g * g;
        p -= h[slots::step_size] * (m / (xpd_sqrt(v) + h[slots::scaled_epsilon]));
    }
};
template <typename T> struct rule_lion {  // rest1: 1 - beta1, rest2: 1 - beta2
    enum constants { beta1, rest1, beta2, rest2 };
    static XPD_FN void step(T &p, T g, T &m, T &, const T *h, const T *c) {
        T u = c[beta1] * m + c[rest1] * g;
        p -= h[slots::rate] * (u > T(0) ? T(1) : u < T(0) ? T(-1) : u);
        m = c[beta2] * m + c[rest2] * g;
    }
};

