    constexpr int N_LOADS = WIDTH / SIZE<T>;
    auto row = static_cast<size_t>(blockIdx.x);
    auto from = reinterpret_cast<const Load<T>*>(logits) + row * N_LOADS;
    // Not minus infinity: the difference of two of them is not a number.
    float top = -3e38f;
    float total = 0;
    for (int load = threadIdx.x; load < N_LOADS; load += LANES) {
      auto values = from[load];
      float above = top;
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        above = fmaxf(above, static_cast<float>(values.items[item]));
      }
      total *= __expf(top - above);
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        total += __expf(static_cast<float>(values.items[item]) - above);
      }
      top = above;
    }
    __shared__ float tops[LANES / 32];
    __shared__ float totals[LANES / 32];
    int lane = threadIdx.x % 32;
    for (int round = 0; round < 2; ++round) {
      for (int distance = 16; distance > 0; distance /= 2) {
        float other_top = __shfl_xor_sync(0xffffffffu, top, distance);
        float other_total = __shfl_xor_sync(0xffffffffu, total, distance);
        float above = fmaxf(top, other_top);
        total = total * __expf(top - above) + other_total * __expf(other_top - above);
        top = above;
      }
      if (round == 0) {
        if (lane == 0) {
          tops[threadIdx.x / 32] = top;
          totals[threadIdx.x / 32] = total;
        }
        __syncthreads();
        top = lane < LANES / 32 ? tops[lane] : -3e38f;
        total = lane < LANES / 32 ? totals[lane] : 0.0f;
      }
    }
    if (threadIdx.x == 0) {
      float normalizer = top + logf(total);
      normalizers[row] = normalizer;
      // Negative ones count from the end, as in MLX: what does not count may have any target.
      int target = targets[row] < 0 ? targets[row] + WIDTH : targets[row];
      losses[row] = normalizer - static_cast<float>(logits[row * WIDTH + target]);
    }
