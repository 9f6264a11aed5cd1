// Attention of one new token over an int8 cache with a step per head and channel, as the int8 recipes export it.
//
// Key steps move into the query, value steps into the result, so the cache is read as plain integers. The query is
// rounded to 16 bits per head and split into two bytes: two DP4A per four channels give a score whose error is
// 2^-16 of the query's largest channel, far below the cache's own rounding, at half the work of float products.
// Weights times values stay in float: DP4A would need values by channel and weights rounded to 8 bits.
//
// Query heads that share a key head are computed together, so the cache is read once. The context is split over
// blocks; a split depends on a row's own length alone, so a row's result does not depend on what shares its batch.
// Within a block every warp runs an online softmax over its own tiles of 32 tokens; warps meet once, at the end.
#include "common.cuh"

constexpr int WARPS = 4;
constexpr int BLOCKS = 3;  // at least so many share a multiprocessor: leaves registers enough to spill nothing
constexpr int TILE = WARP;  // tokens; a lane takes the softmax of one
constexpr int LARGEST_QUERY = 127 * 256 + 127;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LEAST = -3.402823466e38f;  // below every score

template <int D, int G>
struct Scratch {
    int8 query[G][2][D];  // upper and lower byte
    float query_steps[G];
    float scores[WARPS][TILE][G];
    float largest[WARPS][G], total[WARPS][G];
    float mixed[WARPS][G][D];
};

/// Writes the bytes and the steps of `used` queries; the other ones become zero. Scores are then powers of two.
template <int D, int G>
__device__ void round_queries(Scratch<D, G>& s, const float* q, const float* key_steps, float scale, int used) {
    const int lane = threadIdx.x % WARP;
    for (int g = threadIdx.x / WARP; g < G; g += WARPS) {
        float value[D / WARP], largest = 0.0f;
#pragma unroll
        for (int j = 0; j < D / WARP; ++j) {
            const int channel = lane + j * WARP;
            value[j] = g < used ? q[g * D + channel] * key_steps[channel] * (scale * LOG2_E) : 0.0f;
            largest = max_or_nan(largest, fabsf(value[j]));
        }
        largest = warp_max_or_nan(largest);
        const float step = largest * (1.0f / LARGEST_QUERY);
        const float inverse = step > 0.0f ? __fdiv_rn(1.0f, step) : 0.0f;
#pragma unroll
        for (int j = 0; j < D / WARP; ++j) {
            const int rounded = __float2int_rn(value[j] * inverse);
            const int code = min(max(rounded, -LARGEST_QUERY), LARGEST_QUERY);
            const int8 lower = int8(code);
            s.query[g][0][lane + j * WARP] = int8((code - lower) >> 8);
            s.query[g][1][lane + j * WARP] = lower;
        }
        if (lane == 0) s.query_steps[g] = step;
    }
}

/// Integer products of a warp's tile of keys with the rounded queries, into the scratch of the warp.
template <int D, int G>
__device__ __forceinline__ void score_tile(Scratch<D, G>& s, const int8* keys, int tile, int stop) {
    constexpr int LANES = D / 16;  // lanes of a token
    constexpr int AT_ONCE = 4;     // vectors that a lane has in flight
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int part = lane % LANES;
#pragma unroll 1
    for (int load = 0; load < TILE * LANES / WARP; load += AT_ONCE) {
        int4 key[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u) {
            const int token = min(tile + (load + u) * (WARP / LANES) + lane / LANES, stop - 1);
            key[u] = __ldg(reinterpret_cast<const int4*>(keys + size_t(token) * D) + part);
        }
        const int mine = (load + part * AT_ONCE / LANES) * (WARP / LANES) + lane / LANES;
#pragma unroll
        for (int g = 0; g < G; ++g) {
            const int4 upper = reinterpret_cast<const int4*>(s.query[g][0])[part];
            const int4 lower = reinterpret_cast<const int4*>(s.query[g][1])[part];
            int sums[AT_ONCE];
#pragma unroll
            for (int u = 0; u < AT_ONCE; ++u) sums[u] = dot16(key[u], upper, 0) * 256 + dot16(key[u], lower, 0);
            const int sum = sum_over_lanes<AT_ONCE, LANES / 2>(sums, lane);
            if (part % (LANES / AT_ONCE) == 0) s.scores[warp][mine][g] = float(sum);
        }
    }
    __syncwarp();
}

/// mixed += weights times values over a warp's tile; a lane has eight channels of every `WARP / LANES`-th token.
template <int D, int G>
__device__ __forceinline__ void mix_tile(float (&mixed)[G][8], const Scratch<D, G>& s, const int8* values, int tile,
                                         int stop) {
    constexpr int LANES = D / 8;
    constexpr int AT_ONCE = 4;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll 1
    for (int load = 0; load < TILE * LANES / WARP; load += AT_ONCE) {
        int2 value[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u) {
            const int token = min(tile + (load + u) * (WARP / LANES) + lane / LANES, stop - 1);
            value[u] = __ldg(reinterpret_cast<const int2*>(values + size_t(token) * D) + lane % LANES);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; ++u) {
            float channel[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) channel[j] = float(int8((j < 4 ? value[u].x : value[u].y) >> (j % 4 * 8)));
            const float* weight = s.scores[warp][(load + u) * (WARP / LANES) + lane / LANES];
#pragma unroll
            for (int g = 0; g < G; ++g)
#pragma unroll
                for (int j = 0; j < 8; ++j) mixed[g][j] += weight[g] * channel[j];
        }
    }
    __syncwarp();
}

/// One split of one row's context for up to G query heads of a key head; grid: splits, key heads * groups, rows.
/// q float32 [B, H, D], keys and values int8 [B, K, capacity, D], key_steps float32 [K, D], lengths int32 [B];
/// partial float32 [B, H, splits, D] and stats float32 [B, H, splits, 2]: largest score (base 2) and total weight.
template <int D, int G>
__device__ __forceinline__ void attend(const float* q, const int8* keys, const int8* values, const float* key_steps,
                                       const int* lengths, float* partial, float* stats, int heads, int kv_heads,
                                       int capacity, float scale) {
    __shared__ __align__(16) Scratch<D, G> s;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
    const int share = heads / kv_heads, groups = ceil_div(share, G);
    const int kv_head = blockIdx.y / groups, group = blockIdx.y % groups;
    const size_t first_head = size_t(row) * heads + kv_head * share + group * G;
    const int used = min(G, share - group * G);
    const int length = min(lengths[row], capacity);
    const int span = ceil_div(ceil_div(length, splits), TILE * WARPS) * TILE * WARPS;
    const int start = min(split * span, length), stop = min(start + span, length);
    keys += (size_t(row) * kv_heads + kv_head) * capacity * D;
    values += (size_t(row) * kv_heads + kv_head) * capacity * D;

    round_queries<D, G>(s, q + first_head * D, key_steps + kv_head * D, scale, used);
    __syncthreads();
    float largest[G], total[G] = {}, mixed[G][8] = {};  // of a warp; `total` is the share of a lane
#pragma unroll
    for (int g = 0; g < G; ++g) largest[g] = LEAST;
    for (int tile = start + warp * TILE; tile < stop; tile += TILE * WARPS) {
        score_tile<D, G>(s, keys, tile, stop);
        const bool valid = tile + lane < stop;
#pragma unroll
        for (int g = 0; g < G; ++g) {
            const float score = valid ? s.scores[warp][lane][g] * s.query_steps[g] : LEAST;
            const float before = largest[g];
            largest[g] = max_or_nan(before, warp_max_or_nan(score));
            const float weight = exp2f(score - largest[g]), fade = exp2f(before - largest[g]);
            total[g] = total[g] * fade + weight;
            s.scores[warp][lane][g] = weight;
#pragma unroll
            for (int j = 0; j < 8; ++j) mixed[g][j] *= fade;
        }
        __syncwarp();
        mix_tile<D, G>(mixed, s, values, tile, stop);
    }

#pragma unroll
    for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int offset = WARP / 2; offset > 0; offset /= 2) {
            total[g] += __shfl_xor_sync(ALL_LANES, total[g], offset);
            if (offset >= D / 8)
#pragma unroll
                for (int j = 0; j < 8; ++j) mixed[g][j] += __shfl_xor_sync(ALL_LANES, mixed[g][j], offset);
        }
        if (lane < D / 8)
#pragma unroll
            for (int j = 0; j < 8; ++j) s.mixed[warp][g][lane * 8 + j] = mixed[g][j];
        if (lane == 0) {
            s.largest[warp][g] = largest[g];
            s.total[warp][g] = total[g];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < used * D; i += WARPS * WARP) {
        const int g = i / D;
        const size_t out = (first_head + g) * splits + split;
        float top = LEAST, weights = 0.0f, sum = 0.0f;
        for (int w = 0; w < WARPS; ++w) top = max_or_nan(top, s.largest[w][g]);
        for (int w = 0; w < WARPS; ++w) {
            const float factor = exp2f(s.largest[w][g] - top);  // zero for a warp that had no tile
            weights += factor * s.total[w][g];
            sum += factor * s.mixed[w][g][i % D];
        }
        partial[out * D + i % D] = sum;
        if (i % D == 0) {
            stats[out * 2] = top;
            stats[out * 2 + 1] = weights;
        }
    }
}

#define ATTEND(D, G)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, BLOCKS) attend_d##D##_g##G(                             \
        const float* q, const int8* keys, const int8* values, const float* key_steps, const int* lengths,              \
        float* partial, float* stats, int heads, int kv_heads, int capacity, float scale) {                            \
        attend<D, G>(q, keys, values, key_steps, lengths, partial, stats, heads, kv_heads, capacity, scale);           \
    }
ATTEND(64, 1)
ATTEND(64, 2)
ATTEND(64, 4)
ATTEND(64, 8)
ATTEND(128, 1)
ATTEND(128, 2)
ATTEND(128, 4)
ATTEND(128, 8)

/// Joins the splits: y float32 [B, H, D], zero for a row without tokens. Grid: H, B; a thread per channel.
extern "C" __global__ void __launch_bounds__(128)
    attend_merge(const float* partial, const float* stats, const float* value_steps, float* y, int splits,
                 int kv_heads) {
    const int heads = gridDim.x, D = blockDim.x;
    const size_t head = size_t(blockIdx.y) * heads + blockIdx.x;
    stats += head * splits * 2;
    partial += head * splits * D;
    float top = LEAST, weights = 0.0f, sum = 0.0f;
    for (int i = 0; i < splits; ++i) top = max_or_nan(top, stats[i * 2]);
    for (int i = 0; i < splits; ++i) {
        const float factor = exp2f(stats[i * 2] - top);  // zero for a split that had no token
        weights += factor * stats[i * 2 + 1];
        sum += factor * partial[size_t(i) * D + threadIdx.x];
    }
    const int kv_head = blockIdx.x / (heads / kv_heads);
    const float step = value_steps[kv_head * D + threadIdx.x];
    y[head * D + threadIdx.x] = weights == 0.0f ? 0.0f : __fdiv_rn(sum, weights) * step;
}

/// Rounds one new token's keys (after the rotary embedding) and values float32 [B, K, D] into the cache as the last of
/// `lengths` int32 [B]; one outside of the cache writes nothing. Grid: K, B; a thread per channel.
extern "C" __global__ void __launch_bounds__(128)
    cache_store(const float* k, const float* v, const float* key_steps, const float* value_steps, int8* keys,
                int8* values, const int* lengths, int capacity) {
    const int kv_heads = gridDim.x, D = blockDim.x, position = lengths[blockIdx.y] - 1;
    if (position < 0 || position >= capacity) return;
    const size_t head = size_t(blockIdx.y) * kv_heads + blockIdx.x;
    const size_t to = (head * capacity + position) * D + threadIdx.x;
    const int step = blockIdx.x * D + threadIdx.x;
    const int key = __float2int_rn(k[head * D + threadIdx.x] * __fdiv_rn(1.0f, key_steps[step]));
    const int value = __float2int_rn(v[head * D + threadIdx.x] * __fdiv_rn(1.0f, value_steps[step]));
    keys[to] = int8(min(max(key, -128), 127));
    values[to] = int8(min(max(value, -128), 127));
}
