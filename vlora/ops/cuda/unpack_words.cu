    auto word = thread_rank();
    if (word >= n_first) {
      return;
    }
    constexpr int PER_WORD = 32 / BITS;
    auto bits = weight[word];
    auto group = word / (GROUP / PER_WORD);
    float scale = static_cast<float>(scales[group]);
    float bias = static_cast<float>(biases[group]);
    Pack<T, PER_WORD> values;
    for (int item = 0; item < PER_WORD; ++item) {
      float code = static_cast<float>((bits >> (item * BITS)) & ((1u << BITS) - 1));
      values.items[item] = static_cast<T>(code * scale + bias);
    }
    reinterpret_cast<Pack<T, PER_WORD>*>(out)[word] = values;
