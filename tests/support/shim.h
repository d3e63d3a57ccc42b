// What CUDA C has beside C++, for one thread after another on a host.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __restrict__ __restrict

struct Index { unsigned x; };
static Index blockIdx, threadIdx, blockDim, gridDim;

// Threads of a block that wait for each other are fibers, each of which runs until it waits.
static ucontext_t _scheduler, _fibers[1024];
static bool _done[1024];
static double _lanes[1024];
static void (*_body)();

static void _wait()
{
    const unsigned me = threadIdx.x;
    swapcontext(&_fibers[me], &_scheduler);
    threadIdx.x = me;
}

static inline void __syncthreads() { _wait(); }

static inline double __shfl_down_sync(unsigned, double value, int by)
{
    const unsigned me = threadIdx.x;
    _lanes[me] = value;
    _wait();
    const double found = _lanes[me % 32 + by < 32 ? me + by : me];
    _wait();
    return found;
}

static void _fiber()
{
    const unsigned me = threadIdx.x;
    _body();
    _done[me] = true;
    threadIdx.x = me;
}

static uint64_t *_arguments;
static void *_kernel;
static int _count;

static void _call()
{
    using u = uint64_t;
    u *a = _arguments;
    // Pointers and long long alike are passed as integers of eight bytes.
    switch (_count) {
    case 1: ((void (*)(u))_kernel)(a[0]); break;
    case 2: ((void (*)(u, u))_kernel)(a[0], a[1]); break;
    case 3: ((void (*)(u, u, u))_kernel)(a[0], a[1], a[2]); break;
    case 4: ((void (*)(u, u, u, u))_kernel)(a[0], a[1], a[2], a[3]); break;
    case 5: ((void (*)(u, u, u, u, u))_kernel)(a[0], a[1], a[2], a[3], a[4]); break;
    case 6: ((void (*)(u, u, u, u, u, u))_kernel)(a[0], a[1], a[2], a[3], a[4], a[5]); break;
    case 7: ((void (*)(u, u, u, u, u, u, u))_kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6]); break;
    case 8: ((void (*)(u, u, u, u, u, u, u, u))_kernel)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]); break;
    default: abort();
    }
}

extern "C" void run(void *kernel, unsigned blocks, unsigned threads, uint64_t *arguments, int count, int waits)
{
    const size_t stack = 1 << 16;
    static char *stacks = nullptr;
    if (waits && !stacks)
        stacks = (char *)malloc(1024 * stack);
    _kernel = kernel, _arguments = arguments, _count = count, _body = _call;
    blockDim.x = threads, gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        if (!waits) {
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                _call();
            continue;
        }
        for (unsigned i = 0; i < threads; ++i) {
            getcontext(&_fibers[i]);
            _fibers[i].uc_stack.ss_sp = stacks + i * stack;
            _fibers[i].uc_stack.ss_size = stack;
            _fibers[i].uc_link = &_scheduler;
            _done[i] = false;
            makecontext(&_fibers[i], _fiber, 0);
        }
        for (bool some = true; some;) {
            some = false;
            for (unsigned i = 0; i < threads; ++i)
                if (!_done[i]) {
                    some = true;
                    threadIdx.x = i;
                    swapcontext(&_scheduler, &_fibers[i]);
                }
        }
    }
}
