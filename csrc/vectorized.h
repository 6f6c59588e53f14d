#pragma once

// Before a function: compiles it for several generations of x86 vector instructions; the processor's best is
// chosen when the library is loaded. Elsewhere the compiler's target has to do. What such a function calls must be
// inlined into it. (The choice at load time needs glibc.)
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define FCOS_VECTORIZED __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef FCOS_VECTORIZED
#define FCOS_VECTORIZED
#endif
