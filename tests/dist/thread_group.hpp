// SPDX-License-Identifier: Apache-2.0
// Ranks as threads of one process, for tests of what they do together: run_ranks(2, [](const kto::World& world) {...}).
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "kto/dist/world.hpp"

namespace kto::test {

/// Where the threads meet.
class Meeting {
 public:
  explicit Meeting(int size) : tensors(static_cast<std::size_t>(size)), size_(size) {}
  /// Returns when all have come; throws RankError once one has left for good.
  void wait() {
    std::unique_lock lock(mutex_);
    const std::int64_t round = round_;
    if (++num_here_ == size_) {
      num_here_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ != round || has_left_; });
    if (round_ == round) throw RankError("another rank has ended");
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    has_left_ = true;
    changed_.notify_all();
  }
  std::vector<Tensor> tensors;  ///< one of each rank, while they meet

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int size_, num_here_ = 0;
  std::int64_t round_ = 0;
  bool has_left_ = false;
};

class ThreadGroup final : public Group {
 public:
  ThreadGroup(int rank, std::shared_ptr<Meeting> meeting)
      : rank_(static_cast<std::size_t>(rank)), meeting_(std::move(meeting)) {}

  Pending all_reduce(const Tensor& tensor, Reduction reduction) override {
    return meet(
        tensor,
        [&](const std::vector<Tensor>& all) {
          Tensor out = all[0].clone();
          for (std::size_t i = 1; i < all.size(); ++i)
            out = reduction == Reduction::sum   ? out + all[i]
                  : reduction == Reduction::max ? out.maximum(all[i])
                                                : out.minimum(all[i]);
          return out;
        },
        tensor);
  }
  Pending all_gather(const Tensor& out, const Tensor& in) override {
    return meet(
        in.clone(),
        [](const std::vector<Tensor>& all) {
          std::vector<Tensor> flat;
          for (const Tensor& each : all) flat.push_back(each.reshape(-1));
          return at::cat(flat);
        },
        out);
  }
  Pending reduce_scatter(const Tensor& out, const Tensor& in) override {
    return meet(
        in.clone(),
        [&](const std::vector<Tensor>& all) {
          Tensor sum = all[0].reshape(-1).clone();
          for (std::size_t i = 1; i < all.size(); ++i) sum += all[i].reshape(-1);
          return sum.narrow(0, static_cast<std::int64_t>(rank_) * out.numel(), out.numel()).clone();
        },
        out);
  }
  Pending broadcast(const Tensor& tensor, int root) override {
    return meet(
        tensor, [&](const std::vector<Tensor>& all) { return all[static_cast<std::size_t>(root)].clone(); }, tensor);
  }
  Pending reduce(const Tensor& tensor, int root) override {
    return meet(
        tensor,
        [&](const std::vector<Tensor>& all) {
          if (rank_ != static_cast<std::size_t>(root)) return Tensor(at::zeros_like(tensor).fill_(99));
          Tensor sum = all[0].clone();
          for (std::size_t i = 1; i < all.size(); ++i) sum += all[i];
          return sum;
        },
        tensor);
  }
  void fail(const std::string&, bool) noexcept override { meeting_->leave(); }

 private:
  template <class Combine>
  Pending meet(const Tensor& own, const Combine& combine, const Tensor& out) {
    const NoGrad none;
    meeting_->tensors[rank_] = own;
    meeting_->wait();
    const Tensor result = combine(meeting_->tensors);
    meeting_->wait();
    out.view(-1).copy_(result.reshape(-1));
    meeting_->wait();
    return {};
  }
  using NoGrad = at::NoGradGuard;

  std::size_t rank_;
  std::shared_ptr<Meeting> meeting_;
};

/// Runs `body(world)` on `size` ranks. Returns what each threw.
inline std::vector<std::exception_ptr> run_ranks(int size, const std::function<void(const World&)>& body) {
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        body({.rank = rank,
              .size = size,
              .local_rank = rank,
              .local_size = size,
              .group = std::make_shared<ThreadGroup>(rank, meeting)});
      } catch (...) {
        thrown[static_cast<std::size_t>(rank)] = std::current_exception();
        meeting->leave();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

}  // namespace kto::test
