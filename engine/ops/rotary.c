/*
 * rotary.c - rotary positions (RoFormer, Su et al. 2021): each pair of numbers of a head is
 * turned by position * base^(-2i/n).
 *
 * What holds: angles, cosines and sines are computed in double, so that position 10^6 is as
 * exact as position 1; a row's numbers depend on its position only. The table has a row for
 * each position between the smallest and the largest, or, when those lie far apart, one for
 * each (batch, place). The output lies in memory as the input does: (B, H, L, d) seen
 * through (B, L, H, d) memory stays so, and the gradient too.
 */
#include <math.h>
#include <string.h>

#include "kern.h"
#include "op.h"

enum { ATTR_BASE, ATTR_HALVES, ATTR_OFFSET, ATTR_DIMS };
enum { ROW_GRAIN = 128, TABLE_GRAIN = 16 };

static const pf_attr_info rotary_attrs[] = {
    {.name = "base",
     .kind = PF_ATTR_FLOAT,
     .def = 10000,
     .doc = "of the geometric series of wavelengths"},
    {.name = "halves",
     .kind = PF_ATTR_BOOL,
     .def = 0,
     .doc = "pair number i with i + n/2 instead of its neighbour"},
    {.name = "offset", .kind = PF_ATTR_INT, .def = 0, .doc = "added to every position"},
    {.name = "dims",
     .kind = PF_ATTR_INT,
     .def = 0,
     .doc = "rotate only the first so many numbers of each head; 0: all"},
};

typedef struct {
    const pf_kern *kern;
    int64_t heads, length, width, turned; /* of (B, H, L, d), and how much of d is turned */
    int64_t offset, start;                /* added to positions; position of table row 0 */
    const int32_t *positions;             /* (B, L), or NULL */
    bool by_place;                        /* table row b L + l, else position - start */
    float *cosine, *sine;                 /* (rows, turned / 2) */
    double *frequency;                    /* (turned / 2) */
    bool halves, heads_inner;
    float sign;
    const float *from;
    float *to;
    int64_t from_stride[4], to_stride[4];
} rotary_job;

static int64_t turned_of(const pf_call *c) {
    int64_t dims = c->attr[ATTR_DIMS].i;
    return dims ? dims : c->in[0]->shape[3];
}

/* x (B, H, L, d), [positions (B, L) i32] */
static int rotary_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    const pf_tensor *x = c->in[0], *positions = c->in[1];
    if (x->rank != 4) return pf_shape_fail(c, "x must be (B, H, L, d)");
    int64_t turned = turned_of(c);
    if (turned < 0 || turned % 2 != 0 || turned > x->shape[3])
        return pf_shape_fail(c,
                             "numbers are turned in pairs: %lld of %lld of a head are not "
                             "possible",
                             (long long)turned, (long long)x->shape[3]);
    if (!(c->attr[ATTR_BASE].f > 0)) return pf_fail(PF_EINVAL, "rotary: base must be > 0");
    if (c->attr[ATTR_OFFSET].i < INT32_MIN || c->attr[ATTR_OFFSET].i > INT32_MAX)
        return pf_fail(PF_EINVAL, "rotary: the offset must fit in 32 bits");
    if (!positions) return pf_same_as(c, 0, 0);
    PF_TRY(pf_want(c, 1, PF_I32));
    if (positions->rank != 2 || positions->shape[0] != x->shape[0] ||
        positions->shape[1] != x->shape[2])
        return pf_shape_fail(c, "positions must be (B, L) = [%lld, %lld]", (long long)x->shape[0],
                             (long long)x->shape[2]);
    return pf_same_as(c, 0, 0);
}

/* ---- layout ---- */

/* Dimensions of x, outermost in memory first, the last always last. */
static void order_of(const pf_tensor *x, int order[4]) {
    for (int i = 0; i < 4; i++) order[i] = i;
    for (int i = 1; i < 3; i++)
        for (int j = i; j > 0 && x->stride[order[j]] > x->stride[order[j - 1]]; j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
}

static int make_like(pf_tensor **t, pf_call *c, const pf_tensor *layout) {
    int order[4];
    order_of(layout, order);
    return pf_tensor_make_ordered(t, c->engine, PF_F32, 4, layout->shape, order);
}

/* ---- table ---- */

/* Rows first .. last-1: cos and sin of position * frequency. */
static void fill_table(void *context, int64_t first, int64_t last) {
    const rotary_job *job = context;
    int64_t half = job->turned / 2;
    for (int64_t r = first; r < last; r++) {
        int64_t position = (job->by_place ? job->positions[r] : r) + job->start;
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)position * job->frequency[i];
            job->cosine[r * half + i] = (float)cos(angle);
            job->sine[r * half + i] = (float)sin(angle);
        }
    }
}

/* Decides what the table's rows are; returns their number. */
static int64_t plan_table(rotary_job *job, int64_t places) {
    job->start = job->offset;
    job->by_place = false;
    if (!job->positions) return job->length;
    int64_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t i = 0; i < places; i++) {
        low = pf_min(low, job->positions[i]);
        high = pf_max(high, job->positions[i]);
    }
    job->by_place = high - low >= places;
    if (job->by_place) return places;
    job->start = low + job->offset;
    return high - low + 1;
}

/* Table row of place l of item b. */
static int64_t table_row(const rotary_job *job, int64_t b, int64_t l) {
    int64_t place = b * job->length + l;
    if (!job->positions) return l;
    return job->by_place ? place : job->positions[place] + job->offset - job->start;
}

/* ---- turning ---- */

/* Rows (b, h, l) or (b, l, h), in the order in which they lie in memory. */
static void turn_rows(void *context, int64_t first, int64_t last) {
    const rotary_job *job = context;
    int64_t n = job->turned, half = n / 2;
    for (int64_t row = first; row < last; row++) {
        int64_t b = row / job->length / job->heads, in_item = row % (job->length * job->heads);
        int64_t l = job->heads_inner ? in_item / job->heads : in_item % job->length;
        int64_t h = job->heads_inner ? in_item % job->heads : in_item / job->length;
        const int64_t *f = job->from_stride, *t = job->to_stride;
        const float *from = job->from + b * f[0] + h * f[1] + l * f[2];
        float *to = job->to + b * t[0] + h * t[1] + l * t[2];
        int64_t at = table_row(job, b, l) * half;
        job->kern->rotary(n, job->halves, from, job->cosine + at, job->sine + at, job->sign, to);
        if (n < job->width) memcpy(to + n, from + n, (size_t)(job->width - n) * sizeof *to);
    }
}

/* to = from turned by its positions (sign 1), or back (sign -1). The numbers of a head must lie
 * in a row, the rows may lie anywhere. */
static int turn(pf_call *c, pf_tensor *from, pf_tensor *to, float sign) {
    const int64_t *dim = from->shape;
    int64_t rows = dim[0] * dim[1] * dim[2];
    pf_tensor *positions;
    if (rows == 0 || dim[3] == 0) return PF_OK;
    if (dim[3] > 1 && from->stride[3] != 1) PF_TRY(pf_call_compact(c, from, &from));
    PF_TRY(pf_call_compact(c, c->in[1], &positions));
    rotary_job job = {.kern = c->engine->kern,
                      .heads = dim[1],
                      .length = dim[2],
                      .width = dim[3],
                      .turned = turned_of(c),
                      .sign = sign,
                      .positions = positions ? pf_i32(positions) : NULL,
                      .offset = c->attr[ATTR_OFFSET].i,
                      .halves = c->attr[ATTR_HALVES].i != 0,
                      .heads_inner = from->stride[2] > from->stride[1],
                      .from = pf_f32(from),
                      .to = pf_f32(to)};
    memcpy(job.from_stride, from->stride, sizeof job.from_stride);
    memcpy(job.to_stride, to->stride, sizeof job.to_stride);
    int64_t half = job.turned / 2, table_rows = plan_table(&job, dim[0] * dim[2]);
    job.frequency = pf_call_alloc(c, (size_t)half * sizeof *job.frequency);
    job.cosine = pf_call_alloc(c, 2 * (size_t)(table_rows * half) * sizeof *job.cosine);
    if (!job.frequency || !job.cosine) return PF_ENOMEM;
    job.sine = job.cosine + table_rows * half;
    for (int64_t i = 0; i < half; i++)
        job.frequency[i] = pow(c->attr[ATTR_BASE].f, -2.0 * (double)i / (double)job.turned);
    PF_TRY(pf_parallel_range(c->engine, table_rows, TABLE_GRAIN, fill_table, &job));
    return pf_parallel_range(c->engine, rows, ROW_GRAIN, turn_rows, &job);
}

static int rotary_forward(pf_call *c) {
    PF_TRY(make_like(&c->out[0], c, c->in[0]));
    return turn(c, c->in[0], c->out[0], 1);
}

static int rotary_backward(pf_call *c) {
    pf_tensor *dx;
    if (!c->need[0]) return PF_OK;
    PF_TRY(make_like(&dx, c, c->in[0]));
    PF_TRY(pf_call_hold(c, dx));
    PF_TRY(turn(c, c->dout[0], dx, -1));
    return pf_grad_give(c, 0, dx);
}

const pf_op pf_op_rotary = {
    .name = "rotary",
    .args = "x, [positions]",
    .results = "y",
    .doc = "Turns pair i of the n = `dims` (or d) first numbers of each head by position * "
           "base^(-2i/n): x (B, H, L, d), positions (B, L) i32, or 0 .. L-1. Scores of turned "
           "queries and keys depend on the distance of their positions only (Su et al. 2021).",
    .min_in = 1,
    .max_in = 2,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS,
    .uses = PF_USES_IN(1),
    .attrs = rotary_attrs,
    .n_attrs = PF_COUNT(rotary_attrs),
    .shape = rotary_shape,
    .forward = rotary_forward,
    .backward = rotary_backward,
};
