// SPDX-License-Identifier: Apache-2.0
// LoRA adapters: what they share, what they refuse, that merging changes no number, and what PEFT makes of every kind
// of LoraConfig (tests/golden/adapters). PEFT's own reading of ours is tested end to end (tests/e2e/saved_adapter.py),
// training against TRL in tests/e2e/trl_cases.py.
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>

#include "catch.hpp"
#include "kto/collate/packed.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/model/adapter.hpp"

namespace test_adapter {

using kto::Json;
using kto::Tensor;

namespace {

/// A small decoder with random float64 weights.
kto::Decoder base_decoder(bool tied = true) {
  at::manual_seed(5);
  const kto::ModelSpec config = kto::parse_model_config(Json{{"model_type", "qwen2"},
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
    CHECK(adapted.policy.embed_tokens.weight_VD.is_same(base.embed_tokens.weight_VD));
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
  CHECK(copy.embed_tokens.weight_VD.is_same(adapted.policy.embed_tokens.weight_VD));
  CHECK_FALSE(copy.norm.weight_D.is_same(adapted.policy.norm.weight_D));
  for (const auto& [name, tensor] : copy.named_parameters()) CHECK_FALSE(tensor.requires_grad());
  train_a_little(adapted.policy);
  CHECK(at::equal(logps(copy), before));
}

TEST_CASE("a target that matches no module is an error with similar names") {
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
  CHECK(parse({{"target_modules", nullptr}}).target_modules.empty());  // the defaults, once it is on a model
  for (const char* init : {"gaussian", "orthogonal", "eva", "lora_ga", "pissa_niter_16"})
    CHECK_NOTHROW(parse({{"init_lora_weights", init}}));
  const std::pair<Json, const char*> refused[] = {
      {{{"peft_type", "IA3"}}, "peft_type \"IA3\""},
      {{{"bias", "some"}}, "\"bias\" is \"some\""},
      {{{"layers_to_transform", "1"}}, "layers_to_transform"},
      {{{"layers_pattern", "layers"}}, "layers_pattern needs layers_to_transform"},
      {{{"layers_to_transform", 1}, {"target_modules", "q.*"}}, "to be a list of names"},
      {{{"lora_bias", true}, {"use_dora", true}}, "lora_bias and use_dora"},
      {{{"lora_bias", true}, {"init_lora_weights", "olora"}}, "lora_bias needs init_lora_weights"},
      {{{"init_lora_weights", "corda"}}, "path_initial_model_for_weight_conversion"},
      {{{"init_lora_weights", "loftq"}}, "quantizes"},
      {{{"init_lora_weights", "magic"}}, "\"magic\" is unknown"},
      {{{"trainable_token_indices", {"a"}}}, "trainable_token_indices"},
      {{{"a_key_of_tomorrow", 3}}, "a_key_of_tomorrow"},
      {{{"r", 0}}, "\"r\" is 0"},
      {{{"r", "four"}}, "\"r\""},
      {{{"rank_pattern", {{"q_proj", 0}}}}, "\"q_proj\" is 0"},
      {{{"alpha_pattern", {{"q_proj", "x"}}}}, "\"q_proj\" has"},
      {{{"alpha_pattern", {1}}}, "\"alpha_pattern\" must be an object"},
      {{{"target_modules", Json::array()}}, "\"target_modules\" is empty"}};
  for (const auto& [changes, message] : refused) CHECK_THROWS_WITH(parse(changes), KTO_CONTAINS(message));
}

TEST_CASE("every field of PEFT's LoraConfig is read, without effect here, or refused with its reason") {
  const Json peft = kto::read_json(KTO_SOURCE_DIR "/tests/golden/adapters/plain/adapter_config.json");
  for (const auto& [key, value] : peft.items()) {
    INFO(key);
    CHECK(kto::detail::find_lora_field(key) != nullptr);
  }
  for (const auto& field : kto::detail::lora_fields) {
    const std::string name(field.name);
    INFO(name);
    CHECK(peft.contains(name) == (name != "runtime_config"));  // PEFT saves none
    CHECK(field.why.empty() == (field.use == kto::detail::LoraUse::read));
    const auto parse = [&] {
      return kto::parse_lora_config(adapter_json({{name, {{"x", 1}}}}), "adapter_config.json");
    };
    if (field.use == kto::detail::LoraUse::refused)
      CHECK_THROWS_WITH(parse(), KTO_CONTAINS("\"" + name + "\"") && KTO_CONTAINS(std::string(field.why)));
    if (field.use == kto::detail::LoraUse::without_effect)
      CHECK(parse() == kto::parse_lora_config(adapter_json(Json::object()), "adapter_config.json"));
  }
}

TEST_CASE("the default targets are PEFT's, and where it has none they must be named") {
  const Json peft = kto::read_json(KTO_SOURCE_DIR "/tests/golden/adapters/default_targets.json");
  for (const auto* family : kto::detail::families) {
    const std::string name(family->model_type);
    INFO(name);
    const Json want = peft.value(name, Json::array());
    CHECK(Json::parse(family->lora_targets) == want);
    kto::ModelSpec spec;
    spec.model_type = name;
    if (want.empty())
      CHECK_THROWS_WITH(kto::default_lora_targets(spec), KTO_CONTAINS("no default for " + name));
    else
      CHECK(Json(kto::default_lora_targets(spec)) == want);
  }
}

TEST_CASE("an adapter of every kind that PEFT trains has PEFT's log-probs and gradients, saved and merged too") {
  const kto::fs::path root = KTO_SOURCE_DIR "/tests/golden/adapters";
  const kto::fs::path saved = kto::fs::temp_directory_path() / ("kto_peft_kinds_" + std::to_string(::getpid()));
  const kto::Example row{.prompt_ids = {1, 2, 0, 3}, .completion_ids = {4, 5, 0, 6, 7}};
  const kto::Pick pick{&row, &row};
  const kto::Batch batch = kto::PackedCollator{}({&pick, 1}, false);
  const auto score = [&](const kto::Decoder& decoder) {
    return kto::score_completions(decoder, batch.rows).logp_B.sum();
  };
  int kinds = 0;
  for (const auto& entry : kto::fs::directory_iterator(root)) {
    const kto::fs::path folder = entry.path();
    if (!kto::fs::exists(folder / "golden.safetensors")) continue;
    INFO(folder.filename().string());
    ++kinds;
    std::string base_name = kto::read_file(folder / "base");
    base_name.pop_back();
    const kto::Decoder base = kto::load_pretrained(root / base_name),
                       untouched = kto::load_pretrained(root / base_name);
    auto adapted = kto::load_adapter(base, folder);
    const kto::SafetensorsFile golden(folder / "golden.safetensors");
    const double want = golden.tensor("logp").item<double>();
    const auto near = [&](const Tensor& logp) { return std::abs(logp.item<double>() - want) < 2e-5 * std::abs(want); };

    const Tensor logp = score(adapted.policy);
    CHECK(near(logp));
    logp.backward();
    std::size_t gradients = 0;
    kto::detail::visit_adapter_tensors(adapted.policy, adapted.config, [&](const std::string& name, Tensor& tensor) {
      INFO(name);
      REQUIRE(golden.contains("grad." + name) == tensor.grad().defined());
      if (!tensor.grad().defined()) return;
      const Tensor grad = golden.tensor("grad." + name);
      CHECK(at::allclose(tensor.grad(), grad, 1e-4, 2e-5 * grad.abs().max().item<double>() + 1e-6));
      ++gradients;
    });
    CHECK(gradients + 1 +
              (adapted.config.ensure_weight_tying && golden.contains("grad.base_model.model.lm_head.weight")) ==
          golden.names().size());
    for (std::size_t i = 0; i < base.named_parameters().size(); ++i)
      CHECK(at::equal(base.named_parameters()[i].second, untouched.named_parameters()[i].second));

    kto::save_adapter(adapted, saved, KTO_SOURCE_DIR "/tests/golden/data/model");
    Json theirs = kto::read_json(folder / "adapter_config.json");
    const Json ours = kto::read_json(saved / "adapter_config.json");
    if (theirs["base_model_name_or_path"].is_null())  // then the folder of the base is written there
      theirs["base_model_name_or_path"] = KTO_SOURCE_DIR "/tests/golden/data/model";
    CHECK(kto::parse_lora_config(ours, "ours") == kto::parse_lora_config(theirs, "theirs"));
    const kto::Checkpoint their_file(folder, "adapter_model"), our_file(saved, "adapter_model");
    for (const std::string& name : our_file.names()) {
      INFO(name);
      if (folder.filename() != "adapter_name_in_keys") REQUIRE(their_file.contains(name));
      if (their_file.contains(name)) CHECK(at::equal(our_file.tensor(name), their_file.tensor(name)));
    }
    CHECK(near(score(kto::load_adapter(base, saved).policy)));
    CHECK(near(score(kto::frozen_copy(adapted.policy))));
    CHECK(near(score(kto::merge_and_unload(adapted.policy))));
    kto::fs::remove_all(saved);
  }
  CHECK(kinds == 36);
}

TEST_CASE(
    "an adapter that starts out of the base's weights starts as the base, and so does what is to be trained of it") {
  for (const bool tied : {true, false})
    for (const char* init : {"true", "gaussian", "orthogonal", "mica", "pissa", "olora"}) {
      INFO(init);
      const kto::Decoder base = base_decoder(tied);
      const Tensor before = logps(base);
      const auto adapted = kto::with_adapter(base, {.r = 2,
                                                    .target_modules = {"q_proj", "down_proj", "embed_tokens"},
                                                    .bias = kto::LoraBias::all,
                                                    .init_lora_weights = init});
      CHECK(at::allclose(logps(adapted.policy), before, 1e-9, 1e-9));
      CHECK(at::equal(logps(base), before));
      for (const auto& [name, tensor] : adapted.policy.named_parameters()) {
        INFO(name);
        const bool frozen_b = init == std::string("mica") && (name.find("lora_B") != name.npos || name.ends_with("_B"));
        CHECK(tensor.requires_grad() == ((name.find("lora_") != name.npos && !frozen_b) || name.ends_with(".bias")));
      }
    }
  const auto random =
      kto::with_adapter(base_decoder(), {.r = 2, .target_modules = {"q_proj"}, .init_lora_weights = "false"});
  CHECK_FALSE(at::allclose(logps(random.policy), logps(base_decoder()), 1e-3, 1e-3));
  CHECK_THROWS_WITH(kto::with_adapter(base_decoder(), {.init_lora_weights = "eva"}), KTO_CONTAINS("needs data"));
}

TEST_CASE("an adapter's name in the keys of its file is passed over") {
  const std::string module = "base_model.model.model.layers.0.self_attn.q_proj";
  const std::pair<const char*, const char*> names[] = {
      {".lora_A.weight", ".lora_A.weight"},
      {".lora_B.mine.weight", ".lora_B.weight"},
      {".lora_B.mine.bias", ".lora_B.bias"},
      {".lora_embedding_A", ".lora_embedding_A"},
      {".lora_embedding_B.mine", ".lora_embedding_B"},
      {".lora_magnitude_vector", ".lora_magnitude_vector"},
      {".lora_magnitude_vector.mine", ".lora_magnitude_vector"},
      {".lora_magnitude_vector.weight", ".lora_magnitude_vector"},
      {".lora_magnitude_vector.mine.weight", ".lora_magnitude_vector"},
      {".token_adapter.trainable_tokens_delta.mine", ".token_adapter.trainable_tokens_delta"},
      {".modules_to_save.mine.weight", ".weight"},
      {".modules_to_save.mine.up_proj.weight", ".up_proj.weight"},
      {".modules_to_save.bias", ".bias"},
      {".base_layer.bias", ".base_layer.bias"}};
  for (const auto& [name, plain] : names) {
    INFO(name);
    std::set<std::string> adapters;
    CHECK(kto::detail::plain_name(module + name, adapters) == module + plain);
    CHECK(adapters == (std::string(name).find("mine") == std::string::npos ? std::set<std::string>{}
                                                                           : std::set<std::string>{"mine"}));
  }
}

TEST_CASE("what cannot be one adapter is refused") {
  const std::pair<kto::LoraConfig, const char*> refused[] = {
      {{.target_pattern = ".*layers\\.0.*"}, "neither a linear layer nor the embedding"},
      {{.target_modules = {"q_proj"}, .exclude_pattern = ".*"}, "no module is left to adapt"},
      {{.target_modules = {"q_proj"}, .layers_to_transform = {7}}, "no module is left to adapt"},
      {{.target_modules = {"q_proj"}, .modules_to_save = {"_proj"}}, "also among target_modules"},
      {{.target_modules = {"q_proj"}, .modules_to_save = {"layers"}}, "is a list"},
      {{.target_modules = {"q_proj"}, .modules_to_save = {"mlp", "up_proj"}}, "contains it"},
      {{.target_modules = {"embed_tokens"}, .lora_bias = true}, "embedding has no bias"},
      {{.target_modules = {"embed_tokens"}, .use_dora = true, .ensure_weight_tying = true},
       "use_dora is not supported"},
      {{.target_modules = {"q_proj"}, .trainable_token_indices = {{"embed_tokens", {20}}}}, "but not 20"},
      {{.target_modules = {"q_proj"}, .trainable_token_indices = {{"embed_tokens", {1, 1}}}}, "twice"},
      {{.target_modules = {"q_proj"}, .trainable_token_indices = {{"embedtokens", {1}}}}, "no module of the model"},
      {{.target_modules = {"q_proj"}, .trainable_token_indices = {{"q_proj", {1}}}}, "which has no tokens"},
      {{.target_modules = {"embed_tokens"}, .trainable_token_indices = {{"embed_tokens", {1}}}}, "is also among"},
      {{.target_modules = {"lm_head"}, .trainable_token_indices = {{"embed_tokens", {1}}}}, "an adapter of its own"},
      {{.target_modules = {"q_proj"},
        .trainable_token_indices = {{"embed_tokens", {1}}, {"lm_head", {2}}},
        .ensure_weight_tying = true},
       "needs the same tokens"},
      {{.r = 3, .target_modules = {"q_proj"}, .init_lora_weights = "orthogonal"}, "an even rank"},
      {{.r = 9, .target_modules = {"q_proj"}, .init_lora_weights = "pissa"}, "a rank of at most 8"}};
  for (const auto& [config, message] : refused)
    CHECK_THROWS_WITH(kto::with_adapter(base_decoder(), config), KTO_CONTAINS(message));
  auto no_bias = kto::with_adapter(base_decoder(), {.target_modules = {"up_proj"}, .lora_bias = true});
  CHECK_THROWS_WITH(kto::merge_and_unload(no_bias.policy), KTO_CONTAINS("lora_bias cannot be merged"));
}

TEST_CASE("a pattern that PEFT takes for parameters of experts is refused") {
  const kto::ModelSpec spec = kto::parse_model_config(Json{{"model_type", "qwen3_moe"},
                                                           {"vocab_size", 20},
                                                           {"hidden_size", 8},
                                                           {"head_dim", 4},
                                                           {"moe_intermediate_size", 4},
                                                           {"num_experts", 4},
                                                           {"num_experts_per_tok", 2},
                                                           {"num_hidden_layers", 1},
                                                           {"num_attention_heads", 2},
                                                           {"num_key_value_heads", 1}},
                                                      "config.json");
  const kto::Decoder base = kto::make_decoder(
      spec, [](const std::string&, const std::vector<std::int64_t>& shape) { return at::zeros(shape); });
  for (const char* pattern : {".*(q_proj|gate_proj)", ".*\\.(v|down)_proj"})
    CHECK_THROWS_WITH(kto::with_adapter(base, {.r = 2, .target_pattern = pattern}),
                      KTO_CONTAINS("stands for parameters of experts"));
  CHECK_NOTHROW(kto::with_adapter(base, {.r = 2, .target_pattern = ".*[qv]_proj"}));
}

TEST_CASE("an adapter's file may hold weights of its base, and targets that the base does not have") {
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
  tensors.emplace_back("base_model.model.lm_head.base_layer.weight", base.embed_tokens.weight_VD.detach());
  tensors.emplace_back("base_model.model.model.embed_tokens.weight", base.embed_tokens.weight_VD.detach().clone());
  kto::save_checkpoint(folder, tensors, kto::default_shard_size, "adapter_model");
  CHECK(at::equal(logps(kto::load_adapter(base, folder).policy), logps(adapted.policy)));

  tensors.back().second = tensors.back().second + 1;
  kto::save_checkpoint(folder, tensors, kto::default_shard_size, "adapter_model");
  CHECK_THROWS_WITH(kto::load_adapter(base, folder),
                    KTO_CONTAINS("base_model.model.model.embed_tokens.weight differs from the base model"));
  kto::fs::remove_all(folder);
}

TEST_CASE("adapters are saved and loaded whole; other shapes and names are errors") {
  const kto::fs::path folder = kto::fs::temp_directory_path() / ("kto_adapter_" + std::to_string(::getpid()));
  const kto::LoraConfig config{
      .r = 2, .target_modules = {"q_proj", "up_proj"}, .modules_to_save = {"lm_head"}, .use_dora = true};
  auto adapted = kto::with_adapter(base_decoder(), config);
  train_a_little(adapted.policy);
  kto::save_adapter(adapted, folder, KTO_SOURCE_DIR "/tests/golden/data/model");
  CHECK(at::allclose(logps(kto::load_adapter(base_decoder(), folder).policy), logps(adapted.policy), 1e-12, 1e-12));
  CHECK(kto::fs::exists(folder / "tokenizer.json"));
  CHECK(kto::read_json(folder / "tokenizer_config.json").value("pad_token", "none") == "none");

  Json json = kto::read_json(folder / "adapter_config.json");
  CHECK(json["base_model_name_or_path"] == KTO_SOURCE_DIR "/tests/golden/data/model");
  adapted.config.base_model_name_or_path = "org/base";
  kto::save_adapter(adapted, folder, KTO_SOURCE_DIR "/tests/golden/data/model",
                    {.bos = {}, .eos = {}, .pad = kto::NamedToken{"<|end|>", 2}});
  CHECK(kto::read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "org/base");
  CHECK(kto::read_json(folder / "tokenizer_config.json")["pad_token"] == "<|end|>");
  json["r"] = 3;
  kto::write_file(folder / "adapter_config.json", json.dump());
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder),
                    KTO_CONTAINS("lora_A.weight has shape [2, 8], expected [3, 8]"));
  json["r"] = 2, json["target_modules"] = {"q_proj"};
  kto::write_file(folder / "adapter_config.json", json.dump());
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder),
                    KTO_CONTAINS("unexpected: base_model.model.model.layers.0.mlp.up_proj"));
  kto::fs::remove(folder / "adapter_model.safetensors");
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder), KTO_CONTAINS("adapter_model.safetensors: is missing"));
  kto::write_file(folder / "adapter_model.bin", "a pickle");
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder),
                    KTO_CONTAINS("adapter_model.bin: pickled weights are not read") && KTO_CONTAINS("save_file"));
  kto::fs::remove_all(folder);
  CHECK_THROWS_WITH(kto::load_adapter(base_decoder(), folder), KTO_CONTAINS("adapter_config.json is missing"));
}

}  // namespace test_adapter
