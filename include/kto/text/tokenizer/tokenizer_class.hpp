// SPDX-License-Identifier: Apache-2.0
// Which tokenizer class transformers' AutoTokenizer (5.24) loads for a folder.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kto/core/error.hpp"
#include "kto/io/json.hpp"
#include "kto/text/tokenizer/class_rules.hpp"

namespace kto::tok {

/// The class that uses tokenizer.json unchanged.
inline constexpr std::string_view plain_class = "TokenizersBackend";

template <std::size_t n>
bool contains(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// Model types whose tokenizer_class is known to be wrong in published folders; the registered class wins.
inline bool has_wrong_class(std::string_view model_type) {
  static constexpr std::string_view names[] = {"arctic",
                                               "camembertv2-base",
                                               "chatlm",
                                               "cohere_asr",
                                               "ernie4_5",
                                               "ernie4_5_moe",
                                               "fuyu",
                                               "h2ovl_chat",
                                               "hyperclovax",
                                               "hyperclovax_vision_v2",
                                               "hyperclovax_vlm",
                                               "internlm2",
                                               "internlm3",
                                               "iquestcoder",
                                               "jamba",
                                               "llava",
                                               "llava_next",
                                               "minicpm3",
                                               "minicpmv",
                                               "minimax_m2",
                                               "modernbert",
                                               "modernbert-decoder",
                                               "molmo",
                                               "molmo2",
                                               "nemotron",
                                               "nvfp4",
                                               "opencua",
                                               "openvla",
                                               "paddleocr_vl",
                                               "phi3",
                                               "phi3_v",
                                               "phimoe",
                                               "qwen2",
                                               "qwen3_5",
                                               "qwen3_5_moe",
                                               "qwen3_5_moe_text",
                                               "qwen4_exp",
                                               "siglip2",
                                               "smolvlm",
                                               "step3_vl",
                                               "vipllava"};
  return contains(names, model_type);
}

/// The class registered for a model type; empty if there is none.
inline std::string_view registered_class(std::string_view model_type) {
  struct Registered {
    std::string_view name;
    std::vector<std::string_view> model_types;
  };
  static const Registered classes[] = {
      {"AlbertTokenizer", {"albert", "yoso"}},
      {"BartTokenizer", {"florence2"}},
      {"BertTokenizer", {"align",          "bark",         "bert",          "blip",
                         "bros",           "chinese_clip", "convbert",      "distilbert",
                         "electra",        "ernie",        "flava",         "git",
                         "grounding-dino", "layoutlm",     "megatron-bert", "mm-grounding-dino",
                         "nezha",          "nomic_bert",   "qdqbert",       "realm",
                         "retribert",      "squeezebert",  "tvp",           "vilt",
                         "visual_bert"}},
      {"CodeLlamaTokenizer", {"code_llama"}},
      {"CohereTokenizer", {"aya_vision", "cohere", "cohere2"}},
      {"DebertaTokenizer", {"deberta"}},
      {"DebertaV2Tokenizer", {"deberta-v2"}},
      {"GPT2Tokenizer",
       {"blip-2", "codegen", "dbrx", "emu3", "gpt2", "gpt_neo", "gptj", "hyperclovax_vision_v2", "instructblip",
        "instructblipvideo", "jais2", "opt", "phi", "starcoder2"}},
      {"GPTNeoXTokenizer", {"falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm"}},
      {"GemmaTokenizer",
       {"diffusion_gemma", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma",
        "shieldgemma2", "t5gemma", "zaya"}},
      {"LEDTokenizer", {"led"}},
      {"LlamaTokenizer", {"idefics", "idefics2"}},
      {"LxmertTokenizer", {"lxmert"}},
      {"MobileBertTokenizer", {"mobilebert"}},
      {"MvpTokenizer", {"mvp"}},
      {"Qwen2Tokenizer", {"audioflamingo3", "colqwen2",     "cosmos3_omni",
                          "dots3_note",     "fun_asr_nano", "hunyuan_vl",
                          "internvl",       "lighton_ocr",  "moss_transcribe_diarize",
                          "ovis2",          "qianfan_ocr",  "qwen2",
                          "qwen2_5_omni",   "qwen2_5_vl",   "qwen2_audio",
                          "qwen2_moe",      "qwen2_vl",     "qwen3",
                          "qwen3_asr",      "qwen3_moe",    "qwen3_next",
                          "qwen3_omni_moe", "qwen3_vl",     "qwen3_vl_moe",
                          "vibevoice"}},
      {"Qwen3_5Tokenizer", {"qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp"}},
      {"RobertaTokenizer",
       {"bart", "bridgetower", "clap", "data2vec-text", "ibert", "lilt", "longformer", "mega", "mra", "roberta",
        "roberta-prelayernorm"}},
      {"T5Tokenizer", {"mt5", "musicgen", "musicgen_melody", "switch_transformers", "t5"}},
      {plain_class,
       {"EvollaModel",
        "aria",
        "beam",
        "bigbird_pegasus",
        "canary",
        "flex_olmo",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v",
        "glm4v_moe",
        "glm_image",
        "glmasr",
        "got_ocr2",
        "gpt_bigcode",
        "gradium_phonon_tts",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "granitemoeshared",
        "kimi_k25",
        "kimi_linear",
        "kosmos-2",
        "mimo_v2_flash",
        "minicpm_ocr",
        "minicpmv4_6",
        "minicpmv4_7",
        "ministral",
        "ministral3",
        "mistral",
        "mistral3",
        "mistral_large4",
        "mixtral",
        "nemo_speechlm",
        "nystromformer",
        "olmo2",
        "olmo3",
        "olmo_hybrid",
        "omniasr",
        "pegasus_x",
        "persimmon",
        "pix2struct",
        "pixtral",
        "pocket_tts",
        "stablelm",
        "umt5",
        "voxtral",
        "voxtral_realtime",
        "xlm-roberta-xl"}},
      {"XLMRobertaTokenizer", {"gte", "jina_embeddings_v3", "metaclip_2", "trocr", "xlm-roberta", "xmod"}},
  };
  for (const auto& [name, model_types] : classes)
    if (std::ranges::find(model_types, model_type) != model_types.end()) return name;
  return has_wrong_class(model_type) ? plain_class : "";
}

/// "LlamaTokenizerFast" -> "LlamaTokenizer"
inline std::string slow_name(std::string_view name) {
  return std::string(name.ends_with("Fast") ? name.substr(0, name.size() - 4) : name);
}

/// Classes that build a tokenizer of their own, or are written in Python, and have no row in class_rules.hpp.
inline bool is_unsupported_class(std::string_view name) {
  static constexpr std::string_view names[] = {"BarthezTokenizer",
                                               "BartphoTokenizer",
                                               "BertGenerationTokenizer",
                                               "BertJapaneseTokenizer",
                                               "BertweetTokenizer",
                                               "BigBirdTokenizer",
                                               "BioGptTokenizer",
                                               "BlenderbotTokenizer",
                                               "BlenderbotSmallTokenizer",
                                               "ByT5Tokenizer",
                                               "CLIPTokenizer",
                                               "CTRLTokenizer",
                                               "CamembertTokenizer",
                                               "CanineTokenizer",
                                               "ClvpTokenizer",
                                               "ConvBertTokenizer",
                                               "CpmAntTokenizer",
                                               "CpmTokenizer",
                                               "DPRReaderTokenizer",
                                               "DPRContextEncoderTokenizer",
                                               "DPRQuestionEncoderTokenizer",
                                               "DiaTokenizer",
                                               "EsmTokenizer",
                                               "EsmcTokenizer",
                                               "FNetTokenizer",
                                               "FSMTTokenizer",
                                               "FastSpeech2ConformerTokenizer",
                                               "FlaubertTokenizer",
                                               "FunnelTokenizer",
                                               "GPTNeoXJapaneseTokenizer",
                                               "GPTSw3Tokenizer",
                                               "HerbertTokenizer",
                                               "LasrTokenizer",
                                               "LayoutLMv2Tokenizer",
                                               "LayoutLMv3Tokenizer",
                                               "LayoutXLMTokenizer",
                                               "LukeTokenizer",
                                               "M2M100Tokenizer",
                                               "MBart50Tokenizer",
                                               "MBartTokenizer",
                                               "MLukeTokenizer",
                                               "MPNetTokenizer",
                                               "MarianTokenizer",
                                               "MarkupLMTokenizer",
                                               "MgpstrTokenizer",
                                               "MyT5Tokenizer",
                                               "NllbTokenizer",
                                               "NougatTokenizer",
                                               "OpenAIGPTTokenizer",
                                               "PLBartTokenizer",
                                               "PegasusTokenizer",
                                               "PerceiverTokenizer",
                                               "PhobertTokenizer",
                                               "ProphetNetTokenizer",
                                               "RagTokenizer",
                                               "ReformerTokenizer",
                                               "RemBertTokenizer",
                                               "RoCBertTokenizer",
                                               "RoFormerTokenizer",
                                               "SeamlessM4TTokenizer",
                                               "Siglip2Tokenizer",
                                               "SiglipTokenizer",
                                               "Speech2TextTokenizer",
                                               "SpeechT5Tokenizer",
                                               "SplinterTokenizer",
                                               "TapasTokenizer",
                                               "Tipsv2Tokenizer",
                                               "UdopTokenizer",
                                               "VideoPrismTokenizer",
                                               "VitsTokenizer",
                                               "Wav2Vec2CTCTokenizer",
                                               "Wav2Vec2PhonemeCTCTokenizer",
                                               "WhisperTokenizer",
                                               "XGLMTokenizer",
                                               "XLMTokenizer",
                                               "XLNetTokenizer"};
  return contains(names, name);
}

/// Resolves a class name: names that transformers does not know, or no longer knows, mean the plain class.
inline std::string class_from_name(std::string_view name) {
  const std::string slow = slow_name(name);
  if (const ClassRules* rules = class_rules(slow)) return std::string(rules->name);
  return is_unsupported_class(slow) ? slow : std::string(plain_class);
}

/// The class that AutoTokenizer loads. `tokenizer_config` and `model_config` are the objects in the two files, empty if
/// missing.
inline std::string resolve_class(const Json& tokenizer_config, const Json& model_config, bool is_byte_level,
                                 std::string_view where) {
  const auto name = [&](const Json& config) { return json_value<std::string>(config, "tokenizer_class", "", where); };
  const std::string declared = name(tokenizer_config).empty() ? name(model_config) : name(tokenizer_config);
  const std::string model_type = json_value<std::string>(model_config, "model_type", "", where);
  const std::string_view registered = registered_class(model_type);
  const Json auto_map = json_value(tokenizer_config, "auto_map", Json(), where);
  const bool is_remote = auto_map.is_array() || auto_map.contains("AutoTokenizer");
  if (!is_remote && !declared.empty()) {
    // LlamaTokenizer splits at spaces; byte-level files may claim this class wrongly.
    if (slow_name(declared) == "LlamaTokenizer" && is_byte_level && !has_wrong_class(model_type))
      return std::string(plain_class);
    if (!registered.empty() && slow_name(declared) != registered)
      return class_from_name(has_wrong_class(model_type) || registered == plain_class ? registered : declared);
  }
  static constexpr std::string_view plain_names[] = {plain_class, "PreTrainedTokenizer", "PythonBackend"};
  const bool is_known = class_from_name(declared) != plain_class || contains(plain_names, slow_name(declared));
  check(!is_remote || !registered.empty() || is_known, where,
        ": the tokenizer comes with its own Python code (\"auto_map\"), which is not run; save it with transformers' ",
        "save_pretrained as a plain tokenizer.json");
  if (!declared.empty()) return class_from_name(declared);
  const bool has_configuration = model_type != "code_llama";  // its models have the type llama
  return class_from_name(has_configuration ? registered : plain_class);
}

}  // namespace kto::tok
