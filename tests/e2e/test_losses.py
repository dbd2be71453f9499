# SPDX-License-Identifier: Apache-2.0
"""test_losses.py TRAIN_KTO OWN_LOSS SOURCE_ROOT: every --loss_type beside a formula written here, from the rewards that the log
has; pairs that stay together on every path; a program with a loss of its own. Standard library only."""
import json
import math
import os
import subprocess
import sys
import tempfile

from runs import Runs

train_kto, own_loss, root = sys.argv[1:4]
sigmoid = lambda x: 1 / (1 + math.exp(-x))
WORDS = "amber birch cedar delta ember fjord grove harbor island jungle kettle lantern meadow nectar orchid pebble".split()


def make_pairs(path, n, first=0):
    """Plain pairs, of different lengths."""
    word = lambda i: WORDS[i % len(WORDS)]
    with open(path, "w") as file:
        for i in range(first, first + n):
            chosen, rejected = (" " + " ".join(word(i * k + j) for j in range(2 + (i * k) % 5)) for k in (3, 7))
            file.write(json.dumps({"prompt": f"{word(i)} {word(5 * i + 1)}", "chosen": chosen, "rejected": rejected}) + "\n")


def rows_of(entry):
    """Rewards and numbers of scored tokens of the two sides of an entry, None where it has no such row."""
    side = lambda name: (entry[f"rewards/{name}"], round(entry[f"logits/{name}_sum"] / entry[f"logits/{name}"])) if entry[f"count/{name}"] else None
    return side("chosen"), side("rejected")


class Formulas:
    """The loss of one row or pair, from its rewards; beta is 0.5."""
    beta = 0.5

    def __init__(self):
        self.seen = []

    def apo_zero_unpaired(self, sign, reward):
        return 1 - sigmoid(sign * reward)

    def hinge(self, sign, reward):
        return max(0, 0.7 - sign * reward)

    def bco(self, sign, reward):
        self.seen.append(reward)
        return -math.log(sigmoid(sign * (reward - sum(self.seen) / len(self.seen))))

    def dpo(self, chosen, rejected):
        return -math.log(sigmoid(chosen[0] - rejected[0]))

    def ipo(self, chosen, rejected):
        return (chosen[0] / self.beta / chosen[1] - rejected[0] / self.beta / rejected[1] - 1 / (2 * self.beta)) ** 2

    def apo_zero(self, chosen, rejected):
        return 1 - sigmoid(chosen[0]) + sigmoid(rejected[0])

    def apo_down(self, chosen, rejected):
        return sigmoid(chosen[0]) + 1 - sigmoid(chosen[0] - rejected[0])


with tempfile.TemporaryDirectory() as tmp:
    runs = Runs(train_kto, root, tmp)
    runs.environment["XDG_CACHE_HOME"] = runs.at("cache")
    case, at = runs.case, runs.at
    os.makedirs(at("pairs"))
    make_pairs(at("pairs", "train.jsonl"), 24)
    make_pairs(at("pairs", "test.jsonl"), 4, first=24)
    entries = lambda out: json.load(open(at(out, "trainer_state.json")))["log_history"]

    def log(out, *flags, paired=True):
        result = runs.run(out, "--max_steps", "6", "--save_strategy", "no", "--logging_steps", "1", *(["--overwrite_output_dir"] if os.path.exists(at(out)) else []),
                          *flags, **({"data": at("pairs")} if paired else {}))
        return [e for e in entries(out) if "loss" in e] if result.returncode == 0 else result.stderr[-400:]

    losses = lambda steps: [e["loss"] for e in steps] if isinstance(steps, list) else steps
    close = lambda a, b, tol: isinstance(a, list) and isinstance(b, list) and len(a) == len(b) > 0 and all(abs(x - y) < tol for x, y in zip(a, b))

    # Each loss, one row or pair a step, against its formula
    one = ["--per_device_train_batch_size", "1", "--beta", "0.5"]
    for name in ("apo_zero_unpaired", "bco", "hinge", "dpo", "ipo", "apo_zero", "apo_down"):
        paired, formula = name in ("dpo", "ipo", "apo_zero", "apo_down"), Formulas()
        runs.train_kto = own_loss if name == "hinge" else train_kto
        steps = log("one", "--loss_type", name, *one, *(["--aim", "0.7"] if name == "hinge" else []), paired=paired)
        want = []
        for entry in steps if isinstance(steps, list) else []:
            chosen, rejected = rows_of(entry)
            sign, row = (1, chosen) if chosen else (-1, rejected)
            want.append(getattr(formula, name)(chosen, rejected) if paired else getattr(formula, name)(sign, row[0]))
        case(f"{name}: the formula's losses", close(losses(steps), want, 1e-5) and len({round(x, 6) for x in want}) > 3, (losses(steps), want))
        if paired and isinstance(steps, list):
            right = [float(chosen[0] > rejected[0]) for chosen, rejected in map(rows_of, steps)]
            case(f"{name}: and its accuracies", [e["rewards/accuracies"] for e in steps] == right, right)
    runs.train_kto = train_kto

    # Pairs stay together on every path: half a batch are chosen rows
    dpo = ["--loss_type", "dpo", "--beta", "0.5", "--learning_rate", "1e-3"]
    plain = log("plain", *dpo)
    whole = lambda steps: isinstance(steps, list) and all(e["count/chosen"] == e["count/rejected"] > 0 for e in steps)
    case("a batch of 4 is 4 pairs", whole(plain) and plain[0]["count/chosen"] == 4, plain)
    card = open(at("plain", "README.md"), encoding="utf-8").read()
    case("the model's card names the method", "trained with DPO, a method" in card and "2305.18290" in card and "- dpo\n" in card, card)
    case("it starts at log 2, with no margin", abs(plain[0]["loss"] - math.log(2)) < 1e-6 and plain[0]["rewards/margins"] == 0, plain[0])
    case("TRL's name for it trains the same", losses(log("same", "--loss_type", "sigmoid", *dpo[2:])) == losses(plain))
    for name, flags, tolerance in (("padded", ["--collator", "padded"], 2e-5), ("prompts not shared", ["--share_prompt", "False"], 2e-5),
                                   ("recomputed", ["--gradient_checkpointing"], 2e-5), ("streamed", ["--dataset_streaming"], 0),
                                   ("precomputed", ["--precompute_ref_log_probs"], 2e-5), ("precomputed, from the cache", ["--precompute_ref_log_probs"], 2e-5),
                                   ("two micro-batches", ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"], 2e-5),
                                   ("tokenized rows from the cache", ["--dataset_cache", at("rows")], 0), ("the same again", ["--dataset_cache", at("rows")], 0)):
        steps = log("path", *dpo, *flags)
        case(f"{name}: the same losses", whole(steps) and close(losses(steps), losses(plain), tolerance or 1e-12), (losses(steps), losses(plain)))
    case("an unpaired loss takes the cached rows of pairs as rows", isinstance(log("path", "--dataset_cache", at("rows")), list) and len(os.listdir(at("rows"))) == 1)
    for name, flags in (("shuffled", ["--train_sampling_strategy", "random"]), ("grouped by length", ["--train_sampling_strategy", "group_by_length"]),
                        ("by tokens", ["--max_tokens_per_batch", "100"]), ("split", ["--test_split_size", "0.25", "--eval_strategy", "steps", "--eval_steps", "3"]),
                        ("LoRA", ["--use_peft", "--lora_r", "4"]), ("synced", ["--sync_ref_model", "--ref_model_sync_steps", "2"]), ("ema", ["--ref_model_ema_decay", "0.5"])):
        steps = log("path", *dpo, *flags)
        case(f"{name}: whole pairs", whole(steps) and abs(steps[0]["loss"] - math.log(2)) < 1e-6 and losses(steps) != losses(plain)[:len(steps)], losses(steps))
        if name == "split":
            seen = [e for e in entries("path") if "eval_loss" in e]
            case("and in what is held out", len(seen) == 2 and seen[0]["eval_count/chosen"] == seen[0]["eval_count/rejected"] == 6 and "eval_rewards/accuracies" in seen[0], seen[:1])
    mixture = at("mixture.yaml")
    json.dump({"datasets": [{"path": at("pairs")}, {"path": at("pairs"), "split": "test"}], "eval_datasets": {"a": at("pairs", "test.jsonl"), "b": at("pairs", "train.jsonl")},
               "model_name_or_path": runs.model, "output_dir": at("mixed"), "loss_type": ["ipo"], "num_train_epochs": 1, "per_device_train_batch_size": 4,
               "eval_strategy": "epoch", "save_strategy": "no", "logging_steps": 1}, open(mixture, "w"))
    result = subprocess.run([train_kto, "--config", mixture], capture_output=True, text=True, env=runs.environment, timeout=300)
    steps = entries("mixed") if result.returncode == 0 else []
    case("a mixture of pairs, and several evaluation sets", len([e for e in steps if "loss" in e]) == 7 and any("eval_a_loss" in e for e in steps) and any("eval_b_loss" in e for e in steps),
         result.stderr[-400:])

    # Conversational pairs whose prompt is in both completions; a prompt that fills max_length takes its whole pair
    turn = lambda role, text: {"role": role, "content": text}
    pairs = [json.loads(line) for line in open(at("pairs", "train.jsonl"))]
    for folder, rows in (("implicit", pairs), ("long", pairs[:2] + [dict(pairs[2], prompt=" ".join(WORDS * 4))] + pairs[2:])):
        os.makedirs(at(folder))
        with open(at(folder, "train.jsonl"), "w") as file:
            for row in rows:
                talk = lambda key: [turn("user", row["prompt"]), turn("assistant", row[key])]
                file.write(json.dumps({"chosen": talk("chosen"), "rejected": talk("rejected")} if folder == "implicit" else row) + "\n")
    chat = runs.run("implicit_out", *dpo, "--max_steps", "3", "--logging_steps", "1", data=at("implicit"))
    case("conversations with the prompt in both", chat.returncode == 0 and whole([e for e in entries("implicit_out") if "loss" in e]), chat.stderr[-400:])
    cut = runs.run("long_out", *dpo, "--max_steps", "6", "--save_strategy", "no", "--logging_steps", "1", "--max_length", "60", data=at("long"))
    case("a pair whose prompt is too long goes whole", cut.returncode == 0 and "dropped 2 of 50 rows" in cut.stderr and
         losses([e for e in entries("long_out") if "loss" in e]) == losses(plain), cut.stderr[-400:])

    # A stopped run goes on to the last bit
    for name, flags in (("ipo", []), ("bco", ["--data_seed", "3", "--train_sampling_strategy", "random"]), ("apo_down, streamed", ["--dataset_streaming"])):
        where = {} if name == "bco" else {"data": at("pairs")}
        flags = ["--loss_type", name.split(",")[0], "--max_steps", "6", *flags]
        first = runs.run("resumed", *flags, "--overwrite_output_dir", **where)
        os.rename(at("resumed"), at("whole-" + name))
        for step in (4, 5, 6):
            subprocess.run(["rm", "-r", at("whole-" + name, f"checkpoint-{step}")], check=True)
        result = runs.run("resumed", *flags, "--resume_from_checkpoint", at("whole-" + name, "checkpoint-3"), **where)
        runs.same(f"{name}: a resumed run has the bits of the whole one", "resumed", "whole-" + name)
    other = runs.run("resumed", "--loss_type", "dpo", "--max_steps", "6", "--resume_from_checkpoint", at("whole-ipo", "checkpoint-3"), "--overwrite_output_dir", data=at("pairs"))
    case("not with another loss", other.returncode != 0 and 'loss_type is "dpo" and was "ipo"' in other.stderr, other.stderr[-400:])

    # What cannot work
    for name, pattern, status, flags in (
            ("rows with a label", "train.jsonl: line 1: the loss dpo compares pairs: expected conversational rows (prompt, chosen, rejected)", 1, dpo),
            ("streamed ones", "train.jsonl: line 1: the loss dpo compares pairs", 1, [*dpo, "--dataset_streaming", "--max_steps", "2"]),
            ("weights of rows", "dpo compares pairs: leave both at 1", 2, [*dpo, "--desirable_weight", "2"]),
            ("another loss's flag", "--beta: expected a number > 0", 2, ["--loss_type", "bco", "--beta", "0"])):
        result = runs.run("refused", *flags)
        case(f"{name}: refused", result.returncode == status and pattern in result.stderr and not os.path.exists(at("refused")), result.stderr[-400:])
    assert runs.run("kept", "--dataset_cache", at("rows"), "--max_steps", "1").returncode == 0
    result = runs.run("refused", *dpo, "--dataset_cache", at("rows"))
    case("rows with a label from the cache: refused", result.returncode == 1 and "no row has both" in result.stderr and "the loss dpo compares pairs" in result.stderr, result.stderr[-400:])

    # A program with a loss of its own has every option of train_kto
    runs.train_kto = own_loss
    yaml = at("own.yaml")
    open(yaml, "w").write("loss_type: hinge\naim: 0.25\nuse_peft: true\nlora_r: 4\neval_strategy: steps\neval_steps: 3\n")
    result = runs.run("own", "--config", yaml, "--max_steps", "6")
    kept = json.load(open(at("own", "training_args.json"))) if result.returncode == 0 else {}
    case("own loss: trained with LoRA from a YAML file", result.returncode == 0 and kept.get("aim") == 0.25 and kept.get("loss_type") == "hinge" and
         os.path.exists(at("own", "adapter_model.safetensors")), result.stderr[-400:])
    case("its card names it", "This model was trained with hinge. The options" in open(at("own", "README.md"), encoding="utf-8").read())
    case("its metric is in the log and in evaluations", any("my/share_of_rows_at_aim" in e for e in entries("own")) and any("eval_my/share_of_rows_at_aim" in e for e in entries("own")))
    result = runs.run("own_resumed", "--config", yaml, "--max_steps", "6", "--resume_from_checkpoint", at("own", "checkpoint-3"))
    runs.same("it resumes to the last bit", "own_resumed", "own")
    result = runs.run("own_resumed", "--config", yaml, "--aim", "2", "--max_steps", "6", "--resume_from_checkpoint", at("own", "checkpoint-3"), "--overwrite_output_dir")
    case("with its own flags", result.returncode == 1 and 'aim is "2" and was "0.25"' in result.stderr, result.stderr[-400:])
    result = runs.run("refused", "--loss_type", "apo_zero_unpaired", "--aim", "1")
    case("a flag of another loss is refused by name", result.returncode == 2 and "own_loss: error: --aim: the loss apo_zero_unpaired has no such option; it has beta" in result.stderr, result.stderr)
    result = subprocess.run([own_loss, "--help"], capture_output=True, text=True)
    case("its help has them", "usage: own_loss" in result.stdout and "--loss_type hinge|apo_zero_unpaired" in result.stdout and "rewards beyond" in result.stdout and
         "--use_peft" in result.stdout, result.stdout[:400])
    sys.exit(runs.report())
