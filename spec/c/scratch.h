/* scratch.h - a temporary folder for the C tests that need files. */
#ifndef PF_SCRATCH_H
#define PF_SCRATCH_H

#include <dirent.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline int scratch_drop(const char *path, const struct stat *info, int flag,
                               struct FTW *at) {
    (void)info, (void)flag, (void)at;
    return remove(path);
}

static inline void scratch_remove(const char *path) {
    nftw(path, scratch_drop, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void scratch_open(char *path, size_t bytes) {
    const char *base = getenv("TMPDIR");
    /* Memory rather than a disk: the tests sync thousands of times. */
    if (!base || !*base) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, bytes, "%s/performer-test-XXXXXX", base);
    if (!mkdtemp(path)) {
        perror(path);
        exit(1);
    }
}

/* A path in one of 8 rotating buffers. */
static inline const char *scratch_path(const char *format, ...) {
    static char buffers[8][512];
    static int turn;
    char *buffer = buffers[turn = (turn + 1) % 8];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffers[0], format, args);
    va_end(args);
    return buffer;
}

static inline int scratch_write(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    if (!f) return -1;
    size_t put = fwrite(data, 1, bytes, f);
    return fclose(f) == 0 && put == bytes ? 0 : -1;
}

/* The whole file (free it), or NULL. */
static inline char *scratch_read(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    *bytes = 0;
    if (!f) return NULL;
    if (fseek(f, 0, SEEK_END) == 0) {
        long size = ftell(f);
        rewind(f);
        data = size >= 0 ? malloc((size_t)size + 1) : NULL;
        if (data) *bytes = fread(data, 1, (size_t)size, f);
    }
    fclose(f);
    return data;
}

/* An allocator that counts what engines have not given back. */
static size_t scratch_held;

static inline void *scratch_resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    (void)context;
    void *moved = bytes ? realloc(block, bytes) : NULL;
    if (bytes == 0) free(block);
    if (moved || bytes == 0) scratch_held = scratch_held - old_bytes + bytes;
    return moved;
}

static const pf_allocator scratch_allocator = {sizeof(pf_allocator), scratch_resize, NULL};

/* Entries of a folder whose name begins with `prefix`. */
static inline int scratch_count(const char *path, const char *prefix) {
    DIR *dir = opendir(path);
    int n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        n += strncmp(e->d_name, prefix, strlen(prefix)) == 0 && strcmp(e->d_name, ".") != 0 &&
             strcmp(e->d_name, "..") != 0;
    }
    if (dir) closedir(dir);
    return n;
}

#endif
