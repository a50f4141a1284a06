/* sandbox_files.c - the access to files of a script that is given none: whatever it names, it is
 * told so. */
#include "sandbox.h"

#include <errno.h>

#include "performer.h"

static int none(void) {
    pf_set_error(PF_EIO, "a sandboxed script has no files, but those that its host gives it");
    return -EACCES;
}

static int refuse_open(void *context, const char *path, pf_open_how how, unsigned mode,
                       void **file) {
    (void)context, (void)path, (void)how, (void)mode, (void)file;
    return none();
}

static int refuse_about(void *context, void *file, pf_file_info *info) {
    (void)context, (void)file, (void)info;
    return none();
}

static int64_t refuse_read(void *context, void *file, int64_t offset, void *out, size_t bytes) {
    (void)context, (void)file, (void)offset, (void)out, (void)bytes;
    return none();
}

static int refuse_close(void *context, void *file) {
    (void)context, (void)file;
    return 0;
}

static int refuse_look(void *context, const char *path, pf_file_info *info) {
    (void)context, (void)path, (void)info;
    return none();
}

static int refuse_list(void *context, const char *path, pf_entry_fn each, void *to) {
    (void)context, (void)path, (void)each, (void)to;
    return none();
}

const pf_file_access *sandbox_files(void) {
    static const pf_file_access access = {.size = sizeof access,
                                          .open = refuse_open,
                                          .about = refuse_about,
                                          .read_at = refuse_read,
                                          .close = refuse_close,
                                          .look = refuse_look,
                                          .list = refuse_list};
    return &access;
}
