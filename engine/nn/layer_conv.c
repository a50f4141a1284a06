/*
 * layer_conv.c - a short depthwise convolution along the sequence (op short_conv), which
 * gives attention the neighbours of a position. It starts as the identity. Its streaming
 * state is the last width - 1 inputs; zeros stand for what was before the beginning.
 * Shift is such a convolution with taps of 0 and 1 that nobody trains.
 */
#include "sequence.h"

static const pf_option_info conv_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "width",
     .kind = PF_OPT_INT,
     .number = 4,
     .low = 1,
     .high = 16,
     .doc = "positions a channel looks at"},
    {.name = "causal", .kind = PF_OPT_BOOL, .doc = "looks back only; false: centred"},
};

typedef struct conv_self {
    int64_t width, dim;
    bool causal;
} conv_self;

/* weight (width, D): 1 on the position itself, small on the others */
static int conv_build(pf_module *m, pf_engine *e) {
    conv_self *self = m->self;
    int64_t width = pf_option_int(m, "width"), dim = pf_option_int(m, "dim");
    int64_t shape[2] = {width, dim};
    *self = (conv_self){width, dim, pf_option_int(m, "causal") != 0};
    PF_TRY(pf_module_param(m, e, "weight", 2, shape, "normal:0.1"));
    if (e->loading) return PF_OK;
    int64_t own = self->causal ? 0 : (width - 1) / 2;
    for (int64_t i = 0; i < dim; i++) {
        PF_TRY(pf_tensor_set(m->slot[0].tensor, own * dim + i, 1));
    }
    return PF_OK;
}

static int convolve(pf_module *m, pf_engine *e, const pf_pass *pass, pf_tensor *x, pf_tensor **y) {
    pf_tensor *in[4] = {x, m->slot[0].tensor, pass->documents, pass->mask};
    pf_attr causal = {.i = ((conv_self *)m->self)->causal};
    return pf_apply(e, &pf_op_short_conv, in, 4, &causal, y);
}

/* history (B, W-1, D), x (B, L, D) -> (B, W-1+L, D) */
static int join(pf_engine *e, pf_tensor *history, pf_tensor *x, pf_tensor **y) {
    pf_tensor *in[2] = {history, x};
    pf_attr dim = {.i = 1};
    return pf_apply(e, &pf_op_concat, in, 2, &dim, y);
}

/* x (B, L, D) after the state's history -> (B, L, D); another history takes its place. */
static int stream_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *history = run->state ? run->state->tensor[0] : NULL;
    if (!history)
        return pf_fail(PF_ESTATE, "%s: the state is not one of this model", m->type->name);
    int64_t kept = history->shape[1], length = x->shape[1];
    pf_tensor *rows = NULL, *all = NULL, *tail = NULL, *own = NULL;
    int status = join(e, history, x, &rows);
    if (status >= 0) status = convolve(m, e, run->pass, rows, &all);
    if (status >= 0) status = pf_slice(y, e, all, 1, kept, kept + length);
    if (status >= 0) status = pf_slice(&tail, e, rows, 1, length, length + kept);
    if (status >= 0) status = pf_tensor_detach(&own, e, tail);
    if (status >= 0) pf_replace(&run->state->tensor[0], own);
    if (status < 0) pf_tensor_release(y);
    pf_tensor_release(&tail);
    pf_tensor_release(&all);
    pf_tensor_release(&rows);
    return status;
}

/* The inputs before a slice, x (B, L, D) -> with them (B, W-1+L, D), and what says of them which
 * taps count; the first slice has none. */
static int slice_inputs(pf_engine *e, const pf_run *run, pf_tensor *x, pf_pass *pass,
                        pf_tensor **rows) {
    const pf_part *s = run->slice;
    int64_t kept = run->state->tensor[0]->shape[1], first = s->first - kept;
    int64_t end = s->first + x->shape[1];
    *rows = NULL;
    if (s->first == 0) {
        *rows = pf_tensor_retain(x);
        pass->documents = pf_tensor_retain(pass->documents);
        pass->mask = pf_tensor_retain(pass->mask);
        return PF_OK;
    }
    pass->documents = pass->mask = NULL;
    PF_TRY(pf_part_of(&pass->documents, e, s->documents, first, end));
    PF_TRY(pf_part_of(&pass->mask, e, s->mask, first, end));
    return join(e, run->state->tensor[0], x, rows);
}

/* The inputs around a segment, x (B, L, D) -> with them, and what says of them which taps count. */
static int segment_inputs(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                          pf_pass *pass, int64_t *before, pf_tensor **rows) {
    const conv_self *self = m->self;
    const pf_part *s = run->slice;
    int64_t most = self->width - 1;
    PF_TRY(pf_segment_rows(rows, before, e, run, x, most, self->causal ? 0 : most));
    int64_t first = s->first - *before, end = first + (*rows)->shape[1];
    PF_TRY(pf_part_of(&pass->documents, e, s->documents, first, end));
    return pf_part_of(&pass->mask, e, s->mask, first, end);
}

/* x (B, L, D) of a segment -> (B, L, D) */
static int segment_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_tensor **y) {
    pf_pass pass = *run->pass;
    pf_tensor *rows = NULL, *all = NULL;
    int64_t before = 0;
    pass.documents = pass.mask = NULL;
    int status = segment_inputs(m, e, run, x, &pass, &before, &rows);
    if (status >= 0) status = convolve(m, e, &pass, rows, &all);
    int64_t back = ((conv_self *)m->self)->width - 1;
    if (status >= 0) status = pf_segment_leave_rows(&all, e, run, rows, back);
    if (status >= 0) status = pf_slice(y, e, all, 1, before, before + x->shape[1]);
    pf_tensor_release(&all);
    pf_tensor_release(&rows);
    pf_tensor_release(&pass.documents);
    pf_tensor_release(&pass.mask);
    return status;
}

/* x (B, L, D) of a slice -> (B, L, D); the state's history becomes the slice's last inputs. Shorter
 * than that is a whole row alone, after which nobody reads it. */
static int slice_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    if (!run->state || !run->state->tensor[0]) {
        return pf_fail(PF_ESTATE, "%s: the state is not one of this model", m->type->name);
    }
    pf_tensor **history = &run->state->tensor[0], *rows = NULL, *all = NULL, *tail = NULL;
    int64_t kept = (*history)->shape[1];
    pf_pass pass = *run->pass;
    if (kept == 0) return convolve(m, e, run->pass, x, y);
    int status = slice_inputs(e, run, x, &pass, &rows);
    if (status >= 0) status = convolve(m, e, &pass, rows, &all);
    if (status >= 0) {
        int64_t length = rows->shape[1];
        status = pf_slice(y, e, all, 1, length - x->shape[1], length);
        if (status >= 0 && length >= kept)
            status = pf_slice(&tail, e, rows, 1, length - kept, length);
    }
    if (status >= 0 && tail) pf_replace(history, tail);
    if (status < 0) pf_tensor_release(y);
    pf_tensor_release(&all);
    pf_tensor_release(&rows);
    pf_tensor_release(&pass.documents);
    pf_tensor_release(&pass.mask);
    return status;
}

/* x (B, D) as a sequence of one. */
static int step(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *row = NULL, *out = NULL;
    if (x->rank != 2)
        return pf_fail(PF_ESHAPE, "%s: x is %s; a step is (B, D)", m->type->name, pf_shape_of(x));
    int64_t shape[3] = {x->shape[0], 1, x->shape[1]}, flat[2] = {x->shape[0], x->shape[1]};
    int status = pf_reshape(&row, e, x, 3, shape);
    if (status >= 0) status = stream_rows(m, e, run, row, &out);
    if (status >= 0) status = pf_reshape(y, e, out, 2, flat);
    pf_tensor_release(&out);
    pf_tensor_release(&row);
    return status;
}

/* x (B, L, D) -> (B, L, D) */
static int conv_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    if (run->mode == PF_RUN_STEP) return step(m, e, run, x, y);
    if (x->rank != 3)
        return pf_fail(PF_ESHAPE, "%s: x is %s, must be (B, L, D)", m->type->name, pf_shape_of(x));
    if (run->slice && run->slice->segmented) return segment_rows(m, e, run, x, y);
    if (run->slice) return slice_rows(m, e, run, x, y);
    return run->state ? stream_rows(m, e, run, x, y) : convolve(m, e, run->pass, x, y);
}

static const pf_state_kind state_conv = {.name = "conv", .tensor = {"history"}};

static int conv_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    const conv_self *self = m->self;
    if (!self->causal && self->width > 1) {
        return pf_fail(PF_EINVAL, "conv: only a causal convolution can stream");
    }
    int64_t shape[3] = {batch, self->width - 1, self->dim};
    PF_TRY(pf_state_new(state, e, batch, 0));
    (*state)->kind = &state_conv;
    int status = pf_tensor_make_lasting(&(*state)->tensor[0], e->heap, PF_F32, 3, shape);
    if (status >= 0) status = pf_tensor_fill((*state)->tensor[0], 0);
    if (status < 0) pf_state_close(state);
    return status;
}

static bool conv_whole(const pf_module *m) {
    return !pf_option_int(m, "causal") && pf_option_int(m, "width") > 1;
}

static int conv_segments(const pf_module *m, bool causal) {
    const conv_self *self = m->self;
    if (self->causal || self->width == 1 || !causal) return PF_OK;
    return pf_fail(PF_EINVAL, "a convolution that sees the future needs a rank for each segment, "
                              "and no chain");
}

const pf_layer pf_layer_conv = {
    .name = "conv",
    .doc = "Short depthwise convolution along the sequence: every channel mixes `width` "
           "positions of its document.",
    .options = conv_options,
    .n_options = PF_COUNT(conv_options),
    .width = "dim",
    .self_bytes = sizeof(conv_self),
    .build = conv_build,
    .run = conv_run,
    .whole = conv_whole,
    .segments = conv_segments,
    .state = conv_state,
    .rows = PF_ROWS_JOINED,
};

/* ---- shift ---- */

static const pf_option_info shift_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
};

static int shift_build(pf_module *m, pf_engine *e) {
    (void)e;
    *(conv_self *)m->self = (conv_self){2, pf_option_int(m, "dim"), true};
    return PF_OK;
}

/* taps (2, D): the position before for the first half of the channels, itself for the others */
static int shift_derive(pf_module *m) {
    int64_t dim = ((conv_self *)m->self)->dim, shape[2] = {2, dim};
    pf_tensor *taps = NULL;
    if (m->n_slot > 0) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&taps, m->heap, PF_F32, 2, shape));
    float *tap = pf_tensor_data(taps);
    for (int64_t i = 0; i < dim; i++) {
        tap[i] = i < dim / 2 ? 0.0f : 1.0f;
        tap[dim + i] = 1 - tap[i];
    }
    int status = pf_module_derived(m, "taps", taps);
    pf_tensor_release(&taps);
    return status;
}

const pf_layer pf_layer_shift = {
    .name = "shift",
    .doc = "The first half of the channels come from the position before, in its document; the "
           "others stay (RWKV's token shift): x (B, L, D) -> (B, L, D).",
    .options = shift_options,
    .n_options = PF_COUNT(shift_options),
    .width = "dim",
    .self_bytes = sizeof(conv_self),
    .build = shift_build,
    .derive = shift_derive,
    .run = conv_run,
    .segments = conv_segments,
    .state = conv_state,
    .rows = PF_ROWS_JOINED,
};
