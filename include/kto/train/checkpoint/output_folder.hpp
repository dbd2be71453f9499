// SPDX-License-Identifier: Apache-2.0
// The folder that a run writes to. Whether it may is decided once, with the folder locked and before anything is read,
// so that of two runs the later one never replaces what the earlier one made.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kto/io/folder.hpp"
#include "kto/io/folder_lock.hpp"
#include "kto/text/tokenizer_config.hpp"
#include "kto/train/checkpoint/folder.hpp"

namespace kto {

namespace detail {

/// Whether this program writes a file of this name, whole or not at all, into an output folder.
inline bool is_output_file(std::string_view name) {
  static constexpr std::array others{"config.json",      "generation_config.json", "adapter_config.json",
                                     "README.md",        "train_results.json",     "eval_results.json",
                                     "all_results.json", "training_args.json",     "trainer_state.json"};
  return std::ranges::find(others, name) != others.end() ||
         std::ranges::find(tokenizer_file_names, name) != tokenizer_file_names.end() || is_weights_file(name) ||
         is_weights_file(name, "adapter_model");
}

/// Whether a killed run left this half-written in its output folder: not a checkpoint yet, or not a file yet.
inline bool is_leftover(const fs::path& path) {
  const std::string name = path.filename().string();
  if (unfinished_step(name)) return is_real_folder(path);
  const auto whole = name_of_temporary(name);
  std::error_code none;
  return whole && is_output_file(*whole) && fs::is_regular_file(fs::symlink_status(path, none));
}

}  // namespace detail

/// Holds an output folder for this process: makes it if it is missing, locks it, and removes what a killed run left
/// half-written. A folder that it made and that stays empty is removed again.
class OutputFolder {
 public:
  /// Throws Error when the path cannot be such a folder, when another process holds it, and, unless `may_hold_files`,
  /// when there is something in it. Nothing is changed then.
  OutputFolder(const fs::path& path, bool may_hold_files) {
    check_folder(path, "output_dir");
    made_ = make_folder(path);
    try {
      lock_ = lock_folder(path);
      for (const auto& entry : fs::directory_iterator(path))
        check(may_hold_files || detail::is_leftover(entry.path()), path.string(),
              ": exists and is not empty; choose another --output_dir, add --overwrite_output_dir, or "
              "--resume_from_checkpoint True");
      remove_unfinished_checkpoints(path);
      remove_stale_temporaries(path, detail::is_output_file);
    } catch (...) {
      remove_empty();
      throw;
    }
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() { remove_empty(); }

 private:
  void remove_empty() const {
    for (const fs::path& folder : made_)
      if (::rmdir(folder.c_str()) != 0) return;
  }

  std::vector<fs::path> made_;
  std::shared_ptr<FolderLock> lock_;
};

}  // namespace kto
