// SPDX-License-Identifier: Apache-2.0
// From --optim and --optim_args to an optimizer.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/cli/arguments.hpp"
#include "kto/optim/any.hpp"

namespace kto::cli {

/// "a=1, b=true" as pairs, spaces left out.
inline std::vector<std::pair<std::string, std::string>> split_optim_args(std::string text) {
  std::erase(text, ' ');
  std::vector<std::pair<std::string, std::string>> out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string piece = text.substr(begin, end - begin);
    const std::size_t equals = piece.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UsageError(concat("optim_args: expected name=value,name=value, got ", quoted(Json(piece))));
    out.emplace_back(piece.substr(0, equals), piece.substr(equals + 1));
    begin = end + 1;
  }
  return out;
}

/// Gives the fields that optim_args names their values.
class OptimArgs {
 public:
  OptimArgs(const ScriptConfig& script)
      : optim_(enum_names<Optim>[static_cast<std::size_t>(script.optim)]),
        given_(split_optim_args(script.optim_args.value_or(""))) {}

  void take(std::string_view name, double& out, const Range& range) {
    if (const std::string* text = find(name))
      if (!detail::decode_number(*text, out) || !detail::in_range(out, range)) refuse(name, range.expects, *text);
  }
  void take(std::string_view name, bool& out) {
    if (const std::string* text = find(name))
      if (!decode(Json(*text), out)) refuse(name, "True or False", *text);
  }
  void finish() const {
    for (const auto& [name, value] : given_) {
      if (name == "weight_decay" && !known_.empty())
        throw UsageError("optim_args: weight_decay is given as --weight_decay, which skips biases and norms");
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      std::string all;
      for (const std::string& each : known_) all += (all.empty() ? "" : ", ") + each;
      throw UsageError(concat("optim_args: ", optim_, " has no argument ", quoted(Json(name)), "; it has ",
                              all.empty() ? "none" : all));
    }
  }

 private:
  const std::string* find(std::string_view name) {
    known_.emplace_back(name);
    for (const auto& [given, value] : given_)
      if (given == name) return &value;
    return nullptr;
  }
  [[noreturn]] static void refuse(std::string_view name, std::string_view expected, const std::string& text) {
    throw UsageError(concat("optim_args: ", name, ": expected ", expected, ", got ", quoted(Json(text))));
  }

  std::string_view optim_;
  std::vector<std::pair<std::string, std::string>> given_;
  std::vector<std::string> known_ = {};
};

/// The optimizer of --optim. Throws UsageError for optim_args that it does not have.
inline AnyOptimizer make_any_optimizer(const ScriptConfig& script, const TrainConfig& train) {
  OptimArgs arguments(script);
  const Range share = detail::fraction("a number >= 0 and < 1", false), positive = detail::above_zero();
  AnyOptimizer out;
  switch (script.optim) {
    case Optim::adamw_torch:
    case Optim::adamw_torch_fused:
      out.chosen = AdamW{train.adam_beta1, train.adam_beta2, train.adam_epsilon, train.weight_decay};
      break;
    case Optim::adamw_8bit:
      out.chosen = AdamW8Bit{train.adam_beta1, train.adam_beta2, train.adam_epsilon, train.weight_decay};
      break;
    case Optim::adamw_bf16:
      out.chosen = AdamWBf16{train.adam_beta1, train.adam_beta2, train.adam_epsilon, train.weight_decay};
      break;
    case Optim::sgd: {
      Sgd sgd{.weight_decay = train.weight_decay};
      arguments.take("momentum", sgd.momentum, detail::at_least_zero());
      arguments.take("dampening", sgd.dampening, {"a number", {}});
      arguments.take("nesterov", sgd.nesterov);
      if (sgd.nesterov && (sgd.momentum <= 0 || sgd.dampening != 0))
        throw UsageError("optim_args: nesterov needs a momentum above 0 and no dampening");
      out.chosen = sgd;
      break;
    }
    case Optim::rmsprop: {
      RmsProp rmsprop{.weight_decay = train.weight_decay};
      arguments.take("momentum", rmsprop.momentum, detail::at_least_zero());
      arguments.take("alpha", rmsprop.alpha, share);
      arguments.take("eps", rmsprop.epsilon, positive);
      arguments.take("centered", rmsprop.centered);
      out.chosen = rmsprop;
      break;
    }
    case Optim::adagrad: {
      Adagrad adagrad{.weight_decay = train.weight_decay};
      arguments.take("lr_decay", adagrad.lr_decay, detail::at_least_zero());
      arguments.take("eps", adagrad.epsilon, positive);
      out.chosen = adagrad;
      break;
    }
    case Optim::adafactor:
      out.chosen = Adafactor{.weight_decay = train.weight_decay};
      break;
  }
  arguments.finish();
  return out;
}

}  // namespace kto::cli
