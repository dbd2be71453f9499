// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, and tokenizer_config.json beside a sound tokenizer.json; both used on a text.
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

void fuzz::tokenizer_config(std::string_view bytes) {
  static const bool copied =
      std::filesystem::copy_file(KTO_SOURCE_DIR "/tests/golden/data/model/tokenizer.json", folder() / "tokenizer.json",
                                 std::filesystem::copy_options::overwrite_existing);
  static_cast<void>(copied);
  file("tokenizer_config.json", bytes);
  const auto loaded = kto::load_tokenizer(folder());
  use(loaded.tokenizer);
  loaded.config.chat_template();
}
