/*
 * meter.h - what bounds the work of an engine: counts and bounds that a host sets on the engine, a
 * script or a call. Those that are entered stand one in the other, and all of them count.
 *
 * Work is counted by the problem alone, before it is done (pf_charge), so that it ends at the same
 * place on every machine and for any number of threads. A unit is about an instruction of Lua's:
 * an op is PF_WORK_OP, and by its row so many elements and multiplications (PF_WORK_*).
 * Time is looked at wherever the cancel flag is: pf_check_cancel between pieces of a long path,
 * pf_stopped inside a task, on any thread.
 *
 * Once over, a meter stays over until it is set anew or left, whatever catches an error meanwhile.
 */
#ifndef PF_METER_H
#define PF_METER_H

#include <stdatomic.h>

#include "engine.h"

enum {
    PF_WORK_OP = 64,       /* units of any call of an op */
    PF_WORK_ELEMENTS = 16, /* numbers read or written, a unit */
    PF_WORK_PRODUCTS = 64  /* multiplications with an addition in matrix products, a unit */
};

typedef enum { PF_NOT_OVER, PF_OVER_WORK, PF_OVER_TIME } pf_over;

struct pf_meter {
    pf_engine *engine; /* retained, but by its own meter */
    pf_meter *outer;   /* while it is entered */
    pf_meter *payer;   /* the engine's before that, to be put back; or NULL */
    bool entered;
    pf_account *account; /* who pays for bytes; NULL: the engine's budget */
    size_t outside;      /* bytes of them that are not the heap's (pf_meter_bytes) */
    pf_limits limits;
    uint64_t work;
    double began;
    int depth;
    atomic_int over;           /* a pf_over */
    void (*looked)(void *own); /* called at every look, for tests; or NULL */
    void *own;
};

/* Sets bounds anew, and all counts to nothing. */
void pf_meter_set(pf_meter *meter, const pf_limits *limits);
void pf_meter_link(pf_meter *meter, pf_engine *engine, bool outermost);
void pf_meter_unlink(pf_meter *meter);
/* A host's (NULL: none) into *own; PF_EINVAL of a negative time or depth. */
int pf_limits_take(pf_limits *own, const pf_limits *given, const char *where);

/* The status of the first meter that is over; looks at the clock. No message: on any thread. */
int pf_meter_look(const pf_meter *innermost);
/* The message of a status of pf_stopped's; returns it. */
int pf_stopped_fail(const pf_engine *engine, int status);

/* Has the host raised the cancel flag, or is a bound reached: PF_OK, PF_ECANCEL or PF_ELIMIT. No
 * message; for the insides of tasks. */
static inline int pf_stopped(const pf_engine *e) {
    if (e->shield) return PF_OK;
    int status = e->meter ? pf_meter_look(e->meter) : PF_OK;
    if (status < 0 || !e->cancel) return status;
    return atomic_load_explicit(e->cancel, memory_order_relaxed) ? PF_ECANCEL : PF_OK;
}

/* Units of so many elements and products, for pf_charge. */
static inline uint64_t pf_work_of(double elements, double products) {
    double units = elements / PF_WORK_ELEMENTS + products / PF_WORK_PRODUCTS;
    return units < 9e18 ? (uint64_t)units : (uint64_t)9e18;
}

/* Counts work that is about to be done: PF_OK, or with a message PF_ECANCEL or PF_ELIMIT, and then
 * it must not be done. */
int pf_charge(const pf_engine *engine, uint64_t work);
/* So many levels deeper, or where negative up again: PF_ELIMIT where that is too deep, and nothing
 * has changed. */
int pf_nest(const pf_engine *engine, int levels);

#endif
