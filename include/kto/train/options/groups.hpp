// SPDX-License-Identifier: Apache-2.0
// Under which headings options are shown.
#pragma once

#include <array>
#include <string_view>

/// Headings of --help, and their order.
namespace kto::group {

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

}  // namespace kto::group
