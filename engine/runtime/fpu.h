/*
 * fpu.h - a thread's floating-point settings (rounding, denormals, traps), to give another thread
 * the same ones. On x86-64 all arithmetic of ours goes by MXCSR, which costs nothing to read; the
 * C library's environment also brings the x87's, at a hundred cycles.
 */
#ifndef PF_FPU_H
#define PF_FPU_H

#if defined(__x86_64__)

typedef unsigned pf_fpu;
static inline void pf_fpu_get(pf_fpu *fpu) { *fpu = __builtin_ia32_stmxcsr(); }
static inline void pf_fpu_set(const pf_fpu *fpu) { __builtin_ia32_ldmxcsr(*fpu); }

#else

#include <fenv.h>

typedef fenv_t pf_fpu;
static inline void pf_fpu_get(pf_fpu *fpu) { fegetenv(fpu); }
static inline void pf_fpu_set(const pf_fpu *fpu) { fesetenv(fpu); }

#endif

#endif
