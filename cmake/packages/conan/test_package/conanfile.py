# SPDX-License-Identifier: Apache-2.0
"""Builds and runs a program with kto::light, and one with kto::kto where there is LibTorch."""
import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout


class KtoTest(ConanFile):
    settings = "os", "arch", "compiler", "build_type"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = None  # writes nothing into the sources
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        for program in ("light", "trainer"):
            path = os.path.join(self.cpp.build.bindir, program)
            if can_run(self) and os.path.exists(path):
                self.run(path, env="conanrun")
