/*
 * part_state.c - the elements of part_state.h: one block of memory, so that it goes over a wire as
 * it is.
 */
#include "part_state.h"

#include <math.h>
#include <string.h>

#include "operator.h"

enum { LINE = 64 };

static size_t cut_bytes(const pf_part_shape *p) {
    return (size_t)pf_round_up((int64_t)sizeof(int64_t) + p->batch * (int64_t)sizeof(int32_t),
                               LINE);
}

static int64_t head_floats(const pf_part_shape *p) { return 1 + p->r + p->r * p->dv; }

/* Of whole lengths, so that one behind another is aligned. */
size_t pf_part_state_bytes(const pf_part_shape *p) {
    const int64_t numbers = p->batch * p->heads * head_floats(p);
    return cut_bytes(p) +
           (size_t)pf_round_up(numbers * (int64_t)sizeof(float), (int64_t)sizeof(int64_t));
}

pf_part_state pf_part_state_at(const pf_part_shape *p, void *block) {
    int64_t heads = p->batch * p->heads;
    float *numbers = (float *)((char *)block + cut_bytes(p));
    return (pf_part_state){.length = block,
                           .cut = (int32_t *)((char *)block + sizeof(int64_t)),
                           .shift = numbers,
                           .z = numbers + heads,
                           .s = numbers + heads * (1 + p->r)};
}

void pf_part_state_forget(const pf_part_shape *p, void *block, int64_t b) {
    pf_part_state a = pf_part_state_at(p, block);
    int64_t heads = p->heads, r = p->r, rdv = p->r * p->dv;
    for (int64_t h = 0; h < heads; h++) a.shift[b * heads + h] = -INFINITY;
    memset(a.z + b * heads * r, 0, (size_t)(heads * r) * sizeof(float));
    memset(a.s + b * heads * rdv, 0, (size_t)(heads * rdv) * sizeof(float));
}

void pf_part_state_nothing(const pf_part_shape *p, void *block) {
    memset(block, 0, cut_bytes(p));
    memset((char *)block + pf_part_state_bytes(p) - sizeof(int64_t), 0, sizeof(int64_t));
    for (int64_t b = 0; b < p->batch; b++) pf_part_state_forget(p, block, b);
}

typedef struct {
    const pf_part_shape *shape;
    const pf_kern *kern;
    pf_part_state near, far;
} join_job;

static void join_task(void *context, int64_t task, void *scratch) {
    const join_job *j = context;
    const pf_part_shape *p = j->shape;
    int64_t r = p->r, rdv = p->r * p->dv;
    (void)scratch;
    if (j->near.cut[task / p->heads]) return;
    float decay = p->decay ? p->decay[task % p->heads] : 0;
    float own = j->near.shift[task];
    float come = j->far.shift[task] - decay * (float)*j->near.length;
    float top = come > own ? come : own;
    float keep = pf_decay(own, top), add = pf_decay(come, top);
    float *s = j->near.s + task * rdv, *z = j->near.z + task * r;
    j->kern->scale(rdv, keep, s, s);
    j->kern->scale(r, keep, z, z);
    j->kern->axpy(rdv, add, j->far.s + task * rdv, s);
    j->kern->axpy(r, add, j->far.z + task * r, z);
    j->near.shift[task] = top;
}

static int join(void *context, pf_engine *e, void *near, const void *far) {
    const pf_part_shape *p = context;
    join_job j = {p, e->kern, pf_part_state_at(p, near),
                  pf_part_state_at(p, (void *)(uintptr_t)far)};
    PF_TRY(pf_parallel(e, p->batch * p->heads, 0, join_task, &j));
    for (int64_t b = 0; b < p->batch; b++) j.near.cut[b] |= j.far.cut[b];
    *j.near.length += *j.far.length;
    return PF_OK;
}

pf_monoid pf_part_monoid(pf_part_shape *shape) {
    return (pf_monoid){.bytes = pf_part_state_bytes(shape), .join = join, .context = shape};
}
