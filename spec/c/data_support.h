/*
 * data_support.h - for the tests of data sets: an engine, a temporary folder, small files.
 */
#ifndef PF_DATA_SUPPORT_H
#define PF_DATA_SUPPORT_H

#include <unistd.h>

#include "check.h"
#include "performer.h"

static pf_engine *engine;
static char folder[] = "/tmp/performer-data-XXXXXX";
static char path[128]; /* of the file written last */
static pf_info before = {.size = sizeof before};

static inline void begin_data_test(void) {
    CHECK_OK(pf_engine_open(&engine, NULL));
    CHECK(mkdtemp(folder) != NULL);
    pf_engine_info(engine, &before);
}

/* Everything has been given back, and the folder goes. Returns the exit status. */
static inline int end_data_test(void) {
    pf_info after = {.size = sizeof after};
    char command[64];
    pf_engine_info(engine, &after);
    CHECK(after.live == before.live);
    pf_engine_close(&engine);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    CHECK(system(command) == 0);
    return CHECK_REPORT();
}

/* For loops: counts only what fails. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) check_one(0, #condition, __FILE__, __LINE__);                            \
    } while (0)

static inline void write_bytes(const char *name, const void *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n);
    if (file) fclose(file);
}

static inline void write_text(const char *name, const char *text) {
    write_bytes(name, text, strlen(text));
}

/* Opens the file written last; length 0 and format NULL: the defaults. */
static inline int open_with(pf_data **data, int length, const char *format, double fraction) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    if (length) pf_config_set_number(options, "length", length);
    if (format) pf_config_set_string(options, "format", format);
    if (fraction > 0) pf_config_set_number(options, "valid_fraction", fraction);
    int status = pf_data_open(data, engine, options);
    pf_config_free(options);
    return status;
}

static inline bool says(const char *words) {
    bool found = strstr(pf_last_error(), words) != NULL;
    if (!found) fprintf(stderr, "  message: %s\n  lacks:   %s\n", pf_last_error(), words);
    return found;
}

static inline pf_data_info info_of(const pf_data *data, pf_split split) {
    pf_data_info info = {.size = sizeof info};
    CHECK_OK(pf_data_info_of(data, split, &info));
    return info;
}

static inline uint32_t next_random(uint32_t *state) {
    return *state = *state * 1664525u + 1013904223u;
}

/* An allocator's context, whose memory runs out. */
typedef struct {
    int left;       /* requests until all fail; < 0: none does */
    int64_t blocks; /* held */
} failing;

static inline void *failing_resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    failing *memory = context;
    (void)old_bytes;
    if (bytes == 0) {
        memory->blocks -= block != NULL;
        free(block);
        return NULL;
    }
    if (memory->left == 0) return NULL; /* and stays so: the heap asks again */
    if (memory->left > 0) memory->left--;
    memory->blocks += block == NULL;
    return realloc(block, bytes);
}

static inline int32_t *ids_of(pf_tensor *t) { return pf_tensor_data(t); }

#endif
