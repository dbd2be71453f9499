// SPDX-License-Identifier: Apache-2.0
// Which files of a repository a program reads: weights in safetensors alone, the tokenizer's files, and of a data set
// those that its README.md or their names give to a split.
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/data/files.hpp"
#include "kto/data/rows.hpp"
#include "kto/hub/repository.hpp"
#include "kto/text/tokenizer_config.hpp"

namespace kto::hub {

using Paths = std::set<std::string>;  ///< of files, relative to the repository

/// What is read of a repository, in two steps: some small files decide which others are needed.
struct Wanted {
  std::function<bool(const std::string& path)> decides;  ///< whether a file is one of those
  /// Those of `all` that are needed, given a folder with the files that decide. Throws Error if `all` cannot be used.
  std::function<Paths(const Paths& all, const fs::path& folder)> choose;
  bool is_data = false;  ///< which files there are decides what is read
  /// Throws Error if this program could not read a file of that name. Asked before it is downloaded.
  std::function<void(const std::string& path)> check_readable = [](const std::string&) {};
};

namespace detail {

/// Adds the files of the tokenizer and the configs beside it.
inline void add_small_files(const Paths& all, Paths& out) {
  for (const char* name : tokenizer_file_names) out.insert(name);
  for (const char* name : {"config.json", "generation_config.json", "adapter_config.json"}) out.insert(name);
  for (const std::string& path : all)
    if (path.starts_with("additional_chat_templates/") && path.ends_with(".jinja")) out.insert(path);
  std::erase_if(out, [&](const std::string& path) { return !all.contains(path); });
}

/// Throws Error unless some of the `files` are a tokenizer's.
inline void check_tokenizer(const Paths& files) {
  const auto is_its = [](const std::string& path) {
    return std::ranges::find(tokenizer_file_names, path) != tokenizer_file_names.end() &&
           !path.starts_with("chat_template") && !path.ends_with("processor_config.json");
  };
  check(std::ranges::any_of(files, is_its), "it has no tokenizer");
}

/// Whether the file is the index of weights in shards.
inline bool is_index(const std::string& path) { return path.ends_with("model.safetensors.index.json"); }

/// Adds the weights `stem`.safetensors, or the shards that an index lists.
inline void add_weights(const Paths& all, const fs::path& folder, const std::string& stem, Paths& out) {
  const std::string single = stem + ".safetensors", index = single + ".index.json";
  if (all.contains(single)) {
    out.insert(single);
    return;
  }
  const bool is_pickled = std::ranges::any_of(all, [](const std::string& path) { return path.ends_with(".bin"); });
  check(all.contains(index), "it has no ", single,
        is_pickled ? ", only weights that are pickled, which are not read" : "");
  out.insert(index);
  const Json map = read_json(folder / index);
  check(map.is_object() && map.contains("weight_map") && map["weight_map"].is_object(), index,
        ": has no \"weight_map\" {tensor: file}");
  for (const auto& [tensor, shard] : map["weight_map"].items()) {
    check(shard.is_string() && is_plain_path(shard.get_ref<const std::string&>()), index, ": the file of \"", tensor,
          "\" is no file name");
    out.insert(shard.get<std::string>());
  }
}

}  // namespace detail

/// The files of a model, or of an adapter where that is all there is. `needs_tokenizer`: a model without one is an error,
/// and in the cache one that has only been downloaded in part.
inline Wanted model_files(bool needs_tokenizer = false) {
  return {.decides = detail::is_index, .choose = [needs_tokenizer](const Paths& all, const fs::path& folder) {
            const bool is_model = all.contains("config.json"), is_adapter = all.contains("adapter_config.json");
            check(is_model || is_adapter, "it has no config.json, which a model in transformers' format has");
            Paths out;
            detail::add_small_files(all, out);
            if (is_model && needs_tokenizer) detail::check_tokenizer(out);
            detail::add_weights(all, folder, is_model ? "model" : "adapter_model", out);
            return out;
          }};
}

/// The files of a model's tokenizer, without weights.
inline Wanted tokenizer_only() {
  return {.decides = [](const std::string&) { return false; },
          .choose =
              [](const Paths& all, const fs::path&) {
                Paths out;
                detail::add_small_files(all, out);
                detail::check_tokenizer(out);
                return out;
              }};
}

/// The files of a PEFT adapter, and of those that lie in folders beside it and are among `names`.
inline Wanted adapter_files(const std::vector<std::string>& names) {
  return {.decides = detail::is_index, .choose = [names](const Paths& all, const fs::path& folder) {
            Paths out;
            detail::add_small_files(all, out);
            if (all.contains("adapter_config.json")) detail::add_weights(all, folder, "adapter_model", out);
            for (const std::string& name : names)
              if (all.contains(name + "/adapter_config.json")) {
                out.insert(name + "/adapter_config.json");
                detail::add_weights(all, folder, name + "/adapter_model", out);
              }
            const auto is_adapter = [](const std::string& path) { return path.ends_with("adapter_config.json"); };
            check(std::ranges::any_of(out, is_adapter), "it has no adapter_config.json, which a PEFT adapter has");
            return out;
          }};
}

namespace detail {

/// A folder with files of the names in `all`: copies of `source(name)`, or empty where that is. It is gone with this
/// object.
class Shadow {
 public:
  Shadow(const Paths& all, const std::function<fs::path(const std::string&)>& source) {
    std::string name = (fs::temp_directory_path() / "kto-hub-XXXXXX").string();
    check(::mkdtemp(name.data()) != nullptr, name, ": cannot be created: ", std::strerror(errno));
    path_ = name;
    for (const std::string& path : all) {
      fs::create_directories((path_ / path).parent_path());
      if (const fs::path content = source(path); content.empty())
        FileHandle(path_ / path, O_WRONLY | O_CREAT);
      else
        fs::copy_file(content, path_ / path);
    }
  }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;
  ~Shadow() {
    std::error_code none;
    fs::remove_all(path_, none);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace detail

/// The files of the splits that `source` names of a data set: see data_files.
inline Wanted dataset_files(const DataSource& source) {
  const auto decides = [](const std::string& path) {
    const std::string name = fs::path(path).filename().string();
    return path == "README.md" || path == ".huggingface.yaml" || name == "dataset_dict.json" || name == "state.json" ||
           name == "dataset_info.json";
  };
  return {.decides = decides,
          .choose =
              [source, decides](const Paths& all, const fs::path& folder) {
                // On files of these names, empty but for those that decide, the rules choose as on the downloaded ones.
                const detail::Shadow shadow(
                    all, [&](const std::string& path) { return decides(path) ? folder / path : fs::path(); });
                const std::string root = shadow.path().string();
                DataSource at = source;
                at.path = shadow.path();
                Paths out;
                for (const std::string& path : all)
                  if (decides(path)) out.insert(path);
                try {
                  for (const auto& slice : kto::detail::parse_split(source.split)) {
                    at.split = slice.split;
                    for (const fs::path& file : data_files(at).files) {
                      const std::string path = file.lexically_normal().lexically_relative(shadow.path()).string();
                      check(is_plain_path(path), path, ": is outside of the repository");
                      out.insert(path);
                    }
                  }
                } catch (const Error& error) {  // which names the shadow's files
                  std::string text = error.what();
                  for (std::size_t found; (found = text.find(root)) != std::string::npos;)
                    text.erase(found, root.size() + (text.substr(found + root.size()).starts_with('/') ? 1 : 0));
                  while (text.starts_with(':') || text.starts_with(' ')) text.erase(0, 1);
                  fail(text);
                }
                return out;
              },
          .is_data = source.data_files.empty(),
          .check_readable =
              [](const std::string& path) {
                if (const auto format = kto::detail::format_of(path)) kto::detail::check_reads(path, *format);
              }};
}

}  // namespace kto::hub
