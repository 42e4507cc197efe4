// What all kernels share: how a function is declared on each processor, and the elementary functions.
//
// The text is for two compilers. NVRTC (CUDA) compiles it in the preamble of CuPy's kernels, which call the device's
// exp, tanh and erf. A host compiler compiles it in the CPU library, where the elementary functions are polynomials in
// plain arithmetic: a compiler vectorises them without the options of -ffast-math, one of which would change the
// floating-point state of the process. This file includes no other.
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

#define XPD_FN __host__ __device__ __forceinline__
template <typename T> XPD_FN T xpd_exp(T x) { return exp(x); }
template <typename T> XPD_FN T xpd_expm1(T x) { return expm1(x); }
template <typename T> XPD_FN T xpd_log1p(T x) { return log1p(x); }
template <typename T> XPD_FN T xpd_tanh(T x) { return tanh(x); }
template <typename T> XPD_FN T xpd_erf(T x) { return erf(x); }
template <typename T> XPD_FN T xpd_sqrt(T x) { return sqrt(x); }
template <typename T> XPD_FN T xpd_log(T x) { return log(x); }

#else

#define XPD_FN inline __attribute__((always_inline))
XPD_FN float xpd_sqrt(float x) { return __builtin_sqrtf(x); }
XPD_FN double xpd_sqrt(double x) { return __builtin_sqrt(x); }
XPD_FN float xpd_log(float x) { return __builtin_logf(x); }
XPD_FN double xpd_log(double x) { return __builtin_log(x); }

// exp(x) = 2^n (1 + p), n = round(x / log 2), p = exp(x - n log 2) - 1 by its Taylor series, |x - n log 2| <= 0.3466.
// Adding 1.5 * 2^(mantissa bits) rounds to an integer, which is then in the low bits. `half` is 2^(n-1), which is a
// normal number for every n that occurs; 2 (half p + half) overflows to infinity above the range.
template <typename T> struct xpd_power { T p, half; };

XPD_FN xpd_power<float> xpd_reduce(float x) {
    float shifted = x * 1.44269504088896341f + 12582912.0f, n = shifted - 12582912.0f;
    float r = (x - n * 0.693145751953125f) - n * 1.428606765330187e-06f, q = 1.0f / 5040.0f;
    q = q * r + 1.0f / 720.0f, q = q * r + 1.0f / 120.0f, q = q * r + 1.0f / 24.0f, q = q * r + 1.0f / 6.0f;
    q = q * r + 0.5f;
    unsigned bits;
    float half;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f000000u;
    __builtin_memcpy(&half, &bits, sizeof half);
    return {q * r * r + r, half};
}

XPD_FN xpd_power<double> xpd_reduce(double x) {
    double shifted = x * 1.44269504088896338700e+00 + 6755399441055744.0, n = shifted - 6755399441055744.0;
    double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, q = 1.0 / 6227020800.0;
    q = q * r + 1.0 / 479001600.0, q = q * r + 1.0 / 39916800.0, q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0, q = q * r + 1.0 / 40320.0, q = q * r + 1.0 / 5040.0, q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0, q = q * r + 1.0 / 24.0, q = q * r + 1.0 / 6.0, q = q * r + 0.5;
    unsigned long long bits;
    double half;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 52) + 0x3fe0000000000000ull;
    __builtin_memcpy(&half, &bits, sizeof half);
    return {q * r * r + r, half};
}

// The arguments between which a result is neither 0 nor infinite (lower end: of normal numbers).
template <typename T> struct xpd_range;
template <> struct xpd_range<float> { static constexpr float low = -86.9f, high = 89.0f, one = 17.0f; };
template <> struct xpd_range<double> { static constexpr double low = -707.0, high = 710.0, one = 38.0; };

template <typename T> XPD_FN T xpd_exp(T x) {
    T inside = x < xpd_range<T>::low ? xpd_range<T>::low : x > xpd_range<T>::high ? xpd_range<T>::high : x;
    xpd_power<T> e = xpd_reduce(inside);
    T y = (e.half * e.p + e.half) * T(2);
    return x < xpd_range<T>::low ? T(0) : y;
}

// exp(x) - 1 for x <= 0, exact in relative terms near 0: 2^n p + (2^n - 1).
template <typename T> XPD_FN T xpd_expm1(T x) {
    T inside = x < -xpd_range<T>::one - T(3) ? -xpd_range<T>::one - T(3) : x;
    xpd_power<T> e = xpd_reduce(inside);
    return (e.half * e.p + (e.half - T(0.5))) * T(2);
}

// log(1 + y) for 0 <= y <= 1: 2 artanh(y / (2 + y)), t = y / (2 + y) <= 1/3.
XPD_FN float xpd_log1p(float y) {
    float t = y / (2.0f + y), s = t * t, q = 1.0f / 15.0f;
    q = q * s + 1.0f / 13.0f, q = q * s + 1.0f / 11.0f, q = q * s + 1.0f / 9.0f, q = q * s + 1.0f / 7.0f;
    q = q * s + 1.0f / 5.0f, q = q * s + 1.0f / 3.0f;
    return 2.0f * (t + t * s * q);
}

XPD_FN double xpd_log1p(double y) {
    double t = y / (2.0 + y), s = t * t, q = 1.0 / 35.0;
    for (int k = 33; k >= 3; k -= 2) q = q * s + 1.0 / k;
    return 2.0 * (t + t * s * q);
}

// tanh(|x|) = -m / (m + 2) with m = exp(-2 |x|) - 1.
template <typename T> XPD_FN T xpd_tanh(T x) {
    T m = xpd_expm1(x < T(0) ? T(2) * x : T(-2) * x), t = -m / (m + T(2));
    return x < T(0) ? -t : t;
}

// W. J. Cody, Math. Comp. 23 (1969), as in xpdense/activations.py.
template <typename T> XPD_FN T xpd_erf(T x) {
    T y = x < T(0) ? -x : x, a = y < T(0.46875) ? y : T(0.46875), s = a * a;
    T near = a * ((((T(1.85777706184603153e-1) * s + T(3.16112374387056560e0)) * s + T(1.13864154151050156e2)) * s
                   + T(3.77485237685302021e2)) * s + T(3.20937758913846947e3))
             / ((((s + T(2.36012909523441209e1)) * s + T(2.44024637934444173e2)) * s + T(1.28261652607737228e3)) * s
                + T(2.84423683343917062e3));
    T m = y < T(0.46875) ? T(0.46875) : y > T(4) ? T(4) : y;
    T p = T(2.15311535474403846e-8), q = m + T(1.57449261107098347e1);
    p = p * m + T(5.64188496988670089e-1), p = p * m + T(8.88314979438837594e0);
    p = p * m + T(6.61191906371416295e1), p = p * m + T(2.98635138197400131e2);
    p = p * m + T(8.81952221241769090e2), p = p * m + T(1.71204761263407058e3);
    p = p * m + T(2.05107837782607147e3), p = p * m + T(1.23033935479799725e3);
    q = q * m + T(1.17693950891312499e2), q = q * m + T(5.37181101862009858e2);
    q = q * m + T(1.62138957456669019e3), q = q * m + T(3.29079923573345963e3);
    q = q * m + T(4.36261909014324716e3), q = q * m + T(3.43936767414372164e3);
    q = q * m + T(1.23033935480374942e3);
    T middle = p / q * xpd_exp(-m * m);
    T f = y < T(4) ? T(4) : y > T(6) ? T(6) : y, r = T(1) / (f * f);
    T u = T(1.63153871373020978e-2), v = r + T(2.56852019228982242e0);
    u = u * r + T(3.05326634961232344e-1), u = u * r + T(3.60344899949804439e-1);
    u = u * r + T(1.25781726111229246e-1), u = u * r + T(1.60837851487422766e-2);
    u = u * r + T(6.58749161529837803e-4);
    v = v * r + T(1.87295284992346725e0), v = v * r + T(5.27905102951428412e-1);
    v = v * r + T(6.05183413124413191e-2), v = v * r + T(2.33520497626869185e-3);
    T tail = (T(0.56418958354775628695) - r * u / v) / f * xpd_exp(-f * f);
    T result = y <= T(0.46875) ? near : T(1) - (y <= T(4) ? middle : tail);
    return x < T(0) ? -result : x != x ? x : result;
}

#endif

template <typename T> XPD_FN T xpd_max(T a, T b) { return a > b || a != a ? a : b; }  // NaN in a stays
template <typename T> XPD_FN T xpd_min(T a, T b) { return a < b || a != a ? a : b; }
template <typename T> XPD_FN T xpd_abs(T x) { return x < T(0) ? -x : x; }
