/* fuzz_file.h - what the fuzz targets share: one engine within limits, and the input as a file of
 * its memory. */
#ifndef PF_FUZZ_FILE_H
#define PF_FUZZ_FILE_H

#include <performer.h>
#include <stdio.h>
#include <string.h>

#include "drive.h"

#define FUZZ_INPUT "memory:input"

long fuzz_good;

/* An engine with a budget of 64 MiB, so that a file that asks for much is an error. */
static inline pf_engine *fuzz_engine(void) {
    static pf_engine *engine;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.memory = (size_t)64 << 20;
    options.log_level = PF_LOG_SILENT;
    if (!engine && pf_engine_open(&engine, &options) < 0) __builtin_trap();
    return engine;
}

/* The same at the beginning of an input that may ask for any work: about a second of it. */
static inline pf_engine *fuzz_engine_anew(uint64_t work) {
    pf_engine *engine = fuzz_engine();
    pf_limits limits = {.size = sizeof limits, .work = work, .depth = 100};
    if (pf_engine_limit(engine, &limits) < 0) __builtin_trap();
    return engine;
}

/* The input as a file, as long as it stands; its path. */
static inline const char *fuzz_path(const uint8_t *data, size_t size) {
    if (pf_memory_lend(fuzz_engine(), FUZZ_INPUT, data, size) < 0) __builtin_trap();
    return FUZZ_INPUT;
}

/* A file of memory again as an input: its size, 0 where it has no room. */
static inline size_t fuzz_bytes(const char *path, uint8_t *data, size_t most) {
    const void *bytes = NULL;
    size_t size = 0;
    if (pf_memory_get(fuzz_engine(), path, &bytes, &size) < 0 || size > most) return 0;
    memcpy(data, bytes, size);
    return size;
}

#endif
