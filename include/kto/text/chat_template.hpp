// SPDX-License-Identifier: Apache-2.0
// Chat templates: render conversations to text with a model's Jinja template, exactly as transformers'
// apply_chat_template does (jinja2's ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, loop controls,
// transformers' own tojson, raise_exception, strftime_now and {% generation %}).
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
  /// Parses `source`. Throws Error naming the template (`name`, for instance its path), the line and the problem: a
  /// syntax error, or something unsupported ({% include %}, {% import %}, {% extends %}, autoescape, a few filters).
  explicit ChatTemplate(std::string source, std::string name = "chat template") : name_(std::move(name)) {
    int line = 1;
    try {
      check(detail::find_invalid_utf8(source) == std::string::npos, "the template is not valid UTF-8");
      auto program = std::make_shared<jinja::Program>(with_plain_line_ends(source));
      jinja::TemplateParser(*program, line).parse();
      program_ = std::move(program);
    } catch (const Error& error) {
      fail(name_, ": line ", line, ": ", error.what());
    }
  }

  /// Renders a conversation. `variables` is an object: messages (an array of objects), and whatever else the template
  /// uses: tools, documents, add_generation_prompt, bos_token, eos_token, enable_thinking, ... As in transformers, null
  /// keys of a message are dropped, reasoning_content, thinking and reasoning are aliases of one another, and tools,
  /// documents and add_generation_prompt default to None, None and False.
  /// `now` is the time that strftime_now returns, by default the current time; give all rows of a run the same time.
  /// Throws Error with the template's name and line if the template fails, calls raise_exception, or exceeds `limits`.
  /// Several threads may render with one template at the same time.
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
  /// Normalizes line ends to \n and drops the last one, as Jinja does with its source.
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
