/*
 * input.c - zlib's gzread reads both plain and gzip files; this file adds messages that
 * tell a missing file from a folder, a cut stream from a damaged one.
 */
#include "input.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

int pf_input_open(pf_input *input, pf_engine *engine, const char *path) {
    struct stat about;
    *input = (pf_input){.engine = engine, .path = path};
    if (stat(path, &about) != 0) {
        int status = errno == ENOENT || errno == ENOTDIR ? PF_ENOTFOUND : PF_EIO;
        return pf_fail(status, "%s: %s", path, strerror(errno));
    }
    if (S_ISDIR(about.st_mode)) return pf_fail(PF_EIO, "%s: is a folder; name a file in it", path);
    input->bytes = pf_heap_alloc(engine->heap, PF_INPUT_CHUNK);
    if (!input->bytes) return PF_ENOMEM;
    errno = 0;
    gzFile file = gzopen(path, "rbe");
    if (!file) {
        int status = errno ? PF_EIO : PF_ENOMEM;
        pf_fail(status, "%s: %s", path, errno ? strerror(errno) : "no memory to open it");
        pf_input_close(input);
        return status;
    }
    gzbuffer(file, PF_INPUT_CHUNK);
    input->file = file;
    return PF_OK;
}

/* What zlib's error means to the user. */
static int read_failed(const pf_input *input) {
    int code;
    const char *text = gzerror(input->file, &code);
    if (code == Z_BUF_ERROR)
        return pf_fail(PF_EFORMAT,
                       "%s: the gzip data is cut short after %lld bytes; copy the file again",
                       input->path, (long long)gzoffset(input->file));
    if (code == Z_DATA_ERROR)
        return pf_fail(PF_EFORMAT, "%s: the gzip data is damaged (%s); copy the file again",
                       input->path, text);
    if (code == Z_MEM_ERROR) return pf_fail(PF_ENOMEM, "%s: no memory to unpack it", input->path);
    return pf_fail(PF_EIO, "%s: reading failed: %s", input->path,
                   code == Z_ERRNO ? strerror(errno) : text);
}

int pf_input_next(pf_input *input) {
    PF_TRY(pf_check_cancel(input->engine));
    int got = gzread(input->file, input->bytes, PF_INPUT_CHUNK), code = Z_OK;
    input->at = 0;
    input->n = got > 0 ? (size_t)got : 0;
    if (got < 0) return read_failed(input);
    /* A cut stream gives its last bytes first and reports with them, or with nothing. */
    if (got < PF_INPUT_CHUNK) gzerror(input->file, &code);
    if (code == Z_BUF_ERROR) return read_failed(input);
    return got > 0;
}

void pf_input_close(pf_input *input) {
    if (input->file) gzclose(input->file);
    if (input->bytes) pf_heap_free(input->engine->heap, input->bytes, PF_INPUT_CHUNK);
    input->file = NULL;
    input->bytes = NULL;
}

int pf_input_rest(pf_input *input, uint8_t **bytes, int64_t *n, int64_t *capacity) {
    int more = 1;
    while (more > 0) {
        int64_t chunk = (int64_t)(input->n - input->at);
        if (chunk > 0) {
            PF_TRY(pf_heap_grow(input->engine->heap, (void **)bytes, capacity, *n + chunk, 1));
            memcpy(*bytes + *n, input->bytes + input->at, (size_t)chunk);
            *n += chunk;
        }
        more = pf_input_next(input);
    }
    return more;
}
