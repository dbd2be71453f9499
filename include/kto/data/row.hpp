// SPDX-License-Identifier: Apache-2.0
// Rows for the trainer: a prompt, a completion, and whether it is desirable. And pairs, which become two rows.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/json.hpp"

namespace kto {

/// The layout of a data set's rows, by their columns. All rows of a data set have the same layout.
enum class RowFormat {
  Unpaired,        ///< prompt, completion, label
  Paired,          ///< prompt, chosen, rejected
  ImplicitPrompt,  ///< chosen, rejected; the prompt is their common beginning
  Tokenized,       ///< completion_input_ids, completion_labels, label: ids instead of text
};

/// Whether each row has two completions.
inline bool is_paired(RowFormat format) { return format == RowFormat::Paired || format == RowFormat::ImplicitPrompt; }

/// What the rows of a data set look like.
struct RowKind {
  RowFormat format = RowFormat::Unpaired;  ///< which columns the rows have
  bool conversational = false;             ///< lists of messages, for a chat template; otherwise plain strings
  friend bool operator==(const RowKind&, const RowKind&) = default;
};

/// "conversational rows (prompt, completion, label)"
inline std::string describe(RowKind kind) {
  if (kind.format == RowFormat::Tokenized) return "tokenized rows (completion_input_ids, completion_labels, label)";
  const std::string_view columns = kind.format == RowFormat::Unpaired ? "prompt, completion, label"
                                   : kind.format == RowFormat::Paired ? "prompt, chosen, rejected"
                                                                      : "chosen, rejected with the prompt in both";
  return concat(kind.conversational ? "conversational" : "plain text", " rows (", columns, ")");
}

/// Where a row comes from.
struct RowSource {
  std::size_t number = 0;  ///< from 1, over all files of the data set; both rows of a pair have the same
  std::size_t file = 0;    ///< index into RowSet::files
  std::size_t line = 0;    ///< from 1, in that file
};

/// Everything in a row except completions. `tools` is null or an array of JSON schemas, `chat_template_kwargs` an
/// object of variables for the chat template.
struct RowContext {
  Json prompt;                                 ///< a string, an array of messages, or of token ids
  bool tokenized = false;                      ///< ids, not text
  Json tools;                                  ///< null, or an array of JSON schemas
  Json chat_template_kwargs = Json::object();  ///< variables for the chat template
  RowSource source;                            ///< file and line
};

/// A row for training.
struct Row : RowContext {
  Json completion;    ///< likewise
  bool label = true;  ///< desirable (chosen) or not
};

/// A pair, as in the file.
struct Pair : RowContext {
  Json chosen;    ///< completion, as in Row
  Json rejected;  ///< likewise
};

/// A data set in the trainer's order.
struct RowSet {
  std::vector<Row> rows;           ///< in the trainer's order: both rows of a pair together
  RowKind kind;                    ///< of all of its rows
  std::vector<std::string> files;  ///< that RowSource::file counts
  std::vector<std::string> notes;  ///< messages for the user

  /// "data/train.jsonl: line 3"
  std::string where(const RowSource& source) const { return concat(files[source.file], ": line ", source.line); }
};

}  // namespace kto
