/*
 * outputs.c - models of several outputs, by name: those of a type that has the hook `outputs`; any
 * other module has one.
 */
#include "module.h"

int pf_module_output_count(const pf_module *module) {
    if (!module) return 0;
    return module->type->outputs ? module->type->output_count(module) : 1;
}

int pf_module_output_at(const pf_module *module, int index, const char **name) {
    PF_NEED(module, name);
    int n = pf_module_output_count(module);
    *name = NULL;
    if (index < 0 || index >= n) {
        return pf_fail(PF_ENOTFOUND, "module: there is no output %s; it has %d", pf_place(index),
                       n);
    }
    *name = module->type->outputs ? module->type->output_name(module, index) : "output";
    return PF_OK;
}

/* All of them, or none. */
int pf_module_outputs(pf_tensor **outputs, pf_engine *engine, pf_module *module, pf_tensor *x,
                      const pf_pass *pass) {
    PF_OPEN(engine);
    PF_NEED(outputs, module, x);
    int n = pf_module_output_count(module), status;
    pf_pass own;
    uint64_t calls = 0;
    for (int i = 0; i < n; i++) outputs[i] = NULL;
    if (!module->type->outputs) return pf_module_forward(outputs, engine, module, x, pass);
    PF_TRY(pf_pass_take(&own, pass));
    if (own.carry) {
        return pf_fail(PF_EINVAL, "outputs: rows that go on (carry) have one output, forward's");
    }
    if (!own.calls) own.calls = &calls;
    PF_TRY(pf_pass_check(&own, module, x));
    pf_run run = {.mode = PF_RUN_FORWARD, .pass = &own};
    status = module->type->outputs(module, engine, &run, x, outputs);
    for (int i = 0; i < n && status < 0; i++) pf_tensor_release(&outputs[i]);
    return status;
}
