/*
 * sequences.c - the documents of a FASTA file: duplicates are dropped or kept, bad records are left
 * out and counted, and each sequence is put on the side of its hash.
 */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "data.h"
#include "fasta.h"

/* ---- duplicates ---- */

/* Open addressing over document numbers + 1 (0: free); at most half full. */
typedef struct {
    int64_t *slots;
    int64_t size; /* a power of two */
} sequence_set;

/* The slot of a sequence: where it stands, or where it would go. */
static int64_t *find_slot(const pf_data *data, const sequence_set *set, const pf_document *d,
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

static void set_free(pf_heap *heap, sequence_set *set) {
    if (set->slots) pf_heap_free(heap, set->slots, (size_t)set->size * sizeof *set->slots);
    set->slots = NULL;
}

/* Room for one document more; all that are there move to the new table. */
static int set_grow(const pf_data *data, sequence_set *set) {
    if (set->slots && data->n_documents * 2 < set->size) return PF_OK;
    sequence_set larger = {.size = pf_max(1024, set->size * 2)};
    larger.slots = pf_heap_zalloc(data->heap, (size_t)larger.size * sizeof *larger.slots);
    if (!larger.slots) return PF_ENOMEM;
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        *find_slot(data, &larger, d, data->tokens + d->first) = i + 1;
    }
    set_free(data->heap, set);
    *set = larger;
    return PF_OK;
}

/* ---- records ---- */

/* Adds the record that the reader holds, or counts it as a copy. set NULL: keep copies. */
static int add_sequence(pf_data *data, sequence_set *set, const pf_fasta *fasta) {
    XXH128_hash_t hash = XXH3_128bits(fasta->ids, (size_t)fasta->n);
    pf_document d = {.first = data->n_tokens, .n = fasta->n, .hash = {hash.low64, hash.high64}};
    int64_t *slot = NULL;
    if (set) {
        PF_TRY(set_grow(data, set));
        slot = find_slot(data, set, &d, fasta->ids);
        if (*slot) {
            data->documents[*slot - 1].copies++;
            return PF_OK;
        }
    }
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity,
                        data->n_tokens + d.n, 1));
    PF_TRY(pf_data_keep_name(data, fasta->name, &d.name));
    PF_TRY(pf_data_add_document(data, &d));
    memcpy(data->tokens + d.first, fasta->ids, (size_t)d.n);
    data->n_tokens += d.n;
    if (slot) *slot = data->n_documents;
    return PF_OK;
}

/* Counts a record that is left out; the first ones are named. */
static void leave_out(pf_data *data, const pf_fasta *fasta) {
    enum { NAMED = 3 };
    size_t at = strlen(data->skips), room = sizeof data->skips - at;
    const char *why = fasta->bad[0] ? fasta->bad : "has no residues";
    if (data->skipped++ >= NAMED) return;
    snprintf(data->skips + at, room, "%s'%.60s' in line %lld: %s", at > 0 ? "; " : "", fasta->name,
             (long long)(fasta->bad[0] ? fasta->bad_line : fasta->name_line), why);
}

/* Says what a careful reader would want to know of the file. */
static void remark(const pf_data *data, pf_engine *engine, int64_t records) {
    int64_t seen[256] = {0}, bases = 0;
    if (data->skipped > 0)
        pf_log(engine, PF_LOG_WARN, "%s: %lld of %lld records left out: %s%s", pf_data_path(data),
               (long long)data->skipped, (long long)records, data->skips,
               data->skipped > 3 ? "; ..." : "");
    for (int64_t i = 0; i < data->n_tokens; i++) seen[data->tokens[i]]++;
    int16_t map[256];
    pf_vocab_map(data->vocab, map);
    for (const char *c = "ACGTUN"; *c; c++) bases += seen[map[(unsigned char)*c]];
    if (data->n_tokens > 0 && bases == data->n_tokens)
        pf_log(engine, PF_LOG_WARN, "%s: only letters of DNA or RNA; they are read as residues",
               pf_data_path(data));
}

static int read_records(pf_data *data, pf_fasta *fasta, sequence_set *set) {
    int more = 1;
    while (more > 0) {
        more = pf_fasta_next(fasta);
        if (more > 0 && (fasta->n == 0 || fasta->bad[0]))
            leave_out(data, fasta);
        else if (more > 0)
            PF_TRY(add_sequence(data, set, fasta));
    }
    return more;
}

static int no_sequences(const pf_data *data, const pf_fasta *fasta) {
    return pf_fail(PF_EFORMAT, "%s: no sequences: none of %lld records can be read: %s%s",
                   pf_data_path(data), (long long)fasta->count, data->skips,
                   fasta->guessed ? "; for plain text say format = \"text\"" : "");
}

/* ---- the split ---- */

/* A side that the hash left empty gets the sequence nearest to the border. */
static void mend_split(pf_data *data) {
    int64_t low = 0, high = 0, valid = 0, n = data->n_documents;
    for (int64_t i = 0; i < n; i++) {
        valid += data->documents[i].split == PF_VALID;
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

int pf_data_read_sequences(pf_data *data, pf_input *input, const pf_reading *how) {
    pf_fasta fasta;
    sequence_set set = {0};
    pf_fasta_begin(&fasta, input, data->vocab);
    fasta.longest = how->longest;
    fasta.skip_bad = how->skip_bad;
    fasta.guessed = how->guessed;
    /* Room for all letters at once; where there is none, room grows with what comes. */
    pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity, pf_input_guess(input),
                 1);
    int status = read_records(data, &fasta, how->unique ? &set : NULL);
    if (status >= 0 && data->n_documents == 0) status = no_sequences(data, &fasta);
    if (status >= 0) remark(data, input->source.engine, fasta.count);
    pf_fasta_end(&fasta);
    set_free(data->heap, &set);
    if (status >= 0) split_by_hash(data);
    return status;
}
