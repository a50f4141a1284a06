/*
 * shards_support.h - for the tests of shards: files of random sequences and text, shards that are
 * made of them in a folder of their own, and what is open.
 */
#ifndef PF_SHARDS_SUPPORT_H
#define PF_SHARDS_SUPPORT_H

#include <fcntl.h>

#include "data_support.h"
#include "shards.h"

static char shards[160]; /* the folder of the last ones */

/* Options {path = a file of the folder, length, min_tokens = 1}. */
static inline pf_config *options_of(const char *name, int length) {
    pf_config *options = pf_config_new(PF_MAP);
    char full[160];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    pf_config_set_string(options, "path", full);
    if (length) pf_config_set_number(options, "length", length);
    if (length) pf_config_set_number(options, "min_tokens", 1);
    return options;
}

/* Adds a second file of the folder under `key`. */
static inline void add_file(pf_config *options, const char *key, const char *name) {
    pf_config *list = pf_config_new(PF_LIST);
    char full[160];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    if (strcmp(key, "path") == 0)
        pf_config_push(list, pf_config_new_string(pf_config_string(pf_config_get(options, key))));
    pf_config_push(list, pf_config_new_string(full));
    pf_config_set(options, key, list);
}

/* Makes shards of what the options (without length) say; the folder's name is in `shards`. */
static inline int make(pf_engine *with, const pf_config *options, int block) {
    static int count;
    pf_config *all = pf_config_copy(options);
    if (block) pf_config_set_number(all, "block", block);
    snprintf(shards, sizeof shards, "%s/shards-%d", folder, ++count);
    int status = pf_data_shard(with, all, shards);
    pf_config_free(all);
    return status;
}

static inline int open_shards(pf_data **data, pf_engine *with, int length, double window) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", shards);
    pf_config_set_number(options, "length", length);
    pf_config_set_number(options, "min_tokens", 1);
    pf_config_set_number(options, "window", window);
    int status = pf_data_open(data, with, options);
    pf_config_free(options);
    return status;
}

static inline void put_sequences(char *text, int n, uint32_t random) {
    static const char letters[] = "ACDEFGHIKLMNPQRSTVWY";
    for (int i = 0; i < n; i++) {
        text += sprintf(text, ">s%d\n", i);
        int size = 5 + (int)(next_random(&random) >> 24) % 40;
        for (int j = 0; j < size; j++) *text++ = letters[(next_random(&random) >> 16) % 20];
        *text++ = '\n';
    }
    *text = 0;
}

static inline void put_text(const char *name, int n, uint32_t random) {
    char *text = malloc((size_t)n);
    for (int i = 0; i < n; i++) text[i] = (char)(32 + (next_random(&random) >> 20) % 90);
    write_bytes(name, text, (size_t)n);
    free(text);
}

static inline int count_open(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static inline int no_sync(void *context, void *file) { return (void)context, file ? 0 : -1; }

/* Folders last as long as the test: nothing is synced. */
static inline void begin_shards_test(void) {
    begin_data_test();
    pf_file_access calls = *pf_file_system();
    calls.sync = no_sync;
    pf_engine_files(engine, &calls);
}

#endif
