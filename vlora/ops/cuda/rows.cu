    auto thread = thread_rank();
    auto row = thread / LANES;
    bool is_row = row < n_first;
    int lane = thread % LANES;
    auto start = (is_row ? row : 0) * LOADS * LANES + lane;
