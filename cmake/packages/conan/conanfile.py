# SPDX-License-Identifier: Apache-2.0
"""conan create cmake/packages/conan

LibTorch is the user's: CMake finds it in CMAKE_PREFIX_PATH or in the active Python (pip install torch) when a project that uses kto
is configured. Of the other dependencies those that the system has need no recipe: list them under [platform_requires] in a profile."""
import os

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain
from conan.tools.files import copy, load


class Kto(ConanFile):
    name = "kto"
    description = "Preference-loss training (KTO, APO) on LibTorch: header-only C++20 templates"
    license = "Apache-2.0"
    topics = ("machine-learning", "fine-tuning", "kto", "libtorch", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"hub": [True, False], "compression": [True, False], "yaml": [True, False]}
    default_options = {"hub": True, "compression": True, "yaml": True}

    @property
    def root(self):
        return os.path.join(self.recipe_folder, "..", "..", "..")

    def set_version(self):
        line = next(line for line in load(self, os.path.join(self.root, "include", "kto", "core", "version.hpp")).splitlines() if "library_version = " in line)
        self.version = line.split('"')[1]

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*"):
            copy(self, pattern, self.root, self.export_sources_folder, excludes="cmake/packages/*")

    def requirements(self):
        self.requires("eigen/[>=3.4 <4]")
        self.requires("range-v3/[>=0.12 <1]")
        self.requires("nlohmann_json/[>=3.9 <4]")
        self.requires("pcre2/[>=10.40 <11]")
        self.requires("utf8proc/[>=2.7 <3]")
        if self.options.compression:
            self.requires("zlib/[>=1.2.11 <2]")
            self.requires("zstd/[>=1.5 <2]")
            self.requires("bzip2/[>=1.0.8 <2]")
            self.requires("xz_utils/[>=5.2 <6]")
        if self.options.yaml:
            self.requires("yaml-cpp/[>=0.7 <1]")
        if self.options.hub:
            self.requires("libcurl/[>=7.85 <9]")
            self.requires("openssl/[>=1.1 <4]")

    def validate(self):
        check_min_cppstd(self, 20)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        for part in ("EXAMPLES", "TESTS", "BENCHMARKS"):
            toolchain.cache_variables[f"KTO_BUILD_{part}"] = False
        toolchain.cache_variables["KTO_TORCH_OF_USERS"] = True
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")  # the package has a config file of its own
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "kto")]
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
