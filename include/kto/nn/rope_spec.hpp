// SPDX-License-Identifier: Apache-2.0
// Which angles a rotary position embedding turns queries and keys by. Free of LibTorch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kto {

/// How frequencies are made, by transformers' names; plain is its "default".
enum class RopeType { plain, linear, dynamic, yarn, longrope, llama3, proportional };

/// Which rotations yarn stretches.
struct YarnRamp {
  double beta_fast = 32, beta_slow = 1;  ///< rotations in the original context: more are kept, fewer stretched
  bool truncate = true;                  ///< the bounds are whole coordinates
};

/// What rope_tables needs to know; fields a type does not use keep their defaults.
struct RopeConfig {
  RopeType type = RopeType::plain;  ///< how frequencies are made
  std::int64_t dim = 0;             ///< coordinates of a head that are rotated
  double theta = 10000;             ///< base of the frequencies
  bool interleaved = false;         ///< rotated pairs are coordinates 2i and 2i + 1, else i and i + dim / 2
  bool backwards = false;           ///< angles are negative
  double factor = 1;                ///< all but plain and longrope: how much longer than the original the context is
  double attention_scaling = 1;     ///< yarn, longrope: cos and sin are multiplied by it
  std::int64_t max_positions = 0;   ///< dynamic: frequencies change past this length
  std::int64_t original_max_positions = 0;           ///< yarn, longrope, llama3
  YarnRamp yarn = {};                                ///< yarn
  std::int64_t num_frequencies = 0;                  ///< proportional: further ones are 0
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3
  std::vector<double> short_factor = {};             ///< longrope, dim / 2, up to original_max_positions
  std::vector<double> long_factor = {};              ///< longrope, dim / 2, beyond them
};

/// Whether passes over sequences of at most `a` and of at most `b` tokens turn a position by the same angles: those of
/// dynamic and longrope depend on the longest sequence.
inline bool have_same_angles(const RopeConfig& rope, std::int64_t a, std::int64_t b) {
  if (rope.type == RopeType::dynamic) return a == b || std::max(a, b) <= rope.max_positions;
  if (rope.type == RopeType::longrope) return (a > rope.original_max_positions) == (b > rope.original_max_positions);
  return true;
}

}  // namespace kto
