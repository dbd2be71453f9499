# SPDX-License-Identifier: Apache-2.0
# `cmake --install` lays out headers and a package config: find_package(kto) then gives kto::kto and kto::light.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(KTO_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/kto)
install(DIRECTORY include/kto DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS kto kto_light EXPORT kto-targets)
install(EXPORT kto-targets NAMESPACE kto:: DESTINATION ${KTO_CMAKE_DIR})
install(FILES cmake/KtoDependencies.cmake DESTINATION ${KTO_CMAKE_DIR})
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/kto-config.cmake
     "include(\${CMAKE_CURRENT_LIST_DIR}/KtoDependencies.cmake)\ninclude(\${CMAKE_CURRENT_LIST_DIR}/kto-targets.cmake)\n")
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kto-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kto-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/kto-config-version.cmake
        DESTINATION ${KTO_CMAKE_DIR})
