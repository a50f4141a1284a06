/*
 * scan.h - what stands before each part of a row, where ranks hold the parts: an exclusive scan of
 * elements that can be joined (states of attention, their gradients), in an order that no number of
 * ranks changes.
 *
 * A row is cut into n leaves, and rank r of P has the leaves [r n / P, (r + 1) n / P). What stands
 * before leaf s is made of the aligned nodes of [0, s): those whose sizes are the bits of s, the
 * largest first, each the join of its two halves. The nearest node is joined with the next further
 * one, that with the next, and so on. So a hypercube has it in log2 n rounds, and one rank that
 * takes leaf after leaf with log2 n nodes at hand. Backwards the same with leaves counted from the
 * end.
 */
#ifndef PF_SCAN_H
#define PF_SCAN_H

#include "comm.h"

/* Elements of `bytes` bytes that hold no pointers. join: near <- near and what lies further from
 * the place that is asked about, `far`. It need not commute. */
typedef struct pf_monoid {
    size_t bytes;
    int (*join)(void *context, pf_engine *engine, void *near, const void *far);
    void *context;
} pf_monoid;

/* entry[i] <- what stands before the rank's i-th leaf, or behind it (back). Where nothing does, it
 * stays as it is. own, entry: the rank's leaves one behind the other. At least as many leaves as
 * ranks. A verb of comm.h, that begins with pf_comm_agree(status). */
int pf_comm_scan(pf_engine *engine, int status, const pf_monoid *monoid, int leaves,
                 const void *own, void *entry, bool back);
/* total <- the last leaf joined with what stands before it, for every rank. */
int pf_comm_total(pf_engine *engine, int status, const pf_monoid *monoid, int leaves,
                  const void *own, void *total);

/* To one rank and from one (< 0: none), without a vote: both are at it, or a failure ends the talk
 * when the time is over. Pieces of `bytes`, n of them. */
int pf_comm_pass(pf_engine *engine, int to, const void *const *out, int n_out, int from,
                 void *const *in, int n_in, size_t bytes);

/* For a rank that has failed, or has heard of it, while others may wait for what it passes on: they
 * fail with that message, at whatever verb they wait for it, and tell the others, too. This talk is
 * over; that of all, where this one is a group's, is not. Once only. */
void pf_comm_pass_failure(pf_engine *engine, int status);

/* ---- leaf after leaf on one rank ---- */
enum { PF_SCAN_NODES = 32 };
typedef struct pf_scan {
    pf_engine *engine;
    const pf_monoid *monoid;
    int64_t count;             /* leaves so far; its bits say which nodes there are */
    int n;                     /* nodes, the furthest first */
    void *node[PF_SCAN_NODES]; /* of the heap */
} pf_scan;
/* What all leaves so far are together; nothing: `entry` stays. */
int pf_scan_before(const pf_scan *scan, void *entry);
int pf_scan_push(pf_scan *scan, const void *leaf);
/* The nodes of `count` leaves, as undefined numbers that the caller fills in. */
int pf_scan_expect(pf_scan *scan, int64_t count);
void pf_scan_close(pf_scan *scan);

#endif
