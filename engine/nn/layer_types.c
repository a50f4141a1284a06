/*
 * layer_types.c - types of tokens: a row of a small table is added to every position, by the input
 * `types`, which says whose a token is (the first sentence of a pair, the second; a speaker).
 */
#include <math.h>

#include "module.h"

static const pf_option_info types_options[] = {
    {.name = "types",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 24,
     .required = true,
     .doc = "number of types"},
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "model width D"},
};

static const pf_input_info inputs[] = {
    {"types", "(B, L) i32, the type of every position; none given, and in streams: 0", false},
};

static int types_build(pf_module *m, pf_engine *e) {
    int64_t shape[2] = {pf_option_int(m, "types"), pf_option_int(m, "dim")};
    char init[PF_INIT_TEXT];
    pf_init_text(init, "normal", 1 / sqrt((double)shape[1]));
    return pf_module_param(m, e, "weight", 2, shape, init);
}

/* *ids (B, L) of x (B, L, D), or (B) of a step's x (B, D). */
static int types_of(const pf_module *m, pf_engine *e, const pf_run *run, const pf_tensor *x,
                    pf_tensor **ids) {
    pf_tensor *whole = run->state && !run->slice ? NULL : pf_run_input(run, "types");
    if (!whole) {
        PF_TRY(pf_tensor_make(ids, e, PF_I32, x->rank - 1, x->shape));
        return pf_tensor_fill(*ids, 0);
    }
    if (run->slice) {
        int64_t first = run->slice->first;
        return pf_part_of(ids, e, whole, first, first + x->shape[1]);
    }
    PF_TRY(pf_run_may(&whole, m, run, "types", x->shape[0], x->shape[1]));
    *ids = pf_tensor_retain(whole);
    return PF_OK;
}

/* x (B, L, D), or (B, D) in a step -> the same */
static int types_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *ids = NULL, *rows = NULL;
    int rank = run->mode == PF_RUN_STEP ? 2 : 3;
    if (x->rank != rank || x->shape[rank - 1] != pf_option_int(m, "dim")) {
        return pf_fail(PF_ESHAPE, "types: x is %s, must be %s with D = %lld", pf_shape_of(x),
                       rank == 2 ? "(B, D)" : "(B, L, D)", (long long)pf_option_int(m, "dim"));
    }
    PF_TRY(types_of(m, e, run, x, &ids));
    int status = pf_embedding(&rows, e, m->slot[0].tensor, ids);
    if (status >= 0) status = pf_add(y, e, x, rows);
    pf_tensor_release(&rows);
    pf_tensor_release(&ids);
    return status;
}

const pf_layer pf_layer_types = {
    .name = "types",
    .doc = "Adds a row by the type of every token, which the input types says: x (B, L, D) -> the "
           "same.",
    .options = types_options,
    .n_options = PF_COUNT(types_options),
    .inputs = inputs,
    .n_inputs = PF_COUNT(inputs),
    .width = "dim",
    .build = types_build,
    .run = types_run,
};
