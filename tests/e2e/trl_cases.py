# SPDX-License-Identifier: Apache-2.0
"""trl_cases.py TRAIN_KTO SHARED: the recorded runs of TRL in SHARED/golden, through check_cases.py there."""
import os
import subprocess
import sys

train_kto, shared = sys.argv[1:3]
golden = os.path.join(shared, "golden")
if not os.path.exists(os.path.join(golden, "check_cases.py")):
    print("skipped: no recorded cases at", golden)
    sys.exit(77)
sys.exit(subprocess.run([sys.executable, os.path.join(golden, "check_cases.py"), train_kto, "-v"]).returncode)
