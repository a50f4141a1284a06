/*
 * nearest.c - how near the validation part of a set of proteins is to its training part: for each
 * sequence that is held out, the training sequences that go on best without gaps from a common word
 * (kmers.h) are aligned, and the nearest counts: its equal residues over the length of the shorter
 * of the two. What is as good by chance is none.
 */
#include <stdlib.h>
#include <string.h>

#include "align.h"
#include "kmers.h"
#include "shards.h"
#include "sort.h"

#define BY_LUCK 1e-3 /* alignments as good, by chance, of a sequence with all others */

enum {
    CANDIDATES = 12, /* of a sequence, that are aligned */
    WORDS = 64,      /* training sequences of a group that are looked at */
    BARS = 10
};

typedef struct {
    uint32_t sequence, at, own_at; /* a training sequence, and where both have the word */
    int score;                     /* without gaps */
} candidate;

typedef struct {
    const pf_data *data;
    int64_t *order; /* documents: those held out, then those trained on */
    int64_t n_valid, n;
    double residues;
    pf_aligner *aligner;
    candidate *candidates; /* (n_valid, CANDIDATES), score 0: none */
    double *identity;      /* (n_valid) */
} search;

/* ---- candidates ---- */

static pf_residues residues_of(const search *s, int64_t i) {
    const pf_document *d = &s->data->documents[s->order[i]];
    return (pf_residues){s->data->tokens + d->first, d->n};
}

/* Takes the place of the worst one, or of the same sequence's. */
static void keep(search *s, const pf_kmer *valid, const pf_kmer *train, int score) {
    candidate *list = s->candidates + (int64_t)valid->sequence * CANDIDATES, *worst = list;
    for (int i = 0; i < CANDIDATES; i++) {
        if (list[i].score > 0 && list[i].sequence == train->sequence) {
            worst = &list[i];
            break;
        }
        if (list[i].score < worst->score) worst = &list[i];
    }
    if (score > worst->score) *worst = (candidate){train->sequence, train->at, valid->at, score};
}

/* Words of one group: those of sequences held out come first. */
static int look_at(void *context, const pf_kmer *words, int64_t n) {
    search *s = context;
    int64_t valid = 0;
    while (valid < n && words[valid].sequence < s->n_valid) valid++;
    int64_t step = pf_max(1, (n - valid) / WORDS);
    for (int64_t i = 0; i < valid; i++) {
        pf_residues a = residues_of(s, words[i].sequence);
        for (int64_t j = valid; j < n; j += step) {
            pf_residues b = residues_of(s, words[j].sequence);
            int score = pf_align_extend(s->aligner, &a, &b, words[i].at, words[j].at);
            keep(s, &words[i], &words[j], score);
            PF_TRY(pf_aligner_status(s->aligner));
        }
    }
    return PF_OK;
}

/* ---- the nearest ---- */

static double identity_of(const search *s, const pf_residues *a, const candidate *found) {
    pf_residues b = residues_of(s, found->sequence);
    double chance = pf_align_score_by_chance((double)a->n, s->residues, 1 / BY_LUCK);
    pf_alignment best;
    if (a->n <= b.n)
        pf_align_banded(&best, s->aligner, a, &b, found->own_at, found->at, chance);
    else
        pf_align_banded(&best, s->aligner, &b, a, found->at, found->own_at, chance);
    return best.score < chance ? 0 : (double)best.matches / (double)pf_min(a->n, b.n);
}

static double nearest(const search *s, int64_t i) {
    pf_residues a = residues_of(s, i);
    double best = 0;
    for (int c = 0; c < CANDIDATES; c++) {
        const candidate *found = &s->candidates[i * CANDIDATES + c];
        double identity = found->score > 0 ? identity_of(s, &a, found) : 0;
        if (identity > best) best = identity;
    }
    return best;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void sum_up(search *s, pf_identity_info *info) {
    double sum = 0;
    for (int64_t i = 0; i < s->n_valid; i++) {
        double identity = s->identity[i];
        sum += identity;
        info->unrelated += identity == 0;
        info->histogram[(int)pf_min(BARS - 1, (int64_t)(identity * BARS))]++;
    }
    qsort(s->identity, (size_t)s->n_valid, sizeof *s->identity, by_value);
    info->sequences = s->n_valid;
    info->mean = sum / (double)s->n_valid;
    info->median = (s->identity[(s->n_valid - 1) / 2] + s->identity[s->n_valid / 2]) / 2;
}

/* ---- which sequences ---- */

typedef struct {
    uint64_t hash;
    int64_t document;
} hashed;

static int by_hash(const void *a, const void *b) {
    const hashed *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->document < y->document ? -1 : 1;
}

/* The first n_valid of those held out by their hash, and all that are trained on. */
static int choose(search *s, pf_engine *engine) {
    const pf_data *data = s->data;
    const pf_plan *valid = &data->plans[PF_VALID], *train = &data->plans[PF_TRAIN];
    size_t bytes = (size_t)valid->n_documents * sizeof(hashed);
    hashed *list = pf_heap_alloc(data->heap, bytes);
    if (!list) return PF_ENOMEM;
    for (int64_t i = 0; i < valid->n_documents; i++)
        list[i] = (hashed){data->documents[valid->documents[i]].hash[0], valid->documents[i]};
    int status = pf_sort(engine, list, valid->n_documents, sizeof *list, by_hash);
    for (int64_t i = 0; i < s->n_valid; i++) s->order[i] = list[i].document;
    pf_heap_free(data->heap, list, bytes);
    PF_TRY(status);
    for (int64_t i = 0; i < train->n_documents; i++) {
        s->order[s->n_valid + i] = train->documents[i];
        s->residues += (double)data->documents[train->documents[i]].n;
    }
    return PF_OK;
}

static int run(search *s, pf_engine *engine, pf_identity_info *info) {
    PF_TRY(pf_aligner_open(&s->aligner, engine));
    PF_TRY(choose(s, engine));
    PF_TRY(pf_kmers_each(s->data, engine, s->order, s->n, look_at, s));
    for (int64_t i = 0; i < s->n_valid; i++) {
        PF_TRY(pf_progress_at(engine, "comparing sequences", i, s->n_valid));
        s->identity[i] = nearest(s, i);
        PF_TRY(pf_aligner_status(s->aligner));
    }
    sum_up(s, info);
    return PF_OK;
}

static int check(const pf_data *data) {
    if (!data->fasta || data->shards)
        return pf_fail(PF_EINVAL, "data: identity is between sequences in memory, and these are %s",
                       data->shards ? "shards" : "text");
    if (data->plans[PF_VALID].n_documents > 0 && data->plans[PF_TRAIN].n_documents > 0)
        return PF_OK;
    return pf_fail(PF_EINVAL, "data: identity is of a validation part to a training part, and one "
                              "of them is empty");
}

PF_API int pf_data_identity(const pf_data *data, pf_engine *engine, int64_t sample,
                            pf_identity_info *info) {
    PF_OPEN(engine);
    PF_NEED(data, info);
    PF_TRY(check(data));
    if (sample < 1)
        return pf_fail(PF_EINVAL, "data: identity: a sample of %lld", (long long)sample);
    pf_identity_info own = {0};
    search s = {.data = data, .n_valid = pf_min(sample, data->plans[PF_VALID].n_documents)};
    s.n = s.n_valid + data->plans[PF_TRAIN].n_documents;
    size_t bytes = (size_t)s.n * sizeof *s.order + (size_t)s.n_valid * sizeof *s.identity +
                   (size_t)s.n_valid * CANDIDATES * sizeof *s.candidates;
    void *block = pf_heap_zalloc(data->heap, bytes);
    if (!block) return PF_ENOMEM;
    s.order = block;
    s.identity = (double *)(s.order + s.n);
    s.candidates = (candidate *)(s.identity + s.n_valid);
    int status = run(&s, engine, &own);
    pf_aligner_close(&s.aligner);
    pf_heap_free(data->heap, block, bytes);
    return status < 0 ? status : pf_result_give(info, &own, sizeof own, "data");
}
