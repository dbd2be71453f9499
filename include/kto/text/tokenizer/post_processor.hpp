// SPDX-License-Identifier: Apache-2.0
// The post_processor of tokenizer.json: adds special tokens before and after the text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/text/tokenizer/step_spec.hpp"

namespace kto::tok {

struct PostProcessor {
  std::vector<std::int32_t> before, after;

  PostProcessor() = default;

  /// `spec` is the value of "post_processor". Throws Error naming `where` for anything unsupported.
  PostProcessor(const Json& spec, std::string_view where) { add(spec, where); }

 private:
  void add(const Json& spec, std::string_view where) {
    if (spec.is_null()) return;
    const std::string type = json_value<std::string>(spec, "type", "", where);
    if (type == "Sequence") {
      for (const Json& step : json_member(spec, "processors", where)) add(step, where);
      return;
    }
    if (type == "ByteLevel") return;  // only changes offsets, which are not used here
    check(before.empty() && after.empty(), where, ": two post-processors that both add tokens are not supported");
    if (type == "TemplateProcessing") {
      add_template(spec, where);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      before.push_back(pair_id(spec, "cls", where));
      after.push_back(pair_id(spec, "sep", where));
    } else {
      fail(where, ": the post-processor \"", type, "\" is not supported; supported are Sequence, ByteLevel, ",
           "TemplateProcessing, RobertaProcessing, BertProcessing");
    }
  }

  void add_template(const Json& spec, std::string_view where) {
    const Json& tokens = json_member(spec, "special_tokens", where);
    int num_texts = 0;
    for (const Json& piece : json_member(spec, "single", where)) {
      if (piece.contains("Sequence")) {
        check(json_text(piece["Sequence"], "id", where) == "A", where,
              ": the template for one text names a second one");
        ++num_texts;
        continue;
      }
      const std::string name = json_text(json_member(piece, "SpecialToken", where), "id", where);
      for (const Json& id : json_member(json_member(tokens, name, where), "ids", where)) {
        const auto number = json_as<std::int32_t>(id);
        check(number.has_value(), where, ": the template token \"", name, "\" has the id ", id.dump());
        (num_texts == 0 ? before : after).push_back(*number);
      }
    }
    check(num_texts == 1, where, ": a template that holds the text ", num_texts, " times is not supported");
  }

  /// The number in ["</s>", 2].
  static std::int32_t pair_id(const Json& spec, const char* key, std::string_view where) {
    const Json& pair = json_member(spec, key, where);
    const auto id = pair.is_array() && pair.size() == 2 ? json_as<std::int32_t>(pair[1]) : std::nullopt;
    check(id.has_value(), where, ": \"", key, "\" must be [token, id], not ", pair.dump());
    return *id;
  }
};

}  // namespace kto::tok
