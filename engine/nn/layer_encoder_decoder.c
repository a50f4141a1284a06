/*
 * layer_encoder_decoder.c - a model of two sequences: the encoder reads the input `source`, and
 * what it makes of it is the `memory` of the decoder, which reads x.
 *
 * Both are any layers: the encoder gives (B, Ls, D), or, where it is a model with a head, what its
 * head reads; the decoder has cross-attention, or reads the memory in another way. A stream runs
 * the encoder once, when it begins, and its decoder alone from then on.
 */
#include "module.h"

enum { ENCODER, DECODER }; /* children */

static const pf_input_info inputs[] = {
    {"source", "what the encoder reads, ids (B, Ls) or rows (B, Ls, D); required without memory",
     false},
    {"source_mask", "(B, Ls) i32: 1 keep, 0 not there; of the memory, too", false},
    {"memory", "(B, Ls, D), what the encoder made of a source before, in its place", false},
    {"memory_mask", "(B, Ls) i32, of the input memory; not given: source_mask", false},
};

/* *memory: what the encoder makes of the run's source, over its whole length, whatever the mode. */
static int encode(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *source, pf_tensor *mask,
                  pf_tensor **memory) {
    pf_pass pass = *run->pass;
    pf_run whole = {.mode = PF_RUN_FORWARD, .pass = &pass};
    pass.mask = mask;
    pass.documents = pass.prefix = NULL;
    return pf_run_hidden(m, ENCODER, e, &whole, source, memory);
}

/* The run of the decoder, with a memory made where none was given: *made, which is the caller's. */
typedef struct {
    pf_run run;
    pf_pass pass, masked;
    pf_named list[PF_INPUTS], masked_list[PF_INPUTS];
    pf_tensor *made;
} decoding;

/* Of B sequences, and its mask (NULL: none); both borrowed. */
static int find_source(const pf_module *m, const pf_run *run, int64_t B, pf_tensor **source,
                       pf_tensor **mask) {
    *source = pf_run_input(run, "source");
    if (!*source) {
        return pf_fail(PF_EINVAL, "encoder_decoder: the input 'source' is missing; it is given "
                                  "beside x, by its name: what the encoder reads");
    }
    const pf_tensor *s = *source;
    if (s->rank < 2 || s->shape[0] != B) {
        return pf_fail(PF_ESHAPE,
                       "encoder_decoder: the input 'source' is %s, must be (B, Ls) or (B, Ls, D) "
                       "with B = %lld",
                       pf_shape_of(s), (long long)B);
    }
    return pf_run_may(mask, m, run, "source_mask", B, s->shape[1]);
}

/* A memory that is given has its mask by either name. */
static int take_memory(decoding *d, const pf_module *m, const pf_run *run,
                       const pf_tensor *memory) {
    pf_tensor *mask;
    if (memory->rank < 2 || pf_run_input(run, "memory_mask")) return PF_OK;
    PF_TRY(pf_run_may(&mask, m, run, "source_mask", memory->shape[0], memory->shape[1]));
    if (!mask) return PF_OK;
    PF_TRY(pf_pass_with(&d->masked, d->masked_list, run->pass, "memory_mask", mask));
    d->run.pass = &d->masked;
    return PF_OK;
}

static int make_memory(decoding *d, pf_module *m, pf_engine *e, const pf_run *run, int64_t B) {
    pf_tensor *source, *mask, *memory = pf_run_input(run, "memory");
    d->run = *run;
    if (memory) return take_memory(d, m, run, memory);
    if (pf_run_input(run, "memory_mask")) {
        return pf_fail(PF_EINVAL, "encoder_decoder: memory_mask is of the input memory, which is "
                                  "not given; the mask of a source is source_mask");
    }
    PF_TRY(find_source(m, run, B, &source, &mask));
    PF_TRY(encode(m, e, run, source, mask, &d->made));
    PF_TRY(pf_pass_with(&d->pass, d->list, run->pass, "memory", d->made));
    PF_TRY(pf_pass_with(&d->masked, d->masked_list, &d->pass, "memory_mask", mask));
    d->run.pass = &d->masked;
    return PF_OK;
}

/* x (B, L), or (B) in a step -> what the decoder makes of it */
static int run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    decoding d = {.made = NULL};
    int status = PF_OK;
    d.run = *run;
    if (!run->state) status = make_memory(&d, m, e, run, x->rank > 0 ? x->shape[0] : 0);
    if (status >= 0) status = pf_run_only(m, DECODER, e, &d.run, x, y);
    pf_tensor_release(&d.made);
    return status;
}

static int begin(pf_module *m, pf_engine *e, const pf_run *run) {
    decoding d = {.made = NULL};
    int status = make_memory(&d, m, e, run, run->state->batch);
    if (status >= 0) status = pf_begin_child(m, DECODER, e, &d.run);
    pf_tensor_release(&d.made);
    return status;
}

/* The encoder has no place in it: nothing of it streams. */
static int state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    PF_TRY(pf_state_new(state, e, batch, 2));
    int status = pf_state_of(m->child[DECODER].module, e, batch, &(*state)->child[DECODER]);
    if (status >= 0) return PF_OK;
    pf_state_close(state);
    return pf_fail_in(status, "decoder");
}

static int64_t width(const pf_module *m, bool hidden) {
    const pf_module *decoder = m->child[DECODER].module;
    return hidden ? pf_module_hidden_width(decoder) : pf_module_width(decoder);
}

const pf_layer pf_layer_encoder_decoder = {
    .name = "encoder_decoder",
    .doc =
        "A model of two sequences: its first child, the encoder, reads the input source, and its "
        "second one, the decoder, x, with what the encoder made as its memory. In Lua encoder = "
        "and decoder = name them: layers, or options of a performer, over those that both share.",
    .min_children = 2,
    .max_children = 2,
    .inputs = inputs,
    .n_inputs = PF_COUNT(inputs),
    .width_of = width,
    .run = run,
    .state = state,
    .rows = PF_ROWS_TOGETHER,
    .begin = begin,
};
