/*
 * safetensors_write.c - writing .safetensors. Tensors stand in the caller's order, tile the
 * data from 0 and begin at a multiple of 8 bytes after a header padded with blanks; what is
 * written here passes every check of the reader, or is refused before a byte is put.
 */
#include <string.h>

#include "named.h"
#include "safetensors.h"

#define STRIDE ((size_t)1 << 20) /* bytes that are written in one go */

static int check_tensors(const pf_named *tensors, int n, pf_heap *heap) {
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
    return pf_named_differ(tensors, n, heap);
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
        pf_text json = {.heap = text->heap};
        int status = pf_json_put(&json, value, false);
        if (status >= 0) status = pf_json_put_string(text, json.data);
        pf_text_close(&json);
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
    pf_text_print(text, "],\"data_offsets\":[%lld,", (long long)*offset);
    *offset += bytes;
    pf_text_print(text, "%lld]}", (long long)*offset);
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

/* A cancel is seen between two of them. */
static int put_bytes(const pf_engine *engine, pf_writer *to, const char *data, size_t bytes,
                     int64_t total) {
    for (size_t at = 0; at < bytes; at += STRIDE) {
        const size_t n = at + STRIDE < bytes ? STRIDE : bytes - at;
        PF_TRY(pf_charge(engine, pf_work_of((double)n / 4, 0)));
        PF_TRY(pf_progress_at(engine, "saving weights", to->size, total));
        PF_TRY(pf_writer_put(to, data + at, n));
    }
    return PF_OK;
}

static size_t bytes_of(const pf_tensor *t) {
    return (size_t)pf_tensor_numel(t) * pf_dtype_size(t->dtype);
}

/* Row-major, whatever the strides: the one copy that writing may need. total: of the file. */
static int put_tensor(pf_engine *engine, pf_writer *to, pf_tensor *t, int64_t total) {
    size_t bytes = bytes_of(t);
    if (bytes == 0) return PF_OK;
    PF_TRY(pf_check_cancel(engine));
    if (pf_tensor_contiguous(t)) return put_bytes(engine, to, pf_tensor_data(t), bytes, total);
    char *copy = pf_heap_alloc(engine->heap, bytes);
    if (!copy) return PF_ENOMEM;
    int status = pf_tensor_read(t, copy, bytes);
    if (status >= 0) status = put_bytes(engine, to, copy, bytes, total);
    pf_heap_free(engine->heap, copy, bytes);
    return status;
}

int pf_safetensors_write(pf_engine *engine, pf_writer *to, const pf_named *tensors, int n,
                         const pf_config *metadata) {
    pf_text header = {.heap = engine->heap};
    PF_TRY(check_tensors(tensors, n, engine->heap));
    int status = put_header(&header, tensors, n, metadata);
    uint64_t length = header.size;
    if (status >= 0) status = pf_writer_put(to, &length, sizeof length);
    if (status >= 0) status = pf_writer_put(to, header.data, header.size);
    pf_text_close(&header);
    int64_t total = to->size;
    for (int i = 0; i < n; i++) total += (int64_t)bytes_of(tensors[i].tensor);
    for (int i = 0; status >= 0 && i < n; i++)
        status = put_tensor(engine, to, tensors[i].tensor, total);
    return status;
}

int pf_safetensors_save(pf_engine *engine, const char *path, const pf_named *tensors, int n,
                        const pf_config *metadata) {
    PF_OPEN(engine);
    PF_NEED(path);
    PF_NEED_ARRAY(tensors, n);
    pf_writer w;
    PF_TRY(pf_writer_open(&w, engine, path));
    int status = pf_safetensors_write(engine, &w, tensors, n, metadata);
    if (status >= 0) return pf_writer_commit(&w, NULL);
    pf_writer_abort(&w);
    return pf_fail_in(status, "safetensors: %s", path);
}
