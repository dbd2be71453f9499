# SPDX-License-Identifier: Apache-2.0
"""headers_alone.py SOURCE_ROOT WORK_FOLDER COMPILER FLAGS...: every header compiles alone, without warnings. With clang,
the DOORS that a header reaches are precompiled, which takes a tenth of the time. Nothing is missed: a header's own text comes
after all that it includes, and those files are compiled alone, too. Standard library only."""
import collections
import concurrent.futures
import os
import re
import subprocess
import sys

root, work, compiler, *flags = sys.argv[1:]
include = os.path.join(root, "include")
warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
headers = sorted(os.path.relpath(os.path.join(folder, name), include)
                 for folder, _, names in os.walk(os.path.join(include, "kto")) for name in names)
uses = {h: re.findall(r'^#include "(kto/.+)"', open(os.path.join(include, h), encoding="utf-8").read(), re.M) for h in headers}
DOORS = ["kto/core/error.hpp", "kto/io/json.hpp", "kto/core/torch.hpp", "kto/text/tokenizer.hpp", "kto/reference/concept.hpp",
         "kto/kto.hpp", "kto/text/jinja/operators.hpp", "kto/model/mixing.hpp", "kto/model/families/family.hpp", "kto/cli/arguments.hpp"]
LEAST_USERS = 4  # of a set of doors that is precompiled
reached = {}


def reach(header):
    """`header` and all headers of the library that it includes."""
    if header not in reached:
        reached[header] = {header}.union(*(reach(other) for other in uses[header]))
    return reached[header]


def doors_of(header):
    doors = [door for door in DOORS if door in reach(header) - {header}]
    return tuple(door for door in doors if not any(door in reach(other) for other in doors if other != door))


def covered(doors):
    """The headers that `doors` bring."""
    return set().union(*map(reach, doors))


def largest(sets, wanted):
    """Of the sets of doors, the one that covers most, and nothing but what is wanted."""
    return max((doors for doors in sets if covered(doors) <= wanted), key=lambda doors: len(covered(doors)))


def precompile(doors):
    """The flags with which a file has `doors` precompiled."""
    if not doors:
        return doors, []
    pch = os.path.join(work, f"{len(doors)}-" + "-".join(os.path.basename(door) for door in doors) + ".pch")
    subprocess.run([compiler, *flags, "-I" + include, "-w", "-fpch-instantiate-templates", "-x", "c++-header", "-", "-o", pch],
                   input="".join(f'#include "{door}"\n' for door in doors), text=True, check=True)
    return doors, ["-include-pch", pch]


def compile_alone(header):
    doors = largest(precompiled, reach(header) - {header})
    command = [compiler, *precompiled[doors], *flags, "-I" + include, *warnings, "-fsyntax-only", "-x", "c++", "-"]
    result = subprocess.run(command, input=f'#include "{header}"\n', capture_output=True, text=True)
    return header, result.returncode, result.stderr


is_clang = "clang" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
os.makedirs(work, exist_ok=True)
bad = 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    users = collections.Counter(map(doors_of, headers))
    sets = {doors for doors, count in users.items() if count >= LEAST_USERS} if is_clang else set()
    precompiled = dict(pool.map(precompile, sorted(sets | {()})))
    for header, status, text in pool.map(compile_alone, headers):
        if status:
            bad += 1
            print(f"{header}:\n{text[:2000]}")
print(f"{len(headers) - bad} passed, {bad} failed")
sys.exit(bad > 0)
