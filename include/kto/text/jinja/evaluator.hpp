// SPDX-License-Identifier: Apache-2.0
// Evaluates the expressions of a parsed template.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/globals.hpp"
#include "kto/text/jinja/program.hpp"

namespace kto::jinja {

/// The variables of one active scope. `parent` is the enclosing scope in the source, not the caller.
struct Scope {
  Scope* parent;
  std::span<Value> slots;
};

class Evaluator {
 public:
  Evaluator(const Program& program, const Json& variables, const TemplateLimits& limits, std::time_t now)
      : run_(limits, now), program_(program) {
    read_variables(variables);
  }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

 protected:
  ~Evaluator() = default;

  virtual Value call_macro(const Macro& macro, const Arguments& arguments) = 0;
  /// loop(elements), in a recursive loop
  virtual Value call_loop(const Loop& loop, const Arguments& arguments) = 0;

  void read_variables(const Json& variables) {
    check(variables.is_object(), "the variables are ", variables.type_name(), "; expected an object");
    globals_ = run_.arena.array<Value>(program_.globals.size());
    for (std::size_t i = 0; i < globals_.size(); ++i) {
      const std::string_view name = program_.globals[i];
      Value& value = globals_[i];
      if (const auto found = variables.find(name); found != variables.end()) {
        value = name == "messages" ? from_messages(run_, *found) : from_json(run_, *found);
      } else if (name == "tools" || name == "documents") {
        value = make_none();
      } else if (name == "add_generation_prompt") {
        value = make_bool(false);
      } else {
        for (const Function& function : globals)
          if (function.name == name) value = make_function(function);
      }
    }
  }

  Arguments evaluate_arguments(const CallArguments& given, Scope& scope, const Value* caller = nullptr) {
    const bool fixed = given.star == nullptr && given.star_star == nullptr && caller == nullptr;
    if (fixed && given.positional.empty() && given.named.empty()) return {};
    const auto positional = run_.arena.array<Value>(given.positional.size());
    for (std::size_t i = 0; i < positional.size(); ++i) positional[i] = evaluate(*given.positional[i], scope);
    const auto named = run_.arena.array<Keyword>(given.named.size());
    for (std::size_t i = 0; i < named.size(); ++i)
      named[i] = {given.named[i].name, evaluate(*given.named[i].value, scope)};
    if (fixed) return {positional, named};
    std::vector<Value> all(positional.begin(), positional.end());
    std::vector<Keyword> all_named(named.begin(), named.end());
    if (given.star != nullptr) {
      const auto more = elements_of(run_, evaluate(*given.star, scope));
      all.insert(all.end(), more.begin(), more.end());
    }
    if (given.star_star != nullptr) {
      const Value more = evaluate(*given.star_star, scope);
      check(more.is(Kind::dict), "the argument after ** is ", type_name(more), "; expected a dict");
      for (const Pair& pair : more.dict()) all_named.push_back({string_of(pair.key, "a key after **"), pair.value});
    }
    if (caller != nullptr) all_named.push_back({"caller", *caller});
    for (std::size_t i = 0; i < all_named.size(); run_.step(static_cast<std::int64_t>(i++) / 8))
      for (std::size_t j = 0; j < i; ++j)
        check(all_named[i].name != all_named[j].name, "the argument '", all_named[i].name, "' is given twice");
    return {run_.arena.keep(all), run_.arena.keep(all_named)};
  }

  Value call(const Expression& expression, Scope& scope, const Value* caller = nullptr) {
    const Value callee = evaluate(*expression.operands[0], scope);
    const Arguments arguments = evaluate_arguments(*expression.arguments, scope, caller);
    switch (callee.kind) {
      case Kind::method:
        read_subject(run_, callee.as<Method>().self);
        return callee.as<Method>().call(run_, callee.as<Method>().self, arguments);
      case Kind::function:
        return callee.as<Function>().call(run_, callee, arguments);
      case Kind::macro:
        return call_macro(callee.as<Macro>(), arguments);
      case Kind::joiner: {
        check_no_arguments("the joiner", arguments);
        Joiner& joiner = callee.as<Joiner>();
        return std::exchange(joiner.used, true) ? joiner.separator : make_text("");
      }
      case Kind::loop:
        return call_loop(callee.as<Loop>(), arguments);
      default:
        break;
    }
    check_defined(callee);
    fail("a value of type ", type_name(callee), " cannot be called");
  }

  Value load(const Variable& variable, const Scope& scope) {
    int hops = 0;
    const Scope* at = &scope;
    for (const Slot& slot : variable.slots) {
      for (; hops < slot.hops; ++hops) at = at->parent;
      const Value& value = at->slots[static_cast<std::size_t>(slot.index)];
      if (!value.is_missing()) return value;
    }
    if (variable.global >= 0)
      if (const Value& value = globals_[static_cast<std::size_t>(variable.global)]; !value.is_missing()) return value;
    return undefined_variable(run_, variable.name);
  }

  Value evaluate(const Expression& expression, Scope& scope) {
    if (expression.op == Op::constant) return expression.constant;
    if (expression.op == Op::variable) return load(*expression.variable, scope);
    const Nested nested(run_);
    const auto operand = [&](std::size_t i) { return evaluate(*expression.operands[i], scope); };
    switch (expression.op) {
      case Op::constant:
      case Op::variable:
        break;
      case Op::captured:
        return captured_;
      case Op::attribute:
        return get_attribute(run_, operand(0), *expression.attribute);
      case Op::item: {
        const Value object = operand(0);
        return get_item(run_, object, operand(1));
      }
      case Op::filter: {
        const Value subject = operand(0);
        check(expression.filter != nullptr, expression.constant.text());
        read_subject(run_, subject);
        return expression.filter->call(run_, subject, evaluate_arguments(*expression.arguments, scope));
      }
      case Op::test: {
        const Value subject = operand(0);
        check(expression.test != nullptr, expression.constant.text());
        read_subject(run_, subject);
        return make_bool(expression.test->holds(run_, subject, evaluate_arguments(*expression.arguments, scope)));
      }
      case Op::call:
        return call(expression, scope);
      case Op::logical_not:
        return make_bool(!is_true(operand(0)));
      case Op::logical_and: {
        const Value left = operand(0);
        return is_true(left) ? operand(1) : left;
      }
      case Op::logical_or: {
        const Value left = operand(0);
        return is_true(left) ? left : operand(1);
      }
      case Op::conditional:
        if (is_true(operand(0))) return operand(1);
        if (expression.operands[2] != nullptr) return operand(2);
        return undefined_hint(run_, "a conditional without else had no value");
      case Op::compare:
        return compare(expression, scope);
      case Op::concatenate:
        return concatenate(expression, scope);
      case Op::list:
      case Op::tuple: {
        const auto elements = run_.arena.array<Value>(expression.operands.size());
        for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = operand(i);
        return make_sequence(expression.op == Op::list ? Kind::list : Kind::tuple, elements);
      }
      case Op::dict:
        return dict(expression, scope);
      case Op::slice: {
        Value parts[4];
        for (std::size_t i = 0; i < 4; ++i)
          if (expression.operands[i] != nullptr) parts[i] = operand(i);
        return slice(run_, parts[0], parts[1], parts[2], parts[3]);
      }
      case Op::negative:
      case Op::positive:
        return negate(operand(0), expression.op == Op::negative);
      default:
        break;
    }
    const Value left = operand(0);
    return arithmetic(expression.op, left, operand(1));
  }

  Value arithmetic(Op op, const Value& left, const Value& right) {
    switch (op) {
      case Op::add:
        return add(run_, left, right);
      case Op::subtract:
        return subtract(left, right);
      case Op::multiply:
        return multiply(run_, left, right);
      case Op::divide:
        return divide(left, right);
      case Op::floor_divide:
        return floor_divide(left, right);
      case Op::modulo:
        read_subject(run_, left);
        return left.is(Kind::string) ? format_percent(run_, left, right) : modulo(left, right);
      default:
        return power(left, right);
    }
  }

  Value compare(const Expression& expression, Scope& scope) {
    Value left = evaluate(*expression.operands[0], scope);
    for (std::size_t i = 0; i < expression.comparisons.size(); ++i) {
      const Value right = evaluate(*expression.operands[i + 1], scope);
      if (!holds(expression.comparisons[i], left, right)) return make_bool(false);
      left = right;
    }
    return make_bool(true);
  }

  bool holds(Op op, const Value& left, const Value& right) {
    switch (op) {
      case Op::equal:
        return is_equal(run_, left, right);
      case Op::not_equal:
        return !is_equal(run_, left, right);
      case Op::less:
        return is_less(run_, left, right);
      case Op::less_or_equal:
        return is_less_or_equal(run_, left, right);
      case Op::greater:
        return is_less(run_, right, left, ">");
      case Op::greater_or_equal:
        return is_less_or_equal(run_, right, left, ">=");
      case Op::in:
        return contains(run_, right, left);
      default:
        return !contains(run_, right, left);
    }
  }

  Value concatenate(const Expression& expression, Scope& scope) {
    std::string text;
    for (const Expression* part : expression.operands) append_text(run_, text, evaluate(*part, scope));
    return keep_text(run_, text);
  }

  Value dict(const Expression& expression, Scope& scope) {
    const auto pairs = run_.arena.array<Pair>(expression.operands.size() / 2);
    std::size_t count = 0;
    for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
      const Value key = evaluate(*expression.operands[i], scope);
      check_hashable(run_, key);
      const Value value = evaluate(*expression.operands[i + 1], scope);
      const Value* old = find_key(run_, make_dict(pairs.first(count)), key);
      if (old != nullptr)
        *const_cast<Value*>(old) = value;
      else
        pairs[count++] = {key, value};
    }
    return make_dict(pairs.first(count));
  }

  Run run_;
  const Program& program_;
  std::span<Value> globals_;
  Value captured_;  // what the body of a set or filter block has printed
  int line_ = 1;
};

}  // namespace kto::jinja
