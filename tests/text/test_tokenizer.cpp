// SPDX-License-Identifier: Apache-2.0
// The tokenizer against Hugging Face's: goldens and the script that made them are in tests/golden/tokenizers.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "kto/io/atomic_file.hpp"
#include "kto/text/tokenizer.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace test_tokenizer {
namespace {

using kto::Json;
using kto::Tokenizer;
namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

const fs::path goldens = fs::path(KTO_SOURCE_DIR) / "tests/golden/tokenizers";

const Json& golden(const std::string& name) {
  static std::map<std::string, Json> files;
  if (!files.contains(name)) files[name] = kto::read_json(goldens / name);
  return files[name];
}

/// The bytes of a SentencePiece model.
std::string pieces(const std::string& name) {
  return kto::decode_base64(golden("pieces.json")[name].get_ref<const std::string&>(), "pieces.json");
}

Tokenizer load(const std::string& name) { return Tokenizer::from_file(goldens / (name + ".json")); }

/// A folder that is gone at the end of the test.
struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "kto-tokenizer-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { fs::remove_all(path); }
  void write(const std::string& name, const std::string& content) const {
    fs::create_directories((path / name).parent_path());
    kto::write_file(path / name, content);
  }
};

/// The message of the Error that loading this tokenizer.json gives.
std::string error_of(const std::string& content) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", content);
  try {
    Tokenizer::from_file(folder.path / "tokenizer.json");
  } catch (const kto::Error& error) {
    return error.what();
  }
  return "";
}

/// A small valid tokenizer.json, changed by `change`.
std::string changed(const std::function<void(Json&)>& change) {
  Json spec = {{"version", "1.0"},
               {"added_tokens", Json::array()},
               {"normalizer", nullptr},
               {"pre_tokenizer", nullptr},
               {"post_processor", nullptr},
               {"decoder", nullptr},
               {"model",
                {{"type", "BPE"},
                 {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}, {"abb", 3}}},
                 {"merges", Json::array({"a b", "ab b"})}}}};
  change(spec);
  return spec.dump();
}

Tokenizer from_text(const std::string& content) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", content);
  return Tokenizer::from_file(folder.path / "tokenizer.json");
}

TEST_CASE("JSON that nests absurdly deep is refused before anything walks it") {
  const TemporaryFolder folder;
  const std::string deep = R"({"model": )" + std::string(200000, '[') + std::string(200000, ']') + "}";
  std::ofstream(folder.path / "tokenizer.json") << deep;
  const auto complaint = KTO_CONTAINS("nested more than 256 deep");
  CHECK_THROWS_WITH(Tokenizer::from_file(folder.path / "tokenizer.json"), complaint);
  CHECK_THROWS_WITH(kto::parse_json(deep, "config.json"), complaint);
  std::ofstream(folder.path / "tokenizer.json") << "{\"model\":\n 1e999}";
  CHECK_THROWS_WITH(Tokenizer::from_file(folder.path / "tokenizer.json"),
                    KTO_CONTAINS("line 2, column 2: not valid JSON: the number 1e999 is too large"));
  CHECK_NOTHROW(kto::parse_json(std::string(256, '[') + std::string(256, ']'), "config.json"));
}

}  // namespace

TEST_CASE("ids and decoded text equal those of Hugging Face's tokenizers", "[tokenizer]") {
  const Json& texts = golden("texts.json");
  for (const auto& [name, expected] : golden("cases.json").items()) {
    const Tokenizer tokenizer = load(name);
    INFO("tokenizer " << name);
    CHECK(tokenizer.vocab_size() == expected["vocab_size"].get<std::size_t>());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto text = texts[i].get<std::string>();
      INFO("text " << i << ": " << texts[i].dump());
      const Ids ids = tokenizer.encode(text, false);
      CHECK(ids == expected["ids"][i].get<Ids>());
      const auto decoded = expected["decoded"].find(std::to_string(i));
      CHECK(tokenizer.decode(ids) == (decoded == expected["decoded"].end() ? text : decoded->get<std::string>()));
      if (i >= expected["ids_with_special"].size()) continue;
      CHECK(tokenizer.encode(text, true) == expected["ids_with_special"][i].get<Ids>());
      CHECK(tokenizer.decode(ids, true) == expected["decoded_without_special"][i].get<std::string>());
    }
  }
}

TEST_CASE("the pad token of the file's padding is one, but for classes that name none", "[tokenizer]") {
  Json spec = kto::read_json(goldens / "llama3.json");
  spec["padding"] = {
      {"strategy", "BatchLongest"}, {"direction", "Right"}, {"pad_to_multiple_of", nullptr}, {"pad_id", 0},
      {"pad_type_id", 0},           {"pad_token", "[PAD]"}};
  for (const auto& [name, has_one] : {std::pair{"PreTrainedTokenizerFast", true}, {"GPT2Tokenizer", false}}) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", spec.dump());
    folder.write("tokenizer_config.json", Json{{"tokenizer_class", name}}.dump());
    CHECK(kto::load_tokenizer(folder.path).config.special_tokens.contains("pad_token") == has_one);
  }
}

TEST_CASE("a model folder gives what AutoTokenizer gives", "[tokenizer]") {
  const Json& texts = golden("texts.json");
  int number = 0;
  for (const Json& expected : golden("folders.json")) {
    const TemporaryFolder folder;
    const Json& name = expected["tokenizer"];
    if (name.is_string()) folder.write("tokenizer.json", kto::read_file(goldens / (name.get<std::string>() + ".json")));
    for (const auto& [file, content] : expected["files"].items())
      folder.write(file, content.is_string()          ? content.get<std::string>()
                         : content.contains("pieces") ? pieces(content["pieces"].get<std::string>())
                                                      : content.dump());
    INFO("folder " << number++ << ": " << name << " with " << expected["files"].dump().substr(0, 1000));
    const auto [tokenizer, config] = kto::load_tokenizer(folder.path);
    CHECK(config.tokenizer_class == expected["class"].get<std::string>());
    CHECK(config.special_tokens == expected["special_tokens"]);
    CHECK(config.chat_templates == expected["chat_templates"].get<std::map<std::string, std::string>>());
    CHECK(tokenizer.vocab_size() == expected["vocab_size"].get<std::size_t>());
    for (std::size_t i = 0; i < expected["ids"].size(); ++i) {
      const auto text = texts[2 * i].get<std::string>();
      INFO("text " << texts[2 * i].dump());
      CHECK(tokenizer.encode(text, false) == expected["ids"][i].get<Ids>());
      if (i >= expected["ids_with_special"].size()) continue;
      const auto ids = expected["ids_with_special"][i].get<Ids>();
      CHECK(tokenizer.encode(text, true) == ids);
      CHECK(tokenizer.decode(ids) == expected["decoded"][i].get<std::string>());
    }
    CHECK(tokenizer.encode(expected["spelled"].get<std::string>(), false) == expected["spelled_ids"].get<Ids>());
    CHECK(kto::tokenizer_files(folder.path).size() ==
          (name.is_string() ? 1 : 0) + expected["files"].size() - expected["files"].count("config.json"));
  }
}

TEST_CASE("vocabularies without tokenizer.json that do not load say why", "[tokenizer]") {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& what) {
    CHECK_THROWS_WITH(kto::load_tokenizer(folder.path), KTO_CONTAINS(what));
  };
  const auto names_class = [&](const char* name) {
    folder.write("tokenizer_config.json", Json{{"tokenizer_class", name}}.dump());
  };
  folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  folder.write("merges.txt", "#version: 0.2\na b\n");
  refuses("only vocab.json, which the tokenizer class TokenizersBackend does not read");
  names_class("BertTokenizer");
  refuses("only vocab.json, which the tokenizer class BertTokenizer does not read");
  names_class("GPT2Tokenizer");
  CHECK(kto::load_tokenizer(folder.path).tokenizer.encode("ab", false) == Ids{2});
  folder.write("merges.txt", "a b\na b c\n");
  refuses("merges.txt: line 2 must be \"left right\"");
  names_class("BertTokenizer");
  folder.write("vocab.txt", "");
  refuses("vocab.txt: is empty");
  folder.write("vocab.txt", "a\n\xFF\n");
  refuses("vocab.txt: line 2 is not UTF-8");
  names_class("LlamaTokenizer");
  const std::string whole = pieces("bpe");
  for (const std::string& broken : {std::string("x"), std::string("{}"), whole.substr(0, whole.size() / 2)}) {
    folder.write("tokenizer.model", broken);
    refuses("tokenizer.model: not a model of SentencePiece");
  }
  folder.write("tokenizer.model", "");
  refuses("tokenizer.model: has no pieces");
  folder.write("tokenizer.model", pieces("unigram"));
  names_class("T5Tokenizer");
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer", "extra_ids": 1000000})");
  refuses("\"extra_ids\" is 1000000");
}

TEST_CASE("the step Split cuts as Oniguruma does", "[tokenizer]") {
  namespace tok = kto::tok;
  for (const Json& line : golden("patterns.json")) {
    INFO(line.dump());
    const auto pattern = line[0].get<std::string>();
    const tok::Splitter splitter(tok::onig_regex(pattern, "pattern"),
                                 tok::split_behavior(line[2].get<std::string>(), "pattern"), line[3].get<bool>());
    tok::Pieces pieces;
    pieces.text = line[1].get<std::string>();
    pieces.spans = {{0, pieces.text.size()}};
    splitter(pieces);
    std::vector<std::string> found;
    for (const auto span : pieces.spans) found.emplace_back(pieces[span]);
    CHECK(found == line[4].get<std::vector<std::string>>());
  }
}

TEST_CASE("patterns without a counterpart are refused by name", "[tokenizer]") {
  namespace tok = kto::tok;
  const auto refuses = [](const std::string& pattern, const std::string& what) {
    INFO(pattern);
    CHECK_THROWS_WITH(tok::onig_regex(pattern, "somewhere"), KTO_CONTAINS("somewhere") && KTO_CONTAINS(what));
  };
  refuses("(?x) a", "(?x)");
  refuses(R"((a)\1)", R"(\1)");
  refuses(R"(\X)", R"(\X)");
  refuses(R"(\K)", R"(\K)");
  refuses("(?~ab)", "special group");
  refuses(R"(\pL)", "without {name}");
  refuses(R"(\p{In_Basic_Latin})", "In_Basic_Latin");
  refuses(R"(\p{Nonsense})", "unknown property");
  refuses("(?i:ss)", "case-insensitive");
  refuses("(a", "without )");
  refuses("a)", "unmatched )");
  refuses("[a", "without ]");
  refuses("*a", "without a target");
  refuses("(?<=a+)b", "lookbehind");
  refuses(std::string(1000, '('), "nested");
}

TEST_CASE("tokens, ids and pieces", "[tokenizer]") {
  const Tokenizer tokenizer = load("smollm");
  CHECK(tokenizer.id("<|im_start|>") == 1);
  CHECK_FALSE(tokenizer.id("no such token").has_value());
  CHECK(tokenizer.is_special(1));
  CHECK_FALSE(tokenizer.is_special(tokenizer.encode("a", false).at(0)));
  CHECK(tokenizer.id_end() >= static_cast<std::int32_t>(tokenizer.vocab_size()));
  CHECK_THROWS_WITH(tokenizer.token(100000), KTO_CONTAINS("100000"));
  CHECK(tokenizer.decode({1, 100000, 2}) == "<|im_start|><|im_end|>");
  for (const char* name : {"smollm", "gemma", "qwen2"}) {
    const Tokenizer any = load(name);
    const std::string text = "The f\u00f6x \u6f22 \U0001F44D 12\n\t<s>";
    std::string pieces;
    for (const std::int32_t id : any.encode(text, false)) pieces += any.piece_text(id);
    CHECK(pieces == text);
  }
}

TEST_CASE("text that is not UTF-8 is refused with the place", "[tokenizer]") {
  const Tokenizer tokenizer = load("gpt2");
  for (const char* bytes :
       {"\x80", "\xC3", "\xE2\x82", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xE0\x80\x80"})
    CHECK_THROWS_WITH(tokenizer.encode(std::string("abcdefghij") + bytes, false), KTO_CONTAINS("offset 10 "));
}

TEST_CASE("long words take no quadratic time", "[tokenizer]") {
  const Tokenizer bytes = load("qwen2"), piece = load("llama2_first");
  for (const Tokenizer* tokenizer : {&bytes, &piece})
    for (const char* atom : {"a", " ", "\n", "the", "1", "!", "\u6f22", "e\u0315\u0316"}) {
      std::string text;
      while (text.size() < 200000) text += atom;
      CHECK_FALSE(tokenizer->encode(text, false).empty());
    }
  std::string marks = "e";  // out of canonical order
  while (marks.size() < 400000) marks += "\u0315\u0316";
  CHECK_FALSE(bytes.encode(marks, false).empty());
}

TEST_CASE("threads share a tokenizer", "[tokenizer]") {
  const Tokenizer tokenizer = load("llama3");
  std::vector<std::string> texts;
  for (const Json& text : golden("texts.json")) texts.push_back(text.get<std::string>());
  const auto encode_all = [&](std::vector<Ids>& out) {
    for (const std::string& text : texts) out.push_back(tokenizer.encode(text, true));
  };
  std::vector<std::vector<Ids>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { encode_all(result); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == results[0]);
}

TEST_CASE("truncation and padding in the file do not apply", "[tokenizer]") {
  const Tokenizer tokenizer = from_text(changed([](Json& spec) {
    spec["truncation"] = {{"max_length", 1}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
    spec["padding"] = {{"strategy", {{"Fixed", 9}}}, {"pad_id", 0}, {"pad_token", "a"}};
  }));
  CHECK(tokenizer.encode("abba", false) == Ids{3, 0});
}

TEST_CASE("characters the vocabulary lacks", "[tokenizer]") {
  CHECK(from_text(changed([](Json&) {})).encode("axb", false) == Ids{2});  // left out, and the neighbours join
  const auto with_unknown = [](bool fuse) {
    return from_text(changed([&](Json& spec) {
      spec["model"]["vocab"]["?"] = 4;
      spec["model"]["unk_token"] = "?";
      spec["model"]["fuse_unk"] = fuse;
    }));
  };
  CHECK(with_unknown(false).encode("axyb", false) == Ids{0, 4, 4, 1});
  CHECK(with_unknown(true).encode("axyb", false) == Ids{0, 4, 1});
  const Tokenizer missing = from_text(changed([](Json& spec) { spec["model"]["unk_token"] = "?"; }));
  CHECK(missing.encode("ab", false) == Ids{2});
  CHECK_THROWS_WITH(missing.encode("x", false), KTO_CONTAINS("unk_token \"?\""));
}

TEST_CASE("malformed and unsupported files are refused by name", "[tokenizer]") {
  const auto refuses = [](const std::function<void(Json&)>& change, const std::string& what) {
    CHECK_THAT(error_of(changed(change)), KTO_CONTAINS("tokenizer.json: ") && KTO_CONTAINS(what));
  };
  CHECK(error_of(changed([](Json&) {})).empty());
  const std::string whole = kto::read_file(goldens / "gpt2.json");
  CHECK_THAT(error_of(whole.substr(0, whole.size() / 2)), KTO_CONTAINS("line 1") && KTO_CONTAINS("not valid JSON"));
  CHECK_THAT(error_of(""), KTO_CONTAINS("not valid JSON"));
  CHECK_THAT(error_of("[1, 2]"), KTO_CONTAINS("is not a tokenizer.json"));
  CHECK_THAT(error_of("{\"a\": \"\xFF\"}"), KTO_CONTAINS("not valid JSON"));
  refuses([](Json& spec) { spec["version"] = "2.0"; }, "\"2.0\"");
  refuses([](Json& spec) { spec["model"]["type"] = "Unigram"; }, "the vocabulary of Unigram must be a list");
  refuses([](Json& spec) { spec["model"]["type"] = "Trigram"; }, "\"Trigram\" is not supported; supported are BPE");
  refuses([](Json& spec) { spec["model"]["dropout"] = 0.1; }, "dropout");
  refuses([](Json& spec) { spec["model"]["vocab"]["c"] = -1; }, "\"c\"");
  refuses([](Json& spec) { spec["model"]["vocab"]["c"] = "x"; }, "\"c\"");
  refuses([](Json& spec) { spec["model"]["vocab"]["c"] = 99999999999; }, "\"c\"");
  refuses([](Json& spec) { spec["model"]["merges"].push_back("b"); }, "merge 3");
  refuses([](Json& spec) { spec["model"]["merges"].push_back("b a"); }, "\"ba\"");
  refuses([](Json& spec) { spec["model"]["merges"].push_back({"b", "a", "b"}); }, "merge");
  refuses([](Json& spec) { spec["model"]["merges"].push_back(7); }, "merge 3");
  refuses([](Json& spec) { spec["normalizer"] = {{"type", "Other"}}; }, "normalizer \"Other\"");
  refuses([](Json& spec) { spec["normalizer"] = {{"type", "Precompiled"}}; }, "\"precompiled_charsmap\" is missing");
  refuses([](Json& spec) { spec["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "////"}}; },
          "is the file complete?");
  refuses([](Json& spec) { spec["pre_tokenizer"] = {{"type", "Other"}}; }, "pre-tokenizer \"Other\"");
  refuses([](Json& spec) { spec["pre_tokenizer"] = {{"type", "Split"}}; }, "\"pattern\" is missing");
  refuses(
      [](Json& spec) {
        spec["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Sideways"}};
      },
      "Sideways");
  refuses([](Json& spec) { spec["decoder"] = {{"type", "Other"}}; }, "decoder \"Other\"");
  refuses([](Json& spec) { spec["post_processor"] = {{"type", "Other"}}; }, "post-processor \"Other\"");
  refuses(
      [](Json& spec) {
        spec["post_processor"] = {{"type", "TemplateProcessing"},
                                  {"single", Json::array({{{"SpecialToken", {{"id", "<s>"}}}}})},
                                  {"special_tokens", Json::object()}};
      },
      "\"<s>\" is missing");
  refuses([](Json& spec) { spec["added_tokens"] = Json::array({{{"id", 1}}}); }, "\"content\" is missing");
  CHECK_THROWS_WITH(Tokenizer::from_file(goldens / "nowhere.json"), KTO_CONTAINS("nowhere.json"));
}

TEST_CASE("folders that cannot be loaded say why", "[tokenizer]") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(kto::load_tokenizer(folder.path), KTO_CONTAINS("has no tokenizer.json"));
  CHECK_THROWS_WITH(kto::load_tokenizer(folder.path / "nowhere"), KTO_CONTAINS("is not a folder"));
  folder.write("tekken.json", "x");
  CHECK_THROWS_WITH(kto::load_tokenizer(folder.path), KTO_CONTAINS("tekken.json") && KTO_CONTAINS("save_pretrained"));
  folder.write("tokenizer.json", kto::read_file(goldens / "gpt2.json"));
  const auto refuses = [&](const std::string& config, const std::string& what) {
    folder.write("tokenizer_config.json", config);
    CHECK_THROWS_WITH(kto::load_tokenizer(folder.path), KTO_CONTAINS("tokenizer_config.json: ") && KTO_CONTAINS(what));
  };
  refuses("{", "not valid JSON");
  refuses("[]", "must hold an object");
  refuses(R"({"tokenizer_class": "XLNetTokenizer"})", "the tokenizer class XLNetTokenizer is not supported");
  refuses(R"({"tokenizer_class": "ByT5Tokenizer"})", "the tokenizer class ByT5Tokenizer is not supported");
  refuses(R"({"tokenizer_class": "T5Tokenizer"})",
          "T5Tokenizer has a Unigram model, but the folder has one of the type BPE");
  refuses(R"({"tokenizer_class": 3})", "tokenizer_class");
  refuses(R"({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}})", "auto_map");
  refuses(R"({"fast_tokenizer_files": ["tokenizer.4.0.json"]})", "fast_tokenizer_files");
  refuses(R"({"eos_token": 5})", "eos_token");
  refuses(R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "\"x\" is not an id");
  refuses(R"({"chat_template": 5})", "chat_template");
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "R"}]})");
  CHECK_THROWS_WITH(kto::load_tokenizer(folder.path).config.chat_template(), KTO_CONTAINS("\"rag\""));
}

TEST_CASE("special tokens and chat templates by name", "[tokenizer]") {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", kto::read_file(goldens / "gpt2.json"));
  folder.write("tokenizer_config.json",
               R"({"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}, "pad_token": null})");
  folder.write("chat_template.json", R"({"chat_template": "P"})");
  auto config = kto::load_tokenizer(folder.path).config;
  CHECK(config.special_token("eos_token") == "<|im_end|>");
  CHECK_FALSE(config.special_token("pad_token").has_value());
  CHECK(config.chat_template() == "P");
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]})");
  config = kto::load_tokenizer(folder.path).config;
  CHECK(config.chat_template() == "D");
  folder.write("tokenizer_config.json", "{}");
  fs::remove(folder.path / "chat_template.json");
  CHECK_FALSE(kto::load_tokenizer(folder.path).config.chat_template().has_value());
}

TEST_CASE("the shared models' tokenizers round-trip", "[tokenizer]") {
  const fs::path models = fs::path(KTO_SHARED_DIR) / "golden/models";
  if (!fs::is_directory(models)) {
    WARN("skipped: no " << models);
    return;
  }
  for (const auto& entry : fs::directory_iterator(models)) {
    if (!fs::exists(entry.path() / "tokenizer.json")) continue;
    const auto [tokenizer, config] = kto::load_tokenizer(entry.path());
    CHECK(config.special_token("eos_token") == "<|im_end|>");
    CHECK(config.chat_template().has_value());
    const std::string text = "<|im_start|>user\nHow  many? 3\u00bd \u6f22\u5b57 \U0001F44D<|im_end|>\n";
    CHECK(tokenizer.decode(tokenizer.encode(text, true)) == text);
  }
}

}  // namespace test_tokenizer
