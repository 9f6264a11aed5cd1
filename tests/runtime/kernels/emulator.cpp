// The kernels on the host, behind the driver's own interface: a library that takes the place of libcuda.so.1.
//
// A thread of a block is a fiber that runs until it reaches a barrier; blocks run one after another. New memory holds
// garbage, guards around it tell of writes outside of an array when it is freed, and vector reads are checked.
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

// What CUDA C++ has and C++ has not, as far as the kernels use it.
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

using int8 = signed char;
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct Index {
    int x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

namespace emulator {

enum Wait { NOTHING, WARP_BARRIER, BLOCK_BARRIER, END };
constexpr size_t STACK = 64 << 10, LANES = 32, MOST_THREADS = 1024;

struct Fiber {
    ucontext_t context;
    Wait wait = NOTHING;
    std::vector<char> stack = std::vector<char>(STACK);
    int turn = 0;
};
static std::vector<Fiber> fibers(MOST_THREADS);
static ucontext_t scheduler;
static std::function<void()> body;
static uint32_t exchanged[2][MOST_THREADS];

static void wait(Wait what) {
    Fiber& fiber = fibers[threadIdx.x];
    fiber.wait = what;
    swapcontext(&fiber.context, &scheduler);
}

static void run_fiber() {
    body();
    wait(END);
}

/// Lets the fibers first to last - 1 go on if all that have not ended wait for `what`.
static bool release(int first, int last, Wait what) {
    bool any = false;
    for (int i = first; i < last; ++i) {
        if (fibers[i].wait != what && fibers[i].wait != END) return false;
        any |= fibers[i].wait == what;
    }
    for (int i = first; i < last; ++i)
        if (fibers[i].wait == what) fibers[i].wait = NOTHING;
    return any;
}

/// Runs one block; false if its threads wait for each other in vain.
static bool run_block() {
    const int threads = blockDim.x;
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.wait = NOTHING;
        fiber.turn = 0;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool moved = true; moved;) {
        for (int i = 0; i < threads; ++i)
            if (fibers[i].wait == NOTHING) {
                threadIdx = {i, 0, 0};
                swapcontext(&scheduler, &fibers[i].context);
            }
        moved = release(0, threads, BLOCK_BARRIER);
        for (int i = 0; i < threads; i += LANES) moved |= release(i, min<int>(i + LANES, threads), WARP_BARRIER);
    }
    return std::all_of(fibers.begin(), fibers.begin() + threads, [](const Fiber& f) { return f.wait == END; });
}

}  // namespace emulator

static void __syncthreads() { emulator::wait(emulator::BLOCK_BARRIER); }
static void __syncwarp() { emulator::wait(emulator::WARP_BARRIER); }

template <typename T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
    static_assert(sizeof(T) == 4);
    uint32_t* slots = emulator::exchanged[emulator::fibers[threadIdx.x].turn ^= 1];
    memcpy(slots + threadIdx.x, &value, 4);
    __syncwarp();
    memcpy(&value, slots + (threadIdx.x ^ mask), 4);
    return value;
}

static std::map<uint64_t, size_t> sizes;  // of the device's memory, by address
static bool bad_read = false;

/// Reads of device memory by vectors go through here: they must be aligned and stay within an array.
template <typename T>
static T __ldg(const T* pointer) {
    const auto address = reinterpret_cast<uint64_t>(pointer);
    const auto after = sizes.upper_bound(address);
    const auto array = after == sizes.begin() ? after : std::prev(after);
    const bool inside = array != after && address + sizeof(T) <= array->first + array->second;
    bad_read |= !inside || address % sizeof(T) != 0;
    return inside ? *pointer : T{};
}
static float __fdiv_rn(float a, float b) { return a / b; }
static int __float2int_rn(float value) {
    if (value != value) return 0;
    return int(std::min(std::max(double(std::rint(value)), -2147483648.0), 2147483647.0));
}
static int __dp4a(int a, int b, int total) {
    for (int shift = 0; shift < 32; shift += 8) total += int8(a >> shift) * int8(b >> shift);
    return total;
}

#include "common.cuh"
namespace quantize_program {
#include "quantize.cu"
}
namespace gemv_program {
#include "gemv.cu"
}
namespace attention_program {
#include "attention.cu"
}

// The driver's interface.
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719 };
constexpr size_t GUARD = 256, MEMORY = 1 << 30;
constexpr unsigned char GARBAGE = 0x7b;

using Kernel = std::function<void(void**)>;
template <typename... A, size_t... I>
static Kernel unpacking(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](void** arguments) { kernel(*static_cast<A*>(arguments[I])...); };
}
template <typename... A>
static Kernel callable(void (*kernel)(A...)) {
    return unpacking(kernel, std::index_sequence_for<A...>());
}
#define KERNEL(program, name) {#name, callable(program##_program::name)}
static std::map<std::string, Kernel> kernels = {
    KERNEL(quantize, quantize_tokens), KERNEL(quantize, quantize_static), KERNEL(gemv, gemv_w8a8_m1),
    KERNEL(gemv, gemv_w8a8_m2),        KERNEL(gemv, gemv_w8a8_m4),        KERNEL(gemv, gemv_w8a8_m8),
    KERNEL(attention, attend_d64_g1),  KERNEL(attention, attend_d64_g2),  KERNEL(attention, attend_d64_g4),
    KERNEL(attention, attend_d64_g8),  KERNEL(attention, attend_d128_g1), KERNEL(attention, attend_d128_g2),
    KERNEL(attention, attend_d128_g4), KERNEL(attention, attend_d128_g8), KERNEL(attention, attend_merge),
    KERNEL(attention, cache_store),
};
static size_t used = 0;

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int index) { return *device = index, SUCCESS; }
int cuDeviceGetName(char* name, int size, int) { return strncpy(name, "emulated GTX 1060", size), SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    static const std::map<int, int> values = {{1, 1024}, {16, 10}, {36, 4004000}, {37, 192}, {75, 6}, {76, 1}};
    return *value = values.at(attribute), SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &kernels, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* context) { return context == &kernels ? SUCCESS : INVALID_VALUE; }
int cuCtxSynchronize() { return SUCCESS; }
int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = MEMORY - used, *total = MEMORY, SUCCESS; }

int cuMemAlloc_v2(uint64_t* address, size_t size) {
    if (used + size > MEMORY) return OUT_OF_MEMORY;
    const size_t padded = (size + 2 * GUARD + GUARD - 1) / GUARD * GUARD;
    char* start = static_cast<char*>(std::aligned_alloc(GUARD, padded));
    memset(start, GARBAGE, padded);
    *address = reinterpret_cast<uint64_t>(start + GUARD);
    sizes[*address] = size;
    used += size;
    return SUCCESS;
}
int cuMemFree_v2(uint64_t address) {
    const auto found = sizes.find(address);
    if (found == sizes.end()) return INVALID_VALUE;
    const unsigned char* start = reinterpret_cast<unsigned char*>(address) - GUARD;
    const size_t size = found->second;
    const auto intact = [](unsigned char byte) { return byte == GARBAGE; };
    const bool whole = std::all_of(start, start + GUARD, intact) &&
                       std::all_of(start + GUARD + size, start + 2 * GUARD + size, intact);
    std::free(const_cast<unsigned char*>(start));
    sizes.erase(found);
    used -= size;
    return whole ? SUCCESS : ILLEGAL_ADDRESS;
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size) {
    return memcpy(reinterpret_cast<void*>(to), from, size), SUCCESS;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size) {
    return memcpy(to, reinterpret_cast<void*>(from), size), SUCCESS;
}
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t size) {
    return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), size), SUCCESS;
}
int cuEventCreate(double** event, unsigned) { return *event = new double, SUCCESS; }
int cuEventRecord(double* event, void*) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return *event = std::chrono::duration<double, std::milli>(now).count(), SUCCESS;
}
int cuEventSynchronize(double*) { return SUCCESS; }
int cuEventElapsedTime(float* milliseconds, double* start, double* stop) {
    return *milliseconds = float(*stop - *start), SUCCESS;
}
int cuEventDestroy_v2(double* event) { return delete event, SUCCESS; }
int cuModuleLoadData(void** module, const void*) { return *module = &kernels, SUCCESS; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    return *function = &found->second, SUCCESS;
}
int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned, void*, void** arguments, void**) {
    if (block_x > emulator::MOST_THREADS || block_y * block_z != 1 || grid_x * grid_y * grid_z == 0)
        return INVALID_VALUE;
    gridDim = {int(grid_x), int(grid_y), int(grid_z)};
    blockDim = {int(block_x), 1, 1};
    emulator::body = [=] { (*static_cast<Kernel*>(function))(arguments); };
    bad_read = false;
    for (unsigned z = 0; z < grid_z; ++z)
        for (unsigned y = 0; y < grid_y; ++y)
            for (unsigned x = 0; x < grid_x; ++x) {
                blockIdx = {int(x), int(y), int(z)};
                if (!emulator::run_block()) return LAUNCH_FAILED;
            }
    return bad_read ? ILLEGAL_ADDRESS : SUCCESS;
}
int cuGetErrorString(int error, const char** text) {
    static const std::map<int, const char*> texts = {{INVALID_VALUE, "invalid argument"},
                                                     {OUT_OF_MEMORY, "out of memory"},
                                                     {NOT_FOUND, "named symbol not found"},
                                                     {ILLEGAL_ADDRESS, "an access outside of an array"},
                                                     {LAUNCH_FAILED, "threads wait for each other"}};
    const auto found = texts.find(error);
    return *text = found == texts.end() ? nullptr : found->second, SUCCESS;
}
}
