/*
 * inspect.c - what a safetensors file, a checkpoint folder or a run folder holds, from
 * headers and small files alone: the data is never read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "folder.h"

static int set_list(pf_config *map, const char *key, int n, const int64_t *values) {
    pf_config *list = pf_config_new_beside(map, PF_LIST);
    if (!list) return PF_ENOMEM;
    int status = PF_OK;
    for (int i = 0; status >= 0 && i < n; i++) {
        pf_config *size = pf_config_new_beside(list, PF_NULL);
        if (size) pf_config_become_number(size, (double)values[i]);
        status = pf_config_push(list, size);
    }
    if (status >= 0) return pf_config_set(map, key, list);
    pf_config_free(list);
    return status;
}

static int fill_tensor(pf_config *map, const pf_st_entry *entry) {
    PF_TRY(pf_config_set_string(map, "name", entry->name));
    PF_TRY(pf_config_set_string(map, "dtype", entry->dtype.name));
    PF_TRY(set_list(map, "shape", entry->rank, entry->shape));
    return pf_config_set_number(map, "bytes", (double)(entry->end - entry->begin));
}

static int push_tensor(pf_config *list, const pf_st_entry *entry) {
    pf_config *map = pf_config_new_beside(list, PF_MAP);
    if (!map) return PF_ENOMEM;
    int status = fill_tensor(map, entry);
    if (status >= 0) return pf_config_push(list, map);
    pf_config_free(map);
    return status;
}

/* Elements of all tensors; a checkpoint of ours says how many of them are trained. */
static double count_params(const pf_safetensors *s) {
    double all = 0;
    for (int i = 0; i < s->n; i++) {
        all += (double)pf_shape_numel(s->entry[i].rank, s->entry[i].shape);
    }
    const char *text = pf_config_string(pf_config_get(s->metadata, "params"));
    if (!text || !*text || strlen(text) > 15 || strspn(text, "0123456789") != strlen(text)) {
        return all;
    }
    double trained = (double)strtoll(text, NULL, 10);
    return trained <= all ? trained : all;
}

static int fill_file(pf_config *info, pf_safetensors *s) {
    pf_config *list = pf_config_new_beside(info, PF_LIST);
    int64_t bytes = s->n > 0 ? s->entry[s->n - 1].end : 0;
    if (!list) return PF_ENOMEM;
    int status = PF_OK;
    for (int i = 0; status >= 0 && i < s->n; i++) status = push_tensor(list, &s->entry[i]);
    if (status < 0) {
        pf_config_free(list);
        return status;
    }
    PF_TRY(pf_config_set(info, "tensors", list));
    PF_TRY(pf_config_set_number(info, "params", count_params(s)));
    PF_TRY(pf_config_set_number(info, "bytes", (double)bytes));
    pf_config *metadata = s->metadata ? s->metadata : pf_config_new_beside(info, PF_MAP);
    s->metadata = NULL;
    return pf_config_set(info, "metadata", metadata);
}

static int inspect_file(pf_config *info, pf_engine *engine, const char *path) {
    pf_safetensors s;
    PF_TRY(pf_safetensors_open(&s, engine, path, NULL));
    int status = fill_file(info, &s);
    pf_safetensors_close(&s);
    return status;
}

static int inspect_folder(pf_config *info, pf_engine *engine, const char *folder) {
    static const char *const parts[] = {"config", "state", "tokenizer"};
    char *path, name[32];
    PF_TRY(pf_config_set_string(info, "checkpoint", folder));
    for (int i = 0; i < PF_COUNT(parts); i++) {
        pf_config *part;
        snprintf(name, sizeof name, "%s.json", parts[i]);
        PF_TRY(pf_folder_config(&part, engine, folder, name));
        if (part) PF_TRY(pf_config_set(info, parts[i], part));
    }
    PF_TRY(pf_path(&path, engine, "%s/model.safetensors", folder));
    int status = inspect_file(info, engine, path);
    pf_path_free(path);
    return status;
}

int pf_inspect(pf_config **info, pf_engine *engine, const char *path) {
    PF_OUT(info);
    PF_OPEN(engine);
    PF_NEED(path);
    char *folder = NULL;
    *info = pf_config_new_in(engine->heap, PF_MAP);
    if (!*info) return PF_ENOMEM;
    int status;
    if (pf_is_folder(engine, path) || pf_folder_is_mark(engine, path)) {
        status = pf_folder_find(engine, &folder, path, false, PF_FOR_MODEL);
        if (status >= 0) status = inspect_folder(*info, engine, folder);
    } else {
        status = inspect_file(*info, engine, path);
    }
    pf_path_free(folder);
    if (status >= 0) return PF_OK;
    pf_config_free(*info);
    *info = NULL;
    return status;
}
