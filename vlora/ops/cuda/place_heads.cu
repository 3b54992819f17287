    int from = is_row ? rows[place] : -1;
    auto token = static_cast<size_t>(from < 0 ? 0 : from);
    auto start = (token * HEADS + head) * LANES;
    auto values = reinterpret_cast<const Load<T>*>(x)[start + lane];
    auto others = reinterpret_cast<const Load<T>*>(x)[start + partner];
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float value = static_cast<float>(values.items[item]);
      sums.x += value * value;
    }
    float factor = rsqrtf(sums_of_lanes<LANES>(sums).x / (LANES * SIZE<T>) + EPS);
    if (!is_row) {
      return;
    }
    auto weights = reinterpret_cast<const Load<T>*>(weight)[lane];
    auto other_weights = reinterpret_cast<const Load<T>*>(weight)[partner];
    auto straight = reinterpret_cast<const Load<T>*>(cosines)[token * LANES + lane];
    auto across = reinterpret_cast<const Load<T>*>(sines)[token * LANES + lane];
    Load<T> turned{};
    if (from >= 0) {
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        // Rounded as the single steps round.
        float own = static_cast<float>(static_cast<T>(static_cast<float>(values.items[item]) * factor));
        float other = static_cast<float>(static_cast<T>(static_cast<float>(others.items[item]) * factor));
        own = static_cast<float>(static_cast<T>(own * static_cast<float>(weights.items[item])));
        other = static_cast<float>(static_cast<T>(other * static_cast<float>(other_weights.items[item])));
        own *= static_cast<float>(straight.items[item]);
        other *= static_cast<float>(across.items[item]);
        own = static_cast<float>(static_cast<T>(own)) + static_cast<float>(static_cast<T>(other));
        turned.items[item] = static_cast<T>(own);
      }
    }
    reinterpret_cast<Load<T>*>(out)[row * LANES + lane] = turned;
