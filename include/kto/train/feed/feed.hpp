// SPDX-License-Identifier: Apache-2.0
// Where the trainer's windows of micro-batches come from: rows in memory, or a stream of rows that are made as they are
// asked for. Every rank knows the whole order of the rows, and makes the micro-batches that are its own.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <future>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kto/train/feed/loader.hpp"
#include "kto/train/feed/prefetch.hpp"
#include "kto/train/feed/stream_rows.hpp"
#include "kto/train/plan.hpp"
#include "kto/train/share.hpp"

namespace kto {

/// Rows that come one block after another and need not fit into memory: `open()` begins a pass over them and returns
/// what gives the next rows, none at the end. A run over a stream is max_steps long; where the pass ends before,
/// another one begins. Rows are visited in the order in which they come: transformers' samplers do not touch a stream
/// either.
struct RowStream {
  using Open = std::function<std::function<std::vector<Example>()>()>;
  explicit RowStream(Open how) : open(std::move(how)) {}  // not an aggregate: train({}) is about rows
  Open open;
  /// The file of a row in the latest pass, by its Example::row, for messages; may be empty.
  std::function<std::string(std::size_t row)> file = {};
};

/// Where the next window begins: the sampler's state, since an epoch's order depends on (seed, epoch) alone.
struct Position {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;  ///< micro-batch of the epoch
  Json stream = nullptr;   ///< the result of Feed::passed, for a stream

  template <class Archive>
  void visit_state(Archive& archive) {
    archive("epoch", epoch);
    archive("batch", batch);
    archive("stream", stream);
  }
};

/// The micro-batches of one update.
struct Window {
  std::vector<Batch> batches;           ///< of this rank
  std::vector<std::int64_t> step_rows;  ///< for each micro-step: the rows of all ranks
  std::size_t num_batches = 0;          ///< of all ranks

  std::int64_t num_rows() const { return std::accumulate(step_rows.begin(), step_rows.end(), std::int64_t{0}); }

  /// Counts the next micro-batch of all ranks, which has `rows` rows.
  void count(std::size_t rows, const Share& share) {
    if (num_batches++ % share.step_size == 0) step_rows.push_back(0);
    step_rows.back() += static_cast<std::int64_t>(rows);
  }
};

/// Windows of micro-batches, epoch by epoch. A feed's settings are those of_all_ranks(). Called once per window, so the
/// cost of its virtual functions is negligible.
struct Feed {
  explicit Feed(Share whose) : share(std::move(whose)) {}
  Feed(const Feed&) = delete;
  Feed& operator=(const Feed&) = delete;
  virtual ~Feed() = default;
  Share share;  ///< fixed when the first epoch begins
  /// Moves to `position`. Throws Error if skipped rows have changed.
  virtual void begin(const Position& position) = 0;
  /// Information to check the rows when a run resumes here; null if they are compared before it starts.
  virtual Json passed() const { return nullptr; }
  /// Whether the epoch has another window.
  virtual bool has_next() = 0;
  /// The next window. The rows that its batches refer to stay valid until the next call.
  Window next(at::Device device) {
    Window out = ahead_.valid() ? ahead_.get() : make(device);
    hand_out();
    return out;
  }
  /// Where the device works on its own: makes the next window now, whose copies wait in its queue. next() returns it, or
  /// throws what went wrong.
  void make_ahead(at::Device device) {
    if (device.is_cpu() || ahead_.valid() || !has_next()) return;
    std::packaged_task<Window()> task([&] { return make(device); });
    ahead_ = task.get_future();
    task();
  }
  /// The micro-batches of all ranks in the current epoch, as the log counts them.
  virtual std::int64_t num_batches() const = 0;
  /// The number of rows (or pairs) of each micro-batch of `epoch`; for a stream, of one.
  virtual std::vector<std::size_t> batch_sizes(std::int64_t epoch) const = 0;
  /// The picks of the micro-batches of `epoch`; none for a stream, which is not known ahead.
  virtual std::optional<std::vector<Picks>> picks(std::int64_t) const { return std::nullopt; }

 protected:
  /// The window after the last one that was made.
  virtual Window make(at::Device device) = 0;
  /// What was made last is what next() returns.
  virtual void hand_out() {}
  std::future<Window> ahead_;  ///< a window made ahead
};

template <class Collator>
class MemoryFeed final : public Feed {
 public:
  /// Throws UsageError if max_tokens_per_batch is set but the collator does not count tokens.
  MemoryFeed(std::span<const Example> rows, const Collator& collator, const TrainConfig& config, PickRules rules,
             bool with_kl, const World& world = {})
      : Feed(Share{world}),
        rows_(rows),
        collator_(collator),
        config_(config),
        rules_(std::move(rules)),
        with_kl_(with_kl) {
    if (!config.max_tokens_per_batch) return;
    if constexpr (CountsTokens<Collator>)
      rules_.num_tokens = [this](const Example& row) { return collator_.num_tokens(row); };
    else
      throw UsageError(
          "max_tokens_per_batch: this collator does not count the tokens of a row: use "
          "kto::PackedCollator, or write `std::int64_t num_tokens(const kto::Example&) const` in yours");
  }

  void begin(const Position& position) override {
    ahead_ = {};
    source_.reset();
    std::vector<Picks> picks = train_picks(rows_, config_, position.epoch, rules());
    at_ = std::min(static_cast<std::size_t>(position.batch), picks.size());
    sizes_.clear();
    for (const Picks& batch : picks) sizes_.push_back(batch.size());
    picks.erase(picks.begin(), picks.begin() + static_cast<std::ptrdiff_t>(at_));
    own_picks_ = share.own(std::move(picks));
    source_.emplace(collator_, own_picks_, with_kl_, config_.dataloader_num_workers,
                    config_.dataloader_prefetch_factor.value_or(2));
  }
  bool has_next() override { return ahead_.valid() || at_ < sizes_.size(); }
  std::int64_t num_batches() const override { return static_cast<std::int64_t>(sizes_.size()); }
  std::vector<std::size_t> batch_sizes(std::int64_t epoch) const override {
    return epoch_layout(rows_, config_, epoch, rules()).sizes;
  }
  std::optional<std::vector<Picks>> picks(std::int64_t epoch) const override {
    return share.own(train_picks(rows_, config_, epoch, rules()));
  }

 private:
  Window make(at::Device device) override {
    const std::size_t end =
        std::min(at_ + static_cast<std::size_t>(config_.gradient_accumulation_steps), sizes_.size());
    Window window;
    for (; at_ < end; ++at_) {
      if (share.is_own(window.num_batches)) window.batches.push_back(to_device(source_->next(), device));
      window.count(sizes_[at_], share);
    }
    return window;
  }
  PickRules rules() const {
    PickRules out = rules_;
    out.step_size = share.step_size;
    return out;
  }

  std::span<const Example> rows_;
  const Collator& collator_;
  const TrainConfig& config_;
  PickRules rules_;
  bool with_kl_;
  std::vector<std::size_t> sizes_;  ///< rows of each micro-batch of the epoch
  std::vector<Picks> own_picks_;    ///< of this rank's micro-batches, from the beginning on
  std::optional<BatchSource<Collator>> source_;
  std::size_t at_ = 0;  ///< the first micro-batch of the next window to make
};

template <class Collator>
class StreamFeed final : public Feed {
 public:
  /// Throws UsageError naming an option that needs all rows at once.
  StreamFeed(const RowStream& stream, const Collator& collator, const TrainConfig& config, bool paired, bool with_kl,
             const World& world = {})
      : Feed(Share{world}), stream_(stream), collator_(collator), config_(config), paired_(paired), with_kl_(with_kl) {
    const auto refuse = [](bool given, const char* name, const char* why) {
      if (given) throw UsageError(concat(name, ": a stream of rows ", why));
    };
    refuse(config.max_steps < 1, "max_steps", "has no known end: set the number of updates");
    refuse(config.train_sampling_strategy != SamplingStrategy::sequential, "train_sampling_strategy",
           "is visited in its own order, not shuffled or grouped: shuffle the files, or load the rows into memory");
    refuse(config.max_tokens_per_batch.has_value(), "max_tokens_per_batch",
           "resumes by counting batches of one size: use per_device_train_batch_size");
    refuse(config.dataloader_num_workers > 0, "dataloader_num_workers",
           "is read ahead by its own thread; leave it at 0");
  }

  /// A pass that goes on from a checkpoint is compared with what that knows, beyond its place too: with the rows of the
  /// whole pass before it.
  void begin(const Position& position) override {
    ahead_ = {};
    made_.clear();
    known_ = known();
    visited_ = {};
    again_.reset();
    rows_.clear();
    ended_ = false;
    auto skipped = static_cast<std::size_t>(position.batch) * batch_rows();
    if (!position.stream.is_null()) {
      const std::string where = "the checkpoint's place in the stream";
      skipped = json_value<std::size_t>(position.stream, "visited", skipped, where);
      known_ = RowMarks::from_json(json_value<Json>(position.stream, "known", nullptr, where), where);
      again_.emplace(known_, stream_.file);
    }
    next_rows_ = stream_.open();
    for (std::size_t left = skipped; left > 0;) {
      fill(1);
      check(!rows_.empty(), "the stream of rows ends before the point where the run resumes");
      const std::size_t some = std::min(left, num_usable());
      for (std::size_t i = 0; i < some; ++i) visited_.add(rows_[i]);
      rows_.erase(rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(some));
      left -= some;
    }
    check(skipped > 0 || has_next(), "the stream has too few rows for a batch");
  }
  Json passed() const override { return {{"visited", visited_.count()}, {"known", known().to_json()}}; }
  bool has_next() override {
    if (ahead_.valid()) return true;
    fill(batch_rows());
    return rows_.size() >= (config_.dataloader_drop_last ? step_rows() : paired_ ? 2 : 1);
  }
  std::int64_t num_batches() const override { return config_.max_steps * config_.gradient_accumulation_steps; }
  std::vector<std::size_t> batch_sizes(std::int64_t) const override {
    return {static_cast<std::size_t>(config_.per_device_train_batch_size)};
  }

 private:
  Window make(at::Device device) override {
    const auto accumulate = static_cast<std::size_t>(config_.gradient_accumulation_steps);
    fill(batch_rows() * (accumulate + 1));  // including the start of the next window, so that has_next() need not read
    std::size_t count = std::min(rows_.size(), batch_rows() * accumulate);
    if (config_.dataloader_drop_last) count = count / step_rows() * step_rows();
    const auto end = rows_.begin() + static_cast<std::ptrdiff_t>(count);
    made_.assign(std::move_iterator(rows_.begin()), std::move_iterator(end));
    rows_.erase(rows_.begin(), end);
    const auto order = sequential_order(detail::num_units(made_, paired_));
    Window out;
    for (const Picks& picks : detail::make_picks(
             made_, order, even_groups(order.size(), static_cast<std::size_t>(config_.per_device_train_batch_size)),
             kl_partners(order, detail::kl_group(config_)), paired_)) {
      if (share.is_own(out.num_batches)) out.batches.push_back(to_device(collator_(picks, with_kl_), device));
      out.count(picks.size(), share);
    }
    return out;
  }
  void hand_out() override {
    window_ = std::exchange(made_, {});
    for (const Example& row : window_) visited_.add(row);
  }
  std::size_t batch_rows() const {
    return static_cast<std::size_t>(config_.per_device_train_batch_size) * (paired_ ? 2 : 1);
  }
  /// Rows of a full micro-step.
  std::size_t step_rows() const { return batch_rows() * share.step_size; }
  /// Reads until `count` rows are available, or the pass ends.
  void fill(std::size_t count) {
    while (num_usable() < count && !ended_) {
      std::vector<Example> more = next_rows_();
      ended_ = more.empty();
      if (again_)
        for (const Example& row : more) again_->add(row);
      if (again_ && ended_) again_->end();
      rows_.insert(rows_.end(), std::move_iterator(more.begin()), std::move_iterator(more.end()));
    }
  }
  /// How many of `rows_` are new, or verified to be unchanged.
  std::size_t num_usable() const {
    const std::int64_t good = again_ ? again_->num_good() : INT64_MAX;
    return good == INT64_MAX ? rows_.size() : static_cast<std::size_t>(good - visited_.count()) - made_.size();
  }
  /// Marks for the rows of this pass, or of the previous pass if it got further over the same rows.
  RowMarks known() const {
    RowMarks now = visited_.marks();
    return known_.count > now.count && agree(known_, now) ? known_ : now;
  }

  const RowStream& stream_;
  const Collator& collator_;
  const TrainConfig& config_;
  bool paired_, with_kl_;
  std::function<std::vector<Example>()> next_rows_;
  std::deque<Example> rows_;  ///< read but not yet visited
  RowMarker visited_;         ///< rows of this pass
  RowMarks known_;            ///< rows of the previous pass
  std::optional<RowCheck> again_;
  std::vector<Example> made_;    ///< the rows of a window that was made ahead
  std::vector<Example> window_;  ///< those of the last window handed out
  bool ended_ = false;
};

/// The number of steps of a run over `num_units` rows (or pairs), with settings of_all_ranks().
inline Plan plan_of(const TrainConfig& config, const Feed& feed, std::int64_t num_units) {
  if (!config.max_tokens_per_batch)
    return make_plan(config, num_units, {}, static_cast<std::int64_t>(feed.share.step_size));
  return make_plan(config, num_units,
                   [&](std::int64_t epoch) { return static_cast<std::int64_t>(feed.batch_sizes(epoch).size()); });
}

/// The beginning of the epoch at `position`, or of the next one if that epoch is finished.
inline Position epoch_begun(const TrainConfig& config, const Feed& feed, const Plan& plan, const Position& position) {
  const std::int64_t num_batches = config.max_tokens_per_batch
                                       ? static_cast<std::int64_t>(feed.batch_sizes(position.epoch).size())
                                       : plan.batches_per_epoch;
  return {position.epoch + (position.batch >= num_batches ? 1 : 0), 0};
}

}  // namespace kto
