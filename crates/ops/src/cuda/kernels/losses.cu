// Losses of rows of logits, each with its gradient by the logits, and the optimiser's step. A block a row.

// A logit, capped; a cap of 0 is none.
__device__ __forceinline__ float logit(float z, float cap) { return cap > 0.0f ? cap * tanhf(z / cap) : z; }
__device__ __forceinline__ float logit_slope(float capped, float cap) {
    return cap > 0.0f ? 1.0f - capped / cap * (capped / cap) : 1.0f;
}

// Largest logit of a row, and the logarithm of the sum of exponentials.
__device__ float log_sum(const float *z, u32 v, float cap) {
    float most = -INFINITY, sum = 0.0f;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float own = logit(z[i], cap);
        if (own > most) sum *= expf(most - own), most = own;
        sum += expf(own - most);
    }
    float all = block_reduce<true>(most);
    sum = block_reduce<false>(most == -INFINITY ? 0.0f : sum * expf(most - all));
    return all + logf(sum);
}

// losses[row] = -log softmax(z)[target]; dz, where it is wanted, is softmax(z) less one at the target.
template <typename T>
__device__ void cross_entropy(const float *z, const u32 *targets, float *losses, T *dz, u32 v, float cap, u32 want) {
    u32 row = blockIdx.x, target = targets[row];
    z += (u64)row * v, dz += (u64)row * v;
    float normaliser = log_sum(z, v, cap);
    if (threadIdx.x == 0) losses[row] = normaliser - logit(z[target], cap);
    if (!want) return;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float own = logit(z[i], cap);
        put(dz + i, (expf(own - normaliser) - (i == target ? 1.0f : 0.0f)) * logit_slope(own, cap));
    }
}
#define CROSS_ENTROPY(T) (const float *z, const u32 *targets, float *losses, T *dz, u32 v, float cap, u32 want)
BOTH(cross_entropy, CROSS_ENTROPY, (z, targets, losses, dz, v, cap, want))

// p - q, where the logarithm of their ratio is `gap`, from q where they are near each other, from p where p is larger by
// far: q can be 0 and the ratio infinite there.
__device__ __forceinline__ float excess(float p, float q, float gap) { return gap < 1.0f ? q * expm1f(gap) : p - q; }

// losses[row] = KL(softmax(r) || softmax(z)); dz, where it is wanted, is softmax(z) - softmax(r).
template <typename T>
__device__ void divergence(const float *z, const float *r, float *losses, T *dz, u32 v, float cap, u32 want) {
    u32 row = blockIdx.x;
    z += (u64)row * v, r += (u64)row * v, dz += (u64)row * v;
    // What is added to all logits of a row changes nothing, and can be more than the exponential of an f32 has room for.
    float ours = log_sum(z, v, cap), theirs = log_sum(r, v, cap), shift = ours - theirs, mean = 0.0f, grown = 0.0f;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float other = logit(r[i], cap), own = logit(z[i], cap), q = expf(other - theirs), gap = own - other - shift;
        mean += q * gap;
        grown += excess(expf(own - ours), q, gap);
    }
    // E[r - l] + ln E[exp(l - r)]: small differences are taken before anything large is summed.
    mean = block_reduce<false>(mean), grown = log1pf(block_reduce<false>(grown));
    if (threadIdx.x == 0) losses[row] = grown - mean;
    if (!want) return;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) {
        float other = logit(r[i], cap), own = logit(z[i], cap), q = expf(other - theirs), gap = own - other - shift;
        put(dz + i, excess(expf(own - ours - grown), q, gap - grown) * logit_slope(own, cap));
    }
}
#define DIVERGENCE(T) (const float *z, const float *r, float *losses, T *dz, u32 v, float cap, u32 want)
BOTH(divergence, DIVERGENCE, (z, r, losses, dz, v, cap, want))

// found[row] = the place of the row's largest logit: of equals the first, and what is no number is never the largest.
extern "C" __global__ void argmax_rows(const float *z, u32 *found, u32 v) {
    __shared__ float mosts[32];
    __shared__ u32 places[32];
    z += (u64)blockIdx.x * v;
    float most = -INFINITY;
    u32 place = v;
    for (u32 i = threadIdx.x; i < v; i += blockDim.x)
        if (z[i] > most) most = z[i], place = i;
    u32 warps = blockDim.x / 32, lane = threadIdx.x % 32;
    for (u32 round = 0; round < 2; round++) {
        for (u32 step = 16; step > 0; step >>= 1) {
            float other = __shfl_xor_sync(0xffffffffu, most, step);
            u32 at = __shfl_xor_sync(0xffffffffu, place, step);
            if (other > most || (other == most && at < place)) most = other, place = at;
        }
        if (round == 1) break;
        if (lane == 0) mosts[threadIdx.x / 32] = most, places[threadIdx.x / 32] = place;
        __syncthreads();
        if (threadIdx.x >= 32) return;
        most = lane < warps ? mosts[lane] : -INFINITY, place = lane < warps ? places[lane] : v;
    }
    if (threadIdx.x == 0) found[blockIdx.x] = place == v ? 0 : place;
}

// y = x times the factor of each row.
template <typename T> __device__ void scale_rows(const T *x, const float *factors, T *y, u32 width, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) put(y + i, wide(x[i]) * factors[i / width]);
}
#define SCALE_ROWS(T) (const T *x, const float *factors, T *y, u32 width, u64 n)
BOTH(scale_rows, SCALE_ROWS, (x, factors, y, width, n))

// parts[block] = the sum of squares of the block's share of g.
extern "C" __global__ void sum_squares(const float *g, float *parts, u64 n) {
    float sum = 0.0f;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) sum += g[i] * g[i];
    sum = block_reduce<false>(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// AdamW (Loshchilov and Hutter 2019), in PyTorch's order of operations: theta <- theta keep - size m / (sqrt(v) /
// correction + eps).
extern "C" __global__ void adamw(float *theta, float *m, float *v, const float *g, u64 n, float size, float correction,
                                 float keep, float less_b1, float b2, float less_b2, float eps) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float own = g[i], first = m[i] + (own - m[i]) * less_b1, second = v[i] * b2 + own * own * less_b2;
    m[i] = first, v[i] = second;
    theta[i] = theta[i] * keep - size * first / (sqrtf(second) / correction + eps);
}
