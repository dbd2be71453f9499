// SPDX-License-Identifier: Apache-2.0
// Advice on the loss weights for imbalanced data (KTO, arXiv:2402.01306, eq. 8: desirable_weight * num_desirable /
// (undesirable_weight * num_undesirable) should be in [1, 4/3]).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>

#include "kto/core/error.hpp"
#include "kto/data/example.hpp"

namespace kto {

/// The weights that make up for an imbalance.
struct WeightRange {
  double low = 0;   ///< lowest weight
  double high = 0;  ///< highest weight
  /// Whether `weight` is in the range.
  bool contains(double weight) const { return low <= weight && weight <= high; }
};

/// Desirable and undesirable rows, and the weights that they ask for (KTO, arXiv:2402.01306, equation 8).
struct Balance {
  std::size_t num_desirable = 0;    ///< rows
  std::size_t num_undesirable = 0;  ///< rows
  WeightRange desirable;            ///< recommended desirable_weight with the other weight unchanged
  WeightRange undesirable;          ///< recommended undesirable_weight with the other weight unchanged
  bool in_range = true;             ///< the data is balanced, or one of the weights is in its range

  /// A message for the user; empty if the weights fit the data, or if all rows have the same label and no weight helps.
  std::optional<std::string> advice() const {
    if (in_range || num_desirable == 0 || num_undesirable == 0) return std::nullopt;
    return concat("the data has ", num_desirable, " desirable and ", num_undesirable,
                  " undesirable rows, and the weights do not compensate: set either desirable_weight in [",
                  desirable.low, ", ", desirable.high, "] or undesirable_weight in [", undesirable.low, ", ",
                  undesirable.high, "], not both");
  }
};

/// Counts `rows` and compares the weights with the ranges that TRL recommends, rounded to two decimals as there.
inline Balance weight_balance(std::span<const Example> rows, double desirable_weight, double undesirable_weight) {
  const auto rounded = [](double value) {
    char text[400];
    std::snprintf(text, sizeof text, "%.2f", value);
    return std::strtod(text, nullptr);
  };
  Balance balance;
  balance.num_desirable =
      static_cast<std::size_t>(std::count_if(rows.begin(), rows.end(), [](const Example& row) { return row.label; }));
  balance.num_undesirable = rows.size() - balance.num_desirable;

  const std::size_t desirable = std::max<std::size_t>(balance.num_desirable, 1);
  const std::size_t undesirable = rows.size() > desirable ? rows.size() - desirable : 1;
  const double for_desirable = static_cast<double>(undesirable) * undesirable_weight / static_cast<double>(desirable);
  const double for_undesirable = static_cast<double>(desirable) * desirable_weight / static_cast<double>(undesirable);
  balance.desirable = {rounded(for_desirable), rounded(for_desirable * 1.33)};
  balance.undesirable = {rounded(for_undesirable / 1.33), rounded(for_undesirable)};
  balance.in_range = desirable == undesirable || balance.desirable.contains(desirable_weight) ||
                     balance.undesirable.contains(undesirable_weight);
  return balance;
}

}  // namespace kto
