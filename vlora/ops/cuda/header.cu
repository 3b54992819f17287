namespace {

__device__ size_t thread_rank() {
  return static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Numbers that are read or written at once, as far as they are 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T items[N];
};

template <typename T>
constexpr int SIZE = 16 / sizeof(T);

template <typename T>
using Load = Pack<T, SIZE<T>>;

// Adds up what the threads of a row have; all threads of the block take part.
template <int LANES>
__device__ float2 sums_of_lanes(float2 values) {
  for (int distance = (LANES < 32 ? LANES : 32) / 2; distance > 0; distance /= 2) {
    values.x += __shfl_xor_sync(0xffffffffu, values.x, distance);
    values.y += __shfl_xor_sync(0xffffffffu, values.y, distance);
  }
  if constexpr (LANES > 32) {
    __shared__ float2 of_warps[LANES / 32];
    if (threadIdx.x % 32 == 0) {
      of_warps[threadIdx.x / 32] = values;
    }
    __syncthreads();
    values = {0.0f, 0.0f};
#pragma unroll
    for (int warp = 0; warp < LANES / 32; ++warp) {
      values.x += of_warps[warp].x;
      values.y += of_warps[warp].y;
    }
  }
  return values;
}

} // namespace
