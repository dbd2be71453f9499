// SPDX-License-Identifier: Apache-2.0
// Shows what the trainer will see of a data set: texts, token ids and pieces of each row, prompt and completion apart.
// Needs only the tokenizer files of the model folder.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

#include "kto/data/balance.hpp"
#include "kto/data/encode.hpp"
#include "kto/data/rows.hpp"
#include "kto/data/text_model.hpp"

namespace {

using kto::Json;

struct Options {
  std::string model, data, split = "train";
  std::optional<std::int64_t> max_length;
  std::optional<std::size_t> num_rows;
  std::size_t num_threads = 0;
  bool json = false;
};

/// Colours, or nothing when the output is not a terminal or NO_COLOR is set.
struct Paint {
  bool on = false;
  std::string operator()(std::string_view code, std::string_view text) const {
    return on ? kto::concat("\x1b[", code, 'm', text, "\x1b[0m") : std::string(text);
  }
  std::string prompt(std::string_view text) const { return (*this)("36", text); }
  std::string completion(std::string_view text, bool label) const { return (*this)(label ? "32" : "31", text); }
  std::string faint(std::string_view text) const { return (*this)("2", text); }
};

/// `text` with control characters and stray bytes as \xNN, so that rows cannot steer the terminal. Line feeds and tabs
/// stay, or become \n and \t.
std::string printable(std::string_view text, bool one_line) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    const std::size_t size = kto::detail::code_point_size(text, at);
    const bool control = size == 1 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7F);
    const bool c1 = size == 2 && c == '\xC2' && static_cast<unsigned char>(text[at + 1]) < 0xA0;
    if (size > 0 && !control && !c1) {
      out += text.substr(at, size);
    } else if (c == '\n' || c == '\t') {
      out += one_line ? (c == '\n' ? "\\n" : "\\t") : std::string_view(&c, 1);
    } else {
      char escaped[8];
      for (std::size_t i = 0; i < (size > 0 ? size : 1); ++i) {
        std::snprintf(escaped, sizeof escaped, "\\x%02X", static_cast<unsigned char>(text[at + i]));
        out += escaped;
      }
    }
    at += size > 0 ? size : 1;
  }
  return out;
}

void print_indented(std::string_view text, const auto& paint) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    const bool ends = line.back() == '\n';
    std::cout << "  " << paint(printable(line.substr(0, line.size() - (ends ? 1 : 0)), false)) << '\n';
    text.remove_prefix(end);
  }
}

/// `id "piece"` for each id, in lines of about a terminal's width. Ids from `num_kept` on are faint: max_length cuts
/// them.
void print_pieces(const kto::Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, std::size_t num_kept,
                  const Paint& paint, const auto& colour) {
  constexpr std::size_t width = 110;
  std::size_t column = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::string id = std::to_string(ids[i]);
    const std::string piece = '"' + printable(tokenizer.piece_text(ids[i]), true) + '"';
    if (column > 0 && column + id.size() + piece.size() + 3 > width) {
      std::cout << '\n';
      column = 0;
    }
    std::cout << "  " << paint.faint(id) << ' ' << (i < num_kept ? colour(piece) : paint.faint(piece));
    column += id.size() + piece.size() + 3;
  }
  std::cout << '\n';
}

int run(const Options& options) {
  const kto::RowSet set = kto::read_rows(options.data, options.split);
  const kto::TextModel model(options.model);
  const auto encoder = model.encoder();
  const kto::Encoded encoded =
      kto::encode_rows(set, encoder, {.max_length = options.max_length, .num_threads = options.num_threads});
  const auto& examples = encoded.examples;
  const std::size_t num_shown = std::min(options.num_rows.value_or(examples.size()), examples.size());
  const Paint paint{!options.json && ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr};

  std::size_t next = 0;
  for (std::size_t i = 0; i < num_shown; ++i) {
    const kto::Example& example = examples[i];
    while (set.rows[next].source.number != example.row || set.rows[next].label != example.label) ++next;  // dropped
    const kto::Row& row = set.rows[next++];
    const kto::RowText text = encoder.text(row);
    const std::string prompt = text.whole.substr(0, text.completion_start());
    const std::string completion = text.whole.substr(text.completion_start());
    if (options.json) {
      const Json line{{"row", i + 1},
                      {"prompt", prompt},
                      {"completion", completion},
                      {"prompt_ids", example.prompt_ids},
                      {"completion_ids", example.completion_ids},
                      {"label", example.label}};
      std::cout << line.dump() << '\n';
      continue;
    }
    const std::size_t num_prompt = example.prompt_ids.size(), num_completion = example.completion_ids.size();
    const std::size_t limit = options.max_length ? static_cast<std::size_t>(*options.max_length) : SIZE_MAX;
    const std::size_t num_kept = std::min(num_completion, limit - num_prompt);
    const auto as_prompt = [&](std::string_view part) { return paint.prompt(part); };
    const auto as_completion = [&](std::string_view part) { return paint.completion(part, example.label); };
    std::cout << paint("1", kto::concat("row ", i + 1)) << ", " << set.where(row.source) << ", "
              << as_completion(example.label ? "desirable (chosen)" : "undesirable (rejected)") << '\n';
    std::cout << paint.faint(kto::concat("prompt, ", num_prompt, " tokens")) << '\n';
    print_indented(prompt, as_prompt);
    print_pieces(model.tokenizer, example.prompt_ids, num_prompt, paint, as_prompt);
    std::cout << paint.faint(kto::concat("completion, ", num_completion, " tokens",
                                         num_kept < num_completion ? kto::concat(", cut to ", num_kept) : ""))
              << '\n';
    print_indented(completion, as_completion);
    print_pieces(model.tokenizer, example.completion_ids, num_kept, paint, as_completion);
    std::cout << '\n';
  }
  std::cout.flush();
  kto::check(std::cout.good(), "the output cannot be written");

  std::size_t num_prompt = 0, num_completion = 0, longest = 0, long_prompts = 0;
  for (const auto& example : examples) {
    num_prompt += example.prompt_ids.size();
    num_completion += example.completion_ids.size();
    longest = std::max(longest, example.prompt_ids.size() + example.completion_ids.size());
    long_prompts += example.prompt_ids.size() >= 1024 ? 1 : 0;
  }
  const auto balance = kto::weight_balance(examples, 1, 1);
  std::ostream& out = options.json ? std::cerr : std::cout;
  for (const auto& note : set.notes) out << "note: " << note << '\n';
  for (const auto& note : encoded.notes) out << "note: " << note << '\n';
  if (!options.max_length && long_prompts > 0)
    out << "note: " << long_prompts
        << " rows have a prompt of 1024 tokens or more; the trainer drops them unless its max_length is larger\n";
  if (const auto advice = balance.advice()) out << "note: " << *advice << '\n';
  out << examples.size() << " rows (" << describe(set.kind) << "), " << balance.num_desirable << " desirable, "
      << balance.num_undesirable << " undesirable, " << encoded.num_dropped << " dropped; " << num_prompt
      << " prompt and " << num_completion << " completion tokens, longest row " << longest << '\n';
  return 0;
}

}  // namespace

int main(int argc, char* argv[]) {
  Options options;
  CLI::App app{
      "Shows what the trainer will see of a data set: rendered text, token ids and pieces of each row.\n"
      "Exit status: 0, 1 when files are missing or data is malformed, 2 when the command line is wrong."};
  app.add_option("--model_name_or_path", options.model,
                 "folder with tokenizer.json, tokenizer_config.json and the chat template")
      ->required();
  app.add_option("--dataset_name", options.data, "a .jsonl or .json file, or a folder with SPLIT*.jsonl")->required();
  app.add_option("--split,--dataset_train_split", options.split, "which split of a folder")->capture_default_str();
  app.add_option("--max_length", options.max_length,
                 "drop rows whose prompt alone has as many tokens, and show what of a "
                 "completion would be cut; without it nothing is dropped");
  app.add_option("--num_rows", options.num_rows, "show only the first rows");
  app.add_option("--dataset_num_proc", options.num_threads, "threads that encode; 0: as many as the machine has")
      ->capture_default_str();
  app.add_flag(
      "--json", options.json,
      "one JSON object a line: row (its number in the trainer's data set, after dropping), prompt, completion, "
      "prompt_ids, completion_ids (not cut), label");
  try {
    app.parse(argc, argv);
    kto::check(options.max_length.value_or(1) > 0, "--max_length: expected 1 or more, got ",
               options.max_length.value_or(1));
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "inspect_rows: " << error.what() << " (see --help)\n";
    return 2;
  }
  try {
    return run(options);
  } catch (const kto::UsageError& error) {
    std::cerr << "inspect_rows: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "inspect_rows: " << error.what() << '\n';
    return 1;
  }
}
