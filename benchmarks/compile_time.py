#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the cost of compiling kto: each header alone (-O0 -fsyntax-only), kto.hpp with one Trainer, and whole programs
(examples/minimal.cpp, which also reads rows, tokenizes, loads and saves, and examples/own_loss.cpp, a command line with your
own loss), alone and with kto.hpp precompiled as kto_precompile() does (-O0 -c). Prints JSON: processor seconds, which equal
wall-clock seconds on an idle machine, and the peak resident bytes of the compiler. Compiles one at a time, without ccache.
Standard library only.

Include paths and definitions come from a build folder configured with -DKTO_BUILD_BENCHMARKS=ON."""
import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOORS = r"kto/(loss/.*|.*/concept|core/torch|logprob/completion|train/contract|kto)\.hpp"
ONE_TRAINER = "kto.hpp and one Trainer"
TRAINER = """#include "kto/kto.hpp"
using Trainer = kto::Trainer<kto::Decoder, kto::PackedCollator, kto::Kto, kto::LiveReference<kto::Decoder>>;
kto::TrainerState train(Trainer& trainer, std::span<const kto::Example> rows) { return trainer.train(rows); }
"""
PROGRAMS = ("examples/minimal.cpp", "examples/own_loss.cpp")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default=os.path.join(ROOT, "build"), help="build folder (default: build/)")
    add("--compilers", nargs="+", help="default: $CXX or g++, and clang++-19 if installed")
    add("--headers", default=DOORS, metavar="REGEX", help="headers to compile (default: LibTorch's one, each room's entry header, "
        "each loss, kto.hpp)")
    add("--all", action="store_const", const=".*", dest="headers", help="every header")
    return parser.parse_args()


def flags_of(build):
    path = os.path.join(build, "compile_commands.json")
    if not os.path.exists(path):
        sys.exit(f"error: {path} is missing; configure with -DKTO_BUILD_BENCHMARKS=ON")
    with open(path, encoding="utf-8") as file:
        entry = next((e for e in json.load(file) if e["file"].endswith("bench_logprob.cpp")), None)
    if entry is None:
        sys.exit(f"error: {path} does not say how bench_logprob.cpp is compiled; configure with -DKTO_BUILD_BENCHMARKS=ON")
    words = shlex.split(entry["command"])
    flags = []
    for word, after in zip(words, words[1:] + [""]):
        if word == "-isystem":
            flags += [word, after]
        elif word.startswith(("-I", "-D", "-std=")):
            flags.append(word)
    return flags


def measure(command):
    """Processor seconds and peak bytes of the command and its children."""
    environment = dict(os.environ, CCACHE_DISABLE="1")
    with tempfile.TemporaryFile("w+") as text:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=text, stderr=text, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            text.seek(0)
            sys.exit(f"{text.read()[:3000]}\nerror: exit status {process.returncode} of {shlex.join(command)}")
    return {"seconds": usage.ru_utime + usage.ru_stime,
            "bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def main():
    args = parse_arguments()
    flags = flags_of(args.build)
    include = os.path.join(ROOT, "include")
    headers = sorted(os.path.relpath(os.path.join(folder, name), include)
                     for folder, _, names in os.walk(include) for name in names)
    headers = [header for header in headers if re.fullmatch(args.headers, header)]
    compilers = args.compilers or [c for c in (os.environ.get("CXX") or "g++", "clang++-19") if shutil.which(c)]
    result = []
    with tempfile.TemporaryDirectory() as scratch:
        source, output = os.path.join(scratch, "unit.cpp"), os.path.join(scratch, "unit.o")

        def write(text):
            with open(source, "w", encoding="utf-8") as file:
                file.write(text)

        for compiler in dict.fromkeys(compilers):
            version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
            units = []

            def add(unit, *arguments):
                units.append({"unit": unit, **measure([compiler, *flags, "-O0", *arguments])})

            for header in headers:
                write(f'#include "{header}"\n')
                add(header, "-fsyntax-only", source)
            write(TRAINER)
            add(ONE_TRAINER, "-c", source, "-o", output)
            for program in PROGRAMS:
                add(program, "-c", os.path.join(ROOT, program), "-o", output)
            write('#include "kto/kto.hpp"\n')
            precompiled = os.path.join(scratch, "unit.hpp" + (".pch" if "clang" in version else ".gch"))
            subprocess.run([compiler, *flags, "-O0", "-x", "c++-header", source, "-o", precompiled], check=True)
            use = ["-include-pch", precompiled] if "clang" in version else ["-include", precompiled.removesuffix(".gch")]
            for program in PROGRAMS:
                add(program + ", kto.hpp precompiled", *use, "-c", os.path.join(ROOT, program), "-o", output)
            result.append({"compiler": version, "units": units})
    print(json.dumps({"compilers": result}, indent=1))


if __name__ == "__main__":
    main()
