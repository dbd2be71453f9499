# SPDX-License-Identifier: Apache-2.0
"""check.py MISTAKE.cpp... -- COMPILER FLAGS...: of each mistake the compiler must give exactly one error, whose line holds
the text that the mistake's first line expects. All are compiled at once, each in a namespace of its own: a compiler takes
longer to begin than for one of them. Standard library only."""
import os
import re
import subprocess
import sys

end = sys.argv.index("--")
files, compiler = sys.argv[1:end], sys.argv[end + 1:]
name_of = lambda file: os.path.splitext(os.path.basename(file))[0]

expected, source, includes = {}, [], []
for file in files:
    lines = open(file, encoding="utf-8").read().splitlines()
    if not lines[0].startswith("// expects: "):
        sys.exit(f"{file}: first line must be: // expects: TEXT")
    expected[name_of(file)] = lines[0].removeprefix("// expects: ")
    includes += [line for line in lines if line.startswith("#include ")]
    source += [f"namespace {name_of(file)} {{", f'#include "{file}"', "}"]
is_clang = "clang" in subprocess.run([compiler[0], "--version"], capture_output=True, text=True).stdout
no_limit = ["-ferror-limit=0"] if is_clang else []
result = subprocess.run([*compiler, *no_limit, "-fsyntax-only", "-x", "c++", "-"], input="\n".join(includes + source) + "\n",
                        capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})

# Where an error comes from: g++ says so in the lines before it, "FILE:LINE:COLUMN:   required from here", clang in those
# after it. An error whose own line names a mistake is of that one.
lines = result.stderr.splitlines()
at = [i for i, line in enumerate(lines) if re.search(r"(^|[^a-z_])error: ", line)]
errors = {name: [] for name in expected}
for begin, i, end in zip([-1, *at], at, [*at[1:], len(lines)]):
    around = lines[i:end] if is_clang else [lines[i], *reversed(lines[begin + 1:i])]
    named = (name_of(file) for line in around for file in re.findall(r"^(?:In file included from )?(\S+\.cpp):\d+", line))
    errors[next((name for name in named if name in expected), name_of(files[0]))].append(lines[i])

bad = [name for name, text in expected.items() if len(errors[name]) != 1 or text not in errors[name][0]]
for name in bad:
    print(f"{name}: expected one error with: {expected[name]}\ngot {len(errors[name])}:", *errors[name], sep="\n  ")
if bad:
    print(result.stderr)
print(f"{len(files) - len(bad)} passed, {len(bad)} failed")
sys.exit(bool(bad))
