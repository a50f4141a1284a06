/*
 * api_engine.c - opening and closing a whole engine: the runtime, the kernels of its CPU
 * level, and the op tables of all floors. An engine lies in its own heap; engines share
 * nothing.
 */
#include "gemm.h"
#include "module.h"

static int register_floors(pf_engine *e) {
    PF_TRY(pf_ops_register(e));
    /* Without products of its own a level needs the BLAS in every block of attention. */
    if (!e->kern->block_gemm) PF_TRY(pf_blas_need());
    return pf_attention_register(e);
}

int pf_engine_open(pf_engine **engine, const pf_options *options) {
    pf_engine opened;
    if (!engine) return pf_fail(PF_EINVAL, "engine: there is no place for the engine");
    *engine = NULL;
    PF_TRY(pf_runtime_open(&opened, options));
    pf_engine *e = pf_heap_alloc(opened.heap, sizeof *e);
    if (!e) {
        pf_runtime_close(&opened);
        return PF_ENOMEM;
    }
    *e = opened; /* nothing points to it yet */
    int status = register_floors(e);
    if (status < 0) {
        pf_engine_close(&e);
        return status;
    }
    *engine = e;
    return PF_OK;
}

/* What outlives the engine (tensors, modules) keeps its heap. */
void pf_engine_close(pf_engine **engine) {
    if (!engine || !*engine) return;
    pf_engine *e = *engine;
    *engine = NULL;
    pf_tape_abandon(e);
    pf_engine closing = *e;
    pf_heap_free(closing.heap, e, sizeof *e);
    pf_runtime_close(&closing);
}

void pf_engine_memory(const pf_engine *engine, size_t *live, size_t *peak) {
    *live = pf_heap_live(engine->heap);
    *peak = pf_heap_peak(engine->heap);
}

void pf_engine_info(const pf_engine *engine, pf_info *info) {
    *info = (pf_info){
        .live = pf_heap_live(engine->heap),
        .peak = pf_heap_peak(engine->heap),
        .threads = engine->threads,
        .cpu = engine->cpu,
        .seed = engine->seed,
        .cpu_name = pf_cpu_name(engine->cpu),
        .blas = pf_blas_config(),
    };
}
