// SPDX-License-Identifier: Apache-2.0
// The gradients of several ranks become their sum: bucket by bucket, each on its way as soon as the backward pass has
// made the last gradient in it, while the pass goes on with the layers before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kto/dist/world.hpp"
#include "kto/optim/flat_parameters.hpp"

namespace kto {

/// Sums the gradients of `parameters` over the ranks of a World that is not alone. For each update: listen() before its
/// last backward pass, finish() after it. A rank without that pass, or without any, only calls finish().
class GradientSum {
 public:
  static constexpr std::int64_t bucket_bytes = 25 << 20;

  GradientSum(World world, const FlatParameters& parameters) : world_(std::move(world)) {
    for (const FlatGroup& group : parameters.groups)
      for (auto slice = group.slices.rbegin(); slice != group.slices.rend(); ++slice) {  // as the backward pass goes
        const std::int64_t size = group.values.element_size();
        const bool fits = !buckets_.empty() && buckets_.back().options.dtype() == group.values.dtype() &&
                          buckets_.back().options.device() == group.values.device() &&
                          (buckets_.back().numel + slice->numel) * size <= bucket_bytes;
        if (!fits) buckets_.emplace_back(Bucket{.options = group.values.options()});
        add(buckets_.back(), *slice);
      }
  }
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;
  ~GradientSum() {
    for (Bucket& bucket : buckets_)
      for (Place& place : bucket.places) place.accumulator->del_post_hook(place.hook);
  }

  /// The next backward pass is the update's last one.
  void listen() {
    const std::lock_guard lock(mutex_);
    listens_ = true;
    for (Bucket& bucket : buckets_) {
      for (Place& place : bucket.places) place.num_parts = 0;
      bucket.num_missing = std::ssize(bucket.places);
    }
  }

  /// Every gradient becomes the sum of the ranks' gradients; it stays undefined where no rank has one.
  void finish() {
    const at::NoGradGuard no_grad;
    const std::lock_guard lock(mutex_);
    while (num_sent_ < buckets_.size()) send(buckets_[num_sent_++]);
    for (Bucket& bucket : buckets_) bucket.pending.wait();
    std::vector<Tensor> sums;
    for (Bucket& bucket : buckets_) sums.push_back(std::exchange(bucket.values_n, {}));
    if (world_.any(has_gradients())) {  // parts that came after the bucket was sent
      for (Bucket& bucket : buckets_) send(bucket);
      for (std::size_t i = 0; i < buckets_.size(); ++i) {
        buckets_[i].pending.wait();
        sums[i].add_(std::exchange(buckets_[i].values_n, {}));
      }
    }
    for (std::size_t i = 0; i < buckets_.size(); ++i) take(buckets_[i], sums[i]);
    if (std::exchange(listens_, false))
      for (Bucket& bucket : buckets_)
        for (Place& place : bucket.places) place.num_expected = place.num_parts > 0 ? place.num_parts : unknown;
    num_sent_ = 0;
  }

  /// Bytes that each update sends to the sum.
  std::int64_t num_bytes() const {
    std::int64_t out = 0;
    for (const Bucket& bucket : buckets_)
      out += (bucket.numel + std::ssize(bucket.places)) * static_cast<std::int64_t>(bucket.options.dtype().itemsize());
    return out;
  }

 private:
  static constexpr int unknown = std::numeric_limits<int>::max();

  struct Place {
    FlatSlice slice;  ///< of the bucket's values
    decltype(torch::autograd::impl::grad_accumulator(Tensor())) accumulator = {};
    std::uintptr_t hook = 0;
    int num_parts = 0;  ///< that the pass has made of the gradient: a weight that is used twice has two
    int num_expected = unknown;
  };
  struct Bucket {
    at::TensorOptions options;
    std::int64_t numel = 0;  ///< of the gradients, each with its padding
    std::deque<Place> places = {};
    std::int64_t num_missing = 0;
    /// While on its way: the gradients, then for each place the number of ranks that have it.
    Tensor values_n = {};
    Pending pending = {};
  };

  /// Runs when a part of a gradient is there.
  struct Hook : torch::autograd::FunctionPostHook {
    Hook(GradientSum& all, Bucket& in, Place& at) : sum(all), bucket(in), place(at) {}
    torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                              const torch::autograd::variable_list&) override {
      sum.receive(bucket, place);
      return outputs;
    }
    GradientSum& sum;
    Bucket& bucket;
    Place& place;
  };

  void add(Bucket& bucket, const FlatSlice& slice) {
    Place& place = bucket.places.emplace_back(Place{.slice = slice});
    place.slice.begin = bucket.numel;
    bucket.numel +=
        (slice.numel + FlatParameters::alignment - 1) / FlatParameters::alignment * FlatParameters::alignment;
    place.accumulator = torch::autograd::impl::grad_accumulator(slice.parameter);
    place.hook = place.accumulator->add_post_hook(std::make_unique<Hook>(*this, bucket, place));
  }

  void receive(Bucket& bucket, Place& place) {
    const std::lock_guard lock(mutex_);
    if (!listens_ || ++place.num_parts != place.num_expected) return;
    --bucket.num_missing;
    const at::NoGradGuard no_grad;
    while (num_sent_ < buckets_.size() && buckets_[num_sent_].num_missing == 0)  // in the same order on all ranks
      send(buckets_[num_sent_++]);
  }

  /// Takes the gradients out of the parameters.
  void send(Bucket& bucket) {
    bucket.values_n = at::zeros({bucket.numel + std::ssize(bucket.places)}, bucket.options);
    const Tensor counts = bucket.values_n.narrow(0, bucket.numel, std::ssize(bucket.places));
    for (std::int64_t i = 0; i < std::ssize(bucket.places); ++i) {
      const FlatSlice& slice = bucket.places[static_cast<std::size_t>(i)].slice;
      Tensor& grad = slice.parameter.mutable_grad();
      if (!grad.defined()) continue;
      slice.view(bucket.values_n).copy_(grad);
      grad = Tensor();
      counts[i].fill_(1);
    }
    bucket.pending = world_.all_reduce(bucket.values_n);
  }

  bool has_gradients() const {
    return std::ranges::any_of(buckets_, [](const Bucket& bucket) {
      return std::ranges::any_of(bucket.places,
                                 [](const Place& place) { return place.slice.parameter.grad().defined(); });
    });
  }

  static void take(const Bucket& bucket, const Tensor& sums_n) {
    const Tensor counts = sums_n.narrow(0, bucket.numel, std::ssize(bucket.places)).to(at::kCPU, at::kFloat);
    for (std::int64_t i = 0; i < std::ssize(bucket.places); ++i)
      if (const FlatSlice& slice = bucket.places[static_cast<std::size_t>(i)].slice; counts[i].item<float>() > 0)
        slice.parameter.mutable_grad() = slice.view(sums_n);
  }

  World world_;
  std::deque<Bucket> buckets_;  ///< in the order of sending; hooks point to them
  std::mutex mutex_;
  bool listens_ = false;
  std::size_t num_sent_ = 0;
};

}  // namespace kto
