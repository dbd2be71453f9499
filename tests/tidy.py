# SPDX-License-Identifier: Apache-2.0
"""tidy.py SOURCE_ROOT WORK_FOLDER CLANG_TIDY FLAGS...: runs clang-tidy over include/kto, with .clang-tidy. All headers and one
Trainer form one translation unit, because most of the time goes into LibTorch's headers. Standard library only."""
import os
import subprocess
import sys

root, work, tidy, *flags = sys.argv[1:]
include = os.path.join(root, "include")
headers = sorted(os.path.relpath(os.path.join(folder, name), include)
                 for folder, _, names in os.walk(os.path.join(include, "kto")) for name in names)
os.makedirs(work, exist_ok=True)
source = os.path.join(work, "all_headers.cpp")
with open(source, "w", encoding="utf-8") as file:
    file.writelines(f'#include "{header}"\n' for header in headers)
    file.write(f'#include "{root}/tests/consumer/trainer.cpp"  // NOLINT(bugprone-suspicious-include)\n')
result = subprocess.run([tidy, "--quiet", f"--config-file={root}/.clang-tidy", source, "--", *flags, "-I" + include],
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
found = [line for line in result.stdout.splitlines() if "error:" in line or "warning:" in line]
if result.returncode or found:
    print(result.stdout)
print(f"{len(headers)} headers, {len(found)} complaints")
sys.exit(bool(result.returncode or found))
