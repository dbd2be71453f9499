// SPDX-License-Identifier: Apache-2.0
// The one file that knows c10d, PyTorch's engine of collective calls: Gloo for tensors on the CPU, and on CUDA NCCL, or
// Gloo through the host. Only programs that start or join a World include it (dist/join.hpp).
//
// KTO_HAS_C10D: this LibTorch has it. Only c10d's stores and c10d::Backend are used, which change least from one version
// to the next.
#pragma once

#include "kto/dist/world.hpp"

namespace kto::detail {
#ifdef KTO_HAS_NCCL
inline constexpr bool has_nccl = true;
#else
inline constexpr bool has_nccl = false;
#endif
/// Whether NCCL, in a build that has it, carries tensors of such a device.
inline bool nccl_carries(at::Device device) { return device.is_cuda(); }

inline constexpr const char* no_c10d =
    "this LibTorch is built without c10d and Gloo, through which processes work together: start one process, or build "
    "with "
    "another LibTorch";
}  // namespace kto::detail

#if defined(USE_DISTRIBUTED) && defined(USE_C10D_GLOO) && __has_include(<gloo/algorithm.h>) && \
    __has_include(<torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>)
#define KTO_HAS_C10D 1
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef KTO_HAS_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <optional>

#include "kto/dist/detail/watch.hpp"

namespace kto::detail {

/// A store of c10d.
class C10dStore final : public Store {
 public:
  explicit C10dStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}
  void set(const std::string& key, const std::string& value) override {
    store_->set(key, std::vector<std::uint8_t>(value.begin(), value.end()));
  }
  std::optional<std::string> get(const std::string& key) override {
    if (!store_->check({key})) return std::nullopt;
    const std::vector<std::uint8_t> value = store_->get(key);
    return std::string(value.begin(), value.end());
  }
  std::int64_t add(const std::string& key, std::int64_t number) override { return store_->add(key, number); }
  /// The part of it whose keys begin with `prefix`, on the same connection.
  C10dStore below(const std::string& prefix) const {
    return C10dStore(c10::make_intrusive<c10d::PrefixStore>(prefix, store_));
  }
  const c10::intrusive_ptr<c10d::Store>& handle() const { return store_; }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

/// c10d warns, with a backtrace, of each connection that ends; what that means for a run is said in one line elsewhere.
inline void quieten_c10d() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = std::max(FLAGS_caffe2_log_level, 2);
}

/// Connects to the store at a host's port, which this process `holds`, at any free port if `port` is 0, or another.
inline C10dStore connect_store(const std::string& host, int& port, bool holds, std::chrono::seconds timeout) {
  quieten_c10d();
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(port);
  options.isServer = holds;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    const auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    port = store->getPort();
    return C10dStore(store);
  } catch (const std::exception& error) {
    fail(holds ? "rank 0 cannot hold the store that the ranks meet in, at " : "cannot reach the store of rank 0 at ",
         host, " port ", port,
         holds ? "; set MASTER_PORT to a free one: " : " (MASTER_ADDR, MASTER_PORT): ", error_text(error));
  }
}

/// A store in a file that all ranks see.
inline C10dStore file_store(const std::string& path) {
  return C10dStore(c10::make_intrusive<c10d::FileStore>(path, -1));
}

inline c10::intrusive_ptr<c10d::Backend> make_gloo(const C10dStore& store, int rank, int size,
                                                   std::chrono::seconds timeout, bool on_this_machine) {
  using Gloo = c10d::ProcessGroupGloo;
  auto options = Gloo::Options::create(timeout);
  const bool names_interface = std::getenv("GLOO_SOCKET_IFNAME") != nullptr;
  options->devices.push_back(on_this_machine && !names_interface ? Gloo::createDeviceForHostname("127.0.0.1")
                                                                 : Gloo::createDefaultDevice());
  return c10::make_intrusive<Gloo>(store.handle(), rank, size, options);
}

inline c10::intrusive_ptr<c10d::Backend> make_nccl([[maybe_unused]] const C10dStore& store, [[maybe_unused]] int rank,
                                                   [[maybe_unused]] int size,
                                                   [[maybe_unused]] std::chrono::seconds timeout) {
#ifdef KTO_HAS_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store.handle(), rank, size, options);
#else
  throw UsageError("this build has no NCCL: use gloo, or build with KTO_NCCL=ON");
#endif
}

inline RankError rank_error(const Failure& failure, bool reported = true) {
  RankError out(failure.rank < 0 ? failure.text : concat("rank ", failure.rank, ": ", failure.text));
  out.reported = reported;
  out.may_retry = failure.may_retry;
  return out;
}

/// Waits in turns of half a second while `goes_on` says so. Throws what the work has failed with, or a timeout.
inline void wait_in_turns(c10d::Work& work, const std::function<bool()>& goes_on) {
  for (;;) try {
      work.wait(std::chrono::milliseconds(500));
      return;
    } catch (const std::exception&) {
      if (work.isCompleted()) {  // it has failed, or ended just after its turn
        work.wait();
        return;
      }
      if (!goes_on()) throw;
    }
}

/// A World's calls on c10d. `watch` finds out why a call failed.
class C10dGroup final : public Group {
 public:
  C10dGroup(c10::intrusive_ptr<c10d::Backend> gloo, c10::intrusive_ptr<c10d::Backend> nccl,
            std::unique_ptr<Watch> watch, int rank, std::chrono::seconds timeout)
      : gloo_(std::move(gloo)), nccl_(std::move(nccl)), watch_(std::move(watch)), rank_(rank), timeout_(timeout) {}
  /// Calls that are under way when something failed may never end: then the backends are left as they are.
  ~C10dGroup() override {
    if (!broken_ && num_pending_ == 0) return;
    (void)gloo_.release();
    (void)nccl_.release();
  }

  Pending all_reduce(const Tensor& tensor, Reduction reduction) override {
    c10d::AllreduceOptions options;
    options.reduceOp = reduction == Reduction::sum   ? c10d::ReduceOp::SUM
                       : reduction == Reduction::max ? c10d::ReduceOp::MAX
                                                     : c10d::ReduceOp::MIN;
    return run_in_place(tensor, &c10d::Backend::allreduce, options);
  }
  Pending all_gather(const Tensor& out, const Tensor& in) override {
    return run(out, in,
               [](c10d::Backend& backend, Tensor& to, Tensor& from) { return backend._allgather_base(to, from); });
  }
  /// Gloo's own call sums everything on all ranks; so there each rank gets the others' parts, and adds them up.
  Pending reduce_scatter(const Tensor& out, const Tensor& in) override {
    if (!out.is_cpu() && nccl_)
      return run(out, in, [](c10d::Backend& backend, Tensor& to, Tensor& from) {
        return backend._reduce_scatter_base(to, from);
      });
    const Tensor parts = at::empty_like(in.detach()).view({-1, out.numel()});
    Pending exchanged = run(parts, in, [](c10d::Backend& backend, Tensor& to, Tensor& from) {
      std::vector<std::int64_t> evenly;
      return backend.alltoall_base(to, from, evenly, evenly);
    });
    return Pending([exchanged, parts, out]() mutable {
      exchanged.wait();
      const at::NoGradGuard no_grad;
      out.view(-1).copy_(parts.sum(0, /*keepdim=*/false, parts.scalar_type()));
    });
  }
  Pending broadcast(const Tensor& tensor, int root) override {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return run_in_place(tensor, &c10d::Backend::broadcast, options);
  }
  Pending reduce(const Tensor& tensor, int root) override {
    c10d::ReduceOptions options;
    options.rootRank = root;
    return run_in_place(tensor, &c10d::Backend::reduce, options);
  }
  void fail(const std::string& text, bool may_retry) noexcept override {
    broken_ = true;
    watch_->post({.rank = rank_, .may_retry = may_retry, .text = text});
  }

 private:
  template <class Call, class Options>
  Pending run_in_place(const Tensor& tensor, Call call, const Options& options) {
    return run(tensor, tensor, [&](c10d::Backend& backend, Tensor&, Tensor& on) {
      std::vector<Tensor> tensors{on};
      return (backend.*call)(tensors, options);
    });
  }

  /// Starts `call`(backend, out, in). Gloo gets copies on the host of tensors that are elsewhere.
  template <class Call>
  Pending run(const Tensor& out, const Tensor& in, const Call& call) {
    const at::AutoDispatchBelowAutograd no_gradient;
    const bool through_host = !out.is_cpu() && !nccl_;
    const auto flat = [](const Tensor& tensor) { return tensor.detach().view(-1); };
    Tensor to = flat(out), from = flat(in);
    if (through_host) {
      from = from.cpu();
      to = out.is_same(in) ? from : at::empty_like(to, to.options().device(at::kCPU));
    }
    c10d::Backend& backend = out.is_cpu() || through_host ? *gloo_ : *nccl_;
    c10::intrusive_ptr<c10d::Work> work;
    try {
      work = call(backend, to, from);
    } catch (const std::exception& error) {
      lose(error);
    }
    ++num_pending_;
    return Pending([this, work, to, from, out, through_host, on_host = &backend == gloo_.get()] {
      wait(*work, on_host);
      --num_pending_;
      if (through_host) out.view(-1).copy_(to);
    });
  }

  void wait(c10d::Work& work, bool on_host) {
    const auto end = std::chrono::steady_clock::now() + timeout_;
    try {
      if (on_host)
        wait_in_turns(work, [&] { return std::chrono::steady_clock::now() < end && !watch_->has_failed(); });
      else
        work.wait();  // queued on the device: what follows is queued behind it
    } catch (const std::exception& error) {
      lose(error);
    }
  }

  /// Throws what the first call threw that failed: an Attempt may keep it and go on to others.
  [[noreturn]] void lose(const std::exception& error) {
    if (!lost_) {
      broken_ = true;
      bool is_first = false;
      const Failure failure = watch_->find_out(error_text(error), is_first);
      lost_ = rank_error(failure, !is_first);
    }
    throw *lost_;
  }

  c10::intrusive_ptr<c10d::Backend> gloo_, nccl_;
  std::unique_ptr<Watch> watch_;
  int rank_;
  std::chrono::seconds timeout_;
  bool broken_ = false;
  std::optional<RankError> lost_ = std::nullopt;
  std::int64_t num_pending_ = 0;
};

}  // namespace kto::detail
#endif
