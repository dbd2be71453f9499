# SPDX-License-Identifier: Apache-2.0
# kto::arrow, for programs that read Parquet (kto/data/parquet.hpp): Arrow's libraries from the pyarrow wheel. The wheel
# and LibTorch use the same C++ ABI (_GLIBCXX_USE_CXX11_ABI=1). Included by kto's build, and by an installed kto's config
# file for the component arrow.
include(${CMAKE_CURRENT_LIST_DIR}/KtoPython.cmake)

# Creates kto::arrow from the pyarrow of KTO_PYTHON or the active python3. On failure sets `problem` to the reason.
function(kto_find_arrow problem)
  set(${problem} "" PARENT_SCOPE)
  if(TARGET kto::arrow)
    return()
  endif()
  kto_python(python)
  kto_ask_python(found [[
import glob, os, pyarrow as p
d = os.path.dirname(p.__file__)
print(";".join([p.get_include()] + [sorted(glob.glob(os.path.join(d, "lib%s.so.*" % n)))[0] for n in ("parquet", "arrow")]))
]])
  list(LENGTH found count)
  if(NOT count EQUAL 3)
    set(${problem} "${python} has no pyarrow, whose Arrow reads Parquet: pip install pyarrow, and set KTO_PYTHON to its Python" PARENT_SCOPE)
    return()
  endif()
  list(POP_FRONT found arrow_include)
  add_library(kto::arrow INTERFACE IMPORTED)
  set_target_properties(kto::arrow PROPERTIES INTERFACE_LINK_LIBRARIES "${found}" INTERFACE_COMPILE_DEFINITIONS KTO_HAS_ARROW
                                              INTERFACE_INCLUDE_DIRECTORIES "${arrow_include}")
  message(STATUS "kto: reading Parquet with the Arrow of ${python}")
endfunction()
