// SPDX-License-Identifier: Apache-2.0
// The state of the parser: its position in the tokens, new nodes, and the scopes of variables.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kto/text/jinja/lexer.hpp"
#include "kto/text/jinja/program.hpp"

namespace kto::jinja {

class ParserBase {
 public:
  /// `line` is kept at the parser's current line, for messages.
  ParserBase(Program& program, int& line) : program_(program), arena_(program.run.arena), line_(line) {}

 protected:
  // --- Tokens

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() {
    const Token token = current();
    if (at_ + 1 < tokens_.size()) ++at_;
    line_ = current().line;
    return token;
  }
  bool is_symbol(std::string_view text) const { return current().type == Token::symbol && current().text == text; }
  bool is_name(std::string_view text) const { return current().type == Token::name && current().text == text; }
  bool take_symbol(std::string_view text) { return take_if(is_symbol(text)); }
  bool take_name(std::string_view text) { return take_if(is_name(text)); }
  bool take_if(bool wanted) {
    if (wanted) take();
    return wanted;
  }

  static std::string described(const Token& token) {
    switch (token.type) {
      case Token::data:
        return "text";
      case Token::variable_begin:
        return "'{{'";
      case Token::variable_end:
        return "'}}'";
      case Token::block_begin:
        return "'{%'";
      case Token::block_end:
        return "'%}'";
      case Token::name:
      case Token::symbol:
        return concat("'", token.text, "'");
      case Token::string:
        return "a text";
      case Token::number:
        return "a number";
      case Token::end:
        return "the end of the template";
    }
    return {};
  }
  [[noreturn]] void fail_expected(std::string_view what) const {
    fail("expected ", what, ", found ", described(current()));
  }
  void expect_symbol(std::string_view text) {
    if (!take_symbol(text)) fail_expected(concat("'", text, "'"));
  }
  std::string_view expect_name() {
    if (current().type != Token::name) fail_expected("a name");
    return take().text;
  }
  void expect(Token::Type type, std::string_view what) {
    if (current().type != type) fail_expected(what);
    take();
  }

  // --- Nodes

  Expression* make(Op op, std::initializer_list<const Expression*> operands = {}) {
    return make(op, std::vector<const Expression*>(operands));
  }
  Expression* make(Op op, const std::vector<const Expression*>& operands) {
    Expression* node = arena_.make(Expression{.op = op, .line = line_, .operands = arena_.keep(operands)});
    for (const Expression* operand : operands) deepen(node, operand);
    return node;
  }
  static void deepen(Expression* node, const Expression* child) {
    if (child == nullptr) return;
    node->depth = std::max(node->depth, child->depth + 1);
    check(node->depth <= max_depth, "the expression has more than ", max_depth, " levels");
  }
  const Expression* constant(const Value& value) {
    Expression* node = make(Op::constant);
    node->constant = value;
    return node;
  }
  Variable* variable(std::string_view name) {
    scope_->load(name);
    mark_special(name);
    Variable* made = arena_.make(Variable{.name = name});
    unresolved_.push_back({made, scope_});
    return made;
  }

  /// caller, kwargs and varargs belong to every enclosing macro that has no variable of that name.
  void mark_special(std::string_view name) {
    if (name != "caller" && name != "kwargs" && name != "varargs") return;
    for (ScopeLayout* scope = scope_; scope != nullptr; scope = scope->parent) {
      if (const auto* entry = scope->find(name); entry != nullptr && entry->stored) return;
      if (!scope->is_macro) continue;
      const int slot = scope->store(name, true);
      (name == "caller" ? scope->caller : name == "kwargs" ? scope->kwargs : scope->varargs) = slot;
    }
  }

  /// Resolves where each variable may live. Call it after the whole template has been parsed.
  void resolve_variables() {
    std::unordered_map<std::string_view, int> numbers;
    for (auto& [variable, from] : unresolved_) {
      std::vector<Slot> slots;
      bool open = true;
      int hops = 0;
      for (ScopeLayout* scope = from; scope != nullptr; scope = scope->parent, ++hops) {
        const ScopeLayout::Entry* entry = scope->find(variable->name);
        if (entry == nullptr) continue;
        if (entry->stored) slots.push_back({hops, entry->slot});
        open = !entry->parameter && !entry->hides;
        if (entry->parameter) break;
      }
      variable->slots = arena_.keep(slots);
      if (!open) continue;
      check(variable->name != "self", "'self' is not supported");
      const auto [found, added] = numbers.try_emplace(variable->name, static_cast<int>(numbers.size()));
      if (added) program_.globals.push_back(variable->name);
      variable->global = found->second;
    }
  }

  /// Limits the recursion of the parser itself.
  struct Level {
    explicit Level(int& level_in) : level(level_in) {
      check(level < max_nesting, "the template nests more than ", max_nesting, " levels");
      ++level;
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --level; }
    int& level;
  };

  static constexpr int max_depth = 400;
  static constexpr int max_nesting = 120;

  Program& program_;
  Arena& arena_;
  int& line_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  ScopeLayout* scope_ = nullptr;
  int nesting_ = 0;
  bool soft_ = false;  // in a branch of an if of this scope
  std::vector<const Expression*> unknown_;
  std::vector<std::pair<Variable*, ScopeLayout*>> unresolved_;
};

}  // namespace kto::jinja
