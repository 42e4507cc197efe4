// CUDA C++ as host code: what a kernel's text needs to be compiled by g++ and run on a CPU (Linux, x86-64).
//
// A block's threads are contexts of their own that one real thread runs in turn, each up to its next barrier, shuffle
// or vote: a block of 256 threads takes microseconds, and every run of a launch is the same. Blocks run one after the
// other. emulator's raw_kernels.py puts this before a kernel's text and defines cu::table after it; with
// CU_ELEMENTWISE it is only the vocabulary, for the source that CuPy generates for an ElementwiseKernel.
//
// To ThreadSanitizer each context is a thread, and only what orders memory in CUDA orders it there: __syncthreads,
// __syncwarp, and an atomic operation that follows a __threadfence. Shuffles order nothing. So a missing barrier is a
// data race whatever the order in which the contexts happened to run.
#pragma once
#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <initializer_list>
#include <type_traits>
#include <utility>

// The text sees itself compiled by NVRTC; the headers above must not.
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define CU_VECTOR(T, N, SIZE)                                                                                         \
    struct alignas(2 * SIZE) N##2 { T x, y; };                                                                        \
    struct N##3 { T x, y, z; };                                                                                       \
    struct alignas(SIZE < 8 ? 4 * SIZE : 16) N##4 { T x, y, z, w; };                                                  \
    inline N##2 make_##N##2(T x, T y) { return {x, y}; }                                                              \
    inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CU_VECTOR(float, float, 4) CU_VECTOR(double, double, 8) CU_VECTOR(int, int, 4) CU_VECTOR(unsigned, uint, 4)
CU_VECTOR(unsigned short, ushort, 2)

// half is the compiler's own 16-bit type, with the names of cuda_fp16.h that a trainer's kernels use.
using half = _Float16;
using __half = half;
struct alignas(4) __half2 { half x, y; };
using half2 = __half2;
inline unsigned short __half_as_ushort(half h) { unsigned short u; memcpy(&u, &h, 2); return u; }
inline half __ushort_as_half(unsigned short u) { half h; memcpy(&h, &u, 2); return h; }
struct __half_raw {
    unsigned short x;
    __half_raw() = default;
    explicit __half_raw(half h) : x(__half_as_ushort(h)) {}
    operator half() const { return __ushort_as_half(x); }
};
inline float __half2float(half h) { return float(h); }
inline half __float2half(float f) { return half(f); }
inline half __float2half_rn(float f) { return half(f); }
inline float2 __half22float2(__half2 h) { return {float(h.x), float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
inline __half2 __float22half2_rn(float2 f) { return {half(f.x), half(f.y)}; }

// bfloat16 has no compiler's type in every g++: sums and products are made in float, as on a device before sm_80.
struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float f) {  // to nearest, ties to even; NaN stays
        unsigned u;
        memcpy(&u, &f, 4);
        bits = (unsigned short)((f != f ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    }
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
    explicit __nv_bfloat16(T v) : __nv_bfloat16(float(v)) {}
    operator float() const {
        const unsigned u = unsigned(bits) << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
};
using nv_bfloat16 = __nv_bfloat16;
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { __nv_bfloat16 b; b.bits = u; return b; }
inline float __bfloat162float(__nv_bfloat16 b) { return b; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }
inline bool __hisnan(float f) { return f != f; }
inline int __hisinf(float f) { return f - f != f - f && f == f ? f > 0 ? 1 : -1 : 0; }

inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline int __float_as_int(float f) { return int(__float_as_uint(f)); }
inline float __int_as_float(int i) { return __uint_as_float(unsigned(i)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline int __popcll(unsigned long long u) { return __builtin_popcountll(u); }
inline int __clz(int i) { return i ? __builtin_clz(unsigned(i)) : 32; }
inline int __ffs(int i) { return __builtin_ffs(i); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
#define __expf expf  // glibc declares these two without a definition
#define __logf logf
template <class A, class B> std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }
template <class A, class B> std::common_type_t<A, B> max(A a, B b) { return a > b ? a : b; }
template <class T> T __ldg(const T *p) { return *p; }

#ifdef CU_ELEMENTWISE
namespace cu {
template <class T, class F> T update(T *p, F f) {  // one thread has the loop to itself
    const T old = *p;
    *p = f(old);
    return old;
}
static char error[100];
template <class T> T &outside(long index, long size) {  // an array's element that is not there
    static std::remove_const_t<T> nowhere;
    snprintf(error, sizeof error, "element %ld of an array of %ld", index, size);
    return nowhere;
}
}  // namespace cu
static const uint3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};
#else

// --- a block's threads ------------------------------------------------------------------------------------------

#define CU_RAW __attribute__((noinline, no_sanitize("thread", "address", "undefined"))) static
#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void *), __tsan_release(void *), __tsan_java_init(size_t, size_t),
    __tsan_java_alloc(size_t, size_t), __tsan_java_free(size_t, size_t), *__tsan_get_current_fiber(),
    *__tsan_create_fiber(unsigned), __tsan_switch_to_fiber(void *, unsigned);
#define CU_TSAN(call) __tsan_##call
#else
#define CU_TSAN(call) ((void)0)
#endif
#define threadIdx cu::now->place
#define blockIdx cu::job.at
#define blockDim cu::job.block
#define gridDim cu::job.grid
static constexpr int warpSize = 32;

// Save the callee's registers, exchange the stack pointers, take the other's registers.
asm(R"(
    .text
    .type cu_switch, @function
cu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
)");
extern "C" __attribute__((visibility("hidden"))) void cu_switch(void **save, void *to);

namespace cu {
enum Op { RUN, BLOCK, WARP, SHUFFLE, BALLOT, ENDED };
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum : size_t { STACK = 1 << 18 };
#else
enum : size_t { STACK = 1 << 16 };
#endif
enum : size_t { STRIDE = STACK + 320 };  // tops that do not all want one place in the cache
enum : unsigned { MARK = 0xcdcdcdcd, SETS = 8 };

struct Thread {
    uint3 place;
    unsigned id, mask, gen;
    Op op;
    int line, from;
    unsigned long long value, result;
    void *sp, *fiber[SETS];
};
struct Range { long at, size; };
static Thread thread[1024], *now;
static struct { void (*call)(void **); void **args; uint3 grid, block, at; unsigned n, sets, set; } job;  // this launch
static struct { long clock[2]; unsigned gen; } bar[SETS][33][32];  // [32][0] the block's, [w][l] of lanes from l of warp w
static long fences[SETS], places[4096], done;
static void *scheduler, *main_fiber, *helper[SETS];
static char *stacks, *dyn, error[400];
static size_t dyn_size, launches;
static __attribute__((section("cu_shared"), aligned(16), used)) char pad[16];
extern char shared[] __asm__("__start_cu_shared") __attribute__((visibility("hidden")));
extern char shared_end[] __asm__("__stop_cu_shared") __attribute__((visibility("hidden")));
extern char image[] __asm__("__ehdr_start") __attribute__((visibility("hidden")));

CU_RAW void fail(const Thread &t, const char *what, int line, int other) {
    if (!error[0])
        snprintf(error, sizeof error, "block (%u,%u,%u) thread (%u,%u,%u): %s, line %d%s%.0d", job.at.x, job.at.y,
                 job.at.z, t.place.x, t.place.y, t.place.z, what, line, other ? " and line " : "", other);
}
CU_RAW void to_scheduler() {
    CU_TSAN(switch_to_fiber(main_fiber, 1));  // 1: a switch orders nothing
    cu_switch(&now->sp, scheduler);
}
// Every barrier, shuffle and vote: leave the word to the others. The scheduler has exchanged the values on return.
CU_RAW unsigned long long meet(Op op, unsigned mask, unsigned long long value, int from, int line) {
    Thread &t = *now;
    auto &b = op == BLOCK ? bar[job.set][32][0] : bar[job.set][t.id / 32][__builtin_ctz(mask | 1u << 31)];
    t.op = op, t.mask = mask, t.value = value, t.from = from, t.line = line, t.gen = b.gen;
    if (op != BLOCK && !(mask >> t.id % 32 & 1)) fail(t, "the calling lane is not in its mask", line, 0);
    if (op <= WARP) CU_TSAN(release(&b.clock[t.gen % 2]));  // 2: who leaves first may be one round ahead
    to_scheduler();
    if (op <= WARP) CU_TSAN(acquire(&b.clock[t.gen % 2]));
    return t.result;
}
// The lanes that wait with one mask at one call, once nobody is missing who is still alive.
CU_RAW bool open_lanes(Thread *warp, unsigned alive, unsigned lane) {
    const Thread first = warp[lane];
    const unsigned here = first.mask & alive;
    unsigned votes = 0;
    for (unsigned l = 0; l < 32; l++) {
        if (!(here >> l & 1)) continue;
        if (warp[l].op != first.op || warp[l].mask != first.mask || warp[l].line != first.line) return false;
        if (warp[l].value) votes |= 1u << l;
    }
    for (unsigned l = 0; l < 32; l++) {
        if (!(here >> l & 1)) continue;
        if (first.op == SHUFFLE && !(here >> warp[l].from & 1))
            fail(warp[l], "shuffle from a lane that takes no part", first.line, 0);
        warp[l].result = first.op == SHUFFLE ? warp[warp[l].from & 31].value : votes;
        warp[l].op = RUN;
    }
    bar[job.set][first.id / 32][__builtin_ctz(first.mask | 1u << 31)].gen++;
    return true;
}
// Let go whoever waits for nobody. False where all wait for one another, which fail() has reported then.
CU_RAW bool open_barriers() {
    const Thread *one = 0, *other = 0;  // two that wait at different calls
    bool all_at_block = true, opened = false;
    for (unsigned i = 0; i < job.n; i++) {
        const Thread &t = thread[i];
        if (t.op == ENDED) continue;
        if (!one) one = &t;
        if (t.line != one->line || t.op != one->op) other = &t;
        all_at_block &= t.op == BLOCK;
    }
    if (all_at_block && !other) {
        for (unsigned i = 0; i < job.n; i++)
            if (thread[i].op == BLOCK) thread[i].op = RUN;
        bar[job.set][32][0].gen++;
        return true;
    }
    for (unsigned w = 0; w < job.n; w += 32) {
        unsigned alive = 0;
        for (unsigned l = 0; l < 32 && w + l < job.n; l++)
            if (thread[w + l].op != ENDED) alive |= 1u << l;
        for (unsigned l = 0; l < 32; l++)
            if (alive >> l & 1 && thread[w + l].op > BLOCK) opened |= open_lanes(thread + w, alive, l);
    }
    if (!opened) fail(*one, "every thread left waits", one->line, other ? other->line : 0);
    return opened && !error[0];
}
CU_RAW void first() {  // where a context begins
    job.call(job.args);
    now->op = ENDED;
    CU_TSAN(release(&done));
    to_scheduler();
}
CU_RAW void fresh(void *p, size_t size) {  // memory as a block finds it: NaN or -1, and unknown to ThreadSanitizer
    for (size_t i = 0; i < size; i++) ((volatile char *)p)[i] = -1;
    if (size) CU_TSAN(java_alloc((size_t)p, (size + 7) & ~7ul)), CU_TSAN(java_free((size_t)p, (size + 7) & ~7ul));
}
// The first is nobody's: it takes what runs over the end of the second.
CU_RAW char *stack_of(unsigned i) { return stacks + (job.set * 1024 + i + 1) * STRIDE; }
CU_RAW void run_block() {
    for (unsigned i = 0; i < job.n; i++) {
        char *stack = stack_of(i);
        void **sp = (void **)(stack + STACK) - 8;
        Thread &t = thread[i];
        *(volatile unsigned *)stack = MARK;
        sp[6] = (void *)first, t.sp = sp, t.op = RUN, t.id = i;
        t.place = {i % job.block.x, i / job.block.x % job.block.y, i / job.block.x / job.block.y};
    }
    for (unsigned left = job.n, backwards = 0; left; backwards ^= 1) {  // so that no order is relied upon
        for (unsigned i = 0; i < job.n; i++) {
            Thread &t = thread[backwards ? job.n - 1 - i : i];
            if (t.op != RUN) continue;
            now = &t;
            CU_TSAN(switch_to_fiber(t.fiber[job.set], 1));
            cu_switch(&scheduler, t.sp);
            left -= t.op == ENDED;
            if (*(volatile unsigned *)stack_of(t.id) != MARK)
                fail(t, "the stack is full: too large local arrays", t.line, 0);
            if (error[0]) return;
        }
        if (left && !open_barriers()) return;
    }
}
// Run a launch; d: grid, block, bytes of dynamic shared memory. True where something is wrong: see `error`.
CU_RAW bool launch(void (*call)(void **), const unsigned *d, void **args, const Range *strays, size_t stray_count) {
    job = {call, args, {d[0], d[1], d[2]}, {d[3], d[4], d[5]}, {}, d[3] * d[4] * d[5], 1, 0};
    error[0] = 0;
#ifdef __SANITIZE_THREAD__  // blocks that follow one another, in x and in y, are of different threads
    for (job.sets = 2; d[0] % job.sets == 0 && job.sets < SETS - 1;) job.sets++;
    __tsan_java_init((size_t)shared, 8);
    main_fiber = __tsan_get_current_fiber();
    for (unsigned s = 0; s < job.sets; s++) {
        helper[s] = __tsan_create_fiber(0);
        for (unsigned i = 0; i < job.n; i++) thread[i].fiber[s] = __tsan_create_fiber(0);
    }
#endif
    if (!stacks) {
        stacks = (char *)mmap(0, (job.sets * 1024 + 1) * STRIDE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) abort();
    }
    if (posix_memalign((void **)&dyn, 128, dyn_size = d[6])) abort();
    const size_t blocks = (size_t)d[0] * d[1] * d[2], backwards = launches++ % 2;
    for (size_t i = 0; i < blocks && !error[0]; i++) {
        const size_t b = backwards ? blocks - 1 - i : i;
        job.at = {unsigned(b % d[0]), unsigned(b / d[0] % d[1]), unsigned(b / d[0] / d[1])};
        job.set = i % job.sets;
        fresh(shared, shared_end - shared), fresh(dyn, dyn_size);
        for (size_t s = 0; s < stray_count; s++) fresh(image + strays[s].at, strays[s].size);
        run_block();
    }
    CU_TSAN(acquire(&done));
    free(dyn);
    return error[0];
}

// An atomic operation. What the fences of its block have published goes along with it, to whoever's atomic operation on
// the same place comes after it; nothing else does. To ThreadSanitizer the block's helper has made it in the end, so
// that it does not carry more of its thread's past than that.
CU_RAW void fence() { CU_TSAN(release(&fences[job.set])); }
CU_RAW void follow([[maybe_unused]] void *p) { CU_TSAN(acquire(&places[(size_t)p / 4 % 4096])); }
CU_RAW void hand_over([[maybe_unused]] void *p) {
    CU_TSAN(java_alloc((size_t)p & ~7ul, 8)), CU_TSAN(java_free((size_t)p & ~7ul, 8));
    CU_TSAN(switch_to_fiber(helper[job.set], 1)), CU_TSAN(acquire(&fences[job.set]));
}
CU_RAW void take_back([[maybe_unused]] void *p) {
    CU_TSAN(release(&places[(size_t)p / 4 % 4096])), CU_TSAN(switch_to_fiber(now->fiber[job.set], 1)), follow(p);
}
template <class T, class F> T update(T *p, F f) {  // relaxed; returns the old value
    follow(p);
    T old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    next = f(old);
    __atomic_store(p, &next, __ATOMIC_RELAXED);
#ifdef __SANITIZE_THREAD__
    hand_over(p);
    __atomic_store(p, &next, __ATOMIC_RELAXED);
    take_back(p);
#endif
    return old;
}

// --- what Python is told of a kernel ------------------------------------------------------------------------------

struct Entry { const char *name; void (*call)(void **); const char *types; const int *sizes; };
extern Entry table[];
template <class... P> const char *types(void (*)(P...)) { return __PRETTY_FUNCTION__; }  // "... P = {float*, int}]"
template <class P> constexpr int size() {  // of what a pointer points to, or of the value
    using T = std::remove_pointer_t<P>;
    if constexpr (std::is_void_v<T>) return 0;
    else return sizeof(T);
}
template <class... P> const int *sizes(void (*)(P...)) {
    static const int all[] = {size<P>()..., -1};
    return all;
}
template <auto F> struct Kernel;
template <class... P, void (*F)(P...)> struct Kernel<F> {
    template <size_t... i> static void with([[maybe_unused]] void **a, std::index_sequence<i...>) {
        F(*(std::remove_cv_t<P> *)a[i]...);
    }
    static void call(void **a) { with(a, std::index_sequence_for<P...>()); }
};
inline const char *describe(const Entry &e) {
    static char text[4000];
    const char *list = strstr(e.types, "P = {");
    int n = snprintf(text, sizeof text, "%s|%s", e.name, list ? list : "");
    for (const int *size = e.sizes; *size >= 0; size++) n += snprintf(text + n, sizeof text - n, "|%d", *size);
    return text;
}
}  // namespace cu

#define CU_LINE int line = __builtin_LINE()
inline void __syncthreads(CU_LINE) { cu::meet(cu::BLOCK, 0, 0, 0, line); }
inline void __syncwarp(unsigned mask = ~0u, CU_LINE) { cu::meet(cu::WARP, mask, 0, 0, line); }
inline unsigned __ballot_sync(unsigned mask, bool p, CU_LINE) { return cu::meet(cu::BALLOT, mask, p, 0, line); }
inline bool __any_sync(unsigned mask, bool p, CU_LINE) { return cu::meet(cu::BALLOT, mask, p, 0, line); }
inline bool __all_sync(unsigned mask, bool p, CU_LINE) { return !cu::meet(cu::BALLOT, mask, !p, 0, line); }
inline void __threadfence() { cu::fence(); }
inline void __threadfence_block() {}
// l is the caller's lane, `at` the one asked for; outside its segment of w lanes a thread gets its own value.
#define CU_SHUFFLE(NAME, AT, INSIDE)                                                                                  \
    template <class T> T NAME(unsigned mask, T v, int a, int w = 32, CU_LINE) {                                       \
        static_assert(sizeof(T) <= 8);                                                                                \
        const int l = int(cu::now->id % 32), first = l & -w, at = AT;                                                 \
        (void)first;                                                                                                  \
        unsigned long long bits = 0;                                                                                  \
        memcpy(&bits, &v, sizeof v);                                                                                  \
        bits = cu::meet(cu::SHUFFLE, mask, bits, INSIDE ? at : l, line);                                              \
        memcpy(&v, &bits, sizeof v);                                                                                  \
        return v;                                                                                                     \
    }
CU_SHUFFLE(__shfl_sync, first + (a & (w - 1)), true)
CU_SHUFFLE(__shfl_up_sync, l - a, at >= first)
CU_SHUFFLE(__shfl_down_sync, l + a, at < first + w)
CU_SHUFFLE(__shfl_xor_sync, l ^ a, at < first + w)
#endif  // CU_ELEMENTWISE

template <class T> struct cu_same { using type = T; };
#define CU_ATOMIC(NAME, NEW)                                                                                          \
    template <class T> T NAME(T *p, typename cu_same<T>::type v) {                                                    \
        return cu::update(p, [=](T o) { return T(NEW); });                                                            \
    }
CU_ATOMIC(atomicAdd, o + v) CU_ATOMIC(atomicSub, o - v) CU_ATOMIC(atomicExch, v) CU_ATOMIC(atomicOr, o | v)
CU_ATOMIC(atomicMin, o < v ? o : v) CU_ATOMIC(atomicMax, o > v ? o : v)
inline unsigned atomicInc(unsigned *p, unsigned top) {
    return cu::update(p, [=](unsigned o) { return o >= top ? 0u : o + 1u; });
}
template <class T> T atomicCAS(T *p, typename cu_same<T>::type expected, typename cu_same<T>::type v) {
    return cu::update(p, [=](T o) { return o == expected ? v : o; });
}

#ifndef CU_ELEMENTWISE
#ifdef CU_MAIN  // a sanitized program: tells of its kernels, or runs the job in a file and leaves the memory there
int main(int n, char **v) {
    if (n < 2) {
        for (cu::Entry *e = cu::table; e->call; e++) puts(cu::describe(*e));
        return 0;
    }
    const int file = open(v[1], O_RDWR);
    char *base = (char *)mmap(0, lseek(file, 0, SEEK_END), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    const long *h = (const long *)base;  // kernel, grid, block, shared bytes, how many memories, arguments, strays
    const long memories = h[8], arguments = h[9], stray_count = h[10];
    auto *stray = (const cu::Range *)(h + 11);
    auto *memory = (const long(*)[3])(stray + stray_count);  // offset in the file, bytes, address
    auto *argument = memory + memories;                      // memory, offset in it, whether a pointer
    unsigned dims[7];
    for (int i = 0; i < 7; i++) dims[i] = unsigned(h[1 + i]);
    void *at[64], *pointer[64], *args[64];
    for (long i = 0; i < memories; i++) {  // each in a heap block, for ASan, and aligned as in Python, for UBSan
        const size_t skew = size_t(memory[i][2]) % 64;
        if (posix_memalign(&at[i], 64, memory[i][1] + skew)) abort();
        at[i] = memcpy((char *)at[i] + skew, base + memory[i][0], memory[i][1]);
    }
    for (long i = 0; i < arguments; i++) {
        pointer[i] = (char *)at[argument[i][0]] + argument[i][1];
        args[i] = argument[i][2] ? (void *)&pointer[i] : pointer[i];
    }
    const bool wrong = cu::launch(cu::table[h[0]].call, dims, args, stray, stray_count);
    for (long i = 0; i < memories; i++) memcpy(base + memory[i][0], at[i], memory[i][1]);
    return wrong ? puts(cu::error), 3 : 0;
}
#else
extern "C" __attribute__((visibility("default"))) const char *cu_describe(int k) { return cu::table[k].call ? cu::describe(cu::table[k]) : 0; }
extern "C" __attribute__((visibility("default"))) const char *cu_launch(int k, const unsigned *d, void **args, const cu::Range *strays, size_t count) {
    return cu::launch(cu::table[k].call, d, args, strays, count) ? cu::error : 0;
}
#endif
#endif
