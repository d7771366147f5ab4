// Attention between its matrix products: sequences of a pack laid out in padded tiles, the softmax of a row of scores,
// and back. A place without a row is NONE.

#define NONE 0xffffffffu

// A piece of a row of heads: its place in the row, and in tiles [places, heads, length, width] at position `at`.
struct Piece {
    u64 row, tile;
};
__device__ __forceinline__ Piece piece(u32 c, u32 row, u32 at, u32 heads, u32 length, u32 width) {
    u32 h = c / width, b = at / length, i = at % length;
    Piece p = {(u64)row * heads * width + c, (((u64)b * heads + h) * length + i) * width + c % width};
    return p;
}

// out [places, heads, length, width] from x [rows, heads * width]: place b, position i holds row `rows[b * length + i]`.
// A block a position. Two of one shape at a time (blocks from `n` on are of the second): queries and the output's
// gradient, or keys and values.
template <typename T, u32 N>
__device__ void gather_row(const T *x, T *out, u32 row, u32 at, u32 heads, u32 length, u32 width) {
    Packet<T, N> none;
    for (u32 i = 0; i < N; i++) put(none.x + i, 0.0f);
    for (u32 c = threadIdx.x * N; c < heads * width; c += blockDim.x * N) {
        Piece p = piece(c, row, at, heads, length, width);
        store<N>(out, p.tile, row == NONE ? none : load<N>(x, p.row));
    }
}
template <typename T>
__device__ void gather_heads(const T *x, const T *x2, const u32 *rows, T *out, T *out2, u32 heads, u32 length,
                             u32 width, u32 n) {
    u32 at = blockIdx.x;
    if (at >= n) at -= n, x = x2, out = out2;
    IN_PACKETS(width, gather_row, T, x, out, rows[at], at, heads, length, width)
}
#define GATHER(T)                                                                                                      \
    (const T *x, const T *x2, const u32 *rows, T *out, T *out2, u32 heads, u32 length, u32 width, u32 n)
BOTH(gather_heads, GATHER, (x, x2, rows, out, out2, heads, length, width, n))

// The way back: y [rows, heads * width] from `in` laid out as by gather_heads. Each row is at one place.
template <typename T, u32 N>
__device__ void scatter_row(const T *in, T *y, u32 row, u32 at, u32 heads, u32 length, u32 width) {
    for (u32 c = threadIdx.x * N; c < heads * width; c += blockDim.x * N) {
        Piece p = piece(c, row, at, heads, length, width);
        store<N>(y, p.row, load<N>(in, p.tile));
    }
}
template <typename T>
__device__ void scatter_heads(const T *in, const u32 *rows, T *y, u32 heads, u32 length, u32 width) {
    u32 row = rows[blockIdx.x];
    if (row == NONE) return;
    IN_PACKETS(width, scatter_row, T, in, y, row, blockIdx.x, heads, length, width)
}
#define SCATTER(T) (const T *in, const u32 *rows, T *y, u32 heads, u32 length, u32 width)
BOTH(scatter_heads, SCATTER, (in, rows, y, heads, length, width))

// total [rows, heads * width] = the sum over the places of each row, added to what it holds where `add`; those of row r
// are `places[starts[r] .. starts[r + 1]]`, each b * length + j. A block a row.
template <typename T>
__device__ void sum_heads(const float *in, const u32 *starts, const u32 *places, T *total, u32 heads, u32 length,
                          u32 width, u32 add) {
    u32 row = blockIdx.x, from = starts[row], end = starts[row + 1];
    for (u32 c = threadIdx.x; c < heads * width; c += blockDim.x) {
        u64 at = (u64)row * heads * width + c;
        float sum = add ? wide(total[at]) : 0.0f;
        for (u32 p = from; p < end; p++) sum += in[piece(c, row, places[p], heads, length, width).tile];
        put(total + at, sum);
    }
}
#define SUM_HEADS(T)                                                                                                   \
    (const float *in, const u32 *starts, const u32 *places, T *total, u32 heads, u32 length, u32 width, u32 add)
BOTH(sum_heads, SUM_HEADS, (in, starts, places, total, heads, length, width, add))

// The keys that a query sees: from `first` to `end`.
struct Seen {
    u32 first, end;
};

// Query i of a sequence that continues `past` tokens.
__device__ __forceinline__ Seen seen(u32 past, u32 i, u32 window) {
    u32 end = past + i + 1;
    Seen keys = {end > window ? end - window : 0, end};
    return keys;
}

// A score, scaled and capped; a cap of 0 is none.
__device__ __forceinline__ float score(float product, float scale, float cap) {
    float s = product * scale;
    return cap > 0.0f ? cap * tanhf(s / cap) : s;
}

// p [places, heads, queries, keys]: the softmax of each row of products; a warp a row. `pasts` and `lengths` are those
// of each place's sequence.
template <typename T>
__device__ void softmax(const float *products, T *p, const u32 *pasts, const u32 *lengths, u32 heads, u32 queries,
                        u32 keys, u32 window, float scale, float cap, u32 rows) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    u32 i = row % queries, b = row / queries / heads;
    products += (u64)row * keys, p += (u64)row * keys;
    Seen own = {0, 0};
    if (i < lengths[b]) own = seen(pasts[b], i, window);
    float most = -INFINITY, sum = 0.0f;
    for (u32 j = own.first + lane; j < own.end; j += 32) most = fmaxf(most, score(products[j], scale, cap));
    most = warp_max(most);
    for (u32 j = own.first + lane; j < own.end; j += 32) sum += expf(score(products[j], scale, cap) - most);
    sum = warp_sum(sum);
    for (u32 j = lane; j < keys; j += 32) {
        bool sees = j >= own.first && j < own.end;
        put(p + j, sees ? expf(score(products[j], scale, cap) - most) / sum : 0.0f);
    }
}
#define SOFTMAX(T)                                                                                                     \
    (const float *products, T *p, const u32 *pasts, const u32 *lengths, u32 heads, u32 queries, u32 keys, u32 window,  \
     float scale, float cap, u32 rows)
BOTH(softmax, SOFTMAX, (products, p, pasts, lengths, heads, queries, keys, window, scale, cap, rows))

// p as above, and d, the gradient of the products, from dp, that of the probabilities: p (dp - sum p dp), times the
// slope of the score.
template <typename T>
__device__ void softmax_backward(const float *products, const float *dp, T *p, T *d, const u32 *pasts,
                                 const u32 *lengths, u32 heads, u32 queries, u32 keys, u32 window, float scale,
                                 float cap, u32 rows) {
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    u32 i = row % queries, b = row / queries / heads;
    u64 at = (u64)row * keys;
    products += at, dp += at, p += at, d += at;
    Seen own = {0, 0};
    if (i < lengths[b]) own = seen(pasts[b], i, window);
    float most = -INFINITY, sum = 0.0f, dot = 0.0f;
    for (u32 j = own.first + lane; j < own.end; j += 32) most = fmaxf(most, score(products[j], scale, cap));
    most = warp_max(most);
    for (u32 j = own.first + lane; j < own.end; j += 32) {
        float e = expf(score(products[j], scale, cap) - most);
        sum += e, dot += e * dp[j];
    }
    sum = warp_sum(sum), dot = warp_sum(dot) / sum;
    for (u32 j = lane; j < keys; j += 32) {
        float own_p = 0.0f, own_d = 0.0f;
        if (j >= own.first && j < own.end) {
            float s = score(products[j], scale, cap);
            own_p = expf(s - most) / sum;
            float slope = cap > 0.0f ? scale * (1.0f - s / cap * (s / cap)) : scale;
            own_d = own_p * (dp[j] - dot) * slope;
        }
        put(p + j, own_p), put(d + j, own_d);
    }
}
#define SOFTMAX_BACKWARD(T)                                                                                            \
    (const float *products, const float *dp, T *p, T *d, const u32 *pasts, const u32 *lengths, u32 heads,              \
     u32 queries, u32 keys, u32 window, float scale, float cap, u32 rows)
BOTH(softmax_backward, SOFTMAX_BACKWARD,
     (products, dp, p, d, pasts, lengths, heads, queries, keys, window, scale, cap, rows))
