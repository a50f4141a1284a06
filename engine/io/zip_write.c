/*
 * zip_write.c - writing zip files: see zip.h. What an entry holds is known when it has been put, so
 * its sizes and its checksum stand behind it, and in the list. No dates: the same tensors are the
 * same bytes.
 */
#include <string.h>

#include <zlib.h>

#include "zip.h"
#include "zlib_heap.h"

enum { RAW = 1 << 16, LISTED = 46, AFTER = 0x08, UTF8 = 0x800, VERSION = 20, FIRST_DAY = 0x21 };

#define MOST ((int64_t)UINT32_MAX)

static uint8_t *put_number(uint8_t *at, uint64_t n, int bytes) {
    for (int i = 0; i < bytes; i++) *at++ = (uint8_t)(n >> 8 * i);
    return at;
}

/* What local header and list have alike: version to sizes. */
static uint8_t *put_about(const pf_zipper *zip, uint8_t *at, int64_t packed, bool known) {
    at = put_number(at, VERSION, 2);
    at = put_number(at, AFTER | UTF8, 2);
    at = put_number(at, zip->deflate ? 8 : 0, 2);
    at = put_number(at, (uint64_t)FIRST_DAY << 16, 4);
    at = put_number(at, known ? zip->sum : 0, 4);
    at = put_number(at, known ? (uint64_t)packed : 0, 4);
    at = put_number(at, known ? (uint64_t)zip->bytes : 0, 4);
    at = put_number(at, strlen(zip->name), 2);
    return put_number(at, 0, 2);
}

static int begin_deflate(pf_zipper *zip) {
    z_stream *z = pf_heap_zalloc(zip->heap, sizeof *z);
    if (!z) return PF_ENOMEM;
    z->zalloc = pf_zlib_take, z->zfree = pf_zlib_give, z->opaque = zip->heap;
    if (deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) !=
        Z_OK) {
        pf_heap_free(zip->heap, z, sizeof *z);
        return pf_fail(PF_ENOMEM, "no memory to pack '%.64s'", zip->name);
    }
    zip->deflate = z;
    if (!zip->raw) zip->raw = pf_heap_alloc(zip->heap, RAW);
    return zip->raw ? PF_OK : PF_ENOMEM;
}

static void end_deflate(pf_zipper *zip) {
    if (!zip->deflate) return;
    deflateEnd(zip->deflate);
    pf_heap_free(zip->heap, zip->deflate, sizeof(z_stream));
    zip->deflate = NULL;
}

int pf_zipper_begin(pf_zipper *zip, const char *name, bool deflated) {
    uint8_t local[30], *at = put_number(local, 0x04034b50, 4);
    zip->name = name;
    zip->begun = zip->to->size;
    zip->bytes = 0;
    zip->sum = 0;
    if (strlen(name) > 65000) return pf_fail(PF_EINVAL, "the name '%.64s'... is too long", name);
    if (zip->n == PF_ZIP_ENTRIES)
        return pf_fail(PF_EINVAL, "at most %d tensors are written", PF_ZIP_ENTRIES);
    if (deflated) PF_TRY(begin_deflate(zip));
    put_about(zip, at, 0, false);
    PF_TRY(pf_writer_put(zip->to, local, sizeof local));
    PF_TRY(pf_writer_put(zip->to, name, strlen(name)));
    zip->data = zip->to->size;
    return PF_OK;
}

static int deflate_some(pf_zipper *zip, const void *data, size_t bytes, int flush) {
    z_stream *z = zip->deflate;
    z->next_in = (Bytef *)data;
    z->avail_in = (uInt)bytes;
    do {
        z->next_out = zip->raw;
        z->avail_out = RAW;
        if (deflate(z, flush) == Z_STREAM_ERROR)
            return pf_fail(PF_EIO, "'%.64s' can't be packed", zip->name);
        PF_TRY(pf_writer_put(zip->to, zip->raw, RAW - z->avail_out));
    } while (z->avail_out == 0);
    return PF_OK;
}

int pf_zipper_put(pf_zipper *zip, const void *data, size_t bytes) {
    const uint8_t *in = data;
    for (size_t at = 0, more; at < bytes; at += more) {
        more = bytes - at < RAW ? bytes - at : RAW;
        zip->sum = (uint32_t)crc32(zip->sum, in + at, (uInt)more);
        PF_TRY(zip->deflate ? deflate_some(zip, in + at, more, Z_NO_FLUSH)
                            : pf_writer_put(zip->to, in + at, more));
    }
    zip->bytes += (int64_t)bytes;
    return PF_OK;
}

/* One more of the list. */
static int list_entry(pf_zipper *zip, int64_t packed) {
    size_t name = strlen(zip->name);
    int64_t more = zip->list_bytes + LISTED + (int64_t)name;
    PF_TRY(pf_heap_grow(zip->heap, (void **)&zip->list, &zip->list_room, more, 1));
    uint8_t *at = (uint8_t *)zip->list + zip->list_bytes;
    at = put_number(at, 0x02014b50, 4);
    at = put_number(at, VERSION, 2);
    at = put_about(zip, at, packed, true);
    at = put_number(at, 0, 4); /* no comment, one disk */
    at = put_number(at, 0, 6); /* no attributes */
    at = put_number(at, (uint64_t)zip->begun, 4);
    memcpy(at, zip->name, name);
    zip->list_bytes = more;
    zip->n++;
    return PF_OK;
}

int pf_zipper_end(pf_zipper *zip) {
    uint8_t after[16], *at = put_number(after, 0x08074b50, 4);
    if (zip->deflate) PF_TRY(deflate_some(zip, NULL, 0, Z_FINISH));
    int64_t packed = zip->to->size - zip->data;
    if (zip->to->size > MOST || zip->bytes > MOST)
        return pf_fail(PF_EINVAL, "a zip file of more than 4 GiB is not written; safetensors is");
    at = put_number(at, zip->sum, 4);
    at = put_number(at, (uint64_t)packed, 4);
    put_number(at, (uint64_t)zip->bytes, 4);
    PF_TRY(pf_writer_put(zip->to, after, sizeof after));
    int status = list_entry(zip, packed);
    end_deflate(zip);
    return status;
}

int pf_zipper_finish(pf_zipper *zip) {
    uint8_t end[22], *at = put_number(end, 0x06054b50, 4);
    int64_t begins = zip->to->size;
    if (begins > MOST - zip->list_bytes)
        return pf_fail(PF_EINVAL, "a zip file of more than 4 GiB is not written; safetensors is");
    at = put_number(at, 0, 4);
    at = put_number(at, (uint64_t)zip->n, 2);
    at = put_number(at, (uint64_t)zip->n, 2);
    at = put_number(at, (uint64_t)zip->list_bytes, 4);
    at = put_number(at, (uint64_t)begins, 4);
    put_number(at, 0, 2);
    PF_TRY(pf_writer_put(zip->to, zip->list, (size_t)zip->list_bytes));
    return pf_writer_put(zip->to, end, sizeof end);
}

void pf_zipper_close(pf_zipper *zip) {
    end_deflate(zip);
    if (zip->raw) pf_heap_free(zip->heap, zip->raw, RAW);
    if (zip->list) pf_heap_free(zip->heap, zip->list, (size_t)zip->list_room);
    *zip = (pf_zipper){0};
}
