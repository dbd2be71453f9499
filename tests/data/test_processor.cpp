// SPDX-License-Identifier: Apache-2.0
// Rows to ids with a real tokenizer and template: golden cases from TRL's KTOTrainer.
#include "catch.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "tests/data/temporary_folder.hpp"

namespace test_processor {

using kto::Json;
using kto_test::error_of;
using kto_test::TemporaryFolder;

namespace {

const kto::fs::path golden = KTO_SOURCE_DIR "/tests/golden/data";

kto::Encoded encode_file(const kto::fs::path& model, const kto::fs::path& data,
                         const kto::EncodeOptions& options = {}) {
  const kto::Processor processor(model);
  return kto::encode_rows(kto::read_rows(data), processor.encoder(), options);
}

}  // namespace

TEST_CASE("processor: prompt and completion ids are TRL's", "[data]") {
  const Json cases = kto::read_json(golden / "encode_cases.json")["encode"];
  const kto::Processor processor(golden / "model");
  REQUIRE(cases.size() >= 12);
  for (const auto& [name, example] : cases.items()) {
    INFO(name);
    const TemporaryFolder folder;
    std::string lines;
    for (const Json& row : example["rows"]) lines += row.dump() + "\n";
    const auto set = kto::read_rows(folder.write("rows.jsonl", lines));
    kto::EncodeOptions options;
    if (example.contains("max_length")) options.max_length = example["max_length"].get<std::int64_t>();
    const auto out = kto::encode_rows(set, processor.encoder(), options);
    CHECK(out.num_dropped == set.rows.size() - out.examples.size());
    REQUIRE(out.examples.size() == example["examples"].size());
    for (std::size_t i = 0; i < out.examples.size(); ++i) {
      INFO("row " << i);
      CHECK(Json(out.examples[i].prompt_ids) == example["examples"][i]["prompt_ids"]);
      CHECK(Json(out.examples[i].completion_ids) == example["examples"][i]["completion_ids"]);
      CHECK(Json(out.examples[i].label) == example["examples"][i]["label"]);
    }
    CHECK((name == "parted") == (!out.notes.empty() && out.notes[0].find("the tokenized prompt is not") == 0 &&
                                 out.notes[0].find("<think></think>") != std::string::npos));
  }
}

TEST_CASE("processor: real rows, token by token the text of the template", "[data]") {
  const kto::fs::path shared = KTO_SHARED_DIR;
  const kto::fs::path model = shared / "golden/models/llama-320fea", data = shared / "data/preferences";
  if (!kto::fs::exists(model) || !kto::fs::exists(data)) {
    WARN("skipped: no " << model.string() << " or no " << data.string());
    return;
  }
  const kto::Processor processor(model);
  const auto encoder = processor.encoder();
  for (const auto* name : {"kto.jsonl", "kto_standard.jsonl", "paired_zh.jsonl", "paired_implicit_en.jsonl"}) {
    INFO(name);
    const auto set = kto::read_rows(data / name);
    const auto out = kto::encode_rows(set, encoder, {.num_threads = 2});
    REQUIRE(out.examples.size() == set.rows.size());
    for (std::size_t i = 0; i < set.rows.size(); ++i) {
      const auto text = encoder.text(set.rows[i]);
      if (processor.tokenizer().decode(out.examples[i].prompt_ids) != text.prompt ||
          text.prompt + processor.tokenizer().decode(out.examples[i].completion_ids) != text.whole)
        FAIL("row " << i + 1 << " does not decode to its text");
    }
  }
}

TEST_CASE("processor: a template that is missing or broken matters only to conversations", "[data]") {
  const TemporaryFolder model, data;
  for (const auto* name : {"tokenizer.json", "tokenizer_config.json"})
    kto::fs::copy_file(golden / "model" / name, model.path() / name);
  const auto plain = data.write("plain.jsonl", R"({"prompt": "a", "completion": "b", "label": true})");
  const auto chat =
      data.write("chat.jsonl", R"({"prompt": [{"role": "user", "content": "a"}], )"
                               R"("completion": [{"role": "assistant", "content": "b"}], "label": true})");
  CHECK(encode_file(model.path(), plain).examples.size() == 1);
  CHECK_THAT(error_of([&] { encode_file(model.path(), chat); }),
             KTO_CONTAINS("chat.jsonl: line 1: the row is a conversation, but the model folder has no chat template"));
  model.write("chat_template.jinja", "{% for message in messages %}\n{{ message.content");
  CHECK(encode_file(model.path(), plain).examples.size() == 1);
  CHECK_THAT(error_of([&] { encode_file(model.path(), chat); }), KTO_CONTAINS("chat template: line 2: "));
}

TEST_CASE("processor: rows with tools use the template for tools", "[data]") {
  const TemporaryFolder model, data;
  for (const auto* name : {"tokenizer.json", "tokenizer_config.json"})
    kto::fs::copy_file(golden / "model" / name, model.path() / name);
  model.write("chat_template.jinja", "{% for m in messages %}{{ m.content }};{% endfor %}");
  model.write("additional_chat_templates/tool_use.jinja",
              "T{{ pad_token }}{% for m in messages %}{{ m.content }};{% endfor %}");
  const std::string row =
      R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], )"
      R"("label": true, "tools": )";
  const kto::Processor processor(model.path());
  const auto set = kto::read_rows(data.write("rows.jsonl", row + "null}\n" + row + "[]}\n"));
  CHECK(processor.encoder().text(set.rows[0]).whole == "a;b;");
  CHECK(processor.encoder().text(set.rows[1]).whole == "T<|end|>a;b;");  // no pad token: the end of sequence instead
}

}  // namespace test_processor
