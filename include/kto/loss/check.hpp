// SPDX-License-Identifier: Apache-2.0
// Tests a loss in one call: `kto::check_loss(MyLoss{});`. For the unit test of a loss of one's own; no LibTorch needed.
// On Eigen arrays it checks, over a grid of log-ratios, labels, lengths and baselines:
//   shape        loss_B has one value a row (a pair where the loss needs chosen_rejected), reward_B one a row
//   value        both are finite up to `largest_log_ratio` nats, and not NaN far beyond it
//   baseline     z0 changes the loss if and only if the loss needs kl_pairs
//   reward       rises with the policy's log-prob, whatever the label
//   direction    at the reference, a step down the gradient raises the log-prob of a desirable row, and lowers that of
//                an undesirable one
// Where kto/core/torch.hpp is included too, as kto.hpp does, it also runs the loss on tensors and checks that
//   value        loss_B and reward_B equal Eigen's
//   gradient     autograd's gradient equals the finite differences of the Eigen run, and is not NaN at extremes
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/loss/concept.hpp"

namespace kto {

/// What check_loss asks of a loss.
struct LossCheck {
  /// Off for a loss that pushes no row, or some the other way, at the reference.
  bool direction = true;
  double largest_log_ratio = 1000;  ///< nats; losses and rewards are finite for log-ratios up to this
  double tolerance = 1e-6;          ///< of values and gradients, relative to the larger of 1 and their size
};

namespace detail {

template <class>
struct Tensors;  // defined where LibTorch is included (kto/core/torch.hpp)
template <class Loss, class Number = double>
concept SeesTensors = requires { typename Tensors<Number>::type; };

/// `Loss::name`, or the name of its type.
template <class Loss>
std::string loss_name() {
  if constexpr (NamesItself<Loss>) return std::string(Loss::name);
  std::string_view text = __PRETTY_FUNCTION__;  // "... loss_name() [with Loss = N; ...]", or "[Loss = N]"
  text.remove_prefix(text.find("Loss = ") + std::string_view("Loss = ").size());
  return std::string(text.substr(0, text.find_first_of(";]")));
}

/// The checks of one loss; `Maker` makes its tensors, void: it runs on Eigen arrays alone. Shapes: B rows, L losses (B,
/// or B / 2 of pairs).
template <class Loss, class Maker>
class LossChecker {
 public:
  using Array = Eigen::ArrayXd;
  using Input = LossInput<Array>;
  using Terms = LossTerms<Array>;
  static constexpr bool paired = Loss::needs.chosen_rejected;
  static constexpr double step_size = 1e-4;  // nats
  static constexpr std::array<std::array<double, 4>, 4> spreads{
      {{0.53, -1.27, -0.81, 0.94}, {-0.67, 0.35, 1.13, -0.22}, {1.41, 0.87, 0.39, 1.19}, {-0.29, -1.07, -1.63, -0.48}}};

  LossChecker(const Loss& loss, const LossCheck& asked) : loss_(loss), asked_(asked) {}

  /// Four rows, two of each label; `log_ratios` of the policy to the reference.
  static Input input(const std::array<double, 4>& log_ratios, double baseline) {
    Input in;
    in.reference_logp_B = Array{{-21, -30.5, -12.75, -40}};
    in.policy_logp_B = in.reference_logp_B + Eigen::Map<const Array>(log_ratios.data(), 4);
    in.sign_B = paired ? Array{{1, 1, -1, -1}} : Array{{1, -1, 1, -1}};
    in.length_B = Array{{7, 11, 5, 13}};
    in.baseline = baseline;
    return in;
  }

  /// Batches whose log-ratios are spread around 0, as training meets them.
  static std::vector<Input> usual_inputs() {
    std::vector<Input> out;
    for (const double z0 : Loss::needs.kl_pairs ? std::vector{0.0, 0.4, 3.0} : std::vector{0.0})
      for (const double scale : {0.01, 1.0, 6.0, 40.0})
        for (std::array<double, 4> log_ratios : spreads) {
          for (double& log_ratio : log_ratios) log_ratio *= scale;
          out.push_back(input(log_ratios, z0));
        }
    return out;
  }
  /// Batches in which each row is as far from the reference as `size`, in each direction.
  static std::vector<Input> extreme_inputs(double size) {
    std::vector<Input> out;
    for (const double first : {-size, size})
      for (const double second : {-size, size}) out.push_back(input({first, second, second, first}, 0));
    return out;
  }

  void run() const {
    for (const Input& in : usual_inputs()) check_values(in);
    for (const Input& in : extreme_inputs(asked_.largest_log_ratio)) check_values(in);
    for (const Input& in : extreme_inputs(10 * asked_.largest_log_ratio)) check_values(in, /*may_overflow=*/true);
    check_baseline();
    check_reward();
    if (asked_.direction) check_direction();
    if constexpr (!std::is_void_v<Maker>) {
      static_assert(MapsInputToTerms<Loss, typename Maker::type>,
                    "kto: write `template <class Array> kto::LossTerms<Array> operator()(const kto::LossInput<Array>&) "
                    "const` in your loss, to run on tensors, too; see kto/loss/concept.hpp");
      for (const Input& in : usual_inputs()) check_tensors(in);
      for (const Input& in : extreme_inputs(10 * asked_.largest_log_ratio)) check_tensors(in, /*at_extremes=*/true);
    }
  }

 private:
  template <class... Parts>
  void expect(bool holds, const Parts&... parts) const {
    check(holds, "check_loss(", loss_name<Loss>(), "): ", parts...);
  }
  /// Row b of `in`, for a message.
  static std::string row(const Input& in, Eigen::Index b) {
    return concat(in.sign_B[b] > 0 ? "a desirable" : "an undesirable", " row with log-ratio ",
                  in.policy_logp_B[b] - in.reference_logp_B[b], " (baseline ", in.baseline, ")");
  }
  /// What loss l of `in` is of, for a message.
  static std::string place(const Input& in, Eigen::Index l) {
    return paired ? concat("the pair of ", row(in, l), " and ", row(in, l + 2)) : row(in, l);
  }
  bool is_near(double value, double expected) const {
    return std::abs(value - expected) <= asked_.tolerance * std::max({1.0, std::abs(value), std::abs(expected)}) ||
           value == expected;
  }
  static double weighted(const Array& loss_L) { return (loss_L * Array::LinSpaced(loss_L.size(), 1, 2)).sum(); }

  void check_values(const Input& in, bool may_overflow = false) const {
    const Terms terms = loss_(in);
    expect(terms.loss_B.size() == (paired ? 2 : 4), "loss_B has ", terms.loss_B.size(), " values for 4 rows, expected ",
           paired ? "2, one a pair (kto::chosen_half and kto::rejected_half split the rows)" : "4, one a row");
    expect(terms.reward_B.size() == 4, "reward_B has ", terms.reward_B.size(), " values for 4 rows, expected 4");
    const auto is_good = [&](double value) { return may_overflow ? !std::isnan(value) : std::isfinite(value); };
    const char* advice = "; kto::log_sigmoid, softplus, clamp and where do without overflow (kto/loss/array.hpp)";
    for (Eigen::Index l = 0; l < terms.loss_B.size(); ++l)
      expect(is_good(terms.loss_B[l]), "loss_B is ", terms.loss_B[l], " for ", place(in, l), ", expected a ",
             may_overflow ? "number" : "finite number", advice);
    for (Eigen::Index b = 0; b < 4; ++b)
      expect(is_good(terms.reward_B[b]), "reward_B is ", terms.reward_B[b], " for ", row(in, b), ", expected a ",
             may_overflow ? "number" : "finite number", advice);
  }

  void check_baseline() const {
    bool is_used = false;
    for (Input in : usual_inputs()) {
      const Array before_L = loss_(in).loss_B;
      in.baseline += 0.7;
      is_used = is_used || (loss_(in).loss_B != before_L).any();
    }
    expect(!is_used || Loss::needs.kl_pairs,
           "loss_B depends on in.baseline, which is 0 in training unless `needs` says {.kl_pairs = true}");
    constexpr bool may_use_it_elsewhere = Observes<Loss, Array> || ReportsMetrics<Loss, Array>;
    expect(is_used || !Loss::needs.kl_pairs || may_use_it_elsewhere,
           "`needs` says {.kl_pairs = true}, which costs a pass over the KL pairs, but loss_B does not depend on "
           "in.baseline, which is made from them; use it, or leave kl_pairs out");
  }

  /// `of(input)` for row b's log-prob moved by `step`.
  template <class Of>
  static double moved(Input in, Eigen::Index b, double step, const Of& of) {
    in.policy_logp_B[b] += step;
    return of(in);
  }
  template <class Of>
  static double slope(const Input& in, Eigen::Index b, const Of& of) {
    return (moved(in, b, step_size, of) - moved(in, b, -step_size, of)) / (2 * step_size);
  }

  void check_reward() const {
    for (const Input& in : {input({}, 0), input(spreads[0], 0)})
      for (Eigen::Index b = 0; b < 4; ++b) {
        const double rise = slope(in, b, [&](const Input& at) { return loss_(at).reward_B[b]; });
        expect(rise > 0, "reward_B changes by ", rise, " a nat of policy_logp_B for ", row(in, b),
               ", expected a rise: the reward is beta * (policy_logp_B - reference_logp_B), without the sign");
      }
  }

  void check_direction() const {
    const Input in = input({}, 0);  // log-ratios of 0
    const auto sum = [&](const Input& at) { return loss_(at).loss_B.sum(); };
    const double slack = asked_.tolerance * 1e-3;
    double push = 0;
    for (Eigen::Index b = 0; b < 4; ++b) {
      const double signed_slope = in.sign_B[b] * slope(in, b, sum);
      push -= signed_slope;
      const bool must_move = !paired;  // of a pair one half may rest
      expect(must_move ? signed_slope < -slack : signed_slope <= slack, "the gradient of loss_B by policy_logp_B is ",
             in.sign_B[b] * signed_slope, " for ", row(in, b), ", expected one ", in.sign_B[b] > 0 ? "below" : "above",
             " 0, which ", in.sign_B[b] > 0 ? "raises" : "lowers",
             " its log-prob; a loss that is not meant to is checked with {.direction = false}");
    }
    expect(push > slack,
           "the gradient of loss_B by policy_logp_B is 0 for chosen and rejected rows at log-ratio 0, "
           "expected one that parts them; a loss that is not meant to is checked with "
           "{.direction = false}");
  }

  void check_tensors(const Input& in, bool at_extremes = false) const {
    using Tensor = typename Maker::type;
    const auto tensor = [](const Array& values) {
      return Maker::of({values.data(), static_cast<std::size_t>(values.size())});
    };
    const Tensor policy_B = tensor(in.policy_logp_B).requires_grad_(true);
    const LossTerms<Tensor> terms = loss_(LossInput<Tensor>{.policy_logp_B = policy_B,
                                                            .reference_logp_B = tensor(in.reference_logp_B),
                                                            .sign_B = tensor(in.sign_B),
                                                            .length_B = tensor(in.length_B),
                                                            .baseline = Maker::scalar(in.baseline)});
    const Terms expected = loss_(in);
    const auto compare = [&](const char* field, const Tensor& given, const Array& wanted, const auto& place_of) {
      expect(given.defined() && given.dim() == 1 && given.numel() == wanted.size(), field, " on tensors has ",
             given.defined() ? concat("shape ", given.sizes()) : "no value", ", expected [", wanted.size(), "]");
      for (Eigen::Index i = 0; i < wanted.size(); ++i) {
        const auto value = given[i].template item<double>();
        expect(is_near(value, wanted[i]), field, " on tensors is ", value, " for ", place_of(in, i),
               ", on Eigen arrays ", wanted[i], "; expected the same");
      }
    };
    compare("loss_B", terms.loss_B, expected.loss_B, place);
    compare("reward_B", terms.reward_B, expected.reward_B, row);
    expect(terms.loss_B.requires_grad(), "loss_B on tensors has no gradient: does it detach policy_logp_B?");
    (terms.loss_B * tensor(Array::LinSpaced(expected.loss_B.size(), 1, 2))).sum().backward();
    const auto total = [&](const Input& at) { return weighted(loss_(at).loss_B); };
    for (Eigen::Index b = 0; b < 4; ++b) {
      const double given = policy_B.grad().defined() ? policy_B.grad()[b].template item<double>() : 0;
      if (at_extremes) {
        expect(!std::isnan(given), "the gradient of loss_B by policy_logp_B is NaN for ", row(in, b),
               ", expected a number; kto::log_sigmoid and softplus have one everywhere, and where() passes on the NaN "
               "of the branch that it leaves out");
        continue;
      }
      const double middle = total(in), above = moved(in, b, step_size, total), below = moved(in, b, -step_size, total);
      const double left = (middle - below) / step_size, right = (above - middle) / step_size;  // differ at a kink
      const double slack = asked_.tolerance * std::max({1.0, std::abs(left), std::abs(right)});
      expect(given >= std::min(left, right) - slack && given <= std::max(left, right) + slack,
             "the gradient of loss_B by policy_logp_B is ", given, " for ", row(in, b), " in autograd, and ",
             (left + right) / 2,
             " in finite differences; expected the same: is a part of it detached, or computed in "
             "another type?");
    }
  }

  const Loss& loss_;
  LossCheck asked_;
};

}  // namespace detail

/// Throws Error, naming the loss, the field, its value and what was expected, unless `loss` passes the checks listed at
/// the head of this file. Where LibTorch is included before the call, the loss runs on tensors, too.
template <class Loss, bool with_tensors = detail::SeesTensors<Loss>>
void check_loss(const Loss& loss, const LossCheck& asked = {}) {
  static_assert(DeclaresNeeds<Loss>,
                "kto: write `static constexpr kto::BatchParts needs{...};` in your loss; see kto/loss/concept.hpp");
  static_assert(MapsInputToTerms<Loss, Eigen::ArrayXd>,
                "kto: write `template <class Array> kto::LossTerms<Array> operator()(const kto::LossInput<Array>&) "
                "const` in your loss; see kto/loss/concept.hpp");
  if constexpr (LossPolicy<Loss>)
    detail::LossChecker<Loss, std::conditional_t<with_tensors, detail::Tensors<double>, void>>(loss, asked).run();
}

}  // namespace kto
