/* api_describe.c - pf_describe: what every floor says of its own tables, in one tree. */
#include "optim.h"

static int describe(pf_config *tree, const pf_engine *engine) {
    if (engine) PF_TRY(pf_ops_describe(tree, engine));
    PF_TRY(pf_layers_describe(tree));
    PF_TRY(pf_kernels_describe(tree));
    PF_TRY(pf_attention_describe(tree));
    PF_TRY(pf_patterns_describe(tree));
    PF_TRY(pf_optimizers_describe(tree));
    return pf_schedules_describe(tree);
}

int pf_describe(pf_config **tree, pf_engine *engine) {
    PF_OUT(tree);
    if (engine) PF_OPEN(engine);
    *tree = pf_config_new_in(engine ? engine->heap : NULL, PF_MAP);
    int status = *tree ? describe(*tree, engine) : PF_ENOMEM;
    if (status >= 0) return PF_OK;
    pf_config_free(*tree);
    *tree = NULL;
    return status;
}
