// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share. A target reads the bytes as one kind of file from outside and uses what it got.
// kto::Error is the answer to bad input; every other exception, a crash, a hang and a report of a sanitizer is a bug.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string_view>

namespace fuzz {

using Target = void (*)(std::string_view bytes);

void adapter_config(std::string_view bytes);
void chat_template(std::string_view bytes);
void checkpoint(std::string_view bytes);
void compressed(std::string_view bytes);
void csv(std::string_view bytes);
void csv_columns(std::string_view bytes);
void dataset_card(std::string_view bytes);
void lora_patterns(std::string_view bytes);
void model_config(std::string_view bytes);
void optimizer_state(std::string_view bytes);
void reference_cache(std::string_view bytes);
void rows(std::string_view bytes);
void safetensors(std::string_view bytes);
void special_tokens(std::string_view bytes);
void sentence_piece(std::string_view bytes);
void tokenizer_config(std::string_view bytes);
void tokenizer_json(std::string_view bytes);
void trainer_state(std::string_view bytes);
void weights_index(std::string_view bytes);
void yaml_config(std::string_view bytes);

/// A folder of this process's own, removed at its end.
inline const std::filesystem::path& folder() {
  static const struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("kto_fuzz_" + std::to_string(static_cast<long>(::getpid())));
    Folder() { std::filesystem::create_directories(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } made;
  return made.path;
}

/// Writes a file of that name into folder(), and returns its path.
inline std::filesystem::path file(const char* name, std::string_view bytes) {
  const std::filesystem::path path = folder() / name;
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace fuzz
