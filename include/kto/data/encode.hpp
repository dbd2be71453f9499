// SPDX-License-Identifier: Apache-2.0
// Rows to token ids: the last stop of the data room. The completion starts where the ids of the prompt and those of
// prompt and completion part, which is not always after the prompt. As TRL's KTOTrainer does it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "kto/data/detail/problems.hpp"
#include "kto/data/example.hpp"
#include "kto/data/render.hpp"

namespace kto {

/// Why a conversation cannot be rendered with a model folder that has no template.
inline constexpr const char* no_chat_template =
    "the row is a conversation, but the model folder has no chat template (chat_template.jinja, or chat_template in "
    "tokenizer_config.json); add one, or give rows whose prompt and completion are strings";

/// Turns one row into token ids. Refers to a tokenizer and templates that live elsewhere; may be shared by threads.
template <EncodesText Tokenizer, RendersChat Template>
struct RowEncoder {
  const Tokenizer& tokenizer;
  const Template* chat_template = nullptr;     ///< null when the model has none: plain rows only
  const Template* tool_template = nullptr;     ///< for rows with tools, where the model has another one for them
  Json special_tokens = Json::object();        ///< bos_token, eos_token, ... as templates and plain rows use them
  std::string no_template = no_chat_template;  ///< the Error for a conversation without template
  std::time_t now = std::time(nullptr);        ///< one time for all rows, for templates that write the date

  /// The texts that encode() tokenizes. Throws Error when the model lacks what the row needs.
  RowText text(const Row& row) const {
    if (row.prompt.is_array()) {
      const Template* used = tool_template && !row.tools.is_null() ? tool_template : chat_template;
      check(used != nullptr, no_template);
      return render_conversation(row, *used, special_tokens, now);
    }
    const auto eos = special_tokens.find("eos_token");
    check(eos != special_tokens.end() && eos->is_string(),
          "plain text rows need the end-of-sequence token; name it as eos_token in tokenizer_config.json");
    return render_plain(row, eos->template get_ref<const std::string&>());
  }

  /// The ids of a row, and the end of the tokenized prompt that is not part of them (empty as it should be).
  std::pair<Example, std::vector<std::int32_t>> encode(const Row& row) const {
    const RowText texts = text(row);
    const auto prompt = tokenizer.encode(texts.prompt, texts.add_special_tokens);
    const auto whole = tokenizer.encode(texts.whole, texts.add_special_tokens);
    const auto [prompt_end, start] = std::mismatch(prompt.begin(), prompt.end(), whole.begin(), whole.end());
    check(start != whole.end(), "the completion has no tokens",
          row.prompt.is_array() ? "; the chat template writes nothing for it" : "");
    check(whole.size() > 1, "the prompt is empty and the completion is a single token, which nothing predicts");
    return {Example{.prompt_ids = {whole.begin(), start},
                    .completion_ids = {start, whole.end()},
                    .label = row.label,
                    .row = row.source.number},
            {prompt_end, prompt.end()}};
  }
};

struct EncodeOptions {
  std::optional<std::int64_t> max_length = std::nullopt;  ///< rows whose prompt alone has as many tokens are dropped
  std::size_t num_threads = 1;  ///< 0: as many as the machine has; the result is always the same
  /// Called now and then, from one thread at a time.
  std::function<void(std::size_t done, std::size_t total)> progress = nullptr;
};

struct Encoded {
  std::vector<Example> examples;
  std::size_t num_dropped = 0;
  std::vector<std::string> notes;  ///< what the user should know, a sentence each
};

namespace detail {

/// Calls work(i) for 0..n-1, `num_threads` at a time, and rethrows the first exception that one of them throws.
template <class Work>
void for_each_parallel(std::size_t n, const EncodeOptions& options, const Work& work) {
  constexpr std::size_t chunk = 16;
  const std::size_t wanted = options.num_threads > 0 ? options.num_threads : std::thread::hardware_concurrency();
  const std::size_t num_threads = std::clamp<std::size_t>(wanted, 1, std::max<std::size_t>(1, (n + chunk - 1) / chunk));
  std::atomic<std::size_t> next = 0;
  std::size_t done = 0;
  std::exception_ptr failure;
  std::mutex mutex;
  const auto run = [&] {
    try {
      for (std::size_t begin; (begin = next.fetch_add(chunk)) < n;) {
        const std::size_t end = std::min(begin + chunk, n);
        for (std::size_t i = begin; i < end; ++i) work(i);
        const std::lock_guard lock(mutex);
        done += end - begin;
        if (options.progress) options.progress(done, n);
      }
    } catch (...) {
      next = n;
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;  // joined at the end of this block
    for (std::size_t t = 1; t < num_threads; ++t) threads.emplace_back(run);
    run();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace detail

/// Encodes all rows, in order. Completions are not cut to max_length: the collator does it, for a KL pair has another
/// prompt before them. Throws one Error that names all rows that cannot be encoded (the first ten in full), or when
/// every row is dropped.
template <EncodesText Tokenizer, RendersChat Template>
Encoded encode_rows(const RowSet& set, const RowEncoder<Tokenizer, Template>& encoder,
                    const EncodeOptions& options = {}) {
  check(options.max_length.value_or(1) > 0, "max_length is ", options.max_length.value_or(0), "; expected 1 or more");
  Encoded out;
  out.examples.resize(set.rows.size());
  detail::Problems problems;
  std::size_t num_parted = 0, first_parted = set.rows.size();
  std::vector<std::int32_t> left_out;
  std::mutex mutex;
  detail::for_each_parallel(set.rows.size(), options, [&](std::size_t i) {
    try {
      auto [example, rest] = encoder.encode(set.rows[i]);
      out.examples[i] = std::move(example);
      if (rest.empty()) return;
      const std::lock_guard lock(mutex);
      ++num_parted;
      if (i > first_parted) return;
      first_parted = i;
      left_out = std::move(rest);
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      problems.add(i, concat(set.where(set.rows[i].source), ": ", error.what()));
    }
  });
  problems.raise(concat("rows of ", set.rows.size(), " cannot be encoded"));

  if (num_parted > 0)
    out.notes.push_back(concat(
        "the tokenized prompt is not how the tokenized prompt and completion begin in ", num_parted, " of ",
        set.rows.size(), " rows (first: ", set.where(set.rows[first_parted].source),
        ", which leaves out the prompt's end ",
        Json(encoder.tokenizer.decode(left_out)).dump(-1, ' ', false, Json::error_handler_t::replace),
        "): there the completion starts where they part, and training sees another context than generation; use a chat "
        "template that renders the prompt alike in both, or end prompts on a token boundary"));
  if (options.max_length) {
    const auto limit = static_cast<std::size_t>(*options.max_length);
    out.num_dropped = std::erase_if(out.examples, [&](const Example& row) { return row.prompt_ids.size() >= limit; });
    check(!out.examples.empty(), "all ", set.rows.size(), " rows have a prompt of max_length (", limit,
          ") tokens or more; raise max_length");
    if (out.num_dropped > 0)
      out.notes.push_back(concat("dropped ", out.num_dropped, " of ", set.rows.size(),
                                 " rows whose prompt fills max_length (", limit, " tokens)"));
  }
  return out;
}

}  // namespace kto
