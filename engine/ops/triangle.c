/*
 * triangle.c - tril and triu: one side of a diagonal of the last two dimensions, 0 on the other,
 * whatever stood there.
 */
#include <string.h>

#include "op.h"

enum { GRAIN = 16384 };

enum { LOWER, UPPER }; /* pf_op.of */

typedef uint32_t __attribute__((may_alias)) word;

typedef struct {
    bool upper;
    int64_t rows, columns, diagonal; /* of one matrix */
    const word *from;
    word *to;
} triangle_job;

static int triangle_shape(pf_call *c) {
    if (c->in[0]->rank < 2) return pf_shape_fail(c, "x must have at least two dimensions");
    return pf_same_as(c, 0, 0);
}

/* Rows first .. last-1 of all matrices. The diagonal of row i stands at column i + diagonal; what
 * is kept are columns up to it, or from it on. */
static void triangle_rows(void *context, int64_t first, int64_t last) {
    const triangle_job *job = context;
    int64_t n = job->columns;
    for (int64_t row = first; row < last; row++) {
        int64_t at = row % job->rows + job->diagonal;
        int64_t begin = job->upper ? pf_max(0, pf_min(at, n)) : 0;
        int64_t end = job->upper ? n : pf_max(0, pf_min(at + 1, n));
        word *to = job->to + row * n;
        memset(to, 0, (size_t)n * sizeof *to);
        if (begin < end)
            memcpy(to + begin, job->from + row * n + begin, (size_t)(end - begin) * sizeof *to);
    }
}

static int triangle(pf_call *c, const pf_tensor *x, pf_tensor *to) {
    pf_tensor *from;
    int64_t rows = x->shape[x->rank - 2], columns = x->shape[x->rank - 1];
    int64_t most = PTRDIFF_MAX / 4, diagonal = c->attr[0].i;
    PF_TRY(pf_call_compact(c, x, &from));
    triangle_job job = {.upper = c->op->of == UPPER,
                        .rows = rows,
                        .columns = columns,
                        .diagonal = pf_max(-most, pf_min(diagonal, most)),
                        .from = (const word *)pf_f32(from),
                        .to = (word *)pf_f32(to)};
    int64_t all = columns > 0 ? pf_tensor_numel(x) / columns : 0;
    return pf_parallel_range(c->engine, all, pf_max(1, GRAIN / pf_max(1, columns)), triangle_rows,
                             &job);
}

static int triangle_forward(pf_call *c) { return triangle(c, c->in[0], c->out[0]); }

static int triangle_backward(pf_call *c) {
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(pf_call_make(c, PF_F32, c->dout[0]->rank, c->dout[0]->shape, &dx));
    PF_TRY(triangle(c, c->dout[0], dx));
    return pf_grad_give(c, 0, dx);
}

static const pf_attr_info triangle_attrs[] = {
    {.name = "diagonal",
     .kind = PF_ATTR_INT,
     .def = 0,
     .doc = "0: the main one; n > 0: the n-th above it; n < 0: below it"},
};

#define TRIANGLE(which)                                                                            \
    .of = (which), .args = "x", .results = "y", .min_in = 1, .max_in = 1, .n_out = 1,              \
    .flags = PF_OP_PICKS, .attrs = triangle_attrs, .n_attrs = PF_COUNT(triangle_attrs),            \
    .shape = triangle_shape, .forward = triangle_forward, .backward = triangle_backward

const pf_op pf_op_tril = {
    TRIANGLE(LOWER),
    .name = "tril",
    .doc = "x (..., M, N) with 0 above the diagonal: kept is column j of row i where j - i <= "
           "`diagonal`. Any dtype.",
};

const pf_op pf_op_triu = {
    TRIANGLE(UPPER),
    .name = "triu",
    .doc = "x (..., M, N) with 0 below the diagonal: kept is column j of row i where j - i >= "
           "`diagonal`. Any dtype.",
};
