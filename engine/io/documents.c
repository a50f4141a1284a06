/*
 * documents.c - the documents of a data set: how they come in, which ones a split has, one
 * number for all of them, and how they go.
 */
#include <string.h>
#include <xxhash.h>

#include "data.h"

static void free_array(pf_heap *heap, void *array, int64_t n, size_t size) {
    if (array) pf_heap_free(heap, array, (size_t)n * size);
}

void pf_data_choose_vocab(pf_data *data) {
    data->vocab = pf_vocab_find(data->fasta ? "protein" : "byte");
    data->begin = pf_vocab_special(data->vocab, "begin");
    data->end = pf_vocab_special(data->vocab, "end");
    data->pad = pf_vocab_special(data->vocab, "pad");
}

size_t pf_data_bytes(const pf_data *data) {
    int64_t lists = 0;
    for (int split = 0; split < PF_SPLITS; split++) lists += 2 * data->plans[split].n_documents + 1;
    return sizeof *data + (size_t)data->tokens_capacity + (size_t)data->names_capacity +
           (size_t)data->documents_capacity * sizeof *data->documents +
           (size_t)lists * sizeof(int64_t);
}

void pf_data_forget_rows(pf_data *data) {
    free_array(data->heap, data->order, data->n_order, sizeof *data->order);
    data->order = NULL;
    data->order_pass = -1;
    for (int split = 0; split < PF_SPLITS; split++) pf_plan_clear(data->heap, &data->plans[split]);
}

void pf_data_free(pf_data *data) {
    pf_heap *heap = data->heap;
    pf_data_forget_rows(data);
    for (int i = 0; i < PF_SPLITS; i++) {
        pf_plan *plan = &data->plans[i];
        free_array(heap, plan->documents, plan->n_documents, sizeof *plan->documents);
        free_array(heap, plan->starts, plan->n_documents + 1, sizeof *plan->starts);
    }
    free_array(heap, data->tokens, data->tokens_capacity, 1);
    free_array(heap, data->documents, data->documents_capacity, sizeof *data->documents);
    free_array(heap, data->names, data->names_capacity, 1);
    pf_heap_free(heap, data, sizeof *data);
}

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
