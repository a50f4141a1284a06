/*
 * safetensors_data.c - reading the numbers of a .safetensors file in one pass, in the file's order,
 * straight to where they are to stay. A checksum is taken on the way.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little endian, and so must be the machine"
#endif

#define CONVERTED 8192               /* elements at a time */
#define READ      ((int64_t)1 << 18) /* bytes at a time: they are near while they are summed up */

/* ---- the data ----------------------------------------------------------------- */

/* Bytes of the data, which the checksum takes while they are near. */
static int read_bytes(pf_safetensors *s, int64_t at, void *to, size_t bytes) {
    PF_TRY(pf_reader_read(&s->file, s->data + at, to, bytes));
    if (s->hash.state) pf_hash_put(&s->hash, to, bytes);
    return PF_OK;
}

/* In front of so many bytes. */
static int told(const pf_engine *engine, const pf_safetensors *s, int64_t at, int64_t bytes) {
    PF_TRY(pf_charge(engine, pf_work_of((double)bytes / 4, 0)));
    return pf_progress_at(engine, "loading weights", at, s->file.size - s->data);
}

/* How many of n elements fitted. */
static int64_t convert(const pf_st_dtype *type, const char *raw, int64_t n, char *out) {
    size_t bytes = pf_dtype_size(type->as);
    double bad;
    for (int64_t at = 0; at < n; at += PF_BYTES_BLOCK) {
        int64_t more = pf_min(n - at, PF_BYTES_BLOCK);
        int64_t good = pf_bytes_decode(type->from, false, raw + (size_t)at * type->bytes, more,
                                       out + (size_t)at * bytes, &bad);
        if (good < more) return at + good;
    }
    return n;
}

/* Numbers first .. last - 1, a piece at a time through `raw`, so that the extra memory stays
 * small. */
static int convert_part(pf_engine *engine, pf_safetensors *s, const pf_st_entry *entry, void *raw,
                        int64_t first, int64_t last, char *out) {
    const pf_st_dtype *type = &entry->dtype;
    const pf_dtype_row *own = pf_dtype_find(type->as);
    int64_t bytes = (int64_t)type->bytes;
    for (int64_t at = first; at < last;) {
        int64_t n = pf_min(last - at, CONVERTED);
        PF_TRY(told(engine, s, entry->begin + at * bytes, n * bytes));
        PF_TRY(read_bytes(s, entry->begin + at * bytes, raw, (size_t)(n * bytes)));
        int64_t good = convert(type, raw, n, out + (at - first) * (int64_t)own->bytes);
        if (good < n) {
            return pf_fail(PF_EFORMAT,
                           "safetensors: %s: tensor '%s': the %s at position %s does "
                           "not fit %s",
                           s->file.path, entry->name, type->name, pf_place(at + good),
                           own->file_name);
        }
        at += n;
    }
    return PF_OK;
}

static int read_converted(pf_engine *engine, pf_safetensors *s, const pf_st_entry *entry,
                          int64_t first, int64_t last, char *out) {
    size_t bytes = (size_t)CONVERTED * 8;
    void *raw = pf_heap_alloc(engine->heap, bytes);
    if (!raw) return PF_ENOMEM;
    int status = convert_part(engine, s, entry, raw, first, last, out);
    pf_heap_free(engine->heap, raw, bytes);
    return status;
}

static int read_plain(pf_engine *engine, pf_safetensors *s, const pf_st_entry *entry, int64_t first,
                      int64_t last, char *out) {
    const int64_t width = (int64_t)entry->dtype.bytes;
    const int64_t begin = entry->begin + first * width, end = entry->begin + last * width;
    for (int64_t at = begin; at < end; at += READ) {
        PF_TRY(told(engine, s, at, pf_min(end - at, READ)));
        PF_TRY(read_bytes(s, at, out + (at - begin), (size_t)pf_min(end - at, READ)));
    }
    return PF_OK;
}

int pf_safetensors_read_part(pf_engine *engine, pf_safetensors *s, int i, int64_t first, int64_t n,
                             void *out) {
    const pf_st_entry *entry = &s->entry[i];
    pf_dtype dtype;
    PF_TRY(pf_check_cancel(engine));
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    return (entry->dtype.from ? read_converted : read_plain)(engine, s, entry, first, first + n,
                                                             out);
}

static int read_entry_into(pf_engine *engine, pf_safetensors *s, const pf_st_entry *entry,
                           pf_tensor *to) {
    pf_dtype dtype;
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    char *out = pf_tensor_data(to);
    if (!out || to->dtype != dtype || to->rank != entry->rank ||
        memcmp(to->shape, entry->shape, (size_t)to->rank * sizeof *to->shape) != 0) {
        return pf_fail(PF_ESHAPE, "safetensors: '%s' is %s %s in the file and goes into no %s %s",
                       entry->name, entry->dtype.name, pf_shape_text(entry->rank, entry->shape),
                       pf_dtype_name(to->dtype), pf_shape_of(to));
    }
    PF_TRY(pf_tensor_check_writable(to, "load"));
    pf_tensor_touch(to, "a load");
    return pf_safetensors_read_part(engine, s, (int)(entry - s->entry), 0, pf_tensor_numel(to),
                                    out);
}

/* ---- where it lies ---- */

int pf_safetensors_map(pf_safetensors *s) {
    return pf_mapping_open(&s->mapping, s->heap, &s->file);
}

/* As tensors of ours lie: of a dtype of ours, at a multiple of an element's bytes. */
bool pf_safetensors_lies(const pf_safetensors *s, const pf_st_entry *entry) {
    return s->mapping && entry->dtype.loads && !entry->dtype.from &&
           (s->data + entry->begin) % (int64_t)entry->dtype.bytes == 0;
}

static int lend_entry(pf_engine *engine, pf_safetensors *s, const pf_st_entry *entry,
                      pf_tensor *to) {
    const char *data = pf_mapping_data(s->mapping) + s->data;
    for (int64_t at = entry->begin; s->hash.state && at < entry->end; at += READ) {
        PF_TRY(told(engine, s, at, pf_min(entry->end - at, READ)));
        pf_hash_put(&s->hash, data + at, (size_t)pf_min(entry->end - at, READ));
    }
    return pf_tensor_settle_lent(to, data + entry->begin, pf_mapping_lender(s->mapping));
}

/* The header and the tensors are all of the file. */
static int check_hash(const pf_safetensors *s) {
    char hash[PF_HASH_TEXT];
    if (!s->hash.state) return PF_OK;
    pf_hash_hex(&s->hash, hash);
    if (!strcmp(hash, s->expected)) return PF_OK;
    return pf_fail(PF_EFORMAT, "%s is damaged (checksum differs)", s->file.path);
}

int pf_safetensors_read(pf_engine *engine, pf_safetensors *s, pf_tensor *const *to) {
    for (int i = 0; i < s->n; i++) {
        const pf_st_entry *entry = &s->entry[i];
        PF_TRY(pf_check_cancel(engine));
        PF_TRY((entry->lent ? lend_entry : read_entry_into)(engine, s, entry, to[i]));
    }
    return check_hash(s);
}

static int load_one(pf_named *named, pf_engine *engine, const pf_st_entry *entry) {
    pf_dtype dtype;
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    char *name = strdup(entry->name);
    if (!name) return pf_fail(PF_ENOMEM, "safetensors: out of memory");
    named->name = name;
    /* Outside any open tape: what comes from a file outlives the step. */
    return pf_tensor_make_lasting(&named->tensor, engine->heap, dtype, entry->rank, entry->shape);
}

/* Tensors for all entries, in the file's order, and their numbers. */
static int load_all(pf_named *list, pf_engine *engine, pf_safetensors *s) {
    size_t bytes = (size_t)s->n * sizeof(pf_tensor *);
    pf_tensor **to = pf_heap_alloc(engine->heap, bytes);
    int status = to ? PF_OK : PF_ENOMEM;
    for (int i = 0; status >= 0 && i < s->n; i++) {
        status = pf_check_cancel(engine);
        if (status >= 0) status = load_one(&list[i], engine, &s->entry[i]);
        to[i] = list[i].tensor;
    }
    if (status >= 0) status = pf_safetensors_read(engine, s, to);
    pf_heap_free(engine->heap, to, bytes);
    return status;
}

/* The metadata, given away: a map of strings. */
static int take_metadata(pf_config **metadata, pf_safetensors *s) {
    *metadata = s->metadata ? s->metadata : pf_config_new_in(s->heap, PF_MAP);
    s->metadata = NULL;
    return *metadata ? PF_OK : PF_ENOMEM;
}

int pf_safetensors_load(pf_engine *engine, const char *path, pf_named **tensors, int *n,
                        pf_config **metadata) {
    PF_OPEN(engine);
    PF_NEED(path, tensors, n);
    pf_safetensors s;
    *tensors = NULL;
    *n = 0;
    if (metadata) *metadata = NULL;
    PF_TRY(pf_safetensors_open(&s, engine, path, NULL));
    pf_named *list = calloc((size_t)s.n + 1, sizeof *list);
    int status =
        list ? load_all(list, engine, &s) : pf_fail(PF_ENOMEM, "safetensors: out of memory");
    if (status >= 0 && metadata) status = take_metadata(metadata, &s);
    if (status < 0) {
        pf_named_free(list, s.n);
    } else {
        *tensors = list;
        *n = s.n;
    }
    pf_safetensors_close(&s);
    return status;
}

void pf_named_free(pf_named *tensors, int n) {
    for (int i = 0; tensors && i < n; i++) {
        free((char *)tensors[i].name);
        pf_tensor_release(&tensors[i].tensor);
    }
    free(tensors);
}
