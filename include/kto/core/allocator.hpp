// SPDX-License-Identifier: Apache-2.0
// Process-wide allocator settings for training programs. A library does not choose for its user: call it from main.
#pragma once

#include <cstdlib>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace kto {

/// Tells glibc to keep freed blocks instead of returning them to the system: a step asks for the same large blocks over
/// and over, and by default each one is unmapped, mapped and zeroed again. Asks LibTorch for huge pages too, unless the
/// environment says otherwise. Call it before the first tensor is made. Does nothing with another C library.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_MAX, 0);  // a higher M_MMAP_THRESHOLD does not do: glibc takes none above 32 MiB
  ::mallopt(M_TRIM_THRESHOLD, -1);
  ::mallopt(M_TOP_PAD, 64 << 20);
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
#endif
}

}  // namespace kto
