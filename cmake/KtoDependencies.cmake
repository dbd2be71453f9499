# SPDX-License-Identifier: Apache-2.0
# Finds what kto needs and gives it imported targets. Used by the build and by an installed kto's config file.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(Eigen3 3.4)
find_dependency(range-v3)
find_dependency(nlohmann_json 3.9)
find_dependency(Torch)

# LibTorch, marked SYSTEM so that its headers raise no warnings in the user's build.
if(NOT TARGET kto::torch)
  add_library(kto::torch INTERFACE IMPORTED)
  set_property(TARGET kto::torch PROPERTY INTERFACE_LINK_LIBRARIES ${TORCH_LIBRARIES})
  set_property(TARGET kto::torch PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${TORCH_INCLUDE_DIRS})
endif()

# Debian's packages of these two carry no CMake config.
function(kto_find_library target header library package)
  if(TARGET kto::${target})
    return()
  endif()
  find_path(KTO_${target}_INCLUDE_DIR ${header})
  find_library(KTO_${target}_LIBRARY ${library})
  mark_as_advanced(KTO_${target}_INCLUDE_DIR KTO_${target}_LIBRARY)
  if(NOT KTO_${target}_INCLUDE_DIR OR NOT KTO_${target}_LIBRARY)
    message(FATAL_ERROR "kto needs ${header} and lib${library}: install ${package} (Debian) or set CMAKE_PREFIX_PATH")
  endif()
  add_library(kto::${target} INTERFACE IMPORTED)
  set_property(TARGET kto::${target} PROPERTY INTERFACE_LINK_LIBRARIES ${KTO_${target}_LIBRARY})
  set_property(TARGET kto::${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${KTO_${target}_INCLUDE_DIR})
endfunction()
kto_find_library(pcre2 pcre2.h pcre2-8 libpcre2-dev)
kto_find_library(utf8proc utf8proc.h utf8proc libutf8proc-dev)
