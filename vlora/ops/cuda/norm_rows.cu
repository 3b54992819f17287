    Load<T> values[LOADS];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      values[load] = reinterpret_cast<const Load<T>*>(x)[start + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]);
        sums.x += value * value;
      }
    }
    float factor = rsqrtf(sums_of_lanes<LANES>(sums).x / (LOADS * LANES * SIZE<T>) + EPS);
    if (!is_row) {
      return;
    }
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]) * factor;
        // Rounded before the weight and after it, as MLX's own kernel does.
        value = static_cast<float>(static_cast<T>(value)) * static_cast<float>(weights.items[item]);
        values[load].items[item] = static_cast<T>(value);
      }
      reinterpret_cast<Load<T>*>(out)[start + load * LANES] = values[load];
    }
