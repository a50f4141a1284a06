/*
 * safetensors_write.c - writing .safetensors. Tensors stand in the caller's order, tile the
 * data from 0 and begin at a multiple of 8 bytes after a header padded with blanks; what is
 * written here passes every check of the reader, or is refused before a byte is put.
 */
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

static int compare_names(const void *a, const void *b) {
    return strcmp(((const pf_named *)a)->name, ((const pf_named *)b)->name);
}

static int check_names(const pf_named *tensors, int n) {
    pf_named *sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    if (!sorted) return pf_fail(PF_ENOMEM, "out of memory");
    if (n > 0) memcpy(sorted, tensors, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    int status = PF_OK;
    for (int i = 1; status >= 0 && i < n; i++) {
        if (compare_names(&sorted[i - 1], &sorted[i]) == 0) {
            status = pf_fail(PF_EINVAL, "two tensors are named '%s'", sorted[i].name);
        }
    }
    free(sorted);
    return status;
}

static int check_tensors(const pf_named *tensors, int n) {
    if (n < 0 || n > PF_ST_TENSORS || (n > 0 && !tensors)) {
        return pf_fail(PF_EINVAL, "%d tensors, at most %d are written", n, PF_ST_TENSORS);
    }
    for (int i = 0; i < n; i++) {
        const char *name = tensors[i].name;
        if (!name || !*name || !strcmp(name, "__metadata__")) {
            return pf_fail(PF_EINVAL, "tensor %s has no name, or the reserved __metadata__",
                           pf_place(i));
        }
        if (!tensors[i].tensor || !pf_tensor_alive(tensors[i].tensor)) {
            return pf_fail(PF_ESTATE, "tensor '%s' is gone: its tape has closed", name);
        }
    }
    return check_names(tensors, n);
}

/* Metadata goes from string to string: other values are written as their JSON text. */
static int put_metadata(pf_text *text, const pf_config *metadata) {
    pf_text_put(text, "{", 1);
    for (int i = 0; i < pf_config_size(metadata); i++) {
        const pf_config *value = pf_config_at(metadata, i);
        if (i > 0) pf_text_put(text, ",", 1);
        PF_TRY(pf_json_put_string(text, pf_config_key(metadata, i)));
        pf_text_put(text, ":", 1);
        if (pf_config_string(value)) {
            PF_TRY(pf_json_put_string(text, pf_config_string(value)));
            continue;
        }
        pf_text json = {0};
        int status = pf_json_put(&json, value, false);
        if (status >= 0) status = pf_json_put_string(text, json.data);
        free(json.data);
        PF_TRY(status);
    }
    pf_text_put(text, "}", 1);
    return PF_OK;
}

static int put_entry(pf_text *text, const pf_named *named, int64_t *offset) {
    const pf_tensor *t = named->tensor;
    int64_t bytes = pf_tensor_numel(t) * (int64_t)pf_dtype_size(t->dtype);
    PF_TRY(pf_json_put_string(text, named->name));
    pf_text_print(text, ":{\"dtype\":\"%s\",\"shape\":[", pf_dtype_find(t->dtype)->file_name);
    for (int i = 0; i < t->rank; i++) {
        pf_text_print(text, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    }
    pf_text_print(text, "],\"data_offsets\":[%lld,%lld]}", (long long)*offset,
                  (long long)(*offset + bytes));
    *offset += bytes;
    return PF_OK;
}

static int put_header(pf_text *text, const pf_named *tensors, int n, const pf_config *metadata) {
    int64_t offset = 0;
    bool some = pf_config_size(metadata) > 0;
    if (metadata && pf_config_kind_of(metadata) != PF_MAP) {
        return pf_fail(PF_EINVAL, "metadata is not a map");
    }
    if (pf_config_size(metadata) > PF_JSON_KEYS) {
        return pf_fail(PF_EINVAL, "metadata of %d entries, at most %d are written",
                       pf_config_size(metadata), PF_JSON_KEYS);
    }
    pf_text_put(text, "{", 1);
    if (some) pf_text_put(text, "\"__metadata__\":", 15);
    if (some) PF_TRY(put_metadata(text, metadata));
    for (int i = 0; i < n; i++) {
        if (i > 0 || some) pf_text_put(text, ",", 1);
        PF_TRY(put_entry(text, &tensors[i], &offset));
    }
    pf_text_put(text, "}", 1);
    while (!text->failed && text->size % 8 != 0) pf_text_put(text, " ", 1);
    if (text->failed) return pf_fail(PF_ENOMEM, "no memory for the header");
    if (text->size > (size_t)PF_ST_HEADER) {
        return pf_fail(PF_EINVAL, "a header of %zu bytes, at most %lld are written", text->size,
                       (long long)PF_ST_HEADER);
    }
    return PF_OK;
}

/* Row-major, whatever the strides: the one copy that writing may need. */
static int put_tensor(pf_engine *engine, pf_writer *to, pf_tensor *t) {
    size_t bytes = (size_t)pf_tensor_numel(t) * pf_dtype_size(t->dtype);
    if (bytes == 0) return PF_OK;
    PF_TRY(pf_check_cancel(engine));
    if (pf_tensor_contiguous(t)) return pf_writer_put(to, pf_tensor_data(t), bytes);
    void *copy = pf_heap_alloc(engine->heap, bytes);
    if (!copy) return PF_ENOMEM;
    int status = pf_tensor_read(t, copy, bytes);
    if (status >= 0) status = pf_writer_put(to, copy, bytes);
    pf_heap_free(engine->heap, copy, bytes);
    return status;
}

int pf_safetensors_write(pf_engine *engine, pf_writer *to, const pf_named *tensors, int n,
                         const pf_config *metadata) {
    pf_text header = {0};
    PF_TRY(check_tensors(tensors, n));
    int status = put_header(&header, tensors, n, metadata);
    uint64_t length = header.size;
    if (status >= 0) status = pf_writer_put(to, &length, sizeof length);
    if (status >= 0) status = pf_writer_put(to, header.data, header.size);
    free(header.data);
    for (int i = 0; status >= 0 && i < n; i++) status = put_tensor(engine, to, tensors[i].tensor);
    return status;
}

int pf_safetensors_save(pf_engine *engine, const char *path, const pf_named *tensors, int n,
                        const pf_config *metadata) {
    pf_writer w;
    if (!engine || !path) return pf_fail(PF_EINVAL, "safetensors: an argument is NULL");
    PF_TRY(pf_writer_open(&w, path, true));
    int status = pf_safetensors_write(engine, &w, tensors, n, metadata);
    if (status >= 0) return pf_writer_commit(&w, NULL);
    pf_writer_abort(&w);
    return pf_fail_in(status, "safetensors: %s", path);
}
