// SPDX-License-Identifier: Apache-2.0
// The gradients of several ranks become their sum: bucket by bucket, each on its way as soon as the backward pass has
// made the last gradient in it, while the pass goes on with the layers before. With Shards, only the owner of a gradient
// gets its sum, and the others free it.
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
#include "kto/optim/shards.hpp"

namespace kto {

/// Sums the gradients of `parameters` over the ranks of a World that is not alone. For each update: listen() before its
/// last backward pass, finish() after it. A rank without that pass, or without any, only calls finish().
class GradientSum {
 public:
  static constexpr std::int64_t bucket_bytes = 25 << 20;
  static constexpr std::size_t most_on_their_way = 3;  ///< buckets, with Shards

  /// With `shards`, the sums become the gradients of `own`, this rank's shard.
  GradientSum(World world, const FlatParameters& parameters, const Shards* shards = nullptr,
              const FlatParameters* own = nullptr, std::int64_t most_bytes = bucket_bytes)
      : world_(std::move(world)), is_sharded_(shards != nullptr) {
    for (std::size_t g = 0; g < parameters.groups.size(); ++g) {
      const FlatGroup& group = parameters.groups[g];
      for (auto slice = group.slices.rbegin(); slice != group.slices.rend(); ++slice) {  // as the backward pass goes
        const std::int64_t size = group.values.element_size();
        const bool fits = !buckets_.empty() && buckets_.back().options.dtype() == group.values.dtype() &&
                          buckets_.back().options.device() == group.values.device() &&
                          (buckets_.back().numel + slice->numel) * size <= most_bytes;
        if (!fits) buckets_.emplace_back(Bucket{.options = group.values.options()});
        Place& place = add(buckets_.back(), *slice);
        if (!is_sharded_) continue;
        place.own =
            own->groups[g].slices[group.slices.size() - 1 - static_cast<std::size_t>(slice - group.slices.rbegin())];
        add_owners(buckets_.back(), place, *slice, *shards, g);
      }
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
    send_all();
    if (world_.any(has_gradients())) {  // parts that came after the bucket was sent
      num_sent_ = num_received_ = 0;
      send_all();
    }
    for (Bucket& bucket : buckets_)
      for (Place& place : bucket.places)
        (is_sharded_ ? place.own : place.slice).parameter.mutable_grad() = std::exchange(place.sum, {});
    if (std::exchange(listens_, false))
      for (Bucket& bucket : buckets_)
        for (Place& place : bucket.places) place.num_expected = place.num_parts > 0 ? place.num_parts : unknown;
    num_sent_ = num_received_ = 0;
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
    FlatSlice own = {};  ///< with Shards, this rank's part of the parameter
    Tensor sum = {};     ///< once it is there: of the slice, or of the own part
  };
  /// A run of a bucket's values that belongs to one rank.
  struct Owned {
    int rank;
    std::int64_t begin, numel;
  };
  struct Bucket {
    at::TensorOptions options;
    std::int64_t numel = 0;  ///< of the gradients, each with its padding
    std::deque<Place> places = {};
    std::int64_t num_missing = 0;
    /// While on its way: the gradients, then for each place the number of ranks that have it.
    Tensor values_n = {};
    std::vector<Owned> owners = {};  ///< with Shards, in order
    std::vector<Pending> pending = {};
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

  Place& add(Bucket& bucket, const FlatSlice& slice) {
    Place& place = bucket.places.emplace_back(Place{.slice = slice});
    place.slice.begin = bucket.numel;
    bucket.numel +=
        (slice.numel + FlatParameters::alignment - 1) / FlatParameters::alignment * FlatParameters::alignment;
    place.accumulator = torch::autograd::impl::grad_accumulator(slice.parameter);
    place.hook = place.accumulator->add_post_hook(std::make_unique<Hook>(*this, bucket, place));
    return place;
  }

  /// `slice` as it lies in group number `group`, and in the bucket at `place`.
  static void add_owners(Bucket& bucket, const Place& place, const FlatSlice& slice, const Shards& shards,
                         std::size_t group) {
    for (int rank = 0; rank < shards.num_ranks(); ++rank) {
      const std::int64_t begin = std::max(slice.begin, shards.begin(group, rank)),
                         end = std::min(slice.begin + slice.numel, shards.begin(group, rank + 1));
      if (begin >= end) continue;
      const std::int64_t from = place.slice.begin + begin - slice.begin;
      if (bucket.owners.empty() || bucket.owners.back().rank != rank)
        bucket.owners.push_back({.rank = rank, .begin = from, .numel = 0});
      bucket.owners.back().numel = from + end - begin - bucket.owners.back().begin;
    }
  }

  void receive(Bucket& bucket, Place& place) {
    const std::lock_guard lock(mutex_);
    if (!listens_ || ++place.num_parts != place.num_expected) return;
    --bucket.num_missing;
    const at::NoGradGuard no_grad;
    while (num_sent_ < buckets_.size() && buckets_[num_sent_].num_missing == 0)  // in the same order on all ranks
      send_next();
  }

  void send_all() {
    while (num_sent_ < buckets_.size()) send_next();
    while (num_received_ < buckets_.size()) take(buckets_[num_received_++]);
  }

  void send_next() {
    send(buckets_[num_sent_++]);
    if (is_sharded_ && num_sent_ - num_received_ > most_on_their_way) take(buckets_[num_received_++]);
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
    if (!is_sharded_) {
      bucket.pending.push_back(world_.all_reduce(bucket.values_n));
      return;
    }
    for (const auto& [rank, begin, numel] : bucket.owners)
      bucket.pending.push_back(world_.reduce_to(rank, bucket.values_n.narrow(0, begin, numel)));
    bucket.pending.push_back(world_.all_reduce(counts));
  }

  bool has_gradients() const {
    return std::ranges::any_of(buckets_, [](const Bucket& bucket) {
      return std::ranges::any_of(bucket.places,
                                 [](const Place& place) { return place.slice.parameter.grad().defined(); });
    });
  }

  /// Receives the sums of a bucket.
  void take(Bucket& bucket) {
    for (Pending& each : bucket.pending) each.wait();
    bucket.pending.clear();
    const Tensor sums_n = std::exchange(bucket.values_n, {});
    const Tensor counts = sums_n.narrow(0, bucket.numel, std::ssize(bucket.places)).to(at::kCPU, at::kFloat);
    for (std::int64_t i = 0; i < std::ssize(bucket.places); ++i) {
      Place& place = bucket.places[static_cast<std::size_t>(i)];
      if (counts[i].item<float>() == 0) continue;
      Tensor sum = place.slice.view(sums_n);
      if (is_sharded_) {
        sum = place.own.part_of(sum);
        if (bucket.owners.size() > 1 || place.own.numel == 0) sum = sum.clone();  // and the rest is freed
      }
      place.sum = place.sum.defined() ? place.sum.add_(sum) : sum;
    }
  }

  World world_;
  bool is_sharded_;
  std::deque<Bucket> buckets_;  ///< in the order of sending; hooks point to them
  std::mutex mutex_;
  bool listens_ = false;
  std::size_t num_sent_ = 0, num_received_ = 0;
};

}  // namespace kto
