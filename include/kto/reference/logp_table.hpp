// SPDX-License-Identifier: Apache-2.0
// What a reference says of rows, each at the place of its row: 8 bytes a row, and 16 more for its KL pair. One table
// serves references whose log-probs are computed before training (precomputed.hpp) and on a row's first visit
// (reused.hpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "kto/reference/concept.hpp"

namespace kto {

// Shapes: B examples of a batch, R rows.

/// Log-probs of one row under the reference, in nats.
struct RowLogps {
  double logp = 0;
  double kl_logp = 0;  ///< of its prompt with its partner's completion; 0 if the loss needs none
};

/// Rows are known by their place in memory, so they must stay where they are, as they are. NaN is never kept.
class LogpTable {
 public:
  /// Makes places for `rows`, with nothing known of them. Of rows without a place nothing is kept.
  void add(std::span<const Example> rows) { parts_.push_back({rows, unknown(rows.size()), {}, {}}); }

  void put(const Pick& pick, double logp, std::optional<double> kl_logp) {
    const auto part = std::ranges::find_if(parts_, [&](const Part& each) { return each.row_of(pick.example) >= 0; });
    if (part == parts_.end()) return;
    const std::int64_t row = part->row_of(pick.example);
    part->logp_R.mutable_data_ptr<double>()[row] = logp;
    if (!kl_logp) return;
    if (!part->kl_logp_R.defined()) {
      part->kl_logp_R = unknown(part->rows.size());
      part->partner_R = at::full({std::ssize(part->rows)}, -1, at::kLong);
    }
    part->kl_logp_R.mutable_data_ptr<double>()[row] = *kl_logp;
    part->partner_R.mutable_data_ptr<std::int64_t>()[row] = part->row_of(pick.kl_partner);
  }
  /// Keeps `logps` of the rows of `batch`. A row's pair takes the place of its last one.
  void keep(const Batch& batch, const ReferenceLogps& logps) {
    if (!names_its_rows(batch)) return;
    const auto on_cpu = [](const Tensor& logp_B) { return logp_B.to(at::kCPU, at::kDouble).contiguous(); };
    const Tensor logp_B = on_cpu(logps.logp_B), kl_logp_B = batch.kl_rows ? on_cpu(logps.kl_logp_B) : Tensor();
    for (std::size_t b = 0; b < batch.picks.size(); ++b)
      put(batch.picks[b], logp_B.const_data_ptr<double>()[b],
          batch.kl_rows ? std::optional(kl_logp_B.const_data_ptr<double>()[b]) : std::nullopt);
  }

  /// What is known of a row, and of its last pair.
  std::optional<RowLogps> find(const Example& row) const {
    const double logp = logp_of({&row, nullptr});
    if (std::isnan(logp)) return std::nullopt;
    const auto [part, at] = place_of(&row);
    return RowLogps{logp, part->kl_logp_R.defined() ? part->kl_logp_R.const_data_ptr<double>()[at] : 0};
  }
  /// Either part is undefined unless it is known of all rows of `batch`.
  ReferenceLogps find(const Batch& batch) const {
    if (!names_its_rows(batch)) return {};
    const auto column = [&](auto known) {
      std::vector<double> values;
      for (const Pick& pick : batch.picks)
        if (std::isnan(values.emplace_back((this->*known)(pick)))) return Tensor();
      return to_device(values, batch.sign_B.device());
    };
    return {.logp_B = column(&LogpTable::logp_of),
            .kl_logp_B = batch.kl_rows ? column(&LogpTable::kl_logp_of) : Tensor()};
  }
  bool knows(const Pick& pick, bool with_kl) const {
    return !std::isnan(logp_of(pick)) && !(with_kl && std::isnan(kl_logp_of(pick)));
  }

  /// What is known of the rows that were added first, those of training, for a checkpoint.
  template <class Archive>
  void visit_state(Archive& archive) {
    if (parts_.empty()) return;
    if constexpr (requires { archive.contains("logp_R"); })
      if (!archive.contains("logp_R")) return;  // of a run that kept none
    Part& of_training = parts_.front();
    archive("logp_R", of_training.logp_R);
    archive("kl_logp_R", of_training.kl_logp_R);
    archive("partner_R", of_training.partner_R);
    for (Tensor* column : {&of_training.kl_logp_R, &of_training.partner_R})
      if (column->defined()) *column = column->cpu();
  }

 private:
  struct Part {
    std::span<const Example> rows;
    Tensor logp_R;     ///< float64; NaN where unknown
    Tensor kl_logp_R;  ///< likewise, of each row's last pair; undefined without pairs
    Tensor partner_R;  ///< int64, the row whose completion that pair has; -1 without; undefined likewise

    /// -1 for a row that is not here.
    std::int64_t row_of(const Example* row) const {
      const std::less<> before;
      const bool is_here = row != nullptr && !before(row, rows.data()) && before(row, rows.data() + rows.size());
      return is_here ? row - rows.data() : -1;
    }
  };
  struct Place {
    const Part* part = nullptr;
    std::int64_t row = -1;
  };

  /// A collator need not fill Batch::picks.
  static bool names_its_rows(const Batch& batch) { return std::ssize(batch.picks) == batch.rows.num_rows; }

  static Tensor unknown(std::size_t num_rows) {
    return at::full({static_cast<std::int64_t>(num_rows)}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  }
  Place place_of(const Example* row) const {
    for (const Part& part : parts_)
      if (const std::int64_t at = part.row_of(row); at >= 0) return {&part, at};
    return {};
  }
  double logp_of(const Pick& pick) const {
    const auto [part, row] = place_of(pick.example);
    return part == nullptr ? std::nan("") : part->logp_R.const_data_ptr<double>()[row];
  }
  double kl_logp_of(const Pick& pick) const {
    const auto [part, row] = place_of(pick.example);
    if (part == nullptr || !part->kl_logp_R.defined()) return std::nan("");
    const std::int64_t partner = part->partner_R.const_data_ptr<std::int64_t>()[row];
    const bool is_pair = partner >= 0 && partner == part->row_of(pick.kl_partner);
    return is_pair ? part->kl_logp_R.const_data_ptr<double>()[row] : std::nan("");
  }

  std::vector<Part> parts_;
};

}  // namespace kto
