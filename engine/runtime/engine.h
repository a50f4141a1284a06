/*
 * engine.h - what one engine owns: heap, seed, threads, CPU level, logger, cancel flag,
 * the open tape and the op registry. Two engines in a process share nothing. An engine is
 * used by one host thread at a time. The thread count is fixed at open.
 */
#ifndef PF_ENGINE_H
#define PF_ENGINE_H

#include <stdatomic.h>

#include "heap.h"
#include "pool.h"
#include "rng.h"
#include "status.h"

struct pf_kern; /* ops/kern: the table of kernels for this engine's CPU level */
struct pf_op;   /* ops: one row of the op table */
struct pf_comm; /* comm: the ranks that train together */
struct pf_meter;
struct pf_progress;

#define PF_MAX_OPS 256

/* What upper floors keep in an engine, a slot each. Only who puts a thing there knows its
 * type; this floor closes it. */
typedef enum {
    PF_OWN_RANKS,     /* the comm; the first to go, since all ranks come for it */
    PF_OWN_KERNELS,   /* the list of those that are open */
    PF_OWN_CROSSOVER, /* a table of the user's machine */
    PF_OWN_LAYERS,    /* who finds layers that live in the host */
    PF_OWN_RUNS,      /* run folders that no other may write to */
    PF_OWN_LEAVES,    /* who hears of leaves in the next backward; mostly nobody */
    PF_OWN_FINITE,    /* who looks for numbers that are not finite; mostly nobody */
    PF_OWN_FILES,     /* files in memory; the last to go, since others have some of them open */
    PF_OWN_SLOTS
} pf_own_slot;

typedef void (*pf_own_close)(pf_engine *engine, void *thing);

/* Modules are being built whose numbers come from a file: parameters have a shape and no storage,
 * nothing is drawn, and no more is built than the file has tensors for. */
typedef struct pf_loading {
    int64_t tensors, modules; /* what may still be made */
} pf_loading;

typedef struct {
    uint64_t seed, draws;
} pf_draws;

struct pf_engine {
    pf_heap *heap; /* it lies in there, and is good as long as anything of its heap is held */
    bool closed;   /* a husk: whatever is asked of it answers PF_ESTATE */
    uint64_t seed;
    uint64_t draws;     /* counts PF_DRAW_USER streams, so each call draws anew */
    pf_random *random;  /* borrowed: whose these two are, for a while; NULL: the engine's own ... */
    pf_draws own_draws; /* ... which stand here meanwhile */
    int threads;
    pf_pool *pool;      /* threads - 1 workers; NULL for one thread, or where the host has some */
    pf_workers workers; /* run NULL: the pool's */
    pf_cpu cpu;
    const struct pf_kern *kern;
    pf_tape *tape;        /* innermost open tape, or NULL */
    pf_loading *loading;  /* borrowed, for the time of a build; NULL: numbers are drawn */
    struct pf_comm *comm; /* of PF_OWN_RANKS; NULL: this engine is the only rank */
    pf_log_fn log;
    void *log_context;
    pf_log_level log_level;
    pf_file_access files;                /* how files are reached; `open` NULL: by the C library */
    const pf_file_access *lent;          /* borrowed: in its place, for a while; NULL: none */
    const atomic_int *cancel;            /* host's flag: non-zero asks every long call to stop */
    size_t memory;                       /* the budget that the engine was opened with, 0: none */
    struct pf_meter *meter;              /* the innermost that is entered; NULL: nothing counts */
    struct pf_meter *payer;              /* borrowed: whose bytes those are that are made, in place
                                            of the innermost's; or NULL */
    struct pf_meter *limit;              /* the engine's own, or NULL */
    struct pf_progress *progress;        /* who is told, or NULL */
    int shield;                          /* > 0: what has begun must end, nothing stops it */
    uint64_t refused;                    /* jobs that its threads, or the host's, have failed */
    const struct pf_op *ops[PF_MAX_OPS]; /* the op table: each floor adds its rows at open */
    int n_ops;
    /* Per-thread scratch, grown before a parallel region, kept until close. */
    void *scratch;
    size_t scratch_bytes; /* a thread */
    struct {
        void *thing; /* NULL: nothing is kept */
        pf_own_close close;
    } own[PF_OWN_SLOTS];
};

/* Opens the runtime part only; api/ adds kernels and op tables. */
int pf_runtime_open(pf_engine *engine, const pf_options *options);
/* Of an engine that lies in its heap a husk stays, until the last of what it made is gone. */
void pf_runtime_close(pf_engine *engine);

/* PF_EINVAL of no engine, PF_ESTATE of one that has closed. */
int pf_engine_check(const pf_engine *engine, const char *where);
#define PF_OPEN(engine) PF_TRY(pf_engine_check(engine, __func__))

/* Puts `thing` (NULL: nothing) into the slot and closes what was there. `close` is called once,
 * at the latest when the engine closes, while its heap is still open. */
void pf_engine_own(pf_engine *engine, pf_own_slot slot, void *thing, pf_own_close close);

/* PF_ECANCEL with a message when the host has raised the cancel flag, PF_ELIMIT when a bound of
 * time or work is reached, else 0. Every path that can take long asks it, once a megabyte or a few
 * thousand turns; inside tasks it is pf_stopped (meter.h). */
int pf_check_cancel(const pf_engine *engine);
/* The engine that this thread's calls without one ask (pf_engine_lend), or NULL; and whether they
 * may go on. */
pf_engine *pf_engine_lent(void);
int pf_check_lent(void);

void pf_log(const pf_engine *engine, pf_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
