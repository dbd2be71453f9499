// SPDX-License-Identifier: Apache-2.0
// The one file that includes LibTorch: ATen tensors and autograd, never torch/torch.h (three times the compile time).
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "kto/core/error.hpp"

namespace kto {

using at::Tensor;

/// "[2, 3]", for messages.
inline std::string shape_text(at::IntArrayRef sizes) { return concat(sizes); }

}  // namespace kto
