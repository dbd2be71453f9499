// SPDX-License-Identifier: Apache-2.0
// From arguments to tokenized rows: read and encoded block by block, or taken from the cache; split; or streamed.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <map>
#include <range/v3/view/drop.hpp>
#include <range/v3/view/take.hpp>
#include <utility>

#include "kto/cli/arguments.hpp"
#include "kto/cli/encoder_decoder.hpp"
#include "kto/collate/example_cache.hpp"
#include "kto/data/parquet.hpp"
#include "kto/data/processor.hpp"
#include "kto/train/callbacks/progress.hpp"
#include "kto/train/checkpoint/folder.hpp"
#include "kto/train/evaluation_sets.hpp"
#include "kto/train/feed/feed.hpp"

namespace kto::cli {

/// The folder of what is kept from run to run. A path that is not absolute counts as none, as the XDG specification has
/// it: the cache of each working directory would be another.
inline fs::path user_cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && fs::path(cache).is_absolute())
    return fs::path(cache) / "kto";
  if (const fs::path folder = expand_home("~/.cache"); folder.is_absolute()) return folder / "kto";
  std::error_code problem;
  const fs::path folder = fs::temp_directory_path(problem);
  return (problem ? "/tmp" : folder) / ("kto-" + std::to_string(::getuid()));
}

/// Takes what all files of a run have in common into `parts`. `pairs_for` names the loss, where it is one of pairs.
inline std::vector<RowFiles> for_run(const ScriptConfig& script, std::string_view pairs_for,
                                     std::vector<RowFiles> parts) {
  for (RowFiles& part : parts) {
    part.label_pad_token_id = script.label_pad_token_id;
    part.pairs_for = pairs_for;
  }
  return parts;
}

/// The files of `split`; of a mixture, whose only one is train, all.
inline std::vector<RowFiles> row_files(const ScriptConfig& script, const std::string& split, const Note& note) {
  if (!script.datasets.empty()) return mixture_files(parse_mixture(script.datasets, script.dataset_streaming), note);
  return kto::row_files(
      hub::on_disk({.path = script.dataset_name, .split = split, .config = script.dataset_config.value_or("")}, note));
}

/// What rows are called in messages.
inline std::string rows_name(const ScriptConfig& script, const std::vector<RowFiles>& parts) {
  return rows_name(parts, script.datasets.empty() ? script.dataset_name : "datasets");
}

inline EncodeOptions encode_options(const ScriptConfig& script) {
  const Truncation truncation = truncation_of(script);
  return {.max_length = truncation.parts ? std::nullopt : truncation.max_length,
          .num_threads = static_cast<std::size_t>(script.dataset_num_proc.value_or(0))};
}

/// The encoder of a run's rows.
inline RowEncoder<Tokenizer, ChatTemplate> row_encoder(const ScriptConfig& script, const Processor& processor) {
  auto out = processor.encoder();
  out.older = truncation_of(script).parts.has_value();
  if (script.is_encoder_decoder.value_or(false)) out.completion_end = processor.named_tokens().eos.value().id;
  return out;
}

/// The rows of `parts` before anything is dropped, from the cache where they are in it. A damaged file there is noted
/// and replaced.
inline Encoded encode_or_recall(const ScriptConfig& script, const std::vector<RowFiles>& parts,
                                const fs::path& model_folder, const Processor& processor, const Note& note) {
  constexpr std::size_t worth_keeping = 20000;  // rows: fewer are tokenized in the time that looking them up takes
  constexpr double worth_looking = 4e6;         // bytes of their files
  double num_bytes = 0;
  for (const RowFiles& part : parts)
    for (const fs::path& file : part.files) num_bytes += static_cast<double>(fs::file_size(file));
  const bool looks = script.dataset_cache || num_bytes >= worth_looking;
  const fs::path folder = script.dataset_cache ? fs::path(*script.dataset_cache) : user_cache_folder();
  const auto encoder = row_encoder(script, processor);
  const auto key_now = [&] {
    return example_cache_key(parts, model_folder, encoder.older, encoder.completion_end.has_value());
  };
  const std::string key = looks ? key_now() : "";
  if (looks) try {
      if (auto kept = read_example_cache(folder, key)) {
        note(concat(kept->examples.size(), " tokenized rows read from ", cache_path(folder, key).string()));
        return *std::move(kept);
      }
    } catch (const std::exception& error) {  // also of the file system: a folder that may not be read
      note(concat(error_text(error), "; the rows are tokenized again"));
    }
  if (script.dataset_cache) check_cache_place(folder, key);
  detail::ProgressBar bar(stdout, !script.disable_tqdm.value_or(false));
  EncodeOptions options = encode_options(script);
  options.progress = [&](std::size_t done, std::size_t total) {
    bar.draw("tokenize", static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  };
  RowBlocks rows(parts, rows_name(script, parts));
  Encoded encoded = encode_blocks(rows, encoder, options);
  bar.clear();
  if (!looks || (!script.dataset_cache && encoded.examples.size() < worth_keeping)) return encoded;
  try {
    check(key_now() == key, "a file of the rows or of the tokenizer has changed while ", "they were read");
    write_example_cache(folder, key, encoded);
    note(concat(encoded.examples.size(), " tokenized rows kept in ", cache_path(folder, key).string()));
  } catch (const std::exception& error) {
    note(concat("tokenized rows are not kept: ", error_text(error)));
  }
  return encoded;
}

/// Rows split in two by a draw of their numbers, so that both rows of a pair stay together: (held out, others), each
/// shuffled, and pairs in the trainer's order again: side by side where the loss is `paired`.
inline std::pair<std::vector<Example>, std::vector<Example>> split_rows(std::vector<Example> rows, double share,
                                                                        std::uint64_t seed, bool paired) {
  std::map<std::size_t, std::vector<Example>> by_number;
  for (Example& row : rows) by_number[row.row].push_back(std::move(row));
  std::vector<std::vector<Example>*> units;
  for (auto& [number, unit] : by_number) units.push_back(&unit);
  const std::size_t n = units.size(), num_out = static_cast<std::size_t>(std::ceil(share * static_cast<double>(n)));
  check(num_out < n, "test_split_size ", share, " of ", n, " rows leaves none to train on");
  const auto order = shuffled_order(n, seed, 0);
  const auto take = [&](auto&& drawn) {
    std::vector<Example> out;
    const auto take_row = [&](std::size_t unit, bool is_first) {
      const std::size_t which = is_first ? 0 : 1;
      if (units[unit]->size() > which) out.push_back(std::move((*units[unit])[which]));
    };
    visit_unpaired(drawn, take_row, paired ? 1 : unpair_chunk);
    return out;
  };
  auto held_out = take(order | ranges::views::take(num_out));
  return {std::move(held_out), take(order | ranges::views::drop(num_out))};
}

/// What a run trains and is evaluated on.
struct LoadedRows {
  std::vector<Example> train = {};
  std::vector<std::pair<std::string, std::vector<Example>>> evaluation = {};  ///< by name; alone: without one
  std::optional<RowStream> stream = std::nullopt;                             ///< in place of `train`
  std::map<std::string, bool> files = {};  ///< that `train` is read from; true: streamed, not read before

  EvaluationSets evaluation_sets() const {
    if (evaluation.size() == 1 && evaluation.front().first.empty()) return evaluation.front().second;
    std::vector<EvaluationSet> sets;
    for (const auto& [name, rows] : evaluation) sets.push_back({name, rows});
    return EvaluationSets(std::move(sets));
  }
};

/// Hashes of the files that the rows come from; of those that are streamed, of size and beginning.
inline Json hash_rows_files(const LoadedRows& rows) {
  constexpr std::size_t beginning = 1 << 20;
  Json out = Json::object();
  for (const auto& [file, streamed] : rows.files) {
    if (!streamed) {
      out[file] = detail::file_hash(file);
      continue;
    }
    FileReader reader(file);
    std::string begin;
    reader.read(begin, beginning);
    ContentHash hash;
    hash.add(concat(reader.size()));
    hash.add(begin);
    out[file] = hash.hex();
  }
  return out;
}

/// The files of a set of eval_datasets: at a path, or of a split of dataset_name.
inline std::vector<RowFiles> evaluation_files(const ScriptConfig& script, const std::string& name, const Json& where,
                                              const Note& note) {
  const auto text = (where.is_string() ? where : where["split"]).get<std::string>();
  const fs::path path = where.is_string() ? text : "";
  const bool is_path = fs::exists(path) || path.native().find_first_of("*?") != std::string::npos ||  // [ is of slices
                       path.has_parent_path() || detail::is_data_file(path) ||
                       (where.is_string() && script.dataset_name.empty());
  try {
    if (!is_path) return row_files(script, text, note);
    const bool is_name = !fs::exists(path) && !detail::is_data_file(path) && hub::is_full_id(text);  // on the hub
    const bool has_splits = fs::is_directory(path) || is_name;
    return kto::row_files(
        hub::on_disk({.path = path, .split = has_splits ? script.dataset_test_split : "train"}, note));
  } catch (const std::exception& error) {
    fail("eval_datasets: ", name, ": ",
         where.is_string() && !is_path ? concat(text, " is no file or folder, and as a split: ") : "",
         error_text(error));
  }
}

/// The rows of `split`, with what is to be said of them.
inline std::vector<Example> load_split(const ScriptConfig& script, const std::string& split,
                                       const std::vector<RowFiles>& parts, const fs::path& model_folder,
                                       const Processor& processor, const Note& note) {
  Encoded encoded = encode_or_recall(script, parts, model_folder, processor, note);
  if (const std::string& pairs_for = parts.front().pairs_for; !pairs_for.empty()) try {
      encoded.examples = pair_up(std::move(encoded.examples));
    } catch (const Error& error) {  // rows with a label, which were read from the cache
      fail(rows_name(script, parts), ": ", error.what(), ", and ", pairs_for,
           " compares pairs: expected rows with the columns prompt, chosen and rejected");
    }
  drop_long_prompts(encoded, encode_options(script).max_length);
  for (const std::string& line : encoded.notes) note(split + ": " + line);
  if (script.is_encoder_decoder.value_or(false)) {
    if (const std::string cut = separate_truncation(script, processor)(encoded.examples); !cut.empty())
      note(split + ": " + cut);
    return std::move(encoded.examples);
  }
  const Truncation truncation = truncation_of(script, processor.named_tokens());
  if (const std::string cut = truncation_note(encoded.examples, truncation); !cut.empty() && truncation.parts)
    note(split + ": " + cut);
  return std::move(encoded.examples);
}

/// Loads what `args` name for `loss`: rows, or where it compares pairs, chosen and rejected rows side by side.
/// `processor` must outlive a stream.
inline LoadedRows load_rows(const Arguments& args, const LossEntry& loss, bool evaluates, const fs::path& model_folder,
                            const Processor& processor, const Note& note) {
  enable_parquet();
  const ScriptConfig& script = args.script;
  const bool paired = loss.needs.chosen_rejected;
  const std::string pairs_for = paired ? concat("the loss ", loss.name) : "";
  const bool has_encoder = script.is_encoder_decoder.value_or(false);
  check(!has_encoder || processor.named_tokens().eos, model_folder.string(),
        ": the tokenizer names no eos_token, with which completions end; name it in tokenizer_config.json");
  check(!truncation_of(script).parts || processor.named_tokens().eos, model_folder.string(),
        ": the tokenizer names no eos_token, with which max_prompt_length, max_completion_length and truncation_mode "
        "end completions; name it in tokenizer_config.json, or leave these options out");
  const std::string& train = script.dataset_train_split;
  LoadedRows out;
  const auto parts = for_run(script, pairs_for, row_files(script, train, note));
  for (const RowFiles& part : parts)
    for (const fs::path& file : part.files) out.files[file.string()] = script.dataset_streaming;
  if (script.dataset_streaming) {
    for (const RowFiles& part : parts)
      for (const std::string& line : part.notes) note(train + ": " + line);
    using Stream = ExampleStream<Tokenizer, ChatTemplate>;
    struct Source {
      decltype(processor.encoder()) encoder;
      std::shared_ptr<Stream> pass = nullptr;
    };
    const auto source = std::make_shared<Source>(row_encoder(script, processor));
    const auto cut = has_encoder ? std::optional(separate_truncation(script, processor)) : std::nullopt;
    out.stream = RowStream{[source, parts, name = rows_name(script, parts), options = encode_options(script), cut] {
      source->pass = std::make_shared<Stream>(parts, name, source->encoder, options);
      return std::function([source, pass = source->pass, cut] {
        std::vector<Example> rows = pass->next();
        if (cut) (*cut)(rows);
        return rows;
      });
    }};
    out.stream->file = [source](std::size_t row) { return source->pass->file(row); };
  } else {
    out.train = load_split(script, train, parts, model_folder, processor, note);
  }
  if (script.test_split_size) {
    auto [held_out, others] =
        split_rows(std::move(out.train), *script.test_split_size, static_cast<std::uint64_t>(args.train.seed), paired);
    note(concat("test_split_size: ", held_out.size(), " rows held out, ", others.size(), " to train on"));
    out.train = std::move(others);
    out.evaluation.emplace_back("", std::move(held_out));
  } else if (evaluates) {
    const auto load = [&](const std::string& name, const std::string& called, const std::vector<RowFiles>& files) {
      out.evaluation.emplace_back(
          name, load_split(script, called, for_run(script, pairs_for, files), model_folder, processor, note));
    };
    if (script.eval_datasets.empty())
      load("", script.dataset_test_split, row_files(script, script.dataset_test_split, note));
    for (const auto& [name, where] : script.eval_datasets.items())
      load(name, name, evaluation_files(script, name, where, note));
  }
  return out;
}

}  // namespace kto::cli
