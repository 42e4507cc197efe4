// A second thread for passes over much memory: share(size, bytes, each, part).
//
// BLAS has threads of its own, which are in the way of any that is awake while a product runs. So the helper sleeps, is
// woken for a large pass only, and nobody waits for it to come: the caller takes pieces of the pass from the front, the
// helper, from when it is there, from the back. Which of the two did a piece does not change what is computed.
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

// Bytes that a pass reads and writes for a helper to be worth it, and that a piece of one does. Waking costs the caller
// 13 us and comes after 29 (in a virtual machine; less outside), in which one core moves 1 MB: half of 4 MB is 50 us.
constexpr long LARGE = 4 << 20, PIECE = 256 << 10;

struct Pass {
    void (*run)(const void *part, long first, long end);
    const void *part;
    long size, each, pieces;
    std::fenv_t floats;  // the caller's rounding, and whether it flushes denormals: the helper computes as it does
    std::atomic<long> taken{0};
    std::atomic<bool> left{false};  // the helper was here and does not touch this again

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
    int away_from = -1;  // the core that it keeps off

    void serve() {
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [this] { return open.load(); });
            }
            if (Pass *pass = open.exchange(nullptr)) {  // else it came too late
                std::fesetenv(&pass->floats);
                pass->work(true);
                pass->left.store(true, std::memory_order_release);
            }
        }
    }

    // Keeps off the caller's core; false where there is no other. BLAS's waiting thread does not let the other core
    // idle, and Linux puts a thread that is woken while no core idles on the core of who wakes it, in its place.
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
Helper *helper = nullptr;  // for whoever has taken it; never freed: its thread ends with the process

// Whether there is one core, or BLAS too is told to have one thread.
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

// After fork() a child has the calling thread only, and makes a helper when it needs one.
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
        } catch (...) {  // there are no threads here, or no more of them
            two_threads = false;
            return false;
        }
    }
    if (!helper->pin_off_core()) return false;
    std::fegetenv(&pass.floats);
    helper->open.store(&pass);  // without the mutex: a helper that is about to sleep misses this pass, no more
    helper->wake.notify_one();
    return true;
}

// part(first, end) for ranges that make up [0, size) and begin at multiples of `each`; `bytes`: what the part of one
// index reads and writes. One thread at a time has the helper; another that comes meanwhile works alone.
template <typename F> void share(long size, long bytes, long each, const F &part) {
    if (size <= each || double(size) * double(bytes) < LARGE || !two_threads || helper_is_taken.exchange(true)) {
        part(0, size);
        return;
    }
    Pass pass{[](const void *p, long first, long end) { (*(const F *)p)(first, end); }, &part, size, each,
              (size + each - 1) / each, {}};
    const bool offered = offer(pass);
    pass.work(false);
    if (offered && !helper->open.exchange(nullptr))  // it came, and may be at its last piece
        while (!pass.left.load(std::memory_order_acquire)) std::this_thread::yield();
    helper_is_taken = false;
}

// How many indices of so many bytes make a piece.
inline long indices(long bytes) { return PIECE / (bytes + 1) + 1; }

}  // namespace
