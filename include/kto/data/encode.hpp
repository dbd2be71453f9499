// SPDX-License-Identifier: Apache-2.0
// Rows to token ids, the last step of the data room, as in TRL's KTOTrainer (1.16 and older). The completion starts
// where the ids of prompt + completion diverge from those of the prompt, which is not always after the whole prompt.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "kto/core/interrupt.hpp"
#include "kto/data/detail/problems.hpp"
#include "kto/data/example.hpp"
#include "kto/data/pairs.hpp"
#include "kto/data/render.hpp"
#include "kto/data/rows.hpp"

namespace kto {

/// Why a conversation cannot be rendered with a model folder that has no template.
inline constexpr const char* no_chat_template =
    "the row is a conversation, but the model folder has no chat template (chat_template.jinja, or chat_template in "
    "tokenizer_config.json); add one, or use rows whose prompt and completion are strings";

/// Turns one row into token ids. Refers to a tokenizer and templates that live elsewhere; may be shared by threads.
template <EncodesText Tokenizer, RendersChat Template>
struct RowEncoder {
  const Tokenizer& tokenizer;                  ///< of the model
  const Template* chat_template = nullptr;     ///< null if the model has none: plain rows only
  const Template* tool_template = nullptr;     ///< for rows with tools, if the model has a separate one
  Json special_tokens = Json::object();        ///< bos_token, eos_token, ... as templates and plain rows use them
  std::string no_template = no_chat_template;  ///< the Error for a conversation without template
  std::time_t now = std::time(nullptr);        ///< one time for all rows, for templates that write the date
  bool older = false;                          ///< as KTOTrainer up to TRL 0.22: for PartTruncation
  /// For encoder-decoder models: prompt and completion are tokenized apart, each with the tokenizer's special tokens, as
  /// in KTOTrainer up to TRL 0.22, and every completion ends with this token, EOS.
  std::optional<std::int32_t> completion_end = std::nullopt;

  /// The texts that encode() tokenizes; for a tokenized row, its decoded ids. Throws Error if the model lacks something
  /// the row needs.
  RowText text(const Row& row) const {
    if (row.tokenized) {
      auto ids = row.prompt.get<std::vector<std::int32_t>>();
      RowText out{.prompt = tokenizer.decode(ids), .whole = {}};
      for (const Json& id : row.completion) ids.push_back(id.get<std::int32_t>());
      out.whole = tokenizer.decode(ids);
      return out;
    }
    if (row.prompt.is_array()) {
      const Template* used = tool_template && !row.tools.is_null() ? tool_template : chat_template;
      check(used != nullptr, no_template);
      if (older || completion_end) return render_older(row, used, special_tokens, now);
      return render_conversation(row, *used, special_tokens, now);
    }
    if (older || completion_end) return render_older(row, chat_template, special_tokens, now);
    const auto eos = special_tokens.find("eos_token");
    check(eos != special_tokens.end() && eos->is_string(),
          "plain text rows need the end-of-sequence token; name it as eos_token in tokenizer_config.json");
    return render_plain(row, eos->template get_ref<const std::string&>());
  }

  /// The ids of a row, and the part of the tokenized prompt that they lack (normally empty).
  std::pair<Example, std::vector<std::int32_t>> encode(const Row& row) const {
    if (completion_end) return {encode_apart(row), {}};
    constexpr const char* lone = "the prompt is empty and the completion is a single token, which nothing predicts";
    if (row.tokenized) {
      check(row.prompt.size() + row.completion.size() > 1, lone);
      return {Example{.prompt_ids = row.prompt.get<std::vector<std::int32_t>>(),
                      .completion_ids = row.completion.get<std::vector<std::int32_t>>(),
                      .label = row.label,
                      .row = row.source.number},
              {}};
    }
    const RowText texts = text(row);
    const auto prompt = tokenizer.encode(texts.prompt, texts.add_special_tokens);
    const auto whole = tokenizer.encode(texts.whole, texts.add_special_tokens);
    auto [prompt_end, start] = std::mismatch(prompt.begin(), prompt.end(), whole.begin(), whole.end());
    if (older) {
      check(!whole.empty(), "prompt and completion are empty");
      check(whole.size() >= prompt.size(), "the prompt alone has ", prompt.size(),
            " tokens, but with the completion only ", whole.size());
      if (prompt_end != prompt.end()) prompt_end = prompt.end() - 1;  // its last token merged with what follows
      start = whole.begin() + (prompt_end - prompt.begin());
    } else {
      check(start != whole.end(), "the completion has no tokens",
            row.prompt.is_array() ? "; the chat template writes nothing for it" : "");
      check(whole.size() > 1, lone);
    }
    return {Example{.prompt_ids = {whole.begin(), start},
                    .completion_ids = {start, whole.end()},
                    .label = row.label,
                    .row = row.source.number},
            {prompt_end, prompt.end()}};
  }

 private:
  Example encode_apart(const Row& row) const {
    Example out{.prompt_ids = {}, .completion_ids = {}, .label = row.label, .row = row.source.number};
    if (row.tokenized) {
      row.prompt.get_to(out.prompt_ids);
      row.completion.get_to(out.completion_ids);
    } else {
      const RowText texts = text(row);
      out.prompt_ids = tokenizer.encode(texts.prompt, true);
      out.completion_ids = tokenizer.encode(std::string_view(texts.whole).substr(texts.completion_start()), true);
      if (out.completion_ids.empty() || out.completion_ids.back() != *completion_end)
        out.completion_ids.push_back(*completion_end);
    }
    check(!out.prompt_ids.empty(), "the prompt has no tokens for the encoder to read");
    return out;
  }
};

/// How rows become token ids.
struct EncodeOptions {
  std::optional<std::int64_t> max_length = std::nullopt;  ///< rows with this many prompt tokens are dropped
  std::size_t num_threads = 1;  ///< 0: as many as the machine has; the result is always the same
  /// Called now and then, from one thread at a time.
  std::function<void(std::size_t done, std::size_t total)> progress = nullptr;
};

/// Rows as token ids, and what is to be said of them.
struct Encoded {
  std::vector<Example> examples;   ///< in the order of the rows
  std::size_t num_dropped = 0;     ///< rows whose prompt has max_length tokens or more
  std::vector<std::string> notes;  ///< messages for the user
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
        check_interrupt();
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

/// Encodes rows in order, a block after another. Refers to the encoder.
template <EncodesText Tokenizer, RendersChat Template>
class BlockEncoder {
 public:
  /// `files` are those that the rows' sources count, for messages.
  BlockEncoder(const RowEncoder<Tokenizer, Template>& encoder, EncodeOptions options, std::vector<std::string> files)
      : encoder_(encoder),
        options_(std::move(options)),
        files_{.rows = {}, .kind = {}, .files = std::move(files), .notes = {}} {
    check(options_.max_length.value_or(1) > 0, "max_length is ", options_.max_length.value_or(0),
          "; expected 1 or more");
  }

  /// Encodes more rows, of `total` in all (as far as one knows).
  void add(std::span<const Row> rows, std::size_t total) {
    const std::size_t before = examples_.size();
    examples_.resize(before + rows.size());
    std::mutex mutex;
    EncodeOptions how{.max_length = {}, .num_threads = options_.num_threads};
    if (options_.progress)
      how.progress = [&](std::size_t done, std::size_t) {
        options_.progress(before + done, std::max(total, before + done));
      };
    detail::for_each_parallel(rows.size(), how, [&](std::size_t i) {
      try {
        auto [example, rest] = encoder_.encode(rows[i]);
        examples_[before + i] = std::move(example);
        if (rest.empty()) return;
        const std::lock_guard lock(mutex);
        ++num_parted_;
        if (before + i > first_parted_) return;
        first_parted_ = before + i;
        parted_at_ = files_.where(rows[i].source);
        left_out_ = std::move(rest);
      } catch (const Error& error) {
        const std::lock_guard lock(mutex);
        problems_.add(before + i,
                      concat(files_.where(rows[i].source), ": ", shortened(error.what(), detail::max_row_message)));
      }
    });
  }

  /// All rows that were added; none are dropped yet. Throws one Error naming all rows that cannot be encoded.
  Encoded finish() && {
    problems_.raise(concat("rows of ", examples_.size(), " cannot be encoded"));
    Encoded out;
    if (num_parted_ > 0)
      out.notes.push_back(concat(
          "the tokenized prompt is not a prefix of the tokenized prompt and completion in ", num_parted_, " of ",
          examples_.size(), " rows (first: ", parted_at_, ", which drops the prompt's end ",
          Json(encoder_.tokenizer.decode(left_out_)).dump(-1, ' ', false, Json::error_handler_t::replace),
          "): there the completion starts where they diverge, and training sees another context than generation; use a "
          "chat template that renders the prompt the same in both, or end prompts on a token boundary"));
    out.examples = std::move(examples_);
    return out;
  }

 private:
  const RowEncoder<Tokenizer, Template>& encoder_;
  EncodeOptions options_;
  RowSet files_;
  std::vector<Example> examples_;
  detail::Problems problems_;
  std::size_t num_parted_ = 0, first_parted_ = SIZE_MAX;
  std::string parted_at_;
  std::vector<std::int32_t> left_out_;
};

/// Drops rows whose prompt alone has `max_length` tokens or more, with a note. Throws Error if none is left.
inline void drop_long_prompts(Encoded& encoded, std::optional<std::int64_t> max_length) {
  if (!max_length) return;
  const auto limit = static_cast<std::size_t>(*max_length);
  const std::size_t total = encoded.examples.size();
  encoded.num_dropped =
      std::erase_if(encoded.examples, [&](const Example& row) { return row.prompt_ids.size() >= limit; });
  check(!encoded.examples.empty(), "all ", total, " rows have a prompt of max_length (", limit,
        ") tokens or more; raise max_length");
  if (encoded.num_dropped > 0)
    encoded.notes.push_back(concat("dropped ", encoded.num_dropped, " of ", total,
                                   " rows whose prompt fills max_length (", limit, " tokens)"));
}

/// Encodes all rows, in order. Completions are not cut to max_length: the collator does it, for a KL pair has another
/// prompt before them. The notes of `set` come before those of encoding. Throws one Error that names all rows that
/// cannot be encoded (the first ten in full), or when every row is dropped.
template <EncodesText Tokenizer, RendersChat Template>
Encoded encode_rows(const RowSet& set, const RowEncoder<Tokenizer, Template>& encoder,
                    const EncodeOptions& options = {}) {
  BlockEncoder blocks(encoder, options, set.files);
  blocks.add(set.rows, set.rows.size());
  Encoded out = std::move(blocks).finish();
  out.notes.insert(out.notes.begin(), set.notes.begin(), set.notes.end());
  drop_long_prompts(out, options.max_length);
  return out;
}

/// Reads and encodes rows block by block: never more of their text is in memory than a few blocks. What the reader
/// notes comes before what the encoder does. Nothing is dropped yet (see drop_long_prompts).
template <EncodesText Tokenizer, RendersChat Template>
Encoded encode_blocks(RowBlocks& rows, const RowEncoder<Tokenizer, Template>& encoder,
                      const EncodeOptions& options = {}) {
  BlockEncoder blocks(encoder, options, rows.files());
  std::size_t done = 0;
  for (auto block = rows.next(); !block.empty(); block = rows.next()) {
    done += block.size();
    const double share = rows.share();
    blocks.add(block, share > 0 && share < 1 ? static_cast<std::size_t>(static_cast<double>(done) / share) : done);
  }
  Encoded out = std::move(blocks).finish();
  out.notes.insert(out.notes.begin(), rows.notes().begin(), rows.notes().end());
  return out;
}

/// The rows of a data set tokenized as they are asked for: one pass over them, in their order, with a block of text in
/// memory at a time. Rows whose prompt fills max_length are left out. Where parts want pairs (RowFiles::pairs_for), they
/// come as pair_up has them. Refers to the encoder.
template <EncodesText Tokenizer, RendersChat Template>
class ExampleStream {
 public:
  /// `where` names the data set in messages.
  ExampleStream(std::vector<RowFiles> parts, std::string where, const RowEncoder<Tokenizer, Template>& encoder,
                EncodeOptions options)
      : paired_(std::ranges::any_of(parts, [](const RowFiles& part) { return !part.pairs_for.empty(); })),
        rows_(std::move(parts), std::move(where), /*stop_at_problem=*/true),
        encoder_(encoder),
        options_(std::move(options)) {}

  /// The next rows; none at the end. Throws Error for a row that is malformed or cannot be encoded.
  std::vector<Example> next() {
    for (auto block = rows_.next(); !block.empty(); block = rows_.next()) {
      for (const Row& row : block)
        if (first_of_file_.empty() || first_of_file_.rbegin()->second != row.source.file)
          first_of_file_.try_emplace(row.source.number, row.source.file);
      BlockEncoder blocks(encoder_, options_, rows_.files());
      blocks.add(block, block.size());
      std::vector<Example> examples = std::move(blocks).finish().examples;
      if (paired_) examples = pair_up(std::move(examples));  // a block has whole pairs
      if (options_.max_length)
        std::erase_if(examples, [&](const Example& row) {
          return row.prompt_ids.size() >= static_cast<std::size_t>(*options_.max_length);
        });
      if (!examples.empty()) return examples;
    }
    return {};
  }

  /// The file that a row which was given is of, by its number.
  const std::string& file(std::size_t row) const {
    const auto after = first_of_file_.upper_bound(row);
    return rows_.files()[after == first_of_file_.begin() ? 0 : std::prev(after)->second];
  }

 private:
  bool paired_;
  RowBlocks rows_;
  const RowEncoder<Tokenizer, Template>& encoder_;
  EncodeOptions options_;
  std::map<std::size_t, std::size_t> first_of_file_;  ///< number of a row: its file, where another one begins
};

}  // namespace kto
