// SPDX-License-Identifier: Apache-2.0
// Policies that fulfil their contracts, to combine with the mistakes in this folder. Each file here makes one
// mistake; its first line says with which text the compiler's one error must answer.
#pragma once

#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/paired.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/kto.hpp"
#include "kto/model/module.hpp"
#include "kto/reference/live.hpp"
#include "kto/train/trainer.hpp"

using kto::Tensor;

struct Model {
  kto::NamedTensors named_parameters() const;
  Tensor logits(const kto::Sequences&) const;
};

struct Reference {
  kto::ReferenceLogps log_probs(const Model&, const kto::Batch&) const;
};

/// Composes a trainer and trains, as a user would.
template <class M = Model, class C = kto::PackedCollator, class L = kto::Kto, class R = Reference, class O = kto::AdamW>
void train(kto::Trainer<M, C, L, R, O>& trainer, const std::vector<kto::Example>& rows) {
  trainer.train(rows);
  trainer.evaluate(rows);
}
