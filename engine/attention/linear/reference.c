/*
 * reference.c - softmax features with the stabiliser of the published versions (performer-pytorch,
 * the authors' JAX code), for full attention:
 *
 *     query  phi_a = exp(u_a - |x|^2 / 2 - max_b u_b) + eps
 *     key    phi_a = exp(u_a - |x|^2 / 2 - T) + eps,   T the largest u of all keys of the head
 *
 * T leaves out |x|^2 / 2, so eps weighs the more the longer a row is, and T needs every key: one
 * that comes later changes what earlier ones count. Hence no causal form, and no stream. A factor
 * of all features cancels in attention and is left out. Keys that the mask hides are no keys: they
 * have no part in T, and features 0. Packed documents have a T each, as if they came alone.
 *
 * The features are made before the operator sees the rows, as a host's map makes them.
 */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "operator.h"

enum { X, KERNEL, MASK = KERNEL + PF_KERNEL_INPUTS, DOCUMENTS, CU_SEQLENS, INPUTS };
enum { A_KEY = PF_KERNEL_ATTRS, ATTRS };
enum { BLOCK = 128 };

typedef struct {
    pf_encoding of; /* eps 0 */
    float eps;
    bool key;
    int64_t H, L, group; /* heads of x that share one of the projection */
    pf_heads x, dx;
    const pf_tensor *mask;
    const int32_t *documents, *ends; /* of keys: (B, L), or the offsets (n_ends); NULL */
    int64_t n_ends;
    float *phi;        /* (B, H, L, r) */
    const float *dphi; /* the same */
    const pf_engine *engine;
    atomic_int *stopped; /* why a task was broken off, or 0 */
} reference_op;

/* A task is a head's rows, however many: it looks itself whether to go on. */
static bool is_stopped(const reference_op *op) {
    int status = pf_stopped(op->engine);
    if (status < 0) atomic_store(op->stopped, status);
    return status < 0;
}

/* One head of one item, with its work space. */
typedef struct {
    const reference_op *op;
    int64_t item, head;
    pf_encoder encoder;
    float *x, *half, *coef, *f; /* (BLOCK, d), (BLOCK), (BLOCK), (BLOCK, r) */
    float *shift;               /* (L): log of what was divided out of a row's f, with |x|^2 / 2 */
    float top;                  /* T of the running document */
    int64_t top_row;            /* where it is; -1: no key */
} reference_work;

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* With *scratch NULL it only measures; returns the panel. */
static float *carve_all(reference_work *w, const reference_op *op, void **scratch) {
    w->x = carve(scratch, BLOCK * op->of.d);
    w->half = carve(scratch, BLOCK);
    w->coef = carve(scratch, BLOCK);
    w->f = carve(scratch, BLOCK * op->of.r);
    w->shift = carve(scratch, op->L);
    return carve(scratch, PF_PANEL);
}

static size_t work_bytes(const reference_op *op) {
    reference_work w;
    void *end = NULL;
    carve_all(&w, op, &end);
    return (size_t)(uintptr_t)end + pf_encoder_bytes(&op->of, BLOCK, PF_ENCODE_PULL);
}

static void work_open(reference_work *w, const reference_op *op, int64_t task, void *scratch) {
    *w = (reference_work){.op = op, .item = task / op->H, .head = task % op->H, .top_row = -1};
    float *panel = carve_all(w, op, &scratch);
    pf_encoder_open(&w->encoder, &op->of, w->head / op->group, BLOCK, PF_ENCODE_PULL, panel,
                    &scratch);
}

static int64_t row_index(const reference_work *w, int64_t row) {
    return (w->item * w->op->H + w->head) * w->op->L + row;
}

static bool hidden(const reference_work *w, int64_t row) {
    return w->op->mask && !pf_mask_keeps(w->op->mask, w->item, row);
}

/* Where the document ends that begins at row `first`. */
static int64_t document_end(const reference_work *w, int64_t first) {
    const reference_op *op = w->op;
    int64_t end = first + 1;
    if (op->documents) {
        const int32_t *row = op->documents + w->item * op->L;
        while (end < op->L && row[end] == row[first]) end++;
        return end;
    }
    for (int64_t i = 0; i < op->n_ends; i++)
        if (op->ends[i] > first) return pf_min(op->ends[i], op->L);
    return op->L;
}

/* Rows first .. first + n - 1: x scaled, half, f, and their shifts. */
static void encode(reference_work *w, int64_t first, int64_t n, float *f) {
    const reference_op *op = w->op;
    op->of.kern->rows_load(n, op->of.d, op->of.scale, pf_heads_row(&op->x, w->item, w->head, first),
                           op->x.row, w->x, w->half);
    pf_encode(&w->encoder, op->key ? PF_SIDE_KEY : PF_SIDE_QUERY, n, w->x, w->half, f,
              w->shift + first);
}

/* The largest u of the block's rows; the first NaN stays. */
static void find_top(reference_work *w, int64_t first, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float u = w->shift[first + i] + w->half[i];
        if (hidden(w, first + i) || isnan(w->top)) continue;
        if (w->top_row >= 0 && !(u > w->top) && !isnan(u)) continue;
        w->top = u;
        w->top_row = first + i;
    }
}

/* What f is to be multiplied by: e^(-|x|^2 / 2), of keys e^(t - |x|^2 / 2 - T). */
static float weight_of(const reference_work *w, int64_t row, float half) {
    if (!w->op->key) return expf(-half);
    return w->top_row < 0 || w->top == -INFINITY ? 0 : expf(w->shift[row] - w->top);
}

/* One document, begin .. end - 1. */
static void forward_rows(reference_work *w, int64_t begin, int64_t end) {
    const reference_op *op = w->op;
    const pf_kern *kern = op->of.kern;
    int64_t r = op->of.r;
    float *phi = op->phi + row_index(w, 0) * r;
    w->top_row = -1, w->top = 0;
    for (int64_t first = begin; first < end; first += BLOCK) {
        int64_t n = pf_min(BLOCK, end - first);
        if (is_stopped(op)) return;
        encode(w, first, n, phi + first * r);
        find_top(w, first, n);
        for (int64_t i = 0; i < n && !op->key; i++) {
            float *row = phi + (first + i) * r;
            kern->affine(r, weight_of(w, first + i, w->half[i]), op->eps, row, row);
        }
    }
    for (int64_t i = begin; i < end && op->key; i++) {
        if (hidden(w, i))
            kern->fill(r, 0, phi + i * r);
        else
            kern->affine(r, weight_of(w, i, 0), op->eps, phi + i * r, phi + i * r);
    }
}

static void forward_task(void *context, int64_t task, void *scratch) {
    reference_work w;
    work_open(&w, context, task, scratch);
    for (int64_t begin = 0, end; begin < w.op->L; begin = end) {
        end = document_end(&w, begin);
        forward_rows(&w, begin, end);
    }
}

/* ---- backward ---- */

static int64_t largest(int64_t n, const float *f) {
    int64_t top = 0;
    for (int64_t a = 1; a < n; a++)
        if (f[a] > f[top]) top = a;
    return top;
}

/* f, a row of the block, becomes dLoss/du, with its maximum a constant: p dphi; returns the sum. */
static float pull_row(reference_work *w, int64_t row, int64_t i) {
    const reference_op *op = w->op;
    const pf_kern *kern = op->of.kern;
    int64_t r = op->of.r;
    float *f = w->f + i * r;
    if (hidden(w, row)) { /* it may hold anything, and gets 0 */
        kern->fill(r, 0, f);
        kern->fill(op->of.d, 0, w->x + i * op->of.d);
        return 0;
    }
    kern->scale(r, weight_of(w, row, w->half[i]), f, f);
    kern->binary(PF_BINARY_MUL, r, f, 1, op->dphi + row_index(w, row) * r, 1, f);
    return kern->sum(r, f);
}

/* dx = scale (dLoss/du W + coef x) of the block's rows. */
static void put_rows(reference_work *w, int64_t first, int64_t n) {
    const reference_op *op = w->op;
    const pf_kern *kern = op->of.kern;
    int64_t d = op->of.d;
    kern->rows_scale(n, d, w->coef, 1, w->x, d, false, w->x, d);
    pf_project_back(&w->encoder.projector, n, w->f, op->of.r, w->x);
    pf_heads_put(kern, &op->dx, w->item, w->head, first, n, &op->of.scale, 0, w->x);
}

/* T is the u of one row and one feature: all that its change would do goes there. */
static void put_top(reference_work *w, int64_t feature, double total) {
    const reference_op *op = w->op;
    float *dx = pf_heads_row(&op->dx, w->item, w->head, w->top_row);
    op->of.kern->axpy(op->of.d, (float)(-total * (double)op->of.scale),
                      w->encoder.w + feature * op->of.d, dx);
}

static void backward_rows(reference_work *w, int64_t begin, int64_t end) {
    const reference_op *op = w->op;
    int64_t r = op->of.r, feature = 0;
    double total = 0;
    w->top_row = -1, w->top = 0;
    for (int64_t first = begin; first < end && op->key; first += BLOCK) {
        int64_t n = pf_min(BLOCK, end - first);
        if (is_stopped(op)) return;
        encode(w, first, n, w->f);
        find_top(w, first, n);
    }
    for (int64_t first = begin; first < end; first += BLOCK) {
        int64_t n = pf_min(BLOCK, end - first);
        if (is_stopped(op)) return;
        encode(w, first, n, w->f);
        for (int64_t i = 0; i < n; i++) {
            int64_t top = largest(r, w->f + i * r);
            if (op->key && first + i == w->top_row) feature = top;
            float sum = pull_row(w, first + i, i);
            w->coef[i] = -sum;
            total += (double)sum;
            if (!op->key) w->f[i * r + top] -= sum;
        }
        put_rows(w, first, n);
    }
    if (op->key && w->top_row >= 0) put_top(w, feature, total);
}

static void backward_task(void *context, int64_t task, void *scratch) {
    reference_work w;
    work_open(&w, context, task, scratch);
    for (int64_t begin = 0, end; begin < w.op->L; begin = end) {
        end = document_end(&w, begin);
        backward_rows(&w, begin, end);
    }
}

/* ---- the row ---- */

static const pf_attr_info reference_attrs[ATTRS] = {
#include "kernel_attrs.def"
    {.name = "key", .kind = PF_ATTR_BOOL, .doc = "rows of keys"},
};

/* Heads of the projection; x has as many, or a multiple. */
static int64_t own_heads(const pf_call *c) {
    const pf_tensor *w = c->in[KERNEL + PF_KERNEL_PROJECTION];
    return w && w->rank == 3 ? w->shape[0] : 1;
}

static int check_documents(const pf_call *c) {
    const pf_tensor *x = c->in[X], *documents = c->in[DOCUMENTS];
    if (c->in[CU_SEQLENS]) PF_TRY(pf_want(c, CU_SEQLENS, PF_I32));
    if (!documents) return PF_OK;
    PF_TRY(pf_want(c, DOCUMENTS, PF_I32));
    if (documents->rank == 2 && documents->shape[0] == x->shape[0] &&
        documents->shape[1] == x->shape[2])
        return PF_OK;
    return pf_shape_fail(c, "documents must be (batch, length)");
}

static int reference_shape(pf_call *c) {
    const pf_tensor *x = c->in[X];
    int64_t r;
    PF_TRY(pf_want(c, X, PF_F32));
    if (x->rank != 4) return pf_shape_fail(c, "rows must be (batch, heads, length, width)");
    PF_TRY(pf_call_kernel_check(c, 0, KERNEL, own_heads(c), x->shape[3], &r));
    const pf_tensor *mask = c->in[MASK];
    if (mask && (mask->rank != 2 || mask->shape[0] != x->shape[0] || mask->shape[1] != x->shape[2]))
        return pf_shape_fail(c, "mask must be (batch, length)");
    PF_TRY(check_documents(c));
    int64_t out[4] = {x->shape[0], x->shape[1], x->shape[2], r};
    return pf_set_shape(c, 0, PF_F32, 4, out);
}

static int take_documents(reference_op *op, pf_call *c) {
    pf_tensor *documents, *ends;
    PF_TRY(pf_call_compact(c, c->in[DOCUMENTS], &documents));
    PF_TRY(pf_call_compact(c, c->in[CU_SEQLENS], &ends));
    if (documents) op->documents = pf_i32(documents);
    if (ends) op->ends = pf_i32(ends), op->n_ends = pf_tensor_numel(ends);
    return PF_OK;
}

static int fill(reference_op *op, pf_call *c) {
    const int64_t *shape = c->in[X]->shape;
    *op = (reference_op){
        .key = c->attr[A_KEY].i != 0, .H = shape[1], .L = shape[2], .mask = c->in[MASK]};
    op->group = pf_max(op->H / own_heads(c), 1);
    PF_TRY(pf_call_encoding(&op->of, c, 0, KERNEL, own_heads(c), shape[3]));
    op->eps = op->of.args.eps;
    op->of.numbers.eps = 0;
    pf_encoding_settle(&op->of);
    PF_TRY(take_documents(op, c));
    return pf_call_heads(c, c->in[X], &op->x);
}

static int run(reference_op *op, pf_engine *engine, int64_t tasks, pf_task_fn task) {
    atomic_int stopped = 0;
    op->engine = engine, op->stopped = &stopped;
    PF_TRY(pf_parallel(engine, tasks, work_bytes(op), task, op));
    return pf_stopped_fail(engine, atomic_load(&stopped));
}

static int reference_forward(pf_call *c) {
    const int64_t *shape = c->in[X]->shape;
    reference_op op;
    PF_TRY(fill(&op, c));
    op.phi = pf_f32(c->out[0]);
    return run(&op, c->engine, shape[0] * shape[1], forward_task);
}

static int reference_backward(pf_call *c) {
    const int64_t *shape = c->in[X]->shape;
    reference_op op;
    pf_tensor *dphi, *dx;
    if (!c->need[X]) return PF_OK;
    PF_TRY(fill(&op, c));
    PF_TRY(pf_call_compact(c, c->dout[0], &dphi));
    op.dphi = pf_f32(dphi);
    PF_TRY(pf_heads_own_gradient(c, X, &dx, &op.dx));
    PF_TRY(run(&op, c->engine, shape[0] * shape[1], backward_task));
    return pf_grad_give(c, X, dx);
}

static double reference_products(const pf_call *c) {
    const int64_t *x = c->in[X]->shape;
    double m;
    return pf_call_kernel_products(c, KERNEL, (double)(x[0] * x[1] * x[2]), x[3], &m);
}

/* No row of the table: the kind favor alone calls it. */
static const pf_op reference_row = {.name = "reference_features",
                                    .args =
                                        "x, " PF_KERNEL_ARGS ", [mask], [documents], [cu_seqlens]",
                                    .results = "phi",
                                    .min_in = 1,
                                    .max_in = INPUTS,
                                    .n_out = 1,
                                    .uses = PF_USES_ALL_IN,
                                    .attrs = reference_attrs,
                                    .n_attrs = ATTRS,
                                    .shape = reference_shape,
                                    .products = reference_products,
                                    .forward = reference_forward,
                                    .backward = reference_backward};

/* rows: inputs of the attention (PF_IN_*). */
static int features_of(pf_tensor **phi, pf_engine *e, const pf_kernel *kernel, pf_side side,
                       pf_tensor *const *rows) {
    pf_attr attr[PF_MAX_ATTR];
    bool key = side == PF_SIDE_KEY;
    pf_tensor *in[INPUTS] = {rows[key ? PF_IN_K : PF_IN_Q]};
    pf_op_fill_defaults(&reference_row, attr);
    pf_kernel_to_attrs(kernel, attr);
    pf_kernel_to_inputs(kernel, in + KERNEL);
    attr[A_KEY].i = key;
    if (key) {
        in[MASK] = rows[PF_IN_MASK];
        in[DOCUMENTS] = rows[PF_IN_DOCUMENTS];
        in[CU_SEQLENS] = rows[PF_IN_CU_SEQLENS];
    }
    return pf_apply(e, &reference_row, in, INPUTS, attr, phi);
}

int pf_reference_call(pf_tensor **out, pf_engine *e, const pf_kernel *kernel,
                      pf_tensor *const *given) {
    pf_tensor *in[PF_LINEAR_INPUTS] = {NULL}, *made[PF_LINEAR_OUTPUTS] = {NULL}, *phi[2] = {NULL};
    memcpy(in, given, PF_LINEAR_INPUTS * sizeof *in);
    int status = features_of(&phi[0], e, kernel, PF_SIDE_QUERY, given);
    if (status >= 0) status = features_of(&phi[1], e, kernel, PF_SIDE_KEY, given);
    in[PF_IN_Q] = phi[0], in[PF_IN_K] = phi[1];
    if (status >= 0)
        status = pf_apply(e, &pf_op_linear_attention, in, PF_LINEAR_INPUTS, NULL, made);
    for (int i = 0; i < 2; i++) pf_tensor_release(&phi[i]);
    if (status >= 0) *out = made[PF_OUT];
    return status;
}
