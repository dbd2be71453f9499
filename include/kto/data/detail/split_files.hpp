// SPDX-License-Identifier: Apache-2.0
// Which files of a folder belong to a split, by the rules of Hugging Face's datasets (datasets/data_files.py), in the
// same order. Unlike there, a file belongs to one split only, the one named last: train_test.csv is not also in train.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kto/data/detail/data_formats.hpp"
#include "kto/data/detail/file_patterns.hpp"

namespace kto::detail {

/// A word in the name of a file or folder, and the split it stands for.
struct SplitWord {
  std::string_view word, split;
};
inline constexpr std::array<SplitWord, 10> split_words{{{"train", "train"},
                                                        {"training", "train"},
                                                        {"validation", "validation"},
                                                        {"valid", "validation"},
                                                        {"dev", "validation"},
                                                        {"val", "validation"},
                                                        {"test", "test"},
                                                        {"testing", "test"},
                                                        {"eval", "test"},
                                                        {"evaluation", "test"}}};

/// A word found in a name.
struct WordPlace {
  std::size_t word = 0;    ///< index into the list of words
  bool is_inner = false;   ///< something precedes it
  bool is_longer = false;  ///< something follows it
  std::size_t begin = 0;
};

/// The last occurrence in `name` of one of `words`, delimited by "-._ 0123456789" or the ends of the name.
inline std::optional<WordPlace> last_word(std::string_view name, const std::vector<SplitWord>& words) {
  const auto is_free = [&](std::size_t at) { return std::string_view("-._ 0123456789").find(name[at]) < SIZE_MAX; };
  std::optional<WordPlace> found;
  for (std::size_t w = 0; w < words.size(); ++w)
    for (auto at = name.find(words[w].word); at != std::string_view::npos; at = name.find(words[w].word, at + 1)) {
      const std::size_t end = at + words[w].word.size();
      if ((at > 0 && !is_free(at - 1)) || (end < name.size() && !is_free(end))) continue;
      if (!found || found->begin < at)
        found = {.word = w, .is_inner = at > 0, .is_longer = end < name.size(), .begin = at};
    }
  return found;
}

/// The NAME in a file name like NAME-00000-of-00001.parquet, a shard of the split NAME; empty for other files.
inline std::optional<std::string> shard_name(const fs::path& file) {
  constexpr std::string_view form = "-00000-of-00000";
  const std::string name = file.filename().string();
  const auto fits = [](char want, char is) { return want == '0' ? is >= '0' && is <= '9' : is == want; };
  for (std::size_t at = name.size(); at-- > 1;)
    if (name.size() - at >= form.size() &&
        std::equal(form.begin(), form.end(), name.begin() + std::ptrdiff_t(at), fits))
      return name.substr(0, at);
  return {};
}

/// The data files in a folder and its subfolders, by split.
class SplitFiles {
 public:
  explicit SplitFiles(const fs::path& folder) : folder_(folder), data_(folder / "data") {
    const auto add = [&](const fs::path& inner) {
      for (const fs::directory_entry& entry : entries_of(inner)) {
        std::error_code none;
        const fs::path& file = entry.path();
        if (!entry.is_directory(none) && !is_special(entry) && !is_about_data(file) && is_data_file(file))
          files_.push_back(file);
      }
    };
    visit_folders(folder_, add);
    std::error_code none;
    if (fs::is_symlink(data_, none) && fs::is_directory(data_, none)) visit_folders(data_, add);
    std::ranges::sort(files_, {}, &fs::path::native);
  }

  /// All data files, sorted, including those with a problem_of.
  const std::vector<fs::path>& all() const { return files_; }

  /// The files of `split` by the first rule that finds any: shards data/SPLIT-00000-of-00001.*; files in a folder with
  /// a word for the split in its name; other files with such a word in their own name. If there are neither shards nor
  /// words anywhere, all files are train.
  std::vector<fs::path> of(std::string_view split) const {
    std::vector<SplitWord> words(split_words.begin(), split_words.end());
    if (std::ranges::find(words, split, &SplitWord::split) == words.end()) words = {{split, split}};
    std::vector<fs::path> out;
    for (const fs::path& file : files_)
      if (is_shard(file) && shard_name(file) == split) out.push_back(file);
    if (out.empty()) out = by_place(split, words, [&](const fs::path& file) { return folder_word(file, words); });
    if (out.empty()) out = by_place(split, words, [&](const fs::path& file) { return file_word(file, words); });
    if (out.empty() && split == "train" && splits().empty()) out = files_;
    return out;
  }

  /// Splits that the names of files and folders imply.
  std::set<std::string> splits() const {
    const std::vector<SplitWord> words(split_words.begin(), split_words.end());
    std::set<std::string> out;
    for (const fs::path& file : files_) {
      const auto shard = shard_name(file);
      const auto in_folder = folder_word(file, words), in_name = last_word(shard.value_or(file.filename()), words);
      if (shard && (is_shard(file) || in_name))
        out.insert(*shard);
      else if (in_folder || in_name)
        out.emplace(words[(in_folder ? in_folder : in_name)->word].split);
    }
    return out;
  }

 private:
  bool is_shard(const fs::path& file) const { return file.parent_path() == data_ && shard_name(file); }

  /// The word in the innermost folder that has one.
  std::optional<WordPlace> folder_word(const fs::path& file, const std::vector<SplitWord>& words) const {
    std::optional<WordPlace> found;
    for (const fs::path& part : file.parent_path().lexically_relative(folder_))
      if (const auto here = last_word(part.native(), words)) found = here;
    return found;
  }

  /// The word in a file's own name. A shard's name must end with the word: train_prefs-00000-of-00001.parquet is not in
  /// train. Skips files in the folder of a split, and shards in data/, which belong to the split they name.
  std::optional<WordPlace> file_word(const fs::path& file, const std::vector<SplitWord>& words) const {
    if (is_shard(file) || folder_word(file, {split_words.begin(), split_words.end()})) return {};
    const auto shard = shard_name(file);
    auto found = last_word(shard.value_or(file.filename()), words);
    if (shard && found && found->is_longer) return {};
    if (found) found->is_longer = false;  // only its ending follows, as with every file
    return found;
  }

  /// Files whose word stands for `split`, in the order of datasets: by word, by its position, by path.
  template <class WordOf>
  std::vector<fs::path> by_place(std::string_view split, const std::vector<SplitWord>& words,
                                 const WordOf& word_of) const {
    std::vector<std::tuple<std::size_t, bool, bool, std::string>> found;
    for (const fs::path& file : files_)
      if (const auto at = word_of(file); at && words[at->word].split == split)
        found.emplace_back(at->word, at->is_inner, at->is_longer, file);
    std::ranges::sort(found);
    std::vector<fs::path> out;
    out.reserve(found.size());
    for (const auto& [word, is_inner, is_longer, file] : found) out.emplace_back(file);
    return out;
  }

  fs::path folder_, data_;
  std::vector<fs::path> files_;  ///< sorted
};

}  // namespace kto::detail
