// The loops over arrays, once for each instruction set: included into native.cpp with XPD_CLONE as the namespace.
// Arrays are contiguous, rows of `cols` elements. Sums are in a fixed order: over features and of losses in double,
// over the batch in the element type.
namespace XPD_CLONE {

#include "../common.h"
#include "../activations.h"
#include "../losses.h"
#include "../norms.h"
#include "../optimizers.h"
#include "../random.h"

// Both cores hold what a product has read, and a store into it waits until the other one has given up its copy: 30 ns
// for a line, one line after another, since each is in the cache and no prefetcher sees a miss. Asked for AHEAD of the
// store, many are on their way at once: a pass over 65,536 floats takes 15 us instead of 130.
constexpr long AHEAD = 1024, BLOCK = 256;  // bytes; elements between two requests, where there are no rows
inline void own(const void *to, long bytes) {
    for (long b = 0; b < bytes; b += 64) __builtin_prefetch((const char *)to + b, 1);
}

// --- moving and multiplying ----------------------------------------------------------------------------------------

// p: x, rows (int64), out; n: batch, bytes of a row, rows of x
int gather(const Arguments &a) {
    const int64_t *rows = (const int64_t *)a.p[1];
    for (long i = 0; i < a.n[0]; ++i)
        if (rows[i] < 0 || rows[i] >= a.n[2]) return 1;
    const long row = a.n[1];
    share(a.n[0], 2 * row, indices(2 * row), [&](long first, long end) {
        for (long i = first; i < end; ++i) memcpy(a.p[2] + i * row, a.p[0] + rows[i] * row, row);
    });
    return 0;
}

// out (m, n) = a (m, k) b (k, n); p: a, b, out; n: m, n, k, 1 if a is given as (k, m) + 2 if b is given as (n, k).
// A BLAS in column order sees the transposes: out' (n, m) = b' a'.
template <typename T> int product(const Arguments &a) {
    int m = int(a.n[0]), n = int(a.n[1]), k = int(a.n[2]), turned_a = a.n[3] & 1, turned_b = a.n[3] & 2;
    int row_a = turned_a ? m : k, row_b = turned_b ? k : n;
    char of_a = turned_a ? 'T' : 'N', of_b = turned_b ? 'T' : 'N';
    T one = 1, zero = 0;
    gemm(&of_b, &of_a, &n, &m, &k, &one, (T *)a.p[1], &row_b, (T *)a.p[0], &row_a, &zero, (T *)a.p[2], &n);
    return 0;
}

// p: from, to; n: bytes
int move(const Arguments &a) {
    memcpy(a.p[1], a.p[0], a.n[0]);
    return 0;
}

// p: value. Ends the program where it is not finite.
template <typename T> int stop_unless_finite(const Arguments &a) { return !std::isfinite(*(const T *)a.p[0]); }

// running += momentum * (batch - running): p: running, batch; n: size; s: momentum
template <typename T> int blend(const Arguments &a) {
    T *running = (T *)a.p[0];
    const T *batch = (const T *)a.p[1], momentum = T(a.s[0]);
    for (long i = 0; i < a.n[0]; ++i) running[i] += momentum * (batch[i] - running[i]);
    return 0;
}

// p: a, b, out; n: size
template <typename T> int add(const Arguments &a) {
    const T *x = (const T *)a.p[0], *y = (const T *)a.p[1];
    T *out = (T *)a.p[2];
    for (long i = 0; i < a.n[0]; i += BLOCK) {
        const long end = xpd_min(i + BLOCK, a.n[0]);
        own((char *)(out + i) + AHEAD, BLOCK * sizeof(T));
        for (long j = i; j < end; ++j) out[j] = x[j] + y[j];
    }
    return 0;
}

// --- activations -----------------------------------------------------------------------------------------------------

template <typename T, template <typename> class Act> void activate_rows(const Arguments &a, long first, long end) {
    const long cols = a.n[1];
    T *z = (T *)a.p[0] + first * cols, *out = (T *)a.p[2] + first * cols;
    const T *bias = (const T *)a.p[1], k = T(a.s[0]);
    for (long i = first; i < end; ++i, z += cols, out += cols) {
        own((char *)out + AHEAD, cols * sizeof(T));
        if (bias) {
            if (z == out) {
#pragma GCC ivdep
                for (long j = 0; j < cols; ++j) z[j] = Act<T>::forward(z[j] + bias[j], k);
            } else {
#pragma GCC ivdep
                for (long j = 0; j < cols; ++j) z[j] += bias[j], out[j] = Act<T>::forward(z[j], k);
            }
        } else {
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) out[j] = Act<T>::forward(z[j], k);
        }
    }
}

// p: z, bias or null, out (may be z); n: rows, cols; s: the formula's parameter. z becomes z + bias.
template <typename T, template <typename> class Act> int activate(const Arguments &a) {
    const long row = a.n[1] * 2 * long(sizeof(T));
    share(a.n[0], row, indices(row), [&](long first, long end) { activate_rows<T, Act>(a, first, end); });
    return 0;
}

template <typename T, template <typename> class Act>
void activate_columns_backward(const Arguments &a, long first, long end) {
    const T *saved = (const T *)a.p[0], *da = (const T *)a.p[1], k = T(a.s[0]);
    T *dz = (T *)a.p[2], *dbias = (T *)a.p[3];
    const long rows = a.n[0], cols = a.n[1], width = (end - first) * sizeof(T), ahead = AHEAD / (width + 1) + 1;
    if (dbias)
        for (long j = first; j < end; ++j) dbias[j] = 0;
    for (long i = 0; i < rows; ++i, saved += cols, da += cols, dz += cols) {
        own(dz + first + ahead * cols, width);  // rows further down: what follows in this one may be the other thread's
        if (dbias) {
#pragma GCC ivdep
            for (long j = first; j < end; ++j) {
                T d = Act<T>::derivative(saved[j], k) * da[j];
                dz[j] = d;
                dbias[j] += d;
            }
        } else {
#pragma GCC ivdep
            for (long j = first; j < end; ++j) dz[j] = Act<T>::derivative(saved[j], k) * da[j];
        }
    }
}

// p: saved, da, dz (may be saved), dbias or null; n: rows, cols; s: the formula's parameter. Columns are shared out, for
// the sums over rows are to stay in order; few and wide, for a piece of each row is in another page.
template <typename T, template <typename> class Act> int activate_backward(const Arguments &a) {
    share(a.n[1], a.n[0] * 3 * long(sizeof(T)), (a.n[1] / 256 + 1) * 64,
          [&](long first, long end) { activate_columns_backward<T, Act>(a, first, end); });
    return 0;
}

// p: x, out; n: rows, cols
template <typename T> int column_sums(const Arguments &a) {
    const T *x = (const T *)a.p[0];
    T *out = (T *)a.p[1];
    const long rows = a.n[0], cols = a.n[1];
    for (long j = 0; j < cols; ++j) out[j] = 0;
    for (long i = 0; i < rows; ++i, x += cols)
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) out[j] += x[j];
    return 0;
}

// --- losses ----------------------------------------------------------------------------------------------------------

template <typename T> double total_weight(const T *weight, long rows) {
    if (!weight) return double(rows);
    double total = 0;
    for (long i = 0; i < rows; ++i) total += weight[i];
    return total > 0 ? total : 1;
}

// p: z, target, weight or null, dz, value; n: rows, cols; s: the formula's parameter, the loss's factor
template <typename T, template <typename> class L> int loss(const Arguments &a) {
    const T *z = (const T *)a.p[0], *t = (const T *)a.p[1], *weight = (const T *)a.p[2], k = T(a.s[0]);
    T *dz = (T *)a.p[3];
    const long rows = a.n[0], cols = a.n[1];
    const double total = total_weight(weight, rows) / a.s[1];
    double sum = 0;
    for (long i = 0; i < rows; ++i, z += cols, t += cols, dz += cols) {
        const double share = (weight ? double(weight[i]) : 1.0) / total / double(cols);
        const T scale = T(share);
        T row = 0;
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) dz[j] = L<T>::gradient(z[j], t[j], k) * scale;
        for (long j = 0; j < cols; ++j) row += L<T>::value(z[j], t[j], k);
        sum += share == 0 ? 0 : double(row) * share;
    }
    *(T *)a.p[4] = T(sum);
    return 0;
}

// p: z, target, weight or null, dz, value; n: rows, classes, 1 where targets are class numbers (int64); s: smoothing,
// the loss's factor.
// The row of a class number is 1 there; value = log(sum e) sum(t) - sum(t (z - max)), dz = e sum(t) / sum(e) - t.
template <typename T> int softmax_cross_entropy(const Arguments &a) {
    const T *z = (const T *)a.p[0], *weight = (const T *)a.p[2];
    T *dz = (T *)a.p[3];
    const long rows = a.n[0], cols = a.n[1], numbers = a.n[2];
    const T smoothing = T(a.s[0]), rest = T(1) - smoothing, even = smoothing / T(cols);
    const double total = total_weight(weight, rows) / a.s[1];
    double sum = 0;
    for (long i = 0; i < rows; ++i, z += cols, dz += cols) {
        T most = z[0], sum_e = 0, mass = 0, dot = 0;
        for (long j = 1; j < cols; ++j) most = xpd_max(most, z[j]) ;
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) dz[j] = xpd_exp(z[j] - most);
        for (long j = 0; j < cols; ++j) sum_e += dz[j];
        const double share = (weight ? double(weight[i]) : 1.0) / total;
        const T scale = T(share);
        if (numbers) {
            const int64_t c = ((const int64_t *)a.p[1])[i];
            const bool there = c >= 0 && c < cols;  // else no class is its own, as in the specification
            mass = there ? T(1) : smoothing;
            if (smoothing != 0)
                for (long j = 0; j < cols; ++j) dot += even * (z[j] - most);
            if (there) dot += rest * (z[c] - most);
            const T factor = scale * mass / sum_e, off = even * scale;
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) dz[j] = loss_softmax<T>::gradient(dz[j], factor, off);
            if (there) dz[c] -= rest * scale;
        } else {
            const T *t = (const T *)a.p[1] + i * cols;
            for (long j = 0; j < cols; ++j) mass += t[j] * rest + even, dot += (t[j] * rest + even) * (z[j] - most);
            const T factor = scale * mass / sum_e;
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j)
                dz[j] = loss_softmax<T>::gradient(dz[j], factor, (t[j] * rest + even) * scale);
        }
        sum += share == 0 ? 0 : loss_softmax<double>::value(sum_e, mass, dot) * share;
    }
    *(T *)a.p[4] = T(sum);
    return 0;
}

// --- norms and dropout -----------------------------------------------------------------------------------------------

// p: x, y, step (int64); n: size; s: rate, key, key
template <typename T> int dropout(const Arguments &a) {
    const T *x = (const T *)a.p[0], keep = T(1.0 / (1.0 - a.s[0]));
    T *y = (T *)a.p[1];
    const uint64_t step = uint64_t(*(const int64_t *)a.p[2]), limit = uint64_t(std::ceil(a.s[0] * 4294967296.0));
    const unsigned k0 = unsigned(a.s[1]), k1 = unsigned(a.s[2]);
    const long size = a.n[0], whole = size / 4;
#pragma GCC ivdep
    for (long b = 0; b < whole; ++b) {
        unsigned c[4];
        xpd_random_words(uint64_t(b), step, k0, k1, c);
        for (int w = 0; w < 4; ++w) y[4 * b + w] = xpd_dropout(x[4 * b + w], c[w], limit, keep);
    }
    if (size % 4) {
        unsigned c[4];
        xpd_random_words(uint64_t(whole), step, k0, k1, c);
        for (long i = 4 * whole; i < size; ++i) y[i] = xpd_dropout(x[i], c[i - 4 * whole], limit, keep);
    }
    return 0;
}

// p: x, gain, bias, y, x_hat, statistics (3, rows or cols: 1 / std, mean, variance); n: rows, cols, axis; s: epsilon
template <typename T> int normalize(const Arguments &a) {
    const T *x = (const T *)a.p[0], *gain = (const T *)a.p[1], *bias = (const T *)a.p[2], epsilon = T(a.s[0]);
    T *y = (T *)a.p[3], *x_hat = (T *)a.p[4];
    const long rows = a.n[0], cols = a.n[1], over_rows = a.n[2] == -2, count = over_rows ? cols : rows;
    T *rstd = (T *)a.p[5], *mean = rstd + count, *variance = mean + count;
    if (over_rows) {
        for (long j = 0; j < cols; ++j) mean[j] = variance[j] = 0;
        for (long i = 0; i < rows; ++i)
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) mean[j] += x[i * cols + j];
        for (long j = 0; j < cols; ++j) mean[j] /= T(rows);
        for (long i = 0; i < rows; ++i)
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) {
                T d = x[i * cols + j] - mean[j];
                x_hat[i * cols + j] = d;
                variance[j] += d * d;
            }
        for (long j = 0; j < cols; ++j) variance[j] /= T(rows), rstd[j] = xpd_norm<T>::rstd(variance[j], epsilon);
        for (long i = 0; i < rows; ++i) {
            own((char *)(y + i * cols) + AHEAD, cols * sizeof(T));
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) {
                T h = x_hat[i * cols + j] * rstd[j];
                x_hat[i * cols + j] = h;
                y[i * cols + j] = xpd_norm<T>::forward(h, gain[j], bias[j]);
            }
        }
        return 0;
    }
    for (long i = 0; i < rows; ++i, x += cols, y += cols, x_hat += cols) {
        double m = 0, v = 0;
        for (long j = 0; j < cols; ++j) m += x[j];
        mean[i] = T(m / double(cols));
        for (long j = 0; j < cols; ++j) {
            T d = x[j] - mean[i];
            x_hat[j] = d;
            v += double(d) * double(d);
        }
        variance[i] = T(v / double(cols));
        rstd[i] = xpd_norm<T>::rstd(variance[i], epsilon);
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) {
            x_hat[j] *= rstd[i];
            y[j] = xpd_norm<T>::forward(x_hat[j], gain[j], bias[j]);
        }
    }
    return 0;
}

// dx of normalize, and the sums over rows of dy x_hat and dy. p: dy, gain, x_hat, statistics, dx, dgain, dbias;
// n: rows, cols, axis.
template <typename T> int normalize_backward(const Arguments &a) {
    const T *dy = (const T *)a.p[0], *gain = (const T *)a.p[1], *x_hat = (const T *)a.p[2], *rstd = (const T *)a.p[3];
    T *dx = (T *)a.p[4], *dgain = (T *)a.p[5], *dbias = (T *)a.p[6];
    const long rows = a.n[0], cols = a.n[1];
    for (long j = 0; j < cols; ++j) dgain[j] = dbias[j] = 0;
    for (long i = 0; i < rows; ++i)
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) {
            dgain[j] += dy[i * cols + j] * x_hat[i * cols + j];
            dbias[j] += dy[i * cols + j];
        }
    if (a.n[2] == -2) {  // over the rows: mean(g) = gain dbias / rows, mean(g x_hat) = gain dgain / rows
        const T each = T(1) / T(rows);
        for (long i = 0; i < rows; ++i) {
            own((char *)(dx + i * cols) + AHEAD, cols * sizeof(T));
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j)
                dx[i * cols + j] = xpd_norm<T>::backward(dy[i * cols + j], dbias[j] * each, x_hat[i * cols + j],
                                                         dgain[j] * each, gain[j] * rstd[j]);
        }
        return 0;
    }
    for (long i = 0; i < rows; ++i, dy += cols, x_hat += cols, dx += cols) {
        own((char *)dx + AHEAD, cols * sizeof(T));
        double m = 0, p = 0;
        for (long j = 0; j < cols; ++j) {
            T g = dy[j] * gain[j];
            m += g, p += double(g) * double(x_hat[j]);
        }
        const T mean = T(m / double(cols)), projection = T(p / double(cols));
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j)
            dx[j] = xpd_norm<T>::backward(dy[j] * gain[j], mean, x_hat[j], projection, rstd[i]);
    }
    return 0;
}

// p: x, mean, variance, gain, bias, y; n: rows, cols; s: epsilon
template <typename T> int scale_shift(const Arguments &a) {
    const T *x = (const T *)a.p[0], *mean = (const T *)a.p[1], *variance = (const T *)a.p[2];
    const T *gain = (const T *)a.p[3], *bias = (const T *)a.p[4], epsilon = T(a.s[0]);
    T *y = (T *)a.p[5];
    for (long i = 0; i < a.n[0]; ++i, x += a.n[1], y += a.n[1])
#pragma GCC ivdep
        for (long j = 0; j < a.n[1]; ++j)
            y[j] = xpd_norm<T>::fixed(x[j], mean[j], variance[j], gain[j], bias[j], epsilon);
    return 0;
}

// --- the optimizer ---------------------------------------------------------------------------------------------------

// What clipping multiplies every gradient by: min(1, clip / (norm + 1e-6)); the norm in double, scaled where its
// square would overflow.
template <typename T> T shrink(const T *g, long size, double clip) {
    double sum = 0, scale = 1;
    for (long i = 0; i < size; ++i) sum += double(g[i]) * double(g[i]);
    if (!std::isfinite(sum)) {
        double most = 0;
        for (long i = 0; i < size; ++i) most = xpd_max(most, std::fabs(double(g[i])));
        scale = most > 0 ? most : 1, sum = 0;
        for (long i = 0; i < size; ++i) sum += (double(g[i]) / scale) * (double(g[i]) / scale);
    }
    const double factor = clip / (scale * std::sqrt(sum) + 1e-6);
    return T(factor < 1 || factor != factor ? factor : 1);
}

template <typename T, template <typename> class Rule>
void update_none(T *__restrict p, const T *__restrict g, long size, T factor, T coupled, T keep, const T *h,
                 const T *c) {
#pragma GCC ivdep
    for (long i = 0; i < size; ++i) {
        T x = p[i] * keep, a = 0, b = 0;
        Rule<T>::step(x, g[i] * factor + coupled * p[i], a, b, h, c);
        p[i] = x;
    }
}

template <typename T, template <typename> class Rule>
void update_one(T *__restrict p, const T *__restrict g, T *__restrict s0, long size, T factor, T coupled, T keep,
                const T *h, const T *c) {
#pragma GCC ivdep
    for (long i = 0; i < size; ++i) {
        T x = p[i] * keep, a = s0[i], b = 0;
        Rule<T>::step(x, g[i] * factor + coupled * p[i], a, b, h, c);
        p[i] = x, s0[i] = a;
    }
}

template <typename T, template <typename> class Rule>
void update_two(T *__restrict p, const T *__restrict g, T *__restrict s0, T *__restrict s1, long size, T factor,
                 T coupled, T keep, const T *h, const T *c) {
#pragma GCC ivdep
    for (long i = 0; i < size; ++i) {
        T x = p[i] * keep, a = s0[i], b = s1[i];
        Rule<T>::step(x, g[i] * factor + coupled * p[i], a, b, h, c);
        p[i] = x, s0[i] = a, s1[i] = b;
    }
}

// p: params, grads, state, state, scalars of this step (at least 4); n: size, decay size, scalars;
// s: decay, 1 where it is decoupled, clip norm or 0, then the rule's constants
template <typename T, template <typename> class Rule, int SLOTS> int update(const Arguments &a) {
    T *p = (T *)a.p[0], *s0 = (T *)a.p[2], *s1 = (T *)a.p[3];
    const T *g = (const T *)a.p[1], *hyper = (const T *)a.p[4];
    const long size = a.n[0], decaying = a.n[1];
    const T decay = T(a.s[0]), c[4] = {T(a.s[3]), T(a.s[4]), T(a.s[5]), T(a.s[6])};
    T h[4] = {0, 0, 0, 0};
    for (long i = 0; i < a.n[2] && i < 4; ++i) h[i] = hyper[i];
    const bool decoupled = a.s[1] != 0;
    const T factor = a.s[2] > 0 ? shrink(g, size, a.s[2]) : T(1);
    for (int part = 0; part < 2; ++part) {
        const long first = part ? decaying : 0, count = part ? size - decaying : decaying;
        const T coupled = part || decoupled ? T(0) : decay, keep = part || !decoupled ? T(1) : T(1) - h[0] * decay;
        share(count, (3 + 2 * SLOTS) * long(sizeof(T)), 32 * BLOCK, [&](long begin, long end) {
            for (long i = first + begin; i < first + end; i += BLOCK) {
                const long some = xpd_min(BLOCK, first + end - i);
                own((char *)(p + i) + AHEAD, some * sizeof(T));
                if (SLOTS == 2)
                    update_two<T, Rule>(p + i, g + i, s0 + i, s1 + i, some, factor, coupled, keep, h, c);
                else if (SLOTS == 1)
                    update_one<T, Rule>(p + i, g + i, s0 + i, some, factor, coupled, keep, h, c);
                else
                    update_none<T, Rule>(p + i, g + i, some, factor, coupled, keep, h, c);
            }
        });
    }
    return 0;
}

// p: value, weights; n: size; s: strength. value += strength times the sum of the squares, added up in lanes.
template <typename T> int penalize(const Arguments &a) {
    const T *w = (const T *)a.p[1];
    const long size = a.n[0], lanes = 16;
    double sums[lanes] = {}, total = 0;
    long i = 0;
    for (; i + lanes <= size; i += lanes)
        for (long k = 0; k < lanes; ++k) sums[k] += double(w[i + k]) * double(w[i + k]);
    for (; i < size; ++i) total += double(w[i]) * double(w[i]);
    for (long k = 0; k < lanes; ++k) total += sums[k];
    *(T *)a.p[0] = T(double(*(T *)a.p[0]) + a.s[0] * total);
    return 0;
}

// --- the list --------------------------------------------------------------------------------------------------------

const Entry entries[] = {
    {"gather", 3, 7, 0, 4, gather, gather},
    {"product", 3, 0, 0, 4, product<float>, product<double>},
    {"move", 2, 3, 0, 2, move, move},
    {"stop_unless_finite", 1, 0, 0, 0, stop_unless_finite<float>, stop_unless_finite<double>},
    {"blend", 2, 0, 0, 1, blend<float>, blend<double>},
    {"penalize", 2, 0, 0, 1, penalize<float>, penalize<double>},
    {"add", 3, 0, 0, 4, add<float>, add<double>},
    {"column_sums", 2, 0, 0, 2, column_sums<float>, column_sums<double>},
    {"dropout", 3, 4, 0, 2, dropout<float>, dropout<double>},
    {"normalize", 6, 0, 0, 56, normalize<float>, normalize<double>},
    {"normalize_backward", 7, 0, 0, 112, normalize_backward<float>, normalize_backward<double>},
    {"scale_shift", 6, 0, 0, 32, scale_shift<float>, scale_shift<double>},
    {"softmax_cross_entropy", 5, 2, 4, 24, softmax_cross_entropy<float>, softmax_cross_entropy<double>},
#define X(NAME, SAVED)                                                                        \
    {"activate " #NAME, 3, 0, 2, 5, activate<float, act_##NAME>, activate<double, act_##NAME>},           \
    {"activate_backward " #NAME, 4, 0, 8, 12, activate_backward<float, act_##NAME>, activate_backward<double, act_##NAME>},
    XPD_ACTIVATIONS(X)
#undef X
#define X(NAME) {"loss " #NAME, 5, 0, 4, 24, loss<float, loss_##NAME>, loss<double, loss_##NAME>},
    XPD_LOSSES(X)
#undef X
#define X(NAME, SLOTS) {"update " #NAME, 5, 0, SLOTS == 2 ? 0 : SLOTS == 1 ? 8 : 12, 13, update<float, rule_##NAME, SLOTS>, update<double, rule_##NAME, SLOTS>},
    XPD_OPTIMIZERS(X)
#undef X
};
}  // namespace XPD_CLONE
