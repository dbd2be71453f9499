#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the same steps in TRL and in train_kto on this machine, and compares time, memory and losses.

Without --suite, runs the one setting given by the flags. With it, runs many for one report: precision, loss, full weights,
precomputed reference and LoRA, batch, length, long prompts and system prompts, the shape of Qwen2-0.5B. With --families, runs random models of other
families, with real widths, few layers and the tokenizer of --model; an encoder-decoder's peer is a plain loop with transformers'
forward, for TRL trains none. The two programs alternate, each in its own process.
TRL runs in each of the --ways open to a user on a CPU; the fastest counts. Time is `train_runtime` over the number of
steps: it excludes start-up, loading, a precomputed reference and saving. With torch_compile, which compiles in the first two steps,
it is the fastest step after those. The time until the end of the first step, as the user sees it, is reported separately. Memory is
the process's peak resident size, from start to end. Exits with 1 if losses that must agree do not.
Writes a report, with a plot if this Python has matplotlib, into benchmarks/results/. The interpreter given with
--trl_python needs trl, peft, and the same torch as train_kto."""
import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time

from harness import (ROOT, add_files, check_files, chosen_rows, head, measure, model_name, plotter, report_path, stored_tensors, table, train_kto, trl_versions,
                     write_report)

OURS = "train_kto"
TCMALLOC = "libtcmalloc_minimal.so.4"
SHOWN = ("loss", "kl", "grad_norm", "rewards/margins")
LORA = {"lora_r": 16, "lora_alpha": 32}
METHODS = ("full", "precomputed", "in_backward", "lora")
ROWS = ("first", "system_prompt", "long_prompt", "longest")
# float32: only rounding. bf16: two ways of rounding, about equally far from float32. LoRA: different random weights.
TOLERANCE = {"float32": 5e-4, "bf16": 0.03}


@dataclasses.dataclass(frozen=True)
class Setting:
    bf16: bool = False
    loss: str = "kto"
    method: str = "full"
    batch: int = 4
    max_length: int = 512
    rows: str = "first"
    family: str = ""  # of a random model; else --model
    ways: tuple = ("plain",)  # of running TRL
    steps: int = 0  # 0: --steps

    def name(self):
        return ", ".join(["bf16" if self.bf16 else "float32", *self.parts()])

    def parts(self):
        """What is said of it beside the precision."""
        parts = [self.family] * bool(self.family) + [self.loss, self.method, f"batch {self.batch}", f"length {self.max_length}"]
        return parts + {"first": [], "system_prompt": ["system prompt of 400 tokens"], "long_prompt": ["long prompts"], "longest": ["longest rows"]}[self.rows]


# Real widths; as few layers as give about 100 million weights, or one.
FAMILIES = {
    "bloom": {"hidden_size": 1024, "n_layer": 4, "n_head": 16, "hidden_dropout": 0, "attention_dropout": 0},
    "gemma2": {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 1, "num_attention_heads": 8,
               "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
    "gemma3_text": {"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0},
    "phi3": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 1, "num_attention_heads": 32,
             "num_key_value_heads": 32, "tie_word_embeddings": True},
    "qwen2": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
              "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},  # Qwen2-0.5B whole
    "qwen3": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 1, "num_attention_heads": 32,
              "num_key_value_heads": 4, "head_dim": 128, "tie_word_embeddings": True},
    "qwen3_moe": {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 16, "num_experts_per_tok": 8, "num_hidden_layers": 1,
                  "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "norm_topk_prob": True, "tie_word_embeddings": True},
    "qwen3_5_text": {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 4, "num_attention_heads": 8,
                     "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 16,
                     "linear_key_head_dim": 128, "linear_value_head_dim": 128, "tie_word_embeddings": True},
    "t5": {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 12, "feed_forward_proj": "gated-gelu",
           "tie_word_embeddings": False, "dropout_rate": 0, "initializer_factor": 0.05},
}
ENCODER_DECODERS = ("t5",)
ALL_WAYS = ("plain", "tcmalloc", "torch_compile")
SUITE = [
    Setting(ways=ALL_WAYS), Setting(bf16=True, ways=ALL_WAYS),
    *(Setting(bf16=bf16, ways=("tcmalloc",), **setting)
      for setting in ({"method": "precomputed"}, {"method": "lora"}, {"loss": "apo_zero_unpaired"}) for bf16 in (False, True)),
    *(Setting(ways=("tcmalloc",), family="qwen2", steps=2, **setting) for setting in ({}, {"method": "in_backward"}, {"bf16": True})),
    *(Setting(bf16=True, ways=("tcmalloc",), **setting)
      for setting in ({"rows": "long_prompt"}, {"batch": 16}, {"max_length": 1024, "rows": "system_prompt"},
                      {"max_length": 2048, "rows": "longest", "steps": 2})),
]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_files(parser)
    add("--trl_python", default=sys.executable, help="interpreter with trl (default: this one)")
    add("--num_rows", type=int, default=64, help="train on this many rows, or all if there are fewer")
    add("--steps", type=int, default=6, help="optimizer steps")
    add("--learning_rate", type=float, default=5e-6)
    add("--rounds", type=int, default=1, help="runs of each side; the fastest counts")
    add("--suite", action="store_true", help="many settings, one report; ignores the flags below except --bf16")
    add("--families", help=f"comma-separated, of {', '.join(FAMILIES)}: each in float32 and bf16, one report; ignores the same flags")
    add("--bf16", action="store_true", help="both in bf16 mixed precision instead of float32; with --suite, the bf16 settings")
    add("--loss", default="kto", choices=("kto", "apo_zero_unpaired"))
    add("--method", default="full", choices=METHODS, help="all weights, with a precomputed reference or (train_kto alone) with updates in the backward pass, or LoRA")
    add("--batch", type=int, default=4, help="rows a step")
    add("--max_length", type=int, default=512)
    add("--rows", default="first", choices=ROWS,
        help="which rows: the first, those with a system prompt of 400 tokens, the first whose prompt has 4 times the characters of the completion, or the longest")
    add("--ways", default="", help=f"comma-separated ways of running TRL, of {', '.join(ALL_WAYS)} (default: plain; with --suite, all for "
        f"full weights, tcmalloc for others). tcmalloc preloads {TCMALLOC} (Debian: libtcmalloc-minimal4), torch_compile too if it is there")
    add("--output", help="the report (default: benchmarks/results/DATE-trl[-suite].md)")
    return parser.parse_args()


# --- Runs -------------------------------------------------------------------------------------------------------------
def run_trl(model, data, output, flags, lora):
    """The TRL side; runs in its own process, under --trl_python."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    with open(data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=KTOConfig(output_dir=output, use_cpu=True, disable_tqdm=True, **flags),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=LORA["lora_r"], lora_alpha=LORA["lora_alpha"], target_modules=["q_proj", "v_proj"],
                               task_type="CAUSAL_LM") if lora else None,
    )
    result = trainer.train()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


def run_loop(model, data, output, flags, lora):
    """The side of encoder-decoders; runs in its own process, under --trl_python. Rows in order, at a constant rate."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
    from encoder_decoder_formula import encode, train
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with open(data, encoding="utf-8") as file:
        rows = [(encode(tokenizer, row, flags["max_prompt_length"], flags["max_completion_length"]), row["label"])
                for row in map(json.loads, file)]
    size = flags["per_device_train_batch_size"]
    batches = [rows[i * size : (i + 1) * size] for i in range(flags["max_steps"])]
    policy = AutoModelForSeq2SeqLM.from_pretrained(model).eval()
    log, start = [], time.perf_counter()
    for entry in train(policy, batches, learning_rate=flags["learning_rate"], bf16=flags["bf16"]):
        log.append({**entry, "step": len(log) + 1})
        print(log[-1], flush=True)
    os.makedirs(output, exist_ok=True)
    for name, content in (("trainer_state.json", {"global_step": len(log), "log_history": log}),
                          ("train_results.json", {"train_runtime": time.perf_counter() - start})):
        with open(os.path.join(output, name), "w", encoding="utf-8") as file:
            json.dump(content, file)


def make_model(family, tokenizer, folder):
    """Writes a random model of the family; runs in its own process, under --trl_python."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    words = AutoTokenizer.from_pretrained(tokenizer)
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if family in ENCODER_DECODERS:
        special["decoder_start_token_id"] = special["pad_token_id"]
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{"vocab_size": len(words), **special, **FAMILIES[family]})
    (AutoModelForSeq2SeqLM if family in ENCODER_DECODERS else AutoModelForCausalLM).from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)


def layer_weights(model):
    """The number of weights in the model's matrices, without embeddings and head."""
    with open(os.path.join(model, "model.safetensors"), "rb") as file:
        tensors = stored_tensors(file)
    outside = ("embed", "wte", "wpe", "lm_head")
    return sum(math.prod(entry["shape"]) for name, entry in tensors.items()
               if len(entry["shape"]) == 2 and not any(part in name for part in outside))


def train_trl(args, model, data, output, flags, lora=False):
    """The command that runs run_trl."""
    side = "--run_loop" if "max_prompt_length" in flags else "--run_trl"
    return [args.trl_python, os.path.abspath(__file__), side, json.dumps([model, data, output, flags, lora])]


def measure_products():
    """FLOP/s of a product of large matrices in each precision, the fastest of many runs and of PyTorch's libraries; under
    --trl_python. oneDNN supports bf16 only on some processors (AVX-512 and later); elsewhere it takes minutes."""
    import torch
    onednn = torch.backends.mkldnn.is_available()
    has_onednn = {"float32": onednn, "bf16": onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()}
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        size = 2048 if name == "float32" or has_onednn[name] else 512
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        seconds = []
        products = [torch.matmul]
        if has_onednn[name]:
            products.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
        for product in products * 10:
            start = time.perf_counter()
            product(a, b)
            seconds.append(time.perf_counter() - start)
        rates[name] = 2 * size**3 / min(seconds)
    print(json.dumps(rates))


def run_both(args, setting, scratch, earlier=()):
    """Returns {side: runs}: TRL in each of its ways, and train_kto. A setting of `earlier`, [(setting, runs)], that differs in
    train_kto's own method alone gives TRL's runs."""
    trl_alike = lambda one: dataclasses.replace(one, method="full") if one.method == "in_backward" else one
    runs_of_trl = next(({side: known[side] for side in setting.ways} for other, known in earlier if trl_alike(other) == trl_alike(setting)), {})
    model = args.model
    if setting.family:
        model = os.path.join(scratch, setting.family)
        subprocess.run([args.trl_python, os.path.abspath(__file__), "--make_model",
                        json.dumps([setting.family, args.model, model])], check=True, stderr=subprocess.DEVNULL)
    data, steps = os.path.join(scratch, "train.jsonl"), setting.steps or args.steps
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(chosen_rows(args.data, setting.rows, args.num_rows, min(args.num_rows, steps * setting.batch)))
    flags = {
        "per_device_train_batch_size": setting.batch, "max_steps": steps, "max_length": setting.max_length,
        "learning_rate": args.learning_rate, "bf16": setting.bf16, "gradient_checkpointing": False, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "seed": 42, "loss_type": setting.loss,
        "precompute_ref_log_probs": setting.method == "precomputed",
    }
    if setting.family in ENCODER_DECODERS:
        del flags["max_length"]
        flags |= {"max_prompt_length": setting.max_length * 3 // 4, "max_completion_length": setting.max_length // 4,
                  "truncation_mode": "keep_start", "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    lora = setting.method == "lora"
    runs = {side: [] for side in (*setting.ways, OURS)}
    for turn in range(args.rounds):
        for side in [side for side in runs if side not in runs_of_trl][:: -1 if turn % 2 else 1]:
            output = os.path.join(scratch, f"{side}-{turn}")
            compiled = side == "torch_compile"
            if side != OURS:
                command = train_trl(args, model, data, output, {**flags, "torch_compile": True} if compiled else flags, lora)
            else:
                extra = {"use_peft": True, **LORA} if lora else {}
                if setting.method == "in_backward":
                    extra["optim_in_backward"] = True
                if setting.method == "precomputed":
                    extra["ref_logps_cache"] = os.path.join(scratch, f"cache-{turn}")
                command = train_kto(args, model, data, output, {**flags, **extra})
            run = measure(command, output, TCMALLOC if side == "tcmalloc" or compiled and can_preload(TCMALLOC) else None)
            if compiled:
                run["seconds"] = min(run["step_seconds"][2:])
            run["layer_weights"] = layer_weights(model)
            print(f"{setting.name()}: {shown(side)}: {run['seconds']:.2f} s a step, {run['gigabytes']:.2f} GB peak", flush=True)
            runs[side].append(run)
    return runs | runs_of_trl


def shown(side):
    return side if side == OURS else "TRL" if side == "plain" else f"TRL with {side}"


def can_preload(library):
    """Tries it in another process: an allocator loaded later would free memory that it did not allocate."""
    result = subprocess.run([sys.executable, "-c", ""], env=dict(os.environ, LD_PRELOAD=library), capture_output=True, text=True,
                            check=False)
    return result.returncode == 0 and library not in result.stderr


# --- Report -----------------------------------------------------------------------------------------------------------
def largest_difference(logs, key):
    """The largest difference between the two logs, over the steps that have the key in both."""
    pairs = [(a.get(key), b.get(key)) for a, b in zip(*logs)]
    return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


def first_logs(runs):
    return [runs[side][0]["log"] for side in (next(iter(runs)), OURS)]


def agrees(setting, runs):
    """Whether the losses agree as expected: with LoRA the new weights are random, so only the first loss counts."""
    logs = first_logs(runs)
    if len(logs[0]) != len(logs[1]):
        return False
    if setting.method == "lora":
        logs = [log[:1] for log in logs]
    return largest_difference(logs, "loss") <= TOLERANCE["bf16" if setting.bf16 else "float32"]


def best(runs, side, key):
    return min(run[key] for run in runs[side])


def fastest_way(runs):
    return min((side for side in runs if side != OURS), key=lambda side: best(runs, side, "seconds"))


def tokens_a_step(runs):
    """Tokens of the rows (prompt and completion, without KL pairs), from train_kto's log."""
    log = runs[OURS][0]["log"]
    return log[-1]["num_tokens"] / log[-1]["step"]


def useful_fraction(setting, runs, peaks):
    """The fraction of the speed of matrix products: 6 P T for the policy, 2 P T for the reference unless precomputed, and
    4 P T for both on KL pairs (2 P T if precomputed), P the weights without embedding and head, T the tokens of the rows."""
    models = 1 if setting.method == "precomputed" else 2
    passes = 6 + 2 * (models - 1) + (2 * models if setting.loss == "kto" else 0)
    flops = passes * runs[OURS][0]["layer_weights"] * tokens_a_step(runs)
    peak = max(peaks.values()) if setting.bf16 else peaks["float32"]  # without instructions for bf16, float32's
    return flops / best(runs, OURS, "seconds") / peak


def report(args, results, peaks, plot):
    lines = [
        *head("TRL and train_kto",
              f"{'Random models, tokenizer of' if args.families else 'Model:'} {model_name(args)}; {args.num_rows} rows of {os.path.basename(args.data)}; {args.steps} steps{' (2 of the slowest settings)' * args.suite}, learning rate "
              f"{args.learning_rate:g}; LoRA of rank {LORA['lora_r']} on q_proj and v_proj",
              f"Peer: {trl_versions(args.trl_python)}",
              about_machine=f"; a product of large matrices runs at {peaks['float32'] / 1e9:.0f} GFLOP/s in float32, "
              f"{peaks['bf16'] / 1e9:.0f} in bf16"),
        f"The better of {args.rounds} runs each." if args.rounds > 1 else "One run each, alternating.",
        *["Settings that differ in train_kto's own method (in_backward) have TRL's runs in common."] * args.suite,
        "To the first step: seconds from the start of the command to the end of that step (imports, loading, tokenizing, a precomputed reference, "
        "and the step). Tokens count the rows. The last column is the speed of train_kto as a fraction of the machine's matrix "
        "products, counting 12 P T operations per step with KL pairs, 8 without, 4 fewer and 2 fewer with a precomputed "
        "reference (P weights without embedding and head, T tokens), including work that is saved where prompts are shared.", "",
    ]
    rows = []
    for setting, runs in results:
        peer = fastest_way(runs)
        (s_trl, s_kto), (m_trl, m_kto), (a_trl, a_kto) = (
            [best(runs, side, key) for side in (peer, OURS)] for key in ("seconds", "gigabytes", "first_step_ends"))
        rows.append([setting.name(), shown(peer), f"{s_trl:.2f}", f"{s_kto:.2f}", f"**{s_trl / s_kto:.2f}**", f"{m_trl:.2f}", f"{m_kto:.2f}",
                     f"**{m_kto / m_trl:.2f}**", f"{tokens_a_step(runs) / s_kto:.0f}", f"{a_trl:.1f}", f"{a_kto:.1f}",
                     f"{100 * useful_fraction(setting, runs, peaks):.0f} %"])
    lines += table(["setting", "fastest way of TRL", "its s per step", "train_kto", "TRL / train_kto", "TRL, peak GB", "train_kto",
                    "train_kto / TRL", "train_kto, tokens/s", "TRL, s to the first step", "train_kto", "of products"], rows)
    lines += ways_table(results) + precision_table(results)
    if plot:
        lines += ["", f"![time and memory]({os.path.basename(plot)})"]
    lines += ["", "Largest differences between the two over the steps (LoRA: the new weights are random; only the first step is "
              "comparable):", ""]
    lines += table(["setting", *SHOWN, "losses agree"],
                   [[setting.name(), *(f"{largest_difference(first_logs(runs), key):.2g}" for key in SHOWN),
                     "yes" if agrees(setting, runs) else "**NO**"] for setting, runs in results])
    lines += rounding_table(results)
    setting, runs = results[0]
    number = lambda value: "-" if value is None else f"{value:.5g}"
    lines += ["", f"Step by step (TRL, train_kto): {setting.name()}", ""]
    lines += table(["step", *SHOWN], [[str(a["step"]), *(f"{number(a.get(k))}, {number(b.get(k))}" for k in SHOWN)]
                                      for a, b in zip(*first_logs(runs))])
    return "\n".join(lines) + "\n"


def ways_table(results):
    """Each way of TRL, for the settings with several."""
    rows = [[setting.name(), *("-" if way not in runs else f"{best(runs, way, 'seconds'):.2f}" for way in ALL_WAYS)]
            for setting, runs in results if len(runs) > 2]
    return ["", "Each way of TRL, s per step:", "", *table(["setting", *map(shown, ALL_WAYS)], rows)] if rows else []


def precision_table(results):
    """Both programs in their faster precision, for the settings with both."""
    by_parts = {}
    for setting, runs in results:
        by_parts.setdefault(", ".join(setting.parts()), {})["bf16" if setting.bf16 else "float32"] = runs
    rows = []
    for parts, of in by_parts.items():
        if len(of) == 2:
            trl = min((best(runs, fastest_way(runs), "seconds"), precision) for precision, runs in of.items())
            ours = min((best(runs, OURS, "seconds"), precision) for precision, runs in of.items())
            rows.append([parts, f"{trl[0]:.2f} ({trl[1]})", f"{ours[0]:.2f} ({ours[1]})", f"**{trl[0] / ours[0]:.2f}**"])
    return ["", "Each program in its faster precision, s per step:", "",
            *table(["setting", "TRL", "train_kto", "TRL / train_kto"], rows)] if rows else []


def rounding_table(results):
    """How far bf16 is from TRL in float32 on the same rows, for both programs, if both settings were run."""
    float32 = {setting: first_logs(runs)[0] for setting, runs in results if not setting.bf16}
    rows = []
    for setting, runs in results:
        exact = float32.get(dataclasses.replace(setting, bf16=False))
        if setting.bf16 and exact and setting.method != "lora":
            rows.append([setting.name(), *(", ".join(f"{largest_difference((log, exact), key):.2g}" for log in first_logs(runs))
                                           for key in SHOWN)])
    if not rows:
        return []
    return ["", "Largest distance of bf16 (TRL, train_kto) from TRL in float32 (a few steps say little: see precision.py):", "",
            *table(["setting", *SHOWN], rows)]


def draw(path, results):
    """Plots time and memory of both sides as bars; returns the path, or None without matplotlib."""
    pyplot = plotter()
    if pyplot is None:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.42 * len(results) + 1.3), sharey=True)
    for axis, (key, title) in zip(axes, (("seconds", "seconds per step"), ("gigabytes", "peak memory, GB"))):
        for place, (side, color) in enumerate((("TRL", "#b8b8b8"), (OURS, "#2a6fb0"))):
            drawn = axis.barh([y + 0.38 * place for y in range(len(results))],
                              [best(runs, OURS if side == OURS else fastest_way(runs), key) for _, runs in results],
                              0.36, color=color, label=side)
            axis.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
        axis.set(title=title)
        axis.margins(x=0.1)
    axes[0].set_yticks([y + 0.19 for y in range(len(results))], [setting.name() for setting, _ in results])
    axes[0].invert_yaxis()
    axes[1].legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path


def main():
    if sys.argv[1:2] == ["--run_trl"]:
        return run_trl(*json.loads(sys.argv[2]))
    if sys.argv[1:2] == ["--run_loop"]:
        return run_loop(*json.loads(sys.argv[2]))
    if sys.argv[1:2] == ["--measure_products"]:
        return measure_products()
    if sys.argv[1:2] == ["--make_model"]:
        return make_model(*json.loads(sys.argv[2]))
    args = parse_arguments()
    check_files(args)
    families = args.families.split(",") if args.families else []
    for family in families:
        if family not in FAMILIES:
            sys.exit(f"error: --families: \"{family}\" is none of {', '.join(FAMILIES)}")
    ways = tuple(filter(None, args.ways.split(",")))
    for way in ways:
        if way not in ALL_WAYS:
            sys.exit(f"error: --ways: \"{way}\" is none of {', '.join(ALL_WAYS)}")
    if families:
        settings = [Setting(bf16, family=family) for family in families for bf16 in (False, True) if bf16 or not args.bf16]
    elif args.suite:
        settings = [setting for setting in SUITE if setting.bf16 or not args.bf16]
    else:
        settings = [Setting(args.bf16, args.loss, args.method, args.batch, args.max_length, args.rows)]
    if ways:
        settings = [dataclasses.replace(setting, ways=ways) for setting in settings]
    if "torch_compile" in ways and any(setting.family in ENCODER_DECODERS for setting in settings):
        sys.exit(f"error: --ways: the loop for {', '.join(ENCODER_DECODERS)} does not run with torch_compile")
    if any("torch_compile" in setting.ways for setting in settings) and args.steps < 3:
        sys.exit("error: --steps: with torch_compile at least 3, for the first two compile")
    if any("tcmalloc" in setting.ways for setting in settings) and not can_preload(TCMALLOC):
        if ways:
            sys.exit(f"error: {TCMALLOC} is not installed (Debian: libtcmalloc-minimal4)")
        print(f"{TCMALLOC} is not installed (Debian: libtcmalloc-minimal4): without it")
        settings = [dataclasses.replace(setting, ways=tuple(way for way in setting.ways if way != "tcmalloc") or ("plain",))
                    for setting in settings]
    products = subprocess.run([args.trl_python, os.path.abspath(__file__), "--measure_products"], capture_output=True, text=True,
                              check=True)
    stem = report_path(args, "families" if families else f"trl{'-suite' * args.suite}").removesuffix(".md")
    results = []
    for setting in settings:
        with tempfile.TemporaryDirectory() as scratch:
            results.append((setting, run_both(args, setting, scratch, results)))
        text = report(args, results, json.loads(products.stdout), draw(stem + ".png", results))
        write_report(stem + ".md", text)  # after each, so that an interrupted suite leaves its results
    print(f"\n{text}\nwritten to {stem}.md")
    return 0 if all(agrees(setting, runs) for setting, runs in results) else 1


if __name__ == "__main__":
    sys.exit(main())
