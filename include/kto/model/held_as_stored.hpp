// SPDX-License-Identifier: Apache-2.0
// A frozen decoder whose weights are those of its files, mapped into memory: 2 bytes a parameter in place of 4 for a
// reference of float32 that was stored in bfloat16 or float16, and the system may take them back. They are widened one
// weight at a time, where they are used, which gives the same numbers.
#pragma once

#include <memory>
#include <string>

#include "kto/io/checkpoint.hpp"
#include "kto/model/folds.hpp"
#include "kto/model/stored_names.hpp"

namespace kto {

namespace detail {

/// Calls visit(name, tensor) for the parameters that are most of a decoder: the weights of products, and tables.
template <class Visit>
void visit_large_parameters(Decoder& decoder, const Visit& visit) {
  visit_modules(decoder, [&](const std::string& path, auto& module, const ModuleShape& shape) {
    using Module = decltype(module);
    if constexpr (is_a<Module, Linear> || is_a<Module, kto::Embedding> || is_a<Module, OutputHead> ||
                  is_a<Module, LayerTable> || is_a<Module, Experts>)
      visit_module_parameters(path, module, shape, [&](const std::string& name, Tensor& tensor, const auto&) {
        if (tensor.defined() && tensor.dim() > 1) visit(name, tensor);
      });
  });
}

}  // namespace detail

/// `decoder` with the weights of `folder`, from which it was loaded and not trained since, in the type in which its files
/// have them, where that is narrower than that of its products and on the CPU; all others are shared. A weight that is
/// not in the files as it is held (joined parts, changed files) stays.
inline Decoder held_as_stored(Decoder decoder, const fs::path& folder) {
  const auto files = std::make_shared<const Checkpoint>(folder);
  detail::visit_large_parameters(decoder, [&](const std::string& name, Tensor& tensor) {
    check_interrupt();
    const std::string stored = detail::stored_name(*files, decoder.spec.names, name);
    if (!tensor.is_cpu() || !files->contains(stored)) return;
    const Tensor mapped = files->mapped(stored);
    const auto size = [](at::ScalarType type) { return c10::elementSize(type); };
    const bool is_narrower = mapped.is_floating_point() && size(mapped.scalar_type()) < size(tensor.scalar_type()) &&
                             size(mapped.scalar_type()) < size(decoder.compute);
    if (!is_narrower || mapped.sizes() != tensor.sizes() ||
        !at::equal(mapped.to(tensor.scalar_type()), tensor.detach()))
      return;
    tensor = mapped;
    decoder.mapped = files;
  });
  return decoder;
}

}  // namespace kto
