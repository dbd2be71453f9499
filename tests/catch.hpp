// SPDX-License-Identifier: Apache-2.0
// Catch2 v2 (Debian 12) or v3, whichever is installed.
#pragma once

#if __has_include(<ATen/ATen.h>)
#include "kto/core/torch.hpp"  // first: its logging header defines its own CHECK
#undef CHECK
#endif

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#define KTO_CONTAINS(text) Catch::Matchers::ContainsSubstring(text)
#else
#include <catch2/catch.hpp>
#define KTO_CONTAINS(text) Catch::Matchers::Contains(text)
#endif
