// SPDX-License-Identifier: Apache-2.0
// train_kto with a loss of one's own: a hinge on the reward, with a metric of its own, beside APO-zero.
//   own_loss --model_name_or_path DIR --dataset_name rows.jsonl --loss_type hinge --aim 0.5
// Takes every option of train_kto (own_loss --help lists beta and aim under Loss), writes the same files, and prints
// my/share_of_rows_at_aim in each entry of the log.

#include "kto/cli/train_main.hpp"
#include "kto/loss/apo_zero.hpp"

// [loss]
struct Hinge {
  static constexpr kto::BatchParts needs{};
  static constexpr std::string_view name = "hinge";
  static constexpr auto options() {
    return std::tuple{kto::LossOption{"beta", &Hinge::beta, kto::beta_help, kto::above(0)},
                      kto::LossOption{"aim", &Hinge::aim, "rewards beyond +-aim teach nothing more", kto::above(0)}};
  }
  double beta = 0.1;
  double aim = 1;

  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    using kto::relu;
    const Array reward_B = beta * (in.policy_logp_B - in.reference_logp_B);
    return {.loss_B = relu(aim - in.sign_B * reward_B), .reward_B = reward_B};
  }

  kto::NamedScalars<kto::Tensor> metrics(const kto::LossInput<kto::Tensor>&,
                                         const kto::LossTerms<kto::Tensor>& terms) const {
    return {{"my/share_of_rows_at_aim", (terms.loss_B == 0).to(at::kFloat).mean()}};
  }
};
// [loss]

int main(int argc, char** argv) { return kto::cli::train_main<Hinge, kto::ApoZeroUnpaired>(argc, argv); }
