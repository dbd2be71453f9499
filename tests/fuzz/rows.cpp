// SPDX-License-Identifier: Apache-2.0
// A data set's file: JSON Lines or an array of rows, or CSV; and the README.md that names such files.
#include "kto/data/rows.hpp"

#include "fuzz.hpp"

void fuzz::rows(std::string_view bytes) { kto::read_rows(file("train.jsonl", bytes)); }

void fuzz::csv(std::string_view bytes) { kto::read_rows(file("train.csv", bytes)); }

void fuzz::dataset_card(std::string_view bytes) {
  file("README.md", bytes);
  const auto configs = kto::detail::read_configs(folder());
  if (configs.empty()) return;
  const auto& config = kto::detail::choose_config(configs, "", "README.md");
  for (const auto& [split, patterns] : config.data_files)
    for (const auto& slice : kto::detail::parse_split(split)) slice.range(10);
}
