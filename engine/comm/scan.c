/*
 * scan.c - the scans of scan.h. With a leaf for each rank they go over a hypercube: in round k a
 * rank trades what its node of 2^k leaves is together with the rank whose number differs in bit k.
 * With fewer ranks the leaves are collected, and each rank does what one alone does.
 *
 * What must hold: the joins of a leaf's entry, and their order, are those of pf_scan_before and
 * pf_scan_push, on whatever rank they are made.
 */
#include "scan.h"

#include <stdio.h>
#include <string.h>

#include "exchange.h"
#include "tree.h"

/* ---- leaf after leaf ---- */

int pf_scan_before(const pf_scan *s, void *entry) {
    for (int i = s->n - 1; i >= 0; i--) {
        if (i == s->n - 1)
            memcpy(entry, s->node[i], s->monoid->bytes);
        else
            PF_TRY(s->monoid->join(s->monoid->context, s->engine, entry, s->node[i]));
    }
    return PF_OK;
}

static int add_node(pf_scan *s) {
    if (s->n == PF_SCAN_NODES) return pf_fail(PF_EINVAL, "scan: more than 2^31 leaves");
    s->node[s->n] = pf_heap_alloc(s->engine->heap, s->monoid->bytes);
    if (!s->node[s->n]) return PF_ENOMEM;
    s->n++;
    return PF_OK;
}

static void drop_node(pf_scan *s, int i) {
    pf_heap_free(s->engine->heap, s->node[i], s->monoid->bytes);
    s->node[i] = NULL;
}

int pf_scan_push(pf_scan *s, const void *leaf) {
    PF_TRY(add_node(s));
    memcpy(s->node[s->n - 1], leaf, s->monoid->bytes);
    for (int64_t halves = s->count++; halves & 1; halves >>= 1) {
        void *later = s->node[s->n - 1];
        PF_TRY(s->monoid->join(s->monoid->context, s->engine, later, s->node[s->n - 2]));
        drop_node(s, s->n - 2);
        s->node[s->n - 2] = later;
        s->node[--s->n] = NULL;
    }
    return PF_OK;
}

int pf_scan_expect(pf_scan *s, int64_t count) {
    s->count = count;
    for (; count > 0; count &= count - 1) PF_TRY(add_node(s));
    return PF_OK;
}

void pf_scan_close(pf_scan *s) {
    for (int i = 0; i < s->n; i++) drop_node(s, i);
    s->n = 0, s->count = 0;
}

/* ---- one rank that has all leaves ---- */

static const char *leaf_at(const pf_monoid *m, const void *all, int64_t i) {
    return (const char *)all + (size_t)i * m->bytes;
}

/* entry <- what stands before the leaves first .. last - 1 of `all`; back: behind them. */
static int scan_alone(pf_engine *e, const pf_monoid *m, int leaves, const void *all, int first,
                      int last, char *entry, bool back) {
    pf_scan scan = {.engine = e, .monoid = m};
    int status = PF_OK;
    for (int k = 0; k < leaves && status >= 0; k++) {
        int s = back ? leaves - 1 - k : k;
        if (back ? s < first : s >= last) break;
        if (s >= first && s < last)
            status = pf_scan_before(&scan, entry + (size_t)(s - first) * m->bytes);
        if (status >= 0) status = pf_scan_push(&scan, leaf_at(m, all, s));
    }
    pf_scan_close(&scan);
    return status;
}

/* ---- a leaf for each rank ---- */

/* What a rank's node is together, what its partner's is, and what stands before the rank. */
typedef struct {
    pf_engine *e;
    const pf_monoid *m;
    char *total, *theirs, *entry;
    bool any; /* something stands before it */
} cube;

static int trade(cube *c, int partner) {
    pf_message out = {partner, c->total, c->m->bytes}, in = {partner, c->theirs, c->m->bytes};
    return pf_comm_exchange(c->e, PF_VERB_SCAN, &out, 1, &in, 1);
}

/* The partner's node has come. before: it is the half that lies before ours. */
static int take_half(cube *c, bool before) {
    void *context = c->m->context;
    PF_HOLDS(c->entry);
    if (!before) {
        PF_TRY(c->m->join(context, c->e, c->theirs, c->total));
        char *held = c->total;
        c->total = c->theirs, c->theirs = held;
        return PF_OK;
    }
    if (c->any)
        PF_TRY(c->m->join(context, c->e, c->entry, c->theirs));
    else
        memcpy(c->entry, c->theirs, c->m->bytes);
    c->any = true;
    return c->m->join(context, c->e, c->total, c->theirs);
}

static int walk_cube(cube *c, int ranks, int rank, bool back) {
    int place = back ? ranks - 1 - rank : rank;
    for (int k = 1; k < ranks; k <<= 1) {
        int partner = place ^ k;
        if (partner >= ranks) continue;
        PF_TRY(trade(c, back ? ranks - 1 - partner : partner));
        PF_TRY(take_half(c, partner < place));
    }
    return PF_OK;
}

/* Nobody leaves a verb alone: between the two nothing stops a join, and what fails all the same
 * ends the talk. */
static void stay(pf_engine *e) { e->shield++; }
static int stayed(pf_engine *e, int status) {
    e->shield--;
    return status < 0 ? pf_comm_break(e->comm, status) : PF_OK;
}

static int scan_cube(pf_engine *e, int status, const pf_monoid *m, const void *own, void *entry,
                     bool back) {
    char *room = pf_heap_alloc(e->heap, 2 * m->bytes);
    if (status >= 0 && !room) status = PF_ENOMEM;
    status = pf_comm_agree(e, status);
    if (status >= 0) {
        PF_HOLDS(room);
        cube c = {.e = e, .m = m, .total = room, .theirs = room + m->bytes, .entry = entry};
        memcpy(room, own, m->bytes);
        stay(e);
        status = stayed(e, walk_cube(&c, e->comm->ranks, e->comm->rank, back));
    }
    if (room) pf_heap_free(e->heap, room, 2 * m->bytes);
    return status;
}

/* ---- fewer ranks than leaves ---- */

static int scan_collected(pf_engine *e, int status, const pf_monoid *m, int leaves, const void *own,
                          void *entry, bool back) {
    int ranks = pf_comm_ranks(e), first, last;
    size_t bytes = (size_t)leaves * m->bytes, list = (size_t)ranks * sizeof(size_t);
    char *all = pf_heap_alloc(e->heap, bytes);
    size_t *each = pf_heap_alloc(e->heap, list);
    if (status >= 0 && (!all || !each)) status = PF_ENOMEM;
    for (int r = 0; r < ranks && each; r++) {
        pf_lanes_of(leaves, ranks, r, &first, &last);
        each[r] = (size_t)(last - first) * m->bytes;
    }
    status = pf_comm_collect_all(e, status, own, each, all);
    pf_lanes_of(leaves, ranks, pf_comm_rank(e), &first, &last);
    if (status >= 0) {
        stay(e);
        status = stayed(e, scan_alone(e, m, leaves, all, first, last, entry, back));
    }
    if (all) pf_heap_free(e->heap, all, bytes);
    if (each) pf_heap_free(e->heap, each, list);
    return status;
}

static int check_leaves(int leaves, int ranks) {
    if (leaves >= ranks && leaves < 1 << 16) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "scan over ranks: %d leaves for %d ranks; there must be at least as many, and "
                   "fewer than 65536",
                   leaves, ranks);
}

int pf_comm_scan(pf_engine *e, int status, const pf_monoid *m, int leaves, const void *own,
                 void *entry, bool back) {
    int ranks = pf_comm_ranks(e);
    if (status >= 0) status = check_leaves(leaves, ranks);
    if (e->comm && leaves == ranks) return scan_cube(e, status, m, own, entry, back);
    if (e->comm) return scan_collected(e, status, m, leaves, own, entry, back);
    PF_TRY(status);
    return scan_alone(e, m, leaves, own, 0, leaves, entry, back);
}

int pf_comm_total(pf_engine *e, int status, const pf_monoid *m, int leaves, const void *own,
                  void *total) {
    int ranks = pf_comm_ranks(e), first, last;
    pf_lanes_of(leaves, ranks, pf_comm_rank(e), &first, &last);
    size_t bytes = (size_t)pf_max(last - first, 1) * m->bytes;
    char *entry = pf_heap_alloc(e->heap, bytes);
    if (status >= 0 && !entry) status = PF_ENOMEM;
    status = pf_comm_scan(e, status, m, leaves, own, entry, false);
    const bool scanned = status >= 0; /* else all know */
    if (scanned && last == leaves) {
        const void *before = leaf_at(m, entry, last - first - 1);
        memcpy(total, leaf_at(m, own, last - first - 1), m->bytes);
        stay(e); /* the others come to the share */
        status = leaves > 1 ? m->join(m->context, e, total, before) : PF_OK;
        e->shield--;
    }
    if (entry) pf_heap_free(e->heap, entry, bytes);
    return scanned ? pf_comm_share(e, status, ranks - 1, total, m->bytes) : status;
}

/* ---- neighbours ---- */

int pf_comm_pass(pf_engine *e, int to, const void *const *out, int n_out, int from, void *const *in,
                 int n_in, size_t bytes) {
    pf_message sent[PF_SCAN_NODES], come[PF_SCAN_NODES];
    pf_comm *comm = e->comm;
    if (!comm || comm->broken < 0)
        return pf_fail(comm ? comm->broken : PF_ESTATE, "%s", comm ? comm->why : "pass: one rank");
    if (to < 0) n_out = 0;
    if (from < 0) n_in = 0;
    for (int i = 0; i < n_out; i++) sent[i] = (pf_message){to, (void *)(uintptr_t)out[i], bytes};
    for (int i = 0; i < n_in; i++) come[i] = (pf_message){from, in[i], bytes};
    if (n_out + n_in == 0) return PF_OK;
    int status = pf_comm_room(e, 2 * PF_SCAN_NODES);
    if (status < 0) return pf_comm_break(comm, status);
    return pf_comm_exchange(e, PF_VERB_PASS, sent, n_out, come, n_in);
}

void pf_comm_pass_failure(pf_engine *e, int status) {
    pf_comm *comm = e->comm;
    pf_comm_note own = {.status = status};
    if (!comm || comm->passed) return;
    if (comm->broken >= 0) {
        pf_fail_in(status, "%s", pf_comm_name(comm, comm->rank));
        comm->told = comm->known = true;
        pf_comm_break(comm, status);
    }
    comm->passed = true;
    snprintf(own.text, sizeof own.text, "%.*s", (int)sizeof own.text - 1, comm->why);
    for (int to = 0; to < comm->ranks; to++) {
        pf_message out = {to, &own, sizeof own};
        if (to != comm->rank && comm->held == 0) /* else the legs are the transport's */
            (void)pf_comm_exchange(e, PF_VERB_FAILURE, &out, 1, NULL, 0);
    }
    (void)pf_fail(status, "%s", comm->why);
}
