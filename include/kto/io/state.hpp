// SPDX-License-Identifier: Apache-2.0
// State that a checkpoint must keep: tensors and numbers under names. A type with state lists it once,
//   template <class Archive> void visit_state(Archive& archive) { archive("velocity", velocity); }
// and is saved by a StateWriter and restored by a StateReader. Needs no include: losses stay free of LibTorch.
#pragma once

#include <cmath>
#include <concepts>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kto/core/member_names.hpp"
#include "kto/dist/shared_out.hpp"
#include "kto/io/json.hpp"
#include "kto/io/safetensors.hpp"

namespace kto {

/// What a StateWriter collected: tensors for a safetensors file, everything else for a JSON file.
struct SavedState {
  std::vector<std::pair<std::string, Tensor>> tensors;
  Json values = Json::object();
  std::optional<SafetensorsFile> file = std::nullopt;  ///< more tensors, read one at a time on demand
  /// Gives the tensors that are listed without memory (on the device meta), one at a time.
  std::function<Tensor(const std::string& name)> fetch = {};
};

namespace detail {

template <class T>
inline constexpr bool is_sequence = false;
template <class T>
inline constexpr bool is_sequence<std::vector<T>> = true;
template <class T>
inline constexpr bool is_sequence<std::deque<T>> = true;

template <class T>
inline constexpr bool is_named_map = false;
template <class T>
inline constexpr bool is_named_map<std::map<std::string, T>> = true;

inline std::string joined_name(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : concat(prefix, '.', name);
}

}  // namespace detail

class StateWriter {
 public:
  template <class T>
  void operator()(std::string_view name, const T& value) {
    const std::string path = detail::joined_name(prefix_, name);
    if constexpr (std::same_as<T, Tensor>) {
      if (value.defined()) state_.tensors.emplace_back(path, value.detach());
    } else if constexpr (detail::is_sequence<T>) {
      state_.values[path] = value.size();
      for (std::size_t i = 0; i < value.size(); ++i) (*this)(concat(name, '.', i), value[i]);
    } else if constexpr (detail::is_named_map<T>) {
      Json names = Json::array();
      for (const auto& item : value) names.push_back(item.first);
      state_.values[path] = names;
      for (const auto& [key, item] : value) (*this)(concat(name, '.', key), item);
    } else if constexpr (std::floating_point<T>) {  // JSON has no infinity or NaN
      state_.values[path] = std::isfinite(value) ? Json(value) : Json(concat(value));
    } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, Json>) {
      state_.values[path] = value;
    } else {
      const std::string outer = std::exchange(prefix_, path);
      const_cast<T&>(value).visit_state(*this);  // one visit_state serves both directions
      prefix_ = outer;
    }
  }

  /// The whole state, collected elsewhere.
  void put(SavedState state) { state_ = std::move(state); }
  SavedState take() { return std::move(state_); }

 private:
  std::string prefix_;
  SavedState state_;
};

/// Restores what a StateWriter saved. A defined tensor is overwritten in place, an undefined one is created on
/// `device`. Throws Error, starting with `where`, if something is missing or has another shape or type.
class StateReader {
 public:
  StateReader(SavedState state, at::Device device, std::string where)
      : values_(std::move(state.values)), file_(std::move(state.file)), device_(device), where_(std::move(where)) {
    for (auto& [name, tensor] : state.tensors) tensors_.emplace(name, std::move(tensor));
  }

  template <class T>
  void operator()(std::string_view name, T& value) {
    const std::string path = detail::joined_name(prefix_, name);
    if constexpr (std::same_as<T, Tensor>) {
      restore(path, value);
    } else if constexpr (detail::is_sequence<T>) {
      value.resize(get_size(path));
      for (std::size_t i = 0; i < value.size(); ++i) (*this)(concat(name, '.', i), value[i]);
    } else if constexpr (detail::is_named_map<T>) {
      value.clear();
      for (const auto& key : get<std::vector<std::string>>(path)) (*this)(concat(name, '.', key), value[key]);
    } else if constexpr (std::floating_point<T>) {
      const Json& stored = find(path);
      value =
          stored.is_string() ? static_cast<T>(std::strtod(stored.get<std::string>().c_str(), nullptr)) : get<T>(path);
    } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, Json>) {
      value = get<T>(path);
    } else {
      const std::string outer = std::exchange(prefix_, path);
      value.visit_state(*this);
      prefix_ = outer;
    }
  }

  /// Restores, of each stored tensor, what `part_of` gives: tensors of any shape with as many elements; of an undefined
  /// one nothing.
  void restore_parts(std::function<Tensor(const std::string& name, const Tensor& stored)> part_of) {
    part_of_ = std::move(part_of);
  }

  /// Whether the state has a tensor of that name.
  bool contains(std::string_view name) const {
    const std::string path = detail::joined_name(prefix_, name);
    return tensors_.contains(path) || (file_ && file_->contains(path));
  }

 private:
  const Json& find(const std::string& path) const {
    const auto found = values_.find(path);
    check(found != values_.end(), where_, ": has no ", path, ": it was saved by a run with other policies");
    return *found;
  }

  template <class T>
  T get(const std::string& path) const {
    const Json& stored = find(path);
    if (auto value = json_as<T>(stored)) return *std::move(value);
    fail(where_, ": ", path, " has the unexpected value ", stored.dump());
  }

  /// The length of a list. A length far above the number of entries is damage, and must not decide how much memory is
  /// allocated. The margin of 1000 is for undefined tensors, which have no entry.
  std::size_t get_size(const std::string& path) const {
    const auto size = get<std::size_t>(path);
    const std::size_t num_tensors = tensors_.size() + (file_ ? file_->names().size() : 0);
    check(size <= values_.size() + num_tensors + 1000, where_, ": ", path, " is ", size,
          "; expected the length of a list");
    return size;
  }

  void restore(const std::string& path, Tensor& value) {
    const at::NoGradGuard no_grad;
    const auto found = tensors_.find(path);
    const bool is_in_file = file_ && file_->contains(path);
    if (found == tensors_.end() && !is_in_file) {
      check(!value.defined() || value.numel() == 0, where_, ": has no tensor ", path,
            ": it was saved by a run with other policies");
      return;
    }
    Tensor stored = is_in_file ? file_->tensor(path) : found->second;
    if (part_of_) stored = part_of_(path, stored);
    if (!stored.defined()) return;
    if (!value.defined()) {
      value = stored.to(device_, stored.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
      return;
    }
    const bool is_flat = stored.dim() == 1 && stored.numel() == value.numel();  // it was in parts
    check((is_flat || value.sizes() == stored.sizes()) && value.scalar_type() == stored.scalar_type(), where_, ": ",
          path, " is ", stored.scalar_type(), ' ', shape_text(stored.sizes()), ", expected ", value.scalar_type(), ' ',
          shape_text(value.sizes()));
    present(value).copy_(stored.view(value.sizes()));
    keep_own_part(value);
  }

  std::string prefix_;
  Json values_;
  std::map<std::string, Tensor> tensors_;
  std::optional<SafetensorsFile> file_;
  std::function<Tensor(const std::string&, const Tensor&)> part_of_ = {};
  at::Device device_;
  std::string where_;
};

/// A type that lists its state.
template <class T>
concept HasState = requires(T& holder, StateWriter& writer, StateReader& reader) {
  holder.visit_state(writer);
  holder.visit_state(reader);
};

namespace detail {
struct StateHook {
  int visit_state;
};
}  // namespace detail

/// A type that has a member called visit_state. It must then list its state for both archives.
template <class T>
concept NamesVisitState = detail::CanBeBase<T> && !requires { &detail::WithNames<T, detail::StateHook>::visit_state; };

}  // namespace kto
