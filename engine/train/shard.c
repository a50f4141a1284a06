/*
 * shard.c - see shard.h. What must hold: the deal follows from the model, the rule and the number
 * of ranks alone, so that all ranks have the same without a word; and nothing of it is in a file.
 */
#include "shard.h"

#include <string.h>

/* ---- dealing ---- */

/* Which entries go as whole matrices, and to whom: the largest first, each to who has least yet. */
static void deal_whole(const pf_optimizer *o, int ranks, int *owner, int64_t *load) {
    for (int i = 0; i < o->n; i++) owner[i] = -1;
    for (;;) {
        int most = -1, least = 0;
        for (int i = 0; i < o->n; i++) {
            const pf_entry *p = &o->entry[i];
            if (!p->dealt || !p->whole || owner[i] >= 0) continue;
            if (most < 0 || pf_tensor_numel(p->param) > pf_tensor_numel(o->entry[most].param))
                most = i;
        }
        if (most < 0) return;
        for (int r = 1; r < ranks; r++)
            if (load[r] < load[least]) least = r;
        owner[most] = least;
        load[least] += pf_tensor_numel(o->entry[most].param);
    }
}

/* edge (ranks + 1) <- where the shares of n numbers begin: each rank has as many blocks of every
 * parameter, so that all have a part of whatever is summed or moved at a time; and what is left
 * goes to who has least yet, one block each. */
static void deal_blocks(int64_t n, int ranks, int64_t *load, int64_t *edge) {
    const int64_t blocks = pf_ceil_div(n, PF_NORM_BLOCK);
    for (int r = 0; r < ranks; r++) edge[r + 1] = blocks / ranks;
    for (int64_t i = blocks % ranks; i > 0; i--) {
        int least = -1;
        for (int r = 0; r < ranks; r++)
            if (edge[r + 1] == blocks / ranks && (least < 0 || load[r] < load[least])) least = r;
        edge[least + 1]++;
    }
    edge[0] = 0;
    for (int r = 0; r < ranks; r++) {
        edge[r + 1] = pf_min(n, edge[r] + edge[r + 1] * PF_NORM_BLOCK);
        load[r] += edge[r + 1] - edge[r];
    }
}

/* edge (entries, ranks + 1). */
static void deal_edges(const pf_optimizer *o, int ranks, int *owner, int64_t *load, int64_t *edge) {
    deal_whole(o, ranks, owner, load);
    for (int i = 0; i < o->n; i++) {
        const pf_entry *p = &o->entry[i];
        int64_t *own = edge + (int64_t)i * (ranks + 1);
        if (!p->dealt) continue;
        if (p->whole)
            for (int r = 0; r <= ranks; r++) own[r] = r > owner[i] ? pf_tensor_numel(p->param) : 0;
        else
            deal_blocks(pf_tensor_numel(p->param), ranks, load, own);
    }
}

/* Rank r's stretches, in walk order. */
static int deal_rank(const pf_optimizer *o, pf_deal *deal, const int64_t *edge, int r) {
    for (int i = 0; i < o->n; i++, edge += deal->ranks + 1) {
        pf_entry *p = &o->entry[i];
        if (!p->dealt) continue;
        const int64_t first = edge[r], n = edge[r + 1] - edge[r];
        if (r == deal->rank) p->own_first = first, p->own = n;
        if (n > 0) PF_TRY(pf_deal_add(deal, r, (pf_stretch){i, first, n}));
    }
    return PF_OK;
}

static int deal_all(const pf_optimizer *o, pf_deal *deal) {
    const size_t ranks = (size_t)deal->ranks, n = (size_t)o->n;
    const size_t bytes = (ranks + n * (ranks + 1)) * sizeof(int64_t) + n * sizeof(int);
    int64_t *load = pf_heap_zalloc(o->heap, bytes);
    if (!load) return PF_ENOMEM;
    int64_t *edge = load + ranks;
    int status = PF_OK;
    deal_edges(o, deal->ranks, (int *)(edge + n * (ranks + 1)), load, edge);
    for (int r = 0; r < deal->ranks && status >= 0; r++) status = deal_rank(o, deal, edge, r);
    pf_heap_free(o->heap, load, bytes);
    return status;
}

/* Lists of entries, behind the shard. */
static size_t block_of(const pf_optimizer *o) {
    return sizeof(struct pf_shard) +
           (size_t)o->n * (sizeof(float *) + PF_KEPT_MAX * sizeof(pf_tensor *) + 1);
}

int pf_shard_make(pf_optimizer *o, pf_engine *e) {
    const bool several = pf_comm_ranks(e) > 1;
    for (int i = 0; i < o->n; i++) {
        o->entry[i].own = pf_tensor_numel(o->entry[i].param);
        o->entry[i].dealt = several && !o->entry[i].touched;
    }
    if (!several) return PF_OK;
    struct pf_shard *s = o->shard = pf_heap_zalloc(o->heap, block_of(o));
    if (!s) return PF_ENOMEM;
    s->engine = pf_engine_retain(e);
    s->array = (float **)(s + 1);
    s->whole = (pf_tensor **)(s->array + o->n);
    s->in = (char *)(s->whole + (size_t)o->n * PF_KEPT_MAX);
    PF_TRY(pf_deal_open(&s->deal, e, o->n));
    return deal_all(o, s->deal);
}

void pf_shard_forget(const pf_optimizer *o) {
    if (!o->shard) return;
    for (int i = 0; i < o->n * PF_KEPT_MAX; i++) pf_tensor_release(&o->shard->whole[i]);
    o->shard->gathered = false;
}

void pf_shard_close(pf_optimizer *o) {
    struct pf_shard *s = o->shard;
    if (!s) return;
    pf_shard_forget(o);
    pf_deal_close(&s->deal);
    if (s->aside) pf_heap_free(o->heap, s->aside, (size_t)s->n_aside * sizeof *s->aside);
    pf_engine_release(&s->engine);
    pf_heap_free(o->heap, s, block_of(o));
    o->shard = NULL;
}

int pf_shard_check(const pf_optimizer *o, const pf_engine *e) {
    int ranks = o->shard ? o->shard->deal->ranks : 1, now = pf_comm_ranks(e);
    if (ranks == now && (!o->shard || o->shard->deal->rank == pf_comm_rank(e))) return PF_OK;
    return pf_fail(PF_ESTATE,
                   "optimizer: it was made for %d ranks, and the engine has %d: each keeps a part "
                   "of what it remembers; load it from a checkpoint where the ranks are",
                   ranks, now);
}

/* ---- the norm ---- */

/* The blocks of dealt gradients rank by rank, and then those that each rank sums itself. */
typedef struct {
    pf_norm norm;
    int *place; /* of an entry in the list of gradients, or -1 */
    int64_t *block, dealt, own_first, own;
    double *sum;   /* of dealt blocks */
    size_t *bytes; /* of each rank's sums */
    size_t room;   /* of all lists, in one block */
} measure;

static int open_measure(measure *m, const pf_optimizer *o, pf_engine *e, pf_tensor *const *grads,
                        const int *owner, int n) {
    const size_t ranks = (size_t)o->shard->deal->ranks;
    PF_TRY(pf_norm_open(&m->norm, e, grads, n));
    const size_t blocks = (size_t)m->norm.first[n];
    m->room = blocks * (sizeof *m->block + sizeof *m->sum) + ranks * sizeof *m->bytes +
              (size_t)o->n * sizeof *m->place;
    m->block = pf_heap_zalloc(e->heap, m->room);
    if (!m->block) return PF_ENOMEM;
    m->sum = (double *)(m->block + blocks);
    m->bytes = (size_t *)(m->sum + blocks);
    m->place = (int *)(m->bytes + ranks);
    for (int i = 0; i < o->n; i++) m->place[i] = -1;
    for (int i = 0; i < n; i++) m->place[owner[i]] = i;
    return PF_OK;
}

static void close_measure(measure *m, pf_engine *e) {
    if (m->block) pf_heap_free(e->heap, m->block, m->room);
    pf_norm_close(&m->norm, e);
}

/* Whose blocks are whose. */
static void list_blocks(measure *m, const pf_deal *deal) {
    for (int r = 0; r < deal->ranks; r++) {
        int64_t before = m->dealt;
        for (int64_t i = deal->from[r]; i < deal->from[r + 1]; i++) {
            const pf_stretch *s = &deal->stretch[i];
            int64_t end = pf_ceil_div(s->first + s->n, PF_NORM_BLOCK);
            for (int64_t b = s->first / PF_NORM_BLOCK; b < end && m->place[s->array] >= 0; b++)
                m->block[m->dealt++] = m->norm.first[m->place[s->array]] + b;
        }
        m->bytes[r] = (size_t)(m->dealt - before) * sizeof *m->sum;
        if (r == deal->rank) m->own_first = before, m->own = m->dealt - before;
    }
}

/* Blocks of gradients that all ranks have whole, behind the others; how many. */
static int64_t list_common(const measure *m, const pf_optimizer *o, const int *owner) {
    int64_t n = m->dealt;
    for (int i = 0; i < m->norm.n; i++)
        for (int64_t b = m->norm.first[i]; b < m->norm.first[i + 1] && !o->entry[owner[i]].dealt;
             b++)
            m->block[n++] = b;
    return n - m->dealt;
}

static int sum_own(measure *m, const pf_optimizer *o, pf_engine *e, const int *owner) {
    list_blocks(m, o->shard->deal);
    PF_TRY(pf_norm_sum(&m->norm, e, m->block + m->own_first, m->own));
    for (int64_t i = m->own_first; i < m->own_first + m->own; i++)
        m->sum[i] = m->norm.sums[m->block[i]];
    return pf_norm_sum(&m->norm, e, m->block + m->dealt, list_common(m, o, owner));
}

int pf_shard_norm(const pf_optimizer *o, pf_engine *e, int status, pf_tensor *const *grads,
                  const int *owner, int n, double more, double *norm, int *bad) {
    measure m = {0};
    if (!o->shard) return status < 0 ? status : pf_grad_norm(e, grads, n, more, norm, bad);
    if (status >= 0) status = open_measure(&m, o, e, grads, owner, n);
    if (status >= 0) status = sum_own(&m, o, e, owner);
    status = pf_comm_collect_all(e, status, m.sum ? m.sum + m.own_first : NULL, m.bytes, m.sum);
    PF_HOLDS(m.sum || status < 0);
    for (int64_t i = 0; i < m.dealt && status >= 0; i++) m.norm.sums[m.block[i]] = m.sum[i];
    if (status >= 0) *norm = pf_norm_tell(&m.norm, more, bad);
    close_measure(&m, e);
    return status;
}

/* ---- parameters from their owners ---- */

int pf_shard_ready(const pf_optimizer *o, pf_engine *e) {
    return o->shard ? pf_deal_ready(o->shard->deal, e) : PF_OK;
}

static int spread(const pf_optimizer *o, pf_engine *e, const char *in) {
    const struct pf_shard *s = o->shard;
    for (int i = 0; i < o->n; i++) s->array[i] = pf_f32(o->entry[i].param);
    return pf_deal_spread(s->deal, e, in, s->array);
}

int pf_shard_spread(const pf_optimizer *o, pf_engine *e, const int *owner, int n) {
    if (!o->shard) return PF_OK;
    memset(o->shard->in, 0, (size_t)o->n);
    for (int i = 0; i < n; i++) o->shard->in[owner[i]] = 1;
    return spread(o, e, o->shard->in);
}

int pf_shard_spread_all(const pf_optimizer *o, pf_engine *e) {
    return o->shard ? spread(o, e, NULL) : PF_OK;
}
