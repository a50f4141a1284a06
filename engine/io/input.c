/*
 * input.c - gzip is unpacked member by member with zlib's inflate: gzread would drop what is
 * behind the last member. Zero bytes there are padding (of tapes and block devices); all else is
 * refused. So is what unpacks to hundreds of times its size: such a file is made to fill memory.
 */
#include "input.h"

#include <string.h>

#include "zlib_heap.h"

enum {
    GZIP_ONLY = 16 + MAX_WBITS,
    RATIO = 256,           /* sequences and texts stay below 30, logs below 100 */
    RATIO_FROM = 16 << 20, /* unpacked bytes from which the ratio counts */
    STEP = 1 << 20         /* bytes between two looks at the cancel flag */
};

static const uint8_t GZIP_MAGIC[2] = {0x1f, 0x8b};

/* ---- the file's bytes ---- */

/* Brings what is unread to the front of `raw` and reads on behind it. */
static int fill_raw(pf_input *in) {
    in->raw_n -= in->raw_at;
    memmove(in->raw, in->raw + in->raw_at, in->raw_n);
    in->raw_at = 0;
    int64_t got = pf_source_read(&in->source, in->raw + in->raw_n, PF_INPUT_CHUNK - in->raw_n);
    if (got < 0) return (int)got;
    in->raw_n += (size_t)got;
    return PF_OK;
}

static bool starts_member(const pf_input *in) {
    return in->raw_n - in->raw_at >= sizeof GZIP_MAGIC &&
           memcmp(in->raw + in->raw_at, GZIP_MAGIC, sizeof GZIP_MAGIC) == 0;
}

static int64_t read_plain(pf_input *in, uint8_t *bytes, size_t room) {
    size_t held = in->raw_n - in->raw_at, first = room < held ? room : held;
    memcpy(bytes, in->raw + in->raw_at, first);
    in->raw_at += first;
    int64_t more = pf_source_read(&in->source, bytes + first, room - first);
    return more < 0 ? more : more + (int64_t)first;
}

/* ---- gzip ---- */

static int begin_gzip(pf_input *in) {
    z_stream *z = in->gzip = pf_heap_zalloc(in->source.engine->heap, sizeof *z);
    if (!z) return PF_ENOMEM;
    z->zalloc = pf_zlib_take, z->zfree = pf_zlib_give, z->opaque = in->source.engine->heap;
    if (inflateInit2(z, GZIP_ONLY) != Z_OK) {
        pf_heap_free(in->source.engine->heap, z, sizeof *z);
        in->gzip = NULL;
        return pf_fail(PF_ENOMEM, "%s: no memory to unpack it", in->source.name);
    }
    in->in_member = true;
    return PF_OK;
}

/* Where in the file the next unread byte stands. */
static int64_t raw_offset(const pf_input *in) {
    return in->source.n - (int64_t)(in->raw_n - in->raw_at);
}

static int inflate_failed(const pf_input *in, int code) {
    const z_stream *z = in->gzip;
    if (code == Z_MEM_ERROR)
        return pf_fail(PF_ENOMEM, "%s: no memory to unpack it", in->source.name);
    return pf_fail(PF_EFORMAT, "%s: the gzip data is damaged (%s); copy the file again",
                   in->source.name, z->msg ? z->msg : "no gzip data");
}

static int behind_gzip(const pf_input *in) {
    return pf_fail(PF_EFORMAT,
                   "%s: from offset %lld on it is no gzip data, and would be lost: unpack what is "
                   "packed, and join the parts",
                   in->source.name, (long long)raw_offset(in));
}

/* Behind a member: another one, nothing, or zero bytes to the end. */
static int end_member(pf_input *in) {
    in->in_member = false;
    PF_TRY(fill_raw(in));
    if (starts_member(in)) {
        in->in_member = true;
        return inflateReset(in->gzip) == Z_OK ? PF_OK : inflate_failed(in, Z_DATA_ERROR);
    }
    while (in->raw_n > in->raw_at) {
        while (in->raw_at < in->raw_n && in->raw[in->raw_at] == 0) in->raw_at++;
        if (in->raw_at < in->raw_n) return behind_gzip(in);
        PF_TRY(fill_raw(in));
    }
    return PF_OK;
}

static int check_ratio(const pf_input *in) {
    if (in->total < RATIO_FROM || in->total / RATIO < raw_offset(in)) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s: unpacks to more than %d times its size, which no data of worth does; if "
                   "it is meant so, unpack it first ('gzip -dc')",
                   in->source.name, RATIO);
}

static int64_t read_gzip(pf_input *in, uint8_t *bytes, size_t room) {
    z_stream *z = in->gzip;
    z->next_out = bytes;
    z->avail_out = (uInt)room;
    while (z->avail_out > 0 && in->in_member) {
        if (in->raw_at == in->raw_n) PF_TRY(fill_raw(in));
        if (in->raw_at == in->raw_n)
            return pf_fail(PF_EFORMAT,
                           "%s: the gzip data is cut short after %lld bytes; copy the file again",
                           in->source.name, (long long)in->source.n);
        z->next_in = in->raw + in->raw_at;
        z->avail_in = (uInt)(in->raw_n - in->raw_at);
        int code = inflate(z, Z_NO_FLUSH);
        in->raw_at = in->raw_n - z->avail_in;
        if (code == Z_STREAM_END)
            PF_TRY(end_member(in));
        else if (code != Z_OK && code != Z_BUF_ERROR)
            return inflate_failed(in, code);
    }
    return (int64_t)(room - z->avail_out);
}

/* ---- opening and reading ---- */

int pf_input_open(pf_input *in, pf_engine *engine, const char *path) {
    *in = (pf_input){0};
    int status = pf_source_open(&in->source, engine, path);
    if (status >= 0) {
        in->raw = pf_heap_alloc(engine->heap, PF_INPUT_CHUNK);
        in->bytes = pf_heap_alloc(engine->heap, PF_INPUT_CHUNK);
        if (!in->raw || !in->bytes) status = PF_ENOMEM;
    }
    if (status < 0) pf_input_close(in);
    return status;
}

/* The first bytes say whether it is gzip. */
static int begin(pf_input *in) {
    if (in->begun) return PF_OK;
    in->begun = true;
    PF_TRY(fill_raw(in));
    return starts_member(in) ? begin_gzip(in) : PF_OK;
}

/* Fills `room` bytes, at most a gigabyte, fewer only at the end: how many, or a status. */
static int64_t read_bytes(pf_input *in, uint8_t *bytes, size_t room) {
    PF_TRY(pf_check_cancel(in->source.engine));
    PF_TRY(begin(in));
    int64_t got = in->gzip ? read_gzip(in, bytes, room) : read_plain(in, bytes, room);
    if (got <= 0) return got;
    in->total += got;
    PF_TRY(pf_charge(in->source.engine, (uint64_t)got / 16));
    if (in->gzip) PF_TRY(check_ratio(in));
    return got;
}

int pf_input_next(pf_input *in) {
    int64_t got = read_bytes(in, in->bytes, PF_INPUT_CHUNK);
    in->at = 0;
    in->n = got > 0 ? (size_t)got : 0;
    return got < 0 ? (int)got : got > 0;
}

void pf_input_close(pf_input *in) {
    pf_heap *heap = in->source.engine ? in->source.engine->heap : NULL;
    if (in->gzip) {
        inflateEnd(in->gzip);
        pf_heap_free(heap, in->gzip, sizeof(z_stream));
    }
    if (in->raw) pf_heap_free(heap, in->raw, PF_INPUT_CHUNK);
    if (in->bytes) pf_heap_free(heap, in->bytes, PF_INPUT_CHUNK);
    in->gzip = in->raw = in->bytes = NULL;
    pf_source_close(&in->source);
}

/* ---- the rest as one block ---- */

/* A gzip file says at its end how long its last member is, modulo 2^32: mostly all there is. The
 * standard input is read in turn, so that its end can't be looked at before. */
int64_t pf_input_guess(const pf_input *in) {
    uint8_t end[4];
    int64_t size = in->source.size, at = size - (int64_t)sizeof end;
    if (!in->gzip || at < 0) return size;
    if (in->source.once) return -1;
    if (pf_disk_read(&in->source.file, at, end, sizeof end) != (int64_t)sizeof end) return -1;
    int64_t says = end[0] | end[1] << 8 | end[2] << 16 | (int64_t)end[3] << 24;
    return pf_min(says, size * RATIO);
}

/* A quarter more room; what was given back on the way goes back to the host, so that a little
 * over twice the bytes is all that is ever held. */
static int widen(pf_heap *heap, uint8_t **bytes, int64_t *capacity, int64_t need) {
    int64_t grown = pf_max(need, *capacity + *capacity / 4);
    uint8_t *wider = pf_heap_alloc(heap, (size_t)grown);
    if (!wider) return PF_ENOMEM;
    if (*bytes) {
        memcpy(wider, *bytes, (size_t)*capacity);
        pf_heap_free(heap, *bytes, (size_t)*capacity);
        pf_heap_trim(heap);
    }
    *bytes = wider;
    *capacity = grown;
    return PF_OK;
}

int pf_input_rest(pf_input *in, uint8_t **bytes, int64_t *n, int64_t *capacity) {
    pf_heap *heap = in->source.engine->heap;
    int64_t held = (int64_t)(in->n - in->at), guess = pf_input_guess(in);
    /* One byte more than there should be, so that the end is met without growing. */
    PF_TRY(widen(heap, bytes, capacity, *n + pf_max(held, guess) + 1));
    memcpy(*bytes + *n, in->bytes + in->at, (size_t)held);
    *n += held;
    for (;;) {
        if (*n == *capacity) PF_TRY(widen(heap, bytes, capacity, *n + STEP));
        int64_t got = read_bytes(in, *bytes + *n, (size_t)pf_min(STEP, *capacity - *n));
        if (got <= 0) return (int)got;
        *n += got;
    }
}
