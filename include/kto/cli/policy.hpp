// SPDX-License-Identifier: Apache-2.0
// From arguments to models: the policy of a folder, of a new adapter or of one trained on, and its reference.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kto/cli/arguments.hpp"
#include "kto/cli/hub_names.hpp"
#include "kto/kto.hpp"
#include "kto/model/held_as_stored.hpp"

namespace kto::cli {

/// The device of that name; for "auto", usual_device(). Throws Error for one that LibTorch does not have here.
inline at::Device choose_device(const std::string& name) {
  if (name == "auto") return usual_device();
  int count = 0;
  try {
    const at::Device device(name);
    count = num_devices(device.type());
    if (device.is_cpu() || std::max<int>(0, device.index()) < count) return device;
  } catch (const c10::Error&) {  // LibTorch knows no such kind
  }
  throw Error(concat("--device ", name, ": this LibTorch sees ", count == 0 ? "no" : concat("only ", count),
                     " such device", count > 1 ? "s" : "", "; use cpu, or auto"));
}

/// The policy, and how its reference is made. All weights trained: a frozen copy. A new adapter: the bare model. An
/// adapter trained on: a frozen copy of it. Adapters share the base's weights with their reference, and so does another
/// adapter of that base, or the base itself, where it is given as the reference.
struct Policy {
  Decoder model;
  std::function<LiveReference<Decoder>()> copy_reference;  ///< one to hold during training; call it before training
  std::function<LiveReference<Decoder>()> load_reference;  ///< one for a while, at any time
  std::function<Decoder()> moving_reference;               ///< one that will follow the policy, in the type it moves in
  std::optional<LoraConfig> adapter;
  fs::path base;               ///< folder of the base model
  ModelFiles base_files;       ///< its, from before the weights were read
  ModelFiles tokenizer_files;  ///< those of the tokenizer that it is trained with
  NamedTokens tokens;          ///< the tokenizer's
};

inline Decoder load_model(const Arguments& args, const fs::path& folder) {
  at::ScalarType dtype = at::kFloat;
  if (args.script.dtype == ModelDtype::bfloat16) dtype = at::kBFloat16;
  if (args.script.dtype == ModelDtype::as_stored) dtype = stored_dtype(folder);
  check(dtype != at::kHalf, folder.string(),
        ": is stored in float16, which has too few bits for parameters that are trained; use --dtype float32");
  check(!args.train.fp16 || dtype == at::kFloat, folder.string(), ": is stored in ", dtype,
        ", and fp16 trains parameters of float32; use --dtype float32");
  Decoder model = load_pretrained(folder, dtype, choose_device(args.script.device));
  check(args.script.disable_dropout || model.spec.attention_dropout == 0, folder.string(),
        ": config.json has dropout of ", model.spec.attention_dropout,
        ", which is not supported in training; leave --disable_dropout True");
  if (args.train.bf16 || dtype == at::kBFloat16) model.compute = at::kBFloat16;
  if (args.train.fp16) model.compute = at::kHalf;
  model.recompute = args.train.gradient_checkpointing;
  if (args.script.logits_tile_mib) model.tile_elements = *args.script.logits_tile_mib << 18;  // of float32
  return model;
}

/// A reference's weights in the type that --ref_dtype asks for, or that its products are in; shared where that changes
/// nothing.
inline Decoder to_reference_dtype(Decoder decoder, const Arguments& args) {
  if (!args.script.ref_dtype) return held_in_compute_type(std::move(decoder));
  const at::ScalarType dtype = *args.script.ref_dtype == ReferenceDtype::bfloat16 ? at::kBFloat16 : at::kFloat;
  visit_parameters(decoder,
                   [&](const std::string&, Tensor& tensor, const auto&) { tensor = tensor.detach().to(dtype); });
  return decoder;
}

/// A copy whose weights are held and multiplied in `type`, for evaluations.
inline Decoder narrow_copy(Decoder decoder, at::ScalarType type) {
  const auto narrow = [type](Tensor& tensor) { tensor = present(tensor).detach().to(type); };
  visit_parameters(decoder, [&](const std::string&, Tensor& tensor, const auto&) { narrow(tensor); });
  visit_loras(decoder, [&](const std::string&, Tensor& tensor) { narrow(tensor); });
  decoder.compute = type;
  return decoder;
}

/// The smallest parameter of the model's width or more: a few numbers that training changes.
inline Tensor smallest_parameter(const Decoder& decoder) {
  const NamedTensors parameters = decoder.named_parameters();
  const auto size = [&](const auto& named) {
    const std::int64_t numel = named.second.numel();
    return numel < decoder.spec.hidden_size ? std::numeric_limits<std::int64_t>::max() : numel;
  };
  return std::ranges::min_element(parameters, {}, size)->second.detach();
}

inline LoraConfig lora_config(const ScriptConfig& script) {
  LoraConfig out{.r = script.lora_r,
                 .lora_alpha = static_cast<double>(script.lora_alpha),
                 .lora_dropout = script.lora_dropout,
                 .modules_to_save = script.lora_modules_to_save.value_or(std::vector<std::string>{}),
                 .use_rslora = script.use_rslora,
                 .use_dora = script.use_dora,
                 .task_type = script.lora_task_type,
                 .base_model_name_or_path = script.model_name_or_path};
  const auto targets = script.lora_target_modules.value_or(std::vector<std::string>{});
  const bool is_pattern = targets.size() == 1 && (targets[0] == "all-linear" ||
                                                  targets[0].find_first_of("*+?()[]{}|^$\\") != std::string::npos);
  if (is_pattern)
    out.target_pattern = targets[0];
  else
    out.target_modules = targets;
  return out;
}

/// What an adapter calls its base: the name on the hub where the folder is a snapshot of it, else the folder.
inline std::string base_name(const fs::path& base) {
  const auto repository = hub::repository_of(base);
  return repository ? repository->id : base.string();
}

/// The folder of the base model that an adapter folder names, which may be relative to the adapter or to here, or a name
/// on the hub.
inline fs::path base_of_adapter(const fs::path& adapter) {
  const fs::path file = adapter / "adapter_config.json";
  const LoraConfig config = parse_lora_config(read_json(file), file.string());
  const fs::path named = config.base_model_name_or_path;
  constexpr const char* advice =
      "; write the base's folder there, or give the base as --model_name_or_path and this folder as "
      "--adapter_name_or_path";
  check(!named.empty(), file.string(), ": base_model_name_or_path is missing", advice);
  for (const fs::path& candidate : {named, adapter / named})
    if (fs::is_directory(candidate)) return candidate;
  if (hub::is_id(named.string())) try {
      return model_on_disk(named.string(), config.revision, !fs::exists(adapter / "tokenizer.json"));
    } catch (const Error& error) {
      fail(file.string(), ": base_model_name_or_path: ", error.what(), advice);
    }
  fail(file.string(), ": base_model_name_or_path \"", named.string(), "\" is no folder here", advice);
}

/// One of the adapters that PEFT saved side by side: `root`/NAME, or for "default" `root` itself.
inline fs::path named_adapter(const fs::path& root, const std::optional<std::string>& name) {
  const auto is_adapter = [](const fs::path& folder) { return fs::exists(folder / "adapter_config.json"); };
  check(fs::is_directory(root), root.string(), ": is no folder; expected a PEFT adapter, or several side by side");
  if (!name || (*name == "default" && is_adapter(root))) return root;
  if (is_adapter(root / *name)) return root / *name;
  std::string known = is_adapter(root) ? "default" : "";
  for (const auto& entry : fs::directory_iterator(root))
    if (is_adapter(entry.path())) known += (known.empty() ? "" : ", ") + entry.path().filename().string();
  fail(root.string(), ": has no adapter named ", *name, "; it has: ", known.empty() ? "none" : known);
}

inline bool is_adapter_folder(const fs::path& folder) {
  return fs::exists(folder / "adapter_config.json") && !fs::exists(folder / "config.json");
}
inline bool is_same_folder(const fs::path& a, const fs::path& b) { return fs::exists(a) && fs::equivalent(a, b); }

/// Where a reference comes from: a model's folder, and that of an adapter on it.
struct ReferenceFolders {
  fs::path bare;
  std::optional<fs::path> adapter = std::nullopt;
};

/// Reads references. The policy's own base is not read once more while it has not been trained.
struct ReferenceLoader {
  Arguments args;
  Decoder base;
  fs::path base_folder;
  Tensor untrained = smallest_parameter(base).clone();

  bool has(const fs::path& bare) const {
    return is_same_folder(bare, base_folder) && at::equal(present(smallest_parameter(base)), untrained);
  }
  /// `is_held`: past the first update; else it may be the untrained base itself. `is_fixed`: it will not move, so that
  /// its weights may stay in their files; not where it has to write replies token by token, and widen all for each.
  Decoder operator()(const ReferenceFolders& folders, bool is_held, bool is_fixed = false) const {
    const auto& [bare, adapter] = folders;
    const bool is_base = has(bare);
    Decoder model = is_base ? base : freeze(load_model(args, bare));
    if (is_fixed && (is_held || !is_base) && !adapter && !args.script.ref_dtype && !args.script.generate_during_eval)
      model = held_as_stored(std::move(model), bare);
    if (is_base && (is_held || adapter)) model = frozen_copy(model);
    check(model.spec.vocab_size == base.spec.vocab_size, bare.string(), ": has a vocabulary of ", model.spec.vocab_size,
          " tokens, and the policy one of ", base.spec.vocab_size, "; a reference must read the same tokens");
    const auto start = [](const ModelSpec& spec) {
      return spec.encoder.empty() ? std::nullopt : std::optional(spec.encoder.front().start_token_id);
    };
    check(start(model.spec) == start(base.spec), bare.string(), ": a ", model.spec.model_type,
          " reads batches otherwise than the policy, a ", base.spec.model_type,
          ": expected both or none to be an encoder-decoder, with one decoder_start_token_id");
    return adapter ? frozen_copy(load_adapter(model, *adapter).policy) : model;
  }
};

/// The folders of the reference that the arguments name, if they name one.
inline std::optional<ReferenceFolders> named_reference(const ScriptConfig& script, const fs::path& base_folder) {
  if (script.ref_adapter_name)
    return ReferenceFolders{base_folder, named_adapter(*script.adapter_name_or_path, script.ref_adapter_name)};
  if (!script.ref_model_name_or_path) return std::nullopt;
  const fs::path folder = *script.ref_model_name_or_path;
  if (is_adapter_folder(folder)) return ReferenceFolders{base_of_adapter(folder), folder};
  return ReferenceFolders{folder};
}

inline Policy load_policy(const Arguments& args) {
  const ScriptConfig& script = args.script;
  const fs::path folder = script.model_name_or_path;
  std::optional<fs::path> adapter;
  if (script.adapter_name_or_path) adapter = named_adapter(*script.adapter_name_or_path, script.model_adapter_name);
  const bool is_adapter = is_adapter_folder(folder);
  if (is_adapter) {
    check(!adapter && !script.use_peft, folder.string(),
          ": is an adapter itself; leave out --adapter_name_or_path and --use_peft");
    adapter = folder;
  }
  const fs::path base_folder = is_adapter ? base_of_adapter(folder) : folder;
  const ModelFiles files(base_folder);
  const Decoder base = load_model(args, base_folder);
  Policy out{.model = base,
             .copy_reference = {},
             .load_reference = {},
             .moving_reference = {},
             .adapter = std::nullopt,
             .base = base_folder,
             .base_files = files,
             .tokenizer_files = files,
             .tokens = {}};
  const bool adapts = adapter || script.use_peft;
  const ReferenceLoader load{args, base, base_folder};
  if (adapts) {
    AdaptedDecoder adapted = adapter
                                 ? load_adapter(base, *adapter)
                                 : with_adapter(base, lora_config(script), static_cast<std::uint64_t>(args.train.seed));
    if (script.merge_and_unload) check_mergeable(adapted.policy);
    adapted.config.base_model_name_or_path = base_name(base_folder);
    if (const auto repository = hub::repository_of(base_folder)) adapted.config.revision = repository->revision;
    auto reference = adapter ? live_reference(adapted.policy) : live_reference(base);
    reference.starts_as_policy = script.disable_dropout || adapted.config.lora_dropout == 0;
    if (script.disable_dropout) disable_dropout(adapted.policy);
    out.model = adapted.policy;
    out.adapter = adapted.config;
    out.copy_reference = out.load_reference = [reference] { return reference; };
  } else {
    out.copy_reference = [load, base_folder] {
      return LiveReference<Decoder>{.model = to_reference_dtype(load({base_folder}, /*is_held=*/true, true), load.args),
                                    .starts_as_policy = !load.args.script.ref_dtype};
    };
    out.load_reference = [load, base_folder] {
      return LiveReference<Decoder>{to_reference_dtype(load({base_folder}, /*is_held=*/false, true), load.args)};
    };
  }
  out.moving_reference = [policy = out.model] { return frozen_copy(policy); };

  const auto named = named_reference(script, base_folder);
  const bool is_policy_itself = named && is_same_folder(named->bare, base_folder) &&
                                named->adapter.has_value() == adapter.has_value() &&
                                (!adapter || is_same_folder(*named->adapter, *adapter));
  if (!named || (is_policy_itself && !(adapts && script.ref_dtype))) return out;
  const auto reference = [load, named, adapts](bool is_held) {
    const bool is_shared = adapts && load.has(named->bare);  // a narrower copy would be one more
    Decoder model = load(*named, is_held, /*is_fixed=*/!is_shared);
    return LiveReference<Decoder>{is_shared && !load.args.script.ref_dtype ? model
                                                                           : to_reference_dtype(model, load.args)};
  };
  out.copy_reference = [reference] { return reference(/*is_held=*/true); };
  out.load_reference = [reference] { return reference(/*is_held=*/false); };
  out.moving_reference = [load, named] {
    const Decoder model = load(*named, /*is_held=*/true);
    return load.args.script.ref_dtype ? to_reference_dtype(model, load.args) : model;
  };
  return out;
}

/// The model's own folder, or where that is an adapter without a tokenizer, its base's.
inline fs::path tokenizer_folder(const Arguments& args) {
  const fs::path folder = args.script.model_name_or_path;
  const bool bare_adapter = fs::exists(folder / "adapter_config.json") && !fs::exists(folder / "tokenizer.json");
  return bare_adapter ? base_of_adapter(folder) : folder;
}

}  // namespace kto::cli
