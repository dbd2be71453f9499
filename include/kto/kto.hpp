// SPDX-License-Identifier: Apache-2.0
// Everything, in the order in which a training step flows through it. The headers named here are public, as are kto/hub/ and
// those that cmake/KtoReference.cmake lists: their names are in the reference.
#pragma once

// clang-format off: the order is the flow

// Foundations: errors, stop requests, the processes that train together.
#include "kto/core/error.hpp"
#include "kto/core/interrupt.hpp"
#include "kto/dist/world.hpp"
// Rows: reading, checking, pairs to single rows, token ids.
#include "kto/data/balance.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/example.hpp"
#include "kto/data/pairs.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/row.hpp"
#include "kto/data/rows.hpp"
#include "kto/data/truncation.hpp"
// Micro-batches: their order, their KL pairs, padded or packed.
#include "kto/collate/batch.hpp"
#include "kto/collate/concept.hpp"
#include "kto/collate/encoder_decoder.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/paired.hpp"
#include "kto/collate/parts.hpp"
#include "kto/collate/sequences.hpp"
// Models: decoders from a folder, LoRA adapters, modules and functions of one's own.
#include "kto/model/adapted_decoder.hpp"
#include "kto/model/adapter.hpp"
#include "kto/model/concept.hpp"
#include "kto/model/decoder.hpp"
#include "kto/model/lora_config.hpp"
#include "kto/model/module.hpp"
#include "kto/model/pretrained.hpp"
// Log-probs of completions.
#include "kto/logprob/completion.hpp"
#include "kto/logprob/log_probs.hpp"
// What the policy is held to.
#include "kto/reference/cache.hpp"
#include "kto/reference/concept.hpp"
#include "kto/reference/live.hpp"
#include "kto/reference/precomputed.hpp"
#include "kto/reference/reused.hpp"
#include "kto/reference/synced.hpp"
// The losses.
#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/array.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/check.hpp"
#include "kto/loss/concept.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"
#include "kto/loss/option.hpp"
// The update.
#include "kto/optim/any.hpp"
#include "kto/optim/concept.hpp"
// The loop.
#include "kto/train/callbacks.hpp"
#include "kto/train/callbacks/advice.hpp"
#include "kto/train/callbacks/progress.hpp"
#include "kto/train/callbacks/report.hpp"
#include "kto/train/callbacks/stop_signals.hpp"
#include "kto/train/checkpoint/checkpointer.hpp"
#include "kto/train/checkpoint/folder.hpp"
#include "kto/train/config.hpp"
#include "kto/train/contract.hpp"
#include "kto/train/evaluate.hpp"
#include "kto/train/evaluation_sets.hpp"
#include "kto/train/model_card.hpp"
#include "kto/train/state.hpp"
#include "kto/train/trainer.hpp"
// Text from what was trained.
#include "kto/generate/generate.hpp"
#include "kto/generate/sample_replies.hpp"
#include "kto/generate/text_stream.hpp"
