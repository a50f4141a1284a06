/*
 * sorting.c - sort, argsort and topk along one dimension. What holds: equal elements stay in their
 * order, ascending and descending; a NaN is larger than all numbers, and all NaN are equal, as are
 * 0 and -0. A line is one task's, and of its elements only their order is worked out: values are
 * moved as they are.
 *
 * An element becomes a key whose order as an unsigned number is the wanted one, in the upper half
 * of an item with its place in the lower one: so no two items are equal.
 */
#include <math.h>
#include <string.h>

#include "looks.h"
#include "pick.h"

enum { GRAIN = 16384, FEW = 64, DIGITS = 256, KEY_BYTES = 4 };

enum { SORT, ARGSORT, TOPK }; /* pf_op.of */

typedef struct {
    bool whole;      /* of i32 */
    bool descending; /* the largest first */
    pf_pick pick;    /* of x; m: how many of each line are wanted */
    int64_t lines;   /* lines a task */
    const uint32_t *x;
    uint32_t *value; /* (before, m, after), or NULL */
    int32_t *place;
    pf_looks *looks;
} sort_job;

/* ---- one line ------------------------------------------------------------------ */

static uint32_t key_of(const sort_job *job, uint32_t bits) {
    const uint32_t sign = 0x80000000;
    uint32_t key = bits ^ sign;
    if (!job->whole) {
        float x;
        memcpy(&x, &bits, sizeof x);
        key = isnan(x) ? UINT32_MAX : x == 0 ? sign : bits & sign ? ~bits : bits | sign;
    }
    return job->descending ? ~key : key;
}

static int digit_of(uint64_t item, int byte) { return (int)(item >> (32 + 8 * byte) & 255); }

/* In place, for few. */
static void insert_items(uint64_t *item, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        uint64_t moved = item[i];
        int64_t at = i;
        for (; at > 0 && item[at - 1] > moved; at--) item[at] = item[at - 1];
        item[at] = moved;
    }
}

/* start[d]: how many items have a digit below d, of n; start has room for one more. */
static void count_digits(pf_looks *looks, const uint64_t *item, int64_t n, int byte,
                         int64_t *start) {
    for (int64_t at = 0, end = 0; pf_next_piece(looks, n, &at, &end);)
        for (int64_t i = at; i < end; i++) start[digit_of(item[i], byte) + 1]++;
}

/* Digit by digit, the least first; items come in the order of their places. Gives the one of the
 * two arrays that has them in the end, if nothing stopped it. */
static uint64_t *sort_items(pf_looks *looks, uint64_t *item, uint64_t *other, int64_t n) {
    if (n <= FEW) {
        insert_items(item, n);
        return item;
    }
    for (int byte = 0; byte < KEY_BYTES; byte++) {
        int64_t start[DIGITS + 1] = {0};
        count_digits(looks, item, n, byte, start);
        if (pf_has_stopped(looks)) return item;
        if (start[digit_of(item[0], byte) + 1] == n) continue; /* all have this digit */
        for (int d = 0; d < DIGITS; d++) start[d + 1] += start[d];
        for (int64_t at = 0, end = 0; pf_next_piece(looks, n, &at, &end);)
            for (int64_t i = at; i < end; i++) other[start[digit_of(item[i], byte)]++] = item[i];
        uint64_t *swap = item;
        item = other;
        other = swap;
    }
    return item;
}

/* The key of the item that is number k (from 0) in order, and how many items of that key belong to
 * the first k + 1: digit by digit, the most significant first. Any, if it was stopped. */
static uint32_t find_key(pf_looks *looks, const uint64_t *item, int64_t n, int64_t k,
                         int64_t *of_key) {
    uint64_t prefix = 0, known = 0;
    for (int byte = KEY_BYTES - 1; byte >= 0; byte--) {
        int64_t count[DIGITS] = {0};
        int digit = 0;
        for (int64_t at = 0, end = 0; pf_next_piece(looks, n, &at, &end);)
            for (int64_t i = at; i < end; i++)
                if ((item[i] & known) == prefix) count[digit_of(item[i], byte)]++;
        if (pf_has_stopped(looks)) break;
        for (; k >= count[digit]; digit++) k -= count[digit];
        prefix |= (uint64_t)digit << (32 + 8 * byte);
        known |= (uint64_t)255 << (32 + 8 * byte);
    }
    *of_key = k + 1;
    return (uint32_t)(prefix >> 32);
}

/* The m first items in order, m >= 1, to the front, in the order of their places. */
static void keep_first(pf_looks *looks, uint64_t *item, int64_t n, int64_t m) {
    int64_t left, to = 0;
    uint32_t last = find_key(looks, item, n, m - 1, &left);
    for (int64_t at = 0, end = 0; pf_next_piece(looks, n, &at, &end);)
        for (int64_t i = at; i < end; i++) {
            uint32_t key = (uint32_t)(item[i] >> 32);
            if (key < last || (key == last && left-- > 0)) item[to++] = item[i];
        }
}

static void sort_line(const sort_job *job, int64_t line, uint64_t *item) {
    const pf_pick *p = &job->pick;
    int64_t from = line / p->after * p->n * p->after + line % p->after;
    int64_t to = line / p->after * p->m * p->after + line % p->after;
    for (int64_t at = 0, end = 0; pf_next_piece(job->looks, p->n, &at, &end);)
        for (int64_t i = at; i < end; i++)
            item[i] = (uint64_t)key_of(job, job->x[from + i * p->after]) << 32 | (uint64_t)i;
    if (pf_has_stopped(job->looks)) return;
    if (p->m < p->n) keep_first(job->looks, item, p->n, p->m);
    if (pf_has_stopped(job->looks)) return; /* its items are no line's */
    item = sort_items(job->looks, item, item + p->n, p->m);
    for (int64_t at = 0, end = 0; pf_next_piece(job->looks, p->m, &at, &end);)
        for (int64_t i = at; i < end; i++) {
            int64_t place = (int64_t)(item[i] & UINT32_MAX);
            job->place[to + i * p->after] = (int32_t)place;
            if (job->value) job->value[to + i * p->after] = job->x[from + place * p->after];
        }
}

static void sort_lines(void *context, int64_t task, void *scratch) {
    const sort_job *job = context;
    int64_t all = job->pick.before * job->pick.after;
    int64_t last = pf_min(all, (task + 1) * job->lines);
    for (int64_t line = task * job->lines; line < last; line++) sort_line(job, line, scratch);
}

/* ---- the ops -------------------------------------------------------------------- */

/* Attributes: argsort and sort dim, descending; topk k, dim, largest. */
static int sort_dim(const pf_call *c, int *dim) {
    return pf_dim((int)c->attr[c->op->of == TOPK].i, c->in[0]->rank, c->op->name, dim);
}

static int sort_shape(pf_call *c) {
    const pf_tensor *x = c->in[0];
    int64_t shape[PF_MAX_RANK];
    pf_pick pick;
    int dim;
    PF_TRY(sort_dim(c, &dim));
    PF_TRY(pf_pick_split(&pick, c, x, dim));
    for (int d = 0; d < x->rank; d++) shape[d] = x->shape[d];
    if (c->op->of == TOPK) {
        shape[dim] = c->attr[0].i;
        if (shape[dim] < 0 || shape[dim] > x->shape[dim])
            return pf_shape_fail(c, "k is %lld, but dimension %s has %lld elements",
                                 (long long)shape[dim], pf_place_dim(dim),
                                 (long long)x->shape[dim]);
    }
    int places = c->op->of == ARGSORT ? 0 : 1;
    if (places == 1) PF_TRY(pf_set_shape(c, 0, x->dtype, x->rank, shape));
    return pf_set_shape(c, places, PF_I32, x->rank, shape);
}

/* Positions are kept for backward: those that were given out are the caller's to change. */
static int keep_places(pf_call *c, const pf_tensor *place) {
    if (!c->record) return PF_OK;
    PF_TRY(pf_tensor_make(&c->saved[0], c->engine, PF_I32, place->rank, place->shape));
    return pf_tensor_copy(c->saved[0], place);
}

static int sort_forward(pf_call *c) {
    bool values = c->op->of != ARGSORT;
    pf_tensor *x, *place = c->out[values ? 1 : 0];
    pf_looks looks = {.engine = c->engine};
    sort_job job = {.whole = c->in[0]->dtype == PF_I32, .looks = &looks};
    size_t bytes;
    int dim;
    PF_TRY(sort_dim(c, &dim));
    PF_TRY(pf_pick_split(&job.pick, c, c->in[0], dim));
    PF_TRY(pf_call_compact(c, c->in[0], &x));
    job.pick.m = place->shape[dim];
    job.descending = c->attr[c->op->of == TOPK ? 2 : 1].i;
    job.x = (const uint32_t *)(const void *)pf_f32(x);
    job.value = values ? (uint32_t *)(void *)pf_f32(c->out[0]) : NULL;
    job.place = pf_i32(place);
    job.lines = pf_max(1, GRAIN / pf_max(1, job.pick.n));
    int64_t lines = job.pick.m > 0 ? job.pick.before * job.pick.after : 0;
    if (!pf_mul_size((size_t)job.pick.n, 2 * sizeof(uint64_t), &bytes))
        return pf_shape_fail(c, "lines of %lld elements: too long", (long long)job.pick.n);
    int64_t tasks = pf_ceil_div(lines, job.lines);
    PF_TRY(pf_looks_end(&looks, pf_parallel(c->engine, tasks, bytes, sort_lines, &job)));
    return values ? keep_places(c, place) : PF_OK;
}

static int sort_backward(pf_call *c) {
    pf_pick pick;
    pf_tensor *dy, *dx;
    int dim;
    if (!c->need[0] || !c->dout[0]) return PF_OK;
    PF_TRY(sort_dim(c, &dim));
    PF_TRY(pf_pick_split(&pick, c, c->in[0], dim));
    pick.m = c->dout[0]->shape[dim];
    pick.each = true;
    pick.place = pf_i32(c->saved[0]);
    PF_TRY(pf_call_compact(c, c->dout[0], &dy));
    PF_TRY(pf_grad_slot(c, 0, &dx));
    return pf_pick_add(c->engine, &pick, PF_F32, pf_f32(dy), pf_f32(dx));
}

/* ---- rows ------------------------------------------------------------------------ */

static const pf_attr_info sort_attrs[] = {
    {.name = "dim", .kind = PF_ATTR_DIM, .def = -1, .doc = "the dimension"},
    {.name = "descending", .kind = PF_ATTR_BOOL, .def = 0, .doc = "the largest first"},
};

static const pf_attr_info topk_attrs[] = {
    {.name = "k", .kind = PF_ATTR_INT, .required = true, .doc = "how many"},
    {.name = "dim", .kind = PF_ATTR_DIM, .def = -1, .doc = "the dimension"},
    {.name = "largest", .kind = PF_ATTR_BOOL, .def = 1, .doc = "false: the smallest"},
};

#define ORDER " Equal elements stay in their order; a NaN is larger than all numbers. f32 or i32."

const pf_op pf_op_sort = {
    .name = "sort",
    .of = SORT,
    .args = "x",
    .results = "values, positions",
    .doc = "The elements of x in ascending order along `dim`, and (i32) the positions that they "
           "had." ORDER,
    .min_in = 1,
    .max_in = 1,
    .n_out = 2,
    .places = PF_USES_OUT(1),
    .attrs = sort_attrs,
    .n_attrs = PF_COUNT(sort_attrs),
    .shape = sort_shape,
    .forward = sort_forward,
    .backward = sort_backward,
};

const pf_op pf_op_argsort = {
    .name = "argsort",
    .of = ARGSORT,
    .args = "x",
    .results = "positions",
    .doc = "The positions (i32) of the elements of x in ascending order along `dim`." ORDER,
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_NO_GRAD,
    .places = PF_USES_OUT(0),
    .attrs = sort_attrs,
    .n_attrs = PF_COUNT(sort_attrs),
    .shape = sort_shape,
    .forward = sort_forward,
};

const pf_op pf_op_topk = {
    .name = "topk",
    .of = TOPK,
    .args = "x",
    .results = "values, positions",
    .doc = "The k largest elements of x along `dim`, the largest first, and (i32) the positions "
           "that they had." ORDER,
    .min_in = 1,
    .max_in = 1,
    .n_out = 2,
    .places = PF_USES_OUT(1),
    .attrs = topk_attrs,
    .n_attrs = PF_COUNT(topk_attrs),
    .shape = sort_shape,
    .forward = sort_forward,
    .backward = sort_backward,
};
