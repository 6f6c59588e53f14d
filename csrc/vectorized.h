#pragma once

// FCOS_VECTORIZED before a function compiles the function for several generations of x86 vector instructions. When the
// library is loaded, glibc chooses the best version for the processor. On other systems the macro does nothing.
// Functions that are called inside must be inlined, or they are compiled for the oldest generation only.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define FCOS_VECTORIZED __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef FCOS_VECTORIZED
#define FCOS_VECTORIZED
#endif
