# SPDX-License-Identifier: Apache-2.0
# `cmake --install` installs headers, the license and a package config: find_package(kto) then provides kto::kto and
# kto::light.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(KTO_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/kto)
install(DIRECTORY include/kto DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS kto_light EXPORT kto-light-targets)
install(EXPORT kto-light-targets NAMESPACE kto:: DESTINATION ${KTO_CMAKE_DIR})
if(NOT KTO_LIGHT_ONLY)
  install(TARGETS kto EXPORT kto-targets)
  install(EXPORT kto-targets NAMESPACE kto:: DESTINATION ${KTO_CMAKE_DIR})
endif()
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kto-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES cmake/kto-config.cmake cmake/KtoDependencies.cmake cmake/KtoPython.cmake cmake/KtoTorch.cmake cmake/KtoNccl.cmake cmake/KtoArrow.cmake cmake/KtoHub.cmake
              cmake/KtoPrecompile.cmake ${CMAKE_CURRENT_BINARY_DIR}/kto-config-version.cmake
        DESTINATION ${KTO_CMAKE_DIR})
install(DIRECTORY cmake/torch_cpu cmake/torch_cuda cmake/gloo DESTINATION ${KTO_CMAKE_DIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
