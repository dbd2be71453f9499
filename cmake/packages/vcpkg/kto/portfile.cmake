# SPDX-License-Identifier: Apache-2.0
# vcpkg install kto --overlay-ports=<kto>/cmake/packages/vcpkg
#
# An overlay port: it packages the sources that it lies in. LibTorch is the user's: CMake finds it in CMAKE_PREFIX_PATH or in
# the active Python (pip install torch) when a project that uses kto is configured.
set(VCPKG_BUILD_TYPE release) # header-only
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DKTO_BUILD_EXAMPLES=OFF -DKTO_BUILD_TESTS=OFF -DKTO_BUILD_BENCHMARKS=OFF -DKTO_TORCH_OF_USERS=ON
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME kto CONFIG_PATH lib/cmake/kto)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
