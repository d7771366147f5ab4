// Attention of few rows to many keys that lie in several places: a sequence's cache, rows of the pack itself.

// Keys and values that follow each other, both at rows `row ..` of a matrix. A cache holds for each layer its keys, then
// its values, `capacity` rows each, from `base` on; a base of 0 is the pack.
struct Span {
    u64 base;
    u32 capacity, row, count, unused;
};

// Writes each row of the pack into its sequence's cache, keys and values. `slots[r]` are the low and the high half of the
// cache's address, its capacity and the place in it.
template <typename T>
__device__ void append_rows(const T *k, const T *v, const uint4 *slots, u32 layer, u32 width, u64 n) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= 2 * n) return;
    u32 which = at >= n;
    if (which) at -= n;
    u32 row = at / width, e = at % width;
    uint4 slot = slots[row];
    T *cache = (T *)((u64)slot.x | (u64)slot.y << 32);
    cache[(((u64)layer * 2 + which) * slot.z + slot.w) * width + e] = (which ? v : k)[at];
}
#define APPEND_ROWS(T) (const T *k, const T *v, const uint4 *slots, u32 layer, u32 width, u64 n)
BOTH(append_rows, APPEND_ROWS, (k, v, slots, layer, width, n))

__device__ __forceinline__ float dot(const float *q, const float *k, u32 n) {
    float sum = 0.0f;
    u32 i = 0;
    if (n % 4 == 0)
        for (; i < n; i += 4) {
            float4 x = *(const float4 *)(k + i);
            sum += q[i] * x.x + q[i + 1] * x.y + q[i + 2] * x.z + q[i + 3] * x.w;
        }
    for (; i < n; i++) sum += q[i] * k[i];
    return sum;
}
__device__ __forceinline__ float dot(const float *q, const bf16 *k, u32 n) {
    float sum = 0.0f;
    u32 i = 0;
    if (n % 8 == 0)
        for (; i < n; i += 8) {
            uint4 x = *(const uint4 *)(k + i);
            u32 words[4] = {x.x, x.y, x.z, x.w};
            for (u32 w = 0; w < 4; w++) {
                sum += q[i + 2 * w] * __uint_as_float(words[w] << 16);
                sum += q[i + 2 * w + 1] * __uint_as_float(words[w] & 0xffff0000u);
            }
        }
    for (; i < n; i++) sum += q[i] * wide(k[i]);
    return sum;
}

#define WARPS 4
#define MOST_WIDTH 256

// A block a row and head, whose warps take turns at 32 keys. `places[r]` is the list of spans of row r, from
// `starts[place]` to `starts[place + 1]`; it sees the first `limits[r]` keys of them, or the last `window` of these.
template <typename T>
__device__ void attend_spans(const T *q, const T *k, const T *v, T *out, const Span *spans, const u32 *starts,
                             const u32 *places, const u32 *limits, u32 layer, u32 heads, u32 kv_heads, u32 width,
                             u32 window, float scale, float cap) {
    __shared__ float query[MOST_WIDTH];
    __shared__ float parts[WARPS][MOST_WIDTH];
    __shared__ float mosts[WARPS], sums[WARPS];
    u32 row = blockIdx.x / heads, head = blockIdx.x % heads, kv_head = head / (heads / kv_heads);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, kv_width = kv_heads * width;
    u64 own = ((u64)row * heads + head) * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) query[i] = wide(q[own + i]) * scale;
    __syncthreads();
    u32 end = limits[row], first = end > window ? end - window : 0, before = 0;
    float most = -INFINITY, sum = 0.0f, acc[MOST_WIDTH / 32];
    for (u32 c = 0; c < MOST_WIDTH / 32; c++) acc[c] = 0.0f;
    for (u32 s = starts[places[row]]; s < starts[places[row] + 1] && before < end; s++) {
        Span span = spans[s];
        const T *keys = k, *values = v;
        if (span.base) {
            keys = (const T *)span.base + (u64)layer * 2 * span.capacity * kv_width;
            values = keys + (u64)span.capacity * kv_width;
        }
        u64 start = (u64)span.row * kv_width + kv_head * width;
        keys += start, values += start;
        for (u32 j0 = warp * 32; j0 < span.count && before + j0 < end; j0 += WARPS * 32) {
            if (before + j0 + 32 <= first) continue;
            u32 j = j0 + lane, at = before + j;
            float z = -INFINITY;
            if (j < span.count && at < end && at >= first) {
                z = dot(query, keys + (u64)j * kv_width, width);
                if (cap > 0.0f) z = cap * tanhf(z / cap);
            }
            float peak = fmaxf(most, warp_max(z));
            if (peak == -INFINITY) continue;
            float shrink = expf(most - peak), p = expf(z - peak);
            most = peak, sum = sum * shrink + warp_sum(p);
            for (u32 c = 0; c < MOST_WIDTH / 32; c++) acc[c] *= shrink;
            u32 count = min(32u, span.count - j0);
            for (u32 i = 0; i < count; i++) {
                float share = __shfl_sync(0xffffffffu, p, i);
                if (share == 0.0f) continue;
                const T *value = values + (u64)(j0 + i) * kv_width;
#pragma unroll
                for (u32 c = 0; c < MOST_WIDTH / 32; c++)
                    if (lane + 32 * c < width) acc[c] += share * wide(value[lane + 32 * c]);
            }
        }
        before += span.count;
    }
    if (lane == 0) mosts[warp] = most, sums[warp] = sum;
#pragma unroll
    for (u32 c = 0; c < MOST_WIDTH / 32; c++)
        if (lane + 32 * c < width) parts[warp][lane + 32 * c] = acc[c];
    __syncthreads();
    float peak = -INFINITY, total = 0.0f;
    for (u32 w = 0; w < WARPS; w++) peak = fmaxf(peak, mosts[w]);
    for (u32 w = 0; w < WARPS; w++) total += sums[w] * expf(mosts[w] - peak);
    for (u32 e = threadIdx.x; e < width; e += blockDim.x) {
        float value = 0.0f;
        for (u32 w = 0; w < WARPS; w++) value += parts[w][e] * expf(mosts[w] - peak);
        put(out + own + e, value / total);
    }
}
#define ATTEND_SPANS(T)                                                                                                \
    (const T *q, const T *k, const T *v, T *out, const Span *spans, const u32 *starts, const u32 *places,              \
     const u32 *limits, u32 layer, u32 heads, u32 kv_heads, u32 width, u32 window, float scale, float cap)
BOTH(attend_spans, ATTEND_SPANS,
     (q, k, v, out, spans, starts, places, limits, layer, heads, kv_heads, width, window, scale, cap))
