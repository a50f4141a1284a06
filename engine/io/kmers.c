/*
 * kmers.c - see kmers.h. Words are counted and placed (a counting sort) by a hash of so many bits
 * that there are about as many slots as words.
 */
#include "kmers.h"

#include <math.h>
#include <string.h>

enum { KINDS = 12, NONE = 255, SHORTEST = 5, LONGEST = 12, LOOK = 1 << 16 };

/* Residues that take each other's place often, by one letter (as MMseqs2 groups them). */
static const char *const KIND[KINDS] = {"AST", "C",  "DN", "EQ", "FY", "G",
                                        "H",   "IV", "KR", "LM", "P",  "W"};

typedef struct {
    const pf_data *data;
    const int64_t *order;
    int64_t n;
    uint8_t kind[256]; /* of an id, or NONE */
    int k;
    uint64_t mask;         /* of a word of k kinds, 4 bits each */
    int bits;              /* of a slot's number */
    uint64_t first, slots; /* the share that is gathered: slots first .. first+slots-1 */
    uint32_t *begin;       /* (slots + 1): where a slot's words begin; while they are placed, end */
    pf_kmer *words;
    int64_t capacity;
} gathering;

static void choose_kinds(gathering *g) {
    int16_t map[256];
    pf_vocab_map(g->data->vocab, map);
    memset(g->kind, NONE, sizeof g->kind);
    for (int i = 0; i < KINDS; i++)
        for (const char *c = KIND[i]; *c; c++) g->kind[map[(int)*c]] = (uint8_t)i;
}

/* Words so long that a few of the residues' words are equal by chance, and a slot for each. */
static void choose_length(gathering *g, int64_t residues) {
    double kinds = 1; /* of words */
    for (g->k = 0; g->k < SHORTEST || (kinds < (double)residues / 4 && g->k < LONGEST); g->k++)
        kinds *= KINDS;
    g->mask = ((uint64_t)1 << 4 * g->k) - 1;
    for (g->bits = 10; g->bits < 40 && (int64_t)1 << g->bits < residues; g->bits++) continue;
}

/* Goes over the words of the share: counts them, or puts them in their places. */
static int go_over(gathering *g, const pf_engine *engine, bool place) {
    for (int64_t i = 0; i < g->n; i++) {
        const pf_document *d = &g->data->documents[g->order[i]];
        const uint8_t *ids = g->data->tokens + d->first;
        uint64_t word = 0;
        int sound = 0; /* letters of the word that have a kind */
        for (int64_t at = 0; at < d->n; at++) {
            if (at % LOOK == 0) PF_TRY(pf_check_cancel(engine));
            uint8_t kind = g->kind[ids[at]];
            sound = kind == NONE ? 0 : sound + 1;
            word = (word << 4 | (kind & 15)) & g->mask;
            if (sound < g->k) continue;
            uint64_t slot = (word * 0x9E3779B97F4A7C15u >> (64 - g->bits)) - g->first;
            if (slot >= g->slots) continue;
            if (place)
                g->words[g->begin[slot]++] = (pf_kmer){(uint32_t)i, (uint32_t)(at + 1 - g->k)};
            else
                g->begin[slot + 1]++;
        }
    }
    return PF_OK;
}

/* Room for so many words; those that were there are gone. */
static int make_room(gathering *g, int64_t words) {
    if (words <= g->capacity) return PF_OK;
    if (g->words) pf_heap_free(g->data->heap, g->words, (size_t)g->capacity * sizeof *g->words);
    g->words = pf_heap_alloc(g->data->heap, (size_t)words * sizeof *g->words);
    g->capacity = g->words ? words : 0;
    return g->words ? PF_OK : PF_ENOMEM;
}

/* One share: begin[] counts, then says where each slot begins, and after placing where it ends. */
static int go_share(gathering *g, const pf_engine *engine, pf_kmers_fn f, void *context) {
    memset(g->begin, 0, (size_t)(g->slots + 1) * sizeof *g->begin);
    PF_TRY(go_over(g, engine, false));
    for (uint64_t slot = 0; slot < g->slots; slot++) g->begin[slot + 1] += g->begin[slot];
    PF_TRY(make_room(g, g->begin[g->slots]));
    PF_TRY(go_over(g, engine, true));
    int64_t begin = 0;
    for (uint64_t slot = 0; slot < g->slots; slot++) {
        int64_t end = g->begin[slot];
        if (slot % LOOK == 0) PF_TRY(pf_check_cancel(engine));
        if (end - begin > 1) PF_TRY(f(context, g->words + begin, end - begin));
        begin = end;
    }
    return PF_OK;
}

/* A share takes twice the room of the residues, or 64 MiB where that is more; half of what the
 * budget has left where that is less. */
static void choose_share(gathering *g, int64_t residues) {
    pf_heap *heap = g->data->heap;
    size_t budget = pf_heap_budget(heap), live = pf_heap_live(heap);
    double room = (double)pf_max(64 << 20, 2 * residues);
    if (budget > 0) room = fmin(room, budget > live ? (double)(budget - live) / 2 : 0);
    g->slots = (uint64_t)1 << g->bits;
    double all = (double)residues * sizeof *g->words + (double)g->slots * sizeof *g->begin;
    while (all > room && g->slots > 1024) g->slots /= 2, all /= 2;
}

int pf_kmers_each(const pf_data *data, const pf_engine *engine, const int64_t *order, int64_t n,
                  pf_kmers_fn f, void *context) {
    gathering g = {.data = data, .order = order, .n = n};
    int64_t residues = 0;
    for (int64_t i = 0; i < n; i++) residues += data->documents[order[i]].n;
    if (residues > UINT32_MAX)
        return pf_fail(PF_EINVAL, "data: sequences of %lld residues are too many to be compared",
                       (long long)residues);
    choose_kinds(&g);
    choose_length(&g, residues);
    choose_share(&g, residues);
    size_t bytes = (size_t)(g.slots + 1) * sizeof *g.begin;
    g.begin = pf_heap_alloc(data->heap, bytes);
    int status = g.begin ? PF_OK : PF_ENOMEM;
    for (; g.first < (uint64_t)1 << g.bits && status >= 0; g.first += g.slots) {
        status =
            pf_progress_at(engine, "comparing sequences", (int64_t)g.first, (int64_t)1 << g.bits);
        if (status >= 0) status = go_share(&g, engine, f, context);
    }
    if (g.begin) pf_heap_free(data->heap, g.begin, bytes);
    if (g.words) pf_heap_free(data->heap, g.words, (size_t)g.capacity * sizeof *g.words);
    return status;
}
