/* kern_select.c - hands out the kernel table of a level. PF_HAVE_X86 says that the build
 * holds the x86 levels. */
#include "kern.h"

extern const pf_kern pf_kern_table_generic;
#ifdef PF_HAVE_X86
extern const pf_kern pf_kern_table_avx2, pf_kern_table_avx512;
#endif

const pf_kern *pf_kern_table(pf_cpu level) {
    switch (level) {
    case PF_CPU_GENERIC:
        return &pf_kern_table_generic;
#ifdef PF_HAVE_X86
    case PF_CPU_AVX2:
        return &pf_kern_table_avx2;
    case PF_CPU_AVX512:
        return &pf_kern_table_avx512;
#endif
    default:
        return NULL;
    }
}
