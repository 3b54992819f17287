    auto thread = thread_rank();
    auto row = thread / LANES;
    auto place = row / HEADS;
    auto head = row % HEADS;
    int lane = thread % LANES;
    // Who has the other half of the same pairs.
    int partner = lane ^ (LANES / 2);
    bool is_row = place < n_first;
