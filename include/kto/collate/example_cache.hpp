// SPDX-License-Identifier: Apache-2.0
// Tokenized rows on disk, so that the next run over the same files need not make them. The key is of all that they
// depend on: the bytes of the data files and of the tokenizer's, and what is taken of the rows.
#pragma once

#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/data/encode.hpp"
#include "kto/io/cache_file.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace kto {

namespace detail {

inline const CacheFormat& example_cache_format() {
  static const CacheFormat kind{"kto tokenized rows 3",
                                {"ids", "prompt_lengths", "completion_lengths", "labels", "rows"}};
  return kind;
}

/// Names and content of a model folder's files that say how text becomes tokens. Where a template shows the date, the
/// day is part of it.
inline void add_tokenizer(ContentHash& hash, const fs::path& folder) {
  std::vector<fs::path> files = tokenizer_files(folder);
  if (fs::exists(folder / "config.json")) files.emplace_back("config.json");  // may name the tokenizer's class
  bool tells_date = false;
  for (const fs::path& name : files) {
    const std::string content = read_file(folder / name);
    hash.add(name.string());
    hash.add(content);
    tells_date = tells_date || content.find("strftime_now") != std::string::npos;
  }
  if (!tells_date) return;
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  char day[16] = {};
  (void)std::strftime(day, sizeof day, "%Y-%m-%d", ::localtime_r(&now, &local));
  hash.add(std::string_view(day));
}

}  // namespace detail

/// The key of the rows of `parts`, encoded with the tokenizer and template in `model_folder`, `older` as RowEncoder has
/// it, `apart` where prompt and completion are tokenized apart. Names of files are part of it, since messages have them; dropping and truncation are not: they come after.
inline std::string example_cache_key(std::span<const RowFiles> parts, const fs::path& model_folder, bool older = false,
                                     bool apart = false) {
  ContentHash hash;
  hash.add(detail::example_cache_format().format);
  if (older) hash.add("older");
  if (apart) hash.add("apart");
  detail::add_tokenizer(hash, model_folder);
  for (const RowFiles& part : parts) {
    hash.add(concat("part of ", part.files.size(), " files, rows ", part.first_row, " + ", part.max_rows, ", pad ",
                    part.label_pad_token_id, ", format ", part.format ? static_cast<int>(*part.format) : -1));
    for (const std::string& note : part.notes) hash.add(note);
    for (const std::string& column : part.columns) hash.add(column);
    for (const fs::path& file : part.files) {
      hash.add(file.string());
      hash.add(FileReader(file));
    }
  }
  return hash.hex();
}

/// The rows stored under `key` in `folder`, nothing dropped; nothing if there are none. Throws Error, which says
/// why, when the file is damaged or is no cache of this key.
inline std::optional<Encoded> read_example_cache(const fs::path& folder, const std::string& key) {
  const auto kept = read_cache(folder, key, detail::example_cache_format());
  if (!kept) return std::nullopt;
  const auto& [tensors, metadata] = *kept;
  const Tensor &ids = tensors[0], &prompts = tensors[1], &completions = tensors[2], &labels = tensors[3],
               &rows = tensors[4];
  const auto n = static_cast<std::size_t>(rows.numel());
  const auto is = [&](const Tensor& column, at::ScalarType type) {
    return column.scalar_type() == type && column.dim() == 1 && static_cast<std::size_t>(column.numel()) == n;
  };
  if (!is(rows, at::kLong) || !is(labels, at::kByte) || !is(prompts, at::kInt) || !is(completions, at::kInt) ||
      ids.scalar_type() != at::kInt || ids.dim() != 1 || (prompts < 0).any().item<bool>() ||
      (completions < 0).any().item<bool>() || !metadata.contains("notes") ||
      ids.numel() != prompts.sum().item<std::int64_t>() + completions.sum().item<std::int64_t>())
    refuse_cache(cache_path(folder, key), "its tensors do not belong together");
  Encoded out;
  out.examples.resize(n);
  const auto* id = ids.const_data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < n; ++i) {
    const auto take = [&](const Tensor& lengths) {
      const auto* begin = std::exchange(id, id + lengths.const_data_ptr<std::int32_t>()[i]);
      return std::vector<std::int32_t>(begin, id);
    };
    Example& example = out.examples[i];
    example.prompt_ids = take(prompts);
    example.completion_ids = take(completions);
    example.label = labels.const_data_ptr<std::uint8_t>()[i] != 0;
    example.row = static_cast<std::size_t>(rows.const_data_ptr<std::int64_t>()[i]);
  }
  out.notes = parse_json(metadata.at("notes"), cache_path(folder, key).string()).get<std::vector<std::string>>();
  return out;
}

/// Stores `encoded`, of which nothing is dropped yet, under `key`.
inline void write_example_cache(const fs::path& folder, const std::string& key, const Encoded& encoded) {
  const auto n = static_cast<std::int64_t>(encoded.examples.size());
  std::int64_t num_ids = 0;
  for (const Example& example : encoded.examples)
    num_ids += static_cast<std::int64_t>(example.prompt_ids.size() + example.completion_ids.size());
  const Tensor ids = at::empty({num_ids}, at::kInt), prompts = at::empty({n}, at::kInt),
               completions = at::empty({n}, at::kInt), labels = at::empty({n}, at::kByte),
               rows = at::empty({n}, at::kLong);
  auto* id = ids.mutable_data_ptr<std::int32_t>();
  for (std::size_t i = 0; i < encoded.examples.size(); ++i) {
    const Example& example = encoded.examples[i];
    for (const auto* part : {&example.prompt_ids, &example.completion_ids}) id = std::ranges::copy(*part, id).out;
    prompts.mutable_data_ptr<std::int32_t>()[i] = static_cast<std::int32_t>(example.prompt_ids.size());
    completions.mutable_data_ptr<std::int32_t>()[i] = static_cast<std::int32_t>(example.completion_ids.size());
    labels.mutable_data_ptr<std::uint8_t>()[i] = example.label ? 1 : 0;
    rows.mutable_data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(example.row);
  }
  write_cache(folder, key, detail::example_cache_format(),
              {{"ids", ids},
               {"prompt_lengths", prompts},
               {"completion_lengths", completions},
               {"labels", labels},
               {"rows", rows}},
              {{"notes", Json(encoded.notes).dump(-1, ' ', false, Json::error_handler_t::replace)}});
}

}  // namespace kto
