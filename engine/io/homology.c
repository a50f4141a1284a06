/*
 * homology.c - clusters of sequences that are alike, as Linclust finds them (Steinegger and Soeding
 * 2018): of all sequences that have a word in common (kmers.h), each is held against the longest,
 * and against the next longer one. A pair that goes on well without gaps is aligned; those whose
 * alignment is good enough are linked, and what is linked, also by way of others, is one cluster.
 * So the time is linear in the residues. What must hold: clusters depend on the sequences alone,
 * not on their order or their files, but for which of two equally long and equal ones comes first.
 */
#include "homology.h"

#include "align.h"
#include "kmers.h"
#include "sort.h"

#define SPAN     0.5  /* of the shorter sequence that an alignment has to span */
#define BY_LUCK  1e-3 /* alignments as good, by chance, of a sequence with all others */
#define UNGAPPED 55   /* score from which it is worth aligning */

enum { MEMORY = 1 << 16 }; /* pairs that are remembered not to be alike */

typedef struct {
    pf_data *data;
    double identity, residues;
    pf_aligner *aligner;
    int64_t *order;   /* documents, the longest first */
    uint32_t *parent; /* by place in `order`: union-find, the root is the first of the cluster */
    uint64_t *unlike; /* (MEMORY): pairs that were aligned in vain, the last ones */
} clustering;

/* ---- clusters ---- */

static uint32_t root_of(clustering *c, uint32_t i) {
    while (c->parent[i] != i) i = c->parent[i] = c->parent[c->parent[i]];
    return i;
}

static void join(clustering *c, uint32_t a, uint32_t b) {
    if (a < b)
        c->parent[b] = a;
    else
        c->parent[a] = b;
}

static pf_residues residues_of(const clustering *c, uint32_t i) {
    const pf_document *d = &c->data->documents[c->order[i]];
    return (pf_residues){c->data->tokens + d->first, d->n};
}

/* a is the shorter one. */
static bool is_alike(const clustering *c, const pf_residues *a, const pf_residues *b, int64_t at_a,
                     int64_t at_b) {
    double chance = pf_align_score_by_chance((double)a->n, c->residues, 1 / BY_LUCK);
    pf_alignment found;
    pf_align_banded(&found, c->aligner, a, b, at_a, at_b, chance);
    return found.score >= chance && found.matches >= c->identity * found.columns &&
           (double)found.span >= SPAN * (double)a->n;
}

/* x is a word of the longer sequence. */
static int compare(clustering *c, const pf_kmer *x, const pf_kmer *y) {
    uint32_t root_x = root_of(c, x->sequence), root_y = root_of(c, y->sequence);
    if (root_x == root_y) return PF_OK;
    pf_residues b = residues_of(c, x->sequence), a = residues_of(c, y->sequence);
    PF_TRY(pf_aligner_status(c->aligner));
    if (pf_align_extend(c->aligner, &a, &b, y->at, x->at) < UNGAPPED) return PF_OK;
    uint64_t pair = (uint64_t)x->sequence << 32 | y->sequence;
    uint64_t *known = &c->unlike[pair * 0x9E3779B97F4A7C15u >> 48];
    if (*known == pair) return PF_OK;
    bool alike = is_alike(c, &a, &b, y->at, x->at);
    PF_TRY(pf_aligner_status(c->aligner));
    if (alike)
        join(c, root_x, root_y);
    else
        *known = pair;
    return PF_OK;
}

/* Words come with their sequences, the longest first. */
static int compare_group(void *context, const pf_kmer *words, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        PF_TRY(compare(context, &words[0], &words[i]));
        if (i > 1) PF_TRY(compare(context, &words[i - 1], &words[i]));
    }
    return PF_OK;
}

/* ---- the longest first ---- */

typedef struct {
    int64_t n;
    uint64_t hash;
    int64_t document;
} ranked;

static int by_length(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->document < y->document ? -1 : 1;
}

static int rank(clustering *c, pf_engine *engine) {
    const pf_data *data = c->data;
    int64_t n = data->n_documents;
    ranked *list = pf_heap_alloc(data->heap, (size_t)n * sizeof *list);
    if (!list) return PF_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        list[i] = (ranked){data->documents[i].n, data->documents[i].hash[0], i};
    int status = pf_sort(engine, list, n, sizeof *list, by_length);
    for (int64_t i = 0; i < n; i++) c->order[i] = list[i].document;
    pf_heap_free(data->heap, list, (size_t)n * sizeof *list);
    return status;
}

/* ---- sides ---- */

/* A cluster by the place of its first sequence. */
typedef struct {
    uint64_t hash; /* of that sequence */
    uint32_t root, size;
} cluster;

static int by_hash(const void *a, const void *b) {
    const cluster *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->root < y->root ? -1 : 1;
}

static int list_clusters(clustering *c, pf_engine *engine, cluster *list) {
    int64_t n = c->data->n_documents, found = 0;
    for (int64_t i = 0; i < n; i++)
        list[i] = (cluster){c->data->documents[c->order[i]].hash[0], (uint32_t)i, 0};
    for (int64_t i = 0; i < n; i++) list[root_of(c, (uint32_t)i)].size++;
    for (int64_t i = 0; i < n; i++)
        if (list[i].size > 0) list[found++] = list[i];
    c->data->clusters = found;
    return pf_sort(engine, list, found, sizeof *list, by_hash);
}

/* Holds out clusters in the order of their hashes, as many as fit; at least the smallest. Their
 * sizes become 0. */
static void choose_valid(cluster *list, int64_t clusters, int64_t room) {
    int64_t smallest = 0, taken = 0;
    for (int64_t i = 0; i < clusters; i++) {
        if (list[i].size < list[smallest].size) smallest = i;
        if (taken + list[i].size > room) continue;
        taken += list[i].size;
        list[i].size = 0;
    }
    if (taken == 0) list[smallest].size = 0;
}

static void put_sides(clustering *c, cluster *list) {
    pf_data *data = c->data;
    int64_t n = data->n_documents, clusters = data->clusters;
    choose_valid(list, clusters, (int64_t)(data->valid_fraction * (double)n + 0.5));
    for (int64_t i = 0; i < n; i++) data->documents[i].split = PF_TRAIN;
    for (int64_t i = 0; i < clusters; i++)
        if (list[i].size == 0) data->documents[c->order[list[i].root]].split = PF_VALID;
    for (int64_t i = 0; i < n; i++)
        data->documents[c->order[i]].split =
            data->documents[c->order[root_of(c, (uint32_t)i)]].split;
}

static int set_sides(clustering *c, pf_engine *engine) {
    pf_data *data = c->data;
    int64_t n = data->n_documents;
    cluster *list = pf_heap_alloc(data->heap, (size_t)n * sizeof *list);
    if (!list) return PF_ENOMEM;
    int status = list_clusters(c, engine, list);
    if (status >= 0) put_sides(c, list);
    pf_heap_free(data->heap, list, (size_t)n * sizeof *list);
    if (status < 0) return status;
    int64_t clusters = data->clusters;
    if (clusters > 1 || n < 2) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s: all of its %lld sequences are alike (option identity), so none "
                   "can be held out that is unlike the others",
                   pf_data_path(data), (long long)n);
}

/* ---- the call ---- */

static int find_clusters(clustering *c, pf_engine *engine) {
    int64_t n = c->data->n_documents;
    for (int64_t i = 0; i < n; i++) {
        c->residues += (double)c->data->documents[i].n;
        c->parent[i] = (uint32_t)i;
    }
    PF_TRY(rank(c, engine));
    PF_TRY(pf_kmers_each(c->data, engine, c->order, n, compare_group, c));
    return set_sides(c, engine);
}

int pf_data_split_homology(pf_data *data, pf_engine *engine, double identity) {
    int64_t n = data->n_documents;
    if (n > UINT32_MAX)
        return pf_fail(PF_EINVAL, "data: %lld sequences are too many to be clustered",
                       (long long)n);
    clustering c = {.data = data, .identity = identity};
    size_t bytes = (size_t)n * (sizeof *c.order + sizeof *c.parent) + MEMORY * sizeof *c.unlike;
    void *block = pf_heap_zalloc(data->heap, bytes);
    if (!block) return PF_ENOMEM;
    c.order = block;
    c.unlike = (uint64_t *)(c.order + n);
    c.parent = (uint32_t *)(c.unlike + MEMORY);
    int status = pf_aligner_open(&c.aligner, engine);
    if (status >= 0) status = find_clusters(&c, engine);
    pf_aligner_close(&c.aligner);
    pf_heap_free(data->heap, block, bytes);
    return status;
}
