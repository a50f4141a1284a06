/*
 * layer_positions.c - absolute positions added to the input: the sinusoids of Vaswani et
 * al. 2017, or a learned table. Positions start again at every document; while streaming
 * they come from the state. Angles are made in double precision: at position 100,000 a
 * float angle is wrong in the third digit.
 */
#include <math.h>
#include <string.h>

#include "module.h"

static const pf_option_info positions_options[] = {
    {.name = "kind",
     .kind = PF_OPT_STRING,
     .string = "sinusoidal",
     .choices = "sinusoidal|learned",
     .doc = "fixed waves, sin in even channels and cos in odd ones, or a trained table"},
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
    {.name = "scale",
     .kind = PF_OPT_NUMBER,
     .number = 1,
     .low = 0,
     .high = 1e3,
     .doc = "height of the waves"},
};

typedef struct positions_self {
    bool learned;
    int64_t length, dim; /* rows of the table: the learned one, or of waves made beforehand */
    double scale;
} positions_self;

/* Rows of waves that are made beforehand, and numbers in all of them. */
enum { WAVES_KEPT = 1 << 14, WAVE_NUMBERS = 1 << 24 };

/* Rows first .. first+n-1 of the waves: even channels sin, odd ones cos, base 10000. */
static void wave_rows(const positions_self *self, int64_t first, int64_t n, float *rows) {
    for (int64_t c = 0; c < self->dim; c++) {
        double frequency = pow(10000, -(double)(c / 2 * 2) / (double)self->dim);
        for (int64_t t = 0; t < n; t++) {
            double angle = (double)(first + t) * frequency;
            rows[t * self->dim + c] = (float)(self->scale * (c % 2 ? cos(angle) : sin(angle)));
        }
    }
}

static int positions_build(pf_module *m, pf_engine *e) {
    positions_self *self = m->self;
    self->learned = strcmp(pf_option_text(m, "kind"), "learned") == 0;
    self->length = pf_option_int(m, "length");
    self->dim = pf_option_int(m, "dim");
    self->scale = pf_option_number(m, "scale");
    int64_t kept = pf_min(WAVES_KEPT, pf_max(WAVE_NUMBERS / self->dim, 1));
    if (!self->learned) self->length = pf_min(self->length, kept);
    int64_t shape[2] = {self->length, self->dim};
    return self->learned ? pf_module_param(m, e, "weight", 2, shape, "normal:0.02") : PF_OK;
}

static int positions_derive(pf_module *m) {
    const positions_self *self = m->self;
    int64_t shape[2] = {self->length, self->dim};
    pf_tensor *waves = NULL;
    if (self->learned || m->n_slot > 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&waves, m->heap, PF_F32, 2, shape));
    wave_rows(self, 0, self->length, pf_tensor_data(waves));
    int status = pf_module_derived(m, "waves", waves);
    pf_tensor_release(&waves);
    return status;
}

/* (n, D): what is added at positions first .. first+n-1. */
static int position_rows(const pf_module *m, pf_engine *e, int64_t first, int64_t n,
                         pf_tensor **rows) {
    const positions_self *self = m->self;
    if (first + n <= self->length) {
        return pf_slice(rows, e, m->slot[0].tensor, 0, first, first + n);
    }
    if (self->learned) {
        return pf_fail(PF_EINVAL,
                       "positions: the learned table holds %lld positions, "
                       "%lld are needed (option 'length')",
                       (long long)self->length, (long long)(first + n));
    }
    int64_t shape[2] = {n, self->dim};
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

/* x (B, L, D), or (B, D) in a step -> the same */
static int positions_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                         pf_tensor **y) {
    pf_tensor *rows = NULL;
    int rank = run->mode == PF_RUN_STEP ? 2 : 3;
    if (x->rank != rank) {
        return pf_fail(PF_ESHAPE, "positions: x is %s, must be %s", pf_shape_of(x),
                       rank == 2 ? "(B, D)" : "(B, L, D)");
    }
    int64_t first = run->state ? run->state->position : 0, n = rank == 2 ? 1 : x->shape[1];
    int status = run->pass->documents ? document_rows(m, e, run, &rows)
                                      : position_rows(m, e, first, n, &rows);
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

int pf_run_positions(pf_tensor **positions, pf_engine *e, const pf_run *run, int64_t *longest) {
    const pf_part *slice = run->slice;
    pf_tensor *all = NULL;
    if (!slice) return pf_document_positions(positions, e, run->pass->documents, longest);
    PF_TRY(pf_document_positions(&all, e, slice->documents, longest));
    int64_t length = run->pass->documents->shape[1];
    int status = pf_part_of(positions, e, all, slice->first, slice->first + length);
    pf_tensor_release(&all);
    return status;
}
