// SPDX-License-Identifier: Apache-2.0
// Relative position biases as data. Free of LibTorch.
#pragma once

#include <cstdint>

namespace kto {

/// A learned bias of the scores by head and by bucket of the distance between a key and its query (T5,
/// arXiv:1910.10683): half of the buckets hold one distance each, the others grow logarithmically up to max_distance.
struct RelativeBiasSpec {
  std::int64_t num_buckets = 32;    ///< of distances
  std::int64_t max_distance = 128;  ///< tokens; farther keys share the last bucket
  bool is_bidirectional = false;    ///< half of the buckets are for keys after the query
  bool is_first_layers = false;     ///< the table is the first layer's, else the layer has one of its own
};

}  // namespace kto
