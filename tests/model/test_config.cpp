// SPDX-License-Identifier: Apache-2.0
// config.json: defaults, spellings, and what is refused. Numbers are compared in test_decoder.cpp.
#include "catch.hpp"
#include "kto/model/config.hpp"

namespace kto::test::test_config {
namespace {

ModelSpec parse(const char* text) { return parse_model_config(Json::parse(text), "config.json"); }

TEST_CASE("absent keys take transformers' defaults of the family") {
  const ModelSpec llama = parse(R"({"model_type": "llama"})");
  CHECK(llama.vocab_size == 32000);
  CHECK(llama.hidden_size == 4096);
  CHECK(llama.layers.size() == 32);
  const AttentionSpec& attention = llama.layers[0].attention;
  const MlpSpec& mlp = llama.layers[0].mlp;
  CHECK(mlp.intermediate_size == 11008);
  CHECK(attention.num_kv_heads == 32);
  CHECK(attention.head_dim == 128);
  CHECK(attention.scale == 1 / std::sqrt(128.0));
  CHECK(llama.ropes[0].max_positions == 2048);
  CHECK(llama.ropes[0].theta == 10000);
  CHECK(llama.ropes[0].dim == 128);
  CHECK(llama.last_norm->eps == 1e-6);
  CHECK_FALSE((attention.qkv_bias || attention.output_bias || attention.qk_norm || mlp.bias));
  CHECK_FALSE(llama.tie_word_embeddings);
  CHECK_FALSE(attention.window);
  CHECK(parse(R"({"model_type": "llama", "mlp_bias": true})").layers[31].mlp.bias);

  const ModelSpec mistral = parse(R"({"model_type": "mistral"})");
  CHECK(mistral.layers[0].attention.num_kv_heads == 8);
  CHECK(mistral.layers[0].mlp.intermediate_size == 14336);
  CHECK(mistral.layers[31].attention.window == 4096);
  CHECK_FALSE(parse(R"({"model_type": "mistral", "sliding_window": null})").layers[31].attention.window);
  CHECK(parse(R"({"model_type": "mistral", "num_key_value_heads": null})").layers[0].attention.num_kv_heads == 32);

  const ModelSpec qwen2 = parse(R"({"model_type": "qwen2", "attention_bias": false})");
  CHECK(qwen2.layers[0].attention.qkv_bias);
  CHECK_FALSE(qwen2.layers[0].attention.output_bias);
  CHECK_FALSE(qwen2.layers[31].attention.window);
  const ModelSpec sliding = parse(R"({"model_type": "qwen2", "use_sliding_window": true})");
  CHECK_FALSE(sliding.layers[27].attention.window);
  CHECK(sliding.layers[28].attention.window == 4096);

  const ModelSpec qwen3 = parse(R"({"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16,
                                      "num_key_value_heads": 8})");
  CHECK(qwen3.layers[0].attention.head_dim == 128);
  CHECK(qwen3.layers[0].attention.qk_norm);
}

TEST_CASE("a pad token counted from the end, as torch.nn.Embedding has it") {
  CHECK(parse(R"({"model_type": "llama", "pad_token_id": -1})").pad_token_id == 31999);
  CHECK_FALSE(parse(R"({"model_type": "llama", "pad_token_id": null})").pad_token_id);
}

TEST_CASE("both spellings of the rotary parameters") {
  CHECK(parse(R"({"model_type": "llama", "rope_theta": 5e5})").ropes[0].theta == 5e5);
  CHECK(parse(R"({"model_type": "llama", "rope_theta": 5, "rope_parameters": {"rope_theta": 7}})").ropes[0].theta == 7);
  CHECK(parse(R"({"model_type": "llama", "rope_theta": 5, "rope_parameters": {"rope_type": "default"}})")
            .ropes[0]
            .theta == 5);
  CHECK(parse(R"({"model_type": "llama", "rope_scaling": {}})").ropes[0].type == RopeType::plain);
  const RopeConfig linear =
      parse(R"({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 3}})").ropes[0];
  CHECK(linear.type == RopeType::linear);
  CHECK(linear.factor == 3);
  const RopeConfig yarn = parse(R"({"model_type": "llama", "original_max_position_embeddings": 512,
      "rope_scaling": {"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 64}})")
                              .ropes[0];
  CHECK(yarn.original_max_positions == 512);
  CHECK(yarn.factor == 4);
}

TEST_CASE("what is not supported is refused by name") {
  const std::pair<const char*, const char*> refused[] = {
      {R"([])", "expected an object"},
      {R"({})", "\"model_type\" is missing"},
      {R"({"model_type": "mamba"})", "model_type \"mamba\" is not supported (supported: apertus, "},
      {R"({"model_type": "mamba"})", ", umt5, aya_vision, "},
      {R"({"model_type": "llama", "hidden_act": "xielu"})", "hidden_act \"xielu\" is not supported (supported: silu"},
      {R"({"model_type": "llama", "quantization_config": {"bits": 4}})", "quantization_config"},
      {R"({"model_type": "llama", "is_causal": false})", "is_causal"},
      {R"({"model_type": "llama", "rope_scaling": {"type": "spiral"}})", "rope_type \"spiral\""},
      {R"({"model_type": "llama", "rope_scaling": {"type": "linear"}})", "needs \"factor\""},
      {R"({"model_type": "llama", "rope_scaling": {"type": "yarn"}})", "needs \"factor\""},
      {R"({"model_type": "llama", "rope_scaling": {"type": "llama3", "factor": 8}})", "low_freq_factor"},
      {R"({"model_type": "llama", "rope_scaling": {"type": "longrope", "short_factor": [1]}})", "a list of 64"},
      {R"({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": "2"}})", "must be a number"},
      {R"({"model_type": "qwen3", "rope_parameters": {"full_attention": {"rope_theta": 1}}})", "per layer type"},
      {R"({"model_type": "llama", "partial_rotary_factor": 0.5})", "partial_rotary_factor"},
      {R"({"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor"},
      {R"({"model_type": "stablelm", "qk_layernorm": true})", "qk_layernorm"},
      {R"({"model_type": "smollm3", "no_rope_layers": [1, 0]})", "a list of 0 or 1 for each of the 36 layers"},
      {R"({"model_type": "gptj", "rotary_dim": 7})", "\"rotary_dim\" is 7"},
      {R"({"model_type": "hunyuan_v1_dense", "rope_scaling": {"type": "dynamic", "factor": 1, "alpha": -2}})", "alpha"},
      {R"({"model_type": "llama", "num_key_value_heads": 5})", "not a multiple of num_key_value_heads 5"},
      {R"({"model_type": "llama", "hidden_size": 100})", "not a multiple of num_attention_heads"},
      {R"({"model_type": "llama", "head_dim": 5})", "odd"},
      {R"({"model_type": "llama", "hidden_size": 64.5})", "\"hidden_size\" must be an integer, got 64.5"},
      {R"({"model_type": "llama", "hidden_size": true})", "must be an integer"},
      {R"({"model_type": "llama", "num_hidden_layers": 0})", "must be a positive integer"},
      {R"({"model_type": "llama", "num_hidden_layers": 2000000000})",
       "\"num_hidden_layers\" is 2000000000; expected at"},
      {R"({"model_type": "llama", "num_hidden_layers": null})", "\"num_hidden_layers\" is missing"},
      {R"({"model_type": "llama", "tie_word_embeddings": "yes"})", "must be true or false"},
      {R"({"model_type": "llama", "pad_token_id": 32000})", "outside the vocabulary"},
      {R"({"model_type": "mistral", "sliding_window": 0})", "sliding_window"},
      {R"({"model_type": "qwen2", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]})",
       "there is no window"},
      {R"({"model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["full_attention"]})", "a list of 2 strings"},
      {R"({"model_type": "qwen2", "num_hidden_layers": 1, "layer_types": ["conv"]})", "layer_types entry \"conv\""},
      {R"({"model_type": "mistral", "num_hidden_layers": 1, "layer_types": ["full_attention"]})", "layer_types entry"},
      {R"({"model_type": "lfm2", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]})",
       "layer_types entry \"sliding_attention\" is not supported (supported: full_attention, conv)"},
      {R"({"model_type": "lfm2", "full_attn_idxs": "all"})", "\"full_attn_idxs\" must be a list of integers"},
      {R"({"model_type": "qwen3_5_text", "num_hidden_layers": 1, "layer_types": ["conv"]})",
       "supported: full_attention, linear_attention"},
      {R"({"model_type": "qwen3_5_text", "linear_num_value_heads": 24})", "linear_num_value_heads 24"},
  };
  for (const auto& [text, message] : refused) {
    INFO(text);
    CHECK_THROWS_WITH(parse(text), KTO_CONTAINS(message) && KTO_CONTAINS("config.json: "));
  }
}

TEST_CASE("a folder without config.json says what it is") {
  CHECK_THROWS_WITH(read_model_config("/nowhere/model"), KTO_CONTAINS("/nowhere/model: is not a folder"));
}

}  // namespace
}  // namespace kto::test::test_config
