// SPDX-License-Identifier: Apache-2.0
// Runs a parsed template: walks its statements, evaluates its expressions, and gathers what they print.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/detail/jinja_globals.hpp"
#include "kto/text/detail/jinja_program.hpp"

namespace kto::detail::jinja {

/// The variables of one scope under way. `parent` is the scope around it in the source, not the caller.
struct Scope {
  Scope* parent;
  std::span<Value> slots;
};

class Interpreter {
 public:
  Interpreter(const Program& program, const Json& variables, const TemplateLimits& limits, std::time_t now)
      : run_(limits, now), program_(program) {
    read_variables(variables);
  }

  std::string render() {
    std::string out;
    out_ = &out;
    execute(program_.body, *open(*program_.layouts[0], nullptr));
    return out;
  }

  /// Where the template was when it failed.
  int line() const { return line_; }

 private:
  enum class Flow { on, leave_loop, next_turn };

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

  Scope* open(const ScopeLayout& layout, Scope* parent) {
    return run_.arena.make(Scope{parent, run_.arena.array<Value>(layout.entries.size())});
  }

  // --- Statements

  void write(std::string_view text) {
    *out_ += text;
    run_.check_length(out_->size());
  }

  /// What `body` prints.
  template <class Body>
  std::string capture(Body body) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    body();
    out_ = outer;
    return text;
  }

  Flow execute(Block statements, Scope& scope) {
    for (const Statement* statement : statements) {
      if (statement->what == Do::text) {
        write(statement->text);
        continue;
      }
      line_ = statement->line;
      if (const Flow flow = execute(*statement, scope); flow != Flow::on) return flow;
    }
    return Flow::on;
  }

  Flow execute(const Statement& statement, Scope& scope) {
    switch (statement.what) {
      case Do::text:
        write(statement.text);
        return Flow::on;
      case Do::print:
        print(evaluate(*statement.expression, scope));
        return Flow::on;
      case Do::branch:
        return execute_branch(statement, scope);
      case Do::loop:
        return execute_loop(statement, scope);
      case Do::set: {
        check_namespaces(*statement.target, scope);
        assign(*statement.target, evaluate(*statement.expression, scope), scope);
        return Flow::on;
      }
      case Do::set_block: {
        check_namespaces(*statement.target, scope);
        Flow flow = Flow::on;
        const Value value = captured(statement, scope, flow);
        if (flow == Flow::on) assign(*statement.target, value, scope);
        return flow;
      }
      case Do::filter_block: {
        Flow flow = Flow::on;
        const Value value = captured(statement, scope, flow);
        if (flow == Flow::on) print(value);
        return flow;
      }
      case Do::macro:
        assign(*statement.target, closure(*statement.macro, scope), scope);
        return Flow::on;
      case Do::call_block: {
        const Value caller = closure(*statement.macro, scope);
        print(call(*statement.expression, scope, &caller));
        return Flow::on;
      }
      case Do::with: {
        Scope* inner = open(*statement.layout, &scope);
        for (std::size_t i = 0; i < statement.slots.size(); ++i)
          inner->slots[static_cast<std::size_t>(statement.slots[i])] = evaluate(*statement.values[i], scope);
        return execute(statement.body, *inner);
      }
      case Do::scope: {
        Scope* inner = open(*statement.layout, &scope);
        set_special(*statement.layout, *inner, {}, {});  // a generation block is a macro that is called with nothing
        return execute(statement.body, *inner);
      }
      case Do::leave_loop:
        return Flow::leave_loop;
      case Do::next_turn:
        return Flow::next_turn;
    }
    return Flow::on;
  }

  void print(const Value& value) { append_text(run_, *out_, value); }

  Flow execute_branch(const Statement& statement, Scope& scope) {
    for (const Branch& branch : statement.branches)
      if (branch.condition == nullptr || is_true(evaluate(*branch.condition, scope)))
        return execute(branch.body, scope);
    return Flow::on;
  }

  /// What the body of a set or filter block prints, through the block's filters.
  Value captured(const Statement& statement, Scope& scope, Flow& flow) {
    Scope* inner = open(*statement.layout, &scope);
    const std::string text = capture([&] { flow = execute(statement.body, *inner); });
    if (flow != Flow::on) return {};
    const Value value = keep_text(run_, text);
    if (statement.expression == nullptr) return value;
    captured_ = value;
    return evaluate(*statement.expression, *inner);
  }

  /// The source of a loop with a condition: asks for each element as the loop comes to it.
  struct Conditioned : Generator {
    Interpreter* interpreter;
    const Statement* statement;
    Scope* scope;
    Iterator source;
  };

  static bool next_conditioned(Run& run, Generator& base, Value& out) {
    auto& self = static_cast<Conditioned&>(base);
    while (self.source.next(run, out)) {
      self.interpreter->assign(*self.statement->condition_target, out, *self.scope);
      if (is_true(self.interpreter->evaluate(*self.statement->condition, *self.scope))) return true;
    }
    return false;
  }

  Flow execute_loop(const Statement& statement, Scope& scope) {
    const Value source = evaluate(*statement.expression, scope);
    if (!statement.recursive) return turn(statement, scope, source, 0);
    write(capture([&] { turn(statement, scope, source, 0); }));
    return Flow::on;
  }

  /// All turns of a loop, and its else. Returns how the else ended: break and continue there are those of a loop
  /// around.
  Flow turn(const Statement& statement, Scope& scope, const Value& source, int depth) {
    Loop* loop = run_.arena.make(Loop{});
    loop->source = iterate(source);
    loop->sized = !source.is(Kind::generator);
    loop->depth0 = depth;
    if (statement.recursive) loop->statement = &statement;
    loop->scope = &scope;
    if (statement.condition != nullptr) {
      Conditioned conditioned;
      conditioned.next = next_conditioned;
      conditioned.interpreter = this;
      conditioned.statement = &statement;
      conditioned.scope = open(*statement.condition_layout, &scope);
      conditioned.source = loop->source;
      loop->source = Iterator(make_object(Kind::generator, run_.arena.make(conditioned)));
      loop->sized = false;
    }
    Scope* inner = open(*statement.layout, &scope);
    bool empty = true;  // Jinja runs the else also where every turn ended with break or continue
    Value element;
    while (loop->next(run_, element)) {
      std::fill(inner->slots.begin(), inner->slots.end(), Value{});
      inner->slots[0] = make_object(Kind::loop, loop);
      assign(*statement.target, element, *inner);
      const Flow flow = execute(statement.body, *inner);
      if (flow == Flow::leave_loop) break;
      if (flow == Flow::on) empty = false;
    }
    if (!empty || statement.otherwise_layout == nullptr) return Flow::on;
    return execute(statement.otherwise, *open(*statement.otherwise_layout, &scope));
  }

  void check_namespaces(const Target& target, Scope& scope) {
    for (const Target* part : target.parts) check_namespaces(*part, scope);
    if (target.space == nullptr) return;
    const Value space = load(*target.space, scope);
    check(space.is(Kind::space), "'", target.space->name, ".", target.attribute,
          "' cannot be set: it is not a namespace but ", type_name(space));
  }

  void assign(const Target& target, const Value& value, Scope& scope) {
    if (target.slot >= 0) {
      scope.slots[static_cast<std::size_t>(target.slot)] = value;
    } else if (target.space != nullptr) {
      set_attribute(run_, load(*target.space, scope).as<Namespace>(), target.attribute, value);
    } else {
      const auto elements = elements_of(run_, value);
      check(elements.size() == target.parts.size(), "a value of ", elements.size(), " elements is assigned to ",
            target.parts.size(), " names");
      for (std::size_t i = 0; i < elements.size(); ++i) assign(*target.parts[i], elements[i], scope);
    }
  }

  // --- Calls

  Value closure(const MacroDefinition& definition, Scope& scope) {
    const auto names = run_.arena.array<Value>(definition.parameters.size());
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = make_text(definition.parameters[i].name);
    return make_object(Kind::macro, run_.arena.make(Macro{definition.name, &definition, &scope, tuple_of(names)}));
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
      check(more.is(Kind::dict), "what stands behind ** is ", type_name(more), "; expected a dict");
      for (const Pair& pair : more.dict()) all_named.push_back({string_of(pair.key, "a key behind **"), pair.value});
    }
    if (caller != nullptr) all_named.push_back({"caller", *caller});
    for (std::size_t i = 0; i < all_named.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        check(all_named[i].name != all_named[j].name, "the argument '", all_named[i].name, "' is given twice");
    return {run_.arena.keep(all), run_.arena.keep(all_named)};
  }

  Value call(const Expression& expression, Scope& scope, const Value* caller = nullptr) {
    const Value callee = evaluate(*expression.operands[0], scope);
    const Arguments arguments = evaluate_arguments(*expression.arguments, scope, caller);
    switch (callee.kind) {
      case Kind::method:
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
      case Kind::loop: {
        const Loop& loop = callee.as<Loop>();
        check(loop.statement != nullptr, "loop(...) needs a loop that is marked 'recursive'");
        const Value source = bind<1>("loop", arguments, {"iterable"}, 1)[0];
        const int line = line_;
        const std::string text = capture([&] { turn(*loop.statement, *loop.scope, source, loop.depth0 + 1); });
        line_ = line;
        return keep_text(run_, text);
      }
      default:
        break;
    }
    check_defined(callee);
    fail("a value of type ", type_name(callee), " cannot be called");
  }

  /// caller, kwargs and varargs of a macro, where its body mentions them.
  void set_special(const ScopeLayout& layout, Scope& scope, std::span<const Pair> kwargs,
                   std::span<const Value> varargs) {
    const auto slot = [&](int index) -> Value& { return scope.slots[static_cast<std::size_t>(index)]; };
    if (layout.caller >= 0 && slot(layout.caller).is_missing())
      slot(layout.caller) = undefined_hint(run_, "no caller is defined: the macro was not called by a call block");
    if (layout.kwargs >= 0) slot(layout.kwargs) = make_dict(kwargs);
    if (layout.varargs >= 0) slot(layout.varargs) = tuple_of(varargs);
  }

  Value call_macro(const Macro& macro, const Arguments& arguments) {
    const MacroDefinition& definition = *macro.definition;
    const ScopeLayout& layout = *definition.layout;
    Scope* scope = open(layout, macro.scope);
    const auto slot = [&](int index) -> Value& { return scope->slots[static_cast<std::size_t>(index)]; };
    const std::size_t num_parameters = definition.parameters.size();
    const std::size_t num_positional = std::min(arguments.positional.size(), num_parameters);
    for (std::size_t i = 0; i < num_positional; ++i) slot(definition.parameters[i].slot) = arguments.positional[i];
    std::vector<Pair> rest;
    for (const Keyword& keyword : arguments.named) {
      std::size_t i = num_positional;
      while (i < num_parameters && definition.parameters[i].name != keyword.name) ++i;
      if (i < num_parameters)
        slot(definition.parameters[i].slot) = keyword.value;
      else if (keyword.name == "caller" && layout.caller >= 0)
        slot(layout.caller) = keyword.value;
      else
        rest.push_back({make_text(keyword.name), keyword.value});
    }
    if (layout.kwargs < 0)
      check(rest.empty(), "the macro '", macro.name, "' has no parameter '",
            rest.empty() ? std::string_view() : rest[0].key.text(), "'");
    const auto more = arguments.positional.subspan(num_positional);
    if (layout.varargs < 0)
      check(more.empty(), "the macro '", macro.name, "' takes ", num_parameters, " arguments; ",
            arguments.positional.size(), " were given");
    set_special(layout, *scope, run_.arena.keep(rest), more);
    const int line = line_;
    for (const Parameter& parameter : definition.parameters) {
      Value& value = slot(parameter.slot);
      if (!value.is_missing()) continue;
      value = parameter.otherwise != nullptr
                  ? evaluate(*parameter.otherwise, *scope)
                  : undefined_hint(run_, run_.arena.keep(concat("the parameter '", parameter.name, "' was not given")));
    }
    const std::string text = capture([&] { execute(definition.body, *scope); });
    line_ = line;
    return keep_text(run_, text);
  }

  // --- Expressions

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
        return expression.filter->call(run_, subject, evaluate_arguments(*expression.arguments, scope));
      }
      case Op::test: {
        const Value subject = operand(0);
        check(expression.test != nullptr, expression.constant.text());
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
      check_hashable(key);
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
  std::string* out_ = nullptr;
  Value captured_;
  int line_ = 1;
};

}  // namespace kto::detail::jinja
