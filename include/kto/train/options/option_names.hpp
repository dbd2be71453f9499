// SPDX-License-Identifier: Apache-2.0
// The spelling of TrainConfig's enum values, and the headings of options in --help.
#pragma once

#include "kto/options/option.hpp"
#include "kto/train/config.hpp"

namespace kto {

template <>
inline constexpr std::array<std::string_view, 3> enum_names<IntervalStrategy>{"no", "steps", "epoch"};
template <>
inline constexpr std::array<std::string_view, 4> enum_names<SaveStrategy>{"no", "steps", "epoch", "best"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<SamplingStrategy>{"sequential", "random",
                                                                              "group_by_length"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<NonFiniteLoss>{"stop", "skip"};
template <>
inline constexpr std::array<std::string_view, 3> enum_names<InputTokens>{"no", "all", "non_padding"};
template <>
inline constexpr std::array<std::string_view, 2> enum_names<KlScope>{"micro_batch", "window"};
template <>
inline constexpr std::array<std::string_view, 12> enum_names<LrSchedulerType>{"linear",
                                                                              "cosine",
                                                                              "cosine_with_restarts",
                                                                              "polynomial",
                                                                              "constant",
                                                                              "constant_with_warmup",
                                                                              "inverse_sqrt",
                                                                              "reduce_lr_on_plateau",
                                                                              "cosine_with_min_lr",
                                                                              "cosine_warmup_with_min_lr",
                                                                              "warmup_stable_decay",
                                                                              "greedy"};

/// Headings of --help, and their order.
namespace group {
inline constexpr std::string_view model = "Model";
inline constexpr std::string_view data = "Data";
inline constexpr std::string_view loss = "Loss";
inline constexpr std::string_view reference = "Reference";
inline constexpr std::string_view adapter = "LoRA";
inline constexpr std::string_view length = "Length of the run and batches";
inline constexpr std::string_view optimization = "Optimization";
inline constexpr std::string_view evaluation = "Evaluation and log";
inline constexpr std::string_view output = "Output";
inline constexpr std::string_view machine = "Randomness and machine";
inline constexpr std::array all{model,  data,         loss,       reference, adapter,
                                length, optimization, evaluation, output,    machine};
}  // namespace group

}  // namespace kto
