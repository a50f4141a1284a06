/* cpu.h - which kernels this machine can run. PF_CPU=generic|avx2|avx512 lowers the level. */
#ifndef PF_CPU_H
#define PF_CPU_H

#include "base.h"

pf_cpu pf_cpu_detect(void); /* the best level of this processor and OS */
/* The level to use: detected, lowered by PF_CPU and by `wanted` (PF_CPU_BEST: no wish).
 * An unknown name, or a level above what the machine has, is PF_EINVAL. */
int pf_cpu_choose(pf_cpu wanted, pf_cpu *out);
const char *pf_cpu_name(pf_cpu level);

#endif
