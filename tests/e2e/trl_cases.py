# SPDX-License-Identifier: Apache-2.0
"""trl_cases.py TRAIN_KTO SHARED: the recorded runs of TRL in SHARED/golden, through check_cases.py there."""
import json
import os
import subprocess
import sys

train_kto, shared = sys.argv[1:3]
golden = os.path.join(shared, "golden")
if not os.path.exists(os.path.join(golden, "check_cases.py")):
    print("skipped: no recorded cases at", golden)
    sys.exit(77)
cases = [json.load(open(os.path.join(golden, "cases", name))) for name in sorted(os.listdir(os.path.join(golden, "cases")))]
names = [case["name"] for case in cases if not case.get("adapter")]  # LoRA is not supported yet
sys.exit(subprocess.run([sys.executable, os.path.join(golden, "check_cases.py"), train_kto, "--only", ",".join(names), "-v"]).returncode)
