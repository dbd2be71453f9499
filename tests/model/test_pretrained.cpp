// SPDX-License-Identifier: Apache-2.0
// Model folders: what is loaded, what is refused, and what is saved. With the environment variable KTO_PYTHON naming a
// Python that has transformers, saved folders are checked with it too (check_saved_model.py).
#include <cstdlib>
#include <map>
#include <set>

#include "catch.hpp"
#include "kto/logprob/completion.hpp"
#include "kto/model/held_as_stored.hpp"
#include "kto/model/pretrained.hpp"
#include "kto/nn/cast_each_time.hpp"
#include "tests/model/model_cases.hpp"

namespace kto::test::test_pretrained {
namespace {

using Tensors = std::vector<std::pair<std::string, Tensor>>;

struct Scratch {
  fs::path path = fs::temp_directory_path() / ("kto_pretrained_" + std::to_string(::getpid()));
  Scratch() {
    fs::remove_all(path);
    fs::create_directories(path / "source");
  }
  ~Scratch() { fs::remove_all(path); }
};

Json tiny_config(const char* changes = "{}") {
  Json config = Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 60,
      "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-06, "torch_dtype": "bfloat16",
      "tie_word_embeddings": false, "unknown_key": [1, null, "\u00e9"]})");
  config.merge_patch(Json::parse(changes));
  return config;
}

/// A source folder; returns its weights, in float32.
Tensors make_source(const fs::path& folder, const Json& config, at::ScalarType dtype = at::kFloat) {
  write_file(folder / "config.json", config.dump(2));
  Tensors weights = case_decoder(parse_model_config(config, "test"), at::kFloat).named_parameters();
  for (auto& item : weights) item.second = item.second.detach().to(dtype);
  save_checkpoint(folder, weights);
  for (auto& item : weights) item.second = item.second.to(at::kFloat);
  return weights;
}

bool same(const Decoder& decoder, const Tensors& weights) {
  const auto parameters = decoder.named_parameters();
  if (parameters.size() != weights.size()) return false;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (parameters[i].first != weights[i].first || !at::equal(parameters[i].second, weights[i].second)) return false;
  return true;
}

Tensor logits(const Decoder& decoder, const Tensor& ids_BT) {
  Sequences sequences;
  sequences.ids_N = ids_BT.flatten();
  sequences.position_N = at::arange(ids_BT.size(1)).repeat({ids_BT.size(0)});
  for (std::int64_t b = 0; b < ids_BT.size(0); ++b)
    sequences.segments.push_back({.begin = b * ids_BT.size(1), .length = ids_BT.size(1)});
  const at::NoGradGuard no_grad;
  return head_logits(decoder.hidden(sequences), decoder.head()).unflatten(0, {ids_BT.size(0), -1});
}

/// Writes what transformers has to give for a saved model.
void expect_logits(const Decoder& decoder, const fs::path& folder) {
  const Tensor ids_BT = at::arange(24).mul(7).remainder(decoder.spec.vocab_size).view({2, 12});
  save_safetensors(folder / "expected_logits.safetensors", {{"ids", ids_BT}, {"logits", logits(decoder, ids_BT)}});
}

/// Loads folders after expect_logits with transformers, if a Python has it, and compares logits.
void check_with_transformers(const std::vector<fs::path>& folders) {
  const char* python = std::getenv("KTO_PYTHON");
  if (python == nullptr || *python == '\0') {
    WARN("skipped: saved models were not loaded with transformers; set KTO_PYTHON to a Python that has it");
    return;
  }
  std::string command = concat('"', python, "\" \"", KTO_SOURCE_DIR, "/tests/model/check_saved_model.py\"");
  for (const fs::path& folder : folders) command += concat(" \"", folder.string(), '"');
  CHECK(std::system(command.c_str()) == 0);
}

TEST_CASE("parameters are float32 masters that require a gradient, whatever the file holds") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  for (const auto stored : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    const Tensors weights = make_source(source, tiny_config(), stored);
    const Decoder decoder = load_pretrained(source);
    CHECK(same(decoder, weights));
    CHECK(decoder.compute == at::kFloat);
    for (const auto& item : decoder.named_parameters()) {
      CHECK(item.second.scalar_type() == at::kFloat);
      CHECK((item.second.requires_grad() && item.second.is_leaf()));
    }
    CHECK(load_pretrained(source, at::kBFloat16).embed_tokens.weight_VD.scalar_type() == at::kBFloat16);
    CHECK(load_pretrained(source, at::kDouble).compute == at::kDouble);
  }
  CHECK_THROWS_WITH(load_pretrained(source, at::kInt), KTO_CONTAINS("floating-point type"));
}

TEST_CASE("every weight that is missing, unexpected or misshapen is named, ten at most") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  const Tensors weights = make_source(source, tiny_config());
  const auto with = [&](auto change) {
    Tensors changed = weights;
    change(changed);
    save_checkpoint(source, changed);
  };
  const auto start = KTO_CONTAINS(source.string() + ": the weights do not match the llama model");
  const auto erase = [](Tensors& t, const std::string& name) {
    std::erase_if(t, [&](const auto& item) { return item.first == name; });
  };
  with([&](Tensors& t) {
    erase(t, "model.layers.1.mlp.up_proj.weight");
    t.emplace_back("model.layers.0.self_attn.q_proj.bias", at::ones({32}));
    t[2].second = at::ones({5, 32});
    t[3].second = at::ones({16, 32}, at::kChar);
  });
  CHECK_THROWS_WITH(load_pretrained(source),
                    start && KTO_CONTAINS("missing: model.layers.1.mlp.up_proj.weight") &&
                        KTO_CONTAINS("unexpected: model.layers.0.self_attn.q_proj.bias") &&
                        KTO_CONTAINS("model.layers.0.self_attn.k_proj.weight has shape [5, 32], expected [16, 32]") &&
                        KTO_CONTAINS("model.layers.0.self_attn.v_proj.weight has type Char"));
  with([&](Tensors& t) { t.erase(t.begin() + 1, t.begin() + 13); });
  CHECK_THROWS_WITH(load_pretrained(source), start && KTO_CONTAINS("; and 8 more") && !KTO_CONTAINS("\n"));
  with([&](Tensors& t) { erase(t, "lm_head.weight"); });
  CHECK_THROWS_WITH(load_pretrained(source), start && KTO_CONTAINS("missing: lm_head.weight"));

  SECTION("rotary buffers of old checkpoints and layers for later tokens are not unexpected") {
    with([&](Tensors& t) {
      t.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::ones({4}));
      t.emplace_back("mtp.layers.0.input_layernorm.weight", at::ones({4}));
    });
    CHECK(same(load_pretrained(source), weights));
  }
  SECTION("a bare backbone has no prefix") {
    write_file(source / "config.json", tiny_config(R"({"tie_word_embeddings": true})").dump());
    with([&](Tensors& t) {
      erase(t, "lm_head.weight");
      for (auto& item : t) item.first = item.first.substr(6);
    });
    Tensors tied = weights;
    erase(tied, "lm_head.weight");
    CHECK(same(load_pretrained(source), tied));
  }
}

TEST_CASE("null in config.json is as the absent key, when the model is saved too") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source", target = scratch.path / "target";
  make_source(source, tiny_config("{}"));
  Json config = read_json(source / "config.json");
  config["tie_word_embeddings"] = nullptr;
  write_file(source / "config.json", config.dump());
  const Decoder decoder = load_pretrained(source);
  save_pretrained(decoder, target, source);
  CHECK(same(load_pretrained(target), decoder.named_parameters()));
}

/// A model of two layers with 3 experts, the second one's after a dense layer.
Json experts_config(const char* changes = "{}") {
  Json config = tiny_config(R"({"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "num_experts": 3,
      "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 20,
      "torch_dtype": "float32", "mlp_only_layers": [0]})");
  config.merge_patch(Json::parse(changes));
  return config;
}

TEST_CASE("experts are read fused, renamed and one by one, and saved as they came") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  std::vector<fs::path> all_saved;
  const auto check_form = [&](const Json& config, ExpertFiles form, const char* held) {
    INFO(config["model_type"] << ", " << held);
    Decoder decoder = case_decoder(parse_model_config(config, "test"), at::kFloat);
    decoder.spec.names.layer.experts.files = form;
    write_file(source / "config.json", config.dump(2));
    save_checkpoint(source, detail::written_tensors(decoder));
    CHECK(Checkpoint(source).contains(held));
    const Decoder loaded = load_pretrained(source);
    CHECK(same(loaded, decoder.named_parameters()));
    visit_buffers(loaded, [&](const std::string& name, const Tensor& tensor, const auto& shape) {
      CHECK(at::equal(tensor, case_weight(name, shape).to(at::kFloat)));
      CHECK_FALSE(tensor.requires_grad());
    });
    const fs::path target = all_saved.emplace_back(scratch.path / std::to_string(all_saved.size()));
    save_pretrained(loaded, target, source);
    const auto names = [](const fs::path& folder) {
      const auto list = Checkpoint(folder).names();
      return std::set(list.begin(), list.end());
    };
    CHECK(names(target) == names(source));
    CHECK(same(load_pretrained(target), decoder.named_parameters()));
    expect_logits(loaded, target);
  };
  check_form(experts_config(), ExpertFiles::fused, "model.layers.1.mlp.experts.gate_up_proj");
  check_form(experts_config(), ExpertFiles::split, "model.layers.1.mlp.experts.2.gate_proj.weight");
  check_form(experts_config(R"({"model_type": "phimoe", "num_local_experts": 3})"), ExpertFiles::split,
             "model.layers.0.block_sparse_moe.gate.weight");
  check_form(experts_config(R"({"model_type": "granitemoe", "num_local_experts": 3})"), ExpertFiles::renamed,
             "model.layers.0.block_sparse_moe.input_linear.weight");
  check_form(experts_config(R"({"model_type": "glm4_moe", "n_routed_experts": 4, "num_experts": null, "head_dim": 8})"),
             ExpertFiles::split, "model.layers.1.mlp.gate.e_score_correction_bias");
  check_with_transformers(all_saved);
}

TEST_CASE("a number of experts that contradicts the config is one error") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  for (const auto form : {ExpertFiles::split, ExpertFiles::fused}) {
    Decoder decoder = case_decoder(parse_model_config(experts_config(), "test"), at::kFloat);
    decoder.spec.names.layer.experts.files = form;
    save_checkpoint(source, detail::written_tensors(decoder));
    for (const char* count : {R"({"num_experts": 2})", R"({"num_experts": 5})"}) {
      write_file(source / "config.json", experts_config(count).dump());
      CHECK_THROWS_WITH(load_pretrained(source),
                        form == ExpertFiles::split
                            ? KTO_CONTAINS("the weights have 3 experts in layer 1, and config.json has ")
                            : KTO_CONTAINS("model.layers.1.mlp.experts.gate_up_proj has shape [3, 24, 32], expected"));
    }
  }
}

TEST_CASE("a tied head is tied as transformers ties it") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  Tensors weights = make_source(source, tiny_config(R"({"tie_word_embeddings": true})"));
  REQUIRE(weights.back().first != "lm_head.weight");
  const auto head_is_embedding = [](const Decoder& d) { return d.head().weight_VD.is_same(d.embed_tokens.weight_VD); };
  CHECK(head_is_embedding(load_pretrained(source)));

  Tensors both = weights;
  both.emplace_back("lm_head.weight", weights[0].second.clone());
  save_checkpoint(source, both);
  CHECK(head_is_embedding(load_pretrained(source)));
  CHECK(same(load_pretrained(source), weights));

  both.back().second = both.back().second + 1;
  save_checkpoint(source, both);
  const Decoder untied = load_pretrained(source);
  CHECK_FALSE(head_is_embedding(untied));
  CHECK(same(untied, both));
  save_pretrained(untied, scratch.path / "untied", source);
  CHECK(read_json(scratch.path / "untied/config.json")["tie_word_embeddings"] == false);
  expect_logits(untied, scratch.path / "untied");
  check_with_transformers({scratch.path / "untied"});

  save_checkpoint(source, weights, 5000);  // an index that names the tied head, which no shard holds
  Json index = read_json(source / "model.safetensors.index.json");
  const Json shard = index["weight_map"].back();
  index["weight_map"]["lm_head.weight"] = shard;
  write_file(source / "model.safetensors.index.json", index.dump());
  CHECK(head_is_embedding(load_pretrained(source)));
  CHECK(same(load_pretrained(source), weights));
  write_file(source / "config.json", tiny_config().dump());
  CHECK_THROWS_WITH(load_pretrained(source), KTO_CONTAINS("missing: lm_head.weight"));
  write_file(source / "config.json", tiny_config(R"({"tie_word_embeddings": true})").dump());

  both = weights;
  both[0].first = "lm_head.weight";
  save_checkpoint(source, both);
  CHECK(same(load_pretrained(source), weights));
}

TEST_CASE("a saved folder has the weights, the config with its keys, and the files around them") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source", target = scratch.path / "deep/target";
  const Tensors weights = make_source(source, tiny_config(), at::kBFloat16);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
                           "vocab.json", "merges.txt", "README.md", "training_args.bin"})
    write_file(source / name, concat("content of ", name));
  fs::create_directories(source / "additional_chat_templates");
  write_file(source / "additional_chat_templates/tool.jinja", "tool");
  const Decoder decoder = load_pretrained(source);
  save_pretrained(decoder, target, source);
  CHECK(read_file(target / "tokenizer.json") == "content of tokenizer.json");
  CHECK(read_file(target / "additional_chat_templates/tool.jinja") == "tool");
  CHECK(fs::exists(target / "chat_template.jinja"));
  CHECK_FALSE(fs::exists(target / "README.md"));
  CHECK_FALSE(fs::exists(target / "training_args.bin"));
  Json config = read_json(target / "config.json");
  CHECK(config["torch_dtype"] == "float32");
  CHECK_FALSE(config.contains("dtype"));
  config["torch_dtype"] = "bfloat16";
  CHECK(config == read_json(source / "config.json"));
  CHECK(same(load_pretrained(target), weights));
  CHECK(SafetensorsFile(target / "model.safetensors").metadata().at("format") == "pt");

  SECTION("as the files were when the model was loaded") {
    const ModelFiles files(source);
    write_file(source / "config.json", "{}");
    write_file(source / "chat_template.jinja", "another");
    fs::remove(source / "vocab.json");
    save_pretrained(decoder, scratch.path / "later", files);
    CHECK(read_json(scratch.path / "later/config.json") == read_json(target / "config.json"));
    CHECK(read_file(scratch.path / "later/chat_template.jinja") == "content of chat_template.jinja");
    fs::remove_all(source);
    save_pretrained(decoder, scratch.path / "last", files);
    CHECK(read_file(scratch.path / "last/vocab.json") == "content of vocab.json");
    CHECK(same(load_pretrained(scratch.path / "last"), weights));
  }
  SECTION("in shards, into the folder that it came from, in the parameters' type") {
    const fs::path whole = scratch.path / "whole";
    for (const char* name : {"generation_config.json", "tokenizer_config.json", "tokenizer.json"})
      fs::remove(target / name);
    fs::copy(target, whole);
    expect_logits(decoder, whole);
    save_pretrained(load_pretrained(target, at::kBFloat16), target, target, {}, 5000);
    CHECK_FALSE(fs::exists(target / "model.safetensors"));
    CHECK(read_json(target / "config.json")["torch_dtype"] == "bfloat16");
    CHECK(same(load_pretrained(target), weights));
    expect_logits(load_pretrained(target), target);
    check_with_transformers({whole, target});
  }
  SECTION("a failed save leaves the folder unchanged") {
    fs::create_directories(scratch.path / "broken");
    CHECK_THROWS_AS(save_pretrained(decoder, target, scratch.path / "broken"), Error);
    CHECK(same(load_pretrained(target), weights));
  }
}

TEST_CASE("weights that stay in their files, half as wide, give the numbers of wide ones to the last bit") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  const at::NoGradGuard no_grad;
  const auto sequences = case_sequences({case_ids(0, 9, 60), case_ids(1, 5, 60)}, false);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    for (const char* tied : {R"({"tie_word_embeddings": true})", "{}"}) {
      make_source(source, tiny_config(tied), type);
      const Decoder wide = load_pretrained(source), held = held_as_stored(wide, source);
      for (const auto& [name, tensor] : held.named_parameters())
        CHECK((tensor.scalar_type() == type) == (tensor.dim() > 1));
      CHECK((!held.embed_tokens.weight_VD.requires_grad() && held.mapped && !wide.mapped));
      const Tensor logp_B = score_completions(wide, sequences).logp_B;
      CHECK(at::equal(score_completions(held, sequences).logp_B, logp_B));
      const CastOnce once;
      const CastEachTime each_time;
      CHECK(at::equal(score_completions(frozen_copy(held), sequences).logp_B, logp_B));
    }
  const Decoder wide = load_pretrained(source);
  wide.layers[1].down_proj.weight_OI.add_(1);
  const Decoder held = held_as_stored(wide, source);
  CHECK(held.layers[1].down_proj.weight_OI.is_same(wide.layers[1].down_proj.weight_OI));  // not that of the file
  CHECK(held.layers[0].down_proj.weight_OI.scalar_type() == at::kHalf);
  Decoder narrow = wide;
  narrow.compute = at::kBFloat16;
  CHECK_FALSE(held_as_stored(narrow, source).mapped);
  CHECK_NOTHROW(held.mapped->check_unchanged());
  fs::resize_file(source / "model.safetensors", 100);
  CHECK_THROWS_WITH(held.mapped->check_unchanged(), KTO_CONTAINS("was changed while it was in use"));
}

TEST_CASE("a model is saved with the special tokens of its tokenizer") {
  const Scratch scratch;
  const fs::path source = scratch.path / "source", target = scratch.path / "target";
  make_source(source, tiny_config(R"({"eos_token_id": 1})"));
  const std::string generation = R"({"eos_token_id":  1, "do_sample": false})", tokenizer = R"({"eos_token":  "<e>"})";
  write_file(source / "generation_config.json", generation);
  write_file(source / "tokenizer_config.json", tokenizer);
  const Decoder decoder = load_pretrained(source);
  const NamedTokens tokens{.bos = {}, .eos = NamedToken{"<e>", 2}, .pad = NamedToken{"<e>", 2}, .pad_is_eos = true};
  save_pretrained(decoder, target, source);
  CHECK(read_file(target / "generation_config.json") == generation);
  CHECK(read_file(target / "tokenizer_config.json") == tokenizer);
  const auto is_aligned = [&] {
    return read_json(target / "config.json")["eos_token_id"] == 2 &&
           read_json(target / "generation_config.json") ==
               Json::parse(R"({"eos_token_id": [2, 1], "do_sample": false, "pad_token_id": 2})") &&
           read_json(target / "tokenizer_config.json") == Json::parse(R"({"eos_token": "<e>", "pad_token": "<e>"})");
  };
  save_pretrained(decoder, target, source, tokens);
  CHECK(is_aligned());
  const std::string once = read_file(target / "generation_config.json");
  save_pretrained(decoder, target, target, tokens);  // where it came from
  CHECK(is_aligned());
  CHECK(read_file(target / "generation_config.json") == once);
  fs::remove(source / "generation_config.json");
  save_pretrained(decoder, target, source, tokens);
  CHECK(read_json(target / "generation_config.json")["eos_token_id"] == Json::parse("[2, 1]"));
}

TEST_CASE("folders that are not models say what they are") {
  const Scratch scratch;
  CHECK_THROWS_WITH(load_pretrained(scratch.path / "absent"), KTO_CONTAINS("absent: is not a folder"));
  CHECK_THROWS_WITH(load_pretrained(scratch.path), KTO_CONTAINS("config.json"));
  write_file(scratch.path / "adapter_config.json", "{}");
  CHECK_THROWS_WITH(load_pretrained(scratch.path), KTO_CONTAINS("is an adapter"));
  write_file(scratch.path / "config.json", tiny_config().dump());
  CHECK_THROWS_WITH(load_pretrained(scratch.path), KTO_CONTAINS("model.safetensors: is missing"));
}

TEST_CASE("families with names of their own are read under them, and saved under those of transformers") {
  const std::map<std::string, std::string> also_named{{"gpt_neox_plain", "embed_out.weight"},
                                                      {"gpt_neox_old_keys", "gpt_neox.embed_in.weight"},
                                                      {"gptj_plain", "lm_head.bias"},
                                                      {"apertus_plain", "model.layers.1.mlp.act_fn.eps"},
                                                      {"nanochat_plain", "lm_head.weight"}};
  const Scratch scratch;
  const fs::path source = scratch.path / "source";
  std::vector<fs::path> all_saved;
  for (const auto& [name, also] : also_named) {
    INFO(name);
    const fs::path saved = scratch.path / name;
    all_saved.push_back(saved);
    const Json config = read_json(fs::path(KTO_SOURCE_DIR) / "tests/golden/models" / (name + ".json")).at("config");
    const Tensors weights = make_source(source, config);
    const Decoder decoder = load_pretrained(source);
    CHECK(same(decoder, weights));
    save_pretrained(decoder, saved, source);
    CHECK(Checkpoint(saved).contains(also));
    CHECK(same(load_pretrained(saved), weights));
    expect_logits(decoder, saved);
    Tensors bare = weights;  // of the backbone alone
    const std::string prefix = decoder.spec.names.prefix;
    for (auto& item : bare)
      if (item.first.starts_with(prefix)) item.first.erase(0, prefix.size());
    save_checkpoint(source, bare);
    CHECK(same(load_pretrained(source), weights));
  }
  check_with_transformers(all_saved);
}

TEST_CASE("the models of the golden cases load, run and are saved for transformers") {
  const fs::path models = fs::path(KTO_SHARED_DIR) / "golden/models";
  if (!fs::exists(models)) {
    WARN("skipped: " << models.string() << " is missing");
    return;
  }
  const Scratch scratch;
  std::vector<fs::path> all_saved;
  for (const auto& entry : fs::directory_iterator(models)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const Decoder decoder = load_pretrained(entry.path());
    all_saved.push_back(scratch.path / entry.path().filename());
    save_pretrained(decoder, all_saved.back(), entry.path());
    expect_logits(decoder, all_saved.back());
  }
  check_with_transformers(all_saved);
}

}  // namespace
}  // namespace kto::test::test_pretrained
