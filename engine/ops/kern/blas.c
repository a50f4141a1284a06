/*
 * blas.c - finding the BLAS when it is first needed; the only file that knows how it is
 * linked. PF_BLAS_FILE is the library found when the engine was configured. What must hold:
 * it is loaded once a process, from whichever thread comes first, and never unloaded (its
 * buffers and its OpenMP team live as long as the process); its names stay its own.
 */
#include "blas.h"

#include "gemm.h"

#ifdef PF_BLAS_FILE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pf_blas loaded;
static bool ready;
static char problem[512];

/* A symbol as a function pointer: they have one size wherever dlsym exists. */
static bool find(void *library, const char *name, void *function, size_t size) {
    void *symbol = dlsym(library, name);
    if (!symbol) snprintf(problem, sizeof problem, "%s lacks %s", PF_BLAS_FILE, name);
    memcpy(function, &symbol, size);
    return symbol != NULL;
}

/* dlopen's own words on the first of the two places: the second is a guess. */
static void *open_library(void) {
    void *library = dlopen(PF_BLAS_FILE, RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
    const char *words = dlerror();
    snprintf(problem, sizeof problem, "%s", words ? words : PF_BLAS_FILE);
    const char *slash = strrchr(PF_BLAS_FILE, '/');
    return slash ? dlopen(slash + 1, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void load(void) {
    void *library = open_library();
    if (!library) return;
    if (!find(library, "cblas_sgemm", &loaded.sgemm, sizeof loaded.sgemm) ||
        !find(library, "openblas_get_config", &loaded.config, sizeof loaded.config) ||
        !find(library, "openblas_get_parallel", &loaded.parallel, sizeof loaded.parallel))
        return;
    /* A build with threads of its own would start them inside every task of ours. */
    ready = loaded.parallel() != 1;
    if (!ready) snprintf(problem, sizeof problem, "the OpenBLAS found has threads of its own");
}

const pf_blas *pf_blas_get(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return ready ? &loaded : NULL;
}

int pf_blas_need(void) {
    if (pf_blas_get()) return PF_OK;
    return pf_fail(PF_ENOTFOUND,
                   "OpenBLAS can't be loaded (%s): install its OpenMP build "
                   "(libopenblas0-openmp)",
                   problem);
}

#else /* linked into the engine */

const pf_blas *pf_blas_get(void) {
    static const pf_blas linked = {cblas_sgemm, openblas_get_config, openblas_get_parallel};
    return &linked;
}

int pf_blas_need(void) { return PF_OK; }

#endif

const char *pf_blas_config(void) {
    const pf_blas *blas = pf_blas_get();
    return blas ? blas->config() : "no OpenBLAS";
}
