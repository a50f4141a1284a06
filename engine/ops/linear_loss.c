/*
 * linear_loss.c - linear_cross_entropy: the loss of logits = x W^T + b that are never whole. They
 * are made a piece of rows at a time; forward keeps of a row its maximum and the log of its sum,
 * and backward makes a piece's logits again, turns them into their gradient where they lie, and
 * multiplies that by W and by x.
 *
 * What holds: a row's logits are the bits of `linear`, so losses are those of linear and
 * cross_entropy. Pieces depend on the shape alone: whole items where several fit, else row tiles
 * of one item. Logits that fit into one piece are kept for backward, whose bits are then those of
 * the two ops.
 */
#include "loss.h"
#include "tiles.h"

enum { X, WEIGHT, IDS, BIAS };
enum { A_REDUCTION, A_BEST };
enum { NORM, LOGITS };            /* saved */
enum { PIECE_NUMBERS = 1 << 24 }; /* logits of a piece, where a row tile has no more */

/* ---- shape ---- */

/* x (..., K), weight (V, K), ids (...), bias (V) -> () or (...), and (...) i32 */
static int linear_loss_shape(pf_call *c) {
    const pf_tensor *x = c->in[X], *w = c->in[WEIGHT], *ids = c->in[IDS], *b = c->in[BIAS];
    PF_TRY(pf_want(c, X, PF_F32));
    PF_TRY(pf_want(c, WEIGHT, PF_F32));
    PF_TRY(pf_want(c, IDS, PF_I32));
    if (b) PF_TRY(pf_want(c, BIAS, PF_F32));
    if (w->rank != 2) return pf_shape_fail(c, "weight must be (V, K)");
    bool fits = x->rank == ids->rank + 1 && x->shape[x->rank - 1] == w->shape[1];
    for (int d = 0; fits && d < ids->rank; d++) fits = x->shape[d] == ids->shape[d];
    if (!fits)
        return pf_shape_fail(c, "x must be (..., K) for weight (V, K), and ids (...) shaped like x "
                                "without its last dimension");
    if (b && (b->rank != 1 || b->shape[0] != w->shape[0]))
        return pf_shape_fail(c, "bias must be [%lld], as weight's first dimension",
                             (long long)w->shape[0]);
    c->shape[1].rank = -1;
    if (c->attr[A_BEST].i) PF_TRY(pf_set_shape(c, 1, PF_I32, ids->rank, ids->shape));
    return pf_set_shape(c, 0, PF_F32, c->attr[A_REDUCTION].i == PF_REDUCE_NONE ? ids->rank : 0,
                        ids->shape);
}

static double linear_loss_products(const pf_call *c) {
    return (double)pf_tensor_numel(c->in[X]) * (double)c->in[WEIGHT]->shape[0];
}

/* ---- pieces ---- */

/* The rows of x as (items, length, K), cut in pieces of `items` whole ones or `rows` of one. */
typedef struct {
    pf_call *c;
    pf_tensor *x, *ids; /* contiguous */
    pf_matrix w;
    const float *bias;
    int64_t items, length, width, vocab;
    int64_t piece_items, piece_rows;
    pf_tensor *logits; /* of a piece; of all where one piece has all */
} pieces;

static bool is_one(const pieces *p) {
    return p->piece_items >= p->items && p->piece_rows >= p->length;
}

static int open_pieces(pieces *p, pf_call *c) {
    const pf_tensor *w = c->in[WEIGHT];
    pf_tensor *bias;
    *p = (pieces){.c = c, .vocab = w->shape[0], .width = w->shape[1]};
    PF_TRY(pf_call_compact(c, c->in[X], &p->x));
    PF_TRY(pf_call_compact(c, c->in[IDS], &p->ids));
    PF_TRY(pf_call_compact(c, c->in[BIAS], &bias));
    PF_TRY(pf_matrix_open(&p->w, c, w));
    p->bias = bias ? pf_f32(bias) : NULL;
    int64_t rows = pf_tensor_numel(p->ids);
    p->length = p->ids->rank > 0 ? p->ids->shape[p->ids->rank - 1] : 1;
    p->items = p->length > 0 ? rows / p->length : 0;
    int64_t most = pf_max(PF_ROW_TILE, PIECE_NUMBERS / pf_max(1, p->vocab));
    p->piece_items = pf_max(1, most / pf_max(1, p->length));
    p->piece_rows = p->length <= most ? p->length : most / PF_ROW_TILE * PF_ROW_TILE;
    return pf_entropy_check(c, p->ids, p->vocab);
}

/* The room for a piece's logits: kept for backward where they are all. */
static int open_logits(pieces *p) {
    int64_t shape[3] = {pf_min(p->piece_items, p->items), p->piece_rows, p->vocab};
    pf_call *c = p->c;
    if (c->saved[LOGITS]) {
        p->logits = c->saved[LOGITS];
        return PF_OK;
    }
    if (!c->record || !is_one(p)) return pf_call_make(c, PF_F32, 3, shape, &p->logits);
    PF_TRY(pf_tensor_make(&c->saved[LOGITS], c->engine, PF_F32, 3, shape));
    p->logits = c->saved[LOGITS];
    return PF_OK;
}

/* A piece: `items` from `item` on, of each the rows first .. first + rows - 1; where it has several
 * items, all of their rows. */
typedef struct {
    int64_t item, items, first, rows;
} piece;

static int64_t rows_before(const pieces *p, const piece *at) {
    return at->item * p->length + at->first;
}

/* Calls f on one piece after another. */
static int each_piece(pieces *p, int (*f)(pieces *p, const piece *at)) {
    for (int64_t item = 0; item < p->items; item += p->piece_items) {
        for (int64_t first = 0; first < p->length; first += p->piece_rows) {
            piece at = {item, pf_min(p->piece_items, p->items - item), first,
                        pf_min(p->piece_rows, p->length - first)};
            PF_TRY(pf_check_cancel(p->c->engine));
            PF_TRY(f(p, &at));
        }
    }
    return PF_OK;
}

/* The piece's rows of t, whose rows of `width` numbers lie one after the other from `skip` on. */
static pf_tensor part_of(const pf_tensor *t, int64_t width, int64_t skip, const piece *at) {
    pf_tensor h = pf_tensor_place(t);
    h.rank = 3;
    h.offset = t->offset + skip * width;
    h.shape[0] = at->items, h.shape[1] = at->rows, h.shape[2] = width;
    h.stride[0] = at->rows * width, h.stride[1] = width, h.stride[2] = 1;
    return h;
}

static int open_part(pieces *p, const pf_tensor *t, int64_t width, int64_t skip, const piece *at,
                     pf_matrix *m) {
    const pf_tensor h = part_of(t, width, skip, at);
    return pf_matrix_open(m, p->c, &h);
}

static pf_tiles tiles_of(const pieces *p, const pf_matrix *a, const pf_matrix *b,
                         const pf_matrix *c) {
    return (pf_tiles){.engine = p->c->engine,
                      .a = a,
                      .b = b,
                      .c = c,
                      .rank = c->batch.rank,
                      .batch = c->batch.shape,
                      .rows = PF_ROW_TILE,
                      .cols = PF_COL_TILE,
                      .pad = true,
                      .overwrite = true};
}

static int make_logits(pieces *p, const piece *at) {
    pf_matrix x, y;
    PF_TRY(open_part(p, p->x, p->width, rows_before(p, at), at, &x));
    PF_TRY(open_part(p, p->logits, p->vocab, 0, at, &y));
    const pf_matrix wt = pf_matrix_flip(&p->w);
    pf_tiles tiles = tiles_of(p, &x, &wt, &y);
    tiles.bias = p->bias;
    return pf_tiles_run(&tiles);
}

static pf_entropy entropy_of(const pieces *p, const piece *at) {
    pf_tensor *norm = p->c->saved[NORM];
    return (pf_entropy){.kern = p->c->engine->kern,
                        .vocab = p->vocab,
                        .x = pf_f32(p->logits),
                        .id = pf_i32(p->ids) + rows_before(p, at),
                        .norm = norm ? pf_f32(norm) + 2 * rows_before(p, at) : NULL};
}

/* ---- forward ---- */

typedef struct {
    pieces all; /* first */
    double *loss;
} forward_job;

static int forward_piece(pieces *p, const piece *at) {
    const forward_job *job = (const forward_job *)p;
    PF_TRY(make_logits(p, at));
    pf_entropy entropy = entropy_of(p, at);
    entropy.loss = job->loss + rows_before(p, at);
    if (p->c->out[1]) entropy.best = pf_i32(p->c->out[1]) + rows_before(p, at);
    return pf_entropy_run(p->c->engine, &entropy, at->items * at->rows);
}

static int linear_loss_forward(pf_call *c) {
    forward_job job;
    PF_TRY(open_pieces(&job.all, c));
    int64_t rows = pf_tensor_numel(job.all.ids);
    if (c->record)
        PF_TRY(pf_tensor_make(&c->saved[NORM], c->engine, PF_F32, 2, (int64_t[]){rows, 2}));
    PF_TRY(open_logits(&job.all));
    job.loss = pf_call_alloc(c, (size_t)rows * sizeof *job.loss);
    if (!job.loss) return PF_ENOMEM;
    PF_TRY(each_piece(&job.all, forward_piece));
    pf_entropy_reduce(c->out[0], c->attr[A_REDUCTION].i, job.loss, pf_i32(job.all.ids), rows);
    return PF_OK;
}

/* ---- backward ---- */

/* Of an input: its slot, NULL when no gradient is wanted, and whether the next sum overwrites. */
typedef struct {
    pf_tensor *t;
    bool fresh;
} slot;

typedef struct {
    pieces all;      /* first */
    pf_entropy loss; /* dy or scale */
    slot dx, dw, db;
} backward_job;

/* The logits of a piece become their own gradient. */
static int turn_logits(backward_job *job, const piece *at) {
    pieces *p = &job->all;
    if (!p->c->saved[LOGITS]) PF_TRY(make_logits(p, at));
    pf_entropy entropy = entropy_of(p, at);
    entropy.dy = job->loss.dy ? job->loss.dy + rows_before(p, at) : NULL;
    entropy.scale = job->loss.scale;
    entropy.fresh = true;
    entropy.dx = pf_f32(p->logits);
    return pf_entropy_pull(p->c->engine, &entropy, at->items * at->rows);
}

/* dx (+)= dlogits W, rows of this piece alone */
static int pull_x(backward_job *job, const pf_matrix *dy, const piece *at) {
    pieces *p = &job->all;
    pf_matrix dx;
    PF_TRY(open_part(p, job->dx.t, p->width, rows_before(p, at), at, &dx));
    pf_tiles tiles = tiles_of(p, dy, &p->w, &dx);
    tiles.overwrite = job->dx.fresh;
    return pf_tiles_run(&tiles);
}

/* dW (+)= dlogits^T x */
static int pull_weight(backward_job *job, const pf_matrix *dy, const piece *at) {
    pieces *p = &job->all;
    pf_matrix x, dw;
    PF_TRY(open_part(p, p->x, p->width, rows_before(p, at), at, &x));
    PF_TRY(pf_matrix_open(&dw, p->c, job->dw.t));
    bool overwrite = job->dw.fresh;
    job->dw.fresh = false;
    return pf_tiles_over_rows(&(pf_over_rows){.engine = p->c->engine,
                                              .left = dy,
                                              .right = &x,
                                              .c = &dw,
                                              .rank = dy->batch.rank,
                                              .batch = dy->batch.shape,
                                              .overwrite = overwrite});
}

/* db (+)= the sum of dlogits over the rows */
static int pull_bias(backward_job *job, const piece *at) {
    const pieces *p = &job->all;
    const pf_tensor rows = part_of(p->logits, p->vocab, 0, at);
    bool overwrite = job->db.fresh;
    job->db.fresh = false;
    return pf_fold(&(pf_fold_job){.engine = p->c->engine,
                                  .to = job->db.t,
                                  .overwrite = overwrite,
                                  .rank = rows.rank,
                                  .shape = rows.shape,
                                  .n = 1,
                                  .x = {&rows},
                                  .scale = 1});
}

static int backward_piece(pieces *p, const piece *at) {
    backward_job *job = (backward_job *)p;
    pf_matrix dy;
    PF_TRY(turn_logits(job, at));
    PF_TRY(open_part(p, p->logits, p->vocab, 0, at, &dy));
    if (job->dx.t) PF_TRY(pull_x(job, &dy, at));
    if (job->dw.t) PF_TRY(pull_weight(job, &dy, at));
    return job->db.t ? pull_bias(job, at) : PF_OK;
}

static int open_slot(pf_call *c, int i, slot *s) {
    *s = (slot){NULL, false};
    return c->need[i] ? pf_grad_fresh(c, i, &s->fresh, &s->t) : PF_OK;
}

/* Without any row there is no piece, and what was to be overwritten is 0. */
static int clear_fresh(const slot *s) { return s->t && s->fresh ? pf_tensor_fill(s->t, 0) : PF_OK; }

static int linear_loss_backward(pf_call *c) {
    backward_job job = {.loss = {.scale = 0}};
    if (!c->dout[0]) return PF_OK;
    PF_TRY(open_pieces(&job.all, c));
    int64_t rows = pf_tensor_numel(job.all.ids);
    PF_TRY(open_logits(&job.all));
    PF_TRY(pf_entropy_weigh(c, c->attr[A_REDUCTION].i, pf_i32(job.all.ids), rows, &job.loss));
    PF_TRY(open_slot(c, X, &job.dx));
    PF_TRY(open_slot(c, WEIGHT, &job.dw));
    PF_TRY(open_slot(c, BIAS, &job.db));
    if (rows > 0) return each_piece(&job.all, backward_piece);
    PF_TRY(clear_fresh(&job.dx));
    PF_TRY(clear_fresh(&job.dw));
    return clear_fresh(&job.db);
}

/* ---- row ---- */

static const pf_attr_info linear_loss_attrs[] = {
    PF_REDUCTION_ATTR,
    {.name = "best",
     .kind = PF_ATTR_BOOL,
     .doc = "gives the likeliest id of each counted position too, -1 where none is"},
};

const pf_op pf_op_linear_cross_entropy = {
    .name = "linear_cross_entropy",
    .args = "x, weight, ids, [bias]",
    .results = "loss, best",
    .doc = "cross_entropy(linear(x, weight, bias), ids) whose logits are never whole: x (..., K), "
           "weight (V, K), ids (...) i32 in 0 .. V-1 or -1, bias (V). They are made a piece of "
           "rows at a time, and again in backward.",
    .min_in = 3,
    .max_in = 4,
    .n_out = 2,
    .uses = PF_USES_IN(X) | PF_USES_IN(WEIGHT) | PF_USES_IN(IDS) | PF_USES_IN(BIAS),
    .attrs = linear_loss_attrs,
    .n_attrs = PF_COUNT(linear_loss_attrs),
    .shape = linear_loss_shape,
    .products = linear_loss_products,
    .forward = linear_loss_forward,
    .backward = linear_loss_backward,
};
