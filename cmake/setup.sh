# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Shared by examples/quickstart.sh and tests/run.sh, which source it in the repository root and call its functions. It finds
# or installs Debian packages, LibTorch and Python packages, configures, and builds. Existing installations are used first.
#
# LibTorch is searched in Torch_DIR and CMAKE_PREFIX_PATH, then in the active python3 (torch 2.11 or later), then in .venv/,
# where torch 2.13.0 is installed if none is found: on a machine with an NVIDIA GPU PyPI's CUDA build, else a CPU build. PyPI
# has only a CUDA build for x86_64 Linux, so the CPU build comes from your configured package sources, or from PyTorch's
# index, or it is the CPU part of PyPI's build. No CUDA toolkit is needed for any of them.
#
# Environment:
#   KTO_PIP_ARGS       extra arguments of every `pip install` here; torch then comes from the source they name. For example
#                      "--index-url https://download.pytorch.org/whl/cu126" (for an older driver), or
#                      "--index-url <your mirror>"
#   KTO_SKIP_PACKAGES  set to 1 if the libraries do not come from Debian's packages
#   CMAKE_PREFIX_PATH, Torch_DIR, CXX, CMAKE_BUILD_PARALLEL_LEVEL   as CMake reads them
readonly kto_torch_version=2.13.0
readonly kto_venv_python=$PWD/.venv/bin/python
# Waiting threads of libgomp, LibTorch's OpenMP, spin: if another process takes a core, a run becomes 9 times slower. Spin less.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# --- Debian packages --------------------------------------------------------------------------------------------------
missing_packages() {
  [[ -n ${CXX:-} ]] || command -v g++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  local package
  command -v dpkg-query >/dev/null || return 0 # not Debian: CMake names the library that is missing
  for package in libeigen3-dev librange-v3-dev catch2 libbenchmark-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev \
      libcli11-dev libyaml-cpp-dev zlib1g-dev libzstd-dev libbz2-dev liblzma-dev libcurl4-openssl-dev libssl-dev; do
    # the last six: compressed rows and the model hub; kto builds without
    has_package "$package" || echo "$package"
  done
}

# Succeeds if Debian's package $1 is installed.
has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Installs packages $@. Fetches the package lists once, and only if the existing ones are not enough.
install_packages() {
  local install=(apt-get install -y --no-install-recommends "$@")
  export DEBIAN_FRONTEND=noninteractive
  [[ ${kto_lists_are_new:-} != 1 ]] && "${install[@]}" </dev/null >/dev/null 2>&1 && return
  [[ ${kto_lists_are_new:-} == 1 ]] || apt-get update -q </dev/null ||
    say "apt-get update failed; continuing with the existing package lists"
  kto_lists_are_new=1
  "${install[@]}" </dev/null
}

# Installs missing packages, and the optional packages $@ (for some checks) that Debian has.
ensure_packages() {
  [[ ${KTO_SKIP_PACKAGES:-} != 1 ]] || return 0
  local missing package
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]})); then
    command -v ccache >/dev/null || missing+=(ccache) # a convenience, never the reason to install
    command -v apt-get >/dev/null || die "missing: ${missing[*]} (Debian's names); install them, then run this again"
    if ((EUID)); then
      die "packages are missing. Install them, then run this again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    install_packages "${missing[@]}" || die "apt-get could not install ${missing[*]}"
  fi
  command -v dpkg-query apt-get >/dev/null || return 0
  missing=()
  for package in "$@"; do
    has_package "$package" || command -v "$package" >/dev/null || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID)); then
    say "checks that need ${missing[*]} will be skipped; to enable them: sudo apt-get install ${missing[*]}"
    return 0
  fi
  for package in "${missing[@]}"; do
    say "installing $package"
    install_packages "$package" || say "no $package: checks that need it will be skipped"
  done
}

# --- Python -----------------------------------------------------------------------------------------------------------
# Succeeds if interpreter $1 has all modules $2...
python_has() {
  "$1" -c 'import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))' \
    "${@:2}" 2>/dev/null
}

pip_install() {
  "$kto_venv_python" -m pip --version &>/dev/null || python3 -m venv .venv ||
    die "python3 could not create .venv (Debian's package: python3-venv)"
  # shellcheck disable=SC2086  # KTO_PIP_ARGS is a list of words
  "$kto_venv_python" -m pip install --disable-pip-version-check -q ${KTO_PIP_ARGS:-} "$@" </dev/null
}

# Installs small packages into .venv; an index in KTO_PIP_ARGS may have only torch.
pip_install_small() { pip_install "$@" || { [[ -n ${KTO_PIP_ARGS:-} ]] && KTO_PIP_ARGS='' pip_install "$@"; }; }

# Succeeds if the GPU's driver serves PyPI's CUDA build, which is for CUDA 13; else says what to do.
driver_serves() {
  local driver
  driver=$({ nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null || true; } | sed -n '1s/^\([0-9][0-9.]*\).*/\1/p')
  [[ -z $driver ]] || ((${driver%%.*} < 580)) || return 0
  say "PyPI's torch needs driver 580 or later, and the GPU's is ${driver:-of a version that nvidia-smi does not say}: not using the GPU." \
    "To use it, update the driver, or set KTO_PIP_ARGS='--index-url https://download.pytorch.org/whl/cu126' and remove .venv"
  return 1
}

install_torch() {
  local torch=torch==$kto_torch_version
  say "installing $torch into .venv"
  if [[ -n ${KTO_PIP_ARGS:-} || $(uname -sm) != 'Linux x86_64' ]]; then
    pip_install "$torch" || die "pip could not install $torch ${KTO_PIP_ARGS:-}"
    return
  fi
  if [[ -n $(gpu_names) ]] && driver_serves; then
    say "PyPI's CUDA build, and NVIDIA's libraries (2 GB)"
    pip_install "torch===$kto_torch_version" || die "pip could not install $torch; set KTO_PIP_ARGS to extra arguments for pip, such as --index-url"
    return
  fi
  pip_install "$torch+cpu" 2>/dev/null && return
  say "no CPU build from your package sources; trying PyTorch's index"
  pip_install --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null && return
  say "PyTorch's index cannot be reached; using the CPU part of PyPI's CUDA build (530 MB; .venv cannot import torch then)"
  pip_install --no-deps "$torch" 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*' ||
    die "pip could not install $torch; set KTO_PIP_ARGS to extra arguments for pip, such as --index-url"
}

# --- LibTorch ---------------------------------------------------------------------------------------------------------
# Prints the names of the machine's NVIDIA GPUs, one a line; nothing without a GPU or its driver.
gpu_names() { { nvidia-smi -L 2>/dev/null || true; } | sed -n 's/^GPU [0-9]*: \(.*\) (UUID.*/\1/p'; }

# Prints the folder of the TorchConfig.cmake that CMake would use, with the torch of interpreter $1 if given.
torch_folder() { cmake ${1:+-DKTO_PYTHON="$1"} -P cmake/KtoTorch.cmake 2>/dev/null; }

# Sets kto_torch_options, CMake's options that name LibTorch.
find_torch() {
  local folder
  if ! folder=$(torch_folder) && ! folder=$(torch_folder "$kto_venv_python"); then
    install_torch
    folder=$(torch_folder "$kto_venv_python") || die "torch is installed in .venv but has no TorchConfig.cmake"
  fi
  say "LibTorch: $folder"
  kto_torch_options=(-DTorch_DIR="$folder")
}

# Says whether programs built here use the machine's GPU; nothing if it has none. For after configure.
say_gpu() {
  local name torch
  name=$(gpu_names | head -n 1)
  torch=$(sed -n 's/^Torch_DIR:PATH=//p' build/CMakeCache.txt)
  if [[ -z $name ]]; then
    return 0
  elif [[ $torch == */torch_cuda || -e $torch/../../../lib/libtorch_cuda.so ]]; then
    say "on the GPU: $name"
  else
    say "not on the GPU ($name): LibTorch is a CPU build, or without NVIDIA's libraries; pip install torch brings both"
  fi
}

# --- Build ------------------------------------------------------------------------------------------------------------
# Configures build/ with options $@. A build folder keeps its generator.
configure() {
  local generator=(-G Ninja)
  [[ ! -f build/CMakeCache.txt ]] || generator=()
  say "configuring build/"
  cmake -S . -B build "${generator[@]}" "${kto_torch_options[@]}" "$@"
}

build() { cmake --build build --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" "$@"; }
