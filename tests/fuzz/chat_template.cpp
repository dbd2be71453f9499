// SPDX-License-Identifier: Apache-2.0
// A Jinja template, rendered over a conversation with a tool call.
#include "kto/text/chat_template.hpp"

#include "fuzz.hpp"

void fuzz::chat_template(std::string_view bytes) {
  static const kto::Json variables = kto::Json::parse(R"({"messages": [
      {"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "h\u00e9llo <b>"}]},
      {"role": "assistant", "content": "ok", "tool_calls": [{"type": "function", "function": {"name": "f",
       "arguments": {"x": [1, 2.5, null, true], "y": "z"}}}]}, {"role": "tool", "content": "3"}],
      "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
      "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 7, "f": -0.5})");
  // Far below the defaults, so that an input takes milliseconds.
  const kto::TemplateLimits limits{.steps = 10'000, .output_bytes = 1 << 16, .memory_bytes = 4 << 20};
  kto::ChatTemplate(std::string(bytes)).render(variables, 0, limits);
}
