// SPDX-License-Identifier: Apache-2.0

#include <filesystem>
#include <fstream>

#include "catch.hpp"
#include "kto/cli/arguments.hpp"
#include "kto/io/atomic_file.hpp"
#include "tests/loss/all_losses.hpp"

namespace test_cli {

using namespace kto;
using namespace kto::cli;

namespace {

const LossTable& losses() { return loss_table<Kto, ApoZeroUnpaired, BcoUnpaired, Dpo, Ipo, ApoZeroPaired, ApoDown>(); }
const Options<Arguments>& argument_options() {
  static const auto options = kto::cli::argument_options(losses());
  return options;
}
Json to_json(const Arguments& arguments) { return to_json(argument_options(), arguments); }
Arguments arguments_from_json(const Json& object) {
  Arguments arguments;
  from_json(argument_options(), arguments, object, "a.json");
  return arguments;
}

std::optional<Arguments> parse(std::vector<std::string> words, std::ostream& out = std::cout, const Note& note = {}) {
  std::vector<const char*> argv{"train_kto"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  const Program program{.name = "train_kto", .version = "1.2.3", .usage = "--dataset_name PATH", .summary = "Trains."};
  return parse_arguments(static_cast<int>(argv.size()), argv.data(), program, losses(), out, note);
}

/// With the two required flags.
Arguments run(std::vector<std::string> words) {
  words.insert(words.begin(), {"--model_name_or_path", "model", "--dataset_name=rows.jsonl"});
  return parse(std::move(words)).value();
}

std::string refusal(std::vector<std::string> words) {
  try {
    run(std::move(words));
  } catch (const UsageError& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return "";
}

/// A file that is there as long as this is.
struct TemporaryFile {
  fs::path path = fs::temp_directory_path() / concat("kto_test_cli_", ::getpid(), ".yaml");
  explicit TemporaryFile(std::string_view content) { write_file(path, content); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { fs::remove(path); }
};

Arguments run_yaml(std::string_view yaml, std::vector<std::string> words = {}) {
  const TemporaryFile file(yaml);
  words.insert(words.begin(), {"--config", file.path.string()});
  return run(std::move(words));
}

/// Which options were taken without effect, in order, each followed by a space.
std::string noted(std::vector<std::string> words) {
  std::string names;
  words.insert(words.begin(), {"--model_name_or_path", "model", "--dataset_name=rows.jsonl"});
  (void)parse(std::move(words), std::cout, [&](const std::string& text) {
    const std::size_t end = text.find(" is taken without effect: "), begin = text.rfind(' ', end - 1) + 1;
    REQUIRE(end != std::string::npos);
    names += text.substr(begin, end - begin) + ' ';
  });
  return names;
}

/// The message without the path that it begins with.
std::string refusal_yaml(std::string_view yaml) {
  const TemporaryFile file(yaml);
  const std::string message = refusal({"--config", file.path.string()});
  REQUIRE(message.starts_with(file.path.string()));
  return message.substr(file.path.string().size());
}

}  // namespace

TEST_CASE("flags are spelled as HfArgumentParser spells them") {
  const Arguments none = run({});
  CHECK(none.script.model_name_or_path == "model");
  CHECK(none.script.dataset_name == "rows.jsonl");
  CHECK(none.script.max_length == 1024);
  CHECK(none.train.output_dir == "trainer_output");

  const Arguments some = run({"--learning_rate", "5e-6", "--max-steps=-1", "--beta", ".2", "--loss-type",
                              "apo_zero_unpaired", "--max_length", "None", "--seed", "1", "--seed", "2"});
  CHECK(some.train.learning_rate == 5e-6);
  CHECK(some.train.max_steps == -1);
  CHECK(some.loss.values.at("beta") == 0.2);
  CHECK(some.loss.type == "apo_zero_unpaired");
  CHECK_FALSE(some.script.max_length);
  CHECK(some.train.seed == 2);
  CHECK(run({"--output_dir=a=b"}).train.output_dir == "a=b");
  CHECK(run({"--output_dir=--x"}).train.output_dir == "--x");
  CHECK(run({"--output_dir", "-x"}).train.output_dir == "-x");
}

TEST_CASE("booleans stand alone, with a value, or negated") {
  for (const auto& [words, expected] :
       std::vector<std::pair<std::vector<std::string>, bool>>{{{}, false},
                                                              {{"--bf16"}, true},
                                                              {{"--bf16", "--seed", "1"}, true},
                                                              {{"--bf16", "True"}, true},
                                                              {{"--bf16=yes"}, true},
                                                              {{"--bf16", "1"}, true},
                                                              {{"--bf16", "false"}, false},
                                                              {{"--bf16", "--no_bf16"}, false},
                                                              {{"--bf16", "--no-bf16"}, false},
                                                              {{"--no_bf16", "--bf16"}, true}})
    CHECK(run(words).train.bf16 == expected);
  CHECK_FALSE(run({"--no_disable_dropout"}).script.disable_dropout);
  CHECK(run({"--disable_tqdm"}).script.disable_tqdm == true);
  CHECK(run({"--use_cpu"}).script.device == "cpu");
  CHECK(run({"--no_cuda"}).script.device == "cpu");
  CHECK(run({"--no_cuda", "False"}).script.device == "auto");
  CHECK(run({"--no_fp16", "--no_tf32", "--no-push-to-hub"}).train.bf16 == false);
  CHECK_THAT(refusal({"--bf16", "maybe"}), KTO_CONTAINS("--bf16: expected True or False, got \"maybe\""));
  CHECK_THAT(refusal({"--no_bf16", "True"}), KTO_CONTAINS("unexpected argument \"True\""));
  CHECK_THAT(refusal({"--no_bf16=True"}), KTO_CONTAINS("--no_bf16: expected no value"));
  CHECK_THAT(refusal({"--no_seed"}), KTO_CONTAINS("unknown option --no_seed; did you mean --seed?"));
}

TEST_CASE("a bad command line is one line that names flag, value, and what is expected") {
  CHECK(refusal({"--learnin_rate", "3"}) == "unknown option --learnin_rate; did you mean --learning_rate?");
  CHECK(refusal({"--learning-rate=-1"}) == "--learning-rate: expected a number from 0 to 1e+300, got \"-1\"");
  CHECK(refusal({"--learning_rate", "--bf16"}) == "--learning_rate: expected a number from 0 to 1e+300 after it");
  CHECK(refusal({"--max_length", "1"}) == "--max_length: expected None or an integer from 2 to 1000000000, got \"1\"");
  CHECK(refusal({"--save_strategy", "often"}) ==
        "--save_strategy: expected one of no, steps, epoch, best, got \"often\"");
  CHECK_THAT(refusal({"--lora_target_modules", "q_proj", "v_proj"}), KTO_CONTAINS("add --use_peft"));
  CHECK(refusal({"--use_peft", "--lora_target_modules", "q_proj", "v_proj", "--lora_r", "8"}) == "");
  CHECK_THAT(refusal({"--use_peft", "--adapter_name_or_path", "x"}), KTO_CONTAINS("give one of them"));
  CHECK_THAT(refusal({"--use_peft", "--lora_task_type", "SEQ_CLS"}), KTO_CONTAINS("expected CAUSAL_LM"));
  CHECK_THAT(refusal({"--use_peft", "--lora_dropout", "1"}), KTO_CONTAINS("--lora_dropout"));
  CHECK_THAT(refusal({"--merge_and_unload"}), KTO_CONTAINS("merge_and_unload needs --use_peft"));
  CHECK_THAT(refusal({"--optim", "lomo"}), KTO_CONTAINS("has no counterpart (expected adamw_torch_fused or"));
  CHECK(run({"--adafactor"}).script.optim == Optim::adafactor);
  CHECK(run({"--optim", "paged_adamw_32bit"}).script.optim == Optim::adamw_torch);
  for (const char* name : {"adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit", "paged_adamw_8bit"})
    CHECK(run({"--optim", name}).script.optim == Optim::adamw_8bit);
  CHECK_THAT(refusal({"--report_to", "tensorbord", "html"}), KTO_CONTAINS("got \"tensorbord html\""));
  CHECK_THAT(refusal({"--report_to", "html", "comet_ml"}), KTO_CONTAINS("TensorBoard's event files"));
  CHECK_THAT(refusal({"--report_to", "html", "mlflow"}), KTO_CONTAINS("report_to mlflow"));
  CHECK(run({"--report_to", "all"}).script.report_to == std::vector<std::string>{"html", "jsonl", "tensorboard"});
  CHECK_FALSE(run({"--report_to", "none"}).script.report_to);
  CHECK(noted({"--run_name", "x", "--logging_dir", "y"}) == "logging_dir run_name ");
  CHECK(noted({"--run_name", "x", "--logging_dir", "y", "--report_to", "tensorboard"}) == "");
  CHECK(noted({"--padding_value", "3", "--pad_to_multiple_of", "8"}) == "padding_value pad_to_multiple_of ");
  CHECK(noted({"--padding_value", "3", "--pad_to_multiple_of", "8", "--collator", "padded"}) == "");
  CHECK(noted({"--pad_to_multiple_of", "auto"}) == "");
  CHECK(run({"--pad_to_multiple_of", "8", "--collator", "padded"}).script.pad_to_multiple_of == 8);
  CHECK(noted({"--bf16_full_eval"}) == "bf16_full_eval ");
  CHECK(noted({"--fp16_full_eval", "--do_eval"}) == "");
  CHECK_THAT(refusal({"--fp16_full_eval", "--bf16_full_eval", "--do_eval"}), KTO_CONTAINS("give one of them"));
  CHECK_THAT(refusal({"--fp16", "--bf16"}), KTO_CONTAINS("use one of them"));
  CHECK_THAT(refusal({"--fp16", "--dtype", "bfloat16"}), KTO_CONTAINS("fp16 trains parameters of float32"));
  CHECK(run({"--fp16"}).train.fp16);
  CHECK(run({"--model_init_kwargs", R"({"dtype": "bfloat16", "revision": "main"})"}).script.dtype ==
        ModelDtype::bfloat16);
  CHECK(run({"--model_revision", "v1"}).script.model_revision == "v1");
  CHECK(run({"--model_init_kwargs", R"({"revision": "v1"})"}).script.model_revision == "v1");
  CHECK_THAT(refusal({"--model_revision", "v2", "--model_init_kwargs", R"({"revision": "v1"})"}),
             KTO_CONTAINS("name two revisions"));
  CHECK(run({"--ref_model_init_kwargs", R"({"revision": "v1"})"}).script.model_revision == "main");
  CHECK(run({"--ref_model_init_kwargs", R"({"torch_dtype": "torch.bfloat16"})"}).script.ref_dtype ==
        ReferenceDtype::bfloat16);
  CHECK(noted({"--model_init_kwargs", R"({"use_cache": false})"}) == "use_cache ");
  CHECK(run({"--torch_dtype", "bfloat16"}).script.dtype == ModelDtype::bfloat16);
  CHECK(refusal({"--torch_dtyp", "x"}) == "unknown option --torch_dtyp; did you mean --dtype?");
  CHECK(refusal({"--max_seq_length", "x"}) == "unknown option --max_seq_length; did you mean --max_length?");
  CHECK(refusal({"--dataset_mixer", "x"}) == "unknown option --dataset_mixer; did you mean --datasets?");
  CHECK(refusal({"--wandb_project", "x"}) == "unknown option --wandb_project; did you mean --report_to?");
  CHECK_THAT(refusal({"--num_processes", "2"}), KTO_CONTAINS("srun or mpirun starts the processes"));
  CHECK_THAT(refusal({"--load_in_4bit"}), KTO_CONTAINS("quantized models"));
  CHECK_THAT(refusal({"--model_init_kwargs", R"({"device_map": "auto"})"}),
             KTO_CONTAINS("model_init_kwargs: device_map: expected \"dtype\""));
  CHECK_THAT(refusal({"--model_init_kwargs", "bfloat16"}), KTO_CONTAINS("expected None or a JSON object"));
  CHECK(run({"--include_num_input_tokens_seen"}).train.include_num_input_tokens_seen == InputTokens::all);
  CHECK(run({"--include_num_input_tokens_seen", "False"}).train.include_num_input_tokens_seen == InputTokens::no);
  CHECK(run({"--include_tokens_per_second"}).train.include_num_input_tokens_seen == InputTokens::non_padding);
  CHECK(refusal({"--optim", "adamw_torch"}) == "");
  CHECK(refusal({"--report_to", "none", "--push_to_hub", "False", "--dtype", "auto", "--device", "cuda:1"}) == "");
  CHECK_THAT(refusal({"--push_to_hub"}), KTO_CONTAINS("push_to_hub needs libcurl"));  // tests have none
  CHECK_THAT(refusal({"--push_to_hub_organization", "org"}), KTO_CONTAINS("write hub_model_id owner/name"));
  const Arguments pushing = run({"--push_to_hub_token", "hf_secret", "--push_to_hub_model_id", "org/x"});
  CHECK((pushing.script.hub_token == "hf_secret" && pushing.script.hub_model_id == "org/x"));
  const Json written = to_json(pushing);
  CHECK(written.dump().find("hf_secret") == std::string::npos);
  CHECK_FALSE(run({"--hub_token", written["hub_token"].get<std::string>()}).script.hub_token);
  for (const char* device : {"CUDA", "cuda:", "cuda:x", "cuda:1234", "auto:1", "None"})
    CHECK_THAT(refusal({"--device", device}), KTO_CONTAINS("expected auto, or LibTorch's name for a device"));
  CHECK(run({"--device", "xpu:3"}).script.device == "xpu:3");
  CHECK_THAT(refusal({"--beta", "0"}), KTO_CONTAINS("--beta: expected a number > 0"));
  CHECK_THAT(refusal({"stray"}), KTO_CONTAINS("unexpected argument \"stray\""));
  CHECK_THAT(refusal({"--"}), KTO_CONTAINS("unexpected argument"));
  CHECK_THAT(refusal({"--new\nline"}), KTO_CONTAINS("unknown option --new\\nline"));
  CHECK_THAT(refusal({"--output_dir", "\xff"}), KTO_CONTAINS("not UTF-8"));
  CHECK_THAT(refusal({"--output_dir", ""}), KTO_CONTAINS("--output_dir: expected a text"));
  CHECK_THAT(refusal({"--eval_on_start"}), KTO_CONTAINS("eval_on_start"));
  for (const char* moving : {"--sync_ref_model", "--ref_model_ema_decay=0.9"}) {
    const auto with = [&](std::vector<std::string> words) {
      words.emplace_back(moving);
      return refusal(words);
    };
    CHECK(with({}) == "");
    CHECK_THAT(with({"--ref_dtype", "bfloat16"}), KTO_CONTAINS("leave out --ref_dtype"));
    CHECK(with({"--ref_model_name_or_path", "r", "--ref_dtype", "bfloat16"}) == "");
    CHECK(with({"--adapter_name_or_path", "a", "--ref_adapter_name", "b"}) == "");
  }
  CHECK_THAT(refusal({"--adapter_name_or_path", "a", "--ref_adapter_name", "b", "--ref_model_name_or_path", "c"}),
             KTO_CONTAINS("both name the reference"));
  CHECK_THAT(refusal({"--no_do_train"}), KTO_CONTAINS("nothing to do"));
  CHECK_THROWS_WITH(parse({}), KTO_CONTAINS("--model_name_or_path is required"));
  CHECK_THROWS_WITH(parse({"--model_name_or_path", "m"}), KTO_CONTAINS("--dataset_name is required"));
}

TEST_CASE("a YAML file gives defaults that the command line overrides") {
  const char* yaml =
      "# a run\n"
      "model_name_or_path: other\n"
      "learning_rate: 5e-6\n"
      "eval_strategy: no\n"
      "bf16: yes\n"
      "max_length: null\n"
      "lr_scheduler_type: \"cosine\"\n"
      "seed: 7\n"
      "report_to: [none]\n"
      "gradient_checkpointing_kwargs:\n"
      "env:\n"
      "  KTO_TEST_CLI_A: 4\n"
      "  KTO_TEST_CLI_B: true\n"
      "  KTO_TEST_CLI_C: 'true'\n";
  const Arguments arguments = run_yaml(yaml, {"--seed", "8"});
  CHECK(arguments.script.model_name_or_path == "model");
  CHECK(arguments.train.learning_rate == 5e-6);
  CHECK(arguments.train.eval_strategy == IntervalStrategy::no);
  CHECK(arguments.train.bf16);
  CHECK_FALSE(arguments.script.max_length);
  CHECK(arguments.train.lr_scheduler_type == LrSchedulerType::cosine);
  CHECK(arguments.train.seed == 8);
  CHECK(std::getenv("KTO_TEST_CLI_A") == std::string("4"));
  CHECK(std::getenv("KTO_TEST_CLI_B") == std::string("True"));
  CHECK(std::getenv("KTO_TEST_CLI_C") == std::string("true"));

  const TemporaryFile whole("model_name_or_path: m\ndataset_name: d\noutput_dir: ~/runs\n");
  const Arguments from_file = parse({"--config=" + whole.path.string()}).value();
  CHECK(from_file.script.dataset_name == "d");
  const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  if (!home.empty()) CHECK(from_file.train.output_dir == home + "/runs");
  ::setenv("HOME", "", 1);
  CHECK(kto::expand_home("~/runs") != "/runs");
  ::setenv("HOME", home.c_str(), 1);
}

TEST_CASE("YAML files after the kinds of TRL's repository and of others are taken as they are") {
  const fs::path folder = fs::path(KTO_SOURCE_DIR) / "tests/examples/options";
  const std::vector<std::pair<const char*, const char*>> files{
      {"docs", ""},
      {"full", "eval_steps "},
      {"lora", "use_bnb_nested_quant "},
      {"no_lora", "lora_r lora_alpha lora_dropout lora_target_modules "},
      {"handbook",
       "attn_implementation gradient_checkpointing_kwargs log_level trust_remote_code use_liger_kernel hub_model_id "
       "hub_private_repo "},
      {"blog",
       "attn_implementation dataloader_persistent_workers gradient_checkpointing_kwargs torch_compile "
       "use_cache attn_implementation warmup_ratio metric_for_best_model logging_dir "},
      {"old", "gradient_checkpointing_use_reentrant remove_unused_columns padding_value "},
      {"launcher",
       "accelerate_config accelerator_config average_tokens_across_devices local_rank num_processes fsdp_config "},
      {"merged", ""},
      {"everything_else",
       "activation_offloading batch_eval_metrics dataloader_in_order do_predict enable_jit_checkpoint "
       "eval_accumulation_steps eval_do_concat_batches include_for_metrics label_names length_column_name log_level "
       "log_on_each_node optim_target_modules restore_callback_states_from_checkpoint save_on_each_node "
       "use_cache use_liger_loss precompute_ref_batch_size ref_model_mixup_alpha eval_delay ignore_data_skip "
       "project "}};
  for (const auto& [name, notes] : files) {
    INFO(name);
    CHECK(noted({"--config", (folder / name += ".yaml").string()}) == notes);
  }
  CHECK(static_cast<std::ptrdiff_t>(files.size()) ==
        std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  const auto merged = run({"--config", (folder / "merged.yaml").string()}).train;
  CHECK(merged.learning_rate == 2e-5);  // its own
  CHECK(merged.weight_decay == 0.1);    // of the first of the two that it takes in
  CHECK(merged.lr_scheduler_type == LrSchedulerType::cosine_with_restarts);
  CHECK(merged.lr_scheduler_kwargs == Json{{"num_cycles", 2}});
  const auto old = run({"--config", (folder / "old.yaml").string()});
  CHECK(old.train.per_device_train_batch_size == 4);
  CHECK(old.script.device == "cpu");
  CHECK(run({"--config", (folder / "no_lora.yaml").string()}).script.lora_r == ScriptConfig{}.lora_r);
}

TEST_CASE("merges of a YAML file") {
  CHECK(run_yaml("<<: {seed: 3, beta: 0.2}\nseed: 4\n").train.seed == 4);
  CHECK(run_yaml("a: &a {seed: 3}\nb: &b {<<: *a, beta: 0.2}\n<<: *b\n").train.seed == 3);
  CHECK(run_yaml("<<:\n- {seed: 3}\n- {seed: 5}\n").train.seed == 3);
  CHECK_THAT(refusal_yaml("<<: 3\n"), KTO_CONTAINS(": line 1: expected a mapping, or a list of mappings, after <<"));
  CHECK_THAT(refusal_yaml("<<: [{seed: 3}, 4]\n"), KTO_CONTAINS("after <<"));
  CHECK_THAT(refusal_yaml("\"<<\": {seed: 3}\n"), KTO_CONTAINS("line 1: <<: unknown key"));
  CHECK_THAT(refusal_yaml("common: &a {seed: 3}\n"), KTO_CONTAINS("line 1: common: unknown key"));  // nobody takes it
  CHECK_THAT(refusal_yaml("common: &a {seed: one}\n<<: *a\n"), KTO_CONTAINS("line 1: seed: expected an integer"));
  CHECK_THAT(refusal_yaml("seed: 1\nseed: 2\n<<: {seed: 3}\n"), KTO_CONTAINS("given twice"));
  CHECK_THAT(refusal_yaml("lr_scheduler_kwargs: &a {<<: *a}\n"), KTO_CONTAINS("levels deep"));
  const auto env = run_yaml("e: &e {KTO_TEST_CLI_D: 1}\nenv: {<<: *e}\n");
  CHECK(std::getenv("KTO_TEST_CLI_D") == std::string("1"));
}

TEST_CASE("a run's name is one folder of output_dir/runs") {
  const auto folder = [](const std::string& name) {
    return event_folder(run({"--output_dir", "out", "--report_to", "tensorboard", "--run_name", name})).string();
  };
  CHECK(folder("night") == "out/runs/night");
  CHECK(folder("org/night") == "out/runs/org_night");
  CHECK(folder("../../../escaped") == "out/runs/.._.._.._escaped");
  CHECK(folder("/tmp/x") == "out/runs/_tmp_x");
  CHECK(folder("..") == "out/runs/__");
  CHECK(folder(".") == "out/runs/_");
  CHECK(folder("a\nb") == "out/runs/a_b");
  CHECK(event_folder(run({"--output_dir", "out", "--report_to", "tensorboard"})).string() == "out/runs/");
  CHECK(event_folder(run({"--report_to", "tensorboard", "--logging_dir", "logs"})).string() == "logs");
}

TEST_CASE("trl_defaults: TRL's defaults, and before them what is given") {
  const auto both = [](const Arguments& arguments) {
    return std::pair(arguments.train.bf16, arguments.train.gradient_checkpointing);
  };
  CHECK(both(run({})) == std::pair(false, false));
  CHECK(both(run({"--trl_defaults"})) == std::pair(true, true));
  CHECK(both(run({"--trl_defaults", "--no_bf16"})) == std::pair(false, true));
  CHECK(both(run({"--gradient_checkpointing", "False", "--trl_defaults"})) == std::pair(true, false));
  CHECK(both(run({"--trl_defaults", "--fp16"})) == std::pair(false, true));
  CHECK(both(run_yaml("bf16: null\ngradient_checkpointing:\n")) == std::pair(false, false));
  CHECK(both(run_yaml("bf16: null\ntrl_defaults: true\n")) == std::pair(true, true));
  CHECK(both(run_yaml("trl_defaults: true\nbf16: false\n")) == std::pair(false, true));
  CHECK(both(run_yaml("bf16: false\n", {"--trl_defaults"})) == std::pair(false, true));
  CHECK(both(run_yaml("trl_defaults: true\n", {"--trl_defaults", "False"})) == std::pair(false, false));
  CHECK(to_json(run({"--trl_defaults"})) == to_json(run({"--bf16", "--gradient_checkpointing"})));
  std::ostringstream help;
  CHECK_FALSE(parse({"--help"}, help));
  CHECK_THAT(help.str(), KTO_CONTAINS("except bf16 (False, TRL's: True), gradient_checkpointing"));
  // and that no other default is TRL's
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/trl_options.json");
  Json trl = golden["trl"];
  trl.update(golden["resolved"]);
  // no value of their own here: folders that are required, and what follows from the terminal or from the script
  for (const char* name : {"model_name_or_path", "dataset_name", "disable_tqdm", "do_train"}) trl.erase(name);
  trl["report_to"] = "None";  // which both say as an empty list
  for (const auto& row : argument_options()) {
    const std::string name(row.name);
    INFO(name);
    if (row.works() && trl.contains(name))
      CHECK(kto::detail::same_value(row.get(Arguments{}), trl[name].get<std::string>()) == row.trl_default.empty());
  }
}

TEST_CASE("False on the command line for what a YAML file asks for under the same name") {
  const char* yaml = "streaming: true\nuse_cpu: true\nadafactor: true\nmax_steps: 1\n";
  const Arguments asked = run_yaml(yaml);
  CHECK((asked.script.dataset_streaming && asked.script.device == "cpu" && asked.script.optim == Optim::adafactor));
  const Arguments not_asked = run_yaml(yaml, {"--streaming", "False", "--no_use_cpu", "--adafactor=False"});
  CHECK_FALSE(not_asked.script.dataset_streaming);
  CHECK(not_asked.script.device == "auto");
  CHECK(not_asked.script.optim == ScriptConfig{}.optim);
  CHECK(run_yaml("optim: adafactor\n", {"--adafactor", "False"}).script.optim == Optim::adafactor);
}

TEST_CASE("integers of a YAML file as YAML 1.1 spells them") {
  const auto seed = [](const std::string& text) { return run_yaml("seed: " + text + "\n").train.seed; };
  CHECK(seed("1_000") == 1000);
  CHECK(seed("0x1F") == 31);
  CHECK(seed("0b101") == 5);
  CHECK(seed("010") == 8);
  CHECK(seed("0") == 0);
  CHECK(seed("08") == 8);  // no octal number: text, which is read as Python's int reads it
  CHECK(seed("\"010\"") == 10);
  CHECK(run_yaml("lr_scheduler_type: cosine\nlr_scheduler_kwargs:\n  num_cycles: 1_0\n").train.lr_scheduler_kwargs ==
        Json{{"num_cycles", 10}});
  CHECK(run_yaml("run_name: 2024-01_a\nreport_to: jsonl\n").script.run_name == "2024-01_a");
}

TEST_CASE("a bad YAML file is named with its line and key") {
  CHECK(refusal_yaml("seed: 1\nlearnin_rate: 2\n") ==
        ": line 2: learnin_rate: unknown key; did you mean learning_rate?");
  CHECK(refusal_yaml("\nseed: one\n") == ": line 2: seed: expected an integer from 0 to 4294967295, got \"one\"");
  CHECK(refusal_yaml("seed:\n") == ": line 1: seed: expected an integer from 0 to 4294967295, got \"None\"");
  CHECK_THAT(refusal_yaml("seed: [1, 2]\n"), KTO_CONTAINS("got \"1 2\""));
  CHECK_THAT(refusal_yaml("seed: {a: 1}\n"), KTO_CONTAINS(R"(got "{\"a\":1}")"));
  CHECK_THAT(refusal_yaml("debug:\n  - path: x\n"), KTO_CONTAINS("is refused"));
  CHECK_THROWS_AS(run_yaml("model_init_kwargs: {device_map: auto}\n"), UsageError);
  CHECK(run_yaml("lr_scheduler_type: cosine\nlr_scheduler_kwargs:\n  num_cycles: 1.5\n").train.lr_scheduler_kwargs ==
        Json{{"num_cycles", 1.5}});
  CHECK(refusal_yaml("seed: 1\nseed: 2\n") == ": line 2: \"seed\" is given twice");
  CHECK_THAT(refusal_yaml("seed: [1\n"), KTO_CONTAINS("not valid YAML"));
  for (const char* yaml : {"", "- seed\n", "seed\n", "seed: 1\n---\nseed: 2\n"})
    CHECK(refusal_yaml(yaml) == ": expected one YAML mapping of option names to values");
  CHECK_THAT(refusal_yaml("[a]: 1\n"), KTO_CONTAINS(": line 1: expected the name of an option"));
  CHECK_THAT(refusal_yaml("env: 3\n"), KTO_CONTAINS(": line 1: expected env to be a mapping"));
  CHECK_THAT(refusal_yaml("env:\n  A: [1]\n"), KTO_CONTAINS(": line 2: expected env to map"));
  CHECK_THAT(refusal_yaml("no_bf16: true\n"), KTO_CONTAINS("unknown key; did you mean bf16?"));
  CHECK_THAT(refusal_yaml("output_dir: \"\\xff\\0\"\nbeta: -1\n"), KTO_CONTAINS("beta"));
  CHECK_THAT(refusal_yaml(std::string(100000, '[')), KTO_CONTAINS("not valid YAML"));
  CHECK_FALSE(refusal_yaml(",<<     ---}~...\"*a\n!<<null%").empty());  // YAML::LoadAll does not end on this one
  // Anchors that hold themselves, and few lines that stand for 10^9 values.
  CHECK_THAT(refusal_yaml("lr_scheduler_kwargs: &a {b: *a}\n"), KTO_CONTAINS("levels deep, aliases written out"));
  std::string laughs = "report_to: &a0 [x]\n";
  for (int i = 1; i < 10; ++i) {
    laughs += kto::concat("k", i, ": &a", i, " [");
    for (int j = 0; j < 10; ++j) laughs += kto::concat(j > 0 ? ", " : "", "*a", i - 1);
    laughs += "]\n";
  }
  CHECK_THAT(refusal_yaml(laughs), KTO_CONTAINS("more than 100000 values"));
  CHECK_THAT(refusal({"--config", "/does/not/exist"}), KTO_CONTAINS("/does/not/exist: cannot be opened"));
  CHECK(refusal({"--config"}) == "--config: expected a file after it");
  CHECK(refusal({"--config="}) == "--config: expected a file after it");
  CHECK(refusal({"--config", "a", "--config", "b"}) == "--config is given twice");
}

TEST_CASE("help shows every option, in 100 columns") {
  std::ostringstream out;
  CHECK_FALSE(parse({"--seed", "x", "--help"}, out));
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 100);
  for (const auto& row : argument_options()) CHECK_THAT(out.str(), KTO_CONTAINS(std::string(row.name)));
  CHECK_THAT(out.str(), KTO_CONTAINS("peak learning rate (default: 1e-06)"));
  std::ostringstream version;
  CHECK_FALSE(parse({"--version"}, version));
  CHECK(version.str() == "train_kto 1.2.3\n");
}

TEST_CASE("examples/train_kto_options.md is what --help=markdown prints, and has every option once") {
  std::ostringstream out;
  CHECK_FALSE(parse({"--help=markdown"}, out));
  CHECK(out.str() == read_file(std::string(KTO_SOURCE_DIR) + "/examples/train_kto_options.md"));
  for (const auto& row : argument_options()) {
    const std::string cell = concat("\n| `", row.name, "` |");
    INFO(row.name);
    const std::size_t first = out.str().find(cell);
    CHECK(first != std::string::npos);
    CHECK(out.str().find(cell, first + 1) == std::string::npos);
  }
}

TEST_CASE("every option of TRL is in the table, and its default is taken") {
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/trl_options.json");
  CHECK(golden["trl"].size() == 159);
  CHECK(golden["page"].size() == 149);
  CHECK(golden["old"].size() == 180);
  for (const Json& release : golden)
    for (const auto& [name, value] : release.items()) {
      INFO(name);
      const auto* row = find_option(argument_options(), name);
      REQUIRE(row != nullptr);
      const std::string text = value.get<std::string>();
      const bool none_is_unset = text == "None" && row->works() && name != "max_length";
      const bool other_default = name == "max_prompt_length" || name == "truncation_mode" || name == "do_train";
      if (!none_is_unset && !other_default) CHECK(refusal({"--" + name + "=" + text}) == "");
    }
  std::size_t ours = 0;
  for (const auto& row : argument_options()) {
    const bool is_trls = std::any_of(golden.begin(), golden.end(),
                                     [&](const Json& release) { return release.contains(std::string(row.name)); });
    if (row.works() && !is_trls) ++ours;
  }
  // kl_scope, collator, device, logits_tile_mib, of references and adapters nine, of bad days three, of samples three,
  // dataset_cache, eval_datasets, optim_in_backward, max_tokens_per_batch, trl_defaults, nproc, zero_stage
  CHECK(ours == 28);
}

TEST_CASE("training_args.json is read back") {
  const Arguments arguments = run({"--loss_type", "apo_zero_unpaired", "--dtype", "auto", "--max_length", "None",
                                   "--eval_strategy", "epoch", "--warmup_steps", "0.1"});
  const Json json = to_json(arguments);
  CHECK(json["dtype"] == "auto");
  CHECK(json["max_length"].is_null());
  CHECK(to_json(arguments_from_json(parse_json(json.dump(), "a.json"))) == json);
  CHECK_THROWS_AS(arguments_from_json(Json{{"beta", -1}}), UsageError);
  CHECK_THROWS_AS(arguments_from_json(Json::array()), UsageError);
}

TEST_CASE("a table may hold lists") {
  struct Config {
    std::optional<std::vector<std::string>> modules;
    std::int64_t rank = 16;
  };
  const Options<Config> options{option(&Config::modules, "modules", "Model", "which"),
                                option(&Config::rank, "rank", "Model", "how many")};
  const auto read = [&](std::vector<const char*> argv) {
    argv.insert(argv.begin(), "program");
    Config config;
    const Program program{.name = "program", .version = "1", .usage = "", .summary = ""};
    apply(options, *read_command_line(options, program, static_cast<int>(argv.size()), argv.data()), config);
    return config;
  };
  CHECK(read({"--modules", "a", "b", "c", "--rank", "8"}).modules == std::vector<std::string>{"a", "b", "c"});
  CHECK(read({"--modules=all"}).modules == std::vector<std::string>{"all"});
  CHECK_FALSE(read({"--modules", "None"}).modules);
  CHECK(read({"--rank", "8"}).rank == 8);
  CHECK_THROWS_AS(read({"--modules"}), UsageError);
}

TEST_CASE("datasets: a mixture as TRL's YAML has it") {
  const auto mixture = [](std::string_view yaml, std::vector<std::string> more = {}) {
    const TemporaryFile file(yaml);
    std::vector<std::string> words{"--model_name_or_path", "m", "--config", file.path.string()};
    words.insert(words.end(), more.begin(), more.end());
    return parse(words).value().script;
  };
  const auto refused = [&](std::string_view yaml, std::vector<std::string> more = {}) {
    try {
      (void)mixture(yaml, std::move(more));
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto script = mixture(
      "datasets:\n  - path: some/folder\n    split: train_prefs\n    columns: [prompt, completion, label]\n    name: "
      "null\n"
      "  - path: json\n    data_files:\n      train: [a.jsonl, 'b*.jsonl']\n      test: c.jsonl\n"
      "streaming: false\ntest_split_size: 0.25\n");
  CHECK(script.test_split_size == 0.25);
  const auto parts = parse_mixture(script.datasets, false);
  REQUIRE(parts.size() == 2);
  CHECK(parts[0].source.path == "some/folder");
  CHECK(parts[0].source.split == "train_prefs");
  CHECK(parts[0].columns == std::vector<std::string>{"prompt", "completion", "label"});
  REQUIRE(parts[1].source.data_files.size() == 2);
  CHECK(parts[1].source.data_files[0].patterns == std::vector<std::string>{"a.jsonl", "b*.jsonl"});
  const auto named = parse_mixture(
      Json::parse(R"([{"path": "x", "name": "en"}, {"path": "x", "config": "de", "split": "train[:2]+test"}])"), false);
  CHECK(named[0].source.config == "en");
  CHECK(named[1].source.config == "de");
  CHECK(parse({"--model_name_or_path", "m", "--datasets", R"([{"path": "x", "fraction": 0.5}])"})
            ->script.datasets.size() == 1);
  CHECK_THAT(refused("datasets: 3\n"), KTO_CONTAINS("expected a list of mappings"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    name: a\n    config: b\n"),
             KTO_CONTAINS("datasets[0].config: name and"));
  CHECK_THAT(refused("datasets:\n  - path: x\n", {"--dataset_config", "en"}), KTO_CONTAINS("give name to entries"));
  CHECK_THAT(refused("datasets:\n  - split: x\n"), KTO_CONTAINS("datasets[0].path: is missing"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    pth: y\n"), KTO_CONTAINS("datasets[0].pth: unknown field"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    split: 'train[:10'\n"),
             KTO_CONTAINS("datasets[0]: the split \"train[:10\": expected [FROM:TO]"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    data_files: {test: y}\n"),
             KTO_CONTAINS("no files for the split train"));
  CHECK_THAT(refused("datasets:\n  - path: json\n"), KTO_CONTAINS("needs data_files"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    fraction: 1\n  - path: y\n"),
             KTO_CONTAINS("for all sets or for none"));
  CHECK_THAT(refused("datasets:\n  - path: x\n    fraction: 1\nstreaming: true\nmax_steps: 2\n"),
             KTO_CONTAINS("which a stream does not have"));
  CHECK_THAT(refused("datasets:\n  - path: x\n", {"--dataset_name", "y"}), KTO_CONTAINS("both name the rows"));
  CHECK_THAT(refused("datasets:\n  - path: x\n", {"--do_eval"}), KTO_CONTAINS("add --test_split_size"));
  CHECK_THAT(refused("datasets:\n  - path: x\n", {"--dataset_train_split", "t"}),
             KTO_CONTAINS("name splits in datasets"));
}

TEST_CASE("fractions of a mixture keep the first rows, as many as the smallest set allows") {
  const fs::path folder = fs::temp_directory_path() / concat("kto_test_mixture_", ::getpid());
  fs::create_directories(folder);
  for (const int count : {8, 30}) {
    std::string rows;
    for (int i = 0; i < count; ++i) rows += "{}\n";
    write_file(folder / concat(count, ".jsonl"), rows);
  }
  const auto counts = [&](double a, double b) {
    const Json list{{{"path", folder / "8.jsonl"}, {"fraction", a}}, {{"path", folder / "30.jsonl"}, {"fraction", b}}};
    std::vector<std::size_t> out;
    for (const RowFiles& files : mixture_files(parse_mixture(list, false))) out.push_back(files.max_rows);
    return out;
  };
  CHECK(counts(0.5, 0.5) == std::vector<std::size_t>{8, 8});  // as TRL's get_dataset
  CHECK(counts(1, 3) == std::vector<std::size_t>{8, 24});
  CHECK(counts(1, 9) == std::vector<std::size_t>{3, 30});
  CHECK(counts(0, 2) == std::vector<std::size_t>{30});
  fs::remove_all(folder);
}

TEST_CASE("streaming and samples of text: what they need, and what does not go with them") {
  CHECK(run({"--dataset_streaming", "--max_steps", "3"}).script.dataset_streaming);
  CHECK(run({"--streaming", "--max_steps", "3"}).script.dataset_streaming);
  CHECK_THAT(refusal({"--dataset_streaming"}), KTO_CONTAINS("needs --max_steps"));
  const auto with = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"--dataset_streaming", "--max_steps", "3"});
    return refusal(std::move(more));
  };
  CHECK_THAT(with({"--test_split_size", "0.1"}), KTO_CONTAINS("test_split_size"));
  CHECK_THAT(with({"--precompute_ref_log_probs"}), KTO_CONTAINS("precompute_ref_log_probs"));
  CHECK_THAT(with({"--dataset_cache", "x"}), KTO_CONTAINS("dataset_cache"));
  CHECK_THAT(with({"--group_by_length"}), KTO_CONTAINS("train_sampling_strategy"));
  CHECK_THAT(with({"--dataloader_num_workers", "2"}), KTO_CONTAINS("dataloader_num_workers"));
  CHECK_THAT(refusal({"--generate_during_eval"}), KTO_CONTAINS("needs --do_eval"));
  CHECK_THAT(refusal({"--generation_max_new_tokens", "9"}), KTO_CONTAINS("need --generate_during_eval"));
  CHECK_THAT(refusal({"--generate_during_eval", "--do_eval", "--prediction_loss_only"}), KTO_CONTAINS("contradict"));
  CHECK(run({"--generate_during_eval", "--do_eval"}).script.generation_num_prompts == 4);
}

TEST_CASE("eval_datasets: sets by name, from text, YAML or a list of splits") {
  const auto sets = [](const std::string& text) {
    return run({"--do_eval", "--eval_datasets", text}).script.eval_datasets;
  };
  CHECK(sets(R"({"chat": "a.jsonl", "code": "test"})") == Json{{"chat", "a.jsonl"}, {"code", "test"}});
  CHECK(sets(R"(["test", "validation"])") ==
        Json{{"test", {{"split", "test"}}}, {"validation", {{"split", "validation"}}}});
  CHECK(sets(R"(["train[:10%]", "v1.0"])").size() == 2);
  CHECK(sets("None").empty());
  CHECK(run_yaml("eval_datasets:\n  chat: a.jsonl\n  code: b\ndo_eval: true\n").script.eval_datasets.size() == 2);
  CHECK(arguments_from_json(to_json(run({"--do_eval", "--eval_datasets", R"(["a"])"}))).script.eval_datasets ==
        Json{{"a", {{"split", "a"}}}});
  for (const char* bad :
       {"a.jsonl", "3", R"({"a": 3})", R"({"": "a"})", R"({"a": ""})", R"(["a", "a"])", R"({"a": {"path": "x"}})",
        R"({"../a": "a"})", R"({"a/b": "a"})", R"({"..": "a"})", R"({"a\\b": "a"})", R"({"a\nb": "a"})", R"(["a/b"])"})
    CHECK_THAT(refusal({"--do_eval", "--eval_datasets", bad}),
               KTO_CONTAINS("--eval_datasets: expected names and paths"));
  CHECK_THAT(refusal({"--eval_datasets", R"(["a"])"}), KTO_CONTAINS("needs --do_eval"));
  CHECK_THAT(refusal({"--do_eval", "--eval_datasets", R"(["a"])", "--test_split_size", "0.5"}),
             KTO_CONTAINS("both name the rows to evaluate on"));
}

TEST_CASE("a batch of one row is refused with a KL baseline of its own") {
  const std::vector<std::string> one{"--per_device_train_batch_size", "1"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), one.begin(), one.end());
    return refusal(std::move(more));
  };
  CHECK_THAT(with({}), KTO_CONTAINS("larger batches") && KTO_CONTAINS("kl_scope window"));
  CHECK_THAT(with({"--kl_scope", "window"}), KTO_CONTAINS("raise gradient_accumulation_steps"));
  CHECK(with({"--kl_scope", "window", "--gradient_accumulation_steps", "4"}) == "");
  CHECK(with({"--loss_type", "apo_zero_unpaired"}) == "");
  CHECK(with({"--no_do_train", "--do_eval"}) == "");
}

namespace {

struct Hinge {
  static constexpr BatchParts needs{.chosen_rejected = true};
  static constexpr std::string_view name = "hinge", also_known_as = "relu";
  static constexpr auto options() {
    return std::tuple{LossOption{"beta", &Hinge::beta, beta_help, above(0)},
                      LossOption{"aim", &Hinge::aim, "the margin to reach", between(0, 5)},
                      LossOption{"squared", &Hinge::squared, "square it"}};
  }
  double beta = 0.5;
  std::int64_t aim = 1;
  bool squared = false;
};

}  // namespace

TEST_CASE("the losses of a program make --loss_type and its flags") {
  const LossTable& table = loss_table<Kto, Hinge>();
  const auto read = [&](std::vector<const char*> words, std::ostream& out = std::cout) {
    words.insert(words.begin(), {"mine", "--model_name_or_path", "model", "--dataset_name", "rows.jsonl"});
    const Program program{.name = "mine", .version = "1", .usage = "", .summary = ""};
    return parse_arguments(static_cast<int>(words.size()), words.data(), program, table, out);
  };
  const auto refused = [&](std::vector<const char*> words) {
    try {
      read(std::move(words));
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto hinge = [&](std::vector<const char*> words) {
    const auto args = read(std::move(words)).value();
    CHECK(table.chosen(args.loss).name == "hinge");
    return make_loss<Hinge>(args.loss.values);
  };
  CHECK(table.chosen(read({}).value().loss).name == "kto");
  CHECK(make_loss<Kto>(read({"--beta", "0.3"}).value().loss.values).beta == 0.3);
  CHECK(hinge({"--loss_type", "hinge"}).beta == 0.5);  // its own default
  CHECK(hinge({"--beta", ".2", "--aim", "4", "--squared", "--loss_type=relu"}).aim == 4);
  CHECK(hinge({"--loss_type", "hinge", "--beta", "0.2", "--no_squared"}).beta == 0.2);
  CHECK(refused({"--aim", "3"}) == "--aim: the loss kto has no such option; it has beta");
  CHECK(refused({"--loss_type", "dpo"}) == "--loss_type: expected one of kto, hinge, got \"dpo\"");
  CHECK(refused({"--loss_type", "hinge", "--aim", "6"}) == "--aim: expected an integer from 0 to 5, got \"6\"");
  CHECK(refused({"--loss_type", "hinge", "--desirable_weight", "2"}) ==
        "desirable_weight and undesirable_weight weigh rows one by one, and hinge compares pairs: leave both at 1");
  CHECK(refused({"--beta", "0"}) == "--beta: expected a number > 0 and at most 1e+30, got \"0\"");
  std::ostringstream help;
  CHECK_FALSE(read({"--help=markdown"}, help));
  CHECK_THAT(help.str(), KTO_CONTAINS("| `loss_type` | kto | one of kto, hinge |") &&
                             KTO_CONTAINS("hinge (also relu)") && KTO_CONTAINS("default of hinge: 0.5") &&
                             KTO_CONTAINS("of hinge: the margin to reach"));

  const Options<Arguments> options = argument_options(table);
  const auto json = to_json(options, read({"--loss_type", "hinge", "--aim", "2"}).value());
  CHECK((json["loss_type"] == "hinge" && json["beta"] == 0.5 && json["aim"] == 2 && json["squared"] == false));
  Arguments again;
  from_json(options, again, json, "a.json");
  CHECK(to_json(options, again) == json);
  CHECK(to_json(options, read({}).value())["aim"].is_null());  // kto has none
  struct Clash : Kto {
    static constexpr auto options() { return std::tuple{LossOption{"seed", &Kto::beta, "taken"}}; }
  };
  CHECK_THROWS_WITH(argument_options(loss_table<Clash>()), KTO_CONTAINS("kto has a flag --seed"));
}

}  // namespace test_cli
