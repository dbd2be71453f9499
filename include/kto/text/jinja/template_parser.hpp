// SPDX-License-Identifier: Apache-2.0
// The statements of a template: {% if %}, {% for %}, {% set %}, {% macro %} and the rest, in Jinja's grammar.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/target_parser.hpp"

namespace kto::jinja {

class TemplateParser : TargetParser {
 public:
  TemplateParser(Program& program, int& line) : TargetParser(program, line) {}

  void parse() {
    tokens_ = Lexer(program_.run, program_.source, line_).tokens();
    line_ = current().line;
    open_scope();
    program_.body = block({});
    if (!unknown_.empty()) {
      line_ = unknown_[0]->line;
      fail(unknown_[0]->constant.text());
    }
    resolve_variables();
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  // --- Blocks

  Statement* statement(Do what) { return arena_.make(Statement{.what = what, .line = line_}); }

  /// Statements up to a tag in `ends`, whose name becomes the current token; up to the end of the template if empty.
  Block block(Names ends) {
    const Level level(nesting_);
    std::vector<const Statement*> body;
    for (;;) {
      const Token token = current();
      if (token.type == Token::end) {
        if (ends.size() > 0) fail("the template ends inside a block: '{% ", *(ends.end() - 1), " %}' is missing");
        break;
      }
      take();
      if (token.type == Token::data) {
        Statement* text = statement(Do::text);
        text->text = token.text;
        body.push_back(text);
      } else if (token.type == Token::variable_begin) {
        body.push_back(print(token.line, tuple()));
        expect(Token::variable_end, "'}}'");
      } else {
        if (std::ranges::any_of(ends, [&](std::string_view end) { return is_name(end); })) break;
        parse_statement(body);
        expect(Token::block_end, "'%}'");
      }
    }
    return arena_.keep(body);
  }

  /// The body after the tag just read, and the name of the tag that ends it.
  Block body(Names ends, std::string_view* end = nullptr) {
    take_symbol(":");
    expect(Token::block_end, "'%}'");
    const Block statements = block(ends);
    const std::string_view name = expect_name();
    if (end != nullptr) *end = name;
    return statements;
  }

  const Statement* print(int line, const Expression* value) {
    Statement* node = statement(Do::print);
    node->line = line;
    node->expression = value;
    return node;
  }

  void parse_statement(std::vector<const Statement*>& out) {
    if (current().type != Token::name) fail_expected("the name of a tag");
    const Token tag = current();
    const std::string_view name = tag.text;
    if (name == "if") return out.push_back(parse_if());
    if (name == "for") return out.push_back(parse_for());
    if (name == "set") return out.push_back(parse_set());
    if (name == "macro") return out.push_back(parse_macro());
    if (name == "call") return out.push_back(parse_call_block());
    if (name == "filter") return out.push_back(parse_filter_block());
    if (name == "with") return out.push_back(parse_with());
    if (name == "generation") return out.push_back(parse_generation());
    if (name == "block") return out.push_back(parse_block_tag());
    if (name == "autoescape") return out.push_back(parse_autoescape());
    if (name == "break" || name == "continue") {
      take();
      check(loops_ > 0, "'{% ", name, " %}' is outside a loop");
      return out.push_back(statement(name == "break" ? Do::leave_loop : Do::next_turn));
    }
    if (name == "print") {
      take();
      for (bool first = true; current().type != Token::block_end; first = false) {
        if (!first) expect_symbol(",");
        out.push_back(print(tag.line, expression()));
      }
      return;
    }
    for (const std::string_view other : {"include", "import", "from", "extends", "do", "trans", "debug"})
      check(name != other, "the tag '{% ", name, " %}' is not supported");
    fail("there is no tag '{% ", name, " %}', or it is not allowed here");
  }

  // --- Statements

  const Statement* parse_if() {
    Statement* node = statement(Do::branch);
    std::vector<Branch> branches;
    const bool soft = std::exchange(soft_, true);
    std::string_view end = take().text;
    while (end != "endif") {
      Branch branch;
      if (end != "else") branch.condition = tuple({}, false);
      ++scope_->branches;
      ScopeLayout* scope = scope_;
      branch.body = end == "else" ? body({"endif"}, &end) : body({"elif", "else", "endif"}, &end);
      --scope->branches;
      branches.push_back(branch);
    }
    soft_ = soft;
    node->branches = arena_.keep(branches);
    return node;
  }

  const Statement* parse_for() {
    take();
    Statement* node = statement(Do::loop);
    ++all_loops_;
    ScopeLayout* outer = scope_;
    // The targets come first in the source but belong to the scope of the body, and also to that of the condition.
    const std::size_t targets_at = at_;
    ScopeLayout* scope = open_scope();
    scope->store("loop", true);
    node->target = target("in", false, true);
    node->layout = scope;
    scope_ = outer;
    if (!take_name("in")) fail_expected("'in'");
    node->expression = tuple("recursive", false);
    if (take_name("if")) {
      const std::size_t resume = at_;
      node->condition_layout = open_scope();
      at_ = targets_at;
      node->condition_target = target("in", false, true);
      at_ = resume;
      line_ = current().line;
      in_scope(scope_, [&] { node->condition = expression(); });
    }
    node->recursive = take_name("recursive");
    std::string_view end;
    scope_ = scope;
    in_scope(scope, [&] {
      loops_ = node->recursive ? 1 : loops_ + 1;
      node->body = body({"else", "endfor"}, &end);
    });
    if (end == "else") {
      ScopeLayout* otherwise = open_scope();
      node->otherwise_layout = otherwise;
      in_scope(otherwise, [&] {
        if (node->recursive) loops_ = 0;
        node->otherwise = body({"endfor"});
      });
    }
    --all_loops_;
    return node;
  }

  const Statement* parse_set() {
    take();
    Statement* node = statement(Do::set);
    // The value is parsed before the name is set: {% set x = x + 1 %}
    const std::size_t targets_at = at_;
    while (!is_symbol("=") && current().type != Token::block_end && !is_symbol("|") && current().type != Token::end)
      take();
    if (take_symbol("=")) {
      node->expression = tuple();
      read_target_again(node, targets_at, "=");
      return node;
    }
    node->what = Do::set_block;
    at_ = targets_at;
    line_ = current().line;
    node->target = target({}, true);
    ScopeLayout* scope = open_scope();
    node->layout = scope;
    in_scope(scope, [&] {
      if (is_symbol("|")) {
        const Expression* filtered = make(Op::captured);
        while (take_symbol("|")) filtered = filter(filtered);
        node->expression = filtered;
      }
      node->body = body({"endset"});
    });
    return node;
  }

  void read_target_again(Statement* node, std::size_t targets_at, std::string_view end) {
    const std::size_t resume = std::exchange(at_, targets_at);
    line_ = current().line;
    node->target = target({}, true);
    if (!is_symbol(end)) fail_expected(concat("'", end, "'"));
    at_ = resume;
    line_ = current().line;
  }

  /// Parameters and body of a macro or a call block.
  MacroDefinition* definition(std::string_view name, bool has_parameters, std::string_view end, ScopeLayout* scope) {
    MacroDefinition* made = arena_.make(MacroDefinition{.name = name});
    made->layout = scope;
    std::vector<Parameter> parameters;
    if (has_parameters) {
      expect_symbol("(");
      while (!is_symbol(")")) {
        if (!parameters.empty()) expect_symbol(",");
        Parameter parameter;
        parameter.name = expect_name();
        parameter.slot = store(parameter.name, true);
        if (take_symbol("="))
          parameter.otherwise = expression();
        else
          check(parameters.empty() || parameters.back().otherwise == nullptr, "the parameter '", parameter.name,
                "' without a default follows one with a default");
        parameters.push_back(parameter);
      }
      take();
    }
    made->parameters = arena_.keep(parameters);
    if (!end.empty()) made->body = body({end});
    return made;
  }

  const Statement* parse_macro() {
    take();
    Statement* node = statement(Do::macro);
    const std::string_view name = expect_name();
    node->target = arena_.make(Target{.slot = store(name)});
    ScopeLayout* scope = open_scope(true);
    in_scope(scope, [&] { node->macro = definition(name, true, "endmacro", scope); });
    return node;
  }

  const Statement* parse_call_block() {
    take();
    Statement* node = statement(Do::call_block);
    ScopeLayout* outer = scope_;
    ScopeLayout* scope = open_scope(true);
    MacroDefinition* made = nullptr;
    in_scope(scope, [&] { made = definition({}, is_symbol("("), {}, scope); });
    scope_ = outer;
    node->expression = expression();
    check(node->expression->op == Op::call, "the tag '{% call %}' needs a call of a macro");
    scope_ = scope;
    in_scope(scope, [&] { made->body = body({"endcall"}); });
    node->macro = made;
    return node;
  }

  const Statement* parse_filter_block() {
    take();
    Statement* node = statement(Do::filter_block);
    ScopeLayout* scope = open_scope();
    node->layout = scope;
    in_scope(scope, [&] {
      const Expression* filtered = filter(make(Op::captured));
      while (take_symbol("|")) filtered = filter(filtered);
      node->expression = filtered;
      node->body = body({"endfilter"});
    });
    return node;
  }

  const Statement* parse_with() {
    take();
    Statement* node = statement(Do::with);
    ScopeLayout* outer = scope_;
    ScopeLayout* scope = open_scope();
    std::vector<int> slots;
    std::vector<const Expression*> given;
    while (current().type != Token::block_end) {
      if (!slots.empty()) expect_symbol(",");
      scope_ = scope;
      slots.push_back(store(expect_name(), true));
      expect_symbol("=");
      scope_ = outer;
      given.push_back(expression());
    }
    node->slots = arena_.keep(slots);
    node->values = arena_.keep(given);
    node->layout = scope;
    scope_ = scope;
    in_scope(scope, [&] { node->body = body({"endwith"}); });
    return node;
  }

  /// A body that is printed in place, with its own variables.
  const Statement* parse_scope(Statement* node, std::string_view end, bool is_macro = false) {
    ScopeLayout* scope = open_scope(is_macro);
    node->layout = scope;
    in_scope(scope, [&] { node->body = body({end}); });
    return node;
  }

  const Statement* parse_generation() {
    take();
    return parse_scope(statement(Do::scope), "endgeneration", true);
  }

  const Statement* parse_autoescape() {
    take();
    Statement* node = statement(Do::scope);
    const Expression* value = expression();
    check(value->op == Op::constant && !is_true(value->constant), "the tag '{% autoescape true %}' is not supported");
    return parse_scope(node, "endautoescape");
  }

  const Statement* parse_block_tag() {
    take();
    Statement* node = statement(Do::scope);
    const std::string_view name = expect_name();
    check(std::ranges::find(block_names_, name) == block_names_.end(), "the block '", name, "' is defined twice");
    block_names_.push_back(name);
    check(!is_name("scoped") && !is_name("required"), "a block that is scoped or required is not supported");
    check(scope_->parent == nullptr, "a block inside a loop, a macro or another block is not supported");
    parse_scope(node, "endblock");
    if (current().type == Token::name) take();
    return node;
  }

  std::vector<std::string_view> block_names_;
};

}  // namespace kto::jinja
