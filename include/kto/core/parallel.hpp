// SPDX-License-Identifier: Apache-2.0
// Work shared out to LibTorch's threads. at::parallel_for is a plain loop in a program compiled without OpenMP, and
// with OpenMP a program may bring a second pool of threads; TensorIterator's loop is compiled in LibTorch and runs on
// its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kto/core/torch.hpp"

namespace kto {

/// body(worker) for each worker of [0, workers), each in a thread of LibTorch's where there are that many; one after
/// the other inside a parallel region. What a body throws reaches the caller.
template <class Body>
void in_threads(std::int64_t workers, const Body& body) {
  if (workers <= 1) {
    if (workers == 1) body(std::int64_t{0});
    return;
  }
  Tensor places = at::empty({workers}, at::kByte);  // never written: an address says whose turn it is
  const char* first = static_cast<const char*>(places.mutable_data_ptr());
  at::TensorIterator iterator = at::TensorIteratorConfig()
                                    .check_all_same_dtype(false)
                                    .resize_outputs(false)
                                    .declare_static_shape(places.sizes())
                                    .add_output(places)
                                    .build();
  iterator.for_each(
      [&](char** data, const std::int64_t*, std::int64_t size, std::int64_t) {
        for (std::int64_t i = 0; i < size; ++i) body(data[0] - first + i);
      },
      /*grain_size=*/1);
}

/// body(begin, end) over [0, size) in all threads, in equal pieces of at least `grain`.
template <class Body>
void parallel_ranges(std::int64_t size, std::int64_t grain, const Body& body) {
  const std::int64_t most = (size + grain - 1) / std::max<std::int64_t>(grain, 1);
  const std::int64_t workers = std::min<std::int64_t>(at::get_num_threads(), most);
  in_threads(workers, [&](std::int64_t worker) { body(size * worker / workers, size * (worker + 1) / workers); });
}

/// body(task) for each task of [0, tasks) in all threads, each taking the next task when it is done with one.
template <class Body>
void parallel_tasks(std::int64_t tasks, const Body& body) {
  std::atomic<std::int64_t> next = 0;
  in_threads(std::min<std::int64_t>(at::get_num_threads(), tasks), [&](std::int64_t) {
    for (std::int64_t task = next++; task < tasks; task = next++) body(task);
  });
}

}  // namespace kto
