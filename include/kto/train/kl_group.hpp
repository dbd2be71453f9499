// SPDX-License-Identifier: Apache-2.0
// Whether KL pairs are possible: a row pairs with another row of its group, which is its micro-batch or its whole
// update.
#pragma once

#include <string_view>

#include "kto/core/error.hpp"
#include "kto/train/config.hpp"

namespace kto {

namespace detail {
inline constexpr std::string_view lone_rows =
    " leaves each row alone with its KL baseline, which is then its own log-ratio: the loss says nothing of what is "
    "learnt";
}

/// Whether a row has another row for a KL pair.
inline bool has_kl_partners(const TrainConfig& config) {
  return config.per_device_train_batch_size > 1 ||
         (config.kl_scope == KlScope::window && config.gradient_accumulation_steps > 1);
}

/// Throws UsageError if every row would pair with itself and the loss needs KL pairs. TRL also refuses a batch size of
/// 1.
inline void check_kl_group(const TrainConfig& config) {
  if (has_kl_partners(config)) return;
  const bool window = config.kl_scope == KlScope::window;
  throw UsageError(concat("per_device_train_batch_size 1", window ? " with gradient_accumulation_steps 1" : "",
                          detail::lone_rows, "; use larger batches (4 rows or more)",
                          window ? ", or raise gradient_accumulation_steps"
                                 : ", or kl_scope window with gradient_accumulation_steps above 1"));
}

}  // namespace kto
