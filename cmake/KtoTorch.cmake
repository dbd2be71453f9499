# SPDX-License-Identifier: Apache-2.0
# What kto::kto needs besides: LibTorch, as kto::torch, marked SYSTEM so that its headers raise no warnings in the user's
# build. Included where KtoDependencies.cmake is.
find_dependency(Torch ${kto_required})
if(NOT TARGET kto::torch)
  add_library(kto::torch INTERFACE IMPORTED)
  set_property(TARGET kto::torch PROPERTY INTERFACE_LINK_LIBRARIES ${TORCH_LIBRARIES})
  set_property(TARGET kto::torch PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${TORCH_INCLUDE_DIRS})
endif()
