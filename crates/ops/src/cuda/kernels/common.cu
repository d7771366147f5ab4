// What all kernels share: the two element types, reductions of a warp and of a block. No header is included, so that
// the text compiles wherever NVRTC is. Sums are in f32; every sum has a fixed order, so a kernel gives the same bits
// each time.

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ void put(float *to, float x) { *to = x; }
// Rounds to the nearest, ties to even; what is no number stays none.
__device__ __forceinline__ void put(bf16 *to, float x) {
    u32 bits = __float_as_uint(x);
    to->bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Elements that are read and written together: 16 bytes of them, or one where rows are not whole packets.
template <typename T, u32 N> struct alignas(N * sizeof(T)) Packet {
    T x[N];
};
template <u32 N, typename T> __device__ __forceinline__ Packet<T, N> load(const T *x, u64 at) {
    return *(const Packet<T, N> *)(x + at);
}
template <u32 N, typename T> __device__ __forceinline__ void store(T *x, u64 at, const Packet<T, N> &packet) {
    *(Packet<T, N> *)(x + at) = packet;
}

// Runs F<T, N>(..) with the widest packet that rows of WIDTH are whole numbers of.
#define IN_PACKETS(WIDTH, F, T, ...)                                                                                   \
    if ((WIDTH) % (16 / sizeof(T)) == 0)                                                                               \
        F<T, 16 / sizeof(T)>(__VA_ARGS__);                                                                             \
    else                                                                                                               \
        F<T, 1>(__VA_ARGS__);

// Of every thread of the warp, the same result in each.
__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Of every thread of the block, whose size is a multiple of 32, the same result in each.
template <bool MAX> __device__ float block_reduce(float x) {
    __shared__ float parts[32];
    __shared__ float total;
    x = MAX ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) {
        float own = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : (MAX ? -INFINITY : 0.0f);
        own = MAX ? warp_max(own) : warp_sum(own);
        if (threadIdx.x == 0) total = own;
    }
    __syncthreads();
    return total;
}

// Defines a kernel for each element type: NAME_f32 and NAME_bf16.
#define BOTH(NAME, PARAMETERS, ARGUMENTS)                                                                              \
    extern "C" __global__ void NAME##_f32 PARAMETERS(float) { NAME<float> ARGUMENTS; }                                 \
    extern "C" __global__ void NAME##_bf16 PARAMETERS(bf16) { NAME<bf16> ARGUMENTS; }
