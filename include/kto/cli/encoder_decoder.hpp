// SPDX-License-Identifier: Apache-2.0
// Arguments of train_kto for encoder-decoder models: what they mean there, and which have no meaning.
#pragma once

#include "kto/cli/policy.hpp"
#include "kto/data/separate_truncation.hpp"

namespace kto::cli {

/// The folder of the model itself, where an adapter may be named.
inline fs::path model_folder(const ScriptConfig& script) {
  const fs::path folder = script.model_name_or_path;
  return is_adapter_folder(folder) ? base_of_adapter(folder) : folder;
}

/// `args` as they hold for the model `spec` of `folder`: is_encoder_decoder is what the model is. Throws Error or
/// UsageError for arguments that contradict the model.
inline Arguments for_model(Arguments args, const ModelSpec& spec, const fs::path& folder) {
  ScriptConfig& script = args.script;
  const bool has_encoder = !spec.encoder.empty();
  if (script.is_encoder_decoder.value_or(has_encoder) != has_encoder)
    throw UsageError(concat("is_encoder_decoder is ", has_encoder ? "False" : "True", ", and ", folder.string(),
                            " is of the type ", spec.model_type, ", which is ", has_encoder ? "one" : "none",
                            "; leave the option out"));
  script.is_encoder_decoder = has_encoder;
  const auto refuse = [&](bool given, const char* name, const char* why) {
    if (given) throw UsageError(concat(name, " is not supported for encoder-decoder models: ", why));
  };
  if (!has_encoder) {
    if (script.lora_task_type != "CAUSAL_LM")
      throw UsageError(concat("lora_task_type SEQ_2_SEQ_LM is of encoder-decoder models, and ", folder.string(),
                              " is a decoder; leave it out"));
    return args;
  }
  refuse(script.max_length && script.max_length != ScriptConfig{}.max_length, "max_length",
         "prompt and completion are cut apart; use max_prompt_length and max_completion_length");
  refuse(script.collator != CollatorType::packed, "collator padded", "their batches have no padding");
  refuse(args.train.neftune_noise_alpha.value_or(0) != 0, "neftune_noise_alpha", "two stacks share their embedding");
  script.lora_task_type = "SEQ_2_SEQ_LM";
  return args;
}

/// How the rows of an encoder-decoder model are cut.
inline SeparateTruncation separate_truncation(const ScriptConfig& script, const Processor& processor) {
  SeparateTruncation out{.mode = script.truncation_mode.value_or(TruncationMode::keep_end)};
  out.max_prompt_length = script.max_prompt_length.value_or(out.max_prompt_length);
  out.max_completion_length = script.max_completion_length.value_or(out.max_completion_length);
  out.prompt_frame = out.completion_frame = text_frame(processor.tokenizer());
  const std::int32_t eos = processor.named_tokens().eos.value().id;
  if (auto& after = out.completion_frame.after; after.empty() || after.back() != eos) after.push_back(eos);
  return out;
}

}  // namespace kto::cli
