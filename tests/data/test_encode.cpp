// SPDX-License-Identifier: Apache-2.0
// Encoding rows with a stand-in tokenizer (one token per byte, except that "ab" is one token) and template.
#include "catch.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_encode {

using kto::encode_rows;
using kto::Example;
using kto::Json;
using kto::RowEncoder;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

constexpr std::int32_t ab = 1000, before_text = 1001;

struct ByteTokenizer {
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const {
    std::vector<std::int32_t> ids;
    if (add_special_tokens) ids.push_back(before_text);
    for (std::size_t i = 0; i < text.size(); ++i)
      ids.push_back(text.substr(i, 2) == "ab" ? (++i, ab) : static_cast<unsigned char>(text[i]));
    return ids;
  }
  std::string decode(const std::vector<std::int32_t>& ids) const {
    std::string text;
    for (const auto id : ids) text += id == ab ? "ab" : std::string(1, static_cast<char>(id));
    return text;
  }
};

/// "u:hi;a:" for a prompt, "u:hi;a:yes;" for a conversation; `head` precedes it.
struct ShortTemplate {
  std::string render(const Json& variables, std::time_t) const {
    if (variables.value("refuse", false)) kto::fail("template says no");
    std::string text = variables.value("head", "");
    for (const auto& message : variables["messages"])
      text += message["role"].get<std::string>().substr(0, 1) + ":" + message["content"].get<std::string>() + ";";
    return variables["add_generation_prompt"].get<bool>() ? text + variables.value("opening", "a:") : text;
  }
};

std::vector<std::int32_t> bytes(std::string_view text) { return ByteTokenizer{}.encode(text, false); }

const Json specials{{"eos_token", "$"}};
const ByteTokenizer tokenizer;
const ShortTemplate chat_template;
const RowEncoder<ByteTokenizer, ShortTemplate> encoder{
    .tokenizer = tokenizer, .chat_template = &chat_template, .special_tokens = specials};

/// Reads and encodes one line, with this value for label_pad_token_id.
Example encode_line(const std::string& line, std::int64_t pad = kto::default_label_pad_token_id) {
  const TemporaryFolder folder;
  const auto file = folder.write("rows.jsonl", line);
  return encode_rows(kto::read_rows(std::vector<kto::RowFiles>{{.files = {file}, .label_pad_token_id = pad}}, "rows"),
                     encoder)
      .examples.at(0);
}

kto::RowSet plain_rows(const std::vector<std::pair<std::string, std::string>>& texts) {
  kto::RowSet set{.rows = {}, .kind = {}, .files = {"rows.jsonl"}, .notes = {}};
  for (const auto& [prompt, completion] : texts) {
    kto::Row row;
    row.prompt = prompt;
    row.completion = completion;
    row.source = {.number = set.rows.size() + 1, .file = 0, .line = set.rows.size() + 1};
    set.rows.push_back(std::move(row));
  }
  return set;
}

kto::RowSet chat_rows(const std::string& variables = "{}", const std::string& reply = "yes") {
  auto set = plain_rows({{"", ""}});
  set.rows[0].prompt = Json::parse(R"([{"role":"user","content":"hi"}])");
  set.rows[0].completion = Json::array({Json{{"role", "assistant"}, {"content", reply}}});
  set.rows[0].chat_template_kwargs = Json::parse(variables);
  return set;
}

}  // namespace

TEST_CASE("encode: plain text gets special tokens and one end-of-sequence token", "[data]") {
  const auto out = encode_rows(plain_rows({{"x", "y"}, {"x", "y$"}, {"", "y"}}), encoder);
  REQUIRE(out.examples.size() == 3);
  CHECK(out.examples[0].prompt_ids == std::vector<std::int32_t>{before_text, 'x'});
  CHECK(out.examples[0].completion_ids == bytes("y$"));
  CHECK(out.examples[1].completion_ids == bytes("y$"));
  CHECK(out.examples[2].prompt_ids == std::vector<std::int32_t>{before_text});
  CHECK(out.examples[2].row == 3);
  CHECK(out.notes.empty());
}

TEST_CASE("encode: conversations are rendered, with the row's template variables", "[data]") {
  auto out = encode_rows(chat_rows(), encoder);
  CHECK(out.examples[0].prompt_ids == bytes("u:hi;a:"));
  CHECK(out.examples[0].completion_ids == bytes("yes;"));
  out = encode_rows(chat_rows(R"({"head": "H", "eos_token": "!"})"), encoder);
  CHECK(out.examples[0].prompt_ids == bytes("Hu:hi;a:"));
}

TEST_CASE("encode: the completion starts where the ids part", "[data]") {
  const auto merged = encode_rows(plain_rows({{"xy", "z"}, {"xa", "bc"}, {"a", "b"}}), encoder);
  CHECK(merged.examples[1].prompt_ids == std::vector<std::int32_t>{before_text, 'x'});
  CHECK(merged.examples[1].completion_ids == std::vector<std::int32_t>{ab, 'c', '$'});
  REQUIRE(merged.notes.size() == 1);
  CHECK_THAT(merged.notes[0],
             KTO_CONTAINS("in 2 of 3 rows (first: rows.jsonl: line 2, which drops the prompt's end \"a\")"));

  const auto opened = encode_rows(chat_rows(R"({"opening": "a:<think>"})"), encoder);
  CHECK(opened.examples[0].prompt_ids == bytes("u:hi;a:"));
  CHECK(opened.examples[0].completion_ids == bytes("yes;"));
  CHECK_THAT(opened.notes.at(0), KTO_CONTAINS("\"<think>\""));
}

TEST_CASE("encode: rows whose prompt fills max_length are dropped and counted", "[data]") {
  auto set = plain_rows({{"xxx", "y"}, {"xx", "yyyyyyyy"}, {"xxxx", "y"}, {"x", ""}});
  set.notes = {"what the reader noted"};
  const auto out = encode_rows(set, encoder, {.max_length = 4});
  CHECK(out.num_dropped == 2);
  REQUIRE(out.examples.size() == 2);
  CHECK(out.examples[0].row == 2);
  CHECK(out.examples[0].completion_ids.size() == 9);  // cut by the collator, not here
  CHECK(out.examples[1].row == 4);
  CHECK(out.notes == std::vector<std::string>{"what the reader noted",
                                              "dropped 2 of 4 rows whose prompt fills max_length (4 tokens)"});
  CHECK_THAT(error_of([&] { encode_rows(set, encoder, {.max_length = 2}); }),
             KTO_CONTAINS("all 4 rows have a prompt of max_length (2) tokens or more; raise max_length"));
  CHECK_THAT(error_of([&] { encode_rows(set, encoder, {.max_length = 0}); }),
             KTO_CONTAINS("max_length is 0; expected 1"));
}

TEST_CASE("encode: any number of threads gives the same result", "[data]") {
  std::vector<std::pair<std::string, std::string>> texts;
  for (std::size_t i = 0; i < 1000; ++i)
    texts.emplace_back(std::string(i % 37, 'x') + (i % 5 == 0 ? "a" : ""), "b" + std::to_string(i));
  const auto set = plain_rows(texts);
  const auto one = encode_rows(set, encoder, {.max_length = 30});
  CHECK(one.num_dropped > 0);
  for (const std::size_t num_threads : {0, 2, 7}) {
    std::size_t last = 0, calls = 0;
    const auto out = encode_rows(
        set, encoder,
        {.max_length = 30, .num_threads = num_threads, .progress = [&](std::size_t done, std::size_t total) {
           CHECK(done > last);
           CHECK(total == 1000);
           last = done;
           ++calls;
         }});
    CHECK(last == 1000);
    CHECK(calls > 10);
    CHECK(out.notes == one.notes);
    CHECK(out.num_dropped == one.num_dropped);
    REQUIRE(out.examples.size() == one.examples.size());
    for (std::size_t i = 0; i < one.examples.size(); ++i)
      if (out.examples[i].prompt_ids != one.examples[i].prompt_ids || out.examples[i].row != one.examples[i].row ||
          out.examples[i].completion_ids != one.examples[i].completion_ids)
        FAIL("row " << i << " differs");
  }
}

TEST_CASE("encode: what cannot be encoded is named", "[data]") {
  auto no_template = encoder;
  no_template.chat_template = nullptr;
  CHECK_THAT(error_of([&] { encode_rows(chat_rows(), no_template); }),
             KTO_CONTAINS("rows.jsonl: line 1: the row is a conversation, but the model folder has no chat template"));
  auto no_eos = encoder;
  no_eos.special_tokens = Json::object();
  CHECK_THAT(error_of([&] { encode_rows(plain_rows({{"x", "y"}}), no_eos); }),
             KTO_CONTAINS("line 1: plain text rows need the end-of-sequence token"));
  CHECK_THAT(error_of([&] { encode_rows(chat_rows(R"({"refuse": true})"), encoder); }),
             KTO_CONTAINS("rows.jsonl: line 1: template says no"));
  CHECK_THAT(error_of([&] { encode_rows(chat_rows(R"({"opening": "a:yes;and more"})"), encoder); }),
             KTO_CONTAINS("line 1: the completion has no tokens; the chat template writes nothing for it"));
  std::vector<std::pair<std::string, std::string>> texts(100, {"x", "y"});
  auto set = plain_rows(texts);
  for (std::size_t i = 20; i < 35; ++i) {
    set.rows[i] = chat_rows(R"({"refuse": true})").rows[0];
    set.rows[i].source.line = i + 1;
  }
  for (const std::size_t num_threads : {1, 3}) {
    const std::string message = error_of([&] { encode_rows(set, encoder, {.num_threads = num_threads}); });
    CHECK(message.find("15 rows of 100 cannot be encoded (the first 10):\n  rows.jsonl: line 21: template says no") ==
          0);
    CHECK_THAT(message, KTO_CONTAINS("line 30:") && !KTO_CONTAINS("line 31:") && KTO_CONTAINS("and 5 more"));
  }
}

TEST_CASE("encode: templates see the row's columns and the model's special tokens", "[data]") {
  kto::Row row;
  row.tools = Json::parse(R"([{"name":"f"}])");
  row.chat_template_kwargs = Json::parse(R"({"mood":"calm","eos_token":"!"})");
  const auto variables = kto::template_variables(Json::array({Json{{"role", "user"}}}), row, specials, true);
  CHECK(variables.dump() == R"({"eos_token":"!","messages":[{"role":"user"}],"tools":[{"name":"f"}],"documents":null,)"
                            R"("add_generation_prompt":true,"mood":"calm"})");
}

TEST_CASE("tokenized rows: label_pad_token_id parts prompt and completion; no text is looked at", "[data]") {
  const auto row = [](const std::string& labels, const std::string& more = "") {
    return R"({"prompt": "not", "completion": "read", "completion_input_ids": [5, 6, 7, 8], "completion_labels": )" +
           labels + R"(, "label": false)" + more + "}";
  };
  const auto parts = [](const Example& example) { return std::pair{example.prompt_ids, example.completion_ids}; };
  using Ids = std::vector<std::int32_t>;
  const Example plain = encode_line(row("[-100, -100, 7, 8]"));
  CHECK(parts(plain) == std::pair{Ids{5, 6}, Ids{7, 8}});
  CHECK_FALSE(plain.label);
  CHECK(plain.row == 1);
  CHECK(parts(encode_line(row("[-1, 6, 7, 8]"), -1)) == std::pair{Ids{5}, Ids{6, 7, 8}});
  CHECK(parts(encode_line(row("[5, 6, 7, 8]"))) == std::pair{Ids{}, Ids{5, 6, 7, 8}});
  CHECK(parts(encode_line(row("[5, 5, 7, 8]"), 5)) == std::pair{Ids{5, 6}, Ids{7, 8}});
  CHECK(parts(encode_line(row("[-100, 6, 7, -100]"))) == std::pair{Ids{5}, Ids{6, 7}});  // padding after it
  CHECK(parts(encode_line(row("[-100, -100, 7, -100]", R"(, "completion_attention_mask": [0, 1, 1, 0])"))) ==
        std::pair{Ids{6}, Ids{7}});

  const auto refusal = [&](const std::string& line, std::int64_t pad = -100) {
    return error_of([&] { (void)encode_line(line, pad); });
  };
  CHECK_THAT(refusal(row("[-100, -100, -100, -100]")), KTO_CONTAINS("is label_pad_token_id (-100) everywhere"));
  CHECK_THAT(refusal(row("[-100, -100, 7, 8]"), -1),
             KTO_CONTAINS("has -100 at 0, where \"completion_input_ids\" has 5"));
  CHECK_THAT(refusal(row("[-100, 6, -100, 8]")), KTO_CONTAINS("resumes at 3 after label_pad_token_id (-100) at 2"));
  CHECK_THAT(refusal(row("[-100, 7, 8]")), KTO_CONTAINS("has 3 entries, but \"completion_input_ids\" 4"));
  CHECK_THAT(refusal(row("[-100, 6, 7, 8]", R"(, "completion_attention_mask": [1, 1, 0, 1])")),
             KTO_CONTAINS("is 0 at 2, within the row"));
  CHECK_THAT(refusal(row("null")), KTO_CONTAINS("\"completion_labels\" is null; expected a list of integers"));
  CHECK_THAT(refusal(row("[-100, 6.5, 7, 8]")), KTO_CONTAINS("holds the number 6.5 at 1; expected an integer from"));
  CHECK_THAT(refusal(R"({"completion_input_ids": [1, -2], "completion_labels": [-100, -2], "label": true})"),
             KTO_CONTAINS("holds the number -2 at 1; expected an integer from 0 to 2147483647"));
  CHECK_THAT(refusal(R"({"completion_input_ids": [1, 2], "completion_labels": [-100, 2]})"),
             KTO_CONTAINS("\"label\" is missing; expected true or false"));
  CHECK_THAT(refusal(R"({"completion_input_ids": [1], "completion_labels": [1], "label": true})"),
             KTO_CONTAINS("the completion is a single token, which nothing predicts"));
  CHECK_THAT(
      refusal(R"({"prompt": "a", "completion": "b", "label": true})", -1),
      KTO_CONTAINS("label_pad_token_id only applies to completion_labels of tokenized rows, and these are plain"));
}

}  // namespace test_encode
