# SPDX-License-Identifier: Apache-2.0
# A CUDA build of LibTorch with NVIDIA's libraries where it looks for them, as `pip install torch` lays them out: both
# halves, without the CUDA toolkit, which LibTorch's own config demands. kto compiles no CUDA code, so headers and libraries
# are enough. A program linked so needs neither GPU nor driver to start.
# Use: -DTorch_DIR=<this folder> -DTORCH_INSTALL_PREFIX=<folder of the torch package, with include/ and lib/>
#
# Beside Torch's variables it sets those for programs that include LibTorch's headers about CUDA (kto does for NCCL):
#   TORCH_CUDA_INCLUDE_DIRS  CUDA's and NCCL's headers, from NVIDIA's packages
#   TORCH_CUDART             the library of CUDA's runtime, which inline functions of those headers call
include(${CMAKE_CURRENT_LIST_DIR}/../torch_cpu/TorchConfig.cmake)
set(TORCH_CUDA_LIBRARIES ${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so ${TORCH_INSTALL_PREFIX}/lib/libc10_cuda.so)
file(GLOB TORCH_CUDA_INCLUDE_DIRS ${TORCH_INSTALL_PREFIX}/../nvidia/*/include)
file(GLOB TORCH_CUDART ${TORCH_INSTALL_PREFIX}/../nvidia/*/lib/libcudart.so.* ${TORCH_INSTALL_PREFIX}/lib/libcudart*.so*)
if(TORCH_CUDART)
  list(GET TORCH_CUDART 0 TORCH_CUDART)
endif()
if(TORCH_FOUND) # no symbol of these is named, and their own needs are found at run time
  set_property(TARGET torch APPEND PROPERTY INTERFACE_LINK_LIBRARIES
                                   "-Wl,--no-as-needed,--allow-shlib-undefined" ${TORCH_CUDA_LIBRARIES} "-Wl,--as-needed")
endif()
