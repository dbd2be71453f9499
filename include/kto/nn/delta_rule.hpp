// SPDX-License-Identifier: Apache-2.0
// The gated delta rule (arXiv:2412.06464): a linear attention whose state decays, and forgets what it holds under a key
// before it writes there. Computed in chunks: within a chunk all tokens at once (the WY form of arXiv:2406.06484), and
// from chunk to chunk the state, by the kernel of cpu/ where it serves, else by LibTorch's operators for all sequences
// of a row side by side. The oracle goes token by token.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "kto/collate/batch.hpp"
#include "kto/nn/cpu/delta_scan.hpp"

namespace kto {

// Shapes: N tokens, K key heads, H value heads (a multiple: each key head serves G = H / K of them), d key and e value
// width; S sequences, M chunks of C tokens.

/// What the rule has of a row's tokens, in float32 or wider.
struct DeltaTokens {
  Tensor q_NKd, k_NKd;  ///< queries with their scale; undefined where only states are wanted
  Tensor v_NHe;
  Tensor decay_NH;  ///< the logarithm of what the state is multiplied by: at most 0
  Tensor beta_NH;   ///< how much of what a key holds is replaced
};

/// What tokens that follow some of a row's tokens may need.
struct DeltaMemory {
  DeltaTokens tokens;  ///< without queries; undefined where only tokens after all of the row may follow
  Tensor state_Hde;    ///< after the last token, of a row with one sequence
};

struct DeltaOutput {
  Tensor out_NHe;
  Tensor state_SHde;  ///< after each segment
};

/// The rule token by token, for one sequence that starts from `state_Hde`.
inline DeltaOutput delta_rule_by_token(const DeltaTokens& tokens, Tensor state_Hde) {
  const std::int64_t shared = tokens.v_NHe.size(1) / tokens.k_NKd.size(1);
  const Tensor q_NHd = tokens.q_NKd.repeat_interleave(shared, 1), k_NHd = tokens.k_NKd.repeat_interleave(shared, 1);
  std::vector<Tensor> out;
  for (std::int64_t n = 0; n < tokens.v_NHe.size(0); ++n) {
    const auto row = [&](const Tensor& x_NHd) { return x_NHd[n].unsqueeze(-2); };  // [H, 1, d]
    const Tensor decayed = state_Hde * tokens.decay_NH[n].exp().unsqueeze(-1).unsqueeze(-1);
    const Tensor beta = tokens.beta_NH[n].unsqueeze(-1).unsqueeze(-1);
    const Tensor correction = (row(tokens.v_NHe) - at::matmul(row(k_NHd), decayed)) * beta;
    state_Hde = decayed + at::matmul(row(k_NHd).transpose(-2, -1), correction);
    out.push_back(at::matmul(row(q_NHd), state_Hde).squeeze(-2));
  }
  return {at::stack(out), state_Hde.unsqueeze(0)};
}

namespace detail {

/// Spans cut into chunks, which lie in the order in which states go through them: the first of each span, the second of
/// each that has one, and so on, the spans with most chunks first.
struct ChunkPlan {
  std::int64_t chunk = 0;               ///< tokens
  std::vector<std::size_t> order;       ///< the spans, by falling number of chunks
  std::vector<std::int64_t> num_going;  ///< for each step how many spans have a chunk for it
  std::vector<std::int64_t> token_L;    ///< for each place of a chunk its token; `padding` if it has none
  std::vector<std::int64_t> place_T;    ///< for each token of the spans, span by span, its place
  std::int64_t num_chunks() const { return std::accumulate(num_going.begin(), num_going.end(), std::int64_t{0}); }
};

inline ChunkPlan plan_chunks(const std::vector<TokenSpan>& spans, std::int64_t padding) {
  constexpr std::int64_t most_tokens = 64;
  ChunkPlan plan;
  for (const TokenSpan& span : spans) plan.chunk = std::clamp(span.length, plan.chunk, most_tokens);
  const auto chunks_of = [&](std::size_t s) { return (spans[s].length + plan.chunk - 1) / plan.chunk; };
  plan.order.resize(spans.size());
  std::iota(plan.order.begin(), plan.order.end(), std::size_t{0});
  std::ranges::stable_sort(plan.order, [&](std::size_t a, std::size_t b) { return chunks_of(a) > chunks_of(b); });
  std::vector<std::vector<std::int64_t>> places(spans.size());
  for (std::int64_t step = 0; step < chunks_of(plan.order[0]); ++step) {
    plan.num_going.push_back(0);
    for (const std::size_t s : plan.order) {
      if (chunks_of(s) <= step) break;
      ++plan.num_going.back();
      for (std::int64_t t = step * plan.chunk; t < (step + 1) * plan.chunk; ++t) {
        if (t < spans[s].length) places[s].push_back(static_cast<std::int64_t>(plan.token_L.size()));
        plan.token_L.push_back(t < spans[s].length ? spans[s].begin + t : padding);
      }
    }
  }
  for (const auto& of_span : places) plan.place_T.insert(plan.place_T.end(), of_span.begin(), of_span.end());
  return plan;
}

/// What each chunk has by itself, before a state comes in. Shapes [M, H, ...].
struct ChunkParts {
  Tensor value_Ce, seen_Cd;  ///< what is written is value - seen state
  Tensor write_Cd;           ///< the state grows by write^T of it, after
  Tensor keep;               ///< [1, 1]: it is multiplied by this
  Tensor query_Cd, mix_CC;   ///< the output is query state + mix of what is written; undefined without queries
};

inline ChunkParts chunk_parts(const DeltaTokens& tokens, const Tensor& token_L, std::int64_t chunk) {
  const std::int64_t K = tokens.k_NKd.size(1), G = tokens.v_NHe.size(1) / K;
  const auto chunks = [&](const Tensor& x) {  // [N, heads, ...] to [M, heads, C, ...]
    const Tensor padded = at::cat({x, x.new_zeros({1}).expand_as(x.narrow(0, 0, 1))});
    return padded.index_select(0, token_L).unflatten(0, {-1, chunk}).transpose(1, 2);
  };
  const auto by_group = [&](const Tensor& x) { return x.unflatten(1, {K, G}); };  // [M, K, G, ..]
  const auto for_group = [&](const Tensor& x) { return x.unsqueeze(2); };         // of a key head
  const auto of_heads = [&](const Tensor& x) { return x.flatten(1, 2); };         // [M, H, ..]
  const Tensor k = chunks(tokens.k_NKd).contiguous(), v = by_group(chunks(tokens.v_NHe)),
               beta = by_group(chunks(tokens.beta_NH)).unsqueeze(-1),
               sum = by_group(chunks(tokens.decay_NH).cumsum(-1));
  const Tensor future_CC = at::ones({chunk, chunk}, k.options().dtype(at::kBool).requires_grad(false)).triu_(1);
  const Tensor decay_CC =
      (sum.unsqueeze(-1) - sum.unsqueeze(-2)).masked_fill(future_CC, -std::numeric_limits<double>::infinity()).exp();
  const Tensor since_start = sum.exp().unsqueeze(-1), last = sum.narrow(-1, chunk - 1, 1);
  // (1 + strictly lower part of beta k k^T decay) [value, seen] = beta [v, k decayed]; the solver skips the diagonal.
  const Tensor system = for_group(at::matmul(k, k.transpose(-2, -1))) * decay_CC * beta;
  const Tensor right = at::cat({v * beta, for_group(k) * (beta * since_start)}, -1);
  const Tensor solved = of_heads(at::linalg_solve_triangular(system, right, /*upper=*/false, /*left=*/true,
                                                             /*unitriangular=*/true));
  const std::int64_t e = tokens.v_NHe.size(2);
  ChunkParts out{.value_Ce = solved.narrow(-1, 0, e),
                 .seen_Cd = solved.narrow(-1, e, tokens.k_NKd.size(2)),
                 .write_Cd = of_heads(for_group(k) * (last - sum).exp().unsqueeze(-1)),
                 .keep = of_heads(last.exp().unsqueeze(-1)),
                 .query_Cd = {},
                 .mix_CC = {}};
  if (!tokens.q_NKd.defined()) return out;
  const Tensor q = chunks(tokens.q_NKd).contiguous();
  out.query_Cd = of_heads(for_group(q) * since_start);
  out.mix_CC = of_heads(for_group(at::matmul(q, k.transpose(-2, -1))) * decay_CC);
  return out;
}

struct Scanned {
  Tensor out_THe;     ///< of the spans' tokens, span by span; undefined without queries
  Tensor state_SHde;  ///< after each span
};

/// The rule for spans of a row that start from state_SHde, or from zero if that is undefined.
inline Scanned scan(const DeltaTokens& tokens, const std::vector<TokenSpan>& spans, const Tensor& state_SHde = {}) {
  if (takes_delta_kernel(tokens.k_NKd, tokens.v_NHe)) {
    const auto given = [](const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
    const auto out = DeltaScan<>::apply(given(tokens.q_NKd), tokens.k_NKd, tokens.v_NHe, tokens.decay_NH,
                                        tokens.beta_NH, given(state_SHde), DeltaPlan(spans));
    return {tokens.q_NKd.defined() ? out[0] : Tensor(), out.back()};
  }
  const ChunkPlan plan = plan_chunks(spans, /*padding=*/tokens.k_NKd.size(0));
  const auto indices = [&](const std::vector<std::int64_t>& numbers) {
    return to_device(numbers, tokens.k_NKd.device());
  };
  const Tensor order = indices({plan.order.begin(), plan.order.end()});
  const ChunkParts parts = chunk_parts(tokens, indices(plan.token_L), plan.chunk);
  Tensor state = state_SHde.defined() ? state_SHde.index_select(0, order) : state_SHde;
  std::vector<Tensor> out, finished;
  std::int64_t begin = 0;
  for (const std::int64_t count : plan.num_going) {
    const auto now = [&](const Tensor& x) { return x.narrow(0, begin, count); };
    if (state.defined() && state.size(0) > count) {
      finished.push_back(state.slice(0, count));
      state = state.slice(0, 0, count);
    }
    const Tensor written =
        state.defined() ? now(parts.value_Ce) - at::matmul(now(parts.seen_Cd), state) : now(parts.value_Ce);
    if (parts.mix_CC.defined()) {
      const Tensor mixed = at::matmul(now(parts.mix_CC), written);
      out.push_back(state.defined() ? mixed + at::matmul(now(parts.query_Cd), state) : mixed);
    }
    const Tensor added = at::matmul(now(parts.write_Cd).transpose(-2, -1), written);
    state = state.defined() ? state * now(parts.keep) + added : added;
    begin += count;
  }
  finished.push_back(state);
  std::ranges::reverse(finished);
  std::vector<std::int64_t> rank(spans.size());
  for (std::size_t s = 0; s < spans.size(); ++s) rank[plan.order[s]] = static_cast<std::int64_t>(s);
  Scanned scanned{.out_THe = {}, .state_SHde = at::cat(finished).index_select(0, indices(rank))};
  if (!out.empty()) scanned.out_THe = at::cat(out).transpose(1, 2).flatten(0, 1).index_select(0, indices(plan.place_T));
  return scanned;
}

/// The states after `prefixes`: those of a row before, or of the spans `known` of this row, or made from its tokens.
inline Tensor states_after(const std::vector<TokenSpan>& prefixes, const DeltaTokens& own,
                           const std::vector<TokenSpan>& known, const Tensor& known_SHde, const DeltaMemory& before) {
  const bool is_own = !before.tokens.k_NKd.defined() && !before.state_Hde.defined();
  std::vector<TokenSpan> distinct;
  std::vector<std::int64_t> which;
  for (const TokenSpan& prefix : prefixes) {
    const auto found = std::ranges::find(distinct, prefix);
    which.push_back(found - distinct.begin());
    if (found == distinct.end()) distinct.push_back(prefix);
  }
  const DeltaTokens& source = is_own ? own : before.tokens;
  const auto of_one = [&](const TokenSpan& prefix) -> Tensor {
    const bool is_whole = !source.k_NKd.defined() || prefix.length == source.k_NKd.size(0);
    if (!is_own && before.state_Hde.defined() && is_whole) return before.state_Hde.unsqueeze(0);
    if (const auto found = std::ranges::find(known, prefix); is_own && found != known.end())
      return known_SHde.narrow(0, found - known.begin(), 1);
    return {};
  };
  std::vector<Tensor> states;
  for (const TokenSpan& prefix : distinct) states.push_back(of_one(prefix));
  if (std::ranges::any_of(states, [](const Tensor& state) { return !state.defined(); })) {
    DeltaTokens without_queries = source;
    without_queries.q_NKd = Tensor();
    states = {scan(without_queries, distinct).state_SHde};
  }
  return at::cat(states).index_select(0, to_device(which, own.k_NKd.device()));
}

}  // namespace detail

/// The rule for the segments of a row, each from the state after its prefix, or from zero. A prefix is the beginning of
/// a sequence in the row that `before` was kept from, else in this one.
inline DeltaOutput delta_rule(const DeltaTokens& tokens, const std::vector<Segment>& segments,
                              const DeltaMemory& before = {}) {
  if (segments.empty()) return {tokens.v_NHe, tokens.v_NHe.new_zeros({0})};
  std::vector<detail::TokenSpan> roots, tails, prefixes;
  std::vector<std::int64_t> place, rank;  // of each token among those of roots and then tails, and of each segment
  std::int64_t num_root_tokens = 0;
  for (const Segment& segment : segments)
    if (segment.prefix_length == 0) num_root_tokens += segment.length;
  std::int64_t next_root = 0, next_tail = num_root_tokens;
  for (const Segment& segment : segments) {
    const bool is_root = segment.prefix_length == 0;
    (is_root ? roots : tails).push_back({segment.begin, segment.length});
    if (!is_root) prefixes.push_back({segment.prefix_begin, segment.prefix_length});
    std::int64_t& next = is_root ? next_root : next_tail;
    for (std::int64_t t = 0; t < segment.length; ++t) place.push_back(next++);
  }
  const auto num_roots = static_cast<std::int64_t>(roots.size());
  std::int64_t root = 0, tail = num_roots;
  for (const Segment& segment : segments) rank.push_back(segment.prefix_length == 0 ? root++ : tail++);

  const detail::Scanned first = roots.empty() ? detail::Scanned{} : detail::scan(tokens, roots);
  if (tails.empty()) return {first.out_THe, first.state_SHde};
  const Tensor states = detail::states_after(prefixes, tokens, roots, first.state_SHde, before);
  const detail::Scanned second = detail::scan(tokens, tails, states);
  if (roots.empty()) return {second.out_THe, second.state_SHde};
  const auto in_order = [&](const Tensor& a, const Tensor& b, const std::vector<std::int64_t>& index) {
    return at::cat({a, b}).index_select(0, to_device(index, a.device()));
  };
  return {in_order(first.out_THe, second.out_THe, place), in_order(first.state_SHde, second.state_SHde, rank)};
}

}  // namespace kto
