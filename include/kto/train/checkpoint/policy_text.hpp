// SPDX-License-Identifier: Apache-2.0
// A policy (loss, reference, collator, optimizer) as text, so that a run is not resumed with a different one: its
// describe() if it has one, else its type and members. Excludes its state (kto/io/state.hpp), which is in the
// checkpoint.
#pragma once

#include <cxxabi.h>

#include <algorithm>
#include <concepts>
#include <cstdlib>
#include <memory>
#include <ranges>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include "kto/core/fields.hpp"
#include "kto/io/content_hash.hpp"
#include "kto/io/json.hpp"
#include "kto/model/concept.hpp"

namespace kto {

namespace detail {

/// A type's name, without template arguments if they make it long; its members show them.
template <class T>
std::string type_text() {
  constexpr std::size_t most = 100;
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(typeid(T).name(), nullptr, nullptr, &status), std::free);
  std::string text = status == 0 ? demangled.get() : typeid(T).name();
  if (const auto arguments = text.find('<'); text.size() > most && arguments != std::string::npos)
    text = text.substr(0, arguments) + "<...>";
  return text;
}

template <HasParameters Model>
std::string weights_hash(const Model& model) {
  ContentHash hash;
  for (const auto& [name, tensor] : model.named_parameters()) {
    check_interrupt();
    hash.add(tensor);
  }
  return hash.hex();
}

/// The address and type of an object. The type matters because the first member of a struct has the struct's address.
using ObjectPlace = std::pair<const void*, const std::type_info*>;
template <class T>
ObjectPlace place_of(const T& x) {
  return {std::addressof(x), &typeid(T)};
}

template <class T>
concept PointsTo = requires(const T& pointer) {
  *pointer;
  pointer.get();
  static_cast<bool>(pointer);
};

class PolicyWriter {
 public:
  std::string text;
  bool is_whole = true;

  /// Excludes these objects.
  explicit PolicyWriter(std::vector<ObjectPlace> left_out) : left_out_(std::move(left_out)) {}

  template <class T>
  void add(const T& x) {
    if (std::ranges::find(left_out_, place_of(x)) != left_out_.end()) {
      text += '_';
      return;
    }
    if constexpr (std::same_as<T, Tensor>) {
      ContentHash hash;
      if (x.defined()) hash.add(x);
      text += hash.hex();
    } else if constexpr (std::is_arithmetic_v<T>) {
      text += Json(x).dump();
    } else if constexpr (std::is_enum_v<T>) {
      add(static_cast<std::underlying_type_t<T>>(x));
    } else if constexpr (std::same_as<T, Json>) {
      text += x.dump(-1, ' ', false, on_error);
    } else if constexpr (std::convertible_to<const T&, std::string> && !std::is_pointer_v<T>) {
      text += Json(std::string(x)).dump(-1, ' ', false, on_error);
    } else if constexpr (HasParameters<T> || DescribesItself<T>) {
      if constexpr (HasParameters<T>) text += weights_hash(x);
      if constexpr (DescribesItself<T>) text += Json(std::string(describe(x))).dump(-1, ' ', false, on_error);
    } else if constexpr (requires { x.has_value(), *x; }) {
      add_pointee(x.has_value(), x);
    } else if constexpr (PointsTo<T>) {  // smart pointers; a plain pointer may dangle
      add_pointee(static_cast<bool>(x), x);
    } else if constexpr (requires {
                           typename T::type;
                           x.get();
                         }) {  // reference_wrapper
      add(x.get());
    } else if constexpr (requires { std::visit([](const auto&) {}, x); }) {
      text += std::to_string(x.index()) + ':';
      std::visit([&](const auto& held) { add(held); }, x);
    } else if constexpr (requires { typename T::hasher; }) {
      add_sorted(x);
    } else if constexpr (std::ranges::input_range<const T>) {
      add_all([&](const auto& each) {
        for (const auto& item : x) each(item);
      });
    } else if constexpr (requires { std::tuple_size<T>::value; }) {
      add_all([&](const auto& each) { std::apply([&](const auto&... item) { (each(item), ...); }, x); });
    } else if constexpr (HasFields<T>) {
      if constexpr (requires(T& holder, StateAddresses& state) { holder.visit_state(state); }) {
        StateAddresses state{left_out_};
        const_cast<T&>(x).visit_state(state);  // only records its address
      }
      add_all([&](const auto& each) { visit_fields(x, each); });
    } else {
      add_unknown();
    }
  }

 private:
  static constexpr auto on_error = Json::error_handler_t::replace;

  /// An archive that records the addresses of a holder's state.
  struct StateAddresses {
    std::vector<ObjectPlace>& out;
    template <class T>
    void operator()(std::string_view, T& value) {
      out.push_back(place_of(value));
    }
  };

  /// A container whose order is arbitrary.
  template <class Container>
  void add_sorted(const Container& items) {
    std::vector<std::string> texts;
    for (const auto& item : items) {
      const std::string before = std::exchange(text, {});
      add(item);
      texts.push_back(std::exchange(text, before));
    }
    std::ranges::sort(texts);
    for (const std::string& each : texts) text += each + ';';
  }
  template <class Pointer>
  void add_pointee(bool is_there, const Pointer& pointer) {
    if (is_there)
      add(*pointer);
    else
      text += "none";
  }
  template <class Each>
  void add_all(const Each& each) {
    text += '{';
    bool first = true;
    each([&](const auto& item) {
      if (!std::exchange(first, false)) text += ", ";
      add(item);
    });
    text += '}';
  }
  void add_unknown() {
    text += '?';
    is_whole = false;
  }

  std::vector<ObjectPlace> left_out_;
};

}  // namespace detail

struct PolicyText {
  std::string text;
  bool is_whole = true;  ///< false if parts cannot be compared: a function, a plain pointer, private members
};

/// Describes `policy` without its parts `known`, which are compared separately. A policy chosen at run time (with
/// visit_chosen(visit)) is described as the chosen one.
template <class Policy>
PolicyText policy_text(const Policy& policy, std::vector<detail::ObjectPlace> known = {}) {
  if constexpr (requires { policy.visit_chosen([](const auto&) {}); })
    return policy.visit_chosen([&](const auto& chosen) { return policy_text(chosen, known); });
  constexpr std::size_t most = 400;
  detail::PolicyWriter writer(std::move(known));
  writer.add(policy);
  std::string text = detail::type_text<Policy>() + ' ' + writer.text;
  if (text.size() > most) {
    ContentHash hash;
    hash.add(std::string_view(text));
    text = detail::type_text<Policy>() + " #" + hash.hex();
  }
  return {std::move(text), writer.is_whole};
}

}  // namespace kto
