// The names of the slots: which array, size or scalar of a kernel, and which scalar of a step, stands where.
//
// C++ reads a slot by its name (a.p[slots::gather::rows], h[slots::rate]). Python reads the enums of this text
// (xpdense/ops/slots.py) and passes arguments by the same names. A name in capitals is the number of slots and no slot
// itself. The constants of an optimizer's rule have their names in the rule (optimizers.h).
namespace slots {

// To be increased with each change of what follows: a library that was compiled before it is then not used.
constexpr int version = 2;

// The scalars of a step, `hyper` and `h`: the learning rate of every optimizer, then what Adam adds.
enum hyper { rate, step_size, scaled_epsilon, HYPER };

// The state of the loss scaling in float16: what the loss is multiplied by, and the steps since the last overflow.
enum loss_scaling { loss_scale, good_steps, LOSS_SCALING };

// The arguments of a kernel of the CPU library: arrays are p[], sizes n[], scalars s[]. The masks have a bit for each
// array that may be of int64, that may be missing, that is written to.
struct kernel {
    static constexpr int integers = 0, optional = 0, written = 0;
};

struct gather : kernel {  // x (x_rows, ...), rows int64 (batch,), out (batch, ...)
    enum arrays { x, rows, out, ARRAYS };
    enum sizes { batch, row_bytes, x_rows };
    static constexpr int integers = 1 << x | 1 << rows | 1 << out, written = 1 << out;
};
struct product : kernel {  // out (m, n) = a (m, k) b (k, n); a is given as (k, m) with transpose_a, b as (n, k)
    enum arrays { a, b, out, ARRAYS };
    enum sizes { m, n, k, transpose_a, transpose_b };
    static constexpr int written = 1 << out;
};
struct move : kernel {
    enum arrays { source, target, ARRAYS };
    enum sizes { bytes };
    static constexpr int integers = 1 << source | 1 << target, written = 1 << target;
};
struct stop_unless_finite : kernel {  // value ()
    enum arrays { value, ARRAYS };
};
struct blend : kernel {  // running, batch (size,)
    enum arrays { running, batch, ARRAYS };
    enum sizes { size };
    enum scalars { momentum };
    static constexpr int written = 1 << running;
};
struct add : kernel {  // a, b, out (size,)
    enum arrays { a, b, out, ARRAYS };
    enum sizes { size };
    static constexpr int written = 1 << out;
};
struct activate : kernel {  // z, out (rows, cols), bias (cols,); out may be z
    enum arrays { z, bias, out, ARRAYS };
    enum sizes { rows, cols };
    enum scalars { parameter };  // of the activation's formula
    static constexpr int optional = 1 << bias, written = 1 << z | 1 << out;
};
struct activate_backward : kernel {  // saved, da, dz (rows, cols), dbias (cols,); dz may be saved
    enum arrays { saved, da, dz, dbias, ARRAYS };
    enum sizes { rows, cols };
    enum scalars { parameter };
    static constexpr int optional = 1 << dbias, written = 1 << dz | 1 << dbias;
};
struct column_sums : kernel {  // x (rows, cols), out (cols,)
    enum arrays { x, out, ARRAYS };
    enum sizes { rows, cols };
    static constexpr int written = 1 << out;
};
struct loss : kernel {  // z, target, dz (rows, cols), weight (rows,), value ()
    enum arrays { z, target, weight, dz, value, ARRAYS };
    enum sizes { rows, cols, labels };
    enum scalars { parameter, factor };  // of the loss's formula; of value and gradient
    static constexpr int optional = 1 << weight, written = 1 << dz | 1 << value;
};
struct softmax_cross_entropy : loss {  // parameter: the label smoothing; with labels, target is int64 (rows,)
    static constexpr int integers = 1 << target;
};
struct dropout : kernel {  // x, y (size,), step int64 (1,)
    enum arrays { x, y, step, ARRAYS };
    enum sizes { size };
    enum scalars { rate, key0, key1 };
    static constexpr int integers = 1 << step, written = 1 << y;
};
struct normalize : kernel {  // x, y, x_hat (rows, cols), gain, bias (cols,), statistics (3, cols) or (3, rows)
    enum arrays { x, gain, bias, y, x_hat, statistics, ARRAYS };
    enum sizes { rows, cols, axis };
    enum scalars { epsilon };
    static constexpr int written = 1 << y | 1 << x_hat | 1 << statistics;
};
struct normalize_backward : kernel {  // dy, x_hat, dx (rows, cols), gain, dgain, dbias (cols,), rstd (cols,) or (rows,)
    enum arrays { dy, gain, x_hat, rstd, dx, dgain, dbias, ARRAYS };
    enum sizes { rows, cols, axis };
    static constexpr int written = 1 << dx | 1 << dgain | 1 << dbias;
};
struct scale_shift : kernel {  // x, y (rows, cols), the others (cols,)
    enum arrays { x, mean, variance, gain, bias, y, ARRAYS };
    enum sizes { rows, cols };
    enum scalars { epsilon };
    static constexpr int written = 1 << y;
};
struct update : kernel {  // params, grads, state_0, state_1 (size,), hyper (hyper_size,)
    enum arrays { params, grads, state_0, state_1, hyper, ARRAYS };
    enum sizes { size, decay_size, hyper_size };
    enum scalars { weight_decay, decoupled, clip_norm, SCALARS };  // the rule's constants follow
    static constexpr int written = 1 << params | 1 << state_0 | 1 << state_1;
};
struct penalize : kernel {  // value (), weights (size,)
    enum arrays { value, weights, ARRAYS };
    enum sizes { size };
    enum scalars { strength };
    static constexpr int written = 1 << value;
};

}  // namespace slots
