// SPDX-License-Identifier: Apache-2.0
// The activations of feed-forward layers and the names that config.json gives them. Free of LibTorch.
#pragma once

#include <string_view>
#include <utility>

namespace kto {

/// relu2 is the square of relu, bloom_gelu is gelu_tanh with BLOOM's constant.
enum class Activation { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, bloom_gelu };

namespace detail {

inline constexpr std::pair<std::string_view, Activation> activations[] = {{"silu", Activation::silu},
                                                                          {"swish", Activation::silu},
                                                                          {"gelu", Activation::gelu},
                                                                          {"gelu_python", Activation::gelu},
                                                                          {"gelu_new", Activation::gelu_tanh},
                                                                          {"gelu_fast", Activation::gelu_tanh},
                                                                          {"gelu_accurate", Activation::gelu_tanh},
                                                                          {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                                                          {"gelu_python_tanh", Activation::gelu_tanh},
                                                                          {"quick_gelu", Activation::quick_gelu},
                                                                          {"relu", Activation::relu},
                                                                          {"relu2", Activation::relu2}};

}  // namespace detail

}  // namespace kto
