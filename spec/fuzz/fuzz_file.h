/* fuzz_file.h - what the fuzz targets of files share: one engine, and the input as a file. */
#ifndef PF_FUZZ_FILE_H
#define PF_FUZZ_FILE_H

#include <performer.h>
#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An engine with a budget of 64 MiB, so that a file that asks for much is an error. */
static inline pf_engine *fuzz_engine(void) {
    static pf_engine *engine;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.memory = (size_t)64 << 20;
    if (!engine) pf_engine_open(&engine, &options);
    return engine;
}

/* Writes the input to a file of this process; its path, or NULL. */
static inline const char *fuzz_path(const uint8_t *data, size_t size) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/performer-fuzz-%ld", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (!file) return NULL;
    size_t written = fwrite(data, 1, size, file);
    return fclose(file) == 0 && written == size ? path : NULL;
}

#endif
