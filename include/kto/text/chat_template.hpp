// SPDX-License-Identifier: Apache-2.0
// Chat templates: conversations to text, with the Jinja template that a model brings along, as transformers'
// apply_chat_template renders them (jinja2's ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, loop
// controls, transformers' own tojson, raise_exception, strftime_now and {% generation %}).
#pragma once

#include <algorithm>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/jinja/interpreter.hpp"
#include "kto/text/jinja/template_parser.hpp"

namespace kto {

class ChatTemplate {
 public:
  /// Parses `source`. An Error names the template (`name`, for instance its path), the line and what is wrong there:
  /// broken syntax, or what is not supported ({% include %}, {% import %}, {% extends %}, autoescape, and a few
  /// filters).
  explicit ChatTemplate(std::string source, std::string name = "chat template") : name_(std::move(name)) {
    int line = 1;
    try {
      check(jinja::is_valid_utf8(source), "the template is not valid UTF-8");
      auto program = std::make_shared<jinja::Program>(with_plain_line_ends(source));
      jinja::TemplateParser(*program, line).parse();
      program_ = std::move(program);
    } catch (const Error& error) {
      fail(name_, ": line ", line, ": ", error.what());
    }
  }

  /// Renders a conversation. `variables` is an object: messages (an array of objects), and what else the template may
  /// ask for: tools, documents, add_generation_prompt, bos_token, eos_token, enable_thinking, ... As in transformers,
  /// keys of a message whose value is null are left out, reasoning_content, thinking and reasoning stand for one
  /// another, and tools, documents and add_generation_prompt are None, None and False when absent.
  /// `now` is the time that strftime_now gives, the present by default; give one time to all rows of a run.
  /// Throws Error with the template's name and line where the template fails, calls raise_exception, or exceeds
  /// `limits`. Threads may render with one template at the same time.
  std::string render(const Json& variables, std::optional<std::time_t> now = {},
                     const TemplateLimits& limits = {}) const {
    using jinja::Interpreter;
    std::optional<Interpreter> interpreter;
    try {
      interpreter.emplace(*program_, variables, limits, now ? *now : std::time(nullptr));
      return interpreter->render();
    } catch (const Error& error) {
      if (!interpreter) fail(name_, ": ", error.what());
      fail(name_, ": line ", interpreter->line(), ": ", error.what());
    }
  }

  const std::string& name() const { return name_; }

 private:
  /// Line ends as \n, and without the last one, as Jinja reads its source.
  static std::string with_plain_line_ends(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
      out += source[i] == '\r' ? '\n' : source[i];
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
  }

  std::string name_;
  std::shared_ptr<const jinja::Program> program_;
};

}  // namespace kto
