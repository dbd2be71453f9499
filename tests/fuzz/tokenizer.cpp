// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, tokenizer.model, and the files of special tokens with a valid tokenizer.json; applied to a text.
#include "fuzz.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace {

void use(const kto::Tokenizer& tokenizer) {
  const auto ids =
      tokenizer.encode("Hello  w\xC3\xB6rld, it's 2026!\n <|im_start|>\t\xF0\x9F\x98\x80 \xE4\xB8\xAD", true);
  tokenizer.decode(ids);
  tokenizer.decode(ids, true);
}

}  // namespace

void fuzz::tokenizer_json(std::string_view bytes) { use(kto::Tokenizer::from_file(file("tokenizer.json", bytes))); }

namespace {

/// Uses the model folder of tests/golden/data with other files of its tokenizer.
void use_folder() {
  static const bool copied =
      std::filesystem::copy_file(KTO_SOURCE_DIR "/tests/golden/data/model/tokenizer.json",
                                 fuzz::folder() / "tokenizer.json", std::filesystem::copy_options::overwrite_existing);
  static_cast<void>(copied);
  const auto loaded = kto::load_tokenizer(fuzz::folder());
  use(loaded.tokenizer);
  loaded.config.chat_template();
}

}  // namespace

void fuzz::tokenizer_config(std::string_view bytes) {
  file("tokenizer_config.json", bytes);
  use_folder();
}

// Line 1: special_tokens_map.json, line 2: added_tokens.json, the rest: tokenizer_config.json.
void fuzz::special_tokens(std::string_view bytes) {
  for (const char* name : {"special_tokens_map.json", "added_tokens.json"}) {
    const auto line = bytes.substr(0, bytes.find('\n'));
    file(name, line);
    bytes.remove_prefix(std::min(line.size() + 1, bytes.size()));
  }
  tokenizer_config(bytes);
}

// Line 1: tokenizer_config.json, the rest: tokenizer.model.
void fuzz::sentence_piece(std::string_view bytes) {
  const auto line = bytes.substr(0, bytes.find('\n'));
  file("tokenizer_config.json", line);
  file("tokenizer.model", bytes.substr(std::min(line.size() + 1, bytes.size())));
  use(kto::load_tokenizer(fuzz::folder()).tokenizer);
}
