// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "catch.hpp"
#include "kto/train/options/options.hpp"

namespace test_options {

using namespace kto;

namespace {

TrainConfig with(const std::string& name, const Json& value) {
  return train_config_from_json(Json{{name, value}}, "run.json");
}

/// What the UsageError of `action` says; "" when it throws none.
template <class Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

std::string refusal_of(const std::string& name, const Json& value) {
  return refusal([&] { with(name, value); });
}

template <class Change>
std::string invalid(Change change) {
  return refusal([&] {
    TrainConfig config;
    change(config);
    validate(config);
  });
}

}  // namespace

TEST_CASE("every row of the options table is whole") {
  const auto& table = train_options();
  std::vector<std::string_view> names;
  for (const auto& row : table) {
    INFO(row.name);
    CHECK(std::find(names.begin(), names.end(), row.name) == names.end());
    names.push_back(row.name);
    if (row.works()) {
      CHECK(row.get);
      CHECK(std::find(group::all.begin(), group::all.end(), row.group) != group::all.end());
      CHECK_FALSE(row.help.empty());
      CHECK_FALSE(row.expects.empty());
    } else if (row.is_refused()) {
      CHECK_FALSE(row.reason.empty());
    } else if (row.has_no_effect()) {
      CHECK(row.alias_of.empty());
      CHECK_FALSE(row.takes.empty());
    } else {
      const auto* target = find_option(table, row.alias_of);
      REQUIRE(target != nullptr);
      CHECK(target->works());
    }
  }
}

TEST_CASE("defaults are KTOConfig's, except those that are marked") {
  const Json golden = read_json(std::string(KTO_SOURCE_DIR) + "/tests/golden/trl_options.json");
  Json trl = golden["trl"];
  trl.update(golden["resolved"]);
  trl["save_strategy"] = "no";  // the library saves only on request; train_kto saves like TRL
  const TrainConfig defaults;
  for (const auto& row : train_options()) {
    const std::string name(row.name);
    INFO(name);
    if (row.works() && trl.contains(name)) {
      const std::string value = trl[name].get<std::string>();
      CHECK(kto::detail::same_value(row.get(defaults), value) == row.trl_default.empty());
      if (!row.trl_default.empty()) CHECK(kto::detail::same_value(Json(row.trl_default), value));
    }
    if (!row.works() && row.alias_of.empty())
      for (const Json& release : golden)
        if (release.contains(name)) CHECK(refusal_of(name, release[name]) == "");
  }
  TrainConfig as_trl;
  set_trl_defaults(train_options(), as_trl);
  CHECK((as_trl.bf16 && as_trl.gradient_checkpointing));
  as_trl.bf16 = as_trl.gradient_checkpointing = false;
  CHECK(to_json(as_trl) == to_json(defaults));
}

TEST_CASE("a config goes to JSON and back") {
  TrainConfig config;
  config.output_dir = "out/\xc3\xa9 \"x\"";
  config.train_sampling_strategy = SamplingStrategy::group_by_length;
  config.kl_scope = KlScope::window;
  config.learning_rate = 5e-6;
  config.lr_scheduler_type = LrSchedulerType::constant_with_warmup;
  config.warmup_steps = 0.1;
  config.eval_strategy = IntervalStrategy::epoch;
  config.eval_steps = 20;
  config.data_seed = 7;
  config.bf16 = true;
  const Json json = to_json(config);
  CHECK(json["lr_scheduler_type"] == "constant_with_warmup");
  CHECK(json["data_seed"] == 7);
  const TrainConfig read = train_config_from_json(parse_json(json.dump(), "run.json"), "run.json");
  CHECK(to_json(read) == json);
  CHECK(read.learning_rate == 5e-6);
  CHECK(read.eval_steps == 20.0);
  CHECK(read.train_sampling_strategy == SamplingStrategy::group_by_length);
}

TEST_CASE("values are read from JSON of their type or from text") {
  CHECK(with("learning_rate", "5e-6").learning_rate == 5e-6);
  CHECK(with("learning_rate", "+.5").learning_rate == 0.5);
  CHECK(with("learning_rate", 1).learning_rate == 1);
  CHECK(with("max_steps", "-1").max_steps == -1);
  CHECK(with("max_steps", 12).max_steps == 12);
  CHECK(with("bf16", "Yes").bf16);
  CHECK_FALSE(with("bf16", "0").bf16);
  CHECK(with("eval_steps", 0.5).eval_steps == 0.5);
  CHECK_FALSE(with("eval_steps", "None").eval_steps);
  CHECK_FALSE(with("data_seed", nullptr).data_seed);
  CHECK(with("group_by_length", true).train_sampling_strategy == SamplingStrategy::group_by_length);
  CHECK(with("group_by_length", false).train_sampling_strategy == SamplingStrategy::sequential);
  CHECK(with("activation_checkpointing", true).gradient_checkpointing);
  CHECK(with("per_gpu_train_batch_size", nullptr).per_device_train_batch_size == 8);
  CHECK(with("per_gpu_train_batch_size", 3).per_device_train_batch_size == 3);
}

TEST_CASE("a value that is not as expected is named with its place") {
  CHECK(refusal_of("learning_rate", "fast") ==
        "run.json: learning_rate: expected a number from 0 to 1e+300, got \"fast\"");
  CHECK(refusal_of("bf16", 2) == "run.json: bf16: expected True or False, got \"2\"");
  CHECK(refusal_of("eval_strategy", "never") ==
        "run.json: eval_strategy: expected one of no, steps, epoch, got \"never\"");
  const std::vector<std::pair<const char*, std::vector<Json>>> bad = {
      {"per_device_train_batch_size", {0, -1, 1.5, "8x", "", nullptr, "1e3", 18446744073709551615u, 2000000000}},
      {"per_device_eval_batch_size", {0}},
      {"gradient_accumulation_steps", {0}},
      {"num_train_epochs", {0, -1, "inf", "nan", 1e300}},
      {"max_steps", {0, -2, "ten"}},
      {"learning_rate", {-1e-6, "nan", "inf", "1e999", "1e-5x", " 1", "--1", "+-1", Json::array({1})}},
      {"warmup_steps", {-1, 1.5}},
      {"warmup_ratio", {-0.1, 1.1}},
      {"weight_decay", {-1}},
      {"adam_beta1", {1, -0.1}},
      {"adam_beta2", {1}},
      {"adam_epsilon", {0, -1}},
      {"max_grad_norm", {-1}},
      {"desirable_weight", {-1}},
      {"logging_steps", {-1, 2.5}},
      {"eval_steps", {0, 1.5, -3}},
      {"seed", {-1, 4294967296, "99999999999999999999"}},
      {"data_seed", {-1, 9007199254740993, 9223372036854775807, "9007199254740993"}},
      {"neftune_noise_alpha", {-1, 1e300, "inf"}},
      {"router_aux_loss_coef", {-1, "inf"}},
      {"desirable_weight", {1e300}},
      {"gradient_checkpointing_kwargs", {{{"preserve_rng_state", false}}, "yes", 3}},
      {"local_rank", {1}},
      {"output_dir", {"", nullptr, 3}},
      {"kl_scope", {"batch", 0}},
      {"group_by_length", {"maybe"}},
  };
  for (const auto& [name, values] : bad)
    for (const Json& value : values) {
      INFO(name << " " << value);
      const std::string message = refusal_of(name, value);
      CHECK_THAT(message, KTO_CONTAINS(name));
      CHECK_THAT(message, KTO_CONTAINS("expected "));
      CHECK(message.find('\n') == std::string::npos);
    }
}

TEST_CASE("refused options take their default only") {
  CHECK(refusal_of("use_mps_device", false) == "");
  CHECK(refusal_of("use_mps_device", "no") == "");
  CHECK(refusal_of("use_mps_device", nullptr) == "");
  CHECK(
      refusal_of("use_mps_device", true) ==
      "run.json: use_mps_device: \"True\" is refused: there is no such device here (expected only the default, False)");
  CHECK(refusal_of("save_steps", 500) == "");
  CHECK(refusal_of("save_steps", "500.0") == "");
}

TEST_CASE("settings of DeepSpeed and FSDP set zero_stage; what has no counterpart is refused by name") {
  const auto config_of = [](const Json& given) {
    kto::TrainConfig config = train_config_from_json(given, "run.json");
    kto::validate(config);
    return config;
  };
  const auto stage_of = [&](const Json& given) { return config_of(given).zero_stage; };
  const auto refusal = [&](const Json& given) -> std::string {
    try {
      (void)config_of(given);
    } catch (const kto::UsageError& error) {
      return error.what();
    }
    return "";
  };
  for (const Json& off : {Json(""), Json(nullptr), Json("None"), Json(false), Json::array()})
    CHECK(stage_of({{"fsdp", off}}) == 0);
  CHECK(stage_of({{"fsdp", "shard_grad_op auto_wrap"}}) == 2);
  CHECK(stage_of({{"fsdp", {"shard_grad_op"}}, {"fsdp_config", {{"min_num_params", 1}, {"xla", false}}}}) == 2);
  CHECK(stage_of({{"fsdp", "no_shard"}}) == 0);
  CHECK(stage_of({{"fsdp_config", {{"reshard_after_forward", false}, {"version", 2}}}, {"fsdp", true}}) == 2);
  CHECK(stage_of({{"fsdp", true}, {"fsdp_config", {{"fsdp_sharding_strategy", "SHARD_GRAD_OP"}}}}) == 2);
  CHECK(stage_of({{"fsdp", "full_shard"}}) == 3);
  CHECK(stage_of({{"fsdp", true}}) == 3);
  CHECK_THAT(refusal({{"fsdp", "hybrid_shard"}}), KTO_CONTAINS("all processes share one set of shards"));
  CHECK_THAT(refusal({{"fsdp", "shard_grad_op offload"}}), KTO_CONTAINS("nothing is moved off the device"));
  CHECK_THAT(refusal({{"fsdp", "shard_all"}}), KTO_CONTAINS("expected full_shard, shard_grad_op or no_shard"));
  CHECK_THAT(refusal({{"fsdp", "shard_grad_op"}, {"fsdp_config", {{"xla", true}}}}), KTO_CONTAINS("fsdp_config: xla"));
  CHECK_THAT(refusal({{"zero_stage", 1}, {"fsdp", "shard_grad_op"}}), KTO_CONTAINS("zero_stage is 1"));
  CHECK_THAT(refusal({{"zero_stage", 4}}), KTO_CONTAINS("expected 0, 1, 2 or 3"));

  const auto deepspeed = [](Json more, const Json& zero = {{"stage", 2}, {"overlap_comm", true}}) {
    more["zero_optimization"] = zero;
    return Json{{"deepspeed", more}, {"bf16", true}, {"max_grad_norm", 0.5}};
  };
  const Json usual{{"bf16", {{"enabled", "auto"}}},
                   {"fp16", {{"enabled", false}, {"loss_scale_window", 1000}}},
                   {"gradient_clipping", 0.5},
                   {"train_batch_size", "auto"},
                   {"train_micro_batch_size_per_gpu", "auto"},
                   {"steps_per_print", 2000}};
  CHECK(stage_of(deepspeed(usual)) == 2);
  CHECK(stage_of({{"deepspeed", usual.dump()}, {"max_grad_norm", 0.5}}) == 0);
  CHECK(stage_of(deepspeed(usual, {{"stage", 1}, {"offload_optimizer", {{"device", "none"}}}})) == 1);
  CHECK(stage_of(deepspeed(usual, {{"stage", 3}, {"stage3_max_live_parameters", 1000}})) == 3);
  CHECK_THAT(refusal(deepspeed(usual, {{"stage", 4}})), KTO_CONTAINS("a stage from 0 to 3"));
  CHECK_THAT(refusal(deepspeed(usual, {{"stage", 2}, {"offload_optimizer", {{"device", "cpu"}}}})),
             KTO_CONTAINS("zero_optimization.offload_optimizer"));
  CHECK_THAT(refusal(deepspeed({{"gradient_clipping", 2}})),
             KTO_CONTAINS("gradient_clipping is \"2\" and max_grad_norm is \"0.5\""));
  CHECK_THAT(refusal(deepspeed({{"bf16", {{"enabled", false}}}})), KTO_CONTAINS("deepspeed: bf16.enabled"));
  CHECK_THAT(refusal(deepspeed({{"optimizer", {{"type", "AdamW"}}}})), KTO_CONTAINS("deepspeed: optimizer: \"AdamW\""));
  CHECK_THAT(refusal(deepspeed({{"sparse_attention", {{"mode", "fixed"}}}})), KTO_CONTAINS("sparse_attention"));
  CHECK_THAT(refusal({{"optim_in_backward", true}, {"max_grad_norm", 0}, {"zero_stage", 2}}),
             KTO_CONTAINS("set zero_stage to 0"));
  CHECK_THROWS_WITH(config_of({{"deepspeed", "/no/such/file.json"}}), KTO_CONTAINS("/no/such/file.json"));
  CHECK_THAT(refusal({{"accelerator_config", {{"split_batches", true}}}}), KTO_CONTAINS("accelerator_config"));
}

TEST_CASE("options that cannot change a number are taken with a note, and their defaults without") {
  const auto notes_of = [](const std::string& name, const Json& value) {
    std::string notes;
    (void)train_config_from_json(Json{{name, value}}, "run.json", [&](const std::string& text) { notes += text; });
    return notes;
  };
  CHECK(notes_of("log_level", "info") ==
        "run.json: log_level is taken without effect: there is only one level: errors, notes, and the log");
  for (const Json& value : {Json{{"use_reentrant", false}}, Json(R"({"use_reentrant": true})")})
    CHECK_THAT(notes_of("gradient_checkpointing_kwargs", value), KTO_CONTAINS("layers are recomputed in one way"));
  CHECK_THAT(notes_of("label_names", Json{"labels", "more"}), KTO_CONTAINS("taken without effect"));
  for (const auto& row : train_options())
    if (row.has_no_effect())
      for (const std::string_view value : kto::detail::split_bars(row.defaults)) {
        INFO(row.name);
        CHECK(notes_of(std::string(row.name), Json(value)) == "");
      }
  CHECK(refusal_of("log_level", "loud") ==
        "run.json: log_level: expected debug or info or warning or error or critical or passive, got \"loud\"");
  CHECK_THAT(refusal_of("local_rank", 1), KTO_CONTAINS("launchers set it in the environment (expected 0 or -1)"));
}

TEST_CASE("values without effect are named with the reason") {
  const auto unused = [](auto change) {
    TrainConfig config;
    change(config);
    validate(config);
    std::string out;
    visit_unused(train_options(), config, [&](auto name, auto why) { out += concat(name, ": ", why, ";"); });
    return out;
  };
  CHECK(unused([](auto&) {}) == "");
  CHECK_THAT(unused([](auto& c) { c.lr_scheduler_type = LrSchedulerType::constant, c.warmup_ratio = 0.03; }),
             KTO_CONTAINS("warmup_ratio: this lr_scheduler_type has no warm-up"));
  CHECK_THAT(unused([](auto& c) {
               c.lr_scheduler_type = LrSchedulerType::reduce_lr_on_plateau, c.eval_strategy = IntervalStrategy::epoch,
               c.warmup_steps = 5;
             }),
             KTO_CONTAINS("warmup_steps: this lr_scheduler_type has no warm-up"));
  CHECK(unused([](auto& c) { c.warmup_ratio = 0.1, c.warmup_steps = 5; }) ==
        "warmup_ratio: warmup_steps takes precedence;");
  CHECK(
      unused([](auto& c) { c.eval_steps = 500, c.eval_delay = 1, c.metric_for_best_model = "loss"; }) ==
      "eval_steps: eval_strategy is not steps;eval_delay: eval_strategy is no;metric_for_best_model: eval_strategy is "
      "no;");
  CHECK(unused([](auto& c) { c.eval_steps = 5, c.eval_strategy = IntervalStrategy::steps; }) == "");
  CHECK(unused([](auto& c) { c.ignore_data_skip = true; }) == "ignore_data_skip: there is no resume_from_checkpoint;");
  TrainConfig constant{.lr_scheduler_type = LrSchedulerType::constant, .warmup_steps = 5};
  CHECK(learning_rate_of(constant, 5, 10)(0) == constant.learning_rate);
}

TEST_CASE("an unknown name is answered with the nearest one") {
  CHECK(refusal_of("learnin_rate", 1) == "run.json: unknown key learnin_rate; did you mean learning_rate?");
  const auto nearest = [](std::string_view written) { return nearest_option(train_options(), written); };
  CHECK(nearest("lr") == "learning_rate");
  CHECK(nearest("epochs") == "num_train_epochs");
  CHECK(nearest("batch_size") == "per_device_train_batch_size");
  CHECK(nearest("evaluation_strateg") == "eval_strategy");
  CHECK(nearest("warmpu_steps") == "warmup_steps");
  CHECK(nearest("fp15") == "fp16");
  CHECK(nearest("max_train_steps") == "max_steps");
  CHECK_FALSE(nearest("").empty());
  CHECK_FALSE(nearest("a long name that is like nothing at all, not even remotely").empty());
}

TEST_CASE("validate checks fields set in code, and fields against each other") {
  CHECK(invalid([](auto&) {}) == "");
  CHECK_THAT(invalid([](auto& c) { c.per_device_train_batch_size = 0; }),
             KTO_CONTAINS("TrainConfig: per_device_train_batch_size: expected an integer from 1"));
  CHECK_THAT(invalid([](auto& c) { c.learning_rate = std::numeric_limits<double>::quiet_NaN(); }),
             KTO_CONTAINS("learning_rate"));
  CHECK(invalid([](auto& c) { c.save_strategy = SaveStrategy::steps; }) == "");
  CHECK_THAT(invalid([](auto& c) { c.save_strategy = SaveStrategy::best; }), KTO_CONTAINS("set eval_strategy"));
  CHECK_THAT(invalid([](auto& c) { c.load_best_model_at_end = true, c.eval_strategy = IntervalStrategy::epoch; }),
             KTO_CONTAINS("the same value"));
  const auto best = [](double save_steps, double eval_steps) {
    return invalid([&](auto& c) {
      c.load_best_model_at_end = true, c.eval_strategy = IntervalStrategy::steps, c.save_strategy = SaveStrategy::steps;
      c.save_steps = save_steps, c.eval_steps = eval_steps;
    });
  };
  CHECK(best(20, 10) == "");
  CHECK(best(0.5, 0.1) == "");
  for (const auto& [save_steps, eval_steps] : {std::pair{10.0, 20.0}, {15.0, 10.0}, {20.0, 0.1}})
    CHECK_THAT(best(save_steps, eval_steps), KTO_CONTAINS("multiple of eval_steps"));
  CHECK(with("resume_from_checkpoint", true).resume_from_checkpoint == "True");
  CHECK_FALSE(with("resume_from_checkpoint", "False").resume_from_checkpoint);
  CHECK(with("resume_from_checkpoint", "out/checkpoint-2").resume_from_checkpoint == "out/checkpoint-2");
  CHECK_THAT(invalid([](auto& c) { c.logging_steps = 0; }), KTO_CONTAINS("logging_steps"));
  CHECK(invalid([](auto& c) { c.logging_steps = 0, c.logging_strategy = IntervalStrategy::no; }) == "");
  CHECK_THAT(invalid([](auto& c) {
               c.logging_steps = 0, c.logging_strategy = IntervalStrategy::no,
               c.eval_strategy = IntervalStrategy::steps;
             }),
             KTO_CONTAINS("eval_steps"));
  CHECK_THAT(invalid([](auto& c) { c.bf16 = c.fp16 = true; }), KTO_CONTAINS("use one of them"));
  CHECK_THAT(invalid([](auto& c) { c.desirable_weight = c.undesirable_weight = 0; }), KTO_CONTAINS("both 0"));
  const auto plateau = [](auto& c) { c.lr_scheduler_type = LrSchedulerType::reduce_lr_on_plateau; };
  CHECK_THAT(invalid(plateau), KTO_CONTAINS("needs evaluations: set eval_strategy"));
  CHECK(invalid([&](auto& c) { plateau(c), c.eval_strategy = IntervalStrategy::epoch; }) == "");
  CHECK_THAT(invalid([](auto& c) { c.lr_scheduler_kwargs = {{"num_cycles", 2}}; }),
             KTO_CONTAINS("linear has no argument"));
}

}  // namespace test_options
