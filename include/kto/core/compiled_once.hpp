// SPDX-License-Identifier: Apache-2.0
// Kernels take long to compile, and each file that uses one compiles it. A program of several files, or one that is built
// often, compiles them once instead: with CMake by kto_compile_once() (cmake/KtoPrecompile.cmake), else by defining
// KTO_SEPARATE_COMPILATION for all files, and KTO_COMPILES_KERNELS too for one file that includes kto/kto.hpp.
//
// Such a kernel is a template with one unused parameter, `template <class = void>`, and is named below its definition.
#pragma once

/// The instantiation that callers use, as in KTO_COMPILED_ONCE(Tensor twice<>(const Tensor&)).
#if !defined(KTO_SEPARATE_COMPILATION)
#define KTO_COMPILED_ONCE(...) static_assert(true)
#elif defined(KTO_COMPILES_KERNELS)
#define KTO_COMPILED_ONCE(...) template __VA_ARGS__
#else
#define KTO_COMPILED_ONCE(...) extern template __VA_ARGS__
#endif
