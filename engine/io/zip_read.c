/* zip_read.c - reading zip files: see zip.h. PKWARE's APPNOTE.TXT has the format. */
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "zip.h"
#include "zlib_heap.h"

enum {
    END = 22,        /* bytes of the record at the end, without its comment */
    COMMENT = 65535, /* at most */
    LISTED = 46,     /* bytes of an entry of the list, without its texts */
    LOCAL = 30,      /* and of what stands before the data */
    LOCATOR = 20,
    END_64 = 56,
    STORED = 0,
    DEFLATED = 8,
    RAW = 1 << 16,
    MOST_RATIO = 1100 /* deflate makes at most 1032 bytes of one */
};

#define LIST_MOST ((int64_t)64 << 20)

static uint64_t number(const uint8_t *at, int bytes) {
    uint64_t n = 0;
    for (int i = 0; i < bytes; i++) n |= (uint64_t)at[i] << 8 * i;
    return n;
}

static bool marked(const uint8_t *at, uint32_t mark) { return number(at, 4) == mark; }

/* ---- the end of the file -------------------------------------------------------- */

typedef struct {
    uint64_t n, at, bytes; /* of the list */
} ending;

/* The record of 64 bits, where the other's numbers are too small for what they say. */
static int read_end_64(const pf_zip *zip, int64_t end, ending *e) {
    uint8_t locator[LOCATOR], record[END_64];
    if (e->n != UINT16_MAX && e->at != UINT32_MAX && e->bytes != UINT32_MAX) return PF_OK;
    if (end < LOCATOR) return PF_OK;
    PF_TRY(pf_reader_read(&zip->file, end - LOCATOR, locator, sizeof locator));
    if (!marked(locator, 0x07064b50)) return PF_OK;
    uint64_t at = number(locator + 8, 8);
    if (zip->file.size < END_64 || at > (uint64_t)(zip->file.size - END_64))
        return pf_fail(PF_EFORMAT, "its end names a place outside the file");
    PF_TRY(pf_reader_read(&zip->file, (int64_t)at, record, sizeof record));
    if (!marked(record, 0x06064b50)) return pf_fail(PF_EFORMAT, "its end is damaged");
    *e = (ending){number(record + 32, 8), number(record + 48, 8), number(record + 40, 8)};
    return PF_OK;
}

/* Does the record begin at `at`, with a comment up to the end behind it? */
static bool is_end(const uint8_t *text, int64_t at, int64_t tail) {
    return text[at] == 'P' && marked(text + at, 0x06054b50) &&
           at + END + (int64_t)number(text + at + 20, 2) == tail;
}

/* The record stands last, before a comment of any length: the last that fits. */
static int find_end(const pf_zip *zip, ending *e) {
    int64_t size = zip->file.size, tail = pf_min(size, END + COMMENT);
    if (size < END) return pf_fail(PF_EFORMAT, "%lld bytes are no zip file", (long long)size);
    uint8_t *text = pf_heap_alloc(zip->heap, (size_t)tail);
    if (!text) return PF_ENOMEM;
    int status = pf_reader_read(&zip->file, size - tail, text, (size_t)tail);
    int64_t at = tail - END;
    while (status >= 0 && at >= 0 && !is_end(text, at, tail)) at--;
    if (status >= 0 && at < 0)
        status = pf_fail(PF_EFORMAT, "no zip file, or cut short: the list at its end is missing");
    if (status >= 0)
        *e = (ending){number(text + at + 10, 2), number(text + at + 16, 4),
                      number(text + at + 12, 4)};
    pf_heap_free(zip->heap, text, (size_t)tail);
    return status < 0 ? status : read_end_64(zip, size - tail + at, e);
}

/* ---- the list ------------------------------------------------------------------- */

/* Numbers of 64 bits stand in an extra field, those alone that don't fit, in this order. */
static bool read_extra(const uint8_t *at, size_t bytes, uint64_t *big[3]) {
    while (bytes >= 4) {
        uint64_t id = number(at, 2), n = number(at + 2, 2);
        if (n > bytes - 4) return false;
        for (int i = 0, used = 0; id == 1 && i < 3; i++) {
            if (*big[i] != UINT32_MAX) continue;
            if ((uint64_t)used + 8 > n) return false;
            *big[i] = number(at + 4 + used, 8);
            used += 8;
        }
        at += 4 + n;
        bytes -= 4 + (size_t)n;
    }
    return true;
}

static int check_entry(const pf_zip *zip, const pf_zip_entry *e, uint64_t flags, uint64_t method) {
    if (flags & 1) return pf_fail(PF_EFORMAT, "'%.64s' is encrypted", e->name);
    if (method != STORED && method != DEFLATED)
        return pf_fail(PF_EFORMAT, "'%.64s' is packed by method %d; stored and deflated are read",
                       e->name, (int)method);
    bool fits = e->header >= 0 && e->packed >= 0 && e->bytes >= 0 &&
                e->header <= zip->file.size - LOCAL &&
                e->packed <= zip->file.size - LOCAL - e->header;
    if (fits && method == STORED) fits = e->bytes == e->packed;
    if (fits && method == DEFLATED) fits = e->bytes / MOST_RATIO <= e->packed;
    if (fits) return PF_OK;
    return pf_fail(PF_EFORMAT, "'%.64s' is said to be %lld bytes of %lld, which are not there",
                   e->name, (long long)e->bytes, (long long)e->packed);
}

/* One entry at *at, which is moved behind it. */
static int read_listed(const pf_zip *zip, pf_zip_entry *e, size_t *at) {
    uint8_t *p = (uint8_t *)zip->list + *at;
    size_t left = zip->list_bytes - *at;
    if (left < LISTED || !marked(p, 0x02014b50))
        return pf_fail(PF_EFORMAT, "its list ends after %d entries", (int)(e - zip->entry));
    size_t name = number(p + 28, 2), extra = number(p + 30, 2), comment = number(p + 32, 2);
    if (name + extra + comment > left - LISTED)
        return pf_fail(PF_EFORMAT, "entry %s of its list is cut short", pf_place(e - zip->entry));
    uint64_t packed = number(p + 20, 4), bytes = number(p + 24, 4), header = number(p + 42, 4);
    uint64_t flags = number(p + 8, 2), method = number(p + 10, 2);
    e->sum = (uint32_t)number(p + 16, 4);
    if (!read_extra(p + LISTED + name, extra, (uint64_t *[3]){&bytes, &packed, &header}))
        return pf_fail(PF_EFORMAT, "entry %s of its list is damaged", pf_place(e - zip->entry));
    e->packed = (int64_t)packed, e->bytes = (int64_t)bytes, e->header = (int64_t)header;
    e->deflated = method == DEFLATED;
    e->name = (char *)p; /* moved to the front, with a 0 behind it: what it covers has been read */
    memmove(p, p + LISTED, name);
    p[name] = 0;
    if (name == 0 || strlen(e->name) != name)
        return pf_fail(PF_EFORMAT, "entry %s of its list has no good name",
                       pf_place(e - zip->entry));
    *at += LISTED + name + extra + comment;
    return check_entry(zip, e, flags, method);
}

static int read_list(pf_zip *zip) {
    ending end = {0};
    size_t at = 0;
    PF_TRY(find_end(zip, &end));
    if (end.n > PF_ZIP_ENTRIES)
        return pf_fail(PF_EFORMAT, "%llu entries, at most %d are read", (unsigned long long)end.n,
                       PF_ZIP_ENTRIES);
    if (end.bytes > (uint64_t)LIST_MOST || end.at > (uint64_t)zip->file.size ||
        end.bytes > (uint64_t)zip->file.size - end.at || end.n * LISTED > end.bytes)
        return pf_fail(PF_EFORMAT, "its list is not where its end says");
    zip->list_bytes = (size_t)end.bytes;
    zip->list = pf_heap_alloc(zip->heap, zip->list_bytes + 1);
    zip->entry = pf_heap_zalloc(zip->heap, ((size_t)end.n + 1) * sizeof *zip->entry);
    zip->n = (int)end.n; /* also for what is given back */
    if (!zip->list || !zip->entry) return PF_ENOMEM;
    PF_TRY(pf_reader_read(&zip->file, (int64_t)end.at, zip->list, zip->list_bytes));
    for (int i = 0; i < zip->n; i++) PF_TRY(read_listed(zip, &zip->entry[i], &at));
    return PF_OK;
}

int pf_zip_open(pf_zip *zip, pf_engine *engine, const char *path) {
    *zip = (pf_zip){.heap = engine->heap};
    PF_TRY(pf_reader_open(&zip->file, engine, path));
    int status = read_list(zip);
    if (status < 0) pf_zip_close(zip);
    return status;
}

void pf_zip_close(pf_zip *zip) {
    if (zip->list) pf_heap_free(zip->heap, zip->list, zip->list_bytes + 1);
    if (zip->entry) pf_heap_free(zip->heap, zip->entry, ((size_t)zip->n + 1) * sizeof *zip->entry);
    pf_reader_close(&zip->file);
    *zip = (pf_zip){0};
}

/* ---- an entry -------------------------------------------------------------------- */

static int begin_inflate(pf_unzip *in) {
    pf_heap *heap = in->zip->heap;
    in->raw = pf_heap_alloc(heap, RAW);
    z_stream *z = pf_heap_zalloc(heap, sizeof *z);
    if (!z || !in->raw) {
        if (z) pf_heap_free(heap, z, sizeof *z);
        return PF_ENOMEM;
    }
    z->zalloc = pf_zlib_take, z->zfree = pf_zlib_give, z->opaque = heap;
    if (inflateInit2(z, -MAX_WBITS) != Z_OK) {
        pf_heap_free(heap, z, sizeof *z);
        return pf_fail(PF_ENOMEM, "no memory to unpack '%.64s'", in->entry->name);
    }
    in->inflate = z;
    return PF_OK;
}

int pf_unzip_open(pf_unzip *in, const pf_zip *zip, int i) {
    const pf_zip_entry *e = &zip->entry[i];
    uint8_t local[LOCAL];
    *in = (pf_unzip){.zip = zip, .entry = e, .left = e->bytes, .packed = e->packed};
    PF_TRY(pf_reader_read(&zip->file, e->header, local, sizeof local));
    if (!marked(local, 0x04034b50))
        return pf_fail(PF_EFORMAT, "'%.64s' is not where the list says", e->name);
    in->at = e->header + LOCAL + (int64_t)(number(local + 26, 2) + number(local + 28, 2));
    if (in->at > zip->file.size - e->packed)
        return pf_fail(PF_EFORMAT, "'%.64s' is cut short", e->name);
    if (!e->deflated) return PF_OK;
    int status = begin_inflate(in);
    if (status < 0) pf_unzip_close(in);
    return status;
}

static int damaged(const pf_unzip *in, const char *what) {
    return pf_fail(PF_EFORMAT, "'%.64s' is damaged: %s", in->entry->name, what);
}

static int inflate_some(pf_unzip *in, uint8_t *out, size_t bytes) {
    z_stream *z = in->inflate;
    z->next_out = out;
    z->avail_out = (uInt)bytes;
    while (z->avail_out > 0) {
        if (z->avail_in == 0 && in->packed > 0) {
            size_t more = (size_t)pf_min(in->packed, RAW);
            PF_TRY(pf_reader_read(&in->zip->file, in->at, in->raw, more));
            z->next_in = in->raw;
            z->avail_in = (uInt)more;
            in->at += (int64_t)more;
            in->packed -= (int64_t)more;
        }
        int code = inflate(z, Z_NO_FLUSH);
        if (code == Z_MEM_ERROR) return pf_fail(PF_ENOMEM, "no memory to unpack a zip file");
        if (code == Z_STREAM_END && z->avail_out > 0) return damaged(in, "it ends too early");
        if (code != Z_OK && code != Z_STREAM_END) return damaged(in, "it can't be unpacked");
    }
    return PF_OK;
}

int pf_unzip_read(pf_unzip *in, void *out, size_t bytes) {
    uint8_t *to = out;
    if ((int64_t)bytes > in->left) return damaged(in, "it ends too early");
    for (size_t at = 0; at < bytes;) {
        size_t more = (size_t)pf_min((int64_t)(bytes - at), RAW);
        if (in->entry->deflated) {
            PF_TRY(inflate_some(in, to + at, more));
        } else {
            PF_TRY(pf_reader_read(&in->zip->file, in->at, to + at, more));
            in->at += (int64_t)more;
        }
        in->sum = (uint32_t)crc32(in->sum, to + at, (uInt)more);
        at += more;
    }
    in->left -= (int64_t)bytes;
    return in->left > 0 || in->sum == in->entry->sum ? PF_OK : damaged(in, "its checksum differs");
}

void pf_unzip_close(pf_unzip *in) {
    if (in->inflate) {
        inflateEnd(in->inflate);
        pf_heap_free(in->zip->heap, in->inflate, sizeof(z_stream));
    }
    if (in->raw) pf_heap_free(in->zip->heap, in->raw, RAW);
    *in = (pf_unzip){0};
}
