/*
 * safetensors.c - reading: see safetensors.h. A file is 8 bytes of header length N (little
 * endian), N bytes of JSON {name: {dtype, shape, data_offsets [begin, end)}}, then the data.
 *
 * What must hold: no number of the file is used before it has been checked against the
 * file's true size, in the order of the reference reader; the tensors tile the data
 * exactly, so no byte belongs to two of them or to none, and all of them together never
 * ask for more memory than the file's size allows.
 */
#include "safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little endian, and so must be the machine"
#endif

#define CHUNK 8192 /* elements converted at a time */

/* ---- dtypes ------------------------------------------------------------------- */

static int64_t from_f64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        double value = ((const double *)in)[i];
        float small = (float)value;
        if (isinf(small) && !isinf(value)) return i; /* would become infinite in silence */
        ((float *)out)[i] = small;
    }
    return n;
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 31, fraction = half & 0x3FF;
    if (exponent == 31) return from_bits(sign | 0x7F800000 | fraction << 13); /* inf, nan */
    if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -value : value;
}

static int64_t from_f16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((float *)out)[i] = half_to_float(((const uint16_t *)in)[i]);
    return n;
}

static int64_t from_bf16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        ((float *)out)[i] = from_bits((uint32_t)((const uint16_t *)in)[i] << 16);
    }
    return n;
}

static int64_t from_i64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t value = ((const int64_t *)in)[i];
        if (value < INT32_MIN || value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_u64(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t value = ((const uint64_t *)in)[i];
        if (value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_u32(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t value = ((const uint32_t *)in)[i];
        if (value > INT32_MAX) return i;
        ((int32_t *)out)[i] = (int32_t)value;
    }
    return n;
}

static int64_t from_i16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int16_t *)in)[i];
    return n;
}

static int64_t from_u16(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const uint16_t *)in)[i];
    return n;
}

static int64_t from_i8(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const int8_t *)in)[i];
    return n;
}

static int64_t from_u8(const void *in, int64_t n, void *out) {
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = ((const uint8_t *)in)[i];
    return n;
}

/* Those that tensors don't have; the tensors' own are rows of dtype.c. */
static const pf_st_dtype foreign[] = {
    {"F64", 8, true, PF_F32, from_f64},   {"F16", 2, true, PF_F32, from_f16},
    {"BF16", 2, true, PF_F32, from_bf16}, {"I64", 8, true, PF_I32, from_i64},
    {"U64", 8, true, PF_I32, from_u64},   {"U32", 4, true, PF_I32, from_u32},
    {"I16", 2, true, PF_I32, from_i16},   {"U16", 2, true, PF_I32, from_u16},
    {"I8", 1, true, PF_I32, from_i8},     {"U8", 1, true, PF_I32, from_u8},
    {"BOOL", 1, true, PF_I32, from_u8},   {"F8_E4M3", 1, false, PF_F32, NULL},
    {"F8_E5M2", 1, false, PF_F32, NULL},  {"C64", 8, false, PF_F32, NULL},
};

/* false: no dtype has this name in files. */
static bool find_dtype(const char *name, pf_st_dtype *type) {
    const pf_dtype_row *row;
    for (int i = 0; (row = pf_dtype_find((pf_dtype)i)) != NULL; i++) {
        *type = (pf_st_dtype){row->file_name, row->bytes, true, (pf_dtype)i, NULL};
        if (!strcmp(type->name, name)) return true;
    }
    for (int i = 0; i < PF_COUNT(foreign); i++) {
        *type = foreign[i];
        if (!strcmp(type->name, name)) return true;
    }
    return false;
}

int pf_st_dtype_loads_as(const pf_st_entry *entry, pf_dtype *dtype) {
    *dtype = entry->dtype.as;
    if (entry->dtype.loads) return PF_OK;
    return pf_fail(PF_EDTYPE,
                   "safetensors: '%s' has dtype %s, which can't be loaded; convert it "
                   "to F32 first",
                   entry->name, entry->dtype.name);
}

/* ---- the header --------------------------------------------------------------- */

static int bad(const pf_st_entry *entry, const char *what) {
    return pf_fail(PF_EFORMAT, "tensor '%s': %s", entry->name, what);
}

static int check_dtype(pf_st_entry *entry, const pf_json *node) {
    const char *name = pf_json_string(pf_json_get(node, "dtype"));
    if (!name) return bad(entry, "no dtype");
    if (find_dtype(name, &entry->dtype)) return PF_OK;
    return pf_fail(PF_EFORMAT, "tensor '%s': unknown dtype '%.32s'", entry->name, name);
}

/* Sizes and offsets are checked for kind and sign here, and for their sums later. */
static int check_entry(pf_st_entry *entry, const pf_json *node) {
    const pf_json *shape = pf_json_get(node, "shape");
    const pf_json *offsets = pf_json_get(node, "data_offsets");
    if (!pf_json_is_map(node)) return bad(entry, "not a map of dtype, shape and data_offsets");
    PF_TRY(check_dtype(entry, node));
    if (!pf_json_is_list(shape)) return bad(entry, "no shape");
    if (pf_json_size(shape) > PF_MAX_RANK) {
        return pf_fail(PF_EFORMAT, "tensor '%s': %zu dimensions, at most %d are read", entry->name,
                       pf_json_size(shape), PF_MAX_RANK);
    }
    entry->rank = (int)pf_json_size(shape);
    for (int i = 0; i < entry->rank; i++) {
        bool whole = pf_json_integer(pf_json_at(shape, (size_t)i), &entry->shape[i]);
        if (!whole || entry->shape[i] < 0) return bad(entry, "a dimension that is no size");
    }
    if (!pf_json_is_list(offsets) || pf_json_size(offsets) != 2 ||
        !pf_json_integer(pf_json_at(offsets, 0), &entry->begin) ||
        !pf_json_integer(pf_json_at(offsets, 1), &entry->end)) {
        return bad(entry, "data_offsets are not two whole numbers");
    }
    if (entry->begin < 0 || entry->end < entry->begin) return bad(entry, "negative data_offsets");
    return PF_OK;
}

static int check_metadata(const pf_json *node) {
    const char *key;
    const pf_json *value;
    if (!pf_json_is_map(node)) return pf_fail(PF_EFORMAT, "__metadata__ is not a map");
    if (pf_json_size(node) > PF_JSON_KEYS) {
        return pf_fail(PF_EFORMAT, "__metadata__ of %zu entries, at most %d are read",
                       pf_json_size(node), PF_JSON_KEYS);
    }
    for (void *i = NULL; (i = pf_json_next(node, i, &key, &value));) {
        if (!pf_json_string(value)) {
            return pf_fail(PF_EFORMAT, "__metadata__ '%s' is not a string", key);
        }
    }
    return PF_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const pf_st_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name); /* empty tensors share an offset */
}

static int list_entries(pf_safetensors *s) {
    bool metadata = pf_json_get(s->header, "__metadata__") != NULL;
    size_t count = pf_json_size(s->header) - (metadata ? 1 : 0);
    const char *key;
    const pf_json *value;
    if (count > PF_ST_TENSORS) {
        return pf_fail(PF_EFORMAT, "%zu tensors, at most %d are read", count, PF_ST_TENSORS);
    }
    s->entry = calloc(count + 1, sizeof *s->entry);
    if (!s->entry) return pf_fail(PF_ENOMEM, "out of memory");
    for (void *i = NULL; (i = pf_json_next(s->header, i, &key, &value));) {
        if (!strcmp(key, "__metadata__")) {
            PF_TRY(check_metadata(value));
            s->metadata = value;
            continue;
        }
        s->entry[s->n].name = key;
        PF_TRY(check_entry(&s->entry[s->n], value));
        s->n++;
    }
    if (s->n > 1) qsort(s->entry, (size_t)s->n, sizeof *s->entry, compare_offsets);
    return PF_OK;
}

/* Bytes that the shape asks for; false on overflow. */
static bool entry_bytes(const pf_st_entry *entry, int64_t *bytes) {
    int64_t product = (int64_t)entry->dtype.bytes;
    bool fits = true, empty = false;
    for (int i = 0; i < entry->rank; i++) {
        if (entry->shape[i] == 0)
            empty = true;
        else
            fits = fits && !__builtin_mul_overflow(product, entry->shape[i], &product);
    }
    *bytes = empty ? 0 : product;
    return fits; /* a shape such as [2^62, 4, 0] is refused too */
}

/* The tensors tile the data: each begins where the one before it ended, and the last one
 * ends with the file. */
static int check_tiling(const pf_safetensors *s) {
    int64_t at = 0, bytes;
    for (int i = 0; i < s->n; i++) {
        const pf_st_entry *entry = &s->entry[i];
        if (entry->begin != at) {
            return pf_fail(PF_EFORMAT,
                           "tensor '%s': begins at byte %lld of the data, expected "
                           "%lld (%s)",
                           entry->name, (long long)entry->begin, (long long)at,
                           entry->begin < at ? "an overlap" : "a hole");
        }
        if (!entry_bytes(entry, &bytes)) return bad(entry, "its shape is too large for any file");
        if (bytes != entry->end - entry->begin) {
            return pf_fail(PF_EFORMAT,
                           "tensor '%s': %s of shape %s is %lld bytes, data_offsets "
                           "say %lld",
                           entry->name, entry->dtype.name, pf_shape_text(entry->rank, entry->shape),
                           (long long)bytes, (long long)(entry->end - entry->begin));
        }
        at = entry->end;
    }
    if (at == s->file.size - s->data) return PF_OK;
    return pf_fail(PF_EFORMAT, "the header describes %lld bytes of data, the file has %lld",
                   (long long)at, (long long)(s->file.size - s->data));
}

static int read_header(pf_safetensors *s) {
    uint64_t length;
    int64_t size = s->file.size;
    if (size < 8) return pf_fail(PF_EFORMAT, "%lld bytes are no safetensors file", (long long)size);
    PF_TRY(pf_reader_read(&s->file, 0, &length, sizeof length));
    if (length > (uint64_t)PF_ST_HEADER || (int64_t)length > size - 8) {
        return pf_fail(PF_EFORMAT,
                       "no safetensors file: it says that its header has %llu bytes "
                       "(the file has %lld, and at most %lld are read)",
                       (unsigned long long)length, (long long)size, (long long)PF_ST_HEADER);
    }
    s->data = 8 + (int64_t)length;
    char *text = malloc((size_t)length + 1);
    if (!text) return pf_fail(PF_ENOMEM, "no memory for the header");
    int status = pf_reader_read(&s->file, 8, text, (size_t)length);
    if (status >= 0 && (length == 0 || text[0] != '{')) {
        status = pf_fail(PF_EFORMAT, "the header does not begin with '{'");
    }
    if (status >= 0) status = pf_json_open(&s->header, text, (size_t)length, "header");
    free(text);
    if (status < 0) return status;
    PF_TRY(list_entries(s));
    return check_tiling(s);
}

int pf_safetensors_open(pf_safetensors *s, const char *path) {
    *s = (pf_safetensors){.file.fd = -1};
    PF_TRY(pf_reader_open(&s->file, path));
    int status = read_header(s);
    if (status >= 0) return PF_OK;
    pf_safetensors_close(s);
    return pf_fail_in(status, "safetensors: %s", path);
}

void pf_safetensors_close(pf_safetensors *s) {
    free(s->entry);
    pf_json_close(&s->header);
    pf_reader_close(&s->file);
    *s = (pf_safetensors){.file.fd = -1};
}

int pf_safetensors_find(const pf_safetensors *s, const char *name, int hint) {
    if (hint >= 0 && hint < s->n && !strcmp(s->entry[hint].name, name)) return hint;
    for (int i = 0; i < s->n; i++) {
        if (!strcmp(s->entry[i].name, name)) return i;
    }
    return -1;
}

int pf_safetensors_metadata(pf_config **metadata, const pf_safetensors *s) {
    const char *key;
    const pf_json *value;
    *metadata = pf_config_new(PF_MAP);
    int status = *metadata ? PF_OK : PF_ENOMEM;
    for (void *i = NULL; status >= 0 && (i = pf_json_next(s->metadata, i, &key, &value));) {
        status = pf_config_set_string(*metadata, key, pf_json_string(value));
    }
    if (status >= 0) return PF_OK;
    pf_config_free(*metadata);
    *metadata = NULL;
    return status;
}

/* ---- the data ----------------------------------------------------------------- */

/* A chunk at a time through `raw`, so that the extra memory stays small. */
static int read_converted(const pf_safetensors *s, const pf_st_entry *entry, void *raw, char *out) {
    const pf_st_dtype *type = &entry->dtype;
    const pf_dtype_row *own = pf_dtype_find(type->as);
    int64_t bytes = (int64_t)type->bytes, total = (entry->end - entry->begin) / bytes;
    for (int64_t at = 0; at < total;) {
        int64_t n = pf_min(total - at, CHUNK);
        int64_t offset = s->data + entry->begin + at * bytes;
        PF_TRY(pf_reader_read(&s->file, offset, raw, (size_t)(n * bytes)));
        int64_t good = type->convert(raw, n, out + at * (int64_t)own->bytes);
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

int pf_safetensors_read(pf_engine *engine, const pf_safetensors *s, int index, pf_tensor *to) {
    const pf_st_entry *entry = &s->entry[index];
    pf_dtype dtype;
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    PF_TRY(pf_check_cancel(engine));
    char *out = pf_tensor_data(to);
    if (!out || to->dtype != dtype || to->rank != entry->rank ||
        memcmp(to->shape, entry->shape, (size_t)to->rank * sizeof *to->shape) != 0) {
        return pf_fail(PF_ESHAPE, "safetensors: '%s' is %s %s in the file and goes into no %s %s",
                       entry->name, entry->dtype.name, pf_shape_text(entry->rank, entry->shape),
                       pf_dtype_name(to->dtype), pf_shape_of(to));
    }
    pf_tensor_touch(to, "a load");
    if (!entry->dtype.convert) {
        return pf_reader_read(&s->file, s->data + entry->begin, out,
                              (size_t)(entry->end - entry->begin));
    }
    size_t bytes = CHUNK * 8;
    void *raw = pf_heap_alloc(engine->heap, bytes);
    if (!raw) return PF_ENOMEM;
    int status = read_converted(s, entry, raw, out);
    pf_heap_free(engine->heap, raw, bytes);
    return status;
}

static int load_one(pf_named *named, pf_engine *engine, const pf_safetensors *s, int index) {
    const pf_st_entry *entry = &s->entry[index];
    pf_dtype dtype;
    PF_TRY(pf_st_dtype_loads_as(entry, &dtype));
    char *name = strdup(entry->name);
    if (!name) return pf_fail(PF_ENOMEM, "safetensors: out of memory");
    named->name = name;
    /* Outside any open tape: what comes from a file outlives the step. */
    PF_TRY(pf_tensor_make_lasting(&named->tensor, engine->heap, dtype, entry->rank, entry->shape));
    return pf_safetensors_read(engine, s, index, named->tensor);
}

int pf_safetensors_load(pf_engine *engine, const char *path, pf_named **tensors, int *n,
                        pf_config **metadata) {
    pf_safetensors s;
    if (!engine || !path || !tensors || !n) {
        return pf_fail(PF_EINVAL, "safetensors: an argument is NULL");
    }

    *tensors = NULL;
    *n = 0;
    if (metadata) *metadata = NULL;
    PF_TRY(pf_safetensors_open(&s, path));
    int status = PF_OK;
    pf_named *list = calloc((size_t)s.n + 1, sizeof *list);
    if (!list) status = pf_fail(PF_ENOMEM, "safetensors: out of memory");
    for (int i = 0; status >= 0 && i < s.n; i++) status = load_one(&list[i], engine, &s, i);
    if (status >= 0 && metadata) status = pf_safetensors_metadata(metadata, &s);
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
