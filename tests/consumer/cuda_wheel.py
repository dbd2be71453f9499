# SPDX-License-Identifier: Apache-2.0
"""cuda_wheel.py SOURCE_ROOT BUILD_FOLDER: builds train_kto with NCCL against PyPI's CUDA build of torch, without the CUDA
toolkit, and trains on the CPU. Downloads 2.5 GB and takes 7 GB of disk; a second run finds both there. Standard library only."""
import json
import os
import subprocess
import sys
import tempfile

root, folder = sys.argv[1:3]
sys.path.insert(0, os.path.join(root, "tests", "e2e"))
from cases import Cases
from tiny_model import make_model, make_rows

TORCH = "2.13.0"
cases, python = Cases(), os.path.join(folder, "env", "bin", "python")


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def pip(*packages):
    result = run([python, "-m", "pip", "install", "-q", "--no-cache-dir", *packages])
    if result.returncode:
        print("skipped: pip cannot install", *packages, result.stderr[-300:])
        sys.exit(77)


if not os.path.exists(python):
    subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python))], check=True)
pip(f"torch==={TORCH}")  # exactly: not +cpu
version = run([python, "-c", "from importlib.metadata import version; print('.'.join(version('nvidia-cuda-runtime').split('.')[:2]))"])
pip(*(f"{package}=={version.stdout.strip()}.*" for package in ("nvidia-cuda-crt", "nvidia-cuda-cccl")))

build = os.path.join(folder, "build")
configured = run(["cmake", "--preset", "cuda", "-S", root, "-B", build, f"-DKTO_PYTHON={python}", "-DKTO_NVCC=OFF"], cwd=root)
cases.case("configured", configured.returncode == 0 and "torch_cuda" in configured.stdout, configured.stdout[-300:] + configured.stderr[-600:])
built = run(["cmake", "--build", build, "--target", "train_kto"])
cases.case("built", built.returncode == 0, built.stdout[-1500:])
with tempfile.TemporaryDirectory() as tmp:
    at = lambda name: os.path.join(tmp, name)
    make_model(at("model"), root)
    os.makedirs(at("data"))
    make_rows(at("data/train.jsonl"), 8)
    train = lambda out, *flags: run([os.path.join(build, "examples/train_kto"), "--model_name_or_path", at("model"), "--dataset_name",
                                     at("data"), "--output_dir", at(out), "--max_steps", "2", *flags])
    result = train("out", "--device", "cpu")
    steps = json.load(open(at("out/trainer_state.json")))["global_step"] if result.returncode == 0 else 0
    cases.case("trains on the CPU", steps == 2, result.stderr[-600:])
    result = train("two", "--device", "cpu", "--nproc", "2", "--ddp_backend", "nccl")
    cases.case("NCCL is not for the CPU", result.returncode == 2 and "use gloo on the CPU" in result.stderr, result.stderr[-600:])
    if run(["nvidia-smi", "-L"] if os.path.exists("/dev/nvidiactl") else ["false"]).returncode:
        result = train("none", "--device", "cuda")
        cases.case("without a GPU", result.returncode == 1 and "sees no such device" in result.stderr, result.stderr[-600:])
sys.exit(cases.report())
