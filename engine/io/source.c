/*
 * source.c - see source.h. A disk never waits long for a stream's bytes: the wait is ours, with a
 * look at the cancel flag each time it has said that there are none yet.
 */
#include "source.h"

#include <errno.h>
#include <string.h>

enum {
    TELL_AFTER = 20, /* waits of a tenth of a second: two without a byte */
    STEP = 1 << 20   /* bytes between two looks at the cancel flag */
};

/* "path: what the number says". */
static int failed(int error, const pf_source *s, const char *what) {
    char words[128];
    int status = error == -ENOENT || error == -ENOTDIR ? PF_ENOTFOUND
                 : error == -ENOMEM                    ? PF_ENOMEM
                                                       : PF_EIO;
    return pf_fail(status, "%s: %s%s", s->name, what, pf_disk_words(error, words, sizeof words));
}

/* What kind of thing was opened. */
static int look(pf_source *s, bool standard) {
    pf_file_info info;
    int result = pf_disk_about(&s->file, &info);
    if (result < 0) return failed(result, s, "");
    if (info.kind == PF_ENTRY_FOLDER)
        return pf_fail(PF_EIO, "%s: is a folder; name a file in it", s->name);
    if (info.kind != PF_ENTRY_FILE && info.kind != PF_ENTRY_STREAM)
        return pf_fail(PF_EIO, "%s: is a device, no file; name a file or a pipe", s->name);
    s->waits = info.kind == PF_ENTRY_STREAM;
    s->once = s->waits || standard;
    if (s->waits) return PF_OK;
    s->modified = info.modified;
    s->size = info.bytes;
    return PF_OK;
}

int pf_source_open(pf_source *s, pf_engine *engine, const char *path) {
    bool standard = strcmp(path, "-") == 0 || strcmp(path, "/dev/stdin") == 0;
    *s = (pf_source){.engine = engine, .name = path, .size = -1};
    if (standard) s->name = "the standard input";
    int result = pf_disk_open(&s->file, engine, standard ? "-" : path, PF_OPEN_STREAM, 0);
    int status = result < 0 ? failed(result, s, "") : look(s, standard);
    if (status < 0) pf_source_close(s);
    return status;
}

/* There was nothing to be read for a while. */
static void wait_longer(pf_source *s, int waits) {
    if (waits < TELL_AFTER || s->told) return;
    s->told = true;
    pf_log(s->engine, PF_LOG_WARN, "%s: waiting for somebody to write into it", s->name);
}

int64_t pf_source_read(pf_source *s, uint8_t *bytes, size_t room) {
    size_t done = 0;
    for (int waits = 0; done < room;) {
        size_t step = (size_t)pf_min(STEP, (int64_t)(room - done));
        PF_TRY(pf_progress_at(s->engine, "reading data", s->n + (int64_t)done, pf_max(s->size, 0)));
        int64_t got = pf_disk_read(&s->file, s->n + (int64_t)done, bytes + done, step);
        if (got == 0) break;
        if (got < 0 && got != -EAGAIN) return failed((int)got, s, "reading failed: ");
        if (got < 0) wait_longer(s, ++waits);
        if (got > 0) done += (size_t)got, waits = 0;
    }
    s->n += (int64_t)done;
    return (int64_t)done;
}

int pf_source_check(const pf_source *s) {
    pf_file_info info;
    if (s->size < 0) return PF_OK;
    int result = pf_disk_about(&s->file, &info);
    if (result < 0) return failed(result, s, "");
    if (info.modified == s->modified) return PF_OK;
    return pf_fail(PF_EIO, "%s: was changed while it was read; read it again when it is finished",
                   s->name);
}

void pf_source_close(pf_source *s) { pf_disk_close(&s->file); }
