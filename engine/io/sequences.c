/*
 * sequences.c - the documents of FASTA files: duplicates are dropped or kept, in whatever file they
 * stand, and each sequence is put on the side of its hash, or of its file.
 */
#include <string.h>
#include <xxhash.h>

#include "data.h"

enum { LOOK = 1 << 16 }; /* documents between two looks at the cancel flag */

/* ---- duplicates ---- */

/* The slot of a sequence: where it stands, or where it would go. */
static int64_t *find_slot(const pf_data *data, const pf_sequence_set *set, const pf_document *d,
                          const uint8_t *ids) {
    int64_t at = (int64_t)(d->hash[1] & (uint64_t)(set->size - 1));
    for (; set->slots[at]; at = (at + 1) & (set->size - 1)) {
        const pf_document *other = &data->documents[set->slots[at] - 1];
        if (other->hash[0] == d->hash[0] && other->hash[1] == d->hash[1] && other->n == d->n &&
            memcmp(data->tokens + other->first, ids, (size_t)d->n) == 0)
            break;
    }
    return &set->slots[at];
}

static void set_free(pf_heap *heap, pf_sequence_set *set) {
    if (set->slots) pf_heap_free(heap, set->slots, (size_t)set->size * sizeof *set->slots);
    set->slots = NULL;
}

void pf_filling_close(pf_filling *filling) { set_free(filling->data->heap, &filling->set); }

/* Room for one document more; all that are there move to the new table. */
static int set_grow(const pf_data *data, const pf_engine *engine, pf_sequence_set *set) {
    if (set->slots && data->n_documents * 2 < set->size) return PF_OK;
    pf_sequence_set larger = {.size = pf_max(1024, set->size * 2)};
    larger.slots = pf_heap_zalloc(data->heap, (size_t)larger.size * sizeof *larger.slots);
    if (!larger.slots) return PF_ENOMEM;
    int status = PF_OK;
    for (int64_t i = 0; i < data->n_documents && status >= 0; i++) {
        const pf_document *d = &data->documents[i];
        *find_slot(data, &larger, d, data->tokens + d->first) = i + 1;
        if (i % LOOK == 0) status = pf_check_cancel(engine);
    }
    set_free(data->heap, status < 0 ? &larger : set);
    if (status >= 0) *set = larger;
    return status;
}

/* ---- records ---- */

/* Is this record, of which `other` is the first, to be left out? It counts as a copy, or as one
 * that is held out. */
static bool leave_copy(const pf_reading *r, const pf_filling *filling, pf_document *other) {
    bool held_out = r->apart && other->split == PF_VALID && !r->valid;
    if (held_out)
        filling->data->shared++;
    else if (filling->unique)
        other->copies++;
    return held_out || filling->unique;
}

/* Room for all letters of a file at once; where there is none, room grows with what comes. */
static void reserve(pf_data *data, const pf_input *input) {
    pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity,
                 data->n_tokens + pf_input_guess(input), 1);
}

int pf_data_add_sequence(pf_reading *r, const pf_fasta *fasta) {
    pf_filling *filling = r->to;
    pf_data *data = filling->data;
    XXH128_hash_t hash = XXH3_128bits(fasta->ids, (size_t)fasta->n);
    pf_document d = {.first = data->n_tokens,
                     .n = fasta->n,
                     .hash = {hash.low64, hash.high64},
                     .split = r->valid ? PF_VALID : PF_TRAIN};
    int64_t *slot = NULL;
    if (fasta->count == 1) reserve(data, fasta->input);
    if (filling->unique || r->apart) {
        PF_TRY(set_grow(data, fasta->input->source.engine, &filling->set));
        slot = find_slot(data, &filling->set, &d, fasta->ids);
        if (*slot && leave_copy(r, filling, &data->documents[*slot - 1])) return PF_OK;
    }
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity,
                        data->n_tokens + d.n, 1));
    PF_TRY(pf_data_keep_name(data, fasta->name, &d.name));
    PF_TRY(pf_data_add_document(data, &d));
    memcpy(data->tokens + d.first, fasta->ids, (size_t)d.n);
    data->n_tokens += d.n;
    if (slot && !*slot) *slot = data->n_documents;
    return PF_OK;
}

/* ---- the split ---- */

static int64_t count_valid(const pf_data *data) {
    int64_t n = 0;
    for (int64_t i = 0; i < data->n_documents; i++) n += data->documents[i].split == PF_VALID;
    return n;
}

/* A side that the hash left empty gets the sequence nearest to the border. */
static void mend_split(pf_data *data) {
    int64_t low = 0, high = 0, valid = count_valid(data), n = data->n_documents;
    for (int64_t i = 0; i < n; i++) {
        if (data->documents[i].hash[0] < data->documents[low].hash[0]) low = i;
        if (data->documents[i].hash[0] > data->documents[high].hash[0]) high = i;
    }
    if (n >= 2 && valid == 0) data->documents[low].split = PF_VALID;
    if (valid == n) data->documents[high].split = PF_TRAIN;
}

/* 2^64 is exact in a double, and the hash is uniform: its fraction is the split's. */
static void split_by_hash(pf_data *data) {
    double border = data->valid_fraction * 18446744073709551616.0;
    for (int64_t i = 0; i < data->n_documents; i++) {
        pf_document *d = &data->documents[i];
        d->split = (double)d->hash[0] < border ? PF_VALID : PF_TRAIN;
    }
    if (data->valid_fraction > 0) mend_split(data);
}

int pf_data_end_sequences(pf_data *data, pf_engine *engine) {
    if (data->shared > 0)
        pf_log(engine, PF_LOG_WARN,
               "%s: sequences that stand in the validation part as well are left out of training: "
               "%lld",
               pf_data_path(data), (long long)data->shared);
    if (data->apart && data->n_documents == count_valid(data))
        return pf_fail(PF_EFORMAT,
                       "%s: nothing is left to train on: all of its sequences stand in "
                       "the validation part",
                       pf_data_path(data));
    if (!data->apart) split_by_hash(data);
    return PF_OK;
}
