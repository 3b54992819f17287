    auto place = thread_rank();
    if (place >= n_first / SIZE<T>) {
      return;
    }
    auto gates = reinterpret_cast<const Load<T>*>(gate)[place];
    auto ups = reinterpret_cast<const Load<T>*>(up)[place];
    auto towards = reinterpret_cast<const Load<T>*>(cotangent)[place];
#pragma unroll
    for (int item = 0; item < SIZE<T>; ++item) {
      float value = static_cast<float>(gates.items[item]);
      float sigmoid = 1.0f / (1.0f + __expf(-value));
      float towards_up = static_cast<float>(towards.items[item]) * sigmoid;
      float bend = 1.0f + value * (1.0f - sigmoid);
      gates.items[item] = static_cast<T>(towards_up * static_cast<float>(ups.items[item]) * bend);
      ups.items[item] = static_cast<T>(towards_up * value);
    }
    reinterpret_cast<Load<T>*>(of_gate)[place] = gates;
    reinterpret_cast<Load<T>*>(of_up)[place] = ups;
