// What CUDA C has beside C++, for one thread after another on a host.

#include <setjmp.h>
#include <stdint.h>
#include <ucontext.h>

// Not from <cmath> and <cstdlib>, which take longer to read than a kernel to compile.
extern "C" {
double sqrt(double), fabs(double), copysign(double, double), pow(double, double), fmod(double, double);
double log(double), expm1(double), frexp(double, int *), ldexp(double, int);
float sqrtf(float), fabsf(float), expf(float), logf(float), powf(float, float);
void *malloc(size_t);
void abort();
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __restrict__ __restrict

struct Index { unsigned x; };
static Index blockIdx, threadIdx, blockDim, gridDim;

// Threads of a block that wait for each other are fibers, each of which runs until it waits. They change by jumps, which
// unlike swapcontext don't ask the system for anything.
static jmp_buf _scheduler, _fibers[1024];
static bool _begun[1024], _done[1024];
static void (*_body)();

static void _wait()
{
    const unsigned me = threadIdx.x;
    if (!_setjmp(_fibers[me]))
        _longjmp(_scheduler, 1);
    threadIdx.x = me;
}

static inline void __syncthreads() { _wait(); }

static inline long long __double_as_longlong(double number)
{
    long long bits;
    __builtin_memcpy(&bits, &number, sizeof bits);
    return bits;
}

template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int by)
{
    static T _selectors[1024];
    const unsigned me = threadIdx.x;
    _selectors[me] = value;
    _wait();
    const T found = _selectors[me ^ by];
    _wait();
    return found;
}

static void _fiber()
{
    for (const unsigned me = threadIdx.x;; _wait()) {
        _body();
        _done[me] = true;
        threadIdx.x = me;
    }
}

static __attribute__((noinline)) void _resume(unsigned i)
{
    threadIdx.x = i;
    if (_setjmp(_scheduler))
        return;
    if (_begun[i])
        _longjmp(_fibers[i], 1);
    _begun[i] = true;
    const size_t stack = 1 << 16;
    ucontext_t own;
    getcontext(&own);
    own.uc_stack.ss_sp = malloc(stack);
    own.uc_stack.ss_size = stack;
    makecontext(&own, _fiber, 0);
    setcontext(&own);
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
    _kernel = kernel, _arguments = arguments, _count = count, _body = _call;
    blockDim.x = threads, gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        if (!waits) {
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
                _call();
            continue;
        }
        for (unsigned i = 0; i < threads; ++i)
            _done[i] = false;
        for (bool some = true; some;) {
            some = false;
            for (unsigned i = 0; i < threads; ++i)
                if (!_done[i]) {
                    some = true;
                    _resume(i);
                }
        }
    }
}
