# SPDX-License-Identifier: Apache-2.0
# kto::arrow, for programs that read Parquet (kto/data/parquet.hpp): Arrow's libraries as the pyarrow wheel has them. The
# wheel and LibTorch are built with the same C++ ABI (_GLIBCXX_USE_CXX11_ABI=1).
set(KTO_WITH_ARROW AUTO CACHE STRING "Read Parquet with the pyarrow of KTO_PYTHON (else python3): AUTO, where it is there; ON; OFF")
if(KTO_WITH_ARROW AND NOT TARGET kto::arrow)
  if(KTO_PYTHON)
    set(arrow_python ${KTO_PYTHON})
  else()
    find_program(KTO_ARROW_PYTHON python3)
    mark_as_advanced(KTO_ARROW_PYTHON)
    set(arrow_python ${KTO_ARROW_PYTHON})
  endif()
  set(found "")
  if(arrow_python)
    execute_process(
      COMMAND ${arrow_python} -c
              "import glob, os, pyarrow as p; d = os.path.dirname(p.__file__); print(';'.join([p.get_include()] + [sorted(glob.glob(os.path.join(d, 'lib%s.so.*' % n)))[0] for n in ('parquet', 'arrow')]))"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  list(LENGTH found count)
  if(count EQUAL 3)
    list(POP_FRONT found arrow_include)
    add_library(kto::arrow INTERFACE IMPORTED)
    set_target_properties(kto::arrow PROPERTIES INTERFACE_LINK_LIBRARIES "${found}" INTERFACE_COMPILE_DEFINITIONS KTO_HAS_ARROW
                                                INTERFACE_INCLUDE_DIRECTORIES "${arrow_include}")
    message(STATUS "kto: Parquet is read by Arrow of ${arrow_python}")
  elseif(NOT KTO_WITH_ARROW STREQUAL "AUTO")
    message(FATAL_ERROR "KTO_WITH_ARROW=${KTO_WITH_ARROW}: ${arrow_python} has no pyarrow; pip install pyarrow, and set KTO_PYTHON to its Python")
  endif()
endif()
