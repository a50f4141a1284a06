/*
 * op_fuzz.c - bytes as calls of ops: which, with tensors of any shape and dtype (rank 0 and size 0
 * among them, and views), any attributes, with a tape and without. An error or results; what was
 * recorded walks back, and the engine holds nothing afterwards.
 */
#include <math.h>

#include "fuzz_file.h"

enum { INPUTS = 24, ATTRS = 16, RESULTS = 4, WORK = 1 << 20 };

/* The rest of an input; 0 behind its end. */
typedef struct {
    const uint8_t *at, *end;
} reader;

static unsigned take(reader *r) { return r->at < r->end ? *r->at++ : 0; }

/* Each op, with a few shapes that many take. */
void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    uint8_t made[2 + 2 + 64];
    int n = pf_op_count(fuzz_engine());
    for (int i = 0; i < n && i < 250; i++) {
        memset(made, 0, sizeof made);
        made[0] = (uint8_t)i;
        made[1] = (uint8_t)(i % 4 ? 0xff : 0x3f); /* with all inputs, and a tape */
        made[2] = (uint8_t)(i % 5);
        give(made, sizeof made);
    }
}

/* ---- inputs ---- */

/* Shapes that fit one another, more often than chance has it. */
static int shape_of(reader *r, unsigned family, int64_t shape[PF_MAX_RANK]) {
    static const int64_t known[][4] = {{2, 2, 3, 4}, {2, 3, 4, 0}, {3, 4, 0, 0},
                                       {4, 4, 0, 0}, {4, 0, 0, 0}, {2, 3, 0, 0}};
    static const int64_t sizes[] = {1, 2, 3, 4, 0, 5, 8, 17};
    unsigned how = take(r);
    int rank = 0;
    if (how < 200) {
        const int64_t *one = known[(family + how / 16) % 6];
        for (; rank < 4 && one[rank]; rank++) shape[rank] = one[rank];
        if (how % 16 == 15 && rank > 0) shape[how / 16 % (unsigned)rank] = 0;
        return rank;
    }
    for (rank = 0; rank < (int)(how % 9) && rank < PF_MAX_RANK; rank++)
        shape[rank] = sizes[take(r) % 8];
    return rank;
}

static pf_tensor *fill(pf_engine *e, unsigned how, int rank, const int64_t *shape) {
    static const double values[] = {1, 0, -1, 2, 1e30, -1e30, 0.5, 3};
    pf_tensor *t = NULL;
    if (how % 4 < 2)
        pf_tensor_rand(&t, e, rank, shape, true);
    else if (how % 4 == 2)
        pf_tensor_full(&t, e, PF_I32, rank, shape, values[how / 4 % 4]);
    else
        pf_tensor_full(&t, e, how & 64 ? PF_I32 : PF_F32, rank, shape, values[how / 4 % 8]);
    return t;
}

/* The same with its dimensions the other way round: a view that is not contiguous. */
static void turn(pf_engine *e, pf_tensor **t) {
    int op = pf_op_find(e, "permute");
    pf_attr attrs[ATTRS];
    pf_tensor *view = NULL;
    if (op < 0 || pf_op_defaults(e, op, attrs) < 0) return;
    attrs[0].n = pf_tensor_rank(*t);
    for (int d = 0; d < attrs[0].n; d++) attrs[0].list[d] = attrs[0].n - 1 - d;
    if (pf_op_apply(e, op, t, 1, attrs, &view) < 0) return;
    pf_tensor_release(t);
    *t = view;
}

static pf_tensor *tensor_of(pf_engine *e, reader *r, unsigned family) {
    int64_t shape[PF_MAX_RANK];
    int rank = shape_of(r, family, shape);
    unsigned how = take(r);
    pf_tensor *t = fill(e, how, rank, shape);
    if (t && how > 240) turn(e, &t);
    if (t && how < 128 && pf_tensor_dtype(t) == PF_F32) pf_tensor_require_grad(t, true);
    return t;
}

/* ---- attributes ---- */

static void attribute(reader *r, pf_attr *attr) {
    static const int64_t whole[] = {0, 1,         2,         3,         -1,    -2,        4,   7,
                                    8, INT32_MAX, INT64_MAX, INT64_MIN, -1000, 1LL << 52, 255, 64};
    static const double numbers[] = {0, 1, -1, 0.5, 1e-30, 1e30, 2, NAN};
    unsigned which = take(r);
    if (which < 128) return; /* the default */
    attr->i = whole[which % 16];
    attr->f = which % 16 == 15 ? INFINITY : numbers[which % 8];
    attr->n = (int)(take(r) % (PF_MAX_RANK + 1));
    for (int k = 0; k < attr->n; k++) attr->list[k] = whole[take(r) % 16];
}

/* ---- a call ---- */

/* The sum of the squares of what has a gradient, walked back. */
static void walk_back(pf_engine *e, pf_tape *tape, pf_tensor *const *out, int n) {
    pf_tensor *seed = NULL;
    for (int o = 0; o < n; o++) {
        if (!out[o] || !pf_tensor_requires_grad(out[o])) continue;
        int64_t shape[PF_MAX_RANK];
        int rank = pf_tensor_rank(out[o]);
        for (int d = 0; d < rank; d++) shape[d] = pf_tensor_size(out[o], d);
        if (pf_tensor_full(&seed, e, PF_F32, rank, shape, 1) >= 0)
            pf_tape_backward(tape, out[o], seed);
        pf_tensor_release(&seed);
        return;
    }
}

static void call(pf_engine *e, reader *r, const pf_op_info *info, int op) {
    pf_tensor *in[INPUTS] = {0}, *out[RESULTS] = {0};
    pf_attr attrs[ATTRS];
    pf_tape *tape = NULL;
    unsigned flags = take(r), family = take(r);
    int n = info->min_inputs, most = info->max_inputs < INPUTS ? info->max_inputs : INPUTS;
    if (flags & 128) n = most;
    if (flags < 8) n = (int)flags;
    for (int i = 0; i < n; i++) {
        if (i < info->min_inputs || take(r) % 4) in[i] = tensor_of(e, r, family);
    }
    if (pf_op_defaults(e, op, attrs) < 0) __builtin_trap();
    for (int i = 0; i < info->n_attrs; i++) attribute(r, &attrs[i]);
    if ((flags & 16) && pf_tape_open(&tape, e) < 0) tape = NULL;
    if (pf_op_apply(e, op, in, n, flags & 64 ? attrs : NULL, out) >= 0) {
        fuzz_good++;
        if (tape) walk_back(e, tape, out, info->outputs);
    } else if (!pf_last_error()[0]) {
        __builtin_trap();
    }
    for (int o = 0; o < RESULTS; o++) pf_tensor_release(&out[o]);
    pf_tape_close(&tape);
    for (int i = 0; i < INPUTS; i++) pf_tensor_release(&in[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine_anew(WORK);
    reader r = {data, data + size};
    pf_op_info info = {.size = sizeof info};
    int op = (int)(take(&r) % (unsigned)pf_op_count(e));
    pf_seed(e, 1); /* the same numbers whatever came before */
    if (pf_op_at(e, op, &info) < 0 || info.outputs > RESULTS || info.n_attrs > ATTRS)
        __builtin_trap();
    call(e, &r, &info, op);
    return 0;
}
