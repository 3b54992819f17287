    constexpr int N_LOADS = WIDTH / SIZE<T>;
    auto place = thread_rank();
    auto row = place / N_LOADS;
    if (row >= n_first) {
      return;
    }
    int from = rows[row];
    Load<T> values{};
    if (from >= 0) {
      values = reinterpret_cast<const Load<T>*>(x)[static_cast<size_t>(from) * N_LOADS + place % N_LOADS];
    }
    reinterpret_cast<Load<T>*>(out)[place] = values;
