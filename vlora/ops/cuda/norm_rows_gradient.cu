    Load<T> values[LOADS];
    Load<T> towards[LOADS];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      values[load] = reinterpret_cast<const Load<T>*>(x)[start + load * LANES];
      towards[load] = reinterpret_cast<const Load<T>*>(cotangent)[start + load * LANES];
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float value = static_cast<float>(values[load].items[item]);
        sums.x += value * value;
        sums.y += value * static_cast<float>(weights.items[item]) * static_cast<float>(towards[load].items[item]);
      }
    }
    constexpr int WIDTH = LOADS * LANES * SIZE<T>;
    sums = sums_of_lanes<LANES>(sums);
    float factor = rsqrtf(sums.x / WIDTH + EPS);
    float along = sums.y / WIDTH * factor * factor * factor;
    if (!is_row) {
      return;
    }
#pragma unroll
    for (int load = 0; load < LOADS; ++load) {
      auto weights = reinterpret_cast<const Load<T>*>(weight)[lane + load * LANES];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float scaled = static_cast<float>(weights.items[item]) * static_cast<float>(towards[load].items[item]);
        float value = static_cast<float>(values[load].items[item]);
        values[load].items[item] = static_cast<T>(factor * scaled - value * along);
      }
      reinterpret_cast<Load<T>*>(out)[start + load * LANES] = values[load];
    }
