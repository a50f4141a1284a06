/*
 * safetensors.c - the header: see safetensors.h. A file is 8 bytes of header length N (little
 * endian), N bytes of JSON {name: {dtype, shape, data_offsets [begin, end)}}, then the data.
 *
 * What must hold: no number of the file is used before it has been checked against the
 * file's true size, in the order of the reference reader; the tensors tile the data
 * exactly, so no byte belongs to two of them or to none, and all of them together never
 * ask for more memory than the file's size allows.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

/* ---- the header --------------------------------------------------------------- */

static int bad(const pf_st_entry *entry, const char *what) {
    return pf_fail(PF_EFORMAT, "tensor '%s': %s", entry->name, what);
}

static int read_dtype(pf_st_entry *entry, pf_json *in) {
    char *name;
    PF_TRY(pf_json_text(in, &name));
    if (pf_st_dtype_find(name, &entry->dtype)) return PF_OK;
    return pf_fail(PF_EFORMAT, "tensor '%s': unknown dtype '%.32s'", entry->name, name);
}

static int read_shape(pf_st_entry *entry, pf_json *in) {
    int n = 0, more;
    int64_t size;
    if (pf_json_peek(in) != '[') return bad(entry, "no shape");
    PF_TRY(pf_json_enter(in, '['));
    while ((more = pf_json_more(in, ']', &n)) > 0) {
        if (pf_json_whole(in, &size) < 0 || size < 0)
            return bad(entry, "a dimension that is no size");
        if (n <= PF_MAX_RANK) entry->shape[n - 1] = size;
    }
    if (more >= 0 && n > PF_MAX_RANK) {
        return pf_fail(PF_EFORMAT, "tensor '%s': %d dimensions, at most %d are read", entry->name,
                       n, PF_MAX_RANK);
    }
    entry->rank = n;
    return more;
}

/* Their order and their sums are checked later. */
static int read_offsets(pf_st_entry *entry, pf_json *in) {
    int n = 0, more = pf_json_peek(in) == '[' ? pf_json_enter(in, '[') : PF_EFORMAT;
    while (more >= 0 && (more = pf_json_more(in, ']', &n)) > 0)
        more = n > 2 ? PF_EFORMAT : pf_json_whole(in, n == 1 ? &entry->begin : &entry->end);
    if (more < 0 || n != 2) return bad(entry, "data_offsets are not two whole numbers");
    if (entry->begin < 0 || entry->end < entry->begin) return bad(entry, "negative data_offsets");
    return PF_OK;
}

/* {dtype, shape, data_offsets} in any order; what else there may be is passed over. */
static int read_entry(pf_st_entry *entry, pf_json *in) {
    static const char *const names[] = {"dtype", "shape", "data_offsets"};
    static int (*const read[])(pf_st_entry *, pf_json *) = {read_dtype, read_shape, read_offsets};
    bool seen[3] = {false, false, false};
    int n = 0, more, i;
    char *key;
    if (pf_json_peek(in) != '{') return bad(entry, "not a map of dtype, shape and data_offsets");
    PF_TRY(pf_json_enter(in, '{'));
    while ((more = pf_json_more(in, '}', &n)) > 0) {
        PF_TRY(pf_json_key(in, &key));
        for (i = 0; i < 3 && strcmp(key, names[i]) != 0; i++) {}
        if (i < 3 && seen[i]) return pf_json_fail(in, "duplicate key '%s'", key);
        PF_TRY(i < 3 ? read[i](entry, in) : pf_json_skip(in));
        if (i < 3) seen[i] = true;
    }
    PF_TRY(more);
    if (!seen[0]) return bad(entry, "no dtype");
    if (!seen[1]) return bad(entry, "no shape");
    return seen[2] ? PF_OK : bad(entry, "data_offsets are not two whole numbers");
}

static int read_metadata(pf_config **metadata, pf_heap *heap, pf_json *in) {
    int n = 0, more;
    char *key, *value;
    if (*metadata) return pf_json_fail(in, "duplicate key '__metadata__'");
    if (pf_json_peek(in) != '{') return pf_fail(PF_EFORMAT, "__metadata__ is not a map");
    PF_TRY(pf_json_enter(in, '{'));
    if (!(*metadata = pf_config_new_in(heap, PF_MAP))) return PF_ENOMEM;
    while ((more = pf_json_more(in, '}', &n)) > 0) {
        PF_TRY(pf_json_key(in, &key));
        if (n > PF_JSON_KEYS) {
            return pf_fail(PF_EFORMAT, "__metadata__ of more than %d entries", PF_JSON_KEYS);
        }
        if (pf_json_peek(in) != '"')
            return pf_fail(PF_EFORMAT, "__metadata__ '%s' is not a string", key);
        PF_TRY(pf_json_text(in, &value));
        if (pf_config_get(*metadata, key)) return pf_json_fail(in, "duplicate key '%.64s'", key);
        PF_TRY(pf_config_set_string(*metadata, key, value));
    }
    return more;
}

static int compare_offsets(const void *a, const void *b) {
    const pf_st_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name); /* empty tensors share an offset */
}

/* An upper bound of the entries, exact for what is JSON at all: colons in the outermost map. */
static int64_t count_entries(const char *text, size_t bytes) {
    int64_t n = 0;
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '"') quoted = !quoted;
        if (quoted) {
            i += c == '\\';
            continue;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        n += c == ':' && depth == 1;
    }
    return n;
}

int pf_safetensors_find(const pf_safetensors *s, const char *name) {
    uint32_t probe = 0;
    uint64_t hash = pf_hash_text(name);
    for (int i; (i = pf_index_next(&s->names, hash, &probe)) >= 0;) {
        if (strcmp(s->entry[i].name, name) == 0) return i;
    }
    return -1;
}

/* The names as they are sorted now. */
static int index_names(pf_safetensors *s) {
    for (int i = 0; i < s->n; i++) {
        const char *name = s->entry[i].name;
        if (pf_safetensors_find(s, name) >= 0)
            return pf_fail(PF_EFORMAT, "duplicate tensor '%.64s'", name);
        PF_TRY(pf_index_put(&s->names, pf_hash_text(name), i));
    }
    return PF_OK;
}

static int read_entries(pf_safetensors *s, pf_json *in) {
    int n = 0, more;
    char *key;
    PF_TRY(pf_json_enter(in, '{'));
    while ((more = pf_json_more(in, '}', &n)) > 0) {
        PF_TRY(pf_json_key(in, &key));
        if (!strcmp(key, "__metadata__")) {
            PF_TRY(read_metadata(&s->metadata, s->heap, in));
            continue;
        }
        s->entry[s->n].name = key;
        PF_TRY(read_entry(&s->entry[s->n], in));
        s->n++;
    }
    PF_TRY(more);
    return pf_json_end(in);
}

/* The header's text stays: names stand in it. */
static int list_entries(pf_safetensors *s) {
    pf_json in;
    int64_t count = count_entries(s->text, s->text_bytes);
    if (count > PF_ST_TENSORS + 1) {
        return pf_fail(PF_EFORMAT, "%lld tensors, at most %d are read", (long long)count,
                       PF_ST_TENSORS);
    }
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->entry, &s->room, count + 1, sizeof *s->entry));
    memset(s->entry, 0, (size_t)s->room * sizeof *s->entry);
    PF_TRY(pf_json_open(&in, s->text, s->text_bytes, "header"));
    PF_TRY(read_entries(s, &in));
    if (s->n > PF_ST_TENSORS)
        return pf_fail(PF_EFORMAT, "%d tensors, at most %d are read", s->n, PF_ST_TENSORS);
    if (s->n > 1) qsort(s->entry, (size_t)s->n, sizeof *s->entry, compare_offsets);
    return index_names(s);
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
    if (s->hash.state) pf_hash_put(&s->hash, &length, sizeof length);
    if (length > (uint64_t)PF_ST_HEADER || (int64_t)length > size - 8) {
        return pf_fail(PF_EFORMAT,
                       "no safetensors file: it says that its header has %llu bytes "
                       "(the file has %lld, and at most %lld are read)",
                       (unsigned long long)length, (long long)size, (long long)PF_ST_HEADER);
    }
    s->data = 8 + (int64_t)length;
    s->text = pf_heap_alloc(s->heap, (size_t)length + 1);
    if (!s->text) return PF_ENOMEM;
    s->text_bytes = (size_t)length;
    PF_TRY(pf_reader_read(&s->file, 8, s->text, (size_t)length));
    s->text[length] = '\0';
    if (length == 0 || s->text[0] != '{')
        return pf_fail(PF_EFORMAT, "the header does not begin with '{'");
    if (s->hash.state) pf_hash_put(&s->hash, s->text, (size_t)length);
    PF_TRY(list_entries(s));
    return check_tiling(s);
}

int pf_safetensors_open(pf_safetensors *s, pf_engine *engine, const char *path, const char *hash) {
    *s = (pf_safetensors){.heap = engine->heap, .names.heap = engine->heap};
    PF_TRY(pf_reader_open(&s->file, engine, path));
    int status = hash ? pf_hash_begin(&s->hash, engine->heap) : PF_OK;
    if (hash) memcpy(s->expected, hash, sizeof s->expected);
    if (status >= 0) status = read_header(s);
    if (status >= 0) return PF_OK;
    pf_safetensors_close(s);
    return pf_fail_in(status, "safetensors: %s", path);
}

void pf_safetensors_close(pf_safetensors *s) {
    pf_mapping_close(&s->mapping);
    pf_heap_free(s->heap, s->entry, (size_t)s->room * sizeof *s->entry);
    pf_heap_free(s->heap, s->text, s->text_bytes + 1);
    pf_config_free(s->metadata);
    pf_index_close(&s->names);
    if (s->hash.state) pf_hash_end(&s->hash);
    pf_reader_close(&s->file);
    *s = (pf_safetensors){0};
}
