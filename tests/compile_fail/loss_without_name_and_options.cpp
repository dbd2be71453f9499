// expects: write `static constexpr std::string_view name = "my_loss";`, its value of --loss_type, and `static constexpr auto options() {
// SPDX-License-Identifier: Apache-2.0
#include "kto/cli/train_main.hpp"
#include "policies.hpp"

struct Mine {
  static constexpr kto::BatchParts needs{};
  double beta = 0.1;
  template <class Array>
  kto::LossTerms<Array> operator()(const kto::LossInput<Array>& in) const {
    return {in.policy_logp_B, in.policy_logp_B};
  }
};

int main(int argc, char** argv) { return kto::cli::train_main<kto::Kto, Mine>(argc, argv); }
