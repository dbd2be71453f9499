// SPDX-License-Identifier: Apache-2.0
// The output folder of a run. Whether the run may write there is decided once, with the folder locked and before
// anything is read, so a later run never replaces the files of an earlier one.
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

/// Whether this program atomically writes a file of this name into an output folder.
inline bool is_output_file(std::string_view name) {
  static constexpr std::array others{
      "config.json",       "generation_config.json", "adapter_config.json", "README.md",          "train_results.json",
      "eval_results.json", "all_results.json",       "training_args.json",  "trainer_state.json", "report.html",
      "mlflow_run.json",   "trackio_run.json",       "wandb_run.json"};
  return std::ranges::find(others, name) != others.end() ||
         std::ranges::find(tokenizer_file_names, name) != tokenizer_file_names.end() || is_weights_file(name) ||
         is_weights_file(name, "adapter_model");
}

/// Whether this is a half-written checkpoint or file of a killed run.
inline bool is_leftover(const fs::path& path) {
  const std::string name = path.filename().string();
  if (unfinished_step(name)) return is_real_folder(path);
  const auto whole = name_of_temporary(name);
  std::error_code none;
  return whole && is_output_file(*whole) && fs::is_regular_file(fs::symlink_status(path, none));
}

}  // namespace detail

/// Holds an output folder for this process: creates it if missing, locks it, and removes half-written files of killed
/// runs. Removes the folder again if it created it and it stayed empty.
class OutputFolder {
 public:
  /// Throws Error, without changing anything, if the path cannot be such a folder, another process holds it, or it is
  /// not empty (unless `may_hold_files`).
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
