/* sandbox_files.c - the access to files of a script that is given none: whatever it names, the
 * system would not let it. */
#include "sandbox.h"

#include <errno.h>

#include "performer.h"

static int refuse_open(void *context, const char *path, pf_open_how how, unsigned mode,
                       void **file) {
    (void)context, (void)path, (void)how, (void)mode, (void)file;
    return -EACCES;
}

static int refuse_about(void *context, void *file, pf_file_info *info) {
    (void)context, (void)file, (void)info;
    return -EACCES;
}

static int64_t refuse_read(void *context, void *file, int64_t offset, void *out, size_t bytes) {
    (void)context, (void)file, (void)offset, (void)out, (void)bytes;
    return -EACCES;
}

static int refuse_close(void *context, void *file) {
    (void)context, (void)file;
    return 0;
}

static int refuse_look(void *context, const char *path, pf_file_info *info) {
    (void)context, (void)path, (void)info;
    return -EACCES;
}

static int refuse_list(void *context, const char *path, pf_entry_fn each, void *to) {
    (void)context, (void)path, (void)each, (void)to;
    return -EACCES;
}

const pf_file_access *sandbox_files(void) {
    static const pf_file_access none = {.size = sizeof none,
                                        .open = refuse_open,
                                        .about = refuse_about,
                                        .read_at = refuse_read,
                                        .close = refuse_close,
                                        .look = refuse_look,
                                        .list = refuse_list};
    return &none;
}
