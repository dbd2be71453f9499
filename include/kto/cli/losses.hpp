// SPDX-License-Identifier: Apache-2.0
// The losses that a program offers, as its command line knows them: --loss_type and its values, and each loss's flags.
// Losses that have a flag of one name share the option.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kto/cli/script_config.hpp"
#include "kto/loss/concept.hpp"
#include "kto/options/option_table.hpp"

namespace kto::cli {

template <class Number>
Range range_of(const Interval& interval) {
  const auto text = [](double x) { return detail::value_text(Json(x)); };
  const auto [low, high, is_open] = interval;
  const std::string kind = std::integral<Number> ? "an integer" : "a number";
  return {is_open ? concat(kind, " > ", text(low), " and at most ", text(high))
                  : concat(kind, " from ", text(low), " to ", text(high)),
          [=](double x) { return (is_open ? x > low : x >= low) && x <= high; }};
}

/// The flags of `Loss` as a table over it.
template <class Loss>
Options<Loss> loss_options() {
  Options<Loss> out;
  const auto add = [&](const auto& flag) {
    using T = std::remove_cvref_t<std::invoke_result_t<decltype(flag.field), Loss&>>;
    Range range = detail::default_range<T>();
    if constexpr (std::same_as<T, double> || std::same_as<T, std::int64_t>)
      if (flag.range != Interval{}) range = range_of<T>(flag.range);
    out.push_back(option_of<Loss>(flag.field, flag.name, group::loss, flag.help, std::move(range)));
  };
  std::apply([&](const auto&... flag) { (add(flag), ...); }, Loss::options());
  return out;
}

/// `Loss` with the flags that are given.
template <class Loss>
Loss make_loss(const std::map<std::string, Json>& given) {
  Loss loss{};
  for (const auto& row : loss_options<Loss>())
    if (const auto value = given.find(std::string(row.name)); value != given.end()) row.set(loss, value->second);
  return loss;
}

/// One flag of one loss, whatever the loss's type.
struct LossFlag {
  std::string_view name, help;
  std::string expects, placeholder;
  bool is_flag = false;
  Json standard;                                         ///< the value of a loss that is made without it
  std::function<std::optional<Json>(const Json&)> read;  ///< a value as JSON of its type; nothing: not as expected
};

struct LossEntry {
  std::string_view name;
  std::string_view other_name;  ///< also taken for it
  LossPaper paper;
  BatchParts needs;
  std::vector<LossFlag> flags;

  const LossFlag* flag(std::string_view wanted) const {
    const auto found = std::ranges::find(flags, wanted, &LossFlag::name);
    return found == flags.end() ? nullptr : &*found;
  }
};

template <class Loss>
LossEntry loss_entry() {
  LossEntry out{.name = Loss::name,
                .other_name = other_name<Loss>(),
                .paper = paper_of<Loss>(),
                .needs = Loss::needs,
                .flags = {}};
  for (const Option<Loss>& row : loss_options<Loss>())
    out.flags.push_back({.name = row.name,
                         .help = row.help,
                         .expects = row.expects,
                         .placeholder = row.placeholder,
                         .is_flag = row.is_flag,
                         .standard = row.get(Loss{}),
                         .read = [row](const Json& value) -> std::optional<Json> {
                           Loss loss{};
                           if (!row.set(loss, value)) return std::nullopt;
                           return row.get(loss);
                         }});
  return out;
}

/// The losses of a program, the first of which is its default, and the texts of its options. Must outlive the options.
class LossTable {
 public:
  explicit LossTable(std::vector<LossEntry> losses) : losses_(std::move(losses)) {
    std::string paired;
    for (const LossEntry& loss : losses_) {
      names_ += (names_.empty() ? "" : "|") + std::string(loss.name);
      const std::string other = loss.other_name.empty() ? "" : concat(" (also ", loss.other_name, ")");
      if (loss.needs.chosen_rejected) paired += (paired.empty() ? "" : ", ") + std::string(loss.name) + other;
      for (const LossFlag& flag : loss.flags)
        if (std::ranges::find(help_, flag.name, &Help::first) == help_.end())
          help_.emplace_back(flag.name, help_of(flag));
    }
    type_help_ = "the loss";
    if (!paired.empty())
      type_help_ += "; those that compare the completions of a pair, and take rows with chosen and rejected: " + paired;
  }

  LossTable(const LossTable&) = delete;  // options refer to it
  LossTable& operator=(const LossTable&) = delete;

  const std::vector<LossEntry>& losses() const { return losses_; }

  /// The loss of --loss_type, or nullptr.
  const LossEntry* find(std::string_view name) const {
    if (name.empty()) return &losses_.front();
    for (const LossEntry& loss : losses_)
      if (loss.name == name || (!loss.other_name.empty() && loss.other_name == name)) return &loss;
    return nullptr;
  }
  const LossEntry& chosen(const LossChoice& choice) const { return *find(choice.type); }

  /// Throws UsageError for a flag that the chosen loss does not have, or would not take.
  void check(const LossChoice& choice) const {
    const LossEntry& loss = chosen(choice);
    std::string all;
    for (const LossFlag& flag : loss.flags) all += (all.empty() ? "" : ", ") + std::string(flag.name);
    for (const auto& [name, value] : choice.values) {
      const LossFlag* flag = loss.flag(name);
      if (flag == nullptr)
        throw UsageError(
            concat("--", name, ": the loss ", loss.name, " has no such option; it has ", all.empty() ? "none" : all));
      if (!flag->read(value))
        throw UsageError(concat("--", name, ": expected ", flag->expects, ", got ", detail::quoted(value)));
    }
  }

  /// --loss_type and the flags of all losses.
  Options<LossChoice> options() const {
    Option<LossChoice> type{.name = "loss_type", .group = group::loss, .help = type_help_, .placeholder = names_};
    type.expects = "one of ";
    for (const LossEntry& loss : losses_) type.expects.append(&loss == &losses_.front() ? "" : ", ").append(loss.name);
    type.get = [this](const LossChoice& choice) { return Json(chosen(choice).name); };
    type.set = [this](LossChoice& choice, const Json& value) {
      const Json& name = value.is_array() && value.size() == 1 ? value[0] : value;  // DPOConfig has a list of them
      if (!name.is_string() || name.get_ref<const std::string&>().empty()) return false;
      const LossEntry* loss = find(name.get_ref<const std::string&>());
      if (loss != nullptr) choice.type = loss->name;
      return loss != nullptr;
    };
    Options<LossChoice> out{std::move(type)};
    for (const auto& [name, help] : help_) out.push_back(shared_option(name, help));
    return out;
  }

 private:
  using Help = std::pair<std::string_view, std::string>;

  /// What `flag` means, where it is not one of all losses: of which, and where they differ: in what.
  std::string help_of(const LossFlag& flag) const {
    std::string owners, others;
    bool is_of_all = true;
    for (const LossEntry& loss : losses_) {
      const LossFlag* same = loss.flag(flag.name);
      is_of_all = is_of_all && same != nullptr;
      if (same == nullptr) continue;
      owners += (owners.empty() ? "" : ", ") + std::string(loss.name);
      if (same->help != flag.help) others += concat("; of ", loss.name, ": ", same->help);
      if (same->standard != flag.standard)
        others += concat("; default of ", loss.name, ": ", detail::value_text(same->standard));
    }
    return concat(is_of_all ? "" : "of " + owners + ": ", flag.help, others);
  }

  /// The first loss that has it speaks for all; check() asks the chosen one.
  Option<LossChoice> shared_option(std::string_view name, std::string_view help) const {
    const auto has = [name](const LossEntry& loss) { return loss.flag(name) != nullptr; };
    const LossFlag& first = *std::ranges::find_if(losses_, has)->flag(name);
    Option<LossChoice> row{.name = name, .group = group::loss, .help = help, .placeholder = first.placeholder};
    row.expects = first.expects;
    row.is_flag = first.is_flag;
    row.get = [this, name, &first](const LossChoice& choice) {
      if (const auto given = choice.values.find(std::string(name)); given != choice.values.end()) return given->second;
      if (choice.type.empty()) return first.standard;
      const LossFlag* flag = chosen(choice).flag(name);
      return flag != nullptr ? flag->standard : Json(nullptr);
    };
    row.set = [this, name](LossChoice& choice, const Json& value) {
      if (value.is_null()) {  // as training_args.json has a flag that the loss does not
        choice.values.erase(std::string(name));
        return true;
      }
      for (const LossEntry& loss : losses_)
        if (const LossFlag* flag = loss.flag(name))
          if (auto read = flag->read(value)) return choice.values[std::string(name)] = *std::move(read), true;
      return false;
    };
    return row;
  }

  std::vector<LossEntry> losses_;
  std::string names_, type_help_;
  std::vector<Help> help_;  ///< by flag
};

template <class... Losses>
const LossTable& loss_table() {
  static const LossTable table({loss_entry<Losses>()...});
  return table;
}

/// Whether --loss_type can tell them apart.
template <class... Losses>
constexpr bool names_differ() {
  std::array names{std::string_view(Losses::name)...};
  std::ranges::sort(names);
  return std::ranges::adjacent_find(names) == names.end();
}

}  // namespace kto::cli
