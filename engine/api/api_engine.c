/*
 * api_engine.c - opening and closing a whole engine: the runtime, the kernels of its CPU
 * level, and the op tables of all floors. An engine lies in its own heap; engines share
 * nothing. A closed one stays there as a husk as long as anything else does, so that what outlives
 * it finds its mark.
 */
#include "gemm.h"
#include "module.h"

static int register_floors(pf_engine *e) {
    PF_TRY(pf_ops_register(e));
    /* Without products of its own a level needs the BLAS in every block of attention. */
    if (!e->kern->block_gemm) PF_TRY(pf_blas_need());
    return pf_attention_register(e);
}

/* The symbol for those who find it by name; a header's reader has the inline function. */
PF_API int pf_engine_open_unchecked(pf_engine **engine,
                                    const pf_options *options) __asm__("pf_engine_open");
int pf_engine_open_unchecked(pf_engine **engine, const pf_options *options) {
    return pf_engine_open_abi(engine, options, PF_ABI_VERSION);
}

static int check_abi(uint32_t abi) {
    if (abi == PF_ABI_VERSION) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "engine: the program was built with a header of ABI %u, and this is the library "
                   "of ABI %u (%s): build it again, or load the other library",
                   (unsigned)abi, (unsigned)PF_ABI_VERSION, pf_version());
}

static int set_limits(pf_engine *e, const pf_options *given) {
    pf_options options = PF_OPTIONS_DEFAULT;
    PF_TRY(pf_options_take(&options, sizeof options, given, "engine"));
    return options.limits ? pf_engine_limit(e, options.limits) : PF_OK;
}

int pf_engine_open_abi(pf_engine **engine, const pf_options *options, uint32_t abi) {
    pf_engine opened;
    PF_OUT(engine);
    PF_TRY(check_abi(abi));
    PF_TRY(pf_runtime_open(&opened, options));
    pf_engine *e = pf_heap_alloc(opened.heap, sizeof *e);
    if (!e) {
        pf_runtime_close(&opened);
        return PF_ENOMEM;
    }
    *e = opened; /* nothing points to it yet */
    pf_heap_keep(e->heap, e, sizeof *e);
    int status = register_floors(e);
    if (status >= 0) status = set_limits(e, options);
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
    if (e->closed) return; /* through another pointer, by a host that keeps it */
    pf_tape_abandon(e);
    pf_runtime_close(e);
}

void pf_engine_memory(const pf_engine *engine, size_t *live, size_t *peak) {
    if (live) *live = engine ? pf_heap_live(engine->heap) : 0;
    if (peak) *peak = engine ? pf_heap_peak(engine->heap) : 0;
}

int pf_engine_info(const pf_engine *engine, pf_info *info) {
    PF_OPEN(engine);
    PF_NEED(info);
    const pf_info own = {
        .live = pf_heap_live(engine->heap),
        .outside = pf_heap_charged(engine->heap),
        .peak = pf_heap_peak(engine->heap),
        .threads = engine->threads,
        .cpu = engine->cpu,
        .seed = engine->seed,
        .cpu_name = pf_cpu_name(engine->cpu),
        .blas = pf_blas_config(),
    };
    return pf_result_give(info, &own, sizeof own, "info");
}
