/*
 * segment_attend.c - linear attention of a segment: by the scan of the segments' own states, or by
 * the chain of what each leaves to the next (sequence.h).
 *
 *     own = favor of the segment's keys, asked by nobody: S, z, M from nothing
 *     entry = scan(own)
 *     out = favor of its queries and keys, from the entry
 *
 * M is a constant: attention doesn't depend on it.
 */
#include <math.h>
#include <string.h>

#include "operator.h"
#include "segment_link.h"

enum { S, Z, SHIFT, SUMS };

/* ---- documents ---- */

static int32_t document(const pf_segmented *q, int64_t b, int64_t at) {
    return pf_i32(q->pass.documents)[b * q->length + at];
}

/* A document begins with the segment. */
static bool begins(const pf_link *l, int64_t b) {
    int64_t first = pf_segment_first(l->q, l->segment);
    if (!l->q->pass.documents || first == 0) return false;
    return document(l->q, b, first) != document(l->q, b, first - 1);
}

/* What an element is beside its numbers. */
static void set_part(const pf_link *l, void *block) {
    pf_part_state a = pf_part_state_at(&l->shape, block);
    int64_t first = pf_segment_first(l->q, l->segment);
    int64_t end = pf_segment_first(l->q, l->segment + 1);
    *a.length = end - first;
    for (int64_t b = 0; b < l->shape.batch; b++) {
        a.cut[b] = begins(l, b);
        for (int64_t t = first + 1; l->q->pass.documents && t < end && !a.cut[b]; t++)
            a.cut[b] = document(l->q, b, t) != document(l->q, b, t - 1);
    }
}

static void forget_begun(const pf_link *l, void *block) {
    for (int64_t b = 0; b < l->shape.batch; b++)
        if (begins(l, b)) pf_part_state_forget(&l->shape, block, b);
}

/* ---- states as elements ---- */

/* The numbers of three tensors, contiguous; NULL: none. */
static int read_sums(const pf_link *l, pf_tensor *const sums[SUMS], void *block) {
    pf_part_state a = pf_part_state_at(&l->shape, block);
    float *to[SUMS] = {a.s, a.z, a.shift};
    pf_part_state_nothing(&l->shape, block);
    set_part(l, block);
    for (int i = 0; i < SUMS; i++) {
        if (!sums[i]) continue;
        PF_TRY(pf_tensor_read(sums[i], to[i], (size_t)pf_tensor_numel(sums[i]) * sizeof(float)));
    }
    return PF_OK;
}

static int make_sums(const pf_link *l, void *block, pf_tensor **sums) {
    const pf_part_shape *p = &l->shape;
    pf_part_state a = pf_part_state_at(p, block);
    const float *from[SUMS] = {a.s, a.z, a.shift};
    int64_t shape[4] = {p->batch, p->heads, p->r, p->dv};
    for (int i = 0; i < SUMS; i++) {
        PF_TRY(pf_tensor_make_lasting(&sums[i], l->heap, PF_F32, 4 - i, shape));
        memcpy(pf_f32(sums[i]), from[i], (size_t)pf_tensor_numel(sums[i]) * sizeof(float));
    }
    return PF_OK;
}

/* ---- the scan ---- */

/* The nodes that stand before this rank's first segment in the direction `way`, and those that
 * stand behind its last one. */
static int take_nodes(const pf_link *l, pf_scan *scan, int way) {
    int from = pf_link_rank(l, way == PF_BACK);
    int64_t count = way == PF_BACK ? l->q->n - 1 - l->segment : l->segment;
    if (from < 0) return PF_OK;
    PF_TRY(pf_scan_expect(scan, count));
    return pf_comm_pass(l->q->e, -1, NULL, 0, from, scan->node, scan->n, scan->monoid->bytes);
}

static int give_nodes(const pf_link *l, const pf_scan *scan, int way) {
    int to = pf_link_rank(l, way == PF_FORTH);
    if (to < 0) return PF_OK;
    return pf_comm_pass(l->q->e, to, (const void *const *)scan->node, scan->n, -1, NULL, 0,
                        scan->monoid->bytes);
}

/* entry <- what stands before this segment (PF_BACK: behind it); own: what it adds for the next. */
static int wave(const pf_link *l, const pf_monoid *m, int way, const void *own, void *entry) {
    pf_segment_place *p = &l->q->place[l->place];
    pf_scan *scan = &p->scan[way];
    p->monoid = *m;
    scan->engine = l->q->e, scan->monoid = &p->monoid;
    PF_TRY(take_nodes(l, scan, way));
    PF_TRY(pf_scan_before(scan, entry));
    bool more = way == PF_BACK ? l->segment > 0 : pf_link_has_next(l);
    int status = more ? pf_scan_push(scan, own) : PF_OK;
    if (status >= 0 && more) status = give_nodes(l, scan, way);
    if (!more || pf_link_rank(l, way == PF_FORTH) >= 0) pf_scan_close(scan);
    return status;
}

static int exchange(const pf_link *l, int status, int way, const void *own, void *entry, bool all) {
    pf_part_shape shape = l->shape;
    const pf_monoid m = pf_part_monoid(&shape);
    if (all) return pf_comm_total(l->q->e, status, &m, l->q->n, own, entry);
    if (l->q->together)
        return pf_comm_scan(l->q->e, status, &m, l->q->n, own, entry, way == PF_BACK);
    return status < 0 ? status : wave(l, &m, way, own, entry);
}

/* block[0] is the segment's own element, of status; block[1] what stands before it. */
static int scan_elements(const pf_link *l, int way, bool all, int status, char *block,
                         size_t bytes) {
    if (status >= 0) pf_part_state_nothing(&l->shape, block + bytes);
    return exchange(l, status, way, block, block + bytes, all);
}

static int scan_forth(const pf_link *l, pf_tensor *const own[SUMS], bool all, pf_tensor **entry) {
    size_t bytes = pf_part_state_bytes(&l->shape);
    char *block = pf_heap_alloc(l->heap, 2 * bytes);
    int status = block ? read_sums(l, own, block) : PF_ENOMEM;
    status = scan_elements(l, PF_FORTH, all, status, block, bytes);
    if (status >= 0 && !all) forget_begun(l, block + bytes);
    if (status >= 0) status = make_sums(l, block + bytes, entry);
    if (block) pf_heap_free(l->heap, block, 2 * bytes);
    return status;
}

/* The gradient of the entry, on the scale that its M says; of no key that is nothing, as where a
 * document begins with the segment. */
static int read_gradient(const pf_call *c, const pf_link *l, void *block) {
    pf_tensor *const sums[SUMS] = {c->dout[S], c->dout[Z], c->out[SHIFT]};
    PF_TRY(read_sums(l, sums, block));
    pf_part_state a = pf_part_state_at(&l->shape, block);
    for (int64_t i = 0; i < l->shape.batch * l->shape.heads; i++)
        a.shift[i] = a.shift[i] == -INFINITY ? -INFINITY : -a.shift[i];
    return PF_OK;
}

/* e^(M + C) T of what came, to those who want it. */
static int give_own(pf_call *c, const pf_link *l, void *block) {
    const pf_part_shape *p = &l->shape;
    pf_part_state a = pf_part_state_at(p, block);
    const float *from[SHIFT] = {a.s, a.z}, *M = pf_f32(c->in[SHIFT]);
    const int64_t width[SHIFT] = {p->r * p->dv, p->r};
    for (int i = S; i < SHIFT; i++) {
        pf_tensor *grad;
        if (!c->need[i]) continue;
        PF_TRY(pf_call_make(c, PF_F32, 4 - i, c->in[i]->shape, &grad));
        for (int64_t h = 0; h < p->batch * p->heads; h++)
            c->engine->kern->scale(width[i], pf_decay(M[h], -a.shift[h]), from[i] + h * width[i],
                                   pf_f32(grad) + h * width[i]);
        PF_TRY(pf_grad_give(c, i, grad));
    }
    return PF_OK;
}

static int scan_backward_of(pf_call *c, bool all) {
    const pf_link *l = pf_linked_context(c);
    size_t bytes = pf_part_state_bytes(&l->shape);
    char *block = pf_call_alloc(c, 2 * bytes);
    int status = block ? read_gradient(c, l, block) : PF_ENOMEM;
    PF_TRY(scan_elements(l, PF_BACK, all, status, block, bytes));
    return give_own(c, l, block + bytes);
}

static int scan_backward(pf_call *c) { return scan_backward_of(c, false); }
static int total_backward(pf_call *c) { return scan_backward_of(c, true); }

/* own sums in, entry sums out */
static const pf_op scan_op = {.name = "segments' scan",
                              .args = "s, z, shift",
                              .results = "s, z, shift",
                              .min_in = SUMS,
                              .max_in = SUMS,
                              .n_out = SUMS,
                              .uses = PF_USES_IN(SHIFT) | PF_USES_OUT(SHIFT),
                              .backward = scan_backward};
static const pf_op total_op = {.name = "segments' total",
                               .args = "s, z, shift",
                               .results = "s, z, shift",
                               .min_in = SUMS,
                               .max_in = SUMS,
                               .n_out = SUMS,
                               .uses = PF_USES_IN(SHIFT) | PF_USES_OUT(SHIFT),
                               .backward = total_backward};

static void retain_kept(const pf_link *l, pf_tensor **to, int n) {
    for (int i = 0; i < n; i++) to[i] = pf_tensor_retain(pf_link_kept(l)[i]);
}

/* Decays lie in a row; states' sizes are those of the sums. */
static pf_part_shape shape_of(const pf_attention *a, const pf_tensor *s) {
    return (pf_part_shape){s->shape[0], s->shape[1], s->shape[2], s->shape[3],
                           a->causal && a->decay ? pf_f32(a->decay) : NULL};
}

static int scan(pf_engine *e, const pf_run *run, const pf_attention *a, pf_tensor *const own[SUMS],
                pf_tensor **entry) {
    const pf_part_shape shape = shape_of(a, own[S]);
    pf_link *l;
    PF_TRY(pf_link_make(&l, run, &shape));
    int status = pf_link_again(run) ? PF_OK : scan_forth(l, own, !a->causal, pf_link_kept(l));
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    retain_kept(l, entry, SUMS);
    return pf_record_linked(e, a->causal ? &scan_op : &total_op, l, pf_link_free, own, SUMS, entry,
                            SUMS);
}

/* ---- attention by the scan ---- */

static void release(pf_tensor **t, int n) {
    for (int i = 0; i < n; i++) pf_tensor_release(&t[i]);
}

/* x (B, H, L, d) -> (B, H, 0, d), of nothing */
static int empty_like(pf_tensor **t, pf_engine *e, const pf_tensor *x) {
    const int64_t shape[4] = {x->shape[0], x->shape[1], 0, x->shape[3]};
    return pf_tensor_make(t, e, PF_F32, 4, shape);
}

/* The sums of the segment's keys from nothing, asked by nobody. */
static int own_sums(pf_engine *e, const pf_attention *a, pf_tensor *const *given,
                    pf_tensor *sums[SUMS]) {
    pf_tensor *in[PF_ATTENTION_INPUTS], *made[PF_ATTENTION_OUTPUTS] = {NULL}, *none[2] = {NULL};
    const int64_t shape[2] = {given[PF_IN_Q]->shape[0], 0};
    memcpy(in, given, sizeof in);
    int status = empty_like(&none[0], e, given[PF_IN_Q]);
    if (status >= 0) status = pf_tensor_make(&none[1], e, PF_I32, 2, shape);
    in[PF_IN_Q] = none[0], in[PF_IN_LIMITS] = none[1];
    if (status >= 0) status = pf_attend_rows(made, e, a, in, true);
    release(none, 2);
    pf_tensor_release(&made[0]);
    memcpy(sums, made + 1, SUMS * sizeof *sums);
    return status;
}

/* Queries of the segment against what stands before it and its own keys; or, where they see all
 * keys, against the sums of those. */
static int ask(pf_tensor **y, pf_engine *e, const pf_attention *a, pf_tensor *const *given,
               pf_tensor *const entry[SUMS]) {
    pf_tensor *in[PF_ATTENTION_INPUTS], *made[PF_ATTENTION_OUTPUTS] = {NULL}, *none[2] = {NULL};
    int status = PF_OK;
    memcpy(in, given, sizeof in);
    memcpy(in + PF_REACH_INPUTS, entry, SUMS * sizeof *entry);
    if (!a->causal && entry[S]) {
        status = empty_like(&none[0], e, in[PF_IN_K]);
        if (status >= 0) status = empty_like(&none[1], e, in[PF_IN_V]);
        in[PF_IN_K] = none[0], in[PF_IN_V] = none[1], in[PF_IN_MASK] = NULL;
    }
    if (status >= 0) status = pf_attend_rows(made, e, a, in, false);
    release(none, 2);
    *y = made[0];
    return status;
}

/* Behind the last segment of a causal row nobody asks for its keys. */
static int no_sums(pf_engine *e, const pf_attention *a, pf_tensor *const *given,
                   pf_tensor *sums[SUMS]) {
    int64_t shape[4] = {given[PF_IN_K]->shape[0], given[PF_IN_K]->shape[1], 0,
                        given[PF_IN_V]->shape[3]};
    PF_TRY(pf_kernel_width(&shape[2], e, a->kernel, shape[1]));
    for (int i = S; i < SUMS; i++) {
        PF_TRY(pf_tensor_make(&sums[i], e, PF_F32, 4 - i, shape));
        PF_TRY(pf_tensor_fill(sums[i], i == SHIFT ? -INFINITY : 0));
    }
    return PF_OK;
}

static int attend_scanned(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                          pf_tensor *const *in) {
    pf_tensor *own[SUMS] = {NULL}, *entry[SUMS] = {NULL};
    bool asked = !a->causal || run->slice->segmented->segment + 1 < run->slice->segmented->n;
    int status = asked ? own_sums(e, a, in, own) : no_sums(e, a, in, own);
    if (status >= 0) status = scan(e, run, a, own, entry);
    if (status >= 0) status = ask(y, e, a, in, entry);
    release(own, SUMS);
    release(entry, SUMS);
    return status;
}

/* ---- attention by the chain ---- */

/* A state, or its gradient, from or to a neighbour. */
static int take_sums(const pf_link *l, int way, char *block) {
    return pf_link_take(l, way, block, pf_part_state_bytes(&l->shape));
}

static int take_entry(const pf_link *l, pf_tensor **entry) {
    size_t bytes = pf_part_state_bytes(&l->shape);
    char *block = pf_heap_alloc(l->heap, bytes);
    int status = block ? take_sums(l, PF_FORTH, block) : PF_ENOMEM;
    if (status >= 0) {
        forget_begun(l, block);
        status = make_sums(l, block, entry);
    }
    if (block) pf_heap_free(l->heap, block, bytes);
    return status;
}

/* Their gradient, without that of items that begin anew. */
static int enter_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    pf_tensor *const sums[SUMS] = {c->dout[S], c->dout[Z], NULL};
    size_t bytes = pf_part_state_bytes(&l->shape);
    char *block = pf_call_alloc(c, bytes);
    if (!block) return PF_ENOMEM;
    PF_TRY(read_sums(l, sums, block));
    forget_begun(l, block);
    return pf_link_give(l, PF_BACK, block, bytes);
}

/* keys in, which stand for what made the entry; entry sums out */
static const pf_op enter_op = {.name = "segment's entry",
                               .args = "k",
                               .results = "s, z, shift",
                               .min_in = 1,
                               .max_in = 1,
                               .n_out = SUMS,
                               .backward = enter_backward};

static int leave_backward(pf_call *c) {
    const pf_link *l = pf_linked_context(c);
    const pf_part_shape *p = &l->shape;
    size_t bytes = pf_part_state_bytes(p);
    char *block = pf_call_alloc(c, bytes);
    if (!block) return PF_ENOMEM;
    PF_TRY(take_sums(l, PF_BACK, block));
    pf_part_state a = pf_part_state_at(p, block);
    const float *from[SHIFT] = {a.s, a.z};
    if (c->need[0] && c->dout[0]) PF_TRY(pf_grad_give(c, 0, c->dout[0]));
    for (int i = S; i < SHIFT; i++) {
        pf_tensor *grad;
        if (!c->need[1 + i]) continue;
        PF_TRY(pf_call_make(c, PF_F32, 4 - i, c->in[1 + i]->shape, &grad));
        memcpy(pf_f32(grad), from[i], (size_t)pf_tensor_numel(grad) * sizeof(float));
        PF_TRY(pf_grad_give(c, 1 + i, grad));
    }
    return PF_OK;
}

/* out, exit sums in; out again, by which the gradient comes back here */
static const pf_op leave_op = {.name = "segment's exit",
                               .args = "out, s, z",
                               .results = "out",
                               .min_in = 3,
                               .max_in = 3,
                               .n_out = 1,
                               .backward = leave_backward};

/* *entry: what stands before the segment; the first one has nothing. */
static int enter(pf_engine *e, const pf_run *run, const pf_part_shape *shape, pf_tensor *k,
                 pf_tensor **entry) {
    pf_link *l;
    PF_TRY(pf_link_make(&l, run, shape));
    if (l->segment == 0) {
        pf_link_free(l);
        return PF_OK;
    }
    int status = pf_link_again(run) ? PF_OK : take_entry(l, pf_link_kept(l));
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    retain_kept(l, entry, SUMS);
    return pf_record_linked(e, &enter_op, l, pf_link_free, &k, 1, entry, SUMS);
}

static int give_exit(const pf_link *l, pf_tensor *const exit[SUMS]) {
    size_t bytes = pf_part_state_bytes(&l->shape);
    char *block = pf_heap_alloc(l->heap, bytes);
    int status = block ? read_sums(l, exit, block) : PF_ENOMEM;
    if (status >= 0) status = pf_link_give(l, PF_FORTH, block, bytes);
    if (block) pf_heap_free(l->heap, block, bytes);
    return status;
}

/* *out goes on to the layer; the last one's sums are of no use. */
static int leave(pf_engine *e, const pf_run *run, const pf_part_shape *shape,
                 pf_tensor *const exit[SUMS], pf_tensor **out) {
    pf_link *l;
    PF_TRY(pf_link_make(&l, run, shape));
    int status = pf_link_has_next(l) && !pf_link_again(run) ? give_exit(l, exit) : PF_OK;
    if (status < 0 || !pf_link_has_next(l)) {
        pf_link_free(l);
        return status;
    }
    pf_tensor *in[] = {*out, exit[S], exit[Z]}, *same = NULL;
    status = pf_tensor_view(&same, *out);
    if (status < 0) {
        pf_link_free(l);
        return status;
    }
    status = pf_record_linked(e, &leave_op, l, pf_link_free, in, 3, &same, 1);
    /* Where nothing is recorded, a view would stand for a number of the graph. */
    if (status >= 0 && pf_tape_records(e))
        pf_replace(out, same);
    else
        pf_tensor_release(&same);
    return status;
}

static int attend_chained(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                          pf_tensor *const *given) {
    pf_tensor *in[PF_ATTENTION_INPUTS], *made[PF_ATTENTION_OUTPUTS] = {NULL};
    pf_part_shape shape = {.batch = given[PF_IN_K]->shape[0],
                           .heads = given[PF_IN_K]->shape[1],
                           .dv = given[PF_IN_V]->shape[3]};
    PF_TRY(pf_kernel_width(&shape.r, e, a->kernel, shape.heads));
    memcpy(in, given, sizeof in);
    int status = enter(e, run, &shape, in[PF_IN_K], in + PF_REACH_INPUTS);
    if (status >= 0) status = pf_attend_rows(made, e, a, in, true);
    if (status >= 0) status = leave(e, run, &shape, made + 1, &made[0]);
    release(in + PF_REACH_INPUTS, SUMS);
    release(made + 1, SUMS);
    *y = made[0];
    if (status < 0) pf_tensor_release(y);
    return status;
}

int pf_segment_attend(pf_tensor **y, pf_engine *e, const pf_attention *a, const pf_run *run,
                      pf_tensor *const *in) {
    *y = NULL;
    if (!a->kind->state) return ask(y, e, a, in, in + PF_REACH_INPUTS);
    if (!a->kind->carries) return pf_segment_attend_all(y, e, a, run, in);
    return run->slice->segmented->chain ? attend_chained(y, e, a, run, in)
                                        : attend_scanned(y, e, a, run, in);
}
