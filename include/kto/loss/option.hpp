// SPDX-License-Identifier: Apache-2.0
// What a loss says of itself to a command line, in one line each: its name, and those of its fields that are flags.
//
//   static constexpr std::string_view name = "my_loss";
//   static constexpr auto options() { return std::tuple{kto::LossOption{"beta", &MyLoss::beta, "what it means"}}; }
//
// kto::cli::train_main makes --loss_type my_loss and --beta of them. A loss without flags returns std::tuple{}. Code
// that composes a Trainer itself needs neither.
#pragma once

#include <string_view>
#include <tuple>
#include <type_traits>

namespace kto {

/// The values that a number may have. Computing is in float32, which holds none above 3.4e38.
struct Interval {
  double low = -1e30;    ///< the least
  double high = 1e30;    ///< the greatest
  bool is_open = false;  ///< `low` itself is not one of them
  friend constexpr bool operator==(const Interval&, const Interval&) = default;
};
/// Numbers above `low`.
constexpr Interval above(double low) { return {.low = low, .is_open = true}; }
/// Numbers from `low` on.
constexpr Interval at_least(double low) { return {.low = low}; }
/// Numbers from `low` to `high`.
constexpr Interval between(double low, double high) { return {.low = low, .high = high}; }

/// A field of a loss as a flag: a double, an integer (std::int64_t), a bool, a std::string, or an enum that has
/// enum_names.
template <class Field>
struct LossOption {
  std::string_view name;  ///< without dashes
  Field field;  ///< &MyLoss::beta; or, for a part of a part, [](auto& loss) -> auto& { return loss.part.beta; }
  std::string_view help;  ///< its meaning
  Interval range = {};    ///< of numbers
};

/// What beta is in most losses.
inline constexpr std::string_view beta_help = "how strongly the policy is held to the reference";

namespace detail {
template <class Loss, class Options>
inline constexpr bool are_options_of = false;
template <class Loss, class... Fields>
inline constexpr bool are_options_of<Loss, std::tuple<LossOption<Fields>...>> =
    (std::is_invocable_v<const Fields&, Loss&> && ...);
}  // namespace detail

/// `static constexpr std::string_view name = "my_loss";`
template <class Loss>
concept NamesItself = requires { typename std::bool_constant<std::string_view(Loss::name).empty()>; } &&
                      !std::string_view(Loss::name).empty();

/// `static constexpr auto options() { return std::tuple{kto::LossOption{...}, ...}; }`
template <class Loss>
concept ListsOptions =
    requires { requires detail::are_options_of<Loss, std::remove_cvref_t<decltype(Loss::options())>>; };

/// Where a loss comes from, for the card of a model that was trained with it.
struct LossPaper {
  std::string_view method;         ///< "KTO"
  std::string_view title = {};     ///< of the paper; may be empty
  std::string_view arxiv_id = {};  ///< likewise
  std::string_view key = {};       ///< in BibTeX; may be empty, as the authors
  std::string_view authors = {};   ///< in BibTeX: "Ada Lovelace and Alan Turing"
};

/// Optional: `static constexpr kto::LossPaper paper{"KTO", "title", "2402.01306", "key2024kto", "authors"};`
template <class Loss>
constexpr LossPaper paper_of() {
  if constexpr (requires { LossPaper(Loss::paper); })
    return Loss::paper;
  else
    return {.method = Loss::name};
}

/// Optional: `static constexpr std::string_view also_known_as = "sigmoid";`, another program's name for it.
template <class Loss>
constexpr std::string_view other_name() {
  if constexpr (requires { std::string_view(Loss::also_known_as); }) return Loss::also_known_as;
  return {};
}

}  // namespace kto
