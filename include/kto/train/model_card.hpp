// SPDX-License-Identifier: Apache-2.0
// The README.md of a trained model, with the front matter that TRL's model cards have.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/loss/kto.hpp"

namespace kto {

struct ModelCard {
  std::string model_name;                          ///< of the trained model
  std::string base_model = {};                     ///< its name on the hub, its folder, or empty
  bool base_is_folder = false;                     ///< then the front matter names it only for an adapter, as PEFT does
  std::string dataset = {};                        ///< its name on the hub, its path, or empty
  std::string library_name = "transformers";       ///< "peft" for an adapter
  std::vector<std::string> tags = {"trl", "kto"};  ///< in addition to generated_from_trainer, as in TRL's cards
  std::string method{Kto::paper.method};           ///< how it was trained
  std::string paper_title{Kto::paper.title};       ///< of the method
  std::string paper_id{Kto::paper.arxiv_id};       ///< on arXiv
  std::string paper_key{Kto::paper.key};           ///< in BibTeX; without it and the authors there is no citation
  std::string paper_authors{Kto::paper.authors};   ///< of the paper
  std::string version;                             ///< of this library
  std::string libtorch_version = "";               ///< may be empty
  std::string shown_as = "";  ///< how the quick start names the model: on the hub, or a folder; may be empty
};

namespace detail {

/// A YAML scalar in single quotes.
inline std::string yaml_text(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : c == '\n' ? std::string(" ") : std::string(1, c);
  return out + "'";
}

/// A program that has the model write, as in TRL's cards.
inline std::string quick_start(const std::string& model) {
  return concat(R"(## Quick start

```python
from transformers import pipeline

question = "If you had a time machine, but could only go to the past or the future once and never return, which would you choose and why?"
generator = pipeline("text-generation", model=)",
                Json(model).dump(), R"(, device_map="auto")
output = generator([{"role": "user", "content": question}], max_new_tokens=128, return_full_text=False)[0]
print(output["generated_text"])
```

)");
}

/// The paper of `card` in BibTeX.
inline std::string citation(const ModelCard& card) {
  return concat("@article{", card.paper_key, ",\n    title        = {{", card.paper_title, "}},\n    author       = {",
                card.paper_authors, "},\n    year         = 20", card.paper_id.substr(0, 2),
                ",\n    eprint       = {arXiv:", card.paper_id, "},\n}\n");
}

}  // namespace detail

/// The text of README.md.
inline std::string to_markdown(const ModelCard& card) {
  std::string out = "---\n";
  const auto line = [&](const char* key, const std::string& value) {
    if (!value.empty()) out += concat(key, ": ", detail::yaml_text(value), '\n');
  };
  const bool is_adapter = card.library_name == "peft";
  const auto folder = std::filesystem::path(card.base_model).lexically_normal();
  const std::string folder_name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  if (!card.base_is_folder || is_adapter) line("base_model", card.base_model);
  line("datasets", card.dataset);
  line("library_name", card.library_name);
  line("model_name", card.model_name);
  if (is_adapter) line("pipeline_tag", "text-generation");
  out += "tags:\n- generated_from_trainer\n";
  for (const std::string& tag : card.tags) out += "- " + tag + "\n";
  if (is_adapter) {  // as in PEFT's cards
    if (!card.base_model.empty()) out += "- " + detail::yaml_text("base_model:adapter:" + card.base_model) + "\n";
    out += "- lora\n- transformers\n";
  }
  out += "licence: license\n---\n\n# Model Card for " + card.model_name + "\n\n";
  const auto link = [](const std::string& kind, const std::string& name) {
    return concat('[', name, "](https://huggingface.co/", kind, name, ')');
  };
  out += "This model is a fine-tuned version of ";
  out += card.base_model.empty() ? std::string("another model")
         : card.base_is_folder   ? "`" + folder_name + "`"
                                 : link("", card.base_model);
  if (!card.dataset.empty()) out += " on the " + link("datasets/", card.dataset) + " dataset";
  out += ".\nIt has been trained using kto.\n\n";
  if (!card.shown_as.empty()) out += detail::quick_start(card.shown_as);
  out += "## Training procedure\n\nThis model was trained with " + card.method;
  if (!card.paper_id.empty())
    out +=
        concat(", a method introduced in [", card.paper_title, "](https://huggingface.co/papers/", card.paper_id, ")");
  out += concat(
      ". The options are in `training_args.json`, the log in `trainer_state.json`.\n\n### Framework versions\n\n",
      "- kto: ", card.version, '\n');
  if (!card.libtorch_version.empty()) out += "- LibTorch: " + card.libtorch_version + "\n";
  if (!card.paper_id.empty() && !card.paper_key.empty())
    out += concat("\n## Citations\n\nCite ", card.method, " as:\n\n```bibtex\n", detail::citation(card), "```\n");
  return out;
}

}  // namespace kto
