// SPDX-License-Identifier: Apache-2.0
// What tokenizer.json, text and chat templates take, and the limits of those that could take more.
#include <unistd.h>

#include <memory>
#include <new>

#include "growth.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/text/chat_template.hpp"
#include "kto/text/tokenizer_config.hpp"

// Counts what is allocated, in this program.
std::atomic<std::size_t> growth::allocated = 0, growth::peak = 0;
void* operator new(std::size_t size) {
  void* room = std::malloc(size);
  if (room == nullptr) throw std::bad_alloc();
  const std::size_t now = growth::allocated += ::malloc_usable_size(room);
  for (std::size_t before = growth::peak; before < now && !growth::peak.compare_exchange_weak(before, now);) {
  }
  return room;
}
void operator delete(void* room) noexcept {
  if (room != nullptr) growth::allocated -= ::malloc_usable_size(room);
  std::free(room);
}
void operator delete(void* room, std::size_t) noexcept { operator delete(room); }

namespace test_text_growth {
namespace {

using growth::listed;
using growth::Parser;
using growth::repeated;
using growth::Work;
using kto::Json;

/// A tokenizer.json of bytes, and a file of it that is gone with the last copy.
std::shared_ptr<std::string> tokenizer_file(const std::string& added, const std::string& normalizer = "null",
                                            const std::string& vocabulary = "", const std::string& merges = "") {
  std::string path = (kto::fs::temp_directory_path() / "kto-growth-XXXXXX").string();
  ::close(::mkstemp(path.data()));
  kto::write_file(
      path,
      R"({"version": "1.0", "added_tokens": [)" + added + R"(], "normalizer": )" + normalizer +
          R"(, "pre_tokenizer": null, "model": {"type": "BPE", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2, "aa": 3)" +
          vocabulary + R"(}, "merges": ["a a")" + merges + "]}}");
  return {new std::string(path), [](std::string* file) {
            kto::fs::remove(*file);
            delete file;
          }};
}
/// A tokenizer.json of another model, and what reads `text` with it.
Work encoding_with(const std::string& steps, const std::string& model, std::string text) {
  const std::shared_ptr<std::string> file = tokenizer_file("");
  kto::write_file(*file, R"({"version": "1.0", "added_tokens": [], )" + steps + R"("model": )" + model + "}");
  const auto tokenizer = std::make_shared<kto::Tokenizer>(kto::Tokenizer::from_file(*file));
  return [tokenizer, text = std::move(text)] { tokenizer->decode(tokenizer->encode(text, true)); };
}
constexpr const char* unigram =
    R"({"type": "Unigram", "unk_id": 0, "vocab": [["?", 0], ["a", -1], ["aa", -1.5], ["aaaa", -2], ["b", -3]]})";
constexpr const char* word_piece =
    R"({"type": "WordPiece", "unk_token": "?", "max_input_chars_per_word": 1000000000,
        "vocab": {"?": 0, "a": 1, "##a": 2, "##aab": 3}})";
Work loading(const std::string& added, const std::string& vocabulary = "", const std::string& merges = "") {
  return [file = tokenizer_file(added, "null", vocabulary, merges)] { kto::Tokenizer::from_file(*file); };
}
Work encoding(const std::string& added, const std::string& normalizer, std::string text) {
  const auto tokenizer =
      std::make_shared<kto::Tokenizer>(kto::Tokenizer::from_file(*tokenizer_file(added, normalizer)));
  return [tokenizer, text = std::move(text)] { tokenizer->encode(text, true); };
}
std::string token(const std::string& id, const std::string& content, const char* more = "") {
  return R"({"id": )" + id + R"(, "special": true, "content": ")" + content + '"' + more + "}";
}
Work rendering(const std::string& source, Json variables) {
  return [parsed = std::make_shared<kto::ChatTemplate>(source), variables = std::move(variables)] {
    parsed->render(variables);
  };
}

/// A table of replacements that has none: nothing but the size of its trie.
std::string charsmap() { return kto::encode_base64(std::string(4, '\0')); }

/// A piece of a SentencePiece model, as a field of its protocol buffer.
std::string piece(const std::string& text) {
  const auto varint = [](std::size_t value) {
    std::string out;
    for (; value >= 128; value /= 128) out += static_cast<char>(value % 128 + 128);
    return out + static_cast<char>(value);
  };
  const std::string message = "\x0A" + varint(text.size()) + text;
  return "\x0A" + varint(message.size()) + message;
}
/// A folder with only such a model, which is gone with the last copy.
std::shared_ptr<std::string> folder_of_pieces(const std::string& pieces) {
  std::string path = (kto::fs::temp_directory_path() / "kto-growth-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("no temporary folder");
  kto::write_file(kto::fs::path(path) / "tokenizer.model", pieces);
  return {new std::string(path), [](std::string* folder) {
            kto::fs::remove_all(*folder);
            delete folder;
          }};
}
Work loading_pieces(const std::string& pieces) {
  const auto folder = folder_of_pieces(pieces);
  return [folder] { kto::load_tokenizer(*folder); };
}

const Parser parsers[] = {
    {"JSON: a text", 5,
     [](std::size_t size) { return [text = '"' + repeated("a\\n", size) + '"'] { kto::parse_json(text, "x"); }; }},
    {"JSON: a list of numbers", 24,
     [](std::size_t size) { return [text = "[" + repeated("1,", size) + "1]"] { kto::parse_json(text, "x"); }; }},
    {"JSON: keys of one object", 20,
     [](std::size_t size) {
       const auto key = [](const std::string& i) { return "\"key " + i + "\":1"; };
       return [text = "{" + listed(size / 12, key) + "}"] { kto::parse_json(text, "x"); };
     }},
    {"tokenizer.json: its vocabulary", 16,
     [](std::size_t size) {
       return loading("", "," + listed(size / 16, [](const auto& i) { return "\"piece " + i + "\": 1" + i; }));
     }},
    {"tokenizer.json: its merges", 16,
     [](std::size_t size) {
       const auto pieces =
           listed(size / 40, [](const auto& i) { return "\"b" + i + "\": 1" + i + ", \"ab" + i + "\": 2" + i; });
       return loading("", "," + pieces, "," + listed(size / 40, [](const auto& i) { return "\"a b" + i + '"'; }));
     }},
    {"tokenizer.json: added tokens", 20,
     [](std::size_t size) {
       return loading(listed(size / 60, [](const auto& i) { return token("1" + i, "<|token " + i + "|>"); }));
     }},
    {"tokenizer.json: a long added token", 70,
     [](std::size_t size) { return loading(token("9", repeated("a", size) + "b")); }},
    {"text: a token that is almost there, at every place", 40,
     [](std::size_t size) { return encoding(token("9", repeated("a", 20000) + "b"), "null", repeated("a", size)); }},
    {"text: tokens in white space that belongs to them", 40,
     [](std::size_t size) {
       return encoding(token("9", " ", R"(, "lstrip": true, "rstrip": true)"), "null", repeated(" ", size));
     }},
    {"text: one long word", 40, [](std::size_t size) { return encoding("", "null", repeated("a", size)); }},
    {"text: characters that the vocabulary lacks", 16,
     [](std::size_t size) { return encoding("", "null", repeated("\xC3\xA9", size)); }},
    {"text: marks out of order", 40,
     [](std::size_t size) { return encoding("", R"({"type": "NFD"})", repeated("\xCC\x95\xCC\x96", size)); }},
    {"text: replaced and prepended", 40,
     [](std::size_t size) {
       return encoding("", R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
                              {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]})",
                       repeated("a", size));
     }},
    {"text: one long word in Unigram", 80,
     [](std::size_t size) { return encoding_with("", unigram, repeated("a", size)); }},
    {"text: unknown characters in Unigram", 80,
     [](std::size_t size) { return encoding_with("", unigram, repeated("\xC3\xA9", size)); }},
    {"text: one long word in WordPiece", 80,
     [](std::size_t size) { return encoding_with("", word_piece, repeated("a", size)); }},
    {"text: BERT's words", 80,
     [](std::size_t size) {
       return encoding_with(R"("normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"},
                               "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, )",
                            word_piece, repeated("aab, \xC3\xA9", size));
     }},
    {"text: words of WordLevel", 80,
     [](std::size_t size) {
       return encoding_with(R"("pre_tokenizer": {"type": "Whitespace"}, )",
                            R"({"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1}})",
                            repeated("a bc ", size));
     }},
    {"text: a precompiled table, and marks on one character", 80,
     [](std::size_t size) {
       return encoding_with(R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": ")" + charsmap() + "\"}, ",
                            unigram, "e" + repeated("\xCC\x81", size));
     }},
    {"tokenizer.model: its pieces", 60,
     [](std::size_t size) {
       std::string pieces;
       for (std::size_t i = 0; pieces.size() < size; ++i) pieces += piece("piece " + std::to_string(i));
       return loading_pieces(pieces);
     }},
    {"tokenizer.model: long pieces", 60,
     [](std::size_t size) {
       return loading_pieces(
           listed(size / 4000, [](const std::string& i) { return piece(i + std::string(4000, 'a')); }, ""));
     }},
    {"tokenizer.model: text with many spaces", 80,
     [](std::size_t size) {
       const auto folder = folder_of_pieces(piece("<unk>") + piece("a"));
       const auto tokenizer = std::make_shared<kto::Tokenizer>(kto::load_tokenizer(*folder).tokenizer);
       return Work([tokenizer, text = "a" + repeated(" ", size) + "a"] { tokenizer->encode(text, true); });
     }},
    {"template: its source", 100,
     [](std::size_t size) {
       return [source = repeated("{% if a %}{{ b + 1 }}{% endif %}\n", size)] { kto::ChatTemplate{source}; };
     }},
    {"template: a literal", 180,
     [](std::size_t size) { return [source = "{{ [" + repeated("1,", size) + "] }}"] { kto::ChatTemplate{source}; }; }},
    {"template: its variables", 80,
     [](std::size_t size) {
       std::string source;
       for (std::size_t i = 0; i < size / 24; ++i)
         source += "{% set v" + std::to_string(i) + " = w" + std::to_string(i) + " %}";
       return [source] { kto::ChatTemplate{source}; };
     }},
    {"template: messages", 8,
     [](std::size_t size) {
       Json messages = Json::array();
       for (std::size_t i = 0; i < size / 60; ++i)
         messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", "what is said"}});
       return rendering("{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}{% endfor %}",
                        {{"messages", messages}});
     }},
    {"template: a long message", 8,
     [](std::size_t size) {
       return rendering("{{ messages[0].content.split('</think>')[-1].strip() | replace('a', 'b') }}",
                        {{"messages", {{{"role", "user"}, {"content", repeated("a </think>\n", size)}}}}});
     },
     500'000},
};

}  // namespace

TEST_CASE("time and memory of what reads text grow with the text, and no faster", "[growth]") {
  for (const Parser& parser : parsers) growth::check_growth(parser);
}

TEST_CASE("steps that make long texts of short ones are an error", "[growth]") {
  const std::string long_text(100'000, 'x');
  const auto refused = [&](const std::string& normalizer, const std::string& text) {
    try {
      encoding("", normalizer, text)();
    } catch (const kto::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string replace = R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaa"})";
  CHECK(refused(replace, std::string(1000, 'a')).empty());
  CHECK_THAT(refused(R"({"type": "Replace", "pattern": {"String": "a"}, "content": ")" + long_text + "\"}",
                     std::string(1000, 'a')),
             KTO_CONTAINS("grow a text past 101000 bytes"));
  std::string chain = replace, many;
  for (int i = 0; i < 8; ++i) chain += "," + replace;
  for (int i = 0; i < 101; ++i) many += (i > 0 ? "," : "") + std::string(R"({"type": "Lowercase"})");
  CHECK_THAT(refused(R"({"type": "Sequence", "normalizers": [)" + chain + "]}", std::string(1000, 'a')),
             KTO_CONTAINS("grow a text past"));
  CHECK_THAT(refused(R"({"type": "Sequence", "normalizers": [)" + many + "]}", "a"),
             KTO_CONTAINS("more than 100 normalizers"));
}

}  // namespace test_text_growth
