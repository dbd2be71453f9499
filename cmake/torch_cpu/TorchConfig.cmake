# SPDX-License-Identifier: Apache-2.0
# The CPU half of a CUDA build of LibTorch, whose own config demands the CUDA toolkit.
# Use: -DTorch_DIR=<this folder> -DTORCH_INSTALL_PREFIX=<folder of the torch package, with include/ and lib/>
set(TORCH_INSTALL_PREFIX "" CACHE PATH "Folder of the LibTorch that is used")
set(TORCH_INCLUDE_DIRS ${TORCH_INSTALL_PREFIX}/include ${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include)
set(TORCH_LIBRARIES ${TORCH_INSTALL_PREFIX}/lib/libtorch_cpu.so ${TORCH_INSTALL_PREFIX}/lib/libc10.so)
set(TORCH_CXX_FLAGS "")
set(TORCH_FOUND TRUE)
foreach(path IN LISTS TORCH_INCLUDE_DIRS TORCH_LIBRARIES)
  if(NOT EXISTS ${path})
    set(TORCH_FOUND FALSE)
    set(Torch_FOUND FALSE)
    set(Torch_NOT_FOUND_MESSAGE "${path} is missing: set TORCH_INSTALL_PREFIX to the folder of the torch package")
  endif()
endforeach()
if(TORCH_FOUND AND NOT TARGET torch)
  set(kto_torch_targets ${TORCH_INSTALL_PREFIX}/share/cmake/Caffe2/Caffe2Targets.cmake) # says what it is built with
  set(kto_has_gloo "")
  if(EXISTS ${kto_torch_targets})
    file(STRINGS ${kto_torch_targets} kto_has_gloo REGEX "USE_DISTRIBUTED.*USE_C10D_GLOO")
  endif()
  add_library(torch INTERFACE IMPORTED)
  if(kto_has_gloo)
    set_target_properties(torch PROPERTIES INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_C10D_GLOO")
  endif()
  set_target_properties(torch PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${TORCH_INCLUDE_DIRS}"
                                         INTERFACE_LINK_LIBRARIES "${TORCH_LIBRARIES}")
  set(TORCH_LIBRARIES torch)
endif()
