// SPDX-License-Identifier: Apache-2.0
// A safetensors file, one that is taken for a reference cache, and the index of a model in shards.
#include "fuzz.hpp"
#include "kto/io/checkpoint.hpp"
#include "kto/reference/cache.hpp"

void fuzz::safetensors(std::string_view bytes) {
  const kto::SafetensorsFile opened(file("model.safetensors", bytes));
  for (const std::string& name : opened.names()) {
    kto::ContentHash hash;  // reads every byte
    hash.add(opened.tensor(name));
  }
}

void fuzz::reference_cache(std::string_view bytes) {
  file("key.safetensors", bytes);
  kto::read_reference_cache(folder(), "key", 2);
}

void fuzz::weights_index(std::string_view bytes) {
  static const auto shard = [] {  // sound, with the tensors "a" and "b"
    const auto path = folder() / "model-00001-of-00002.safetensors";
    kto::save_safetensors(path, {{"a", at::zeros({2})}, {"b", at::ones({1})}});
    return path;
  }();
  file("model.safetensors.index.json", bytes);
  const kto::Checkpoint weights(folder());
  for (const std::string& name : weights.names()) weights.tensor(name).sum();
}
