// The loops over arrays, once for each instruction set: included into native.cpp with XPD_CLONE as the namespace.
// Arrays are contiguous, rows of `cols` elements; slots.h has the shapes of each kernel's arrays. Sums are in a fixed
// order: over features and of losses in double, over the batch in the element type.
namespace XPD_CLONE {

#include "../common.h"
#include "../activations.h"
#include "../losses.h"
#include "../norms.h"
#include "../optimizers.h"
#include "../random.h"

// After a product, both cores have copies of the cache lines that it read, and a store waits until the other core has
// invalidated its copy: 30 ns for each line in turn, since the line is in the cache and no prefetcher sees a miss.
// Requests for ownership AHEAD of the store overlap: a pass over 65,536 floats takes 15 us instead of 130.
constexpr long AHEAD = 1024, BLOCK = 256;  // bytes; elements between two requests, where there are no rows
inline void prefetch_for_write(const void *to, long bytes) {
    for (long b = 0; b < bytes; b += 64) __builtin_prefetch((const char *)to + b, 1);
}

// --- moving and multiplying ----------------------------------------------------------------------------------------

// out = x[rows]; 1 where a row number is outside of x.
int gather(const Arguments &a) {
    using S = slots::gather;
    const int64_t *rows = (const int64_t *)a.p[S::rows];
    for (long i = 0; i < a.n[S::batch]; ++i)
        if (rows[i] < 0 || rows[i] >= a.n[S::x_rows]) return 1;
    const long row = a.n[S::row_bytes];
    share(a.n[S::batch], 2 * row, indices(2 * row), [&](long first, long end) {
        for (long i = first; i < end; ++i) memcpy(a.p[S::out] + i * row, a.p[S::x] + rows[i] * row, row);
    });
    return 0;
}

// out = a b. A BLAS in column order sees the transposes: out' (n, m) = b' a'.
template <typename T> int product(const Arguments &a) {
    using S = slots::product;
    int m = int(a.n[S::m]), n = int(a.n[S::n]), k = int(a.n[S::k]);
    const bool transpose_a = a.n[S::transpose_a], transpose_b = a.n[S::transpose_b];
    int row_a = transpose_a ? m : k, row_b = transpose_b ? k : n;
    char of_a = transpose_a ? 'T' : 'N', of_b = transpose_b ? 'T' : 'N';
    T one = 1, zero = 0;
    gemm(&of_b, &of_a, &n, &m, &k, &one, (T *)a.p[S::b], &row_b, (T *)a.p[S::a], &row_a, &zero, (T *)a.p[S::out], &n);
    return 0;
}

int move(const Arguments &a) {
    using S = slots::move;
    memcpy(a.p[S::target], a.p[S::source], a.n[S::bytes]);
    return 0;
}

// Ends the program where the value is not finite.
template <typename T> int stop_unless_finite(const Arguments &a) {
    return !std::isfinite(*(const T *)a.p[slots::stop_unless_finite::value]);
}

// running += momentum * (batch - running)
template <typename T> int blend(const Arguments &a) {
    using S = slots::blend;
    T *running = (T *)a.p[S::running];
    const T *batch = (const T *)a.p[S::batch], momentum = T(a.s[S::momentum]);
    for (long i = 0; i < a.n[S::size]; ++i) running[i] += momentum * (batch[i] - running[i]);
    return 0;
}

template <typename T> int add(const Arguments &a) {
    using S = slots::add;
    const T *x = (const T *)a.p[S::a], *y = (const T *)a.p[S::b];
    T *out = (T *)a.p[S::out];
    for (long i = 0; i < a.n[S::size]; i += BLOCK) {
        const long end = xpd_min(i + BLOCK, a.n[S::size]);
        prefetch_for_write((char *)(out + i) + AHEAD, BLOCK * sizeof(T));
        for (long j = i; j < end; ++j) out[j] = x[j] + y[j];
    }
    return 0;
}

// --- activations -----------------------------------------------------------------------------------------------------

template <typename T, template <typename> class Act> void activate_rows(const Arguments &a, long first, long end) {
    using S = slots::activate;
    const long cols = a.n[S::cols];
    T *z = (T *)a.p[S::z] + first * cols, *out = (T *)a.p[S::out] + first * cols;
    const T *bias = (const T *)a.p[S::bias], k = T(a.s[S::parameter]);
    for (long i = first; i < end; ++i, z += cols, out += cols) {
        prefetch_for_write((char *)out + AHEAD, cols * sizeof(T));
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

// out = act(z + bias); where there is a bias, z becomes z + bias.
template <typename T, template <typename> class Act> int activate(const Arguments &a) {
    using S = slots::activate;
    const long row = a.n[S::cols] * 2 * long(sizeof(T));
    share(a.n[S::rows], row, indices(row), [&](long first, long end) { activate_rows<T, Act>(a, first, end); });
    return 0;
}

template <typename T, template <typename> class Act>
void activate_columns_backward(const Arguments &a, long first, long end) {
    using S = slots::activate_backward;
    const T *saved = (const T *)a.p[S::saved], *da = (const T *)a.p[S::da], k = T(a.s[S::parameter]);
    T *dz = (T *)a.p[S::dz], *dbias = (T *)a.p[S::dbias];
    const long rows = a.n[S::rows], cols = a.n[S::cols];
    const long width = (end - first) * sizeof(T), ahead = AHEAD / (width + 1) + 1;
    if (dbias)
        for (long j = first; j < end; ++j) dbias[j] = 0;
    for (long i = 0; i < rows; ++i, saved += cols, da += cols, dz += cols) {
        // Of rows further down: what follows in this row may be the other thread's.
        prefetch_for_write(dz + first + ahead * cols, width);
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

// dz = act'(saved) da, and dbias, the column sums of dz. The threads share columns, not rows, so that the sums over
// rows stay in order; a thread takes many columns at a time, since its piece of each row is in another page.
template <typename T, template <typename> class Act> int activate_backward(const Arguments &a) {
    using S = slots::activate_backward;
    share(a.n[S::cols], a.n[S::rows] * 3 * long(sizeof(T)), (a.n[S::cols] / 256 + 1) * 64,
          [&](long first, long end) { activate_columns_backward<T, Act>(a, first, end); });
    return 0;
}

template <typename T> int column_sums(const Arguments &a) {
    using S = slots::column_sums;
    const T *x = (const T *)a.p[S::x];
    T *out = (T *)a.p[S::out];
    const long rows = a.n[S::rows], cols = a.n[S::cols];
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

// The mean over the batch of an elementwise loss, and its gradient.
template <typename T, template <typename> class L> int loss(const Arguments &a) {
    using S = slots::loss;
    const T *z = (const T *)a.p[S::z], *t = (const T *)a.p[S::target], *weight = (const T *)a.p[S::weight];
    const T k = T(a.s[S::parameter]);
    T *dz = (T *)a.p[S::dz];
    const long rows = a.n[S::rows], cols = a.n[S::cols];
    const double total = total_weight(weight, rows) / a.s[S::factor];
    double sum = 0;
    for (long i = 0; i < rows; ++i, z += cols, t += cols, dz += cols) {
        const double row_weight = (weight ? double(weight[i]) : 1.0) / total / double(cols);
        const T scale = T(row_weight);
        T row = 0;
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) dz[j] = L<T>::gradient(z[j], t[j], k) * scale;
        for (long j = 0; j < cols; ++j) row += L<T>::value(z[j], t[j], k);
        sum += row_weight == 0 ? 0 : double(row) * row_weight;
    }
    *(T *)a.p[S::value] = T(sum);
    return 0;
}

// Softmax cross-entropy; the target row of a class number is 1 there and 0 elsewhere, then smoothed.
// value = log(sum e) sum(t) - sum(t (z - max)), dz = e sum(t) / sum(e) - t.
template <typename T> int softmax_cross_entropy(const Arguments &a) {
    using S = slots::loss;
    const T *z = (const T *)a.p[S::z], *weight = (const T *)a.p[S::weight];
    T *dz = (T *)a.p[S::dz];
    const long rows = a.n[S::rows], cols = a.n[S::cols], labels = a.n[S::labels];
    const T smoothing = T(a.s[S::parameter]), rest = T(1) - smoothing, even = smoothing / T(cols);
    const double total = total_weight(weight, rows) / a.s[S::factor];
    double sum = 0;
    for (long i = 0; i < rows; ++i, z += cols, dz += cols) {
        T most = z[0], sum_e = 0, sum_t = 0, sum_tz = 0;
        for (long j = 1; j < cols; ++j) most = xpd_max(most, z[j]) ;
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) dz[j] = xpd_exp(z[j] - most);
        for (long j = 0; j < cols; ++j) sum_e += dz[j];
        const double row_weight = (weight ? double(weight[i]) : 1.0) / total;
        const T scale = T(row_weight);
        if (labels) {
            const int64_t c = ((const int64_t *)a.p[S::target])[i];
            const bool there = c >= 0 && c < cols;  // else the row has no class, as in the specification
            sum_t = there ? T(1) : smoothing;
            if (smoothing != 0)
                for (long j = 0; j < cols; ++j) sum_tz += even * (z[j] - most);
            if (there) sum_tz += rest * (z[c] - most);
            const T factor = scale * sum_t / sum_e, off = even * scale;
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j) dz[j] = loss_softmax<T>::gradient(dz[j], factor, off);
            if (there) dz[c] -= rest * scale;
        } else {
            const T *t = (const T *)a.p[S::target] + i * cols;
            for (long j = 0; j < cols; ++j) sum_t += t[j] * rest + even, sum_tz += (t[j] * rest + even) * (z[j] - most);
            const T factor = scale * sum_t / sum_e;
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j)
                dz[j] = loss_softmax<T>::gradient(dz[j], factor, (t[j] * rest + even) * scale);
        }
        sum += row_weight == 0 ? 0 : loss_softmax<double>::value(sum_e, sum_t, sum_tz) * row_weight;
    }
    *(T *)a.p[S::value] = T(sum);
    return 0;
}

// --- norms and dropout -----------------------------------------------------------------------------------------------

template <typename T> int dropout(const Arguments &a) {
    using S = slots::dropout;
    const T *x = (const T *)a.p[S::x], keep = T(1.0 / (1.0 - a.s[S::rate]));
    T *y = (T *)a.p[S::y];
    const uint64_t step = uint64_t(*(const int64_t *)a.p[S::step]);
    const uint64_t limit = uint64_t(std::ceil(a.s[S::rate] * 4294967296.0));
    const unsigned k0 = unsigned(a.s[S::key0]), k1 = unsigned(a.s[S::key1]);
    const long size = a.n[S::size], whole = size / 4;
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

// statistics: 1 / std, mean, variance; axis: -2 over the batch, -1 over the features.
template <typename T> int normalize(const Arguments &a) {
    using S = slots::normalize;
    const T *x = (const T *)a.p[S::x], *gain = (const T *)a.p[S::gain], *bias = (const T *)a.p[S::bias];
    const T epsilon = T(a.s[S::epsilon]);
    T *y = (T *)a.p[S::y], *x_hat = (T *)a.p[S::x_hat];
    const long rows = a.n[S::rows], cols = a.n[S::cols], over_rows = a.n[S::axis] == -2;
    const long count = over_rows ? cols : rows;
    T *rstd = (T *)a.p[S::statistics], *mean = rstd + count, *variance = mean + count;
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
            prefetch_for_write((char *)(y + i * cols) + AHEAD, cols * sizeof(T));
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

// dx of normalize, and the sums over rows of dy x_hat and dy.
template <typename T> int normalize_backward(const Arguments &a) {
    using S = slots::normalize_backward;
    const T *dy = (const T *)a.p[S::dy], *gain = (const T *)a.p[S::gain], *x_hat = (const T *)a.p[S::x_hat];
    const T *rstd = (const T *)a.p[S::rstd];
    T *dx = (T *)a.p[S::dx], *dgain = (T *)a.p[S::dgain], *dbias = (T *)a.p[S::dbias];
    const long rows = a.n[S::rows], cols = a.n[S::cols];
    for (long j = 0; j < cols; ++j) dgain[j] = dbias[j] = 0;
    for (long i = 0; i < rows; ++i)
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j) {
            dgain[j] += dy[i * cols + j] * x_hat[i * cols + j];
            dbias[j] += dy[i * cols + j];
        }
    if (a.n[S::axis] == -2) {  // over the rows: mean(g) = gain dbias / rows, mean(g x_hat) = gain dgain / rows
        const T each = T(1) / T(rows);
        for (long i = 0; i < rows; ++i) {
            prefetch_for_write((char *)(dx + i * cols) + AHEAD, cols * sizeof(T));
#pragma GCC ivdep
            for (long j = 0; j < cols; ++j)
                dx[i * cols + j] = xpd_norm<T>::backward(dy[i * cols + j], dbias[j] * each, x_hat[i * cols + j],
                                                         dgain[j] * each, gain[j] * rstd[j]);
        }
        return 0;
    }
    for (long i = 0; i < rows; ++i, dy += cols, x_hat += cols, dx += cols) {
        prefetch_for_write((char *)dx + AHEAD, cols * sizeof(T));
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

// normalize with given statistics, outside training.
template <typename T> int scale_shift(const Arguments &a) {
    using S = slots::scale_shift;
    const T *x = (const T *)a.p[S::x], *mean = (const T *)a.p[S::mean], *variance = (const T *)a.p[S::variance];
    const T *gain = (const T *)a.p[S::gain], *bias = (const T *)a.p[S::bias], epsilon = T(a.s[S::epsilon]);
    T *y = (T *)a.p[S::y];
    const long rows = a.n[S::rows], cols = a.n[S::cols];
    for (long i = 0; i < rows; ++i, x += cols, y += cols)
#pragma GCC ivdep
        for (long j = 0; j < cols; ++j)
            y[j] = xpd_norm<T>::fixed(x[j], mean[j], variance[j], gain[j], bias[j], epsilon);
    return 0;
}

// --- the optimizer ---------------------------------------------------------------------------------------------------

// The factor of every gradient that clips their norm: min(1, clip / (norm + 1e-6)); the norm is computed in double, and
// scaled if its square overflows.
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

// One step of a rule that has BUFFERS of state. clip_norm is 0 where gradients are not clipped.
template <typename T, template <typename> class Rule, int BUFFERS> int update(const Arguments &a) {
    using S = slots::update;
    T *p = (T *)a.p[S::params], *s0 = (T *)a.p[S::state_0], *s1 = (T *)a.p[S::state_1];
    const T *g = (const T *)a.p[S::grads], *hyper = (const T *)a.p[S::hyper];
    const long size = a.n[S::size], decaying = a.n[S::decay_size];
    const T decay = T(a.s[S::weight_decay]);
    T h[slots::HYPER] = {}, c[CONSTANTS];
    for (long i = 0; i < a.n[S::hyper_size] && i < slots::HYPER; ++i) h[i] = hyper[i];
    for (int i = 0; i < CONSTANTS; ++i) c[i] = T(a.s[S::SCALARS + i]);
    const bool decoupled = a.s[S::decoupled] != 0;
    const T factor = a.s[S::clip_norm] > 0 ? shrink(g, size, a.s[S::clip_norm]) : T(1);
    for (int part = 0; part < 2; ++part) {
        const long first = part ? decaying : 0, count = part ? size - decaying : decaying;
        const T coupled = part || decoupled ? T(0) : decay;
        const T keep = part || !decoupled ? T(1) : T(1) - h[slots::rate] * decay;
        share(count, (3 + 2 * BUFFERS) * long(sizeof(T)), 32 * BLOCK, [&](long begin, long end) {
            for (long i = first + begin; i < first + end; i += BLOCK) {
                const long some = xpd_min(BLOCK, first + end - i);
                prefetch_for_write((char *)(p + i) + AHEAD, some * sizeof(T));
                if (BUFFERS == 2)
                    update_two<T, Rule>(p + i, g + i, s0 + i, s1 + i, some, factor, coupled, keep, h, c);
                else if (BUFFERS == 1)
                    update_one<T, Rule>(p + i, g + i, s0 + i, some, factor, coupled, keep, h, c);
                else
                    update_none<T, Rule>(p + i, g + i, some, factor, coupled, keep, h, c);
            }
        });
    }
    return 0;
}

// value += strength * sum(weights^2), summed in lanes.
template <typename T> int penalize(const Arguments &a) {
    using S = slots::penalize;
    const T *w = (const T *)a.p[S::weights];
    const long size = a.n[S::size], lanes = 16;
    double sums[lanes] = {}, total = 0;
    long i = 0;
    for (; i + lanes <= size; i += lanes)
        for (long k = 0; k < lanes; ++k) sums[k] += double(w[i + k]) * double(w[i + k]);
    for (; i < size; ++i) total += double(w[i]) * double(w[i]);
    for (long k = 0; k < lanes; ++k) total += sums[k];
    *(T *)a.p[S::value] = T(double(*(T *)a.p[S::value]) + a.s[S::strength] * total);
    return 0;
}

// --- the list --------------------------------------------------------------------------------------------------------

// The state buffers that a rule does not have are missing.
template <int BUFFERS> struct updating : slots::update {
    static constexpr int optional = (BUFFERS < 1) << state_0 | (BUFFERS < 2) << state_1;
};

const Entry entries[] = {
    entry<slots::gather>("gather", gather, gather),
    entry<slots::product>("product", product<float>, product<double>),
    entry<slots::move>("move", move, move),
    entry<slots::stop_unless_finite>("stop_unless_finite", stop_unless_finite<float>, stop_unless_finite<double>),
    entry<slots::blend>("blend", blend<float>, blend<double>),
    entry<slots::penalize>("penalize", penalize<float>, penalize<double>),
    entry<slots::add>("add", add<float>, add<double>),
    entry<slots::column_sums>("column_sums", column_sums<float>, column_sums<double>),
    entry<slots::dropout>("dropout", dropout<float>, dropout<double>),
    entry<slots::normalize>("normalize", normalize<float>, normalize<double>),
    entry<slots::normalize_backward>("normalize_backward", normalize_backward<float>, normalize_backward<double>),
    entry<slots::scale_shift>("scale_shift", scale_shift<float>, scale_shift<double>),
    entry<slots::softmax_cross_entropy>("softmax_cross_entropy", softmax_cross_entropy<float>,
                                        softmax_cross_entropy<double>),
#define X(NAME, SAVED)                                                                                                \
    entry<slots::activate>("activate " #NAME, activate<float, act_##NAME>, activate<double, act_##NAME>),             \
    entry<slots::activate_backward>("activate_backward " #NAME, activate_backward<float, act_##NAME>,                 \
                                    activate_backward<double, act_##NAME>),
    XPD_ACTIVATIONS(X)
#undef X
#define X(NAME) entry<slots::loss>("loss " #NAME, loss<float, loss_##NAME>, loss<double, loss_##NAME>),
    XPD_LOSSES(X)
#undef X
#define X(NAME, BUFFERS)                                                                                              \
    entry<updating<BUFFERS>>("update " #NAME, update<float, rule_##NAME, BUFFERS>,                                    \
                             update<double, rule_##NAME, BUFFERS>),
    XPD_OPTIMIZERS(X)
#undef X
};
}  // namespace XPD_CLONE
