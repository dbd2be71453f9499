// SPDX-License-Identifier: Apache-2.0
// Process-wide allocator settings for training programs. A library does not choose for its user: call it from main.
#pragma once

#include <cstdlib>

#include "kto/core/arena.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace kto {

/// Keeps freed memory in the process instead of returning it to the system: a step asks for the same large blocks over
/// and over, and by default each one is unmapped, mapped and zeroed again. On Linux, tensors of 64 KiB and more come
/// from an arena of huge pages; with glibc, the scratch memory of LibTorch's kernels is kept too. Call it before the
/// first tensor is made. Does nothing elsewhere.
inline void keep_freed_memory() {
#if defined(__linux__)
  c10::SetCPUAllocator(&detail::ArenaAllocator::instance(), /*priority=*/1);
#endif
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_MAX, 0);  // raising M_MMAP_THRESHOLD is not enough: glibc caps it at 32 MiB
  ::mallopt(M_TRIM_THRESHOLD, -1);
  ::mallopt(M_TOP_PAD, 64 << 20);
  ::mallopt(M_MXFAST, 0);  // fast bins are swept at each large request
#endif
}

/// Returns unused memory that keep_freed_memory() kept to the system, and makes new threads share the existing heaps:
/// for a program that continues after memory ran out. Under a limit on address space (ulimit -v), a new thread has no
/// room for its own heap, and glibc then maps one page per object until addresses run out. Does nothing without glibc.
inline void release_freed_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_TOP_PAD, 1 << 20);  // a heap grows by this much at once, so it must be available in one piece
#endif
}

}  // namespace kto
