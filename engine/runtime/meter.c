/*
 * meter.c - see meter.h. An engine is used by one thread at a time, which alone enters, leaves and
 * counts; the threads of its pool look.
 */
#include "meter.h"

#include <math.h>

#include "status.h"

int pf_limits_take(pf_limits *own, const pf_limits *given, const char *where) {
    *own = (pf_limits){.size = sizeof *own};
    PF_TRY(pf_options_take(own, sizeof *own, given, where));
    if (!(own->seconds >= 0)) /* NaN too */
        return pf_fail(PF_EINVAL, "%s: seconds is %g; a time from now on, 0: none", where,
                       own->seconds);
    if (own->depth < 0)
        return pf_fail(PF_EINVAL, "%s: depth is %d; a number of levels, 0: any", where, own->depth);
    return PF_OK;
}

void pf_meter_set(pf_meter *meter, const pf_limits *limits) {
    meter->limits = *limits;
    meter->work = 0;
    meter->began = pf_clock();
    atomic_store(&meter->over, PF_NOT_OVER);
}

void pf_meter_link(pf_meter *meter, pf_engine *engine, bool outermost) {
    pf_meter **at = &engine->meter;
    while (outermost && *at) at = &(*at)->outer;
    meter->outer = *at;
    meter->entered = true;
    *at = meter;
    if (outermost) return;
    meter->payer = engine->payer;
    engine->payer = NULL;
}

/* Also those that were entered inside it, and whose leave never came. */
void pf_meter_unlink(pf_meter *meter) {
    if (!meter->entered) return;
    pf_engine *e = meter->engine;
    for (bool last = false; !last && e->meter;) {
        pf_meter *m = e->meter;
        last = m == meter;
        e->meter = m->outer;
        if (m != e->limit) e->payer = m->payer;
        m->outer = m->payer = NULL;
        m->entered = false;
    }
}

/* ---- looking ---- */

static int look_one(pf_meter *m, double *now) {
    if (m->looked) m->looked(m->own);
    if (atomic_load_explicit(&m->over, memory_order_relaxed)) return PF_ELIMIT;
    if (!(m->limits.seconds > 0)) return PF_OK;
    if (*now < 0) *now = pf_clock();
    if (*now - m->began <= m->limits.seconds) return PF_OK;
    atomic_store_explicit(&m->over, PF_OVER_TIME, memory_order_relaxed);
    return PF_ELIMIT;
}

int pf_meter_look(const pf_meter *innermost) {
    double now = -1;
    for (pf_meter *m = (pf_meter *)innermost; m; m = m->outer)
        if (look_one(m, &now) < 0) return PF_ELIMIT;
    return PF_OK;
}

static int over_fail(const pf_meter *m) {
    if (atomic_load(&m->over) == PF_OVER_TIME)
        return pf_fail(PF_ELIMIT, "over the limit of %g s", m->limits.seconds);
    return pf_fail(PF_ELIMIT, "over the limit of %llu units of work",
                   (unsigned long long)m->limits.work);
}

int pf_stopped_fail(const pf_engine *engine, int status) {
    const pf_meter *m = engine->meter;
    if (status >= 0) return status;
    if (status == PF_ECANCEL) return pf_fail(status, "cancelled by the host");
    while (m && !atomic_load(&m->over)) m = m->outer;
    return m ? over_fail(m) : pf_fail(status, "over a limit");
}

int pf_check_cancel(const pf_engine *engine) { return pf_stopped_fail(engine, pf_stopped(engine)); }

/* ---- counting ---- */

int pf_charge(const pf_engine *engine, uint64_t work) {
    for (pf_meter *m = engine->meter; m; m = m->outer) {
        m->work = work > UINT64_MAX - m->work ? UINT64_MAX : m->work + work;
        if (m->limits.work && m->work > m->limits.work && !atomic_load(&m->over))
            atomic_store(&m->over, PF_OVER_WORK);
    }
    return pf_check_cancel(engine);
}

int pf_nest(const pf_engine *engine, int levels) {
    for (pf_meter *m = engine->meter; m && levels > 0; m = m->outer)
        if (m->limits.depth && levels > m->limits.depth - m->depth)
            return pf_fail(PF_ELIMIT, "nested deeper than the limit of %d levels", m->limits.depth);
    for (pf_meter *m = engine->meter; m; m = m->outer)
        m->depth = m->depth + levels > 0 ? m->depth + levels : 0;
    return PF_OK;
}
