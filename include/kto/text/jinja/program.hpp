// SPDX-License-Identifier: Apache-2.0
// A parsed template: expressions, statements, and where its variables live. Nodes live in the arena of the program and
// do not change after parsing, so threads may share them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kto/text/jinja/filters.hpp"

namespace kto::jinja {

// --- Variables

/// The names that one scope (the template, a loop, a macro, ...) mentions, as Jinja's compiler tracks them. A name that
/// the scope sets has a slot. A `set` before any use, outside of an if, hides the caller's variable of that name.
struct ScopeLayout {
  struct Entry {
    int slot = 0;
    bool stored = false;
    bool parameter = false;
    bool hides = false;
  };
  ScopeLayout* parent = nullptr;
  bool is_macro = false;
  int branches = 0;  // how many ifs of this scope the parser is inside
  std::unordered_map<std::string_view, Entry> entries;
  int caller = -1;  // slots of a macro's implicit arguments; -1 if it does not mention them
  int kwargs = -1;
  int varargs = -1;

  const Entry* find(std::string_view name) const {
    const auto found = entries.find(name);
    return found == entries.end() ? nullptr : &found->second;
  }
  Entry& load(std::string_view name) {
    return entries.try_emplace(name, Entry{.slot = static_cast<int>(entries.size())}).first->second;
  }
  int store(std::string_view name, bool parameter = false) {
    const bool first = find(name) == nullptr;
    Entry& entry = load(name);
    if (first) entry.hides = branches == 0;
    entry.stored = true;
    entry.parameter = entry.parameter || parameter;
    return entry.slot;
  }
};

struct Slot {
  int hops;  // how many scopes outwards
  int index;
};

/// Where the value of a name may be: the first slot that is set, else the caller's variable `global`.
struct Variable {
  std::string_view name;
  std::span<const Slot> slots{};
  int global = -1;
};

// --- Expressions

enum class Op : std::uint8_t {
  constant,
  variable,
  captured,
  list,
  tuple,
  dict,
  attribute,
  item,
  slice,
  call,
  filter,
  test,
  negative,
  positive,
  logical_not,
  logical_and,
  logical_or,
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate,
  compare,
  equal,
  not_equal,
  less,
  less_or_equal,
  greater,
  greater_or_equal,
  in,
  not_in,
  conditional,
};

struct Expression;

struct NamedExpression {
  std::string_view name;
  const Expression* value;
};

struct CallArguments {
  std::span<const Expression* const> positional;
  std::span<const NamedExpression> named;
  const Expression* star = nullptr;       // *values
  const Expression* star_star = nullptr;  // **values
};

struct Expression {
  Op op = Op::constant;
  int line = 0;
  int depth = 1;                                  // of the tree below
  Value constant{};                               // the message, if a filter or test is unknown
  std::span<const Expression* const> operands{};  // null if a slice has no bound, or a conditional no else
  std::span<const Op> comparisons{};              // between the operands of a chain
  const Variable* variable = nullptr;
  const Attribute* attribute = nullptr;
  const CallArguments* arguments = nullptr;
  const Filter* filter = nullptr;
  const Test* test = nullptr;
};

/// The target of an assignment: a slot of the scope, an attribute of a namespace, or several of these.
struct Target {
  std::string_view attribute{};  // empty if not a namespace
  const Variable* space = nullptr;
  int slot = -1;
  std::span<const Target* const> parts{};
};

// --- Statements

enum class Do : std::uint8_t {
  text,
  print,
  branch,
  loop,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  scope,
  leave_loop,
  next_turn,
};

struct MacroDefinition;
struct Statement;
using Block = std::span<const Statement* const>;

struct Branch {
  const Expression* condition = nullptr;  // null: else
  Block body;
};

struct Statement {
  Do what = Do::text;
  int line = 0;
  std::string_view text{};
  const Expression* expression = nullptr;  // printed, assigned, iterated over, or the filter of a block
  const Expression* condition = nullptr;   // of a loop
  const Target* target = nullptr;
  std::span<const Branch> branches{};
  Block body{};
  Block otherwise{};  // the else of a loop
  bool recursive = false;
  const ScopeLayout* layout = nullptr;
  const ScopeLayout* condition_layout = nullptr;
  const ScopeLayout* otherwise_layout = nullptr;
  const Target* condition_target = nullptr;
  const MacroDefinition* macro = nullptr;
  std::span<const int> slots{};                 // with: of its variables
  std::span<const Expression* const> values{};  // with: their values
};

struct Parameter {
  std::string_view name;
  int slot = -1;
  const Expression* otherwise = nullptr;  // the default
};

struct MacroDefinition {
  std::string_view name;
  std::span<const Parameter> parameters{};
  const ScopeLayout* layout = nullptr;
  Block body{};
};

struct Program {
  explicit Program(std::string_view source_in) : run({.memory_bytes = 256 << 20}), source(source_in) {}

  Run run;  // holds nodes and constants
  std::string source;
  std::vector<std::unique_ptr<ScopeLayout>> layouts;  // the first is the template's
  std::vector<std::string_view> globals;              // names that the caller, or Jinja, may give
  Block body;
};

}  // namespace kto::jinja
