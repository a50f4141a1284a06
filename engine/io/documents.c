/*
 * documents.c - the documents of a data set: how they come in, which ones a split has, and one
 * number for all of them.
 */
#include <string.h>
#include <xxhash.h>

#include "data.h"

int pf_data_keep_name(pf_data *data, const char *name, int64_t *at) {
    int64_t bytes = (int64_t)strlen(name) + 1, need = data->n_names + bytes;
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->names, &data->names_capacity, need, 1));
    memcpy(data->names + data->n_names, name, (size_t)bytes);
    *at = data->n_names;
    data->n_names = need;
    return PF_OK;
}

int pf_data_add_document(pf_data *data, const pf_document *document) {
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->documents, &data->documents_capacity,
                        data->n_documents + 1, sizeof *document));
    data->documents[data->n_documents++] = *document;
    return PF_OK;
}

static bool in_split(const pf_data *data, const pf_document *document, pf_split split) {
    return document->split == split || (data->fasta && split == PF_ALL);
}

int pf_data_list_documents(pf_data *data, pf_split split) {
    pf_plan *plan = &data->plans[split];
    for (int64_t i = 0; i < data->n_documents; i++)
        plan->n_documents += in_split(data, &data->documents[i], split);
    plan->documents =
        pf_heap_alloc(data->heap, (size_t)plan->n_documents * sizeof *plan->documents);
    plan->starts = pf_heap_alloc(data->heap, (size_t)(plan->n_documents + 1) * sizeof(int64_t));
    if (!plan->documents || !plan->starts) return PF_ENOMEM;
    plan->starts[0] = 0;
    for (int64_t i = 0, n = 0; i < data->n_documents; i++) {
        if (!in_split(data, &data->documents[i], split)) continue;
        plan->documents[n++] = i;
        plan->targets += pf_max(0, pf_document_size(data, &data->documents[i]) - 1);
        plan->starts[n] = plan->targets;
    }
    return PF_OK;
}

/* Borders count: each document goes on from the one before. A text alone has none. */
uint64_t pf_data_checksum(const pf_data *data) {
    if (!data->fasta && data->files == 1) return XXH3_64bits(data->tokens, (size_t)data->n_tokens);
    uint64_t sum = 0;
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        if (!in_split(data, d, PF_ALL)) continue;
        sum = XXH3_64bits_withSeed(d->hash, sizeof d->hash, sum);
    }
    return sum;
}
