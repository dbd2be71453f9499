// SPDX-License-Identifier: Apache-2.0
// The post_processor of tokenizer.json: adds special tokens before and after the text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/step_spec.hpp"

namespace kto::tok {

class PostProcessor {
 public:
  using Ids = std::vector<std::int32_t>;

  PostProcessor() = default;

  /// `spec` is the value of "post_processor". Throws Error naming `where` for anything unsupported.
  PostProcessor(const Json& spec, std::string_view where) { add(spec, where); }

  /// Adds these ids before and after the text.
  static PostProcessor around(Ids before, const Ids& after) {
    PostProcessor processor;
    before.push_back(text);
    before.insert(before.end(), after.begin(), after.end());
    processor.items_ = std::move(before);
    return processor;
  }

  /// The ids of a text with the tokens around it. Without special tokens, only the places of the text count: a template
  /// may hold it twice.
  Ids operator()(Ids ids, bool add_special_tokens) const {
    if (items_.size() == 1) return ids;
    Ids out;
    for (const std::int32_t item : items_)
      if (item == text)
        out.insert(out.end(), ids.begin(), ids.end());
      else if (add_special_tokens)
        out.push_back(item);
    return out;
  }

 private:
  static constexpr std::int32_t text = -1;

  void set(Ids items, std::string_view where) {
    check(items_.size() == 1, where, ": two post-processors that both add tokens are not supported");
    items_ = std::move(items);
  }

  void add(const Json& spec, std::string_view where) {
    if (spec.is_null()) return;
    const std::string type = json_value<std::string>(spec, "type", "", where);
    if (type == "Sequence") {
      for (const Json& step : json_member(spec, "processors", where)) add(step, where);
    } else if (type == "TemplateProcessing") {
      set(template_items(spec, where), where);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      set({pair_id(spec, "cls", where), text, pair_id(spec, "sep", where)}, where);
    } else if (type != "ByteLevel") {  // which only changes offsets; they are not used here
      fail(where, ": the post-processor \"", type, "\" is not supported; supported are Sequence, ByteLevel, ",
           "TemplateProcessing, RobertaProcessing, BertProcessing");
    }
  }

  static Ids template_items(const Json& spec, std::string_view where) {
    const Json& tokens = json_member(spec, "special_tokens", where);
    Ids items;
    for (const Json& piece : json_member(spec, "single", where)) {
      if (piece.contains("Sequence")) {
        check(json_text(piece["Sequence"], "id", where) == "A", where,
              ": the template for one text names a second one");
        items.push_back(text);
        continue;
      }
      const std::string name = json_text(json_member(piece, "SpecialToken", where), "id", where);
      for (const Json& id : json_member(json_member(tokens, name, where), "ids", where))
        items.push_back(id_from(id, where, "the template token \"" + name + "\""));
    }
    return items;
  }

  /// The number in ["</s>", 2].
  static std::int32_t pair_id(const Json& spec, const char* key, std::string_view where) {
    const Json& pair = json_member(spec, key, where);
    check(pair.is_array() && pair.size() == 2, where, ": \"", key, "\" must be [token, id], not ", pair.dump());
    return id_from(pair[1], where, std::string("\"") + key + "\"");
  }

  static std::int32_t id_from(const Json& value, std::string_view where, const std::string& what) {
    const auto id = json_as<std::int32_t>(value);
    check(id && *id >= 0, where, ": ", what, " has the id ", value.dump());
    return *id;
  }

  Ids items_{text};  ///< ids, and where the text goes
};

}  // namespace kto::tok
