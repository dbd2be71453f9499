// SPDX-License-Identifier: Apache-2.0
// The libFuzzer program: `fuzz --target=NAME [libFuzzer's flags] [corpus folders]`.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "fuzz.hpp"
#include "kto/core/error.hpp"

namespace {
fuzz::Target target = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const std::map<std::string, fuzz::Target> targets{
#ifdef KTO_FUZZ_TORCH
      {"checkpoint", fuzz::checkpoint},           {"optimizer_state", fuzz::optimizer_state},
      {"reference_cache", fuzz::reference_cache}, {"safetensors", fuzz::safetensors},
      {"trainer_state", fuzz::trainer_state},     {"weights_index", fuzz::weights_index},
#else
      {"adapter_config", fuzz::adapter_config},
      {"chat_template", fuzz::chat_template},
      {"compressed", fuzz::compressed},
      {"csv", fuzz::csv},
      {"csv_columns", fuzz::csv_columns},
      {"dataset_card", fuzz::dataset_card},
      {"lora_patterns", fuzz::lora_patterns},
      {"model_config", fuzz::model_config},
      {"rows", fuzz::rows},
      {"sentence_piece", fuzz::sentence_piece},
      {"special_tokens", fuzz::special_tokens},
      {"tokenizer_config", fuzz::tokenizer_config},
      {"tokenizer_json", fuzz::tokenizer_json},
      {"yaml_config", fuzz::yaml_config},
#endif
  };
  for (int i = 1; i < *argc; ++i)
    if (const std::string argument = (*argv)[i]; argument.starts_with("--target="))
      if (const auto found = targets.find(argument.substr(9)); found != targets.end()) target = found->second;
  if (target == nullptr) {
    std::fputs("error: expected --target=NAME, one of:", stderr);
    for (const auto& [name, function] : targets) std::fprintf(stderr, " %s", name.c_str());
    std::fputs("\n", stderr);
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  try {
    target({reinterpret_cast<const char*>(data), size});
  } catch (const kto::Error&) {  // NOLINT(bugprone-empty-catch): the input is refused
  }
  return 0;
}
