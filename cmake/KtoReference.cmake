# SPDX-License-Identifier: Apache-2.0
# The reference: pages, and every public name of kto.hpp, the hub and the headers named below, as HTML in BUILD/reference/html. The target `kto_reference` is there
# where Doxygen and Python are; KTO_REFERENCE=ON makes it part of the default build.
option(KTO_REFERENCE "Build the reference (needs Doxygen)" OFF)
find_program(KTO_DOXYGEN doxygen)
find_package(Python3 COMPONENTS Interpreter)
if(NOT KTO_DOXYGEN OR NOT Python3_FOUND)
  if(KTO_REFERENCE)
    message(FATAL_ERROR "KTO_REFERENCE=ON: there is no doxygen, or no python3; install them (Debian: doxygen), or leave it off")
  endif()
  return()
endif()

set(KTO_REFERENCE_DIR ${PROJECT_BINARY_DIR}/reference)
set(kto_pages ${PROJECT_SOURCE_DIR}/cmake/reference)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/kto/kto.hpp)
file(STRINGS ${PROJECT_SOURCE_DIR}/include/kto/kto.hpp kto_public REGEX "^#include \"kto/")
list(TRANSFORM kto_public REPLACE "^#include \"(.*)\".*" "${PROJECT_SOURCE_DIR}/include/\\1")
list(APPEND kto_public ${PROJECT_SOURCE_DIR}/include/kto/kto.hpp)
file(GLOB kto_hub CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/kto/hub/*.hpp)
set(kto_apart # what programs include by its own name
    cli/train_main core/enum_names data/files data/parquet dist/join dist/launch dist/place dist/shared_out dist/weight_units io/http
    model/spec nn/activation nn/alibi_spec nn/expert_gate nn/norm_spec nn/relative_bias_spec nn/rope_spec
    train/callbacks/report_html train/callbacks/trackers/mlflow train/callbacks/trackers/tracker
    train/callbacks/trackers/trackio train/callbacks/trackers/wandb)
list(TRANSFORM kto_apart REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/include/kto/\\1.hpp")
list(APPEND kto_public ${kto_hub} ${kto_apart})
file(GLOB kto_markdown CONFIGURE_DEPENDS ${kto_pages}/pages/*.md)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${kto_markdown}) # for the reports that they link
set(kto_linked ${PROJECT_SOURCE_DIR}/examples/train_kto_options.md)
foreach(page IN LISTS kto_markdown) # the reports that pages link are pages, too
  file(STRINGS ${page} lines REGEX "benchmarks/results/")
  string(REGEX MATCHALL "benchmarks/results/[^)]*[.]md" reports "${lines}")
  list(APPEND kto_linked ${reports})
endforeach()
list(TRANSFORM kto_linked REPLACE "^benchmarks" "${PROJECT_SOURCE_DIR}/benchmarks")
list(REMOVE_DUPLICATES kto_linked)
set(KTO_REFERENCE_INPUT ${kto_markdown} ${kto_linked} ${kto_public})
list(TRANSFORM KTO_REFERENCE_INPUT REPLACE ".+" "\"\\0\"")
string(REPLACE ";" " \\\n  " KTO_REFERENCE_INPUT "${KTO_REFERENCE_INPUT}")
configure_file(${kto_pages}/Doxyfile.in ${KTO_REFERENCE_DIR}/Doxyfile @ONLY)
file(WRITE ${KTO_REFERENCE_DIR}/filter.sh "#!/bin/sh\nexec '${Python3_EXECUTABLE}' '${kto_pages}/filter.py' \"$1\" '${PROJECT_SOURCE_DIR}/examples/train_kto_options.md'\n")
file(CHMOD ${KTO_REFERENCE_DIR}/filter.sh PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

set(all "")
if(KTO_REFERENCE)
  set(all ALL)
endif()
add_custom_target(kto_reference ${all} COMMAND ${KTO_DOXYGEN} ${KTO_REFERENCE_DIR}/Doxyfile VERBATIM
                  COMMENT "The reference: ${KTO_REFERENCE_DIR}/html/index.html")
