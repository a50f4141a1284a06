/*
 * segment_link.h - inside the floor nn/: nodes of a tape between the segments of a row
 * (sequence.h), whose forward takes what other segments have, and whose backward gives them its
 * gradient and takes theirs.
 *
 * What must hold: all ranks come to the same links in the same order, forward and back, since their
 * tapes are alike; so of a link some output always reaches the loss, even where nothing stands
 * before a segment. A second run of a layer (recompute, reversible) finds what the first one took,
 * and exchanges nothing; its backward is the one that does.
 *
 * Where segments have a rank each, a link is one exchange of all of them at once. Else those of one
 * rank leave what the next one takes in its place, and only the first and the last talk to others.
 */
#ifndef PF_SEGMENT_LINK_H
#define PF_SEGMENT_LINK_H

#include "part_state.h"
#include "sequence.h"

enum { PF_FORTH, PF_BACK }; /* from a segment to the next, and to the one before */

typedef struct pf_link {
    pf_segmented *q;
    pf_heap *heap;
    int place, segment;
    pf_part_shape shape; /* of states; `decay` lies behind */
    int64_t back, ahead; /* of rows */
    float decay[];
} pf_link;

/* Of the layer and segment that run; shape NULL: of rows. */
int pf_link_make(pf_link **made, const pf_run *run, const pf_part_shape *shape);
void pf_link_free(void *link);
/* What the first run of the layer took (PF_KEPT). */
pf_tensor **pf_link_kept(const pf_link *l);
/* The rank that has the next segment, or the one before; < 0: this rank, or nobody. */
int pf_link_rank(const pf_link *l, bool next);
/* `data` <- what the segment before this one, in the direction `way`, has given. */
int pf_link_take(const pf_link *l, int way, void *data, size_t bytes);
int pf_link_give(const pf_link *l, int way, const void *data, size_t bytes);

static inline bool pf_link_has_next(const pf_link *l) { return l->segment + 1 < l->q->n; }
static inline bool pf_link_again(const pf_run *run) { return run->pass->again; }

#endif
