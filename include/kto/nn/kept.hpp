// SPDX-License-Identifier: Apache-2.0
// What an autograd node keeps for its backward pass besides tensors.
#pragma once

#include <utility>

#include "kto/core/torch.hpp"

namespace kto::detail {

template <class Value>
struct Kept : torch::CustomClassHolder {
  explicit Kept(Value given) : value(std::move(given)) {}
  Value value;
};

/// In the forward of a node: keeps `value` under `name`.
template <class Value>
void keep(torch::autograd::AutogradContext* ctx, const char* name, Value value) {
  ctx->saved_data[name] = at::IValue::make_capsule(c10::make_intrusive<Kept<Value>>(std::move(value)));
}

/// In its backward: what was kept, or null. The node owns it.
template <class Value>
const Value* kept(torch::autograd::AutogradContext* ctx, const char* name) {
  const auto found = ctx->saved_data.find(name);
  return found == ctx->saved_data.end() ? nullptr : &static_cast<const Kept<Value>&>(*found->second.toCapsule()).value;
}

}  // namespace kto::detail
