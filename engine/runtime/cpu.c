/*
 * cpu.c - the kernel level of this machine, lowered on request. What must hold: a level is
 * chosen only if processor and operating system can run every instruction of it.
 */
#include "cpu.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

static const char *const names[] = {"generic", "avx2", "avx512"};

pf_cpu pf_cpu_detect(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PF_CPU_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return PF_CPU_AVX512;
    return PF_CPU_AVX2;
#else
    return PF_CPU_GENERIC;
#endif
}

const char *pf_cpu_name(pf_cpu level) {
    int i = (int)level;
    return i >= 0 && i < PF_COUNT(names) ? names[i] : "unknown";
}

/* Lowers *level to what PF_CPU asks for, if it is set. */
static int lower_by_environment(pf_cpu *level) {
    const char *word = getenv("PF_CPU");
    if (!word || !word[0]) return PF_OK;
    for (int i = 0; i < PF_COUNT(names); i++) {
        if (strcmp(word, names[i]) != 0) continue;
        if (i > (int)*level)
            return pf_fail(PF_EINVAL, "cpu: PF_CPU=%s, but this machine has only %s", word,
                           pf_cpu_name(*level));
        *level = (pf_cpu)i;
        return PF_OK;
    }
    return pf_fail(PF_EINVAL, "cpu: PF_CPU=%.32s is none of generic, avx2, avx512", word);
}

int pf_cpu_choose(pf_cpu wanted, pf_cpu *out) {
    const pf_cpu best = pf_cpu_detect();
    pf_cpu level = best;
    if (wanted != PF_CPU_BEST && ((int)wanted < 0 || (int)wanted >= PF_COUNT(names)))
        return pf_fail(PF_EINVAL, "cpu: no kernel level has the number %d", (int)wanted);
    if (wanted != PF_CPU_BEST && wanted > best)
        return pf_fail(PF_EINVAL, "cpu: %s asked for, but this machine has only %s",
                       pf_cpu_name(wanted), pf_cpu_name(best));
    PF_TRY(lower_by_environment(&level));
    *out = wanted < level ? wanted : level;
    return PF_OK;
}
