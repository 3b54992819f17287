    constexpr int N_LOADS = WIDTH / SIZE<T>;
    auto place = thread_rank();
    auto row = place / N_LOADS;
    if (row >= n_first) {
      return;
    }
    float normalizer = normalizers[row];
    float towards = cotangent[row];
    int target = targets[row] < 0 ? targets[row] + WIDTH : targets[row];
    target -= static_cast<int>(place % N_LOADS) * SIZE<T>;
    auto values = reinterpret_cast<const Load<T>*>(logits)[place];
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float share = __expf(static_cast<float>(values.items[item]) - normalizer);
      values.items[item] = static_cast<T>((item == target ? share - 1.0f : share) * towards);
    }
    reinterpret_cast<Load<T>*>(out)[place] = values;
