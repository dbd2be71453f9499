# SPDX-License-Identifier: Apache-2.0
"""torch_cuda.py SOURCE_ROOT CXX GENERATOR: what a build links of a CUDA build of LibTorch. LibTorch and NVIDIA's packages are
stand-ins, a few small libraries laid out as pip does. Standard library only."""
import os
import subprocess
import sys
import tempfile

root, compiler, generator = sys.argv[1:4]
sys.path.insert(0, os.path.join(root, "tests", "e2e"))
from cases import Cases

PROJECT = """cmake_minimum_required(VERSION 3.22)
project(stand_in CXX)
set(kto_required REQUIRED)
include({root}/cmake/KtoTorch.cmake)
add_executable(program program.cpp)
target_link_libraries(program PRIVATE kto::torch)
"""
PROGRAM = """#include <cstdio>
int of_cpu();
#ifdef KTO_HAS_NCCL
#include <cuda.h>
#include <nccl.h>
int cudart();
#else
int cudart() { return 0; }
#endif
int main() { std::printf("program %d %d", of_cpu(), cudart()); }
"""
NVIDIA = "$ORIGIN/../../nvidia/"

with tempfile.TemporaryDirectory() as tmp:
    cases = Cases()

    def at(*parts):
        return os.path.join(tmp, *parts)

    def write(path, text=""):
        os.makedirs(os.path.dirname(at(path)), exist_ok=True)
        with open(at(path), "w", encoding="utf-8") as file:
            file.write(text)

    def library(path, text, *needs, search=()):
        write(path + ".cpp", text)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", at(path), at(path + ".cpp"), f"-Wl,-soname,{os.path.basename(path)}",
                        "-Wl,--no-as-needed", *(at(need) for need in needs), *(f"-Wl,-rpath,{NVIDIA}{folder}" for folder in search)], check=True)

    def configured(*options):
        """The text of CMake's run, and what the program built then prints; None if one of them fails."""
        result = subprocess.run(["cmake", "-S", tmp, "-B", at("build"), "-G", generator, f"-DCMAKE_CXX_COMPILER={compiler}",
                                 f"-DKTO_PYTHON={at('python')}", "-DKTO_NVCC=OFF", *options], capture_output=True, text=True)
        text = " ".join((result.stdout + result.stderr).split())
        if result.returncode:
            return text, None
        built = subprocess.run(["cmake", "--build", at("build")], capture_output=True, text=True)
        if built.returncode:
            return text + built.stdout, None
        return text, subprocess.run([at("build", "program")], capture_output=True, text=True).stdout

    write("CMakeLists.txt", PROJECT.format(root=root))
    write("program.cpp", PROGRAM)
    write("python", f"#!/bin/sh\necho {at('site', 'torch', 'share', 'cmake', 'Torch')}\n")
    os.chmod(at("python"), 0o755)
    own_config = "site/torch/share/cmake/Torch/TorchConfig.cmake"
    write(own_config, 'message(FATAL_ERROR "there is no CUDA toolkit")\n')
    write("site/torch/include/torch/csrc/api/include/torch/all.h")
    library("site/nvidia/cudnn/lib/libcudnn.so.9", "int of_cudnn() { return 9; }")
    library("site/nvidia/cu13/lib/libcudart.so.13", "int cudart() { return 13; }")
    library("site/torch/lib/libc10.so", "int of_c10() { return 1; }")
    library("site/torch/lib/libc10_cuda.so", "int of_c10_cuda() { return 1; }")
    library("site/torch/lib/libtorch_cpu.so", "int of_cpu() { return 1; }")
    library("site/torch/lib/libtorch_cuda.so", '#include <cstdio>\n[[gnu::constructor]] void start() { std::printf("CUDA "); }',
            "site/nvidia/cudnn/lib/libcudnn.so.9", "site/nvidia/cu13/lib/libcudart.so.13", search=("cudnn/lib", "cu13/lib"))

    text, out = configured()
    cases.case("both halves, without the toolkit", out == "CUDA program 1 0" and "torch_cuda" in text, (text, out))
    text, out = configured("-DKTO_CUDA=OFF")
    cases.case("KTO_CUDA=OFF, in the same folder", out == "program 1 0" and "torch_cpu" in text, (text, out))
    text, out = configured("-DKTO_CUDA=OFF", "-DKTO_NCCL=ON")
    cases.case("NCCL without the CUDA half", out is None and "KTO_NCCL needs the CUDA half" in text, (text, out))
    text, out = configured("-DKTO_CUDA=ON", "-DKTO_NCCL=ON")
    cases.case("NCCL without its headers", out is None and "pip install nvidia-nccl-cu13 nvidia-cuda-crt nvidia-cuda-cccl" in text, (text, out))
    for header in ("nccl/include/nccl.h", "cu13/include/cuda.h", "cu13/include/crt/host_config.h", "cu13/include/nv/target"):
        write("site/nvidia/" + header)
    text, out = configured()
    cases.case("NCCL", out == "CUDA program 1 13", (text, out))

    os.rename(at("site/nvidia/cudnn/lib/libcudnn.so.9"), at("libcudnn.so.9"))
    text, out = configured("-DKTO_NCCL=OFF")
    cases.case("KTO_CUDA=ON without a library", out is None and "(libcudnn.so.9): `pip install torch` brings them" in text, (text, out))
    text, out = configured("-DKTO_CUDA=AUTO")
    cases.case("without a library", out == "program 1 0" and "only its CPU half" in text and "libcudnn.so.9" in text, (text, out))
    write("nvcc")
    os.chmod(at("nvcc"), 0o755)
    text, out = configured(f"-DKTO_NVCC={at('nvcc')}", "-DTorch_DIR=")
    cases.case("the toolkit's config", out is None and "there is no CUDA toolkit" in text, (text, out))

    os.remove(at("site/torch/lib/libtorch_cuda.so"))
    write(own_config, "add_library(torch INTERFACE IMPORTED)\nset(TORCH_LIBRARIES torch)\n"
          "set_property(TARGET torch PROPERTY INTERFACE_LINK_LIBRARIES ${CMAKE_CURRENT_LIST_DIR}/../../../lib/libtorch_cpu.so)\n")
    text, out = configured("-DTorch_DIR=", "-DKTO_CUDA=ON")
    cases.case("KTO_CUDA=ON and a CPU build", out is None and "is a CPU build of LibTorch" in text, (text, out))
    text, out = configured("-DTorch_DIR=", "-DKTO_CUDA=AUTO")
    cases.case("a CPU build", out == "program 1 0", (text, out))

    # Which torch the scripts install, by what nvidia-smi says of the GPU and its driver; the scripts end for none of it.
    for name, gpus, driver, serves in (("a GPU", "GPU 0: NVIDIA H200 (UUID: GPU-1)", "echo 580.159.03", True),
                                       ("an old driver", "GPU 0: NVIDIA H200 (UUID: GPU-1)", "echo 535.10", False),
                                       ("a driver that is not known", "GPU 0: Tesla T4 (UUID: GPU-1)", "echo 'Failed to initialize NVML'; exit 18", False),
                                       ("no driver", "NVIDIA-SMI has failed", "exit 9", False)):
        write("nvidia-smi", f"#!/bin/sh\ncase $1 in -L) echo '{gpus}' ;; *) {driver} ;; esac\n")
        os.chmod(at("nvidia-smi"), 0o755)
        result = subprocess.run(["bash", "-c", "set -euo pipefail; . cmake/setup.sh; pip_install() { echo \"pip $*\"; }; install_torch"], cwd=root,
                                env={"PATH": tmp + ":" + os.environ["PATH"], "HOME": tmp}, capture_output=True, text=True)
        wanted = "pip torch===2.13.0" if serves else "pip torch==2.13.0+cpu"
        cases.case(name, result.returncode == 0 and result.stdout.splitlines()[-1] == wanted and not result.stderr, (result.stdout, result.stderr))
    sys.exit(cases.report())
