// SPDX-License-Identifier: Apache-2.0
// Runs a parsed template: executes its statements and collects what they print.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/text/jinja/evaluator.hpp"

namespace kto::jinja {

class Interpreter final : Evaluator {
 public:
  using Evaluator::Evaluator;

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

  Scope* open(const ScopeLayout& layout, Scope* parent) {
    return run_.arena.make(Scope{parent, run_.arena.array<Value>(layout.entries.size())});
  }

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
    const Nested nested(run_, 2);
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

  /// The source of a loop with a condition: filters lazily, one element at a time.
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

  /// Runs a loop and its else. Returns how the else ended: break and continue in an else belong to the enclosing loop.
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
    bool empty = true;  // Jinja also runs the else if every iteration ended with break or continue
    Value element;
    while (loop->next(run_, element)) {
      std::ranges::fill(inner->slots, Value{});
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

  // --- Macros

  Value closure(const MacroDefinition& definition, Scope& scope) {
    const auto names = run_.arena.array<Value>(definition.parameters.size());
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = make_text(definition.parameters[i].name);
    return make_object(Kind::macro, run_.arena.make(Macro{definition.name, &definition, &scope, tuple_of(names)}));
  }

  Value call_loop(const Loop& loop, const Arguments& arguments) override {
    check(loop.statement != nullptr, "loop(...) needs a loop that is marked 'recursive'");
    const Value source = bind<1>("loop", arguments, {"iterable"}, 1)[0];
    const Nested nested(run_, 5);
    const int line = line_;
    const std::string text = capture([&] { turn(*loop.statement, *loop.scope, source, loop.depth0 + 1); });
    line_ = line;
    return keep_text(run_, text);
  }

  /// Sets caller, kwargs and varargs of a macro, if its body mentions them.
  void set_special(const ScopeLayout& layout, Scope& scope, std::span<const Pair> kwargs,
                   std::span<const Value> varargs) {
    const auto slot = [&](int index) -> Value& { return scope.slots[static_cast<std::size_t>(index)]; };
    if (layout.caller >= 0 && slot(layout.caller).is_missing())
      slot(layout.caller) = undefined_hint(run_, "no caller is defined: the macro was not called by a call block");
    if (layout.kwargs >= 0) slot(layout.kwargs) = make_dict(kwargs);
    if (layout.varargs >= 0) slot(layout.varargs) = tuple_of(varargs);
  }

  Value call_macro(const Macro& macro, const Arguments& arguments) override {
    const Nested nested(run_, 5);
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

  std::string* out_ = nullptr;
};

}  // namespace kto::jinja
