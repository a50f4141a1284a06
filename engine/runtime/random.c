/*
 * random.c - whose random numbers an engine draws: its own, or those of a part that it is lent for
 * a while. What is in use stands in engine->seed and draws, where every draw finds it; what is not
 * lies aside.
 */
#include "engine.h"

struct pf_random {
    pf_engine *engine; /* retained: its heap is where this lies */
    pf_draws draws;
};

void pf_seed(pf_engine *engine, uint64_t seed) {
    if (!engine) return;
    engine->seed = seed;
    engine->draws = 0;
}

int pf_random_open(pf_random **random, pf_engine *engine) {
    PF_OUT(random);
    PF_OPEN(engine);
    pf_random *r = pf_heap_alloc(engine->heap, sizeof *r);
    if (!r) return PF_ENOMEM;
    const uint64_t seed = engine->random ? engine->own_draws.seed : engine->seed;
    *r = (pf_random){pf_engine_retain(engine), {seed, 0}};
    *random = r;
    return PF_OK;
}

void pf_random_close(pf_random **random) {
    pf_random *r = random ? *random : NULL;
    if (!r) return;
    *random = NULL;
    pf_engine *engine = r->engine;
    if (engine->random == r) pf_engine_lend_random(engine, NULL);
    pf_heap_free(engine->heap, r, sizeof *r);
    pf_engine_release(&engine);
}

pf_random *pf_engine_lend_random(pf_engine *engine, pf_random *random) {
    if (!engine) return NULL;
    pf_random *before = engine->random;
    if (random && random->engine != engine) random = NULL;
    if (random == before) return before;
    *(before ? &before->draws : &engine->own_draws) = (pf_draws){engine->seed, engine->draws};
    const pf_draws now = random ? random->draws : engine->own_draws;
    engine->seed = now.seed, engine->draws = now.draws;
    engine->random = random;
    return before;
}
