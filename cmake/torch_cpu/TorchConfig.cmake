# SPDX-License-Identifier: Apache-2.0
# The CPU half of a CUDA build of LibTorch, for machines without the CUDA toolkit, which that build's own config demands.
# Use: -DTorch_DIR=<this folder> -DTORCH_INSTALL_PREFIX=<folder of the torch package, with include/ and lib/>
set(TORCH_INSTALL_PREFIX "" CACHE PATH "Folder of the LibTorch whose CPU half is used")
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
  add_library(torch INTERFACE IMPORTED)
  set_target_properties(torch PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${TORCH_INCLUDE_DIRS}"
                                         INTERFACE_LINK_LIBRARIES "${TORCH_LIBRARIES}")
  set(TORCH_LIBRARIES torch)
endif()
