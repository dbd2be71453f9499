// SPDX-License-Identifier: Apache-2.0
// Shows a data set as the trainer will see it: texts, token ids and pieces of each row, with prompt and completion
// separated. Needs only the tokenizer files of the model folder.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

#include "kto/core/terminal.hpp"
#include "kto/data/balance.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/parquet.hpp"
#include "kto/data/processor.hpp"
#include "kto/data/rows.hpp"
#include "kto/hub/locate.hpp"

namespace {

using kto::Json;

struct Options {
  std::string model, revision = "main", data, config, split = "train";
  std::optional<std::int64_t> max_length;
  std::optional<std::int64_t> num_rows;
  std::int64_t num_threads = 0;
  bool json = false;
};

/// Colours; empty if the output is not a terminal or NO_COLOR is set.
struct Paint {
  bool on = false;
  std::string operator()(std::string_view code, std::string_view text) const {
    return on ? kto::concat("\x1b[", code, 'm', text, "\x1b[0m") : std::string(text);
  }
  std::string prompt(std::string_view text) const { return (*this)("36", text); }
  std::string completion(std::string_view text, bool label) const { return (*this)(label ? "32" : "31", text); }
  std::string faint(std::string_view text) const { return (*this)("2", text); }
};

void print_indented(std::string_view text, const auto& paint) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    const bool ends = line.back() == '\n';
    std::cout << "  " << paint(kto::printable(line.substr(0, line.size() - (ends ? 1 : 0)))) << '\n';
    text.remove_prefix(end);
  }
}

/// `id "piece"` for each id, in lines of about a terminal's width. Ids from `num_kept` on are faint: max_length removes
/// them.
void print_pieces(const kto::Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, std::size_t num_kept,
                  const Paint& paint, const auto& colour) {
  constexpr std::size_t width = 110;
  std::size_t column = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string id = std::to_string(ids[i]);
    const std::string piece = '"' + kto::printable(tokenizer.piece_text(ids[i]), true) + '"';
    if (column > 0 && column + id.size() + piece.size() + 3 > width) {
      std::cout << '\n';
      column = 0;
    }
    std::cout << "  " << paint.faint(id) << ' ' << (i < num_kept ? colour(piece) : paint.faint(piece));
    column += id.size() + piece.size() + 3;
  }
  std::cout << '\n';
}

void print_json(std::size_t number, std::string_view prompt, std::string_view completion, const kto::Example& example) {
  const Json line{{"row", number},
                  {"prompt", prompt},
                  {"completion", completion},
                  {"prompt_ids", example.prompt_ids},
                  {"completion_ids", example.completion_ids},
                  {"label", example.label}};
  std::cout << line.dump() << '\n';
}

void print_row(const std::string& title, std::string_view prompt, std::string_view completion,
               const kto::Example& example, const Options& options, const kto::Tokenizer& tokenizer,
               const Paint& paint) {
  const std::size_t num_prompt = example.prompt_ids.size(), num_completion = example.completion_ids.size();
  const std::size_t limit = options.max_length ? static_cast<std::size_t>(*options.max_length) : SIZE_MAX;
  const std::size_t num_kept = std::min(num_completion, limit - num_prompt);
  const std::string cut = num_kept < num_completion ? kto::concat(", truncated to ", num_kept) : "";
  const auto as_prompt = [&](std::string_view part) { return paint.prompt(part); };
  const auto as_completion = [&](std::string_view part) { return paint.completion(part, example.label); };
  std::cout << paint("1", kto::printable(title)) << ", "
            << as_completion(example.label ? "desirable (chosen)" : "undesirable (rejected)") << '\n';
  std::cout << paint.faint(kto::concat("prompt, ", num_prompt, " tokens")) << '\n';
  print_indented(prompt, as_prompt);
  print_pieces(tokenizer, example.prompt_ids, num_prompt, paint, as_prompt);
  std::cout << paint.faint(kto::concat("completion, ", num_completion, " tokens", cut)) << '\n';
  print_indented(completion, as_completion);
  print_pieces(tokenizer, example.completion_ids, num_kept, paint, as_completion);
  std::cout << '\n';
}

/// `apart`: prompt and completion are read apart, and cut by other options than --max_length.
void print_summary(std::ostream& out, const kto::RowSet& set, const kto::Encoded& encoded, const Options& options,
                   bool apart) {
  constexpr std::size_t default_max_length = 1024;  // the trainer's
  std::size_t num_prompt = 0, num_completion = 0, longest = 0, num_long = 0;
  for (const auto& example : encoded.examples) {
    num_prompt += example.prompt_ids.size();
    num_completion += example.completion_ids.size();
    longest = std::max(longest, example.prompt_ids.size() + example.completion_ids.size());
    num_long += example.prompt_ids.size() >= default_max_length ? 1 : 0;
  }
  const auto balance = kto::weight_balance(encoded.examples, 1, 1);
  for (const auto& note : encoded.notes) out << "note: " << kto::printable(note) << '\n';
  if (!options.max_length && !apart && num_long > 0)
    out << "note: " << num_long << " rows have a prompt of " << default_max_length
        << " tokens or more; train_kto drops them unless its --max_length is larger\n";
  if (const auto advice = balance.advice()) out << "note: " << *advice << '\n';
  out << encoded.examples.size() << ' ' << describe(set.kind) << ": " << balance.num_desirable << " desirable, "
      << balance.num_undesirable << " undesirable, " << encoded.num_dropped << " dropped; " << num_prompt
      << " prompt and " << num_completion << " completion tokens, longest row " << longest << '\n';
}

/// The encoder for the rows of the folder's model, which may have a config.json and then be an encoder-decoder.
auto row_encoder(const kto::Processor& processor, const Options& options) {
  auto out = processor.encoder();
  const kto::fs::path config = kto::fs::path(options.model) / "config.json";
  const kto::Json json = kto::fs::exists(config) ? kto::read_json(config) : kto::Json();
  if (!json.is_object() || json.value("is_encoder_decoder", kto::Json()) != true) return out;
  if (options.max_length) throw kto::UsageError("--max_length is not supported for encoder-decoder models");
  const auto eos = processor.named_tokens().eos;
  kto::check(eos.has_value(), options.model, ": the tokenizer names no eos_token, with which completions end");
  out.completion_end = eos->id;
  return out;
}

void run(Options options) {
  kto::enable_parquet();
  namespace hub = kto::hub;
  const kto::Note note = [](const std::string& text) { std::cerr << "inspect_rows: " << kto::printable(text) << '\n'; };
  options.model = hub::locate({.kind = hub::Kind::model, .id = options.model, .revision = options.revision},
                              hub::tokenizer_only(), note);
  const kto::RowSet set =
      kto::read_rows(hub::on_disk({.path = options.data, .split = options.split, .config = options.config}, note));
  const kto::Processor processor(options.model);
  const auto encoder = row_encoder(processor, options);
  const kto::Encoded encoded = kto::encode_rows(
      set, encoder, {.max_length = options.max_length, .num_threads = static_cast<std::size_t>(options.num_threads)});
  const std::size_t num_rows = encoded.examples.size();
  const std::size_t num_shown =
      options.num_rows ? std::min(static_cast<std::size_t>(*options.num_rows), num_rows) : num_rows;
  const char* no_color = std::getenv("NO_COLOR");
  const Paint paint{::isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || *no_color == '\0')};

  auto row = set.rows.begin();
  for (std::size_t i = 0; i < num_shown; ++i, ++row) {
    const kto::Example& example = encoded.examples[i];
    while (row->source.number != example.row || row->label != example.label) ++row;  // skip dropped rows
    const kto::RowText text = encoder.text(*row);
    const std::string_view whole = text.whole, prompt = whole.substr(0, text.completion_start());
    const std::string_view completion = whole.substr(prompt.size());
    if (options.json)
      print_json(i + 1, prompt, completion, example);
    else
      print_row(kto::concat("row ", i + 1, ", ", set.where(row->source)), prompt, completion, example, options,
                processor.tokenizer(), paint);
  }
  print_summary(options.json ? std::cerr : std::cout, set, encoded, options, encoder.completion_end.has_value());
  std::cout.flush();
  kto::check(std::cout.good(), "the output cannot be written (is the disk full?)");
}

/// Fills `options`, or prints the help and returns false. Throws UsageError.
bool parse_options(int argc, char** argv, Options& options) {
  CLI::App app{
      "Shows a data set as the trainer will see it: rendered text, token ids and pieces of each row.\n"
      "Exit status: 0; 1 when files are missing or data is malformed; 2 when the command line is wrong."};
  app.allow_extras();
  app.add_option("--model_name_or_path", options.model,
                 "folder with tokenizer.json, its config and chat template, or\n"
                 "the name of a model on the hub");
  app.add_option("--model_revision", options.revision, "which branch, tag or commit of a model on the hub");
  app.add_option("--dataset_name", options.data,
                 "a .jsonl, .json, .csv or .parquet file, or a folder: with\n"
                 "SPLIT*.jsonl, or a README.md that names its files; or the\n"
                 "name of a data set on the hub");
  app.add_option("--dataset_config", options.config, "a configuration named in README.md");
  app.add_option("--split,--dataset_train_split", options.split,
                 "which split of a folder, or rows of it: train[:100], train+test")
      ->capture_default_str();
  app.add_option("--max_length", options.max_length,
                 "drop rows whose prompt alone has this many tokens, and show\n"
                 "how completions are truncated; without it nothing is dropped");
  app.add_option("--num_rows", options.num_rows, "show only the first rows");
  app.add_option("--dataset_num_proc", options.num_threads, "threads for encoding; 0: as many as the machine has")
      ->capture_default_str();
  app.add_flag("--json", options.json,
               "one JSON object per line: row (its number in the trainer's\n"
               "data set, after dropping), prompt, completion, prompt_ids,\n"
               "completion_ids (not truncated), label");
  const auto expect = [](bool holds, const auto&... parts) {
    if (!holds) throw kto::UsageError(kto::concat(parts..., " (see --help)"));
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return false;
  } catch (const CLI::ParseError& error) {
    throw kto::UsageError(kto::concat(error.what(), " (see --help)"));
  }
  expect(app.remaining_size() == 0, "unknown argument ", app.remaining_size() > 0 ? app.remaining().front() : "");
  expect(!options.model.empty(), "--model_name_or_path is missing; expected a folder with tokenizer.json");
  expect(!options.data.empty(), "--dataset_name is missing; expected a .jsonl or .json file, or a folder of them");
  expect(options.max_length.value_or(1) > 0, "--max_length ", options.max_length.value_or(0), ": expected 1 or more");
  expect(options.num_rows.value_or(0) >= 0, "--num_rows ", options.num_rows.value_or(0), ": expected 0 or more");
  expect(options.num_threads >= 0, "--dataset_num_proc ", options.num_threads, ": expected 0 or more");
  return true;
}

}  // namespace

int main(int argc, char* argv[]) {
  try {
    Options options;
    if (parse_options(argc, argv, options)) run(options);
    return 0;
  } catch (const std::exception& error) {
    return kto::report_error("inspect_rows", error);
  }
}
