# SPDX-License-Identifier: Apache-2.0
"""saved_model.py TRAIN_KTO SOURCE_ROOT: a trained and saved model loads in transformers, with tokenizer and template, and
gives the same log-probs as train_kto. Skipped if torch or transformers are missing."""
import json
import os
import subprocess
import sys
import tempfile

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
from logps import mean_logps
from tiny_model import make_model, make_rows

train_kto, root = sys.argv[1:3]
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as tmp:
    model, rows, out = os.path.join(tmp, "model"), os.path.join(tmp, "data"), os.path.join(tmp, "out")
    make_model(model, root)
    os.makedirs(rows)
    make_rows(os.path.join(rows, "train.jsonl"))
    make_rows(os.path.join(rows, "test.jsonl"), 8)
    subprocess.run([train_kto, "--model_name_or_path", model, "--dataset_name", rows, "--output_dir", out, "--max_steps", "3",
                    "--learning_rate", "1e-2", "--per_device_train_batch_size", "4", "--do_eval", "--logging_steps", "1"],
                   check=True, stdout=subprocess.DEVNULL)
    evaluated = json.load(open(os.path.join(out, "eval_results.json")))
    trained, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.equal(before.model.embed_tokens.weight, trained.model.embed_tokens.weight), "no weight has changed"
    for name, want in mean_logps(trained, tokenizer, os.path.join(rows, "test.jsonl")).items():
        got = evaluated[f"eval_logps/{name}"]
        print(f"logps/{name}: transformers {want:.6f}, train_kto {got:.6f}")
        assert abs(want - got) < 1e-5 * abs(want), "the saved model is another one"
    from transformers import TrainerState
    state = TrainerState.load_from_json(os.path.join(out, "trainer_state.json"))
    assert state.global_step == 3 and len(state.log_history) == 4
print("1 passed, 0 failed")
