// SPDX-License-Identifier: Apache-2.0
// Everything, in the order in which a training step flows through it.
#pragma once

// clang-format off: the order is the flow

// Rows: reading, checking, pairs to single rows, token ids.
#include "kto/data/balance.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/pairs.hpp"
#include "kto/data/rows.hpp"
#include "kto/data/processor.hpp"
// Micro-batches: their order, their KL pairs, padded or packed.
#include "kto/collate/encoder_decoder.hpp"
#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/paired.hpp"
// Models: decoders from a folder, LoRA adapters, modules and functions of one's own.
#include "kto/model/adapter.hpp"
#include "kto/model/module.hpp"
#include "kto/model/pretrained.hpp"
// Log-probs of completions.
#include "kto/logprob/completion.hpp"
#include "kto/logprob/log_probs.hpp"
// What the policy is held to.
#include "kto/reference/cache.hpp"
#include "kto/reference/live.hpp"
#include "kto/reference/precomputed.hpp"
#include "kto/reference/reused.hpp"
#include "kto/reference/synced.hpp"
// The losses.
#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/check.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"
// The update.
#include "kto/optim/any.hpp"
// The loop.
#include "kto/train/callbacks/advice.hpp"
#include "kto/train/model_card.hpp"
#include "kto/train/callbacks/progress.hpp"
#include "kto/train/callbacks/report.hpp"
#include "kto/train/callbacks/stop_signals.hpp"
#include "kto/train/trainer.hpp"
// Text from what was trained.
#include "kto/generate/generate.hpp"
#include "kto/generate/sample_replies.hpp"
#include "kto/generate/text_stream.hpp"
