// SPDX-License-Identifier: Apache-2.0
// A checkpoint on disk: a folder checkpoint-N that is complete or absent. It is written under another name, flushed and
// renamed. Its kto_checkpoint.json lists every file with size and hash, so that damage is detected before use.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kto/io/checkpoint.hpp"
#include "kto/io/content_hash.hpp"
#include "kto/io/state.hpp"
#include "kto/train/checkpoint/names.hpp"

namespace kto {

namespace detail {

/// Whether `path` is a folder itself, not a link to one.
inline bool is_real_folder(const fs::path& path) {
  std::error_code none;
  return fs::is_directory(fs::symlink_status(path, none));
}

/// Removes a folder whose name matches unfinished_step; anything else of that name is not ours. A folder that cannot be
/// removed stays: nothing reads it, and the next run tries again.
inline void remove_unfinished(const fs::path& path) {
  std::error_code stays;
  if (is_real_folder(path)) fs::remove_all(path, stays);
}

inline void sync_folder(const fs::path& folder) {
  const FileHandle handle(folder, O_RDONLY | O_DIRECTORY);
  ::fsync(handle.get());  // some file systems cannot
}

inline std::string file_hash(const fs::path& path) {
  ContentHash hash;
  hash.add(FileReader(path));
  return hash.hex();
}

inline std::string text_hash(const std::string& text) {
  ContentHash hash;
  hash.add(std::string_view(text));
  return hash.hex();
}

/// {name: {size, hash}} of all files under `folder`, sorted by name.
inline Json file_list(const fs::path& folder) {
  std::map<std::string, Json> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != checkpoint_manifest)
      files[fs::relative(entry.path(), folder).generic_string()] = {{"size", entry.file_size()},
                                                                    {"hash", file_hash(entry.path())}};
  Json out = Json::object();
  for (auto& [name, file] : files) out[name] = std::move(file);
  return out;
}

/// Renames a complete folder to its final name, and removes an existing one.
inline void put_in_place(const fs::path& unfinished, const fs::path& folder) {
  if (fs::exists(folder)) {
#if defined(RENAME_EXCHANGE)
    if (::renameat2(AT_FDCWD, unfinished.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) {
      sync_folder(folder.parent_path());
      std::error_code stays;              // the next run removes it
      fs::remove_all(unfinished, stays);  // may be a link now
      return;
    }
#endif
    const fs::path old = concat(unfinished.string(), replaced_suffix);
    remove_unfinished(old);
    fs::rename(folder, old);
    fs::rename(unfinished, folder);
    fs::remove_all(old);
  } else if (::rename(unfinished.c_str(), folder.c_str()) != 0) {
    fail(folder.string(), ": cannot be written: ", std::strerror(errno));
  }
  sync_folder(folder.parent_path());
}

}  // namespace detail

/// Whether `folder` is a checkpoint of this program, that is, has its manifest. Checkpoints of other programs, which
/// have the same names, are never read, replaced or removed.
inline bool is_own_checkpoint(const fs::path& folder) {
  std::error_code none;
  return fs::is_regular_file(folder / checkpoint_manifest, none);
}

/// Everything named like a checkpoint in `output_dir`, as steps and paths, oldest first: this program's, or those of
/// others.
inline std::map<std::int64_t, fs::path> list_checkpoints(const fs::path& output_dir, bool own = true) {
  std::map<std::int64_t, fs::path> out;
  if (fs::is_directory(output_dir))
    for (const auto& entry : fs::directory_iterator(output_dir))
      if (const auto step = detail::checkpoint_step(entry.path().filename().string());
          step && is_own_checkpoint(entry.path()) == own)
        out[*step] = entry.path();
  return out;
}

/// Throws Error if something other than our own checkpoint is in the place of a future checkpoint.
inline void check_checkpoint_place(const fs::path& folder) {
  std::error_code none;
  check(!fs::exists(fs::symlink_status(folder, none)) || is_own_checkpoint(folder), folder.string(),
        ": is in the way of a checkpoint of this run, and was not written by this program (it has no ",
        checkpoint_manifest, "); move it away, or choose another output_dir");
}

/// Removes a checkpoint atomically: a part of it never has its name.
inline void remove_checkpoint(const fs::path& folder) {
  const auto step = detail::checkpoint_step(folder.filename().string());
  check(step && is_own_checkpoint(folder), folder.string(), ": is not a checkpoint of this program");
  const fs::path doomed = folder.parent_path() / concat(detail::unfinished_prefix, *step, detail::removed_suffix);
  detail::remove_unfinished(doomed);
  fs::rename(folder, doomed);
  fs::remove_all(doomed);  // may be a link
}

/// Removes half-written and half-removed checkpoints of killed programs. A checkpoint that was about to be replaced
/// gets its name back.
inline void remove_unfinished_checkpoints(const fs::path& output_dir) {
  std::map<fs::path, std::int64_t> found;
  for (const auto& entry : fs::directory_iterator(output_dir))
    if (const auto step = detail::unfinished_step(entry.path().filename().string())) found[entry.path()] = *step;
  for (const auto& [path, step] : found) {
    const fs::path folder = output_dir / concat(detail::checkpoint_prefix, step);
    const bool was_replaced = path.native().ends_with(detail::replaced_suffix) && is_own_checkpoint(path);
    if (was_replaced && !fs::exists(fs::symlink_status(folder)))
      fs::rename(path, folder);
    else
      detail::remove_unfinished(path);
  }
}

/// The oldest checkpoints, to be removed so that `limit` remain; never those at the steps `kept`.
inline std::vector<fs::path> checkpoints_over(const fs::path& output_dir, std::int64_t limit,
                                              const std::set<std::int64_t>& kept) {
  const auto checkpoints = list_checkpoints(output_dir);
  std::vector<fs::path> out;
  for (const auto& [step, folder] : checkpoints)
    if (std::ssize(checkpoints) - std::ssize(out) > limit && !kept.contains(step)) out.push_back(folder);
  return out;
}

/// The content of a checkpoint.
struct CheckpointContent {
  /// Writes the model into the folder.
  std::function<void(const fs::path& folder)> save_model;
  std::map<std::string, std::string> texts;  ///< file name: content
  std::map<std::string, SavedState> states;  ///< of the optimizer and so on; empty if only the model is saved
  Json manifest = Json::object();            ///< further entries of the manifest
};

/// Writes `output_dir`/checkpoint-`step` atomically. On failure throws Error and leaves existing files unchanged.
inline fs::path write_checkpoint_folder(const fs::path& output_dir, std::int64_t step, CheckpointContent content) {
  const fs::path folder = output_dir / concat(detail::checkpoint_prefix, step);
  const fs::path unfinished = output_dir / concat(detail::unfinished_prefix, step);
  try {
    check(fs::is_directory(output_dir), output_dir.string(), ": is no longer a folder");
    check_checkpoint_place(folder);
    detail::remove_unfinished(unfinished);
    fs::create_directory(unfinished);
    content.save_model(unfinished);
    Json values = Json::object();
    for (auto& [part, state] : content.states) {
      if (!state.tensors.empty())
        save_safetensors(unfinished / (part + ".safetensors"), state.tensors, {{"format", "pt"}}, state.fetch);
      values[part] = state.values;
    }
    for (const auto& [name, text] : content.texts) write_file(unfinished / name, text);
    Json manifest = {{"format", checkpoint_format}};
    manifest.update(content.manifest);
    manifest["values"] = std::move(values);
    manifest["files"] = detail::file_list(unfinished);
    manifest["checksum"] = detail::text_hash(manifest.dump());
    write_file(unfinished / checkpoint_manifest, manifest.dump(2) + "\n");
    detail::put_in_place(unfinished, folder);
  } catch (const std::exception& error) {
    std::error_code ignored;
    if (detail::is_real_folder(unfinished)) fs::remove_all(unfinished, ignored);
    fail(folder.string(), ": the checkpoint could not be saved: ", error_text(error),
         "; checkpoints saved earlier are untouched");
  }
  return folder;
}

/// A verified checkpoint.
struct CheckpointFolder {
  fs::path path;  ///< the checkpoint's own folder
  Json manifest;  ///< what kto_checkpoint.json says

  /// Whether the checkpoint includes the file `name`.
  bool has(const std::string& name) const { return manifest.at("files").contains(name); }

  /// The state that a StateWriter wrote under `part`.
  SavedState state(const std::string& part) const {
    SavedState out;
    const std::string stored = part + ".safetensors";
    if (has(stored)) out.file.emplace(path / stored);
    const Json& values = manifest.at("values");
    if (values.contains(part)) out.values = values.at(part);
    check(out.values.is_object(), path.string(), ": ", checkpoint_manifest, ": the values of ", part,
          " are not an object");
    return out;
  }
};

/// Opens a checkpoint and verifies all its files. Throws Error if the folder is not a checkpoint, is damaged, has a
/// name that contradicts its step, or has extra weights that would be read as its own.
inline CheckpointFolder verified_checkpoint(const fs::path& folder) {
  check(fs::is_directory(folder), folder.string(), ": is not a folder; expected a checkpoint-N to resume from");
  const fs::path file = folder / checkpoint_manifest;
  check(fs::exists(file), folder.string(), ": has no ", checkpoint_manifest,
        ", so it is not a checkpoint of this program; to start a new run from a model folder, use "
        "--model_name_or_path");
  Json manifest = read_json(file);
  const auto damaged = [&](const auto&... what) {
    fail(what..., "; the checkpoint cannot be used: delete it, or resume from an earlier one");
  };
  const auto is_object = [&](const char* key) { return !manifest.contains(key) || manifest[key].is_object(); };
  if (!manifest.is_object() || !manifest.contains("checksum") || !manifest.contains("files") || !is_object("files") ||
      !is_object("values"))
    damaged(file.string(), ": is damaged");
  if (!manifest.contains("format") || manifest["format"] != checkpoint_format)
    damaged(file.string(), ": has the format ", manifest.value("format", Json()).dump(), ", expected \"",
            checkpoint_format, '"');
  Json content = manifest;
  content.erase("checksum");
  if (manifest["checksum"] != detail::text_hash(content.dump())) damaged(file.string(), ": is damaged");
  for (const auto& [name, want] : manifest["files"].items()) {
    const fs::path path = folder / name;
    if (!want.is_object() || !want.contains("size") || !want.contains("hash"))
      damaged(file.string(), ": is damaged: it has no size and hash of ", name);
    if (!fs::is_regular_file(path)) damaged(path.string(), ": is missing");
    if (const auto size = fs::file_size(path); Json(size) != want["size"])
      damaged(path.string(), ": has ", size, " bytes, but had ", want["size"].dump(), " when it was saved");
    if (Json(detail::file_hash(path)) != want["hash"]) damaged(path.string(), ": is damaged");
  }
  if (const auto named = detail::checkpoint_step((folder / "").parent_path().filename().string())) {
    const auto step = json_value<std::int64_t>(manifest, "global_step", *named, file.string());
    check(step == *named, folder.string(), ": holds the checkpoint of step ", step,
          "; restore the folder's original name, or use a new one");
  }
  CheckpointFolder out{folder, std::move(manifest)};
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool is_read = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    check(!is_read || out.has(name), entry.path().string(), ": was not saved with this checkpoint (",
          checkpoint_manifest, " does not list it), but would be read as its weights; remove the file");
  }
  return out;
}

/// Opens a checkpoint to resume from. Also throws Error if it holds only the model.
inline CheckpointFolder open_checkpoint(const fs::path& folder) {
  CheckpointFolder out = verified_checkpoint(folder);
  check(out.manifest.contains("values") && !out.manifest["values"].empty(), folder.string(),
        ": holds only the model (save_only_model): it can start a new run as --model_name_or_path, but there is "
        "nothing to resume");
  return out;
}

}  // namespace kto
