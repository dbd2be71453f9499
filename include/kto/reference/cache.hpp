// SPDX-License-Identifier: Apache-2.0
// Precomputed reference log-probs on disk, one file per key. The key covers everything that the numbers depend on: the
// token ids of every row and its KL partner, max_length, the reference's weights and description, and its precision. A
// changed row, template, tokenizer, weight, config or option gives another key, so nothing stale is ever read.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kto/io/cache_file.hpp"
#include "kto/reference/precomputed.hpp"

namespace kto {

namespace detail {

inline const CacheFormat& reference_cache_format() {
  static const CacheFormat kind{"kto reference log-probs 2", {"logp", "kl_logp"}};
  return kind;
}

}  // namespace detail

/// The key of `batches` under the weights of `reference`; `options` names everything else that changes the numbers.
template <ModelPolicy Model>
std::string reference_key(std::span<const std::vector<Pick>> batches, bool with_kl, const Model& reference,
                          const std::string& options) {
  ContentHash hash;
  hash.add(detail::reference_cache_format().format);
  hash.add(options);
  hash.add(with_kl ? "with KL pairs" : "without KL pairs");
  if constexpr (DescribesItself<Model>) hash.add(describe(reference));
  for (const auto& batch : batches)
    for (const Pick& pick : batch) {
      const auto add = [&](const std::vector<std::int32_t>& ids) { hash.add(std::span<const std::int32_t>(ids)); };
      add(pick.example->prompt_ids);
      add(pick.example->completion_ids);
      if (with_kl) add(pick.kl_partner->completion_ids);
    }
  for (const auto& [name, tensor] : reference.named_parameters()) {
    check_interrupt();
    hash.add(name);
    hash.add(tensor);
  }
  return hash.hex();
}

/// The log-probs stored under `key` in `folder`, or nothing. Throws Error if the file is damaged or belongs to another
/// key.
inline std::optional<std::vector<RowLogps>> read_reference_cache(const fs::path& folder, const std::string& key,
                                                                 std::size_t num_rows) {
  const auto kept = read_cache(folder, key, detail::reference_cache_format());
  if (!kept) return std::nullopt;
  const Tensor &logp = kept->tensors[0], &kl_logp = kept->tensors[1];
  for (const auto& [name, column] : {std::pair("logp", logp), std::pair("kl_logp", kl_logp)})
    if (column.scalar_type() != at::kDouble || column.sizes() != at::IntArrayRef({static_cast<std::int64_t>(num_rows)}))
      refuse_cache(cache_path(folder, key), "it has no float64 ", name, " of ", num_rows, " rows");
  std::vector<RowLogps> out(num_rows);
  for (std::size_t i = 0; i < num_rows; ++i)
    out[i] = {logp.const_data_ptr<double>()[i], kl_logp.const_data_ptr<double>()[i]};
  return out;
}

/// Stores log-probs under `key` atomically. Creates `folder` if it is missing.
inline void write_reference_cache(const fs::path& folder, const std::string& key, std::span<const RowLogps> logps) {
  const auto column = [&](double RowLogps::* field) {
    Tensor values = at::empty({static_cast<std::int64_t>(logps.size())}, at::kDouble);
    for (std::size_t i = 0; i < logps.size(); ++i) values.mutable_data_ptr<double>()[i] = logps[i].*field;
    return values;
  };
  write_cache(folder, key, detail::reference_cache_format(),
              {{"logp", column(&RowLogps::logp)}, {"kl_logp", column(&RowLogps::kl_logp)}});
}

}  // namespace kto
