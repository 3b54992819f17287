    constexpr int N_LOADS = HALF / SIZE<T>;
    // No template number is negative: where MLX compiles, it is a part of the kernel's name.
    constexpr float SIGN = IS_BACK ? -1.0f : 1.0f;
    auto place = thread_rank();
    auto head = place / N_LOADS;
    if (head >= n_first) {
      return;
    }
    auto load = place % N_LOADS;
    auto left = head * 2 * N_LOADS + load;
    auto angle = head / HEADS * 2 * N_LOADS + load;
    Load<T> halves[2] = {
        reinterpret_cast<const Load<T>*>(x)[left], reinterpret_cast<const Load<T>*>(x)[left + N_LOADS]};
    Load<T> turned[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto straight = reinterpret_cast<const Load<T>*>(cosines)[angle + half * N_LOADS];
      auto across = reinterpret_cast<const Load<T>*>(sines)[angle + half * N_LOADS];
#pragma unroll
      for (int item = 0; item < SIZE<T>; ++item) {
        float own = static_cast<float>(halves[half].items[item]) * static_cast<float>(straight.items[item]);
        float other = static_cast<float>(halves[1 - half].items[item]) * (SIGN * static_cast<float>(across.items[item]));
        // Rounded before they are added and after it, as MLX's own operations do.
        turned[half].items[item] =
            static_cast<T>(static_cast<float>(static_cast<T>(own)) + static_cast<float>(static_cast<T>(other)));
      }
    }
    reinterpret_cast<Load<T>*>(out)[left] = turned[0];
    reinterpret_cast<Load<T>*>(out)[left + N_LOADS] = turned[1];
