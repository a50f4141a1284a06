/*
 * tree.c - the sums of tree.h. The numbers are cut into pieces of SHARE; in a round each rank owns
 * one of them: it gets the others' nodes of it, adds in the tree's order, and gives the sum to all.
 * So every number travels twice, (P - 1) / P of them each way, and the room is that of a round.
 * What is dealt (deal.h) travels once: the sum stays with its owner.
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

/* A node of any rank, and its numbers of the piece that is added. */
typedef struct {
    pf_lane_node lanes;
    const float *x;
} part;

typedef struct {
    const part *part;
    int n_parts, lanes;
    int64_t n;
    float *sum;
} adding;

static const part *find(const adding *a, int first, int count) {
    for (int i = 0; i < a->n_parts; i++)
        if (a->part[i].lanes.first == first && a->part[i].lanes.count == count) return &a->part[i];
    return NULL;
}

/* out (n) <- T(first, count), from position `at` on; n is at most STRIDE. */
static void add_tree(const adding *a, int first, int count, int64_t at, int n, float *out) {
    const part *p = find(a, first, count);
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

/* ---- a round ---- */

struct pf_reduction {
    pf_engine *engine;
    pf_leaves leaves;
    int ranks, rank;
    const float *const *own; /* of the array that is summed: one a node of this rank */
    int64_t n;
    float *sum, *room; /* room: a piece for every node of the others */
    pf_message *list;
    part *part; /* of all ranks in order */
    int n_parts, *of, n_own;
};

static int64_t piece_of(const pf_reduction *r, int64_t base, int rank, int64_t *length) {
    int64_t first = pf_min(r->n, base + (int64_t)rank * SHARE);
    *length = pf_min(r->n, first + SHARE) - first;
    return first;
}

/* The others' nodes of the own piece come here, and theirs of ours go. */
static int trade(const pf_reduction *r, int64_t base) {
    int64_t length, own_length;
    int64_t own_first = piece_of(r, base, r->rank, &own_length);
    pf_message *out = r->list, *in = r->list + (size_t)r->ranks * PF_LANE_NODES;
    int n_out = 0, n_in = 0, mine = 0;
    for (int i = 0; i < r->n_parts; i++) {
        part *p = &r->part[i];
        if (r->of[i] == r->rank) {
            p->x = r->own[mine++] + own_first;
            continue;
        }
        float *place = r->room + (int64_t)n_in * own_length;
        in[n_in++] = (pf_message){r->of[i], place, (size_t)own_length * sizeof(float)};
        p->x = place;
    }
    for (int to = 0; to < r->ranks; to++) {
        int64_t first = piece_of(r, base, to, &length);
        for (int i = 0; i < mine && to != r->rank; i++)
            out[n_out++] = (pf_message){to, (void *)(uintptr_t)(r->own[i] + first),
                                        (size_t)length * sizeof(float)};
    }
    return pf_comm_exchange(r->engine, PF_VERB_SUM, out, n_out, in, n_in);
}

/* Sums go to all. */
static int spread_sums(const pf_reduction *r, int64_t base) {
    int64_t length, own_length;
    float *own = r->sum + piece_of(r, base, r->rank, &own_length);
    pf_message *out = r->list, *in = r->list + r->ranks;
    int n = 0;
    for (int k = 0; k < r->ranks; k++) {
        if (k == r->rank) continue;
        float *theirs = r->sum + piece_of(r, base, k, &length);
        out[n] = (pf_message){k, own, (size_t)own_length * sizeof(float)};
        in[n++] = (pf_message){k, theirs, (size_t)length * sizeof(float)};
    }
    return pf_comm_exchange(r->engine, PF_VERB_SUM, out, n, in, n);
}

/* sum (n) <- of all parts. */
static int add_parts(const pf_reduction *r, int64_t n, float *sum) {
    adding a = {r->part, r->n_parts, pf_leaf_count(&r->leaves), n, sum};
    r->engine->shield++; /* nobody leaves alone */
    int status = pf_parallel_range(r->engine, pf_ceil_div(n, STRIDE), ADD_GRAIN, add_range, &a);
    r->engine->shield--;
    return status < 0 ? pf_comm_break(r->engine->comm, status) : PF_OK;
}

static int round_of(const pf_reduction *r, int64_t base) {
    int64_t length;
    int64_t first = piece_of(r, base, r->rank, &length);
    if (r->ranks > 1)
        PF_TRY(trade(r, base));
    else
        for (int i = 0; i < r->n_parts; i++) r->part[i].x = r->own[i] + first;
    PF_TRY(add_parts(r, length, r->sum + first));
    return r->ranks > 1 ? spread_sums(r, base) : PF_OK;
}

/* ---- a round of what is dealt ---- */

/* The own nodes of another's piece, one a message; room: where they are packed. */
static int send_piece(const pf_reduction *r, const pf_deal *d, int to, const float *const *own,
                      float **room, pf_message *out) {
    const pf_deal_piece *p = &d->piece[to];
    int n = 0;
    if (p->n == 0) return 0;
    for (int i = 0; i < r->n_own; i++) {
        const float *const *node = own + (size_t)i * (size_t)d->arrays;
        const float *from = *room;
        if (pf_deal_lies_whole(p)) {
            from = node[p->first.array] + p->first.first;
        } else {
            pf_deal_pack(d, to, node, *room);
            *room += p->n;
        }
        out[n++] = (pf_message){to, (void *)(uintptr_t)from, (size_t)p->n * sizeof(float)};
    }
    return n;
}

/* Others' nodes of the own piece come into the room, one behind the other. */
static int trade_dealt(const pf_reduction *r, const pf_deal *d, const float *const *own) {
    int64_t n = d->piece[d->rank].n;
    pf_message *out = r->list, *in = r->list + (size_t)r->ranks * PF_LANE_NODES;
    float *room = r->room;
    int n_out = 0, n_in = 0;
    for (int i = 0; i < r->n_parts && n > 0; i++) {
        if (r->of[i] == r->rank) continue;
        in[n_in++] = (pf_message){r->of[i], room, (size_t)n * sizeof(float)};
        room += n;
    }
    for (int to = 0; to < r->ranks; to++)
        if (to != r->rank) n_out += send_piece(r, d, to, own, &room, out + n_out);
    return pf_comm_exchange(r->engine, PF_VERB_SUM, out, n_out, in, n_in);
}

/* The own piece, stretch by stretch. */
static int add_dealt(const pf_reduction *r, const pf_deal *d, const float *const *own,
                     float *const *sum) {
    const pf_deal_piece *p = &d->piece[d->rank];
    pf_deal_place place = p->place;
    for (int64_t done = 0; done < p->n;) {
        pf_stretch s = pf_deal_next(d, d->rank, &place, p->n - done);
        int mine = 0, theirs = 0;
        for (int i = 0; i < r->n_parts; i++)
            r->part[i].x = r->of[i] == r->rank ? own[mine++ * d->arrays + s.array] + s.first
                                               : r->room + theirs++ * p->n + done;
        PF_TRY(add_parts(r, s.n, sum[s.array] + s.first));
        done += s.n;
    }
    return PF_OK;
}

int pf_reduction_scatter(pf_reduction *r, pf_deal *d, const char *in, const float *const *own,
                         float *const *sum) {
    pf_deal_begin(d, in);
    while (pf_deal_round(d)) {
        PF_TRY(trade_dealt(r, d, own));
        PF_TRY(add_dealt(r, d, own, sum));
    }
    return PF_OK;
}

/* ---- the whole ---- */

/* Lists in one block: two messages for each node of each rank, the nodes, and whose they are. */
static size_t lists_of(int ranks) {
    return (size_t)ranks * PF_LANE_NODES * (2 * sizeof(pf_message) + sizeof(part) + sizeof(int));
}

static void set_parts(pf_reduction *r) {
    size_t most = (size_t)r->ranks * PF_LANE_NODES;
    r->part = (part *)(r->list + 2 * most);
    r->of = (int *)(r->part + most);
    for (int k = 0; k < r->ranks; k++) {
        pf_lane_node nodes[PF_LANE_NODES];
        int n = pf_leaf_nodes(&r->leaves, r->ranks, k, nodes);
        for (int i = 0; i < n; i++) {
            r->of[r->n_parts] = k;
            r->part[r->n_parts++] = (part){.lanes = nodes[i]};
        }
        if (k == r->rank) r->n_own = n;
    }
}

static int check_lanes(int lanes, int ranks) {
    if (lanes >= ranks && lanes < 1 << 16) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "sum over lanes: %d of them for %d ranks; there must be at least as "
                   "many, and fewer than 65536",
                   lanes, ranks);
}

/* Room for the nodes of the others, and for own ones that are packed; kept for the next time. */
static int take_room(pf_reduction *r, int64_t most, const pf_deal *deal) {
    if (!r->engine->comm) return PF_OK;
    int64_t need = (int64_t)r->n_parts * pf_min(SHARE, most);
    if (deal) need = pf_max(need, (r->n_parts + r->ranks * r->n_own) * pf_deal_most(deal));
    PF_TRY(pf_comm_room_for(r->engine, need));
    r->room = r->engine->comm->room;
    return pf_comm_room(r->engine, 2 * r->ranks * PF_LANE_NODES);
}

static int fill(pf_reduction *r, int64_t most, const pf_deal *deal) {
    PF_TRY(check_lanes(pf_leaf_count(&r->leaves), r->ranks));
    r->list = pf_heap_alloc(r->engine->heap, lists_of(r->ranks));
    if (!r->list) return PF_ENOMEM;
    set_parts(r);
    return take_room(r, most, deal);
}

int pf_reduction_open_dealt(pf_reduction **reduction, pf_engine *engine, int status,
                            const pf_leaves *leaves, int64_t most, const pf_deal *deal) {
    pf_reduction *r = status >= 0 ? pf_heap_zalloc(engine->heap, sizeof *r) : NULL;
    *reduction = NULL;
    if (r) {
        r->engine = engine, r->leaves = *leaves;
        r->ranks = pf_comm_ranks(engine), r->rank = pf_comm_rank(engine);
        status = fill(r, most, deal);
    } else if (status >= 0) {
        status = PF_ENOMEM;
    }
    status = pf_comm_agree(engine, status);
    if (status < 0) pf_reduction_close(&r);
    *reduction = r;
    return status;
}

int pf_reduction_open(pf_reduction **reduction, pf_engine *engine, int status, int lanes,
                      int64_t most) {
    const pf_leaves leaves = {lanes, 1, 1};
    return pf_reduction_open_dealt(reduction, engine, status, &leaves, most, NULL);
}

int pf_reduction_run(pf_reduction *r, const float *const *own, int64_t n, float *sum) {
    r->own = own, r->n = n, r->sum = sum;
    if (r->n_parts == 1) { /* one rank that has the whole node */
        if (n && sum != own[0]) memcpy(sum, own[0], (size_t)n * sizeof *sum);
        return PF_OK;
    }
    for (int64_t base = 0; base < n; base += (int64_t)SHARE * r->ranks) PF_TRY(round_of(r, base));
    return PF_OK;
}

void pf_reduction_close(pf_reduction **reduction) {
    pf_reduction *r = *reduction;
    if (!r) return;
    pf_heap *heap = r->engine->heap;
    if (r->list) pf_heap_free(heap, r->list, lists_of(r->ranks));
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
        const float *own[] = {pf_f32(tensors[i])};
        status = pf_reduction_run(r, own, pf_tensor_numel(tensors[i]), pf_f32(tensors[i]));
    }
    pf_reduction_close(&r);
    return status;
}
