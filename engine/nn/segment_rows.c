/*
 * segment_rows.c - the few rows around a segment that convolutions look at, and the ids before it.
 * A neighbour's rows come to stand around the segment's own; their gradient goes back to where
 * they came from, and is added there.
 */
#include <string.h>

#include "segment_link.h"

enum { OWN, BEFORE, BEHIND, ROWS };

/* Rows of before and of behind that the link has here, and that its neighbours have of this one. */
typedef struct {
    int64_t before, behind, to_next, to_last;
    size_t row; /* bytes of a row of all items */
} halo;

static halo halo_of(const pf_link *l, const pf_tensor *x) {
    bool first = l->segment == 0, last = !pf_link_has_next(l);
    return (halo){.before = first ? 0 : l->back,
                  .behind = last ? 0 : l->ahead,
                  .to_next = last ? 0 : l->back,
                  .to_last = first ? 0 : l->ahead,
                  .row = (size_t)(x->shape[0] * x->shape[2]) * sizeof(float)};
}

/* Rows from .. from + n - 1 of x (B, L, D), to or from a block of them. */
static void copy_rows(pf_tensor *x, int64_t from, int64_t n, float *block, bool out) {
    int64_t L = x->shape[1], D = x->shape[2];
    size_t bytes = (size_t)(n * D) * sizeof(float);
    for (int64_t b = 0; b < x->shape[0]; b++) {
        float *row = pf_f32(x) + (b * L + from) * D, *part = block + b * n * D;
        memcpy(out ? part : row, out ? row : part, bytes);
    }
}

static void add_rows(pf_tensor *x, int64_t from, int64_t n, const float *block) {
    int64_t L = x->shape[1], D = x->shape[2];
    for (int64_t b = 0; b < x->shape[0]; b++)
        for (int64_t i = 0; i < n * D; i++)
            pf_f32(x)[(b * L + from) * D + i] += block[b * n * D + i];
}

/* Of a segment that has a rank, as all have: both ways at once. Sizes 0: nothing that way. */
static int swap_rows(const pf_link *l, int status, const void *next, size_t to_next,
                     const void *last, size_t to_last, void *from_last, size_t n_last,
                     void *from_next, size_t n_next) {
    pf_engine *e = l->q->e;
    int before = pf_link_rank(l, false), behind = pf_link_rank(l, true);
    PF_TRY(pf_comm_agree(e, status));
    size_t bytes = to_next > n_last ? to_next : n_last;
    if (bytes)
        PF_TRY(pf_comm_pass(e, to_next ? behind : -1, &next, 1, n_last ? before : -1, &from_last, 1,
                            bytes));
    bytes = to_last > n_next ? to_last : n_next;
    if (bytes)
        PF_TRY(pf_comm_pass(e, to_last ? before : -1, &last, 1, n_next ? behind : -1, &from_next, 1,
                            bytes));
    return PF_OK;
}

/* room: the rows for the next segment, for the one before, and those that come, in this order. */
static size_t room_of(const halo *h) {
    return (size_t)(h->to_next + h->to_last + h->before + h->behind) * h->row;
}

/* x's rows go, those of the neighbours come into made[BEFORE], made[BEHIND]. */
static int trade_forth(const pf_link *l, const halo *h, pf_tensor *x, char *room) {
    float *next = (float *)room;
    float *last = (float *)(room + (size_t)h->to_next * h->row);
    char *before = (char *)last + (size_t)h->to_last * h->row;
    char *behind = before + (size_t)h->before * h->row;
    copy_rows(x, x->shape[1] - h->to_next, h->to_next, next, true);
    copy_rows(x, 0, h->to_last, last, true);
    if (l->q->together)
        return swap_rows(l, PF_OK, next, (size_t)h->to_next * h->row, last,
                         (size_t)h->to_last * h->row, before, (size_t)h->before * h->row, behind,
                         (size_t)h->behind * h->row);
    if (h->before) PF_TRY(pf_link_take(l, PF_FORTH, before, (size_t)h->before * h->row));
    return h->to_next ? pf_link_give(l, PF_FORTH, next, (size_t)h->to_next * h->row) : PF_OK;
}

/* The same of gradients: those of rows that came go, and those of x's rows come. */
static int trade_back(const pf_link *l, const halo *h, const void *before, const void *behind,
                      char *room) {
    char *next = room, *last = room + (size_t)h->to_next * h->row;
    if (l->q->together)
        return swap_rows(l, PF_OK, behind, (size_t)h->behind * h->row, before,
                         (size_t)h->before * h->row, last, (size_t)h->to_last * h->row, next,
                         (size_t)h->to_next * h->row);
    if (h->to_next) PF_TRY(pf_link_take(l, PF_BACK, next, (size_t)h->to_next * h->row));
    return h->before ? pf_link_give(l, PF_BACK, before, (size_t)h->before * h->row) : PF_OK;
}

/* ---- the node of a scan ---- */

/* The numbers of a gradient of so many rows, where some came. */
static int gradient_of(pf_call *c, int o, int64_t rows, pf_tensor **flat) {
    *flat = NULL;
    if (rows == 0) return PF_OK;
    if (c->dout[o]) return pf_call_compact(c, c->dout[o], flat);
    PF_TRY(pf_call_make(c, PF_F32, 3, c->out[o]->shape, flat));
    return pf_tensor_fill(*flat, 0);
}

/* The gradient of x: of its rows here, and of those that stand in other segments. These are added
 * up before anything else that x goes to, as where the rows are of one tape. */
static int give_whole(pf_call *c, const halo *h, const float *come) {
    pf_tensor *dx = c->dout[OWN];
    if (!dx) {
        PF_TRY(pf_call_make(c, PF_F32, 3, c->in[0]->shape, &dx));
        PF_TRY(pf_tensor_fill(dx, 0));
    } else if (!pf_tensor_own(dx) || !pf_tensor_contiguous(dx)) {
        PF_TRY(pf_call_make(c, PF_F32, 3, c->in[0]->shape, &dx));
        PF_TRY(pf_tensor_copy(dx, c->dout[OWN]));
    }
    add_rows(dx, dx->shape[1] - h->to_next, h->to_next, come);
    add_rows(dx, 0, h->to_last, come + (size_t)h->to_next * h->row / sizeof(float));
    return pf_grad_give(c, 0, dx);
}

static int rows_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    const halo h = halo_of(l, c->in[0]);
    pf_tensor *before, *behind;
    PF_TRY(gradient_of(c, BEFORE, h.before, &before));
    PF_TRY(gradient_of(c, BEHIND, h.behind, &behind));
    char *room = pf_call_alloc(c, room_of(&h) + 1);
    if (!room) return PF_ENOMEM;
    PF_TRY(trade_back(l, &h, before ? pf_f32(before) : NULL, behind ? pf_f32(behind) : NULL, room));
    return c->need[0] ? give_whole(c, &h, (float *)room) : PF_OK;
}

static const pf_op rows_op = {.name = "segment's rows",
                              .args = "x",
                              .results = "x, before, behind",
                              .min_in = 1,
                              .max_in = 1,
                              .n_out = ROWS,
                              .backward = rows_backward};

static int make_rows(const pf_link *l, const pf_tensor *x, int64_t n, float *block,
                     pf_tensor **made) {
    const int64_t shape[3] = {x->shape[0], n, x->shape[2]};
    if (n == 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(made, l->heap, PF_F32, 3, shape));
    copy_rows(*made, 0, n, block, false);
    return PF_OK;
}

static int rows_forth(const pf_link *l, pf_engine *e, pf_tensor *x, pf_tensor **made) {
    const halo h = halo_of(l, x);
    pf_tensor *flat = NULL;
    char *room = pf_heap_alloc(l->heap, room_of(&h) + 1);
    int status = room ? pf_tensor_compact(&flat, e, x) : PF_ENOMEM;
    if (status >= 0)
        status = trade_forth(l, &h, flat, room);
    else if (l->q->together)
        status = pf_comm_agree(e, status);
    PF_HOLDS(room || status < 0);
    char *come = room ? room + (size_t)(h.to_next + h.to_last) * h.row : NULL;
    if (status >= 0) status = make_rows(l, x, h.before, (float *)come, &made[BEFORE]);
    if (status >= 0)
        status =
            make_rows(l, x, h.behind, (float *)(come + (size_t)h.before * h.row), &made[BEHIND]);
    pf_tensor_release(&flat);
    if (room) pf_heap_free(l->heap, room, room_of(&h) + 1);
    return status;
}

/* ---- the nodes of a chain ---- */

/* There the rows that a segment leaves get their gradient when the next one has gone back, as
 * where slices of a row follow each other on tapes: into the rows that the layer has joined, before
 * its own. */

static int before_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    pf_tensor *before;
    PF_TRY(pf_call_compact(c, c->dout[0], &before));
    return pf_link_give(l, PF_BACK, pf_f32(before),
                        (size_t)pf_tensor_numel(before) * sizeof(float));
}

/* x in, which stands for what made the rows before it */
static const pf_op before_op = {.name = "rows before a segment",
                                .args = "x",
                                .results = "before",
                                .min_in = 1,
                                .max_in = 1,
                                .n_out = 1,
                                .backward = before_backward};

static int left_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    const int64_t *shape = c->in[1]->shape;
    pf_tensor *rows;
    size_t bytes = (size_t)(shape[0] * l->back * shape[2]) * sizeof(float);
    float *room = pf_call_alloc(c, bytes);
    if (!room) return PF_ENOMEM;
    PF_TRY(pf_link_take(l, PF_BACK, room, bytes));
    if (c->need[0] && c->dout[0]) PF_TRY(pf_grad_give(c, 0, c->dout[0]));
    if (!c->need[1]) return PF_OK;
    PF_TRY(pf_grad_slot(c, 1, &rows));
    add_rows(rows, shape[1] - l->back, l->back, room);
    return PF_OK;
}

/* what was made of the rows, and they; the former again, by which its gradient comes here first */
static const pf_op left_op = {.name = "rows of a segment",
                              .args = "y, rows",
                              .results = "y",
                              .min_in = 2,
                              .max_in = 2,
                              .n_out = 1,
                              .backward = left_backward};

int pf_segment_leave_rows(pf_tensor **y, pf_engine *e, const pf_run *run, pf_tensor *rows,
                          int64_t back) {
    const pf_segmented *q = run->slice->segmented;
    pf_tensor *in[2] = {*y, rows}, *same = NULL;
    pf_link *l;
    if (!q->chain || !pf_tape_records(e) || q->segment + 1 == q->n || back == 0) return PF_OK;
    PF_TRY(pf_link_make(&l, run, NULL));
    l->back = back;
    int status = pf_tensor_view(&same, *y);
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    status = pf_record_linked(e, &left_op, l, pf_link_free, in, 2, &same, 1);
    if (status >= 0)
        pf_replace(y, same);
    else
        pf_tensor_release(&same);
    return status;
}

/* ---- joining them ---- */

/* out: x, and the rows around it where there are some. The link is taken over. */
static int record(pf_link *l, pf_engine *e, pf_tensor *x, pf_tensor **out) {
    if (!l->q->chain) return pf_record_linked(e, &rows_op, l, pf_link_free, &x, 1, out, ROWS);
    if (out[BEFORE])
        return pf_record_linked(e, &before_op, l, pf_link_free, &x, 1, &out[BEFORE], 1);
    pf_link_free(l);
    return PF_OK;
}

static int link_rows(pf_engine *e, const pf_run *run, pf_tensor *x, int64_t back, int64_t ahead,
                     pf_tensor **out) {
    pf_link *l;
    PF_TRY(pf_link_make(&l, run, NULL));
    l->back = back, l->ahead = ahead;
    pf_tensor **kept = pf_link_kept(l);
    int status = pf_link_again(run) ? PF_OK : rows_forth(l, e, x, kept);
    if (status >= 0 && pf_tape_records(e) && !l->q->chain) status = pf_tensor_view(&out[OWN], x);
    if (status >= 0 && !out[OWN]) out[OWN] = pf_tensor_retain(x);
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    for (int i = BEFORE; i < ROWS; i++) out[i] = pf_tensor_retain(kept[i]);
    return record(l, e, x, out);
}

int pf_segment_rows(pf_tensor **rows, int64_t *before, pf_engine *e, const pf_run *run,
                    pf_tensor *x, int64_t back, int64_t ahead) {
    pf_tensor *part[ROWS] = {NULL}, *in[ROWS];
    pf_attr dim = {.i = 1};
    int n = 0;
    *rows = NULL;
    int status = link_rows(e, run, x, back, ahead, part);
    *before = part[BEFORE] ? back : 0;
    if (part[BEFORE]) in[n++] = part[BEFORE];
    in[n++] = part[OWN];
    if (part[BEHIND]) in[n++] = part[BEHIND];
    if (status >= 0 && n == 1) *rows = pf_tensor_retain(part[OWN]);
    if (status >= 0 && n > 1) status = pf_apply(e, &pf_op_concat, in, n, &dim, rows);
    for (int i = 0; i < ROWS; i++) pf_tensor_release(&part[i]);
    return status;
}

/* ---- ids ---- */

int pf_segment_ids(pf_tensor **ids, pf_engine *e, const pf_run *run, int64_t n) {
    const pf_segmented *q = run->slice->segmented;
    if (q->x->rank != 2 || q->x->dtype != PF_I32)
        return pf_fail(PF_EINVAL, "segments: the model's x is no ids (B, L)");
    return pf_part_of(ids, e, q->x, run->slice->first - n, run->slice->first);
}
