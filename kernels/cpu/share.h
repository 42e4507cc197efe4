// A second thread for passes over large arrays: share(size, bytes, each, part).
//
// Threads of BLAS compete for a core with any thread that is awake while a product runs. So the helper sleeps and is
// woken for a large pass only, and the caller does not wait for it to start: the caller takes pieces of the pass from
// the front, the helper, once it runs, from the back. The result does not depend on which thread computes a piece.
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace {

// Bytes of memory traffic of a pass above which a helper pays, and of a piece. Waking costs the caller 13 us and takes
// 29 us (in a virtual machine; less outside), in which one core moves 1 MB; half of 4 MB takes 50 us.
constexpr long LARGE = 4 << 20, PIECE = 256 << 10;

struct Pass {
    void (*run)(const void *part, long first, long end);
    const void *part;
    long size, each, pieces;
    std::fenv_t floats;  // the caller's rounding, and whether it flushes denormals: the helper computes as it does
    std::atomic<long> taken{0};
    std::atomic<bool> left{false};  // the helper took part and does not access this again

    void work(bool from_the_back) {
        for (long done = 0; taken.fetch_add(1, std::memory_order_relaxed) < pieces; ++done) {
            const long first = (from_the_back ? pieces - 1 - done : done) * each;
            run(part, first, size - first < each ? size : first + each);
        }
    }
};

struct Helper {
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<Pass *> open{nullptr};
    std::thread thread;
    int away_from = -1;  // the core that it does not run on

    void serve() {
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [this] { return open.load(); });
            }
            if (Pass *pass = open.exchange(nullptr)) {  // else the pass has ended
                std::fesetenv(&pass->floats);
                pass->work(true);
                pass->left.store(true, std::memory_order_release);
            }
        }
    }

    // Excludes the caller's core; false if there is no other. A waiting thread of BLAS keeps the other core busy, and
    // Linux places a thread that is woken while no core is idle on the core of the thread that wakes it.
    bool pin_off_core() {
#ifdef __linux__
        const int here = sched_getcpu();
        if (here == away_from) return true;
        cpu_set_t cores;
        if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof cores, &cores)) return false;
        CPU_CLR(here, &cores);
        if (!CPU_COUNT(&cores) || pthread_setaffinity_np(thread.native_handle(), sizeof cores, &cores)) return false;
        away_from = here;
#endif
        return true;
    }
};

std::atomic<bool> two_threads{true};
std::atomic<bool> helper_is_taken{false};
Helper *helper = nullptr;  // of the thread that took it; never freed, since its thread ends with the process

// Whether there is one core, or the environment limits BLAS to one thread.
bool one_thread_is_wanted() {
    for (const char *name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"})
        if (const char *value = std::getenv(name))
            if (std::atoi(value) == 1) return true;
#ifdef __linux__
    cpu_set_t cores;  // those that this process may use
    if (!sched_getaffinity(0, sizeof cores, &cores)) return CPU_COUNT(&cores) == 1;
#endif
    return std::thread::hardware_concurrency() == 1;
}

// After fork() a child has only the calling thread; it starts a helper when it needs one.
void forget_helper() {
    helper = nullptr;
    helper_is_taken = false;
}

void begin_sharing() {
    two_threads = !one_thread_is_wanted();
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, forget_helper);
#endif
}

bool offer(Pass &pass) {
    if (!helper) {
        try {
            auto made = std::make_unique<Helper>();
            made->thread = std::thread(&Helper::serve, made.get());
            helper = made.release();
        } catch (...) {  // no thread can be started
            two_threads = false;
            return false;
        }
    }
    if (!helper->pin_off_core()) return false;
    std::fegetenv(&pass.floats);
    helper->open.store(&pass);  // without the mutex: a helper that is about to sleep may miss this pass
    helper->wake.notify_one();
    return true;
}

// Calls part(first, end) for ranges that cover [0, size) and begin at multiples of `each`; `bytes` is the memory
// traffic of one index. One thread at a time has the helper; others compute alone meanwhile.
template <typename F> void share(long size, long bytes, long each, const F &part) {
    if (size <= each || double(size) * double(bytes) < LARGE || !two_threads || helper_is_taken.exchange(true)) {
        part(0, size);
        return;
    }
    Pass pass{[](const void *p, long first, long end) { (*(const F *)p)(first, end); }, &part, size, each,
              (size + each - 1) / each, {}};
    const bool offered = offer(pass);
    pass.work(false);
    if (offered && !helper->open.exchange(nullptr))  // the helper may be at its last piece
        while (!pass.left.load(std::memory_order_acquire)) std::this_thread::yield();
    helper_is_taken = false;
}

// The number of indices, of so many bytes each, in a piece.
inline long indices(long bytes) { return PIECE / (bytes + 1) + 1; }

}  // namespace
