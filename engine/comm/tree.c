/*
 * tree.c - the sums of tree.h. The numbers are cut into pieces of SHARE; in a round each rank owns
 * one of them: it gets the others' nodes of it, adds in the tree's order, and gives the sum to all.
 * So every number travels twice, (P - 1) / P of them each way, and the room is that of a round.
 * What is dealt travels once (scatter.c).
 */
#include "tree.h"

#include <string.h>

enum { SHARE = 1 << 16, STRIDE = 128, ADD_GRAIN = 64 };

void pf_lanes_of(int lanes, int ranks, int rank, int *first, int *last) {
    *first = (int)((int64_t)lanes * rank / ranks);
    *last = (int)((int64_t)lanes * (rank + 1) / ranks);
}

int pf_lane_nodes(int first, int last, pf_lane_node nodes[PF_LANE_NODES]) {
    int n = 0;
    while (first < last) {
        int count = 1;
        while (first % (2 * count) == 0 && first + 2 * count <= last) count *= 2;
        nodes[n++] = (pf_lane_node){first, count};
        first += count;
    }
    return n;
}

void pf_leaves_of(const pf_leaves *l, int ranks, int rank, int lanes[2], int segments[2]) {
    const int n = l->row_ranks;
    pf_lanes_of(l->lanes, ranks / n, rank / n, &lanes[0], &lanes[1]);
    pf_lanes_of(l->segments, n, rank % n, &segments[0], &segments[1]);
}

int pf_leaf_nodes(const pf_leaves *l, int ranks, int rank, pf_lane_node nodes[PF_LANE_NODES]) {
    int lane[2], segment[2], n = 0;
    pf_leaves_of(l, ranks, rank, lane, segment);
    if (segment[1] - segment[0] == l->segments)
        return pf_lane_nodes(lane[0] * l->segments, lane[1] * l->segments, nodes);
    for (int i = lane[0]; i < lane[1]; i++) {
        pf_lane_node own[PF_LANE_NODES];
        int more = pf_lane_nodes(i * l->segments + segment[0], i * l->segments + segment[1], own);
        if (n + more > PF_LANE_NODES) return -1;
        memcpy(nodes + n, own, (size_t)more * sizeof *own);
        n += more;
    }
    return n;
}

/* ---- adding ---- */

typedef struct {
    const pf_summand *part;
    int n_parts, lanes;
    int64_t n;
    float *sum;
} adding;

static const pf_summand *find(const adding *a, int first, int count) {
    for (int i = 0; i < a->n_parts; i++)
        if (a->part[i].lanes.first == first && a->part[i].lanes.count == count) return &a->part[i];
    return NULL;
}

/* out (n) <- T(first, count), from position `at` on; n is at most STRIDE. */
static void add_tree(const adding *a, int first, int count, int64_t at, int n, float *out) {
    const pf_summand *p = find(a, first, count);
    if (p) {
        memcpy(out, p->x + at, (size_t)n * sizeof *out);
        return;
    }
    float right[STRIDE];
    int half = 1;
    while (2 * half < count) half *= 2;
    add_tree(a, first, half, at, n, out);
    add_tree(a, first + half, count - half, at, n, right);
    for (int i = 0; i < n; i++) out[i] += right[i];
}

static void add_range(void *context, int64_t first, int64_t last) {
    const adding *a = context;
    float out[STRIDE];
    for (int64_t s = first; s < last; s++) {
        int64_t at = s * STRIDE;
        int n = (int)pf_min(STRIDE, a->n - at);
        add_tree(a, 0, a->lanes, at, n, out);
        memcpy(a->sum + at, out, (size_t)n * sizeof *out);
    }
}

int pf_summands_add(const pf_summands *p, int64_t n, float *sum) {
    adding a = {p->part, p->n, pf_leaf_count(&p->leaves), n, sum};
    pf_engine *e = p->engine;
    e->shield++; /* nobody leaves alone */
    int status = pf_parallel_range(e, pf_ceil_div(n, STRIDE), ADD_GRAIN, add_range, &a);
    e->shield--;
    return status < 0 ? pf_comm_break(e->comm, status) : PF_OK;
}

/* ---- whose nodes there are ---- */

static int check_lanes(int lanes, int ranks) {
    if (lanes >= ranks && lanes < 1 << 16) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "sum over lanes: %d of them for %d ranks; there must be at least as "
                   "many, and fewer than 65536",
                   lanes, ranks);
}

static size_t summands_bytes(int ranks) {
    return (size_t)ranks * PF_LANE_NODES * sizeof(pf_summand);
}

int pf_summands_open(pf_summands *p, pf_engine *engine, const pf_leaves *leaves) {
    *p = (pf_summands){.engine = engine,
                       .leaves = *leaves,
                       .ranks = pf_comm_ranks(engine),
                       .rank = pf_comm_rank(engine)};
    PF_TRY(check_lanes(pf_leaf_count(leaves), p->ranks));
    p->part = pf_heap_alloc(engine->heap, summands_bytes(p->ranks));
    if (!p->part) return PF_ENOMEM;
    for (int k = 0; k < p->ranks; k++) {
        pf_lane_node nodes[PF_LANE_NODES];
        int n = pf_leaf_nodes(leaves, p->ranks, k, nodes);
        for (int i = 0; i < n; i++) p->part[p->n++] = (pf_summand){nodes[i], k, NULL};
        if (k == p->rank) p->n_own = n;
    }
    return PF_OK;
}

void pf_summands_close(pf_summands *p) {
    if (p->part) pf_heap_free(p->engine->heap, p->part, summands_bytes(p->ranks));
    p->part = NULL;
}

/* ---- a round ---- */

struct pf_reduction {
    pf_summands parts;
    const float *const *own; /* of the array that is summed: one a node of this rank */
    int64_t n;
    float *sum, *room; /* room: a piece for every node of the others */
    pf_message *list;  /* two for each node of each rank */
};

static int64_t piece_of(const pf_reduction *r, int64_t base, int rank, int64_t *length) {
    int64_t first = pf_min(r->n, base + (int64_t)rank * SHARE);
    *length = pf_min(r->n, first + SHARE) - first;
    return first;
}

/* The others' nodes of the own piece come here, and theirs of ours go. */
static int trade(const pf_reduction *r, int64_t base) {
    const pf_summands *p = &r->parts;
    int64_t length, own_length;
    int64_t own_first = piece_of(r, base, p->rank, &own_length);
    pf_message *out = r->list, *in = r->list + (size_t)p->ranks * PF_LANE_NODES;
    int n_out = 0, n_in = 0, mine = 0;
    for (int i = 0; i < p->n; i++) {
        pf_summand *part = &p->part[i];
        if (part->rank == p->rank) {
            part->x = r->own[mine++] + own_first;
            continue;
        }
        float *place = r->room + (int64_t)n_in * own_length;
        in[n_in++] = (pf_message){part->rank, place, (size_t)own_length * sizeof(float)};
        part->x = place;
    }
    for (int far = 1; far < p->ranks; far++) {
        const int to = pf_comm_next(p->engine->comm, far);
        int64_t first = piece_of(r, base, to, &length);
        for (int i = 0; i < mine; i++)
            out[n_out++] = (pf_message){to, (void *)(uintptr_t)(r->own[i] + first),
                                        (size_t)length * sizeof(float)};
    }
    return pf_comm_exchange(p->engine, PF_VERB_SUM, out, n_out, in, n_in);
}

/* Sums go to all. */
static int spread_sums(const pf_reduction *r, int64_t base) {
    const pf_summands *p = &r->parts;
    int64_t length, own_length;
    float *own = r->sum + piece_of(r, base, p->rank, &own_length);
    pf_message *out = r->list, *in = r->list + p->ranks;
    int n = 0;
    for (int far = 1; far < p->ranks; far++) {
        const int k = pf_comm_next(p->engine->comm, far);
        float *theirs = r->sum + piece_of(r, base, k, &length);
        out[n] = (pf_message){k, own, (size_t)own_length * sizeof(float)};
        in[n++] = (pf_message){k, theirs, (size_t)length * sizeof(float)};
    }
    return pf_comm_exchange(p->engine, PF_VERB_SUM, out, n, in, n);
}

static int round_of(const pf_reduction *r, int64_t base) {
    const pf_summands *p = &r->parts;
    int64_t length;
    int64_t first = piece_of(r, base, p->rank, &length);
    if (p->ranks > 1)
        PF_TRY(trade(r, base));
    else
        for (int i = 0; i < p->n; i++) p->part[i].x = r->own[i] + first;
    PF_TRY(pf_summands_add(p, length, r->sum + first));
    return p->ranks > 1 ? spread_sums(r, base) : PF_OK;
}

/* ---- the whole ---- */

static size_t list_bytes(int ranks) {
    return 2 * (size_t)ranks * PF_LANE_NODES * sizeof(pf_message);
}

/* Room for the nodes of the others; kept for the next time. */
static int take_room(pf_reduction *r, int64_t most) {
    pf_engine *e = r->parts.engine;
    if (!e->comm) return PF_OK;
    r->list = pf_heap_alloc(e->heap, list_bytes(r->parts.ranks));
    if (!r->list) return PF_ENOMEM;
    PF_TRY(pf_comm_room_for(e, r->parts.n * pf_min(SHARE, most)));
    r->room = e->comm->room;
    return pf_comm_room(e, 2 * r->parts.ranks * PF_LANE_NODES);
}

static int fill(pf_reduction *r, pf_engine *e, int lanes, int64_t most) {
    const pf_leaves leaves = {lanes, 1, 1};
    PF_TRY(pf_summands_open(&r->parts, e, &leaves));
    return take_room(r, most);
}

int pf_reduction_open(pf_reduction **reduction, pf_engine *engine, int status, int lanes,
                      int64_t most) {
    pf_reduction *r = status >= 0 ? pf_heap_zalloc(engine->heap, sizeof *r) : NULL;
    *reduction = NULL;
    if (r) {
        r->parts.engine = engine;
        status = fill(r, engine, lanes, most);
    } else if (status >= 0) {
        status = PF_ENOMEM;
    }
    status = pf_comm_agree(engine, status);
    if (status < 0) pf_reduction_close(&r);
    *reduction = r;
    return status;
}

int pf_reduction_run(pf_reduction *r, const float *const *own, int64_t n, float *sum) {
    r->own = own, r->n = n, r->sum = sum;
    if (r->parts.n == 1) { /* one rank that has the whole node */
        if (n && sum != own[0]) memcpy(sum, own[0], (size_t)n * sizeof *sum);
        return PF_OK;
    }
    for (int64_t base = 0; base < n; base += (int64_t)SHARE * r->parts.ranks)
        PF_TRY(round_of(r, base));
    return PF_OK;
}

void pf_reduction_close(pf_reduction **reduction) {
    pf_reduction *r = *reduction;
    if (!r) return;
    pf_heap *heap = r->parts.engine->heap;
    if (r->list) pf_heap_free(heap, r->list, list_bytes(r->parts.ranks));
    pf_summands_close(&r->parts);
    pf_heap_free(heap, r, sizeof *r);
    *reduction = NULL;
}

/* Each rank is one lane. */
static int check_all(pf_tensor *const *tensors, int n) {
    for (int i = 0; i < n; i++) {
        PF_TRY(pf_tensor_check(tensors[i], PF_F32, "sum over ranks", "tensor"));
        if (!pf_tensor_contiguous(tensors[i]))
            return pf_fail(PF_EINVAL, "sum over ranks: tensor %s is not contiguous", pf_place(i));
    }
    return PF_OK;
}

int pf_comm_sum(pf_engine *engine, pf_tensor *const *tensors, int n) {
    pf_reduction *r;
    if (!engine->comm) return PF_OK;
    int status = check_all(tensors, n);
    PF_TRY(pf_reduction_open(&r, engine, status, engine->comm->ranks, SHARE));
    for (int i = 0; i < n && status >= 0; i++) {
        const float *own[PF_LANE_NODES] = {pf_f32(tensors[i])}; /* the only one */
        status = pf_reduction_run(r, own, pf_tensor_numel(tensors[i]), pf_f32(tensors[i]));
    }
    pf_reduction_close(&r);
    return status;
}
