/*
 * layer_ngrams.c - a memory of what followed short pieces of sequence: every position looks
 * its last n tokens up in a hashed table, for n = shortest .. longest, and adds what stands
 * there to its embedding (Pagnoni et al. 2024, "Byte Latent Transformer", section 3.2.1).
 *
 * The table begins at zero, so that a piece never seen says nothing, and costs no products:
 * capacity that a processor has in plenty. Its streaming state is the last longest - 1 ids. What
 * the mask hides is in nobody's piece (ops/ngrams.c).
 */
#include "sequence.h"

static const pf_option_info ngrams_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
    {.name = "shortest",
     .kind = PF_OPT_INT,
     .number = 2,
     .low = 1,
     .high = 16,
     .doc = "tokens of the shortest n-gram"},
    {.name = "longest",
     .kind = PF_OPT_INT,
     .number = 4,
     .low = 1,
     .high = 16,
     .doc = "tokens of the longest n-gram"},
    {.name = "buckets",
     .kind = PF_OPT_INT,
     .number = 65536,
     .low = 1,
     .high = 1 << 26,
     .doc = "rows of the table for each n"},
    {.name = "width",
     .kind = PF_OPT_INT,
     .number = 16,
     .low = 1,
     .high = 1 << 16,
     .doc = "numbers a row"},
};

/* weight ((longest - shortest + 1) buckets, width), up (D, orders width) */
static int ngrams_build(pf_module *m, pf_engine *e) {
    int64_t orders = pf_option_int(m, "longest") - pf_option_int(m, "shortest") + 1;
    int64_t width = pf_option_int(m, "width");
    if (orders < 1) {
        return pf_fail(PF_EINVAL, "ngrams: longest is %lld, must be at least shortest, %lld",
                       (long long)pf_option_int(m, "longest"),
                       (long long)pf_option_int(m, "shortest"));
    }
    int64_t shape[2] = {orders * pf_option_int(m, "buckets"), width};
    PF_TRY(pf_module_param(m, e, "weight", 2, shape, "zeros"));
    /* What one occurrence writes is small: the way up makes it as loud as an embedding. */
    pf_config *up = pf_linear_options(m, orders * width, pf_option_int(m, "dim"), false, 4);
    return pf_module_inner(m, e, "up", "linear", up);
}

/* ids (B, L), before (B, longest - 1) or NULL -> (B, L, D) */
static int look_up(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids, pf_tensor *before,
                   pf_tensor **y) {
    pf_tensor *in[4] = {ids, before ? NULL : run->pass->documents, before, run->pass->mask};
    pf_attr attr[3] = {{.i = pf_option_int(m, "shortest")},
                       {.i = pf_option_int(m, "longest")},
                       {.i = pf_option_int(m, "buckets")}};
    pf_tensor *numbers = NULL, *rows = NULL, *flat = NULL;
    int status = pf_apply(e, &pf_op_ngrams, in, 4, attr, &numbers);
    if (status >= 0) status = pf_embedding(&rows, e, m->slot[0].tensor, numbers);
    if (status >= 0) {
        int64_t shape[3] = {ids->shape[0], ids->shape[1], rows->shape[2] * rows->shape[3]};
        status = pf_reshape(&flat, e, rows, 3, shape);
    }
    if (status >= 0) status = pf_run_part(m, 0, e, run, flat, y);
    pf_tensor_release(&flat);
    pf_tensor_release(&rows);
    pf_tensor_release(&numbers);
    return status;
}

/* The state's ids *before (B, kept) and the new ones (B, L): the last `kept` take its place. */
static int move_on(pf_engine *e, pf_tensor **before, pf_tensor *ids) {
    pf_tensor *in[2] = {*before, ids}, *all = NULL, *tail = NULL, *own = NULL;
    pf_attr dim = {.i = 1};
    int64_t kept = (*before)->shape[1], length = ids->shape[1];
    if (kept == 0) return PF_OK;
    int status = pf_apply(e, &pf_op_concat, in, 2, &dim, &all);
    if (status >= 0) status = pf_slice(&tail, e, all, 1, length, length + kept);
    if (status >= 0) status = pf_tensor_detach(&own, e, tail);
    if (status >= 0) pf_replace(before, own);
    pf_tensor_release(&tail);
    pf_tensor_release(&all);
    return status;
}

static int stream_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids,
                       pf_tensor **y) {
    pf_tensor *before = run->state->tensor[0];
    if (!before) return pf_fail(PF_ESTATE, "ngrams: the state is not one of this model");
    int status = look_up(m, e, run, ids, before, y);
    if (status >= 0) status = move_on(e, &run->state->tensor[0], ids);
    if (status < 0) pf_tensor_release(y);
    return status;
}

/* The rows of a slice: those of its ids and the ids before it, of which the former are taken. */
static int look_up_after(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *all,
                         int64_t kept, pf_tensor **y) {
    pf_pass pass = *run->pass;
    pf_run inner = *run;
    pf_tensor *rows = NULL;
    int64_t length = all->shape[1], first = run->slice->first - kept;
    pass.mask = NULL;
    PF_TRY(pf_part_of(&pass.documents, e, run->slice->documents, first, first + length));
    int status = pf_part_of(&pass.mask, e, run->slice->mask, first, first + length);
    inner.pass = &pass;
    if (status >= 0) status = look_up(m, e, &inner, all, NULL, &rows);
    if (status >= 0) status = pf_slice(y, e, rows, 1, kept, length);
    pf_tensor_release(&rows);
    pf_tensor_release(&pass.documents);
    pf_tensor_release(&pass.mask);
    return status;
}

/* ids (B, L) of a segment -> (B, L, D); every rank has those before it. */
static int segment_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids,
                        pf_tensor **y) {
    int64_t kept = pf_option_int(m, "longest") - 1;
    pf_tensor *in[2] = {NULL, ids}, *all = NULL;
    pf_attr dim = {.i = 1};
    if (kept == 0 || run->slice->first == 0) return look_up(m, e, run, ids, NULL, y);
    PF_TRY(pf_segment_ids(&in[0], e, run, kept));
    int status = pf_apply(e, &pf_op_concat, in, 2, &dim, &all);
    if (status >= 0) status = look_up_after(m, e, run, all, kept, y);
    pf_tensor_release(&all);
    pf_tensor_release(&in[0]);
    return status;
}

/* ids (B, L) of a slice -> (B, L, D); its last ids become the state's. */
static int slice_rows(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids,
                      pf_tensor **y) {
    pf_tensor *before = run->state ? run->state->tensor[0] : NULL, *all = NULL, *tail = NULL;
    if (!before) return pf_fail(PF_ESTATE, "ngrams: the state is not one of this model");
    pf_tensor *in[2] = {before, ids};
    pf_attr dim = {.i = 1};
    int64_t kept = before->shape[1], length = ids->shape[1];
    if (kept == 0 || run->slice->first == 0) PF_TRY(look_up(m, e, run, ids, NULL, y));
    if (kept == 0) return PF_OK;
    int status = pf_apply(e, &pf_op_concat, in, 2, &dim, &all);
    if (status >= 0 && !*y) status = look_up_after(m, e, run, all, kept, y);
    if (status >= 0) status = pf_part_of(&tail, e, all, length, length + kept);
    if (status >= 0) pf_replace(&run->state->tensor[0], tail);
    if (status < 0) pf_tensor_release(y);
    pf_tensor_release(&all);
    return status;
}

/* ids (B) as a sequence of one -> (B, D) */
static int step(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *ids, pf_tensor **y) {
    int64_t shape[2] = {ids->shape[0], 1}, flat[2] = {ids->shape[0], pf_option_int(m, "dim")};
    pf_tensor *row = NULL, *out = NULL;
    int status = pf_reshape(&row, e, ids, 2, shape);
    if (status >= 0) status = stream_rows(m, e, run, row, &out);
    if (status >= 0) status = pf_reshape(y, e, out, 2, flat);
    pf_tensor_release(&out);
    pf_tensor_release(&row);
    return status;
}

/* ids (B, L) -> (B, L, D), or (B) -> (B, D) in a step */
static int ngrams_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    int rank = run->mode == PF_RUN_STEP ? 1 : 2;
    if (x->rank != rank || x->dtype != PF_I32) {
        return pf_fail(x->rank != rank ? PF_ESHAPE : PF_EDTYPE,
                       "ngrams: x is %s %s, must be ids %s i32", pf_shape_of(x),
                       pf_dtype_name(x->dtype), rank == 1 ? "(B)" : "(B, L)");
    }
    if (rank == 1) return step(m, e, run, x, y);
    if (run->slice && run->slice->segmented) return segment_rows(m, e, run, x, y);
    if (run->slice) return slice_rows(m, e, run, x, y);
    return run->state ? stream_rows(m, e, run, x, y) : look_up(m, e, run, x, NULL, y);
}

/* tensor 0: the last longest - 1 ids (B, kept) i32, -1 where there was none yet */
static const pf_state_kind state_ngrams = {.name = "ngrams", .tensor = {"before"}};

static int ngrams_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    int64_t shape[2] = {batch, pf_option_int(m, "longest") - 1};
    PF_TRY(pf_state_new(state, e, batch, 0));
    (*state)->kind = &state_ngrams;
    pf_tensor **before = &(*state)->tensor[0];
    int status = pf_tensor_make_lasting(before, e->heap, PF_I32, 2, shape);
    if (status >= 0) status = pf_tensor_fill(*before, -1);
    if (status < 0) pf_state_close(state);
    return status;
}

static int ngrams_segments(const pf_module *m, bool causal) {
    (void)m, (void)causal;
    return PF_OK;
}

const pf_layer pf_layer_ngrams = {
    .name = "ngrams",
    .doc = "A hashed memory of the last tokens: ids (B, L) -> (B, L, D).",
    .options = ngrams_options,
    .n_options = PF_COUNT(ngrams_options),
    .width = "dim",
    .few_rows = true,
    .build = ngrams_build,
    .run = ngrams_run,
    .segments = ngrams_segments,
    .state = ngrams_state,
    .rows = PF_ROWS_JOINED,
};
