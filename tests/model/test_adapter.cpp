// SPDX-License-Identifier: Apache-2.0
// LoRA adapters: what they share, what they refuse, and that merging changes no number. PEFT's own reading of them is
// tested end to end (tests/e2e/saved_adapter.py), training against TRL in tests/e2e/trl_cases.py.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>

#include "catch.hpp"
#include "kto/collate/packed.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/model/adapter.hpp"

using kto::Json;
using kto::Tensor;

namespace {

/// A small decoder with random float64 weights.
kto::Decoder base_decoder(bool tied = true) {
  at::manual_seed(5);
  const kto::ModelConfig config = kto::parse_model_config(Json{{"model_type", "qwen2"},
                                                               {"vocab_size", 20},
                                                               {"hidden_size", 8},
                                                               {"intermediate_size", 12},
                                                               {"num_hidden_layers", 2},
                                                               {"num_attention_heads", 2},
                                                               {"num_key_value_heads", 1},
                                                               {"tie_word_embeddings", tied}},
                                                          "config.json");
  kto::Decoder decoder = kto::make_decoder(config, [](const std::string& name, const std::vector<std::int64_t>& shape) {
    const Tensor values = at::randn(shape, at::kDouble) * 0.4;
    return (name.find("norm") != std::string::npos ? values + 1 : values).set_requires_grad(true);
  });
  decoder.compute = at::kDouble;
  return decoder;
}

Tensor logps(const kto::Decoder& decoder) {
  const at::NoGradGuard no_grad;
  const kto::Example row{.prompt_ids = {1, 2, 3}, .completion_ids = {4, 5, 6, 7}};
  const kto::Pick pick{&row, &row};
  return kto::score_completions(decoder, kto::PackedCollator{}({&pick, 1}, false).rows).logp_B;
}

/// Gives B and the magnitudes something to do.
void train_a_little(kto::Decoder& policy) {
  const at::NoGradGuard no_grad;
  kto::visit_loras(policy, [](const std::string&, Tensor& tensor) { tensor.add_(at::randn_like(tensor) * 0.1); });
}

Json adapter_json(const Json& changes) {
  Json out = kto::to_json(kto::LoraConfig{.target_modules = {"q_proj"}});
  out.update(changes);
  return out;
}

}  // namespace

TEST_CASE("a new adapter starts as its base, shares the frozen weights, and trains its own alone") {
  const kto::Decoder base = base_decoder();
  const Tensor before = logps(base);
  for (const bool dora : {false, true}) {
    const auto adapted = kto::with_adapter(base, {.r = 3, .target_pattern = "all-linear", .use_dora = dora});
    CHECK(at::allclose(logps(adapted.policy), before, 1e-12, 1e-12));
    CHECK(adapted.policy.embedding_VD.is_same(base.embedding_VD));
    int trained = 0;
    for (const auto& [name, tensor] : adapted.policy.named_parameters()) {
      CHECK(tensor.requires_grad() == (name.find("lora_") != std::string::npos));
      trained += tensor.requires_grad() ? 1 : 0;
    }
    CHECK(trained == 2 * 7 * (dora ? 3 : 2));
  }
}

TEST_CASE("merging changes no number: LoRA, rsLoRA, DoRA, ranks by pattern, the head") {
  const kto::LoraConfig configs[] = {
      {.r = 2, .target_modules = {"q_proj", "down_proj"}},
      {.r = 4, .target_pattern = "all-linear", .use_rslora = true},
      {.r = 2, .target_modules = {"v_proj", "up_proj"}, .use_dora = true},
      {.r = 2, .target_modules = {"q_proj", "lm_head"}, .rank_pattern = {{"q_proj", 5}}}};
  for (const bool tied : {true, false})
    for (const kto::LoraConfig& config : configs) {
      auto adapted = kto::with_adapter(base_decoder(tied), config);
      train_a_little(adapted.policy);
      const Tensor with = logps(adapted.policy);
      CHECK_FALSE(at::allclose(with, logps(base_decoder(tied)), 1e-3, 1e-3));
      CHECK(at::allclose(logps(kto::merge_and_unload(adapted.policy)), with, 1e-12, 1e-12));
    }
}

TEST_CASE("dropout drops the same where a layer is computed once more") {
  const kto::Example row{.prompt_ids = {1, 2, 3}, .completion_ids = {4, 5, 6, 7}};
  const kto::Pick pick{&row, &row};
  const kto::Batch batch = kto::PackedCollator{}({&pick, 1}, false);
  for (const bool dora : {false, true}) {
    auto adapted = kto::with_adapter(base_decoder(),
                                     {.r = 3, .lora_dropout = 0.5, .target_pattern = "all-linear", .use_dora = dora});
    train_a_little(adapted.policy);
    std::vector<Tensor> trained;
    kto::visit_loras(adapted.policy, [&](const std::string&, const Tensor& tensor) { trained.push_back(tensor); });
    const auto run = [&](bool recompute) {
      adapted.policy.recompute = recompute;
      at::manual_seed(3);
      Tensor logp_B = kto::score_completions(adapted.policy, batch.rows).logp_B;
      std::vector<Tensor> out = torch::autograd::grad({logp_B.sum()}, trained);
      out.push_back(logp_B);
      out.push_back(at::randn({4}));  // and leaves the generator where it was
      return out;
    };
    const auto plain = run(false), again = run(true);
    CHECK_FALSE(at::allclose(plain[trained.size()], logps(adapted.policy)));
    for (std::size_t i = 0; i < plain.size(); ++i) CHECK(at::equal(plain[i], again[i]));
  }
}

TEST_CASE("of patterns, the first in the file that matches counts") {
  const auto parse = [](const char* patterns) {
    return kto::parse_lora_config(
        adapter_json({{"r", 4}, {"lora_alpha", 8}, {"alpha_pattern", Json::parse(patterns)}, {"rank_pattern", {}}}),
        "adapter_config.json");
  };
  const std::string first = "model.layers.0.self_attn.q_proj", second = "model.layers.1.self_attn.q_proj";
  const auto wide = parse(R"({"q_proj": 4, "layers.0.self_attn.q_proj": 2})");
  CHECK(wide.scaling_of(first) == 1);
  const auto narrow = parse(R"({"z_proj": 1, "layers.0.self_attn.q_proj": 2, "q_proj": 4})");
  CHECK(narrow.scaling_of(first) == 0.5);
  CHECK(narrow.scaling_of(second) == 1);
  CHECK(kto::to_json(narrow)["alpha_pattern"].items().begin().key() == "z_proj");
  CHECK(kto::parse_lora_config(kto::to_json(narrow), "again").scaling_of(first) == 0.5);
}

TEST_CASE("a frozen copy of a policy with an adapter copies the adapter and shares the base") {
  auto adapted = kto::with_adapter(base_decoder(), {.r = 2, .target_modules = {"q_proj"}, .modules_to_save = {"norm"}});
  train_a_little(adapted.policy);
  const kto::Decoder copy = kto::frozen_copy(adapted.policy);
  const Tensor before = logps(copy);
  CHECK(copy.embedding_VD.is_same(adapted.policy.embedding_VD));
  CHECK_FALSE(copy.norm_D.is_same(adapted.policy.norm_D));
  for (const auto& [name, tensor] : copy.named_parameters()) CHECK_FALSE(tensor.requires_grad());
  train_a_little(adapted.policy);
  CHECK(at::equal(logps(copy), before));
}

TEST_CASE("a target that matches no module is an error with near names") {
  CHECK_THROWS_WITH(kto::with_adapter(base_decoder(), {.target_modules = {"q_proj", "v_projj"}}),
                    KTO_CONTAINS("no module of the model matches \"v_projj\"") && KTO_CONTAINS("v_proj"));
  CHECK_THROWS_WITH(kto::with_adapter(base_decoder(), {.target_pattern = "nothing.*"}), KTO_CONTAINS("nothing.*"));
  CHECK_THROWS_WITH(kto::with_adapter(base_decoder(), {.target_modules = {"q_proj"}, .modules_to_save = {"score"}}),
                    KTO_CONTAINS("modules_to_save") && KTO_CONTAINS("\"score\""));
}

TEST_CASE("what an adapter file asks for and is not supported is refused by name") {
  const auto parse = [](const Json& changes) {
    return kto::parse_lora_config(adapter_json(changes), "adapter_config.json");
  };
  CHECK_NOTHROW(parse(Json::object()));
  CHECK(parse({{"target_modules", "ALL-Linear"}}).target_pattern == "all-linear");
  for (const char* init : {"gaussian", "orthogonal", "eva"}) CHECK_NOTHROW(parse({{"init_lora_weights", init}}));
  const std::pair<Json, const char*> refused[] = {{{{"peft_type", "IA3"}}, "peft_type \"IA3\""},
                                                  {{{"bias", "all"}}, "\"bias\": \"all\""},
                                                  {{{"layers_to_transform", {0, 1}}}, "layers_to_transform"},
                                                  {{{"fan_in_fan_out", true}}, "fan_in_fan_out"},
                                                  {{{"init_lora_weights", "pissa"}}, "pissa"},
                                                  {{{"target_parameters", {"x"}}}, "target_parameters"},
                                                  {{{"trainable_token_indices", {1}}}, "trainable_token_indices"},
                                                  {{{"a_key_of_tomorrow", 3}}, "a_key_of_tomorrow"},
                                                  {{{"r", 0}}, "\"r\" is 0"},
                                                  {{{"r", "four"}}, "\"r\""},
                                                  {{{"rank_pattern", {{"q_proj", 0}}}}, "\"q_proj\" is 0"},
                                                  {{{"alpha_pattern", {{"q_proj", "x"}}}}, "\"q_proj\" has"},
                                                  {{{"alpha_pattern", {1}}}, "\"alpha_pattern\" must be an object"},
                                                  {{{"target_modules", nullptr}}, "target_modules"}};
  for (const auto& [changes, message] : refused) CHECK_THROWS_WITH(parse(changes), KTO_CONTAINS(message));
}

TEST_CASE("an adapter's file may hold weights of its base, and names of targets that the base has not") {
  const kto::fs::path folder = kto::fs::temp_directory_path() / ("kto_base_weights_" + std::to_string(::getpid()));
  const kto::Decoder base = base_decoder();
  auto adapted = kto::with_adapter(base, {.r = 2, .target_modules = {"q_proj", "lm_head"}});
  train_a_little(adapted.policy);
  kto::fs::create_directories(folder);
  kto::write_file(folder / "adapter_model-00001-of-00002.safetensors", "of an earlier save");
  kto::save_adapter(adapted, folder, KTO_SOURCE_DIR "/tests/golden/data/model");
  CHECK_FALSE(kto::fs::exists(folder / "adapter_model-00001-of-00002.safetensors"));

  Json json = kto::read_json(folder / "adapter_config.json");
  json["target_modules"] = {"q_proj", "c_attn", "lm_head"};
  kto::write_file(folder / "adapter_config.json", json.dump());
  std::vector<std::pair<std::string, Tensor>> tensors;
  kto::visit_loras(adapted.policy,
                   [&](const std::string& name, const Tensor& tensor) { tensors.emplace_back(name, tensor.detach()); });
  tensors.emplace_back("base_model.model.lm_head.base_layer.weight", base.embedding_VD.detach());
  tensors.emplace_back("base_model.model.model.embed_tokens.weight", base.embedding_VD.detach().clone());
  kto::save_checkpoint(folder, tensors, kto::default_shard_size, "adapter_model");
  CHECK(at::equal(logps(kto::load_adapter(base, folder).policy), logps(adapted.policy)));

  tensors.back().second = tensors.back().second + 1;
  kto::save_checkpoint(folder, tensors, kto::default_shard_size, "adapter_model");
  CHECK_THROWS_WITH(kto::load_adapter(base, folder),
                    KTO_CONTAINS("base_model.model.model.embed_tokens.weight is not what the base model has"));
  kto::fs::remove_all(folder);
}

TEST_CASE("adapters are saved and loaded whole; other shapes and names are told") {
  const kto::fs::path folder = kto::fs::temp_directory_path() / ("kto_adapter_" + std::to_string(::getpid()));
  const kto::LoraConfig config{
      .r = 2, .target_modules = {"q_proj", "up_proj"}, .modules_to_save = {"lm_head"}, .use_dora = true};
  auto adapted = kto::with_adapter(base_decoder(), config);
  train_a_little(adapted.policy);
  kto::save_adapter(adapted, folder, KTO_SOURCE_DIR "/tests/golden/data/model");
  CHECK(at::allclose(logps(kto::load_adapter(base_decoder(), folder).policy), logps(adapted.policy), 1e-12, 1e-12));
  CHECK(kto::fs::exists(folder / "tokenizer.json"));

  Json json = kto::read_json(folder / "adapter_config.json");
  json["r"] = 3;
  kto::write_file(folder / "adapter_config.json", json.dump());
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder),
                    KTO_CONTAINS("lora_A.weight has shape [2, 8], expected [3, 8]"));
  json["r"] = 2, json["target_modules"] = {"q_proj"};
  kto::write_file(folder / "adapter_config.json", json.dump());
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder),
                    KTO_CONTAINS("unexpected: base_model.model.model.layers.0.mlp.up_proj"));
  kto::fs::remove(folder / "adapter_model.safetensors");
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder), KTO_CONTAINS("adapter_model.safetensors"));
  kto::fs::remove_all(folder);
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder), KTO_CONTAINS("adapter_config.json is missing"));
}
