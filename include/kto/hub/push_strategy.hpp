// SPDX-License-Identifier: Apache-2.0
// What a run pushes to the hub, and when: transformers' hub_strategy.
#pragma once

#include "kto/core/enum_names.hpp"

namespace kto::hub {

enum class PushStrategy {
  end,             ///< the trained model
  every_save,      ///< also the model of each checkpoint
  checkpoint,      ///< also the newest checkpoint, as last-checkpoint, to go on from
  all_checkpoints  ///< also all checkpoints, by their names
};

}  // namespace kto::hub

namespace kto {
template <>
inline constexpr std::array<std::string_view, 4> enum_names<hub::PushStrategy>{"end", "every_save", "checkpoint",
                                                                               "all_checkpoints"};
}  // namespace kto
