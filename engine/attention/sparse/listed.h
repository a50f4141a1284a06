/*
 * listed.h - exact softmax attention over a pattern (pattern.h): the tiles of exact attention
 * (softmax_block.h), but only those that the pattern lists.
 *
 * The parts of a pattern run one after another; outputs and gradients are what they add to. What a
 * task is follows from the pattern alone: forward, and for dq, a run of queries with its tiles; for
 * dk and dv a chunk of key runs with theirs. A list of more than PF_LISTED_SPAN tiles (global rows
 * and columns) is cut in spans, whose sums are partial and join in their order.
 */
#ifndef PF_LISTED_H
#define PF_LISTED_H

#include "pattern.h"
#include "softmax_block.h"

enum { PF_LISTED_SPAN = 64 }; /* tiles */

/* Tasks of one side of a part. */
typedef struct pf_listed_side {
    int64_t tasks, slots;       /* slots: partial sums */
    const int64_t *task, *slot; /* (runs + 1): those before each run; NULL: a run is a task */
} pf_listed_side;

typedef struct pf_listed_part {
    pf_pattern_part p;
    pf_listed_side by_query, by_key;
    int64_t chunk; /* key runs of a task of the backward */
} pf_listed_part;

typedef struct pf_listed_pattern {
    const pf_listed_part *part;
    int n;
    bool self_last; /* a query sees its own place only where it sees nothing else */
} pf_listed_pattern;

/* A call. */
typedef struct pf_listed {
    pf_softmax s;
    const pf_pattern_rule *rule;
    double option[PF_PATTERN_OPTIONS];
    pf_ask ask;                 /* the rule's part of it */
    const pf_tensor *buckets;   /* (B, H, rounds, Lk) i32, contiguous; NULL */
    bool by_head;               /* patterns differ from head to head */
    pf_listed_pattern *pattern; /* those that there are */
    const int32_t *which;       /* (segments), or (segments, heads): its pattern */
    int parts;                  /* of the pattern that has most */
    bool self_last;             /* of any */
    int64_t *start, *slot;      /* (segments * heads + 1): room for a pass */
    float *partial;             /* and for the sums of its spans; NULL: none has any */
} pf_listed;

/* One part on its way over all segments and heads: of queries, or of keys. */
typedef struct pf_listed_pass {
    const pf_listed *op;
    int part;
    bool by_key;
    int64_t heads, group;  /* heads of the side; which head of the group says the pattern of keys */
    int64_t *start, *slot; /* (segments * heads + 1): tasks and slots before those of each */
    bool fused;            /* dq grows with dk and dv where a chunk has all of a run's tiles */
} pf_listed_pass;

/* A task of it. */
typedef struct pf_listed_task {
    int64_t segment, head, run;
    const pf_listed_pattern *pattern;
    const pf_listed_part *part;
    int64_t from, to; /* entries of the run's list */
    int64_t runs;     /* from `run` on; more than 1 only by keys */
    float *partial;   /* its sum; NULL: whole, to where it belongs */
} pf_listed_task;

/* ---- listed_plan.c: patterns and tasks ---- */
/* After pf_softmax_open: makes the patterns of every segment. */
int pf_listed_open(pf_listed *op, pf_call *c);
/* Then: what the input `relative` says. */
int pf_listed_distances(pf_listed *op, pf_call *c);
const pf_listed_pattern *pf_listed_of(const pf_listed *op, int64_t segment, int64_t head);
/* A pass, one at a time. */
void pf_listed_begin(pf_listed_pass *pass, const pf_listed *op, int part, bool by_key,
                     int64_t group);
int64_t pf_listed_tasks(const pf_listed_pass *pass);
pf_listed_task pf_listed_task_at(const pf_listed_pass *pass, int64_t task);
/* Numbers of a partial sum. */
static inline int64_t pf_listed_numbers(const pf_softmax *s) {
    return PF_TILE * (s->d + s->dv + 1);
}
/* Whether a run of queries has all its tiles in one chunk of key runs. */
bool pf_listed_whole(const pf_listed_part *part, int64_t run);
/* Partial sum `span` of a run of this segment and head; how many it has. */
int64_t pf_listed_spans(const pf_listed_side *side, int64_t run);
float *pf_listed_partial(const pf_listed_pass *pass, int64_t pair, const pf_listed_side *side,
                         int64_t run, int64_t span);

/* ---- listed_tile.c: a tile ---- */
size_t pf_listed_bytes(const pf_softmax *op); /* of scratch */
/* Opens a tile; *marks: room for what a pattern cuts out of it. */
void pf_listed_tile(pf_tile *t, uint8_t **marks, const pf_listed *op, int64_t segment, int64_t head,
                    void *scratch);
pf_places pf_listed_run(const pf_order *o, int64_t run);
/* What the loaded queries, a run, see of the loaded keys; tile: its number in the list of tiles. */
void pf_listed_look(pf_tile *t, uint8_t *marks, const pf_listed_pattern *pattern,
                    const pf_listed_part *part, int64_t q_run, int64_t tile);
/* The key at query i's own place; -1: it doesn't see it in any way. */
int64_t pf_listed_self(const pf_softmax *op, const pf_segment *seg, int64_t i);

/* ---- listed_back.c ---- */
int pf_listed_backward(pf_call *c);

enum {
    PF_LISTED_PATTERN = PF_REACH_INPUTS,
    PF_LISTED_BUCKETS,
    PF_LISTED_RELATIVE,
    PF_LISTED_INPUTS
};
enum { PF_LISTED_SKIPPED = PF_SOFTMAX_ATTRS, PF_LISTED_KEPT };

#endif
