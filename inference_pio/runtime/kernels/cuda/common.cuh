// What the kernels share. Everything runs on compute capability 6.1, the first with DP4A.
#pragma once

using int8 = signed char;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// total + the product of 16 pairs of int8: four DP4A.
__device__ __forceinline__ int dot16(const int4& a, const int4& b, int total) {
    total = __dp4a(a.x, b.x, total);
    total = __dp4a(a.y, b.y, total);
    total = __dp4a(a.z, b.z, total);
    return __dp4a(a.w, b.w, total);
}

/// The larger one; NaN if either is, unlike fmaxf, so that bad input shows in the result.
__device__ __forceinline__ float max_or_nan(float a, float b) { return b > a || b != b ? b : a; }

__device__ __forceinline__ float warp_max_or_nan(float value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        value = max_or_nan(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

/// Sums COUNT values over 2 * OFFSET neighbouring lanes; each lane returns the sum number
/// (lane % (2 * OFFSET)) / (2 * OFFSET / COUNT). Lanes halve the values between them, so that COUNT values cost
/// COUNT - 1 + log2(2 * OFFSET / COUNT) exchanges and not COUNT * log2(2 * OFFSET).
template <int COUNT, int OFFSET>
__device__ __forceinline__ int sum_over_lanes(int* values, int lane) {
    if constexpr (OFFSET == 0) {
        return values[0];
    } else if constexpr (COUNT == 1) {
        values[0] += __shfl_xor_sync(ALL_LANES, values[0], OFFSET);
        return sum_over_lanes<1, OFFSET / 2>(values, lane);
    } else {
        const bool upper = lane & OFFSET;
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const int sent = upper ? values[i] : values[i + COUNT / 2];
            const int kept = upper ? values[i + COUNT / 2] : values[i];
            values[i] = kept + __shfl_xor_sync(ALL_LANES, sent, OFFSET);
        }
        return sum_over_lanes<COUNT / 2, OFFSET / 2>(values, lane);
    }
}
