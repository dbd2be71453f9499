# SPDX-License-Identifier: Apache-2.0
# The Python whose packages have libraries that kto uses: KTO_PYTHON, or the active python3.

# Runs `code` with the arguments that follow, and sets `out` to its output; empty if it fails.
function(kto_ask_python out code)
  set(${out} "" PARENT_SCOPE)
  kto_python(python)
  execute_process(COMMAND ${python} -c "${code}" ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE answer
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(status STREQUAL "0")
    set(${out} "${answer}" PARENT_SCOPE)
  endif()
endfunction()

# Sets `out` to this Python, for commands and messages.
function(kto_python out)
  if(KTO_PYTHON)
    set(${out} ${KTO_PYTHON} PARENT_SCOPE)
  else()
    set(${out} python3 PARENT_SCOPE)
  endif()
endfunction()
