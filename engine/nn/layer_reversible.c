/*
 * layer_reversible.c - blocks as reversible residuals (Gomez et al. 2017, "The Reversible
 * Residual Network"; the Reformer's, Kitaev et al. 2020): on two halves that both begin as x,
 *
 *     a <- a + attention(norm1(b)),   b <- b + mlp(norm2(a)),   block after block,
 *
 * and y = (a + b) / 2. Training keeps the last a and b alone (reversible.c); everything else
 * runs the same sums plainly.
 */
#include <string.h>

#include "module.h"

/* A norm over the sum can't be taken back. */
static int check_residual(const pf_module *block, int i) {
    const char *residual = pf_option_text(block, "residual");
    if (!residual || strcmp(residual, "post") != 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "reversible: child %s has residual 'post', whose norms stand over the sums, and "
                   "its inputs can't be made from its outputs; take pre or rezero",
                   pf_place(i));
}

static int reversible_build(pf_module *m, pf_engine *e) {
    (void)e;
    for (int i = 0; i < m->n_given; i++) {
        const pf_layer *type = m->child[i].module->type;
        if (type->branch) PF_TRY(check_residual(m->child[i].module, i));
        if (type->branch) continue;
        return pf_fail(PF_EINVAL,
                       "reversible: child %s is a '%s'; children must be blocks, which "
                       "have two residual branches (the layer branches makes one of any two)",
                       pf_place(i), type->name);
    }
    return PF_OK;
}

/* Branch i % 2 of block i / 2. */
static int run_kept(void *context, pf_engine *e, int64_t i, pf_tensor *x, pf_tensor *const *beside,
                    pf_tensor **y) {
    pf_kept_run *k = context;
    pf_kept_pass at;
    pf_run run;
    PF_TRY(pf_kept_run_next(k, i, beside, &at, &run));
    return pf_run_branch(k->m, (int)(i / 2), e, &run, (int)(i % 2), x, y);
}

static int run_recorded(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                        pf_tensor **half) {
    pf_kept_run *kept = NULL;
    int64_t n = 2 * (int64_t)m->n_child;
    PF_TRY(pf_kept_run_make(&kept, m, e, run, n));
    pf_tensor *beside[PF_INPUTS];
    for (int i = 0; i < kept->pass.n_inputs; i++) beside[i] = kept->pass.inputs[i].tensor;
    pf_branches branches = {.run = run_kept,
                            .ends = run->slice ? pf_kept_run_ends : NULL,
                            .release = pf_kept_run_free,
                            .context = kept,
                            .n = n,
                            .beside = beside,
                            .n_beside = kept->pass.n_inputs};
    return pf_reversible(&half[0], &half[1], e, &branches, x, x);
}

/* The same sums, each as it comes; half[0], half[1] are x on entry. */
static int run_plain(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **half) {
    for (int i = 0; i < 2 * m->n_child; i++) {
        pf_tensor *y = NULL, *sum = NULL, **to = &half[i % 2];
        PF_TRY(pf_run_branch(m, i / 2, e, run, i % 2, half[1 - i % 2], &y));
        int status = pf_add(&sum, e, *to, y);
        pf_tensor_release(&y);
        PF_TRY(status);
        pf_replace(to, sum);
    }
    return PF_OK;
}

/* x (B, L, D), or (B, D) in a step -> the same */
static int reversible_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x,
                          pf_tensor **y) {
    pf_tensor *half[2] = {NULL, NULL}, *sum = NULL;
    int status = PF_OK;
    bool trains = run->mode == PF_RUN_FORWARD || run->mode == PF_RUN_SLICE;
    if (trains && pf_tape_records(e) && m->n_child > 0) {
        status = run_recorded(m, e, run, x, half);
    } else {
        half[0] = pf_tensor_retain(x);
        half[1] = pf_tensor_retain(x);
        status = run_plain(m, e, run, half);
    }
    if (status >= 0) status = pf_add(&sum, e, half[0], half[1]);
    if (status >= 0) status = pf_affine(y, e, sum, 0.5, 0);
    pf_tensor_release(&sum);
    pf_tensor_release(&half[0]);
    pf_tensor_release(&half[1]);
    return status;
}

const pf_layer pf_layer_reversible = {
    .name = "reversible",
    .doc = "Blocks as reversible residuals: a + attention(norm(b)), b + mlp(norm(a)), the mean of "
           "a and b at the end. Backward makes every block's inputs again from its outputs, so "
           "that activations do not grow with depth. arXiv 1707.04585.",
    .max_children = -1,
    .build = reversible_build,
    .run = reversible_run,
    .state = pf_state_of_children,
};
