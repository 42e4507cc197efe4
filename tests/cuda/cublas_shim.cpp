// The few functions of cuBLAS that the trainer calls, on the CPU: the same names and C ABI, checked as cuBLAS checks
// them, computed naively. Only sums of products in the type that cuBLAS accumulates in; no tensor cores' rounding.
//
// A product that passed its checks is handed to Python (shim_last), which runs it (shim_run) when its stream would.
#include <cstdint>
#include <cstring>
#include <vector>

namespace {
using half = _Float16;
struct bfloat {
    uint16_t bits;
    operator float() const { uint32_t u = uint32_t(bits) << 16; float f; memcpy(&f, &u, 4); return f; }
    explicit bfloat(float f) {  // to nearest, ties to even; NaN stays
        uint32_t u;
        memcpy(&u, &f, 4);
        bits = uint16_t((f != f ? u | 0x400000 : u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
};

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };  // cudaDataType_t
enum {  // cublasComputeType_t
    COMPUTE_16F = 64, COMPUTE_16F_PEDANTIC = 65, COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_64F = 70,
    COMPUTE_64F_PEDANTIC = 71, FAST_16F = 74, FAST_16BF = 75, FAST_TF32 = 77
};

struct Handle { uint32_t magic; void *stream, *workspace; size_t workspace_size; int math_mode; };
struct Job {  // what a product is, alpha and beta as they were at the call
    const void *a, *b;
    void *c;
    double alpha, beta;
    int turn_a, turn_b, m, n, k, lda, ldb, ldc, a_type, b_type, c_type, compute;
};
constexpr uint32_t MAGIC = 0xb1a5b1a5;
Job last;

size_t size_of(int type) { return type == R_64F ? 8 : type == R_32F ? 4 : 2; }
bool aligned(const void *p, int type) { return uintptr_t(p) % size_of(type) == 0; }
bool known(int type) { return type == R_32F || type == R_64F || type == R_16F || type == R_16BF; }
bool known_compute(int c) {
    return c == COMPUTE_16F || c == COMPUTE_16F_PEDANTIC || (c >= COMPUTE_32F && c <= FAST_16BF) || c == FAST_TF32;
}

// The table of cublasGemmEx: which types of A and B (always one) and C go with a compute type.
bool supported(int compute, int ab, int c) {
    switch (compute) {
    case COMPUTE_16F: case COMPUTE_16F_PEDANTIC: return ab == R_16F && c == R_16F;
    case COMPUTE_32F: case COMPUTE_32F_PEDANTIC:
        return ab == R_32F ? c == R_32F : ab == R_16F ? c == R_16F || c == R_32F : ab == R_16BF && (c == R_16BF || c == R_32F);
    case FAST_16F: case FAST_16BF: case FAST_TF32: return ab == R_32F && c == R_32F;
    case COMPUTE_64F: case COMPUTE_64F_PEDANTIC: return ab == R_64F && c == R_64F;
    default: return false;
    }
}

template <class T, class Acc> std::vector<Acc> columns(const void *p, int rows, int cols, int ld, bool turn) {
    std::vector<Acc> all(size_t(rows) * cols);  // of op(X), dense
    for (int j = 0; j < cols; j++)
        for (int i = 0; i < rows; i++)
            all[size_t(j) * rows + i] = Acc(((const T *)p)[turn ? size_t(i) * ld + j : size_t(j) * ld + i]);
    return all;
}
template <class AB, class C, class Acc> void multiply(const Job &g) {
    const bool read = g.alpha != 0;  // cuBLAS reads A and B only then, and C only where beta is not 0
    const auto a = columns<AB, Acc>(g.a, g.m, read ? g.k : 0, g.lda, g.turn_a);
    const auto b = columns<AB, Acc>(g.b, read ? g.k : 0, g.n, g.ldb, g.turn_b);
    std::vector<Acc> column(g.m);
    for (int j = 0; j < g.n; j++) {
        for (Acc &x : column) x = 0;
        for (int l = 0; read && l < g.k; l++) {
            const Acc w = b[size_t(j) * g.k + l], *from = &a[size_t(l) * g.m];
            for (int i = 0; i < g.m; i++) column[i] = Acc(column[i] + from[i] * w);
        }
        C *to = (C *)g.c + size_t(j) * g.ldc;
        for (int i = 0; i < g.m; i++) {
            Acc x = read ? Acc(Acc(g.alpha) * column[i]) : Acc(0);
            to[i] = C(g.beta != 0 ? Acc(x + Acc(g.beta) * Acc(to[i])) : x);
        }
    }
}
}  // namespace

extern "C" {
#define API __attribute__((visibility("default"))) int
API cublasCreate_v2(Handle **out) {
    if (!out) return INVALID_VALUE;
    *out = new Handle{MAGIC, nullptr, nullptr, 0, 0};
    return SUCCESS;
}
API cublasDestroy_v2(Handle *h) {
    if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
    h->magic = 0;
    delete h;
    return SUCCESS;
}
API cublasSetStream_v2(Handle *h, void *stream) {
    if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
    h->stream = stream, h->workspace = nullptr, h->workspace_size = 0;  // as cuBLAS does: set the workspace after it
    return SUCCESS;
}
API cublasSetWorkspace_v2(Handle *h, void *workspace, size_t size) {
    if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
    if (uintptr_t(workspace) % 256) return INVALID_VALUE;
    h->workspace = workspace, h->workspace_size = size;
    return SUCCESS;
}
API cublasSetMathMode(Handle *h, int mode) {
    if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
    const int plain = mode & ~16;  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
    if (plain < 0 || plain > 3) return INVALID_VALUE;
    h->math_mode = mode;
    return SUCCESS;
}
API cublasGemmEx(Handle *h, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                 int compute, int algorithm) {
    if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
    const auto at_least = [](int ld, int rows) { return ld >= (rows > 1 ? rows : 1); };
    if (turn_a < 0 || turn_a > 2 || turn_b < 0 || turn_b > 2 || m < 0 || n < 0 || k < 0) return INVALID_VALUE;
    if (!at_least(lda, turn_a ? k : m) || !at_least(ldb, turn_b ? n : k) || !at_least(ldc, m)) return INVALID_VALUE;
    if (!known(a_type) || !known(b_type) || !known(c_type) || !known_compute(compute)) return INVALID_VALUE;
    if (!(algorithm >= -1 && algorithm <= 23) && !(algorithm >= 99 && algorithm <= 115)) return INVALID_VALUE;
    if (a_type != b_type || !supported(compute, a_type, c_type)) return NOT_SUPPORTED;
    if (!alpha || !beta || (m && n && (!c || (k && (!a || !b))))) return INVALID_VALUE;
    if (!aligned(a, a_type) || !aligned(b, b_type) || !aligned(c, c_type)) return INVALID_VALUE;
    const auto scalar = [&](const void *p) -> double {  // of the compute type
        if (compute == COMPUTE_64F || compute == COMPUTE_64F_PEDANTIC) return *(const double *)p;
        if (compute == COMPUTE_16F || compute == COMPUTE_16F_PEDANTIC) return double(*(const half *)p);
        return double(*(const float *)p);
    };
    last = {a, b, c, scalar(alpha), scalar(beta), turn_a, turn_b, m, n, k, lda, ldb, ldc, a_type, b_type, c_type, compute};
    return SUCCESS;
}

// For Python: the product that was asked for last, in at most 256 bytes; and how to make it.
API shim_last(void *to) {
    static_assert(sizeof(Job) <= 256);
    memcpy(to, &last, sizeof last);
    return SUCCESS;
}
API shim_run(const void *from) {
    Job g;
    memcpy(&g, from, sizeof g);
    if (g.a_type == R_64F) multiply<double, double, double>(g);
    else if (g.a_type == R_32F) multiply<float, float, float>(g);
    else if (g.compute <= COMPUTE_16F_PEDANTIC) multiply<half, half, half>(g);
    else if (g.a_type == R_16F && g.c_type == R_16F) multiply<half, half, float>(g);
    else if (g.a_type == R_16F) multiply<half, float, float>(g);
    else if (g.c_type == R_16BF) multiply<bfloat, bfloat, float>(g);
    else multiply<bfloat, float, float>(g);
    return SUCCESS;
}
}
