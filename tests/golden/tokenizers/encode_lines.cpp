// SPDX-License-Identifier: Apache-2.0
// For fuzz_tokenizers.py: ids and decoded text of each JSON string on standard input.
//     encode_lines FILE_OR_FOLDER < texts.jsonl > ids.jsonl
#include <iostream>
#include <string>

#include "kto/text/tokenizer_config.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    const kto::fs::path path = argv[1];
    const kto::Tokenizer tokenizer =
        kto::fs::is_directory(path) ? kto::load_tokenizer(path).tokenizer : kto::Tokenizer::from_file(path);
    for (std::string line; std::getline(std::cin, line);) {
      const auto text = kto::parse_json(line, "standard input").get<std::string>();
      const auto ids = tokenizer.encode(text, true);
      std::cout << kto::Json{{"ids", ids}, {"text", tokenizer.decode(ids)}}.dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
