// SPDX-License-Identifier: Apache-2.0
// A device for tests, on machines without one: "guarded", two of them. Preloaded (LD_PRELOAD) into a program, it is an
// accelerator of LibTorch's (PrivateUse1) with its own memory, generators and backward thread. Its kernels are those of
// the CPU, so its numbers are, too. It ends the program where the host touches its memory, and throws where a kernel
// gets tensors of several devices, or a copy to the host is not waited for. It counts copies and memory; see
// guarded_counts.hpp.
//
// How: its memory exists twice, as pages that nobody may touch, whose addresses tensors hold, and as memory at a fixed
// distance, which only its kernels know. New memory holds not-a-numbers. A copy that need not be waited for is made when
// the device next works.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <execinfo.h>
#include <pthread.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device/guarded_counts.hpp"

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::IValue;
using torch::jit::Stack;

constexpr auto guarded = c10::DeviceType::PrivateUse1;
constexpr auto guarded_key = c10::DispatchKey::PrivateUse1;
constexpr DeviceIndex num_devices = 2;
constexpr std::size_t range_bytes = std::size_t{1} << 36;

std::recursive_mutex mutex;  // of all that follows
GuardedCounts counts;

// Memory.

char* device_range = nullptr;  // addresses that tensors hold
char* real_range = nullptr;    // what kernels read and write

bool is_device_address(const void* address) { return address >= device_range && address < device_range + range_bytes; }
void* real(const void* address) { return real_range + (static_cast<const char*>(address) - device_range); }

void report_touch(int, siginfo_t* info, void*) {
  if (!is_device_address(info->si_addr)) {  // not ours: as without this handler
    std::signal(SIGSEGV, SIG_DFL);
    return;
  }
  constexpr char text[] = "guarded device: the host touched memory of the device\n";
  (void)!::write(2, text, sizeof text - 1);
  void* frames[24];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 24), 2);
  ::_exit(86);
}

/// Memory by size: freed blocks serve later requests of the same size; otherwise new memory is taken.
struct GuardedAllocator final : c10::DeviceAllocator {
  std::size_t taken = 0;
  std::map<std::pair<DeviceIndex, std::size_t>, std::vector<void*>> free_by_size;
  struct Block {
    DeviceIndex device;
    std::size_t bytes;
  };
  std::unordered_map<void*, Block> blocks;
  struct Use {
    std::int64_t now = 0, peak = 0;
  } use[num_devices];

  static GuardedAllocator& instance() {
    static auto* allocator = new GuardedAllocator;  // tensors may outlive static objects
    return *allocator;
  }
  static void poison(void* address, std::size_t bytes) { std::memset(real(address), 0xFF, bytes); }

  c10::DataPtr on(Device device, std::size_t bytes) {
    const std::lock_guard lock(mutex);
    if (bytes == 0) return {nullptr, nullptr, &free_block, device};
    bytes = (bytes + 511) / 512 * 512;
    // GUARDED_BYTES: what a device has, as a GPU has an end.
    static const char* const most = std::getenv("GUARDED_BYTES");
    const bool fits = most == nullptr || use[device.index()].now + static_cast<std::int64_t>(bytes) <= std::atoll(most);
    TORCH_CHECK_WITH(OutOfMemoryError, fits, "guarded out of memory. Tried to allocate ", bytes, " bytes.");
    auto& same = free_by_size[{device.index(), bytes}];
    void* block = nullptr;
    if (same.empty()) {
      TORCH_CHECK(taken + bytes <= range_bytes, "guarded device: out of memory");
      block = device_range + std::exchange(taken, taken + bytes);
      blocks[block] = {device.index(), bytes};
      ++counts.new_blocks;
      poison(block, bytes);
    } else {
      block = same.back();
      same.pop_back();
    }
    Use& of = use[device.index()];
    of.now += static_cast<std::int64_t>(bytes);
    of.peak = std::max(of.peak, of.now);
    return {block, block, &free_block, device};
  }
  static void free_block(void* block) {
    if (block == nullptr) return;
    const std::lock_guard lock(mutex);
    GuardedAllocator& self = instance();
    const Block known = self.blocks.at(block);
    poison(block, known.bytes);
    self.use[known.device].now -= static_cast<std::int64_t>(known.bytes);
    self.free_by_size[{known.device, known.bytes}].push_back(block);
  }

  c10::DataPtr allocate(std::size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(real(to), real(from), bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    const std::lock_guard lock(mutex);
    ++counts.emptied;
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    const std::lock_guard lock(mutex);
    c10::CachingDeviceAllocator::DeviceStats out;
    out.allocated_bytes[0].current = use[device].now;
    out.allocated_bytes[0].peak = use[device].peak;
    return out;
  }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex device) override { use[device].peak = use[device].now; }
};

/// Memory of the host that the device copies from without waiting.
struct PinnedAllocator final : c10::Allocator {
  std::map<const char*, std::size_t> blocks;

  static PinnedAllocator& instance() {
    static auto* allocator = new PinnedAllocator;
    return *allocator;
  }
  c10::DataPtr allocate(std::size_t bytes) override {
    const std::lock_guard lock(mutex);
    auto* block = static_cast<char*>(std::malloc(std::max<std::size_t>(bytes, 1)));
    blocks[block] = bytes;
    return {block, block, &free_block, Device(c10::DeviceType::CPU)};
  }
  static void free_block(void* block) {
    const std::lock_guard lock(mutex);
    instance().blocks.erase(static_cast<char*>(block));
    std::free(block);
  }
  bool holds(const void* address) {
    const std::lock_guard lock(mutex);
    const auto after = blocks.upper_bound(static_cast<const char*>(address));
    return after != blocks.begin() &&
           address < std::prev(after)->first + std::max<std::size_t>(std::prev(after)->second, 1);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

// The device of a thread, and streams: one, on which work is done when it is asked for.

thread_local DeviceIndex current = 0;

struct GuardedImpl final : c10::impl::DeviceGuardImplInterface {
  static Device checked(Device device) {
    TORCH_CHECK(device.type() == guarded && device.index() < num_devices, "guarded device: there is no ", device);
    return device.has_index() ? device : Device(guarded, current);
  }
  c10::DeviceType type() const override { return guarded; }
  Device exchangeDevice(Device device) const override {
    return {guarded, std::exchange(current, checked(device).index())};
  }
  Device getDevice() const override { return {guarded, current}; }
  void setDevice(Device device) const override { current = checked(device).index(); }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  c10::Stream getStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, checked(device)); }
  c10::Stream getDefaultStream(Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return num_devices; }
  void record(void**, const c10::Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(DeviceIndex) const override {}
};

c10::DataPtr GuardedAllocator::allocate(std::size_t bytes) { return on({guarded, current}, bytes); }

/// A generator of the CPU's numbers.
struct GuardedGenerator final : c10::GeneratorImpl {
  at::Generator inner = at::detail::createCPUGenerator();

  explicit GuardedGenerator(DeviceIndex index)
      : GeneratorImpl(Device(guarded, index), c10::DispatchKeySet(guarded_key)) {}
  void set_current_seed(std::uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(std::uint64_t offset) override { inner.set_offset(offset); }
  std::uint64_t get_offset() const override { return inner.get_offset(); }
  std::uint64_t current_seed() const override { return inner.current_seed(); }
  std::uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  GuardedGenerator* clone_impl() const override {
    auto* out = new GuardedGenerator(device_.index());
    out->inner = inner.clone();
    return out;
  }
};

const at::Generator& generator_of(DeviceIndex index) {
  static const std::array generators{at::make_generator<GuardedGenerator>(DeviceIndex{0}),
                                     at::make_generator<GuardedGenerator>(DeviceIndex{1})};
  return generators.at(static_cast<std::size_t>(index < 0 ? current : index));
}

struct GuardedHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return num_devices; }
  void setCurrentDevice(DeviceIndex index) const override { current = index; }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return std::exchange(current, index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return std::exchange(current, index); }
  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::instance().holds(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &PinnedAllocator::instance(); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override { return generator_of(index); }
};

// Kernels.

bool is_ours(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == guarded; }

Tensor empty_on(Device device, at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  const c10::DeviceGuard guard(device);
  return at::detail::empty_strided_generic(sizes, strides, &GuardedAllocator::instance(),
                                           c10::DispatchKeySet(guarded_key), type);
}

/// The tensors of one kernel as tensors of the CPU in the device's real memory.
class OnHost {
 public:
  explicit OnHost(std::string name) : name_(std::move(name)) {}

  Tensor of(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!is_ours(tensor)) {
      TORCH_CHECK(tensor.is_cpu() && tensor.dim() == 0, "guarded device: ", name_, " got a tensor of ", tensor.device(),
                  " with shape ", tensor.sizes());
      return tensor;
    }
    use(tensor.device());
    for (const auto& [impl, given] : given_)
      if (given.is_same(tensor)) return Tensor(impl);
    const c10::Storage storage = storage_of(tensor.storage());
    auto impl = c10::make_intrusive<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                     tensor.dtype());
    impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
    given_.emplace_back(impl, tensor);
    return Tensor(impl);
  }

  /// The tensor of the device that a result of the CPU's kernel is.
  Tensor back(const Tensor& result) {
    if (!result.defined()) return result;
    for (const auto& [impl, given] : given_)
      if (impl.get() == result.unsafeGetTensorImpl()) return given;
    for (const auto& [theirs, ours] : storages_)
      if (result.storage().unsafeGetStorageImpl() == theirs.unsafeGetStorageImpl()) {
        auto impl =
            c10::make_intrusive<c10::TensorImpl>(c10::Storage(ours), c10::DispatchKeySet(guarded_key), result.dtype());
        impl->set_sizes_and_strides(result.sizes(), result.strides(), result.storage_offset());
        return Tensor(impl);
      }
    Tensor out = empty_on(device(), result.sizes(), result.strides(), result.scalar_type());
    if (result.numel() > 0) of(out).copy_(result);
    return out;
  }

  /// Outputs that the kernel gave another size.
  void resized() {
    for (const auto& [impl, given] : given_) {
      c10::StorageImpl* storage = given.storage().unsafeGetStorageImpl();
      const c10::Storage& theirs = impl->storage();
      if (theirs.nbytes() > storage->nbytes()) {
        c10::DataPtr more = GuardedAllocator::instance().on(given.device(), theirs.nbytes());
        std::memcpy(real(more.get()), theirs.data(), theirs.nbytes());
        storage->set_data_ptr(std::move(more));
        storage->set_nbytes(theirs.nbytes());
      }
      if (given.sizes() != impl->sizes() || given.strides() != impl->strides())
        given.unsafeGetTensorImpl()->set_sizes_and_strides(impl->sizes(), impl->strides(), impl->storage_offset());
    }
  }

  void use(Device device) {
    TORCH_CHECK(!device_ || *device_ == device, "guarded device: ", name_, " got tensors of ", *device_, " and ",
                device);
    device_ = device;
  }
  Device device() const { return device_.value_or(Device(guarded, current)); }

 private:
  c10::Storage storage_of(const c10::Storage& ours) {
    for (const auto& [theirs, known] : storages_)
      if (known.unsafeGetStorageImpl() == ours.unsafeGetStorageImpl()) return theirs;
    void* data = ours.data() == nullptr ? nullptr : real(ours.data());
    c10::Storage theirs(c10::Storage::use_byte_size_t(), ours.nbytes(),
                        c10::DataPtr(data, Device(c10::DeviceType::CPU)), c10::GetAllocator(c10::DeviceType::CPU),
                        /*resizable=*/true);
    storages_.emplace_back(theirs, ours);
    return theirs;
  }

  std::string name_;
  std::optional<Device> device_;
  std::vector<std::pair<c10::intrusive_ptr<c10::TensorImpl>, Tensor>> given_;
  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;  // theirs, ours
};

/// Copies that the device makes before it works again.
std::vector<std::pair<Tensor, Tensor>> queued;

void make_copy(const Tensor& to, const Tensor& from) {
  OnHost host("copy_");
  host.of(to).copy_(is_ours(from) ? host.of(from) : from);
}
void make_queued_copies() {
  for (const auto& [to, from] : std::exchange(queued, {})) make_copy(to, from);
}

template <class Visit>
void replace_tensors(IValue& value, const Visit& visit) {
  if (value.isTensor()) value = visit(value.toTensor());
  if (value.isTensorList()) {
    auto list = value.toTensorList();
    std::vector<Tensor> out;
    for (std::size_t i = 0; i < list.size(); ++i) out.push_back(visit(list.get(i)));
    value = c10::List<Tensor>(out);
  } else if (value.isOptionalTensorList()) {
    auto list = value.toOptionalTensorList();
    c10::List<std::optional<Tensor>> out;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::optional<Tensor> tensor = list.get(i);
      out.push_back(tensor ? std::optional(visit(*tensor)) : std::nullopt);
    }
    value = out;
  }
}

/// Whether a GPU's kernel asks how many elements its result has, or returns a number: an index by truth is one of them.
bool waits_for_device(const std::string& name, c10::ArrayRef<IValue> arguments) {
  static const std::set<std::string> names{
      "aten::equal",    "aten::nonzero",  "aten::masked_select",      "aten::unique_dim",
      "aten::_unique2", "aten::bincount", "aten::unique_consecutive", "aten::repeat_interleave"};
  const auto is_truth = [](const std::optional<Tensor>& index) { return index && index->scalar_type() == at::kBool; };
  return names.contains(name) || std::ranges::any_of(arguments, [&](const IValue& value) {
           return value.isOptionalTensorList() && std::ranges::any_of(value.toOptionalTensorVector(), is_truth);
         });
}

/// The host waits for a number.
void count_scalar() {
  ++counts.scalars_to_host;
  counts.kernels_at_last_scalar = counts.kernels;
  counts.queued_at_last_scalar = counts.queued_to_device;
}

/// Whether this is one of the threads that LibTorch runs the backward passes of devices on.
bool is_backward_thread() {
  thread_local const bool is = [] {
    char name[16] = "";
    ::pthread_getname_np(::pthread_self(), name, sizeof name);
    return std::string_view(name).starts_with("pt_autograd");
  }();
  return is;
}

/// Any operator, by the CPU's kernel.
void run_on_host(const c10::OperatorHandle& op, Stack* stack) {
  const std::lock_guard lock(mutex);
  make_queued_copies();
  const auto& schema = op.schema();
  ++counts.kernels;
  if (is_backward_thread()) ++counts.backward_kernels;
  const std::size_t num_arguments = schema.arguments().size(), begin = stack->size() - num_arguments;
  if (waits_for_device(schema.name(), c10::ArrayRef<IValue>(stack->data() + begin, num_arguments))) count_scalar();
  OnHost host(schema.name());
  const auto each = [&](const auto& visit) {
    for (std::size_t i = 0; i < num_arguments; ++i) visit((*stack)[begin + i], schema.arguments()[i]);
  };
  each([&](IValue& value, const auto&) {
    if (value.isDevice() && value.toDevice().type() == guarded) {
      host.use(GuardedImpl::checked(value.toDevice()));
      value = Device(c10::DeviceType::CPU);
    }
    replace_tensors(value, [&](const Tensor& tensor) { return host.of(tensor); });
  });
  bool draws = op.hasTag(at::Tag::nondeterministic_seeded);
  each([&](IValue& value, const auto& argument) {
    if (!argument.type()->isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()))) return;
    const at::Generator generator = value.isNone() ? generator_of(host.device().index()) : value.toGenerator();
    if (auto* ours = dynamic_cast<GuardedGenerator*>(generator.unsafeGetGeneratorImpl())) value = ours->inner;
    draws = false;
  });
  TORCH_CHECK(!draws, "guarded device: ", schema.name(), " would draw from the CPU's generator");
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  host.resized();
  const std::size_t num_results = schema.returns().size();
  for (std::size_t i = stack->size() - num_results; i < stack->size(); ++i)
    replace_tensors((*stack)[i], [&](const Tensor& tensor) { return host.back(tensor); });
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(GuardedImpl::checked(device.value_or(Device(guarded))));
  return at::detail::empty_generic(size, &GuardedAllocator::instance(), c10::DispatchKeySet(guarded_key),
                                   c10::dtype_or_default(type), format);
}
Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  return empty_on(GuardedImpl::checked(device.value_or(Device(guarded))), size, stride, c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  const std::lock_guard lock(mutex);
  const std::int64_t bytes = static_cast<std::int64_t>(from.nbytes());
  if (is_ours(from) && is_ours(to)) {
    TORCH_CHECK(from.device() == to.device() || !non_blocking,
                "guarded device: a copy between devices is not waited for");
    ++counts.kernels;
    make_queued_copies();
    if (from.device() == to.device()) {
      make_copy(to, from);
    } else {
      OnHost source("copy_"), target("copy_");
      target.of(to).copy_(source.of(from));
    }
  } else if (is_ours(to)) {
    const bool pinned = PinnedAllocator::instance().holds(from.const_data_ptr());
    ++(pinned && non_blocking ? counts.queued_to_device : counts.waited_to_device);
    counts.bytes_to_device += bytes;
    if (pinned && non_blocking)
      queued.emplace_back(to, from);
    else
      make_queued_copies(), make_copy(to, from);
  } else {
    TORCH_CHECK(!non_blocking, "guarded device: the host reads a copy of the device's memory before it is made");
    ++counts.to_host;
    counts.bytes_to_host += bytes;
    if (from.numel() <= 1) count_scalar();
    make_queued_copies();
    OnHost host("copy_");
    to.copy_(host.of(from));
  }
  return to;
}
Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

c10::Scalar local_scalar(const Tensor& tensor) {
  const std::lock_guard lock(mutex);
  count_scalar();
  make_queued_copies();
  OnHost host("item");
  return host.of(tensor).item();
}

/// As GPUs have it: for bfloat16, with the ends of groups read on the device; what no row is of has any values.
Tensor grouped_mm(const Tensor& a, const Tensor& b, const std::optional<Tensor>& ends,
                  const std::optional<Tensor>& bias, std::optional<at::ScalarType> type) {
  const std::lock_guard lock(mutex);
  TORCH_CHECK(a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16 && ends,
              "guarded device: grouped products are of bfloat16");
  make_queued_copies();
  ++counts.kernels;
  if (is_backward_thread()) ++counts.backward_kernels;
  OnHost host("_grouped_mm");
  const Tensor ends_E = host.of(*ends), out = at::_grouped_mm(host.of(a), host.of(b), ends_E, bias, type);
  std::int32_t begin = 0;
  for (std::int64_t e = 0; e < ends_E.size(0); ++e) {
    const std::int32_t end = ends_E[e].item<std::int32_t>();
    if (out.dim() == 3 && begin == end) out[e].fill_(std::numeric_limits<double>::quiet_NaN());
    begin = end;
  }
  return host.back(out);
}

/// The CPU's kernel draws from the CPU's generator.
std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (!train.value_or(true)) return {input.clone(), at::ones(input.sizes(), input.options().dtype(at::kBool))};
  const Tensor kept = at::empty(input.sizes(), input.options().dtype(at::kBool)).bernoulli_(1 - p);
  return {input.mul(kept).mul_(1 / (1 - p)), kept};
}

Tensor& set_storage(Tensor& self, at::Storage source, std::int64_t offset, at::IntArrayRef size,
                    at::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

/// Reports touches; again, where a program has set its own handler since.
void watch() {
  struct sigaction action = {};
  action.sa_sigaction = &report_touch;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGSEGV, &action, nullptr);
}

void install() {
  const auto map = [](int protection) {
    void* at = ::mmap(nullptr, range_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(at != MAP_FAILED, "guarded device: no addresses for its memory");
    return static_cast<char*>(at);
  };
  device_range = map(PROT_NONE);
  real_range = map(PROT_READ | PROT_WRITE);
  watch();

  c10::register_privateuse1_backend("guarded");
  c10::SetAllocator(guarded, &GuardedAllocator::instance());
  static const GuardedImpl impl{};
  static const c10::impl::DeviceGuardImplRegistrar registrar(guarded, &impl);
  static GuardedHooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);

  static torch::Library all(torch::Library::IMPL, "_", guarded_key, __FILE__, __LINE__);
  all.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  static torch::Library own(torch::Library::IMPL, "aten", guarded_key, __FILE__, __LINE__);
  own.impl("empty.memory_format", &empty);
  own.impl("empty_strided", &empty_strided);
  own.impl("_copy_from", &copy_from);
  own.impl("_copy_from_and_resize", &copy_from_and_resize);
  own.impl("_local_scalar_dense", &local_scalar);
  own.impl("_grouped_mm", &grouped_mm);
  own.impl("native_dropout", &native_dropout);
  own.impl("as_strided", &at::native::as_strided_tensorimpl);
  own.impl("view", &at::native::view);
  own.impl("set_.source_Storage_storage_offset", &set_storage);
}

[[gnu::constructor]] void preloaded() { install(); }

}  // namespace

extern "C" GuardedCounts guarded_counts() {
  const std::lock_guard lock(mutex);
  return counts;
}

extern "C" void guarded_watch() { watch(); }
