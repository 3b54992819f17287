    int at = is_row ? back[place] : -1;
    auto token = static_cast<size_t>(is_row ? place : 0);
    auto start = (token * HEADS + head) * LANES + lane;
    auto values = reinterpret_cast<const Load<T>*>(x)[start];
    Load<T> towards{};
    Load<T> others{};
    if (at >= 0) {
      auto from = (static_cast<size_t>(at) * HEADS + head) * LANES;
      towards = reinterpret_cast<const Load<T>*>(cotangent)[from + lane];
      others = reinterpret_cast<const Load<T>*>(cotangent)[from + partner];
    }
    auto straight = reinterpret_cast<const Load<T>*>(cosines)[token * LANES + lane];
    auto across = reinterpret_cast<const Load<T>*>(sines)[token * LANES + lane];
    auto weights = reinterpret_cast<const Load<T>*>(weight)[lane];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float own = static_cast<float>(towards.items[item]) * static_cast<float>(straight.items[item]);
      float other = -static_cast<float>(others.items[item]) * static_cast<float>(across.items[item]);
      // Rounded as the single steps round.
      own = static_cast<float>(static_cast<T>(own)) + static_cast<float>(static_cast<T>(other));
      towards.items[item] = static_cast<T>(own);
      float value = static_cast<float>(values.items[item]);
      sums.x += value * value;
      sums.y += value * static_cast<float>(weights.items[item]) * static_cast<float>(towards.items[item]);
    }
    constexpr int WIDTH = LANES * SIZE<T>;
    sums = sums_of_lanes<LANES>(sums);
    float factor = rsqrtf(sums.x / WIDTH + EPS);
    float along = sums.y / WIDTH * factor * factor * factor;
    if (!is_row) {
      return;
    }
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float scaled = static_cast<float>(weights.items[item]) * static_cast<float>(towards.items[item]);
      float value = static_cast<float>(values.items[item]);
      values.items[item] = static_cast<T>(factor * scaled - value * along);
    }
    reinterpret_cast<Load<T>*>(out)[start] = values;
