// y[t, n] = sum_k x[t, k] * w[n, k] * x_scale[t] * w_scale[n] + bias[n] for 1 to 8 tokens.
//
// Weights pass through the chip once, which is what bounds the time: a warp takes two weight rows, a lane 16 bytes of
// each at a time. The tokens' codes are read from shared memory, where a block of eight warps puts a stretch of them.
#include "common.cuh"

constexpr int WARPS = 8;
constexpr int ROWS = 2;
constexpr int BLOCKS = 4;  // at least so many share a multiprocessor, which bounds the registers

template <int TOKENS>
__device__ __forceinline__ void gemv(const int4* x, const float* x_scales, int scale_stride, const int4* w,
                                     const float* w_scales, const float* bias, float* y, int tokens, int rows,
                                     int vectors) {
    constexpr int STAGED = TOKENS < 8 ? 768 : 1536;  // vectors; 12 or 24 KB of the 96 of a Pascal multiprocessor
    constexpr int STRETCH = STAGED / TOKENS;
    constexpr int SUMS = ROWS * TOKENS;
    __shared__ int4 staged[STAGED];
    const int lane = threadIdx.x % WARP;
    const int first = (blockIdx.x * WARPS + threadIdx.x / WARP) * ROWS;
    const int4* row[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) row[r] = w + size_t(min(first + r, rows - 1)) * vectors;  // the tail repeats a row
    int sums[SUMS] = {};
    for (int start = 0; start < vectors; start += STRETCH) {
        const int count = min(STRETCH, vectors - start);
        if (start > 0) __syncthreads();
#pragma unroll
        for (int j = 0; j < STAGED / (WARPS * WARP); ++j) {
            const int at = threadIdx.x + j * WARPS * WARP, t = at / STRETCH, i = at % STRETCH;
            if (t < tokens && i < count)
                staged[at] = __ldg(x + size_t(t) * vectors + start + i);
            else
                staged[at] = int4{0, 0, 0, 0};
        }
        __syncthreads();
#pragma unroll(TOKENS <= 4 ? 2 : 1)
        for (int i = lane; i < count; i += WARP) {
            int4 weights[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) weights[r] = __ldg(row[r] + start + i);
#pragma unroll
            for (int t = 0; t < TOKENS; ++t) {
                const int4 codes = staged[t * STRETCH + i];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) sums[r * TOKENS + t] = dot16(codes, weights[r], sums[r * TOKENS + t]);
            }
        }
    }
    const int sum = sum_over_lanes<SUMS, WARP / 2>(sums, lane);
    const int n = first + lane * SUMS / WARP / TOKENS;
    const int t = lane * SUMS / WARP % TOKENS;
    if (lane % (WARP / SUMS) == 0 && n < rows && t < tokens) {
        const float scaled = float(sum) * (x_scales[t * scale_stride] * w_scales[n]);
        y[size_t(t) * rows + n] = bias == nullptr ? scaled : scaled + bias[n];
    }
}

// x int8 [tokens, pitch], w int8 [rows, pitch], scales and bias float32, y float32 [tokens, rows]; pitch = 16 *
// vectors, starts aligned to 16 bytes. scale_stride is 1 with a scale per token and 0 with one for all. bias may be
// null. 16 * vectors < 2^17 keeps the sums below 2^31.
#define GEMV(TOKENS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, BLOCKS) gemv_w8a8_m##TOKENS(                            \
        const int4* x, const float* x_scales, int scale_stride, const int4* w, const float* w_scales,                  \
        const float* bias, float* y, int tokens, int rows, int vectors) {                                              \
        gemv<TOKENS>(x, x_scales, scale_stride, w, w_scales, bias, y, tokens, rows, vectors);                          \
    }
GEMV(1)
GEMV(2)
GEMV(4)
GEMV(8)
