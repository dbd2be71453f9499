// SPDX-License-Identifier: Apache-2.0
// The version of the library. CMakeLists.txt reads it here.
#pragma once

#include <string_view>

namespace kto {

inline constexpr std::string_view library_version = "0.1.0";

}  // namespace kto
