// SPDX-License-Identifier: Apache-2.0
// Parses targets of assignments, and opens the scopes of blocks.
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/expression_parser.hpp"

namespace kto::jinja {

class TargetParser : protected ExpressionParser {
 protected:
  using ExpressionParser::ExpressionParser;

  // --- Scopes

  ScopeLayout* open_scope(bool is_macro = false) {
    program_.layouts.push_back(std::make_unique<ScopeLayout>());
    ScopeLayout* scope = program_.layouts.back().get();
    scope->parent = scope_;
    scope->is_macro = is_macro;
    scope_ = scope;
    return scope;
  }

  /// A body with its own variables. The body of a macro does not see the enclosing loop.
  template <class Body>
  void in_scope(ScopeLayout* scope, Body body) {
    const bool soft = std::exchange(soft_, false);
    const int loops = scope->is_macro ? std::exchange(loops_, 0) : loops_;
    body();
    soft_ = soft;
    loops_ = loops;
    scope_ = scope->parent;
  }

  // --- Targets

  const Target* target(std::string_view end = {}, bool with_namespace = false, bool is_parameter = false) {
    std::vector<const Target*> parts;
    bool is_tuple = false;
    for (;;) {
      if (!parts.empty()) expect_symbol(",");
      if (current().type == Token::block_end || is_symbol(")") || (!end.empty() && is_name(end))) break;
      parts.push_back(single_target(with_namespace, is_parameter));
      if (!is_symbol(",")) break;
      is_tuple = true;
    }
    if (parts.empty()) fail_expected("a target of an assignment");
    return is_tuple ? arena_.make(Target{.parts = arena_.keep(parts)}) : parts[0];
  }

  const Target* single_target(bool with_namespace, bool is_parameter) {
    const Level level(nesting_);
    if (take_symbol("(")) {
      const Target* inner = target({}, false, is_parameter);
      expect_symbol(")");
      return inner;
    }
    const std::string_view name = expect_name();
    if (with_namespace && take_symbol(".")) {
      const Variable* space = variable(name);
      return arena_.make(Target{.attribute = expect_name(), .space = space});
    }
    return arena_.make(Target{.slot = store(name, is_parameter)});
  }

  int store(std::string_view name, bool is_parameter = false) {
    for (const std::string_view literal : {"true", "false", "none", "True", "False", "None"})
      check(name != literal, "'", name, "' cannot be assigned to");
    check(name != "loop" || all_loops_ == 0, "'loop' cannot be assigned to inside a loop");
    return scope_->store(name, is_parameter);
  }

  int loops_ = 0;      // enclosing loops that break and continue may leave
  int all_loops_ = 0;  // all enclosing loops
};

}  // namespace kto::jinja
