/*
 * layer_positions.c - absolute positions added to the input: the sinusoids of Vaswani et
 * al. 2017, or a learned table; or, of what lies in a grid row by row, as pictures do, a table or
 * waves for each axis. Positions start again at every document; while streaming they come from the
 * state. Angles are made in double precision: at position 100,000 a float angle is wrong in the
 * third digit.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

#define KINDS "sinusoidal|learned|axial|axial_sinusoidal"
enum { AXES_MAX = 8, LENGTH_MAX = 1 << 24 };

static const pf_option_info positions_options[] = {
    {.name = "kind",
     .kind = PF_OPT_STRING,
     .string = "sinusoidal",
     .choices = KINDS,
     .doc = "fixed waves, sin in even channels and cos in odd ones, or a trained table; axial: a "
            "trained table for each of the axes, whose rows are summed; axial_sinusoidal: waves in "
            "equal shares of the channels, each with one axis"},
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "length",
     .kind = PF_OPT_INT,
     .number = 1024,
     .low = 1,
     .high = 1 << 24,
     .doc = "longest document of a learned table; sinusoids go on beyond"},
    {.name = "axes",
     .kind = PF_OPT_TREE,
     .later = true,
     .doc = "sizes of the axes, the last one counting fastest, as {height, width, colours}: a "
            "document has at most their product of positions"},
    {.name = "scale",
     .kind = PF_OPT_NUMBER,
     .number = 1,
     .low = 0,
     .high = 1e3,
     .doc = "height of the waves"},
};

typedef enum { SINUSOIDAL, LEARNED, AXIAL, AXIAL_SINUSOIDAL } positions_kind; /* as in KINDS */

typedef struct positions_self {
    positions_kind kind;
    int64_t length, dim; /* rows of the table: the learned one, or of waves made beforehand */
    int axes;            /* 0: one, without an end for waves */
    int64_t axis[AXES_MAX], end; /* positions that the axes hold; INT64_MAX: no axes */
    double scale;
} positions_self;

/* Rows of waves that are made beforehand, and numbers in all of them. */
enum { WAVES_KEPT = 1 << 14, WAVE_NUMBERS = 1 << 24 };

/* Where position `at` is on axis a. */
static int64_t coordinate(const positions_self *self, int a, int64_t at) {
    for (int i = self->axes - 1; i > a; i--) at /= self->axis[i];
    return a == 0 ? at : at % self->axis[a];
}

/* Channels c .. c+width-1 of rows first .. first+n-1: waves along axis a, sin in even channels of
 * the share, cos in odd ones, base 10000. */
static void wave_share(const positions_self *self, int a, int64_t c, int64_t width, int64_t first,
                       int64_t n, float *rows) {
    for (int64_t i = 0; i < width; i++) {
        double frequency = pow(10000, -(double)(i - i % 2) / (double)width);
        for (int64_t t = 0; t < n; t++) {
            double angle = (double)coordinate(self, a, first + t) * frequency;
            rows[t * self->dim + c + i] = (float)(self->scale * (i % 2 ? cos(angle) : sin(angle)));
        }
    }
}

/* Rows first .. first+n-1 of the waves. What is left of the channels stays 0. */
static void wave_rows(const positions_self *self, int64_t first, int64_t n, float *rows) {
    int shares = self->axes > 0 ? self->axes : 1;
    int64_t width = shares > 1 ? self->dim / shares / 2 * 2 : self->dim;
    if (shares > 1) memset(rows, 0, (size_t)(n * self->dim) * sizeof *rows);
    for (int a = 0; a < shares; a++) wave_share(self, a, a * width, width, first, n, rows);
}

/* self->axis, axes and end. */
static int resolve_axes(const pf_module *m, const pf_engine *e, positions_self *self) {
    const pf_config *list = pf_config_get(m->options, "axes");
    self->end = INT64_MAX;
    if (self->kind < AXIAL)
        return list ? pf_option_useless(m, e, "axes", "kind = axial or axial_sinusoidal") : PF_OK;
    self->axes = list && pf_config_kind_of(list) == PF_LIST ? pf_config_size(list) : 0;
    self->end = 1;
    for (int a = 0; a < self->axes && a < AXES_MAX; a++) {
        double size = pf_config_number(pf_config_at(list, a));
        bool good = size >= 1 && size <= LENGTH_MAX && size == floor(size);
        self->axis[a] = good ? (int64_t)size : 0;
        self->end = good ? pf_min(self->end * self->axis[a], LENGTH_MAX + 1) : LENGTH_MAX + 1;
    }
    if (self->axes > 0 && self->axes <= AXES_MAX && self->end <= LENGTH_MAX) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "positions: '%s' needs axes, a list of 1 to %d whole sizes whose product is at "
                   "most %d, as {64, 64, 3}",
                   pf_option_text(m, "kind"), AXES_MAX, LENGTH_MAX);
}

/* axis1 (n1, D), axis2 (n2, D) ...: together as large as a learned table's rows */
static int make_axes(pf_module *m, pf_engine *e) {
    const positions_self *self = m->self;
    char name[16], init[PF_INIT_TEXT];
    pf_init_text(init, "normal", 0.02 / sqrt(self->axes));
    for (int a = 0; a < self->axes; a++) {
        int64_t shape[2] = {self->axis[a], self->dim};
        snprintf(name, sizeof name, "axis%d", a + 1);
        PF_TRY(pf_module_param(m, e, name, 2, shape, init));
    }
    return PF_OK;
}

static int positions_build(pf_module *m, pf_engine *e) {
    positions_self *self = m->self;
    self->kind = (positions_kind)pf_choice_place(KINDS, pf_option_text(m, "kind"));
    self->length = pf_option_int(m, "length");
    self->dim = pf_option_int(m, "dim");
    self->scale = pf_option_number(m, "scale");
    PF_TRY(resolve_axes(m, e, self));
    int64_t shape[2] = {self->length, self->dim};
    if (self->kind == AXIAL) return make_axes(m, e);
    if (self->kind == LEARNED) return pf_module_param(m, e, "weight", 2, shape, "normal:0.02");
    int64_t kept = pf_min(WAVES_KEPT, pf_max(WAVE_NUMBERS / self->dim, 1));
    self->length = pf_min(self->axes > 0 ? self->end : self->length, kept);
    return PF_OK;
}

/* Are they waves? */
static bool waves(const positions_self *self) {
    return self->kind == SINUSOIDAL || self->kind == AXIAL_SINUSOIDAL;
}

static int positions_derive(pf_module *m) {
    const positions_self *self = m->self;
    int64_t shape[2] = {self->length, self->dim};
    pf_tensor *made = NULL;
    if (!waves(self) || m->n_slot > 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&made, m->heap, PF_F32, 2, shape));
    wave_rows(self, 0, self->length, pf_tensor_data(made));
    int status = pf_module_derived(m, "waves", made);
    pf_tensor_release(&made);
    return status;
}

/* *rows (n, D) += row `coordinate` of axis a's table, of positions first .. first+n-1 */
static int add_axis(const pf_module *m, pf_engine *e, int a, int64_t first, int64_t n,
                    pf_tensor **rows) {
    pf_tensor *at = NULL, *part = NULL, *sum = NULL;
    PF_TRY(pf_tensor_make(&at, e, PF_I32, 1, &n));
    for (int64_t t = 0; t < n; t++) pf_i32(at)[t] = (int32_t)coordinate(m->self, a, first + t);
    int status = pf_embedding(&part, e, m->slot[a].tensor, at);
    pf_tensor_release(&at);
    if (status >= 0 && *rows) status = pf_add(&sum, e, *rows, part);
    if (status >= 0) pf_replace(rows, sum ? sum : pf_tensor_retain(part));
    pf_tensor_release(&part);
    return status;
}

static int axis_rows(const pf_module *m, pf_engine *e, int64_t first, int64_t n, pf_tensor **rows) {
    const positions_self *self = m->self;
    int status = PF_OK;
    for (int a = 0; a < self->axes && status >= 0; a++) {
        status = add_axis(m, e, a, first, n, rows);
    }
    if (status < 0) pf_tensor_release(rows);
    return status;
}

/* (n, D): what is added at positions first .. first+n-1. */
static int position_rows(const pf_module *m, pf_engine *e, int64_t first, int64_t n,
                         pf_tensor **rows) {
    const positions_self *self = m->self;
    int64_t shape[2] = {n, self->dim}, end = self->kind == LEARNED ? self->length : self->end;
    if (first + n > end) {
        return pf_fail(PF_EINVAL,
                       self->axes > 0 ? "positions: the axes hold %lld positions, %lld are needed "
                                        "(option 'axes')"
                                      : "positions: the learned table holds %lld positions, "
                                        "%lld are needed (option 'length')",
                       (long long)end, (long long)(first + n));
    }
    if (self->kind == AXIAL) return axis_rows(m, e, first, n, rows);
    if (first + n <= self->length) {
        return pf_slice(rows, e, m->slot[0].tensor, 0, first, first + n);
    }
    PF_TRY(pf_tensor_make(rows, e, PF_F32, 2, shape));
    wave_rows(self, first, n, pf_tensor_data(*rows));
    return PF_OK;
}

/* (B, L, D): what is added when positions start again at every document. */
static int document_rows(const pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **rows) {
    pf_tensor *positions = NULL, *table = NULL;
    int64_t longest = 0;
    PF_TRY(pf_run_positions(&positions, e, run, &longest));
    int status = position_rows(m, e, 0, longest, &table);
    if (status >= 0) status = pf_embedding(rows, e, table, positions);
    pf_tensor_release(&table);
    pf_tensor_release(&positions);
    return status;
}

/* (B, D) of a step in which every sequence is at a position of its own. */
static int rows_apart(const pf_module *m, pf_engine *e, const pf_state *state, pf_tensor **rows) {
    int64_t shape[2] = {state->batch, ((const positions_self *)m->self)->dim};
    int status = pf_tensor_make(rows, e, PF_F32, 2, shape);
    for (int64_t b = 0; b < state->batch && status >= 0; b++) {
        pf_tensor *one = NULL, *place = NULL;
        status = position_rows(m, e, state->row[b]->position, 1, &one);
        if (status >= 0) status = pf_slice(&place, e, *rows, 0, b, b + 1);
        if (status >= 0) status = pf_tensor_copy(place, one);
        pf_tensor_release(&place);
        pf_tensor_release(&one);
    }
    if (status < 0) pf_tensor_release(rows);
    return status;
}

/* What is added to x. */
static int rows_of(const pf_module *m, pf_engine *e, const pf_run *run, const pf_tensor *x,
                   pf_tensor **rows) {
    if (run->pass->documents) return document_rows(m, e, run, rows);
    if (run->state && run->state->row) return rows_apart(m, e, run->state, rows);
    int64_t first = run->state ? run->state->position : 0;
    return position_rows(m, e, first, run->mode == PF_RUN_STEP ? 1 : x->shape[1], rows);
}

/* x (B, L, D), or (B, D) in a step -> the same */
static int positions_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    pf_tensor *rows = NULL;
    int rank = run->mode == PF_RUN_STEP ? 2 : 3;
    if (x->rank != rank) {
        return pf_fail(PF_ESHAPE, "positions: x is %s, must be %s", pf_shape_of(x),
                       rank == 2 ? "(B, D)" : "(B, L, D)");
    }
    int status = rows_of(m, e, run, x, &rows);
    if (status >= 0) status = pf_add(y, e, x, rows);
    pf_tensor_release(&rows);
    return status;
}

const pf_layer pf_layer_positions = {
    .name = "positions",
    .doc = "Adds absolute positions: x (B, L, D) -> (B, L, D).",
    .options = positions_options,
    .n_options = PF_COUNT(positions_options),
    .width = "dim",
    .self_bytes = sizeof(positions_self),
    .build = positions_build,
    .derive = positions_derive,
    .run = positions_run,
};

static int64_t count_up(int64_t length, int32_t *row) {
    int64_t longest = 0;
    int32_t document = 0, position = 0;
    for (int64_t t = 0; t < length; t++) {
        position = t > 0 && row[t] == document ? position + 1 : 0;
        document = row[t];
        row[t] = position;
        longest = pf_max(longest, position + 1);
    }
    return longest;
}

int pf_document_positions(pf_tensor **positions, pf_engine *e, const pf_tensor *documents,
                          int64_t *longest) {
    pf_tensor *t = NULL;
    int64_t batch = documents->shape[0], length = documents->shape[1], most = 0;
    size_t bytes = (size_t)(batch * length) * sizeof(int32_t);
    PF_TRY(pf_tensor_make(&t, e, PF_I32, 2, documents->shape));
    int32_t *row = pf_tensor_data(t);
    int status = pf_tensor_read(documents, row, bytes);
    for (int64_t b = 0; b < batch && status >= 0; b++) {
        most = pf_max(most, count_up(length, row + b * length));
    }
    if (status < 0) pf_tensor_release(&t);
    if (longest) *longest = most;
    *positions = t;
    return status;
}

int pf_part_of(pf_tensor **part, pf_engine *e, pf_tensor *whole, int64_t first, int64_t end) {
    pf_tensor *view = NULL;
    *part = NULL;
    if (!whole) return PF_OK;
    PF_TRY(pf_slice(&view, e, whole, 1, first, end));
    int status = pf_tensor_compact(part, e, view);
    pf_tensor_release(&view);
    return status;
}

/* The first document of each row goes on from rows before: all (B, L) of it count from there. */
static void count_from(pf_tensor *all, const pf_tensor *documents, const pf_tensor *before,
                       int64_t *longest) {
    int64_t L = all->shape[1];
    for (int64_t b = 0; b < all->shape[0]; b++) {
        const int32_t *id = pf_i32(documents) + b * L;
        int32_t *row = pf_i32(all) + b * L, had = pf_i32(before)[b];
        int64_t n = 0;
        for (; n < L && id[n] == id[0]; n++) row[n] += had;
        if (longest) *longest = pf_max(*longest, n + had);
    }
}

/* (B, L) of a whole row in slices, without what stands in front of it. */
static int whole_positions(pf_tensor **all, pf_engine *e, const pf_part *slice, int64_t *longest) {
    pf_tensor *documents = NULL;
    int64_t end = slice->documents->shape[1];
    if (slice->ahead == 0) return pf_document_positions(all, e, slice->documents, longest);
    PF_TRY(pf_part_of(&documents, e, slice->documents, slice->ahead, end));
    int status = pf_document_positions(all, e, documents, longest);
    if (status >= 0) count_from(*all, documents, slice->before, longest);
    pf_tensor_release(&documents);
    return status;
}

int pf_run_positions(pf_tensor **positions, pf_engine *e, const pf_run *run, int64_t *longest) {
    const pf_part *slice = run->slice;
    pf_tensor *all = NULL;
    if (!slice) return pf_document_positions(positions, e, run->pass->documents, longest);
    PF_TRY(whole_positions(&all, e, slice, longest));
    int64_t length = run->pass->documents->shape[1], first = slice->first - slice->ahead;
    int status = pf_part_of(positions, e, all, first, first + length);
    pf_tensor_release(&all);
    return status;
}
