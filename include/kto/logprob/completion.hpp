// SPDX-License-Identifier: Apache-2.0
// The entry point of the log-prob room: the log-prob of each completion of a batch, for any model policy.
#pragma once

#include "kto/logprob/chunked.hpp"
#include "kto/model/concept.hpp"

namespace kto {

// Shapes: B examples, C scored tokens, N tokens, V vocabulary.

/// Sums over the scored tokens of each completion.
struct CompletionScores {
  Tensor logp_B;        ///< sum of the log-probs of each completion's tokens, float64; carries the gradient
  Tensor num_scored_B;  ///< scored tokens of each completion, float64; undefined without statistics
  Tensor entropy_B;     ///< sum of entropies over the scored tokens, likewise
  Tensor mean_logit_B;  ///< sum of mean logits over the scored tokens, likewise
};

namespace detail {

inline void check_vocabulary(const Sequences& sequences, std::int64_t vocabulary) {
  check(sequences.max_id < vocabulary, "the batch holds token id ", sequences.max_id,
        ", but the model's vocabulary has ", vocabulary, " tokens: tokenizer and model do not match");
}

}  // namespace detail

/// The full logits [C, V] of the scored tokens, for metrics and oracles.
template <ModelPolicy Model>
Tensor completion_logits(const Model& model, const Sequences& sequences) {
  if constexpr (GivesHidden<Model>)
    return head_logits(model.hidden(sequences).index_select(0, sequences.predict_C), model.head());
  else
    return model.logits(sequences).index_select(0, sequences.predict_C);
}

namespace detail {

inline CompletionScores sum_by_row(const TokenScores& scores, const Sequences& sequences, bool statistics) {
  const auto sum_rows = [&](const Tensor& values_C) {
    const Tensor wide_C = values_C.to(at::kDouble);  // log-ratios are small differences of these sums
    return at::zeros({sequences.num_rows}, wide_C.options()).index_add(0, sequences.row_C, wide_C);
  };
  CompletionScores out{.logp_B = sum_rows(scores.logp_C), .num_scored_B = {}, .entropy_B = {}, .mean_logit_B = {}};
  if (statistics) {
    out.num_scored_B = sum_rows(at::ones_like(scores.entropy_C));
    out.entropy_B = sum_rows(scores.entropy_C);
    out.mean_logit_B = sum_rows(scores.mean_logit_C);
  }
  return out;
}

/// Scores from the states [N, D], at the positions `sequences.predict_C`.
template <GivesHidden Model>
CompletionScores score_hidden(const Model& model, const Tensor& hidden_ND, const Sequences& sequences,
                              bool statistics) {
  const Head head = model.head();
  check_vocabulary(sequences, head.weight_VD.size(0));
  return sum_by_row(
      chunked_token_scores(hidden_ND.index_select(0, sequences.predict_C), head, sequences.target_C, statistics),
      sequences, statistics);
}

template <GivesHidden Model>
Tensor checked_hidden(const Model& model, const Sequences& sequences, auto... kept) {
  const Tensor hidden_ND = model.hidden(sequences, kept...);
  check(hidden_ND.dim() == 2 && hidden_ND.size(0) == sequences.ids_N.size(0), "model.hidden() returned shape ",
        shape_text(hidden_ND.sizes()), ", expected [", sequences.ids_N.size(0), ", width]");
  return hidden_ND;
}

/// The states of `rows`. `kept` and `trace`, if not null, are filled where the model can.
template <GivesHidden Model>
Tensor hidden_of_rows(const Model& model, const Sequences& rows, auto* kept, Trace* trace) {
  if constexpr (GivesAuxiliary<Model>) {
    if (trace != nullptr) return checked_hidden(model, rows, typename Model::Prefix(), kept, trace);
  }
  if constexpr (KeepsPrefix<Model>) {
    if (kept != nullptr) return checked_hidden(model, rows, typename Model::Prefix(), kept);
  }
  return checked_hidden(model, rows);
}

}  // namespace detail

/// Scores the completions of `sequences`. Throws Error if the model's output has an unexpected shape or dtype.
template <ModelPolicy Model>
CompletionScores score_completions(const Model& model, const Sequences& sequences, bool statistics = false) {
  if constexpr (GivesHidden<Model>) {
    return detail::score_hidden(model, detail::checked_hidden(model, sequences), sequences, statistics);
  } else {
    const Tensor logits_NV = model.logits(sequences);
    check(logits_NV.dim() == 2 && logits_NV.size(0) == sequences.ids_N.size(0) && logits_NV.is_floating_point(),
          "model.logits() returned ", logits_NV.dtype().name(), " of shape ", shape_text(logits_NV.sizes()),
          ", expected floating-point [", sequences.ids_N.size(0), ", vocabulary]");
    detail::check_vocabulary(sequences, logits_NV.size(1));
    return detail::sum_by_row(
        full_token_scores(logits_NV.index_select(0, sequences.predict_C), sequences.target_C, statistics), sequences,
        statistics);
  }
}

/// The scores of a batch's rows, and the log-probs of its KL pairs (without gradient).
struct BatchScores {
  CompletionScores rows;  ///< of the (prompt, completion) of each row
  Tensor kl_logp_B;       ///< undefined if the batch has none or they were not requested
};

/// Scores `batch`, and its KL pairs if `with_kl`. If the model supports it, each prompt is encoded once: the
/// completions of the KL pairs reuse the keys and values from the pass over the rows. That pass fills `trace`, if given
/// and if the model has something for it.
template <ModelPolicy Model>
BatchScores score_batch(const Model& model, const Batch& batch, bool with_kl, bool statistics = false,
                        Trace* trace = nullptr) {
  if constexpr (KeepsPrefix<Model>) {
    if (batch.shared && model.has_steady_prefix(*batch.shared)) {
      const auto& [rows, kl_tails] = *batch.shared;
      typename Model::Prefix prefix;
      const Tensor hidden_ND = detail::hidden_of_rows(model, rows, with_kl && kl_tails ? &prefix : nullptr, trace);
      BatchScores out{.rows = detail::score_hidden(model, hidden_ND, rows, statistics), .kl_logp_B = {}};
      if (!with_kl || !kl_tails) return out;
      const at::NoGradGuard no_grad;
      Tensor states_ND = hidden_ND.detach();
      if (kl_tails->ids_N.numel() > 0)  // empty if the prompts fill max_length
        states_ND = at::cat({states_ND, model.hidden(*kl_tails, prefix)});
      out.kl_logp_B = detail::score_hidden(model, states_ND, *kl_tails, /*statistics=*/false).logp_B;
      return out;
    }
  }
  BatchScores out{.rows = {}, .kl_logp_B = {}};
  if constexpr (GivesAuxiliary<Model>) {
    typename Model::Prefix* const nothing_kept = nullptr;
    out.rows = detail::score_hidden(model, detail::hidden_of_rows(model, batch.rows, nothing_kept, trace), batch.rows,
                                    statistics);
  } else {
    out.rows = score_completions(model, batch.rows, statistics);
  }
  if (!with_kl || !batch.kl_rows) return out;
  const at::NoGradGuard no_grad;
  out.kl_logp_B = score_completions(model, *batch.kl_rows).logp_B;
  return out;
}

}  // namespace kto
