/*
 * ask.c - what is asked of a data set beside its batches: counts, single documents, how often
 * tokens stand where. Data in memory and data in shards answer alike.
 */
#include <string.h>

#include "shards.h"
#include "tensor.h"

int pf_data_check_split(const pf_data *data, pf_split split) {
    if ((int)split < 0 || (int)split >= PF_SPLITS)
        return pf_fail(PF_EINVAL, "data: split %d does not exist", (int)split);
    if (!data->shards || !data->fasta) return PF_OK;
    return pf_shards_lay((pf_data *)data, split); /* to be known, not a change */
}

PF_API int pf_data_info_of(const pf_data *data, pf_split split, pf_data_info *info) {
    PF_NEED(data, info);
    PF_TRY(pf_data_check_split(data, split));
    const pf_plan *plan = &data->plans[split];
    pf_data_info own = {.documents = plan->n_documents,
                        .tokens = plan->targets,
                        .rows = plan->n_rows,
                        .format = data->fasta ? "fasta" : "text",
                        .tokenizer = data->vocab->type,
                        .checksum = data->checksum,
                        .skipped = data->skipped,
                        .skips = data->skips,
                        .once = data->once,
                        .files = data->files,
                        .shared = data->shared,
                        .shards = data->shards != NULL,
                        .clusters = data->clusters,
                        .block = data->shards && pf_data_own_order(data) ? data->shards->block : 0};
    if (data->shards) own.duplicates = data->shards->copies[split];
    for (int64_t i = 0; i < plan->n_documents && !data->shards; i++)
        own.duplicates += data->documents[plan->documents[i]].copies;
    return pf_result_give(info, &own, sizeof own, "data");
}

PF_API int pf_data_document(pf_tensor **ids, const char **name, pf_engine *engine, pf_data *data,
                            pf_split split, int64_t index) {
    PF_OUT(ids);
    PF_OPEN(engine);
    PF_NEED(data);
    PF_TRY(pf_data_check_split(data, split));
    const pf_plan *plan = &data->plans[split];
    if (index < 0 || index >= plan->n_documents)
        return pf_fail(PF_EINVAL, "data: there is no document %s; there are %lld", pf_place(index),
                       (long long)plan->n_documents);
    pf_data *from = data;
    if (data->shards && data->fasta) PF_TRY(pf_shards_document(&from, &index, data, split, index));
    const pf_document *document = &from->documents[from->plans[split].documents[index]];
    if (data->shards && !data->fasta) PF_TRY(pf_shards_hold(data, document->first, document->n));
    int64_t n = pf_document_size(data, document);
    PF_TRY(pf_tensor_make_lasting(ids, data->heap, PF_I32, 1, &n));
    int32_t *out = pf_i32(*ids);
    for (int64_t i = 0; i < n; i++) out[i] = pf_data_token(from, document, i);
    if (name) *name = from->names + document->name;
    return PF_OK;
}

/* ---- counts ---- */

/* Adds what positions from .. to-1 of a document predict. */
static void count_stretch(const pf_data *data, const pf_document *document, int64_t from,
                          int64_t to, double *unigram, double *bigram) {
    size_t size = (size_t)data->vocab->size;
    for (int64_t i = from; i < to; i++) {
        size_t a = (size_t)pf_data_token(data, document, i);
        size_t b = (size_t)pf_data_token(data, document, i + 1);
        if (unigram) unigram[b]++;
        if (bigram) bigram[a * size + b]++;
    }
}

/* Text of shards comes in stretches. */
static int count_document(pf_data *data, const pf_document *document, double *unigram,
                          double *bigram) {
    enum { STRETCH = 1 << 16 };
    int64_t n = pf_document_size(data, document) - 1, step = data->shards ? STRETCH : n;
    for (int64_t i = 0; i < n; i += step) {
        int64_t end = pf_min(n, i + step);
        if (data->shards) PF_TRY(pf_shards_hold(data, document->first + i, end + 1 - i));
        count_stretch(data, document, i, end, unigram, bigram);
    }
    return PF_OK;
}

static int count_split(pf_data *data, pf_split split, double *unigram, double *bigram) {
    const pf_plan *plan = &data->plans[split];
    for (int64_t d = 0; d < plan->n_documents; d++)
        PF_TRY(count_document(data, &data->documents[plan->documents[d]], unigram, bigram));
    return PF_OK;
}

PF_API int pf_data_counts(const pf_data *data, pf_split split, double *unigram, double *bigram) {
    PF_NEED(data);
    PF_TRY(pf_data_check_split(data, split));
    pf_data *own = (pf_data *)data; /* what it holds of shards changes, and nothing else */
    size_t size = (size_t)data->vocab->size;
    if (unigram) memset(unigram, 0, size * sizeof *unigram);
    if (bigram) memset(bigram, 0, size * size * sizeof *bigram);
    if (!data->shards || !data->fasta) return count_split(own, split, unigram, bigram);
    for (int64_t b = 0; b < data->shards->n_blocks; b++) {
        pf_data *part;
        PF_TRY(pf_shards_part(&part, own, b));
        PF_TRY(count_split(part, split, unigram, bigram));
    }
    return PF_OK;
}
