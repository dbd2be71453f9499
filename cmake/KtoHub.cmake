# SPDX-License-Identifier: Apache-2.0
# kto::hub, for programs that download from the model hub (kto/hub/locate.hpp): libcurl, and OpenSSL for the hashes that
# downloads are verified with. Without it only the hub's cache is read. Included by kto's build, and by an installed kto's
# config file for the component hub.

# Creates kto::hub. On failure sets `problem` to the reason.
function(kto_find_hub problem)
  set(${problem} "" PARENT_SCOPE)
  if(TARGET kto::hub)
    return()
  endif()
  find_package(CURL 7.85 QUIET)
  find_package(OpenSSL 1.1 QUIET COMPONENTS Crypto)
  if(NOT CURL_FOUND OR NOT OPENSSL_FOUND)
    set(${problem} "downloads from the hub need libcurl 7.85 and OpenSSL: install libcurl4-openssl-dev and libssl-dev (Debian) or set CMAKE_PREFIX_PATH" PARENT_SCOPE)
    return()
  endif()
  add_library(kto::hub INTERFACE IMPORTED)
  set_target_properties(kto::hub PROPERTIES INTERFACE_LINK_LIBRARIES "CURL::libcurl;OpenSSL::Crypto"
                                            INTERFACE_COMPILE_DEFINITIONS KTO_HAS_HUB)
endfunction()
