/*
 * limits.c - bounds as a host sets them: on an engine, and on a part of what is done with it (a
 * script, a call), whose meter is an object. What they do is in meter.c and heap.c.
 */
#include "meter.h"
#include "status.h"

/* ---- the engine's own ---- */

/* The budget that the engine was opened with holds beside it. */
static void set_budget(pf_engine *e, size_t bytes) {
    size_t memory = e->memory;
    pf_heap_set_budget(e->heap, bytes && (!memory || bytes < memory) ? bytes : memory);
}

/* Nothing is counted while nothing is bounded but bytes. */
static int set_own(pf_engine *e, const pf_limits *limits) {
    bool counts = limits->work > 0 || limits->seconds > 0 || limits->depth > 0;
    if (counts && !e->limit) {
        e->limit = pf_heap_zalloc(e->heap, sizeof *e->limit);
        if (!e->limit) return PF_ENOMEM;
        e->limit->engine = e;
    }
    if (!e->limit) return PF_OK;
    pf_meter_set(e->limit, limits);
    if (!e->limit->entered) pf_meter_link(e->limit, e, true);
    return PF_OK;
}

int pf_engine_limit(pf_engine *engine, const pf_limits *limits) {
    pf_limits own;
    PF_OPEN(engine);
    PF_TRY(pf_limits_take(&own, limits, "limits"));
    set_budget(engine, 0); /* what is still set may leave no room for the meter */
    int status = set_own(engine, &own);
    set_budget(engine, own.bytes);
    return status;
}

int pf_engine_charge(pf_engine *engine, uint64_t work) {
    PF_OPEN(engine);
    return pf_charge(engine, work);
}

int pf_engine_nest(pf_engine *engine, int levels) {
    PF_OPEN(engine);
    return pf_nest(engine, levels);
}

/* ---- a part's ---- */

static pf_account *account_of(const pf_engine *e) {
    const pf_meter *m = e->payer ? e->payer : e->meter;
    return m ? m->account : NULL;
}

int pf_meter_open(pf_meter **meter, pf_engine *engine, const pf_limits *limits) {
    pf_limits own;
    PF_OUT(meter);
    PF_OPEN(engine);
    PF_TRY(pf_limits_take(&own, limits, "limits"));
    pf_meter *m = pf_heap_zalloc(engine->heap, sizeof *m);
    if (!m) return PF_ENOMEM;
    int status = pf_account_open(&m->account, engine->heap, account_of(engine), own.bytes);
    if (status < 0) {
        pf_heap_free(engine->heap, m, sizeof *m);
        return status;
    }
    m->engine = pf_engine_retain(engine);
    pf_meter_set(m, &own);
    *meter = m;
    return PF_OK;
}

int pf_meter_limit(pf_meter *meter, const pf_limits *limits) {
    pf_limits own;
    PF_NEED(meter);
    PF_OPEN(meter->engine);
    PF_TRY(pf_limits_take(&own, limits, "limits"));
    pf_meter_set(meter, &own);
    pf_account_bound(meter->account, meter->engine->heap, own.bytes);
    return PF_OK;
}

int pf_meter_bound(pf_meter *meter, size_t bytes) {
    PF_NEED(meter);
    PF_OPEN(meter->engine);
    pf_account_bound(meter->account, meter->engine->heap, bytes);
    return PF_OK;
}

int pf_meter_enter(pf_meter *meter) {
    PF_NEED(meter);
    PF_OPEN(meter->engine);
    if (meter->entered) return pf_fail(PF_ESTATE, "limits: the meter is entered already");
    pf_meter_link(meter, meter->engine, false);
    pf_heap_pays(meter->engine->heap, meter->account);
    int status = pf_check_cancel(meter->engine);
    if (status < 0) pf_meter_leave(meter);
    return status;
}

void pf_meter_leave(pf_meter *meter) {
    if (!meter || meter->engine->closed) return;
    pf_meter_unlink(meter);
    pf_heap_pays(meter->engine->heap, account_of(meter->engine));
}

pf_meter *pf_engine_lend_meter(pf_engine *engine, pf_meter *meter) {
    if (!engine || engine->closed) return NULL;
    pf_meter *before = engine->payer;
    engine->payer = meter && meter->engine == engine ? meter : NULL;
    pf_heap_pays(engine->heap, account_of(engine));
    return before;
}

static _Thread_local pf_engine *lent;

pf_engine *pf_engine_lend(pf_engine *engine) {
    pf_engine *before = lent;
    lent = engine && !engine->closed ? engine : NULL;
    return before;
}

pf_engine *pf_engine_lent(void) { return lent; }
int pf_check_lent(void) { return lent ? pf_check_cancel(lent) : PF_OK; }

/* Nobody is to pay by a meter that goes. */
static void forget_payer(pf_engine *e, const pf_meter *gone) {
    if (e->payer == gone) pf_engine_lend_meter(e, NULL);
    for (pf_meter *m = e->meter; m; m = m->outer)
        if (m->payer == gone) m->payer = NULL;
}

static int charge_bytes(pf_meter *meter, size_t old_bytes, size_t bytes) {
    int status = pf_engine_check(meter->engine, "pf_meter_bytes");
    if (status < 0 && bytes >= old_bytes) return status;
    if (old_bytes > meter->outside)
        return pf_fail(PF_EINVAL, "limits: %zu bytes go, of %zu that came", old_bytes,
                       meter->outside);
    PF_TRY(pf_heap_charge(meter->engine->heap, meter->account, old_bytes, bytes));
    meter->outside = meter->outside - old_bytes + bytes;
    return status; /* of an engine that has closed PF_ESTATE, and its heap has them back */
}

int pf_meter_bytes(pf_meter *meter, size_t old_bytes, size_t bytes) {
    PF_NEED(meter);
    PF_TRY(charge_bytes(meter, old_bytes, bytes));
    pf_account_mark(meter->account, meter->engine->heap);
    return PF_OK;
}

void *pf_meter_resize(pf_meter *meter, void *block, size_t old_bytes, size_t bytes) {
    if (!meter) return NULL;
    size_t held = block ? old_bytes : 0;
    if (charge_bytes(meter, held, bytes) < 0 && bytes > held) return NULL;
    void *resized = pf_heap_outside(meter->engine->heap, block, bytes);
    if (resized || bytes == 0)
        pf_account_mark(meter->account, meter->engine->heap);
    else
        charge_bytes(meter, bytes, held);
    return resized;
}

int pf_meter_usage(const pf_meter *meter, pf_usage *usage) {
    PF_NEED(meter, usage);
    PF_OPEN(meter->engine);
    pf_usage own = {.size = sizeof own,
                    .work = meter->work,
                    .seconds = pf_clock() - meter->began,
                    .depth = meter->depth,
                    .over = atomic_load(&meter->over) != PF_NOT_OVER};
    pf_account_held(meter->account, meter->engine->heap, &own.bytes, &own.peak);
    return pf_result_give(usage, &own, sizeof own, "usage");
}

/* What is held under it stays with the engine, and with the meters that it was opened in. */
void pf_meter_close(pf_meter **meter) {
    pf_meter *m = meter ? *meter : NULL;
    if (!m) return;
    *meter = NULL;
    pf_meter_leave(m);
    pf_engine *e = m->engine;
    if (!e->closed) forget_payer(e, m);
    if (m->outside > 0) pf_heap_charge(e->heap, m->account, m->outside, 0);
    pf_account_close(&m->account, e->heap);
    pf_heap_free(e->heap, m, sizeof *m);
    pf_engine_release(&e);
}
