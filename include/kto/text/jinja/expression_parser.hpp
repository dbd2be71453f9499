// SPDX-License-Identifier: Apache-2.0
// The expressions of a template, by recursive descent, in Jinja's grammar.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/parser_base.hpp"

namespace kto::jinja {

class ExpressionParser : protected ParserBase {
 protected:
  using ParserBase::ParserBase;

  const Expression* expression(bool with_conditional = true) {
    const Level level(nesting_);
    return with_conditional ? conditional() : logical_or();
  }

  const Expression* conditional() {
    const std::size_t unknown = unknown_.size();
    const Expression* node = logical_or();
    while (take_name("if")) {
      const Expression* condition = logical_or();
      const Expression* otherwise = nullptr;
      if (take_name("else")) {
        const Level level(nesting_);
        otherwise = conditional();
      }
      node = make(Op::conditional, {condition, node, otherwise});
      unknown_.resize(std::min(unknown, unknown_.size()));  // may never be evaluated: reported only then
    }
    return node;
  }

  const Expression* logical_or() {
    const Expression* node = logical_and();
    while (take_name("or")) node = make(Op::logical_or, {node, logical_and()});
    return node;
  }

  const Expression* logical_and() {
    const Expression* node = logical_not();
    while (take_name("and")) node = make(Op::logical_and, {node, logical_not()});
    return node;
  }

  const Expression* logical_not() {
    if (!take_name("not")) return comparison();
    const Level level(nesting_);
    return make(Op::logical_not, {logical_not()});
  }

  const Expression* comparison() {
    std::vector<const Expression*> operands{sum()};
    std::vector<Op> operators;
    for (;;) {
      Op op = Op::constant;
      if (current().type == Token::symbol) {
        for (const auto& [text, comparison_op] : {std::pair{"==", Op::equal},
                                                  {"!=", Op::not_equal},
                                                  {"<", Op::less},
                                                  {"<=", Op::less_or_equal},
                                                  {">", Op::greater},
                                                  {">=", Op::greater_or_equal}})
          if (current().text == text) op = comparison_op;
      } else if (is_name("in")) {
        op = Op::in;
      } else if (is_name("not") && ahead().type == Token::name && ahead().text == "in") {
        take();
        op = Op::not_in;
      }
      if (op == Op::constant) break;
      take();
      operators.push_back(op);
      operands.push_back(sum());
    }
    if (operators.empty()) return operands[0];
    Expression* node = make(Op::compare, operands);
    node->comparisons = arena_.keep(operators);
    return node;
  }

  const Expression* sum() {
    const Expression* node = concatenation();
    while (is_symbol("+") || is_symbol("-")) {
      const Op op = take().text == "+" ? Op::add : Op::subtract;
      node = make(op, {node, concatenation()});
    }
    return node;
  }

  const Expression* concatenation() {
    std::vector<const Expression*> parts{product()};
    while (take_symbol("~")) parts.push_back(product());
    return parts.size() == 1 ? parts[0] : make(Op::concatenate, parts);
  }

  const Expression* product() {
    const Expression* node = power();
    while (is_symbol("*") || is_symbol("/") || is_symbol("//") || is_symbol("%")) {
      const std::string_view symbol = take().text;
      const Op op = symbol == "*"    ? Op::multiply
                    : symbol == "/"  ? Op::divide
                    : symbol == "//" ? Op::floor_divide
                                     : Op::modulo;
      node = make(op, {node, power()});
    }
    return node;
  }

  const Expression* power() {
    const Expression* node = unary();
    while (take_symbol("**")) node = make(Op::power, {node, unary()});
    return node;
  }

  const Expression* unary(bool with_filters = true) {
    const Expression* node = nullptr;
    if (is_symbol("-") || is_symbol("+")) {
      const Level level(nesting_);
      const Op op = take().text == "-" ? Op::negative : Op::positive;
      node = make(op, {unary(false)});
    } else {
      node = primary();
    }
    node = postfix(node);
    return with_filters ? filters_and_tests(node) : node;
  }

  const Expression* primary() {
    const Token token = current();
    if (token.type == Token::name) {
      take();
      if (token.text == "true" || token.text == "True") return constant(make_bool(true));
      if (token.text == "false" || token.text == "False") return constant(make_bool(false));
      if (token.text == "none" || token.text == "None") return constant(make_none());
      Expression* node = make(Op::variable);
      node->variable = variable(token.text);
      return node;
    }
    if (token.type == Token::string) {
      std::string text;
      for (; current().type == Token::string; take()) text += current().value.text();
      return constant(keep_text(program_.run, text));
    }
    if (token.type == Token::number) return constant(take().value);
    if (take_symbol("(")) {
      const Expression* node = tuple({}, true, true);
      expect_symbol(")");
      return node;
    }
    if (take_symbol("[")) return make(Op::list, sequence("]"));
    if (take_symbol("{")) return make(Op::dict, pairs());
    fail_expected("an expression");
  }

  std::vector<const Expression*> sequence(std::string_view end) {
    std::vector<const Expression*> elements;
    while (!is_symbol(end)) {
      if (!elements.empty()) expect_symbol(",");
      if (is_symbol(end)) break;
      elements.push_back(expression());
    }
    take();
    return elements;
  }

  std::vector<const Expression*> pairs() {  // key, value, key, value, ...
    std::vector<const Expression*> elements;
    while (!is_symbol("}")) {
      if (!elements.empty()) expect_symbol(",");
      if (is_symbol("}")) break;
      elements.push_back(expression());
      expect_symbol(":");
      elements.push_back(expression());
    }
    take();
    return elements;
  }

  /// An expression, or a tuple without parentheses. `end` is a name that may follow it.
  const Expression* tuple(std::string_view end = {}, bool with_conditional = true, bool in_parentheses = false) {
    std::vector<const Expression*> elements;
    bool is_tuple = false;
    for (;;) {
      if (!elements.empty()) expect_symbol(",");
      if (current().type == Token::variable_end || current().type == Token::block_end || is_symbol(")") ||
          (!end.empty() && is_name(end)))
        break;
      elements.push_back(expression(with_conditional));
      if (!is_symbol(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !elements.empty()) return elements[0];
    if (!is_tuple && !in_parentheses) fail_expected("an expression");
    return make(Op::tuple, elements);
  }

  const Expression* postfix(const Expression* node) {
    for (;;) {
      if (is_symbol(".") || is_symbol("["))
        node = subscript(node);
      else if (is_symbol("("))
        node = call(node);
      else
        return node;
    }
  }

  const Expression* filters_and_tests(const Expression* node) {
    for (;;) {
      if (take_symbol("|"))
        node = filter(node);
      else if (is_name("is"))
        node = test(node);
      else if (is_symbol("("))
        node = call(node);
      else
        return node;
    }
  }

  const Expression* subscript(const Expression* node) {
    if (take().text == ".") {
      if (current().type == Token::number && current().value.is(Kind::integer))
        return make(Op::item, {node, constant(take().value)});
      Expression* made = make(Op::attribute, {node});
      made->attribute = arena_.make(resolve_attribute(expect_name()));
      return made;
    }
    std::vector<const Expression*> keys_given;
    bool is_slice = false;
    while (!is_symbol("]")) {
      if (!keys_given.empty()) expect_symbol(",");
      const Expression* bounds[3] = {};
      if (!is_symbol(":")) bounds[0] = expression();
      if (!is_symbol(":")) {
        keys_given.push_back(bounds[0]);
        continue;
      }
      is_slice = true;
      for (int i = 1; i < 3 && take_symbol(":"); ++i)
        if (!is_symbol(":") && !is_symbol("]") && !is_symbol(",")) bounds[i] = expression();
      keys_given.push_back(make(Op::slice, {node, bounds[0], bounds[1], bounds[2]}));
    }
    take();
    check(!is_slice || keys_given.size() == 1, "a slice beside other indices is not supported");
    if (is_slice) return keys_given[0];
    return make(Op::item, {node, keys_given.size() == 1 ? keys_given[0] : make(Op::tuple, keys_given)});
  }

  const CallArguments* call_arguments(Expression* owner) {
    CallArguments arguments;
    std::vector<const Expression*> positional;
    std::vector<NamedExpression> named;
    expect_symbol("(");
    while (!is_symbol(")")) {
      if (!positional.empty() || !named.empty() || arguments.star != nullptr || arguments.star_star != nullptr) {
        expect_symbol(",");
        if (is_symbol(")")) break;
      }
      const bool keyword = current().type == Token::name && ahead().type == Token::symbol && ahead().text == "=";
      check(arguments.star_star == nullptr &&
                (keyword || is_symbol("**") || (arguments.star == nullptr && (is_symbol("*") || named.empty()))),
            "the arguments of the call are not in order: positional, named, *values, **values");
      const Expression* value = nullptr;
      if (take_symbol("*")) {
        value = arguments.star = expression();
      } else if (take_symbol("**")) {
        value = arguments.star_star = expression();
      } else if (keyword) {
        const std::string_view name = take().text;
        take();
        for (const NamedExpression& other : named)
          check(other.name != name, "the argument '", name, "' is given twice");
        value = expression();
        named.push_back({name, value});
      } else {
        value = expression();
        positional.push_back(value);
      }
      deepen(owner, value);
    }
    take();
    arguments.positional = arena_.keep(positional);
    arguments.named = arena_.keep(named);
    return arena_.make(arguments);
  }

  const Expression* call(const Expression* callee) {
    Expression* node = make(Op::call, {callee});
    node->arguments = call_arguments(node);
    return node;
  }

  std::string dotted_name() {
    std::string name(expect_name());
    while (take_symbol(".")) name += concat(".", expect_name());
    return name;
  }

  /// An unknown filter or test is not an error until it is evaluated: it may be in a branch that is not taken.
  void report_unknown(Expression* node, std::string_view what, std::string_view name) {
    node->constant =
        keep_text(program_.run, concat("there is no ", what, " named '", name, "', or it is not supported"));
    if (!soft_) unknown_.push_back(node);
  }

  /// The name of a filter and its arguments, applied to `subject`.
  const Expression* filter(const Expression* subject) {
    Expression* node = make(Op::filter, {subject});
    const std::string name = dotted_name();
    node->filter = find_filter(name);
    if (node->filter == nullptr) report_unknown(node, "filter", name);
    static constexpr CallArguments none{};
    node->arguments = is_symbol("(") ? call_arguments(node) : &none;
    return node;
  }

  const Expression* test(const Expression* subject) {
    take();
    const bool negated = take_name("not");
    Expression* node = make(Op::test, {subject});
    const std::string name = dotted_name();
    node->test = name == filter_test.name ? &filter_test : find_test(name);
    if (node->test == nullptr) report_unknown(node, "test", name);
    const Token::Type type = current().type;
    CallArguments arguments;
    if (is_symbol("(")) {
      node->arguments = call_arguments(node);
    } else if (((type == Token::name || type == Token::string || type == Token::number) || is_symbol("[") ||
                is_symbol("{")) &&
               !is_name("else") && !is_name("or") && !is_name("and")) {
      check(!is_name("is"), "tests cannot be chained with 'is'");
      const Expression* argument = postfix(primary());
      deepen(node, argument);
      arguments.positional = arena_.keep(std::vector{argument});
    }
    if (node->arguments == nullptr) node->arguments = arena_.make(arguments);
    return negated ? make(Op::logical_not, {node}) : node;
  }
};

}  // namespace kto::jinja
