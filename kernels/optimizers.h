// Optimizers: one element of the arena. p parameter, g gradient (clipped and with coupled decay already), s0 and s1 its
// state, h this step's scalars (h[0] the learning rate, the rest as Optimizer.scalars gives them), c the constants.
//
// Formulas and sources: xpdense/optimizers.py. Bytes moved per element in one pass: reads p, g and the state, writes p
// and the state (sgd 3 items, one slot 5, two slots 7).
// name, number of state buffers
#define XPD_OPTIMIZERS(X)                                                                                             \
    X(sgd, 0) X(momentum, 1) X(nesterov, 1) X(rmsprop, 1) X(adagrad, 1) X(adam, 2) X(lion, 1)

template <typename T> struct rule_sgd {
    static XPD_FN void step(T &p, T g, T &, T &, const T *h, const T *) { p -= h[0] * g; }
};
template <typename T> struct rule_momentum {
    static XPD_FN void step(T &p, T g, T &v, T &, const T *h, const T *c) {
        v = c[0] * v + g;
        p -= h[0] * v;
    }
};
template <typename T> struct rule_nesterov {
    static XPD_FN void step(T &p, T g, T &v, T &, const T *h, const T *c) {
        v = c[0] * v + g;
        p -= h[0] * (g + c[0] * v);
    }
};
template <typename T> struct rule_rmsprop {  // c: decay, 1 - decay, epsilon
    static XPD_FN void step(T &p, T g, T &s, T &, const T *h, const T *c) {
        s = c[0] * s + c[1] * g * g;
        p -= h[0] * g / (xpd_sqrt(s) + c[2]);
    }
};
template <typename T> struct rule_adagrad {  // c: epsilon
    static XPD_FN void step(T &p, T g, T &s, T &, const T *h, const T *c) {
        s += g * g;
        p -= h[0] * g / (xpd_sqrt(s) + c[0]);
    }
};
template <typename T> struct rule_adam {  // c: beta1, beta2; h: rate, step size, epsilon, both scaled
    static XPD_FN void step(T &p, T g, T &m, T &v, const T *h, const T *c) {
        m = c[0] * m + g;
        v = c[1] * v + g * g;
        p -= h[1] * (m / (xpd_sqrt(v) + h[2]));
    }
};
template <typename T> struct rule_lion {  // c: beta1, 1 - beta1, beta2, 1 - beta2
    static XPD_FN void step(T &p, T g, T &m, T &, const T *h, const T *c) {
        T u = c[0] * m + c[1] * g;
        p -= h[0] * (u > T(0) ? T(1) : u < T(0) ? T(-1) : u);
        m = c[2] * m + c[3] * g;
    }
};

