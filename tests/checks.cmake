# SPDX-License-Identifier: Apache-2.0
# clang-format and clang-tidy, in one fixed version, since others disagree with it.
find_program(KTO_CLANG_FORMAT NAMES clang-format-19)
find_program(KTO_CLANG_TIDY NAMES clang-tidy-19)

# Adds a check that needs the tool `found`; if that is empty, a test that ctest reports as skipped for lack of `tool`.
function(kto_tool_test name tool found)
  if(found)
    add_test(NAME ${name} COMMAND ${ARGN})
  else()
    add_test(NAME ${name} COMMAND sh -c "echo 'skipped: there is no ${tool}'; exit 77")
  endif()
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 1200)
endfunction()

file(GLOB_RECURSE formatted CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
     ${PROJECT_SOURCE_DIR}/include/*.hpp ${PROJECT_SOURCE_DIR}/examples/*.[ch]pp
     ${PROJECT_SOURCE_DIR}/tests/*.[ch]pp ${PROJECT_SOURCE_DIR}/benchmarks/*.[ch]pp)
kto_tool_test(format clang-format-19 "${KTO_CLANG_FORMAT}" ${KTO_CLANG_FORMAT} --dry-run -Werror ${formatted})
set_tests_properties(format PROPERTIES WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
# Every public name is documented, every link of the pages leads somewhere.
set(doxygen "")
if(TARGET kto_reference)
  set(doxygen ${KTO_DOXYGEN})
endif()
kto_tool_test(reference doxygen "${doxygen}" ${doxygen} ${PROJECT_BINARY_DIR}/reference/Doxyfile)
if(KTO_SLOW_CHECKS AND Python3_FOUND)
  kto_tool_test(tidy clang-tidy-19 "${KTO_CLANG_TIDY}" ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/tidy.py ${PROJECT_SOURCE_DIR}
                ${CMAKE_CURRENT_BINARY_DIR}/tidy ${KTO_CLANG_TIDY} ${header_flags})
endif()
