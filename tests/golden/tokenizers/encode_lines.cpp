// SPDX-License-Identifier: Apache-2.0
// For fuzz_tokenizers.py: first what the tokenizer is, then ids and decoded text of each JSON string on standard input.
//     encode_lines FILE_OR_FOLDER < texts.jsonl > ids.jsonl
#include <iostream>
#include <string>

#include "kto/text/tokenizer_config.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    const kto::fs::path path = argv[1];
    kto::TokenizerConfig config;
    const kto::Tokenizer tokenizer = [&] {
      if (!kto::fs::is_directory(path)) return kto::Tokenizer::from_file(path);
      auto loaded = kto::load_tokenizer(path);
      config = std::move(loaded.config);
      return std::move(loaded.tokenizer);
    }();
    const kto::Json about = {
        {"class", config.tokenizer_class}, {"special_tokens", config.special_tokens}, {"size", tokenizer.vocab_size()}};
    std::cout << about.dump() << '\n';
    for (std::string line; std::getline(std::cin, line);) {
      const auto text = kto::parse_json(line, "standard input").get<std::string>();
      const auto ids = tokenizer.encode(text, true);
      const kto::Json out = {{"ids", ids},
                             {"alone", tokenizer.encode(text, false)},
                             {"text", tokenizer.decode(ids)},
                             {"skipped", tokenizer.decode(ids, true)}};
      std::cout << out.dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
