// expects: write `at::Tensor forward(at::Tensor ids_BT, at::Tensor mask_BT)`
// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

struct Mine {  // what ModuleModel asks of a torch::nn::Module
  struct Item {
    const std::string& key() const;
    const Tensor& value() const;
  };
  std::vector<Item> named_parameters() const;
  Tensor forward(const Tensor& ids_BT);
};

Tensor use(const kto::ModuleModel<Mine>& model, const kto::Sequences& sequences) { return model.logits(sequences); }
