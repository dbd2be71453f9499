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
