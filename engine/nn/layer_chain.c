/*
 * layer_chain.c - layers after each other, plain and around a residual; and two of these by which
 * any layers are a reversible block.
 */
#include "module.h"

/* x through all children in their order; no children: x itself. With run->hidden what stands behind
 * that child: the others are left out, but where a row goes on from a state, which is of one
 * place in all of them. */
static int chain_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    pf_tensor *h = pf_tensor_retain(x), *wanted = NULL;
    int status = PF_OK;
    for (int i = 0; i < m->n_child && status >= 0 && (!wanted || run->state); i++) {
        status = pf_run_through(m, i, e, run, &h);
        if (status >= 0 && i + 1 == run->hidden) wanted = pf_tensor_retain(h);
    }
    if (wanted) pf_replace(&h, wanted);
    if (status < 0) pf_tensor_release(&h);
    *y = h;
    return status;
}

/* The last child has the logits. */
static int chain_score(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                       pf_score *score) {
    if (m->n_child == 0) return pf_score_logits(score, e, x);
    pf_tensor *h = pf_tensor_retain(x);
    int status = PF_OK, last = m->n_child - 1;
    for (int i = 0; i < last && status >= 0; i++) status = pf_run_through(m, i, e, run, &h);
    if (status >= 0) status = pf_run_child_scored(m, last, e, run, h, score);
    pf_tensor_release(&h);
    return status;
}

static const pf_option_info chain_options[] = {
    {.name = "recompute",
     .kind = PF_OPT_BOOL,
     .doc = "training keeps of the whole chain its input only and runs it a second time for its "
            "gradient: the same bits, less memory"},
};

static int chain_build(pf_module *m, pf_engine *e) {
    (void)e;
    m->recompute = pf_option_int(m, "recompute") != 0;
    return PF_OK;
}

const pf_layer pf_layer_chain = {
    .name = "chain",
    .doc = "Its children after each other.",
    .options = chain_options,
    .n_options = PF_COUNT(chain_options),
    .max_children = -1,
    .build = chain_build,
    .run = chain_run,
    .score = chain_score,
    .state = pf_state_of_children,
};

static const pf_option_info residual_options[] = {
    {.name = "dropout",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.99,
     .doc = "share of what is added that is dropped in training"},
};

/* x + dropout(children(x)) */
static int residual_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_tensor **y) {
    pf_tensor *h = NULL;
    PF_TRY(chain_run(m, e, run, x, &h));
    int status = pf_run_dropout(e, run, pf_option_number(m, "dropout"), &h);
    if (status >= 0) status = pf_add(y, e, x, h);
    pf_tensor_release(&h);
    return status;
}

const pf_layer pf_layer_residual = {
    .name = "residual",
    .doc = "x + dropout(children(x)).",
    .options = residual_options,
    .n_options = PF_COUNT(residual_options),
    .min_children = 1,
    .max_children = -1,
    .run = residual_run,
    .state = pf_state_of_children,
};

/* *y = f0(x) or f1(x): a child alone. */
static int branches_branch(pf_module *m, pf_engine *e, const pf_run *run, int which, pf_tensor *x,
                           pf_tensor **y) {
    return pf_run_child(m, which, e, run, x, y);
}

/* x + f0(x), and of that x + f1(x) */
static int branches_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_tensor **y) {
    pf_tensor *sum = pf_tensor_retain(x);
    int status = PF_OK;
    for (int i = 0; i < 2 && status >= 0; i++) {
        pf_tensor *h = NULL, *next = NULL;
        status = pf_run_child(m, i, e, run, sum, &h);
        if (status >= 0) status = pf_add(&next, e, sum, h);
        pf_tensor_release(&h);
        if (status >= 0) pf_replace(&sum, next);
    }
    if (status < 0) pf_tensor_release(&sum);
    *y = sum;
    return status;
}

const pf_layer pf_layer_branches = {
    .name = "branches",
    .doc = "Two residual branches, x + f(x) and of that x + g(x), f and g being its children: any "
           "layers as a block, also of a reversible layer.",
    .min_children = 2,
    .max_children = 2,
    .run = branches_run,
    .branch = branches_branch,
    .state = pf_state_of_children,
};
