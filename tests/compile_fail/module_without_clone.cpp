// expects: derive it from torch::nn::Cloneable<YourModule>
// SPDX-License-Identifier: Apache-2.0
#include <torch/nn/cloneable.h>

#include "policies.hpp"

struct Base : torch::nn::Cloneable<Base> {
  void reset() override;
  Tensor forward(const Tensor& ids_BT, const Tensor& mask_BT);
};
struct Whole : torch::nn::Module {
  Tensor forward(const Tensor& ids_BT, const Tensor& mask_BT);
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device) const override;
};
struct Derived : Base {};        // clone() would make a Base
struct WholeDerived : Whole {};  // whoever writes clone() knows what it makes
template <class Own>
struct Middle : torch::nn::Cloneable<Own> {};
struct Leaf : Middle<Leaf> {};
static_assert(kto::detail::makes_clones<Base>() && kto::detail::makes_clones<Whole>() &&
              kto::detail::makes_clones<Leaf>());
static_assert(kto::detail::makes_clones<WholeDerived>() && !kto::detail::makes_clones<Derived>());

struct Plain : torch::nn::Module {
  Tensor forward(const Tensor& ids_BT, const Tensor& mask_BT);
};

auto use(const std::shared_ptr<Base>& good, const std::shared_ptr<Plain>& bad) {
  return std::pair(kto::live_reference(kto::ModuleModel{good}), kto::live_reference(kto::ModuleModel{bad}));
}
