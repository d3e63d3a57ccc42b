// A CUDA driver for machines without a device: memory is the host's, modules are shared libraries made of the kernels'
// text, streams do all at once. What cuda-bindings is given arrives here as it would at a device, and is logged.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

#define API extern "C" int

static const int CONTEXT = 0x1234, NOT_READY = 600;
static int depth = 0, capture = 0;

static int logged(const char *name) { fprintf(stderr, "%s %d %d\n", name, depth, capture); return 0; }

struct Function { void *kernel, *run; char name[256]; };

API cuGetProcAddress_v2(const char *name, void **found, int, uint64_t, int *status)
{
    *found = dlsym(dlopen(getenv("STUB_DRIVER"), RTLD_NOW), name);
    if (status)
        *status = *found ? 0 : 1;
    return *found ? 0 : 500;
}

API cuInit(unsigned) { return logged("cuInit"); }
API cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API cuDeviceGet(int *device, int number) { *device = number; return logged("cuDeviceGet"); }
API cuDeviceGetAttribute(int *value, int attribute, int) { *value = attribute == 75 ? 9 : 0; return 0; }
API cuDevicePrimaryCtxRetain(void **context, int) { *context = (void *)(long)CONTEXT; return logged("cuDevicePrimaryCtxRetain"); }
API cuCtxPushCurrent(void *context) { ++depth; return (long)context == CONTEXT ? 0 : 201; }
API cuCtxPopCurrent(void **context) { --depth; *context = (void *)(long)CONTEXT; return 0; }
API cuThreadExchangeStreamCaptureMode(int *mode) { const int before = capture; capture = *mode; *mode = before; return 0; }
API cuModuleLoadData(void **module, const char *path) { *module = dlopen(path, RTLD_NOW); logged("cuModuleLoadData"); return *module ? 0 : 200; }

API cuModuleGetFunction(void **function, void *module, const char *name)
{
    Function *made = (Function *)calloc(1, sizeof(Function));
    made->kernel = dlsym(module, name), made->run = dlsym(module, "run");
    strncpy(made->name, name, 255);
    *function = made;
    logged("cuModuleGetFunction");
    return made->kernel ? 0 : 500;
}

API cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
    void *stream, void **parameters, void **extra)
{
    logged("cuLaunchKernel");
    if (gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || extra || (uint64_t)stream != 7 || gx == 0)
        return 1;
    const char *count = strstr(getenv("STUB_COUNTS"), f->name);  // "name=5;name=6;"
    if (!count)
        return 1;
    const int n = atoi(strchr(count, '=') + 1);
    uint64_t arguments[16];
    for (int i = 0; i < n; ++i)
        arguments[i] = *(uint64_t *)parameters[i];
    ((void (*)(void *, unsigned, unsigned, uint64_t *, int, int))f->run)(f->kernel, gx, bx, arguments, n, 1);
    return 0;
}

API cuMemAlloc(uint64_t *address, size_t n) { *address = (uint64_t)aligned_alloc(256, (n + 255) / 256 * 256); return logged("cuMemAlloc"); }
API cuMemHostAlloc(void **address, size_t n, unsigned flags) { *address = malloc(n); logged("cuMemHostAlloc"); return flags != 1; }
API cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t n, void *) { memcpy((void *)to, from, n); return logged("cuMemcpyHtoDAsync"); }
API cuMemcpyDtoHAsync(void *to, uint64_t from, size_t n, void *) { memcpy(to, (void *)from, n); return logged("cuMemcpyDtoHAsync"); }
API cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)99; logged("cuStreamCreate"); return flags != 1; }
API cuStreamSynchronize(void *) { return logged("cuStreamSynchronize"); }
API cuEventCreate(void **event, unsigned flags) { *event = malloc(1); logged("cuEventCreate"); return flags != 2; }
API cuEventRecord(void *, void *) { return logged("cuEventRecord"); }
API cuEventQuery(void *) { static int asked = 0; logged("cuEventQuery"); return asked++ % 2 ? 0 : NOT_READY; }
API cuGetErrorName(int, const char **text) { *text = "CUDA_ERROR_OF_THE_STUB"; return 0; }
API cuGetErrorString(int, const char **text) { *text = "as the stub was told"; return 0; }
