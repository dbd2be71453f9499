# SPDX-License-Identifier: Apache-2.0
# kto_precompile(<target> [header...]): precompiles kto/kto.hpp, or the headers named, for a target that links kto::kto
# (or kto::light). LibTorch and kto are then parsed once instead of once per file: what remains is the user's own code
# and the templates it instantiates. Costs one more compilation and 0.5 to 0.8 GB of disk per target (g++).
function(kto_precompile target)
  set(headers ${ARGN})
  if(NOT headers)
    set(headers kto/kto.hpp)
  endif()
  list(TRANSFORM headers REPLACE "^[^<\"].*$" "<\\0>")
  target_precompile_headers(${target} PRIVATE ${headers})
endfunction()

# kto_compile_once(<target>...): compiles the kernels once for this project, in a static library that the targets share;
# they link kto::kto. A file with a trainer then compiles in about 0.8 of the time at the same flags, and in less where the
# targets are optimized less than the kernels, which have the flags of the build type.
function(kto_compile_once)
  if(NOT TARGET kto_kernels)
    set(source ${PROJECT_BINARY_DIR}/kto_kernels.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"kto/kto.hpp\"\n")
    add_library(kto_kernels STATIC ${source})
    target_link_libraries(kto_kernels PUBLIC kto::kto)
    target_compile_definitions(kto_kernels PUBLIC KTO_SEPARATE_COMPILATION PRIVATE KTO_COMPILES_KERNELS)
  endif()
  foreach(target IN LISTS ARGN)
    target_link_libraries(${target} PRIVATE kto_kernels)
  endforeach()
endfunction()
