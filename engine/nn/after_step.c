/*
 * after_step.c - what follows a step of the optimizer in a model: kernels that are due are drawn
 * anew, tilts and centroids move. What must hold: of several ranks all come here, and what a layer
 * goes by is the same on each before it does.
 */
#include "module.h"

static int after_step(pf_engine *engine, pf_module *module, uint64_t step, int *sum) {
    if (module->type->after_step) PF_TRY(module->type->after_step(module, engine, step, sum));
    for (int i = 0; i < module->n_child; i++) {
        /* One block in all places of a chain moves once. */
        if (i > 0 && module->child[i].module == module->child[i - 1].module) continue;
        PF_TRY(after_step(engine, module->child[i].module, step, sum));
    }
    return PF_OK;
}

int pf_module_after_step(pf_engine *engine, pf_module *module, uint64_t step, int *drawn) {
    PF_OPEN(engine);
    PF_NEED(module);
    int count = 0;
    PF_TRY(pf_watch_share(engine, module));
    return after_step(engine, module, step, drawn ? drawn : &count);
}
