// SPDX-License-Identifier: Apache-2.0
// The logged metrics besides the loss: collected on the device for each micro-batch, copied to the host and averaged
// when a log entry is due. Names and means are TRL 1.16's; the `_sum` and `count/` entries are from older KTOTrainers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kto/io/json.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/loss/concept.hpp"
#include "kto/train/share.hpp"

namespace kto {

// Shapes: B examples of a micro-batch.

/// The share of pairs whose chosen row has the higher reward.
inline Tensor pair_accuracy(const Tensor& reward_B) {
  return (chosen_half(reward_B) > rejected_half(reward_B)).to(at::kDouble).mean();
}

class MetricWindow {
 public:
  /// Adds one micro-batch. `kl` is its baseline z0; nothing here waits for the device.
  void add(const Batch& batch, const CompletionScores& scores, const LossTerms<Tensor>& terms, const Tensor& kl) {
    const at::NoGradGuard no_grad;
    const Tensor per_row_5B = at::stack({terms.reward_B.detach(), scores.logp_B.detach(), scores.mean_logit_B,
                                         scores.num_scored_B, scores.entropy_B})
                                  .to(at::kDouble);
    const Tensor chosen_B = (batch.sign_B > 0).to(at::kDouble);
    values_.push_back(
        at::cat({at::mv(per_row_5B, chosen_B), at::mv(per_row_5B, 1 - chosen_B), kl.to(at::kDouble).reshape({1})}));
    num_chosen_.push_back(batch.num_chosen);
    num_rejected_.push_back(batch.rows.num_rows - batch.num_chosen);
  }

  /// Micro-batches added since the last take().
  std::size_t size() const { return values_.size(); }
  /// Drops all but the first `count` micro-batches.
  void resize(std::size_t count) {
    values_.resize(count);
    num_chosen_.resize(count);
    num_rejected_.resize(count);
    for (auto& [name, values] : own_) values.resize(std::min(count, values.size()));
  }

  /// Adds the loss's own scalars.
  void add(const NamedScalars<Tensor>& named) {
    for (const auto& [name, value] : named) own_[name].push_back(value.detach().to(at::kDouble).reshape({}));
  }

  /// The last micro-batches, all but the first `begin`, are this rank's of `num_steps` micro-steps. They become one a
  /// micro-step: sums over the rows of all ranks.
  void sum_steps(const Share& share, std::size_t begin, std::size_t num_steps) {
    const World& world = share.world;
    if (world.alone() && share.step_size == 1) return;
    constexpr std::int64_t num_columns = 13, kl = 10, counts = 11;
    const auto steps = static_cast<std::int64_t>(num_steps);
    const Tensor sums = at::zeros({steps + 1, num_columns}, at::kDouble);
    std::vector<double> weights;
    for (std::size_t i = begin; i < values_.size(); ++i) {
      const std::size_t own = i - begin;
      const Tensor row = sums[static_cast<std::int64_t>(share.step(own))];
      row.narrow(0, 0, kl).add_(values_[i].narrow(0, 0, kl).cpu());
      if (share.begins_step(own)) row[kl].fill_(values_[i][kl].item<double>());  // the same in all of a micro-step
      row[counts] += num_chosen_[i];
      row[counts + 1] += num_rejected_[i];
      weights.push_back(static_cast<double>(num_chosen_[i] + num_rejected_[i]));
    }
    sums[steps][0].fill_(static_cast<std::int64_t>(own_.size()));
    world.all_reduce(sums).wait();
    values_.resize(begin);
    num_chosen_.resize(begin);
    num_rejected_.resize(begin);
    for (std::int64_t i = 0; i < steps; ++i) {
      values_.push_back(sums[i].narrow(0, 0, counts).clone());
      num_chosen_.push_back(sums[i][counts].item<std::int64_t>());
      num_rejected_.push_back(sums[i][counts + 1].item<std::int64_t>());
    }
    if (sums[steps][0].item<double>() > 0) average_own(world, begin, weights);
  }

  /// Returns means over the micro-batches added since the last call, under `prefix` + TRL's names, and resets. A mean
  /// over chosen rows covers only micro-batches that have some. `num_tokens` is the run's count so far.
  Json take(const std::string& prefix, std::int64_t num_tokens) {
    enum : std::int64_t { reward, logp, logit, scored, entropy, per_side };
    struct Mean {
      double sum = 0;
      int count = 0;
      void add(double value) {
        sum += value;
        ++count;
      }
    };
    struct Side {
      Mean logits, rewards, logps;
      double reward_sum = 0, logp_sum = 0, logit_sum = 0;
      std::int64_t count = 0;
    } sides[2];
    Mean kl, entropy_mean, margins;
    const Tensor all = at::stack(values_).cpu();
    const auto value = all.accessor<double, 2>();
    for (std::int64_t i = 0; i < all.size(0); ++i) {
      const auto index = static_cast<std::size_t>(i);
      const std::int64_t counts[2] = {num_chosen_[index], num_rejected_[index]};
      kl.add(value[i][2 * per_side]);
      const double num_scored = value[i][scored] + value[i][per_side + scored];
      entropy_mean.add(num_scored > 0 ? (value[i][entropy] + value[i][per_side + entropy]) / num_scored : 0);
      for (int s = 0; s < 2; ++s) {
        const auto at = [&](std::int64_t which) { return value[i][s * per_side + which]; };
        sides[s].reward_sum += at(reward), sides[s].logp_sum += at(logp), sides[s].logit_sum += at(logit);
        sides[s].count += counts[s];
        if (at(scored) > 0) sides[s].logits.add(at(logit) / at(scored));
        if (counts[s] == 0) continue;
        sides[s].rewards.add(at(reward) / static_cast<double>(counts[s]));
        sides[s].logps.add(at(logp) / static_cast<double>(counts[s]));
      }
      if (counts[0] > 0 && counts[1] > 0)
        margins.add(value[i][reward] / static_cast<double>(counts[0]) -
                    value[i][per_side + reward] / static_cast<double>(counts[1]));
    }
    values_.clear();
    num_chosen_.clear();
    num_rejected_.clear();

    Json out = Json::object();
    const auto put = [&](const std::string& name, const Mean& mean) {
      if (mean.count > 0) out[prefix + name] = mean.sum / mean.count;
    };
    put("kl", kl);
    put("entropy", entropy_mean);
    out[prefix + "num_tokens"] = static_cast<double>(num_tokens);
    const char* const names[2] = {"chosen", "rejected"};
    for (int s = 0; s < 2; ++s) put(concat("logits/", names[s]), sides[s].logits);
    for (int s = 0; s < 2; ++s) {
      put(concat("rewards/", names[s]), sides[s].rewards);
      put(concat("logps/", names[s]), sides[s].logps);
    }
    put("rewards/margins", margins);
    for (const auto& [name, values] : own_) out[prefix + name] = at::stack(values).mean().item<double>();
    own_.clear();
    for (int s = 0; s < 2; ++s) {
      out[prefix + "rewards/" + names[s] + "_sum"] = sides[s].reward_sum;
      out[prefix + "logps/" + names[s] + "_sum"] = sides[s].logp_sum;
      out[prefix + "logits/" + names[s] + "_sum"] = sides[s].logit_sum;
      out[prefix + "count/" + names[s]] = sides[s].count;
    }
    return out;
  }

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("values", values_);
    archive("num_chosen", num_chosen_);
    archive("num_rejected", num_rejected_);
    archive("own", own_);
  }

 private:
  /// The same for the loss's own scalars from `begin` on, which become means over the ranks weighted by `weights`, the
  /// rows of each micro-batch. A loss may leave a scalar out, and a rank have none.
  void average_own(const World& world, std::size_t begin, const std::vector<double>& weights) {
    Json mine = Json::object();
    for (const auto& [name, values] : own_) {
      Json& list = mine[name] = Json::array();
      for (std::size_t i = begin; i < values.size(); ++i)
        list.push_back({values[i].item<double>(), i - begin < weights.size() ? weights[i - begin] : 1.0});
    }
    struct Mean {
      double sum = 0, weight = 0;
    };
    std::map<std::string, std::vector<Mean>> means;
    const std::vector<std::uint8_t> bytes = Json::to_cbor(mine);  // unlike text, it has NaN
    for (const std::string& part : world.gather(std::string(bytes.begin(), bytes.end()))) {
      const Json theirs = Json::from_cbor(part);
      for (const auto& [name, list] : theirs.items()) {
        std::vector<Mean>& of_name = means[name];
        if (of_name.size() < list.size()) of_name.resize(list.size());
        for (std::size_t i = 0; i < list.size(); ++i) {
          of_name[i].sum += list[i][0].get<double>() * list[i][1].get<double>();
          of_name[i].weight += list[i][1].get<double>();
        }
      }
    }
    for (const auto& [name, of_name] : means) {
      std::vector<Tensor>& values = own_[name];
      values.resize(std::min(begin, values.size()));
      for (const Mean& mean : of_name) values.push_back(at::scalar_tensor(mean.sum / mean.weight, at::kDouble));
    }
  }

  std::vector<Tensor> values_;  // float64 [11] each: five sums over chosen rows, five over rejected, kl
  std::vector<std::int64_t> num_chosen_, num_rejected_;
  std::map<std::string, std::vector<Tensor>> own_;
};

}  // namespace kto
