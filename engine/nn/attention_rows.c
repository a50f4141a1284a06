/*
 * attention_rows.c - windows that carry rows: where a row goes on from rows before it (carry.c),
 * what is kept of those are the inputs of the layer, and keys and values are made of them again,
 * by the weights of today (Dai et al. 2019, arXiv 1901.02860, section 3.2; the other form keeps
 * the keys and values that the weights of then made).
 *
 * The layer's node holds `rows` (B, n, D), and of the keys that they make which may be seen; the
 * window's node below it is empty between two parts. A part puts the keys and values of the rows
 * there, so that the kind goes on as it does from any.
 */
#include <string.h>

#include "attention_layer.h"

enum { ROWS, ROWS_THERE };         /* of the layer's node */
enum { KEYS, VALUES, KEYS_THERE }; /* of the window's */

static int trim(pf_state *s, pf_engine *e);

const pf_state_kind pf_state_rows = {
    .name = "rows",
    .tensor = {"rows", "there"},
    .parts_only = 1u << ROWS | 1u << ROWS_THERE,
    .anew = 1u << ROWS | 1u << ROWS_THERE,
    .trim = trim,
};

static bool holds_rows(const pf_run *run) {
    return run->slice && run->state && run->state->kind == &pf_state_rows;
}

/* ---- a part ---- */

int pf_rows_join(pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **all, int64_t *n) {
    pf_tensor *in[2] = {holds_rows(run) ? run->state->tensor[ROWS] : NULL, x};
    pf_attr dim = {.i = 1};
    *n = in[0] ? in[0]->shape[1] : 0;
    if (*n > 0) return pf_apply(e, &pf_op_concat, in, 2, &dim, all);
    *all = pf_tensor_retain(x);
    return PF_OK;
}

/* What is not of a row's first document is not seen, wherever it is put. */
int pf_rows_positions(pf_engine *e, int64_t n, pf_tensor **positions) {
    const pf_tensor *of = *positions;
    pf_tensor *all = NULL;
    if (!of || n == 0) return PF_OK;
    int64_t L = of->shape[1], shape[2] = {of->shape[0], n + L};
    PF_TRY(pf_tensor_make(&all, e, PF_I32, 2, shape));
    for (int64_t b = 0; b < shape[0]; b++) {
        const int32_t *from = pf_i32(of) + b * of->stride[0];
        int32_t *to = pf_i32(all) + b * shape[1];
        for (int64_t i = 0; i < n; i++) to[i] = from[0] - (int32_t)(n - i);
        for (int64_t i = 0; i < L; i++) to[n + i] = from[i * of->stride[1]];
    }
    pf_replace(positions, all);
    return PF_OK;
}

/* *x <- its rows from `first` on; of them `before` gets those in front. */
static int part_rows(pf_engine *e, int64_t first, pf_tensor **x, pf_tensor **before) {
    pf_tensor *rest = NULL, *front = NULL;
    int64_t all = (*x)->shape[2];
    PF_TRY(pf_slice(&rest, e, *x, 2, first, all));
    int status = before ? pf_slice(&front, e, *x, 2, 0, first) : PF_OK;
    if (status < 0) {
        pf_tensor_release(&rest);
        return status;
    }
    pf_replace(x, rest);
    if (before) pf_replace(before, front);
    return PF_OK;
}

int pf_rows_enter(pf_engine *e, const pf_run *run, int64_t n, pf_tensor **side) {
    if (!holds_rows(run) || n == 0) return PF_OK;
    pf_state *window = run->state->child[0];
    PF_TRY(part_rows(e, n, &side[0], NULL));
    PF_TRY(part_rows(e, n, &side[1], &window->tensor[KEYS]));
    PF_TRY(part_rows(e, n, &side[2], &window->tensor[VALUES]));
    pf_replace(&window->tensor[KEYS_THERE], pf_tensor_retain(run->state->tensor[ROWS_THERE]));
    return PF_OK;
}

/* Keys or values of nothing. */
static int empty(pf_state *window, int i) {
    const pf_tensor *of = window->tensor[i];
    int64_t shape[4] = {of->shape[0], of->shape[1], 0, of->shape[3]};
    pf_tensor *none = NULL;
    PF_TRY(pf_tensor_make_lasting(&none, window->heap, PF_F32, 4, shape));
    pf_replace(&window->tensor[i], none);
    return PF_OK;
}

int pf_rows_leave(pf_engine *e, const pf_run *run, pf_tensor *all) {
    if (!holds_rows(run)) return PF_OK;
    pf_state *s = run->state, *window = s->child[0];
    int64_t total = all->shape[1], rows = window->tensor[KEYS]->shape[2];
    pf_tensor *left = NULL;
    PF_TRY(pf_slice(&left, e, all, 1, total - rows, total));
    pf_replace(&s->tensor[ROWS], left);
    pf_replace(&s->tensor[ROWS_THERE], window->tensor[KEYS_THERE]);
    window->tensor[KEYS_THERE] = NULL;
    for (int i = KEYS; i <= VALUES; i++) PF_TRY(empty(window, i));
    window->recent = window->position; /* it holds no row */
    return PF_OK;
}

/* ---- what goes on to the next row ---- */

/* The last s->keep rows are seen; whole runs before them go, as of a window's keys. */
static int trim(pf_state *s, pf_engine *e) {
    if (!s->tensor[ROWS]) return PF_OK;
    int64_t n = s->tensor[ROWS]->shape[1], more = pf_max(n - s->keep, 0);
    int64_t drop = more / PF_TILE * PF_TILE;
    for (int i = ROWS; i <= ROWS_THERE && more > 0; i++) {
        pf_tensor *view = NULL, *own = NULL;
        PF_TRY(pf_slice(&view, e, s->tensor[i], i == ROWS ? 1 : 2, drop, n));
        int status = pf_tensor_detach(&own, e, view);
        pf_tensor_release(&view);
        PF_TRY(status);
        pf_replace(&s->tensor[i], own);
    }
    for (int64_t b = 0; b < s->batch && more > drop; b++) {
        memset(pf_i32(s->tensor[ROWS_THERE]) + b * (n - drop), 0,
               (size_t)(more - drop) * sizeof(int32_t));
    }
    return PF_OK;
}
