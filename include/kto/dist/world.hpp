// SPDX-License-Identifier: Apache-2.0
// The processes that train one model together (ranks), as a value. Without a group a World is one process on its own:
// every call returns at once. dist/join.hpp makes the World that torchrun, srun, mpirun or train_kto --nproc started.
//
// Collective calls are made by all ranks, in the same order, with equal shapes and types. Tensors are contiguous;
// float64, float32, bfloat16, float16, int64 and uint8 are carried.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kto/core/interrupt.hpp"
#include "kto/core/memory.hpp"
#include "kto/core/torch.hpp"

namespace kto {

/// Thrown on this rank because of another one, which failed, ended or cannot be reached.
struct RankError : Error {
  using Error::Error;
  bool reported = false;   ///< another rank prints what was wrong
  bool may_retry = false;  ///< that rank may join again, as its memory ran out: see World::fail
};

/// How the ranks' values become one.
enum class Reduction { sum, max, min };

/// A collective call under way. Its tensors are in use until wait() returns; all calls are waited for.
class [[nodiscard]] Pending {
 public:
  Pending() = default;  ///< nothing to wait for
  /// A call whose wait() calls `finish` once.
  explicit Pending(std::function<void()> finish) : finish_(std::move(finish)) {}
  /// Returns when the result is there; throws RankError if it will never be. Again: returns at once.
  void wait() {
    if (const auto finish = std::exchange(finish_, nullptr)) finish();
  }

 private:
  std::function<void()> finish_;
};

/// What carries a World's calls. The arguments are checked by World.
class Group {
 public:
  Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  virtual ~Group() = default;
  /// Reduces `tensor` over the ranks, in place.
  virtual Pending all_reduce(const Tensor& tensor, Reduction reduction) = 0;
  /// `out` becomes the ranks' `in`, in order.
  virtual Pending all_gather(const Tensor& out, const Tensor& in) = 0;
  /// `out` becomes this rank's part of the sum of the ranks' `in`.
  virtual Pending reduce_scatter(const Tensor& out, const Tensor& in) = 0;
  /// `tensor` becomes that of rank `root`.
  virtual Pending broadcast(const Tensor& tensor, int root) = 0;
  /// `tensor` of rank `root` becomes the sum of the ranks' tensors.
  virtual Pending reduce(const Tensor& tensor, int root) = 0;
  /// Tells the other ranks what failed here, so that they end.
  virtual void fail(const std::string& text, bool may_retry) noexcept = 0;
};

/// The processes that train together, as one of them sees it. A value: copies are the same world.
struct World {
  int rank = 0;                            ///< from 0
  int size = 1;                            ///< ranks
  int local_rank = 0;                      ///< among the ranks on this machine
  int local_size = 1;                      ///< ranks on this machine
  std::shared_ptr<Group> group = nullptr;  ///< null: one process on its own

  /// Whether there is one rank, so that every call does nothing.
  bool alone() const { return !group; }
  /// Whether this is rank 0, which writes files and logs.
  bool is_first() const { return rank == 0; }

  /// `tensor` becomes the sum (or maximum, minimum) over ranks, the same bits on all.
  Pending all_reduce(const Tensor& tensor, Reduction reduction = Reduction::sum) const {
    if (alone()) return {};
    check(tensor.is_contiguous(), "all_reduce: the tensor is not contiguous");
    return group->all_reduce(tensor, reduction);
  }

  /// `out` becomes the ranks' `in` one after the other. `in` may be this rank's part of `out`.
  Pending all_gather(const Tensor& out, const Tensor& in) const {
    check_parts("all_gather", out, in);
    if (!alone()) return group->all_gather(out, in);
    if (out.const_data_ptr() != in.const_data_ptr()) out.view(-1).copy_(in.view(-1));
    return {};
  }

  /// `out` becomes this rank's part of the sum of `in` over ranks. `out` may be that part of `in`; the other parts of
  /// `in` are then left with values of no meaning.
  Pending reduce_scatter(const Tensor& out, const Tensor& in) const {
    check_parts("reduce_scatter", in, out);
    if (!alone()) return group->reduce_scatter(out, in);
    if (out.const_data_ptr() != in.const_data_ptr()) out.view(-1).copy_(in.view(-1));
    return {};
  }

  /// `tensor` becomes rank `root`'s.
  Pending broadcast(const Tensor& tensor, int root = 0) const {
    if (alone()) return {};
    check(tensor.is_contiguous(), "broadcast: the tensor is not contiguous");
    return group->broadcast(tensor, root);
  }

  /// Rank `root`'s `tensor` becomes the sum over ranks; those of others are left with values of no meaning.
  Pending reduce_to(int root, const Tensor& tensor) const {
    if (alone()) return {};
    check(tensor.is_contiguous(), "reduce_to: the tensor is not contiguous");
    return group->reduce(tensor, root);
  }

  /// Lets the other ranks know that this one ends with an error, which `text` describes: their calls then throw
  /// RankError. No call is made after it. `may_retry`: it would join another group of the same job.
  void fail(const std::string& text, bool may_retry = false) const noexcept {
    if (!alone()) group->fail(text, may_retry);
  }

  /// Returns when all ranks have called it.
  void barrier() const { (void)sum(0); }

  // Values of the host, for code that decides: each returns the same on all ranks.

  /// `value` reduced over the ranks; all get the same.
  template <class Number>
    requires std::integral<Number> || std::floating_point<Number>
  Number reduce(Number value, Reduction reduction) const {
    if (alone()) return value;
    using Wide = std::conditional_t<std::integral<Number>, std::int64_t, double>;
    Tensor wide = at::empty({1}, std::integral<Number> ? at::kLong : at::kDouble);
    *wide.mutable_data_ptr<Wide>() = static_cast<Wide>(value);
    all_reduce(wide, reduction).wait();
    return static_cast<Number>(*wide.const_data_ptr<Wide>());
  }
  /// The ranks' sum.
  template <class Number>
  Number sum(Number value) const {
    return reduce(value, Reduction::sum);
  }
  /// The ranks' largest.
  template <class Number>
  Number max(Number value) const {
    return reduce(value, Reduction::max);
  }
  /// The ranks' smallest.
  template <class Number>
  Number min(Number value) const {
    return reduce(value, Reduction::min);
  }
  /// Whether it is true on some rank.
  bool any(bool value) const { return max(int{value}) != 0; }
  /// Whether it is true on all ranks.
  bool all(bool value) const { return min(int{value}) != 0; }

  /// Element by element, in one call.
  std::vector<double> sum(std::vector<double> values) const {
    if (alone() || values.empty()) return values;
    all_reduce(at::from_blob(values.data(), {std::ssize(values)}, at::kDouble)).wait();
    return values;
  }

  /// Rank `root`'s text.
  std::string broadcast(std::string text, int root = 0) const {
    if (alone()) return text;
    const auto length = max(rank == root ? std::ssize(text) : 0);
    text.resize(static_cast<std::size_t>(length));
    if (length > 0) broadcast(at::from_blob(text.data(), {length}, at::kByte), root).wait();
    return text;
  }

  /// The texts of all ranks, in their order.
  std::vector<std::string> gather(const std::string& text) const {
    if (alone()) return {text};
    const Tensor sizes = at::zeros({size}, at::kLong);
    auto* size_of = sizes.mutable_data_ptr<std::int64_t>();
    size_of[rank] = std::ssize(text);
    all_reduce(sizes).wait();
    const std::int64_t width = *std::max_element(size_of, size_of + size);
    std::vector<std::string> out(static_cast<std::size_t>(size));
    if (width == 0) return out;
    const Tensor all = at::zeros({size, width}, at::kByte);
    char* bytes = static_cast<char*>(all.mutable_data_ptr());
    std::memcpy(bytes + rank * width, text.data(), text.size());
    all_gather(all, all[rank]).wait();
    for (int r = 0; r < size; ++r)
      out[static_cast<std::size_t>(r)].assign(bytes + r * width, static_cast<std::size_t>(size_of[r]));
    return out;
  }

  /// The numbers of all ranks' tensors, in their order, flat and on the CPU. The ranks' types are equal, their sizes not.
  std::vector<Tensor> gather(const Tensor& own) const {
    const Tensor host = own.detach().cpu().contiguous();
    std::vector<Tensor> out;
    for (const std::string& bytes : gather({static_cast<const char*>(host.const_data_ptr()), host.nbytes()})) {
      out.push_back(at::empty({std::ssize(bytes) / static_cast<std::int64_t>(host.itemsize())}, host.options()));
      std::ranges::copy(bytes, static_cast<char*>(out.back().mutable_data_ptr()));
    }
    return out;
  }

 private:
  void check_parts(const char* call, const Tensor& whole, const Tensor& part) const {
    check(whole.is_contiguous() && part.is_contiguous(), call, ": the tensors are not contiguous");
    check(whole.numel() == size * part.numel() && whole.scalar_type() == part.scalar_type(), call, ": ",
          whole.scalar_type(), shape_text(whole.sizes()), " is not the size of ", size, " ranks' ", part.scalar_type(),
          shape_text(part.sizes()));
  }
};

/// Runs `body` on this rank. When it threw on a rank, throws on all: on the first such rank the same again, on the
/// others RankError (on all Interrupted, if nothing but that was thrown). `body` makes no collective call, for which
/// other ranks would wait.
template <class Body>
void together(const World& world, const Body& body) {
  if (world.alone()) return body();
  enum { error, memory_error, interruption, nothing };
  const auto outcome = [&](int kind) { return kind * world.size + world.rank; };  // the least of all ranks counts
  int own = outcome(nothing);
  std::exception_ptr thrown;
  try {
    body();
  } catch (const Interrupted&) {
    own = outcome(interruption);
  } catch (const std::exception& what) {
    thrown = std::current_exception();
    own = outcome(is_memory_error(what) ? memory_error : error);
  }
  const int first = world.min(own), kind = first / world.size;
  if (kind == nothing) return;
  if (kind == interruption) throw Interrupted{};
  if (first == own) std::rethrow_exception(thrown);
  RankError of_first(concat("rank ", first % world.size, " failed"));
  of_first.reported = true;
  of_first.may_retry = kind == memory_error;
  throw of_first;
}

/// The same for what rank 0 does while the others wait: writing files, printing.
template <class Body>
void on_first(const World& world, const Body& body) {
  together(world, [&] {
    if (world.is_first()) body();
  });
}

/// A seed for what is random on each rank in another way, as dropout: rank 0's is `seed` itself (SplitMix64).
inline std::uint64_t seed_of_rank(std::uint64_t seed, int rank) {
  if (rank == 0) return seed;
  std::uint64_t z = seed + 0x9E3779B97F4A7C15u * static_cast<std::uint64_t>(rank);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace kto
