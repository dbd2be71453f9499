// SPDX-License-Identifier: Apache-2.0
// A data set's file: JSON Lines or an array of rows, or CSV, also packed; and the README.md that names such files.
#include "kto/data/rows.hpp"

#include <map>

#include "fuzz.hpp"

void fuzz::rows(std::string_view bytes) { kto::read_rows(file("train.jsonl", bytes)); }

void fuzz::csv(std::string_view bytes) { kto::read_rows(file("train.csv", bytes)); }

// A file of many columns: the first byte is their number besides the text's, the second how many are omitted.
void fuzz::csv_columns(std::string_view bytes) {
  if (bytes.size() < 2) return;
  const auto count = 64U * static_cast<unsigned char>(bytes[0]), missing = static_cast<unsigned>(bytes[1]) % 4;
  const std::string_view text = bytes.substr(2), header = text.substr(0, text.find('\n'));
  std::string content(header), cells;
  for (unsigned i = 0; i < count; ++i) content += ",c" + std::to_string(i);
  for (unsigned i = missing; i < count; ++i) cells += i % 3 == 0 ? ",\"x\"" : ",x";
  for (std::size_t at = header.size() + 1; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    content.append(1, '\n').append(text.substr(at, end - at)) += cells;
    at = end + 1;
  }
  kto::read_rows(file("train.csv", content));
}

// The first byte chooses the packing: g(zip), z(std), b(zip2), x(z).
void fuzz::compressed(std::string_view bytes) {
  if (bytes.empty()) return;
  static const std::map<char, const char*> names{
      {'g', "train.jsonl.gz"}, {'z', "train.jsonl.zst"}, {'b', "train.jsonl.bz2"}, {'x', "train.csv.xz"}};
  if (const auto found = names.find(bytes[0]); found != names.end())
    kto::read_rows(file(found->second, bytes.substr(1)));
}

void fuzz::dataset_card(std::string_view bytes) {
  file("README.md", bytes);
  const auto configs = kto::detail::read_configs(folder());
  if (configs.empty()) return;
  const auto& config = kto::detail::choose_config(configs, "", "README.md");
  for (const auto& [split, patterns] : config.data_files)
    for (const auto& slice : kto::detail::parse_split(split)) slice.range(10);
}
