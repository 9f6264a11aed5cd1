// Activations to int8 codes, one block per token. Codes have a pitch, a multiple of 16 bytes; what lies behind the
// columns becomes zero, so that products may read whole vectors. Division and rounding (half to even) are exact.
#include "common.cuh"

constexpr int THREADS = 512;

/// The largest of all threads' values, NaN if one is.
__device__ float block_max(float value) {
    __shared__ float of_warps[THREADS / WARP];
    value = warp_max_or_nan(value);
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = value;
    __syncthreads();
    return warp_max_or_nan(of_warps[threadIdx.x % (THREADS / WARP)]);
}

/// codes = round(x / largest / (1 / 127)), scales = largest / 127: a code times its token's scale is the value. Two
/// divisions, because one by the product would round near ties to the other side than the exported graph does. A
/// token with NaN or infinity gets such a scale, and every product with it is NaN.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_tokens(const float* x, int8* codes, float* scales, int columns, int pitch) {
    x += size_t(blockIdx.x) * columns;
    codes += size_t(blockIdx.x) * pitch;
    float largest = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < columns; i += THREADS) largest = max_or_nan(largest, fabsf(x[i]));
    largest = block_max(largest);
    const float divisor = largest == 0.0f ? 1.0f : largest;
#pragma unroll 4
    for (int i = threadIdx.x; i < pitch; i += THREADS)
        codes[i] = i < columns ? int8(__float2int_rn(__fdiv_rn(__fdiv_rn(x[i], divisor), 1.0f / 127))) : int8(0);
    if (threadIdx.x == 0) scales[blockIdx.x] = largest * (1.0f / 127);
}

/// codes = round(x / step), clipped to -128..127, with one calibrated step for all tokens. NaN becomes 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_static(const float* x, int8* codes, float step, int columns, int pitch) {
    x += size_t(blockIdx.x) * columns;
    codes += size_t(blockIdx.x) * pitch;
#pragma unroll 4
    for (int i = threadIdx.x; i < pitch; i += THREADS) {
        const int code = i < columns ? __float2int_rn(__fdiv_rn(x[i], step)) : 0;
        codes[i] = int8(min(max(code, -128), 127));
    }
}
