// Rows of the residual stream and of the MLP: norm, rotation, activation, bias, dropout. A backward kernel stands below
// its forward.

// y = x / sqrt(mean(x^2) + eps) * w; a block a row.
template <typename T, u32 N, typename W> __device__ void rms_norm(const T *x, const W *w, T *y, u32 d, float eps) {
    x += (u64)blockIdx.x * d, y += (u64)blockIdx.x * d;
    float squares = 0.0f;
    for (u32 c = threadIdx.x * N; c < d; c += blockDim.x * N) {
        Packet<T, N> own = load<N>(x, c);
        for (u32 i = 0; i < N; i++) squares += wide(own.x[i]) * wide(own.x[i]);
    }
    float inverse = rsqrtf(block_reduce<false>(squares) / d + eps);
    for (u32 c = threadIdx.x * N; c < d; c += blockDim.x * N) {
        Packet<T, N> own = load<N>(x, c);
        Packet<W, N> weight = load<N>(w, c);
        for (u32 i = 0; i < N; i++) put(own.x + i, wide(own.x[i]) * inverse * wide(weight.x[i]));
        store<N>(y, c, own);
    }
}

// With s = 1 / sqrt(mean(x^2) + eps): dx = s g w - x s^3 mean(g w x).
template <typename T, u32 N, typename W>
__device__ void rms_norm_backward(const T *x, const W *w, const T *g, T *dx, u32 d, float eps) {
    u64 at = (u64)blockIdx.x * d;
    x += at, g += at, dx += at;
    float squares = 0.0f, dot = 0.0f;
    for (u32 c = threadIdx.x * N; c < d; c += blockDim.x * N) {
        Packet<T, N> own = load<N>(x, c), grad = load<N>(g, c);
        Packet<W, N> weight = load<N>(w, c);
        for (u32 i = 0; i < N; i++) {
            squares += wide(own.x[i]) * wide(own.x[i]);
            dot += wide(grad.x[i]) * wide(weight.x[i]) * wide(own.x[i]);
        }
    }
    float s = rsqrtf(block_reduce<false>(squares) / d + eps);
    float factor = s * s * s * block_reduce<false>(dot) / d;
    for (u32 c = threadIdx.x * N; c < d; c += blockDim.x * N) {
        Packet<T, N> own = load<N>(x, c), grad = load<N>(g, c);
        Packet<W, N> weight = load<N>(w, c);
        for (u32 i = 0; i < N; i++) put(own.x + i, s * wide(grad.x[i]) * wide(weight.x[i]) - factor * wide(own.x[i]));
        store<N>(dx, c, own);
    }
}

#define NORM(T, TN, W, WN)                                                                                             \
    extern "C" __global__ void rms_norm_##TN##_##WN(const T *x, const W *w, T *y, u32 d, float eps) {                  \
        IN_PACKETS(d, rms_norm, T, x, w, y, d, eps)                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void rms_norm_backward_##TN##_##WN(const T *x, const W *w, const T *g, T *dx, u32 d,         \
                                                             float eps) {                                              \
        IN_PACKETS(d, rms_norm_backward, T, x, w, g, dx, d, eps)                                                       \
    }
NORM(float, f32, float, f32)
NORM(bf16, bf16, bf16, bf16)
NORM(bf16, bf16, float, f32)

// Turns each head by its row's position, or by the opposite angle. A block a row, a thread a pair or an element that
// stays.
template <typename T>
__device__ void rope(const T *x, T *y, const float *cosines, const float *sines, const u32 *positions, u32 heads,
                     u32 width, u32 half, u32 interleaved, float direction) {
    u32 pieces = width - half, row = blockIdx.x;
    u64 angles = (u64)positions[row] * half, at = (u64)row * heads * width;
    for (u32 p = threadIdx.x; p < heads * pieces; p += blockDim.x) {
        u32 head = p / pieces, i = p % pieces;
        u64 start = at + head * width;
        if (i >= half) {
            u32 still = half + i;
            y[start + still] = x[start + still];
            continue;
        }
        float c = cosines[angles + i], s = sines[angles + i] * direction;
        u64 first = start + (interleaved ? 2 * i : i), second = start + (interleaved ? 2 * i + 1 : i + half);
        float a = wide(x[first]), b = wide(x[second]);
        put(y + first, a * c - b * s);
        put(y + second, b * c + a * s);
    }
}
#define ROPE(T)                                                                                                        \
    (const T *x, T *y, const float *cosines, const float *sines, const u32 *positions, u32 heads, u32 width, u32 half, \
     u32 interleaved, float direction)
BOTH(rope, ROPE, (x, y, cosines, sines, positions, heads, width, half, interleaved, direction))

// Value and derivative of the gate's activation: SiLU (0), or GELU in its tanh form (1).
__device__ __forceinline__ void activation(u32 kind, float x, float *value, float *slope) {
    if (kind == 0) {
        float s = 1.0f / (1.0f + expf(-x));
        *value = x * s;
        *slope = s * (1.0f + x * (1.0f - s));
    } else {
        const float k = 0.7978845608028654f, c = 0.044715f;
        float t = tanhf(k * x * (1.0f + c * x * x));
        *value = 0.5f * x * (1.0f + t);
        *slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * c * x * x);
    }
}

// y = activation(gate) * up; without a gate (2), relu(up)^2. A thread a packet; n is a whole number of them.
template <typename T, u32 N> __device__ void gated_packets(u32 kind, const T *gate, const T *up, T *y, u64 n) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (at >= n) return;
    Packet<T, N> u = load<N>(up, at), g = kind == 2 ? u : load<N>(gate, at);
    for (u32 i = 0; i < N; i++) {
        float value = fmaxf(wide(u.x[i]), 0.0f), slope;
        if (kind != 2) activation(kind, wide(g.x[i]), &value, &slope);
        put(g.x + i, value * (kind == 2 ? value : wide(u.x[i])));
    }
    store<N>(y, at, g);
}
template <typename T> __device__ void gated(u32 kind, const T *gate, const T *up, T *y, u64 n) {
    IN_PACKETS(n, gated_packets, T, kind, gate, up, y, n)
}
#define GATED(T) (u32 kind, const T *gate, const T *up, T *y, u64 n)
BOTH(gated, GATED, (kind, gate, up, y, n))

template <typename T, u32 N>
__device__ void gated_backward_packets(u32 kind, const T *gate, const T *up, const T *g, T *dgate, T *dup, u64 n) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (at >= n) return;
    Packet<T, N> u = load<N>(up, at), d = load<N>(g, at), own = kind == 2 ? u : load<N>(gate, at), by_gate;
    for (u32 i = 0; i < N; i++) {
        float value = 2.0f * fmaxf(wide(u.x[i]), 0.0f), slope;
        if (kind != 2) {
            activation(kind, wide(own.x[i]), &value, &slope);
            put(by_gate.x + i, slope * wide(u.x[i]) * wide(d.x[i]));
        }
        put(u.x + i, value * wide(d.x[i]));
    }
    if (kind != 2) store<N>(dgate, at, by_gate);
    store<N>(dup, at, u);
}
template <typename T>
__device__ void gated_backward(u32 kind, const T *gate, const T *up, const T *g, T *dgate, T *dup, u64 n) {
    IN_PACKETS(n, gated_backward_packets, T, kind, gate, up, g, dgate, dup, n)
}
#define GATED_BACKWARD(T) (u32 kind, const T *gate, const T *up, const T *g, T *dgate, T *dup, u64 n)
BOTH(gated_backward, GATED_BACKWARD, (kind, gate, up, g, dgate, dup, n))

// Every row of y becomes the bias.
template <typename T> __device__ void fill_rows(T *y, const T *bias, u32 width, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = bias[i % width];
}
#define FILL_ROWS(T) (T *y, const T *bias, u32 width, u64 n)
BOTH(fill_rows, FILL_ROWS, (y, bias, width, n))

__device__ __forceinline__ void quarter(u32 *a, u32 *b, u32 *c, u32 *d) {
    *a += *b, *d ^= *a, *d = __funnelshift_l(*d, *d, 16);
    *c += *d, *b ^= *c, *b = __funnelshift_l(*b, *b, 12);
    *a += *b, *d ^= *a, *d = __funnelshift_l(*d, *d, 8);
    *c += *d, *b ^= *c, *b = __funnelshift_l(*b, *b, 7);
}

// y = x times the factor of each element: 0, or keep. The bits are those of the CPU's mask: ChaCha8 under a key, a
// stream a row, 16 bits an element. A thread a block of 16 words, which are 32 elements.
template <typename T>
__device__ void dropout(const T *x, T *y, const u32 *key, u32 rows, u32 width, u32 threshold, float keep) {
    u32 blocks = (width + 31) / 32;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * blocks) return;
    u32 row = at / blocks, block = at % blocks;
    u32 start[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, key[0], key[1], key[2], key[3],
                     key[4],      key[5],      key[6],      key[7],      block,  0,      row,    0};
    u32 v[16];
    for (int i = 0; i < 16; i++) v[i] = start[i];
    for (int round = 0; round < 4; round++) {
        quarter(v, v + 4, v + 8, v + 12), quarter(v + 1, v + 5, v + 9, v + 13);
        quarter(v + 2, v + 6, v + 10, v + 14), quarter(v + 3, v + 7, v + 11, v + 15);
        quarter(v, v + 5, v + 10, v + 15), quarter(v + 1, v + 6, v + 11, v + 12);
        quarter(v + 2, v + 7, v + 8, v + 13), quarter(v + 3, v + 4, v + 9, v + 14);
    }
    for (int i = 0; i < 32; i++) {
        u32 column = block * 32 + i;
        if (column >= width) return;
        u32 word = v[i / 2] + start[i / 2], bits = i % 2 ? word >> 16 : word & 0xffffu;
        u64 place = (u64)row * width + column;
        put(y + place, bits < threshold ? 0.0f : wide(x[place]) * keep);
    }
}
#define DROPOUT(T) (const T *x, T *y, const u32 *key, u32 rows, u32 width, u32 threshold, float keep)
BOTH(dropout, DROPOUT, (x, y, key, rows, width, threshold, keep))
