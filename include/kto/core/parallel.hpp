// SPDX-License-Identifier: Apache-2.0
// Loops on LibTorch's threads. at::parallel_for is inlined: a program compiled without OpenMP gets a plain loop, and
// one with OpenMP may get a second pool of threads. TensorIterator's loop is compiled into LibTorch and always uses
// LibTorch's pool, so the loops here run as a TensorIterator over a dummy tensor.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kto/core/torch.hpp"

namespace kto {

/// Calls body(worker) for each worker in [0, workers), each on a thread of its own if LibTorch has that many; one after
/// the other inside a parallel region. Exceptions reach the caller.
template <class Body>
void in_threads(std::int64_t workers, const Body& body) {
  if (workers <= 1) {
    if (workers == 1) body(std::int64_t{0});
    return;
  }
  Tensor places = at::empty({workers}, at::kByte);  // never written: an element's address gives the worker
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

/// Calls body(begin, end) on all threads, over equal pieces of [0, size) of at least `grain`.
template <class Body>
void parallel_ranges(std::int64_t size, std::int64_t grain, const Body& body) {
  const std::int64_t most = (size + grain - 1) / std::max<std::int64_t>(grain, 1);
  const std::int64_t workers = std::min<std::int64_t>(at::get_num_threads(), most);
  in_threads(workers, [&](std::int64_t worker) { body(size * worker / workers, size * (worker + 1) / workers); });
}

/// Calls body(task) for each task in [0, tasks), on all threads; a thread that finishes a task takes the next one.
template <class Body>
void parallel_tasks(std::int64_t tasks, const Body& body) {
  std::atomic<std::int64_t> next = 0;
  in_threads(std::min<std::int64_t>(at::get_num_threads(), tasks), [&](std::int64_t) {
    for (std::int64_t task = next++; task < tasks; task = next++) body(task);
  });
}

}  // namespace kto
