/*
 * sliced.c - a training step over one slice of the sequence after another (Likhosherstov et al.
 * 2020, "Sub-Linear Memory: How to Make Performers SLiM", algorithm 1): the memory of one slice,
 * the gradient of the whole.
 *
 * Forward goes over all slices but the last without keeping anything but the states that layers
 * hand on. Then the slices are walked, the last first: each is run again from its entry state,
 * whose tensors are leaves of its tape, and its backward begins with the slice's loss and with
 * the gradient of its exit state, which is that of the next slice's entry state.
 *
 * Only states go from slice to slice, so every layer must hold all that it remembers in its
 * state: linear causal attention, short convolutions, n-grams and positions do.
 */
#include "module.h"

typedef struct {
    pf_engine *e;
    pf_module *m;
    pf_tensor *x, *target; /* (B, L), ...; (B, L) i32, contiguous */
    pf_pass pass;
    int64_t n, batch, length, counted;
    pf_state **entry;    /* (n): what stands before a slice; its tensors lie outside any tape */
    pf_state *cotangent; /* of the exit state of the slice that is walked; NULL: none */
    uint64_t *calls;     /* (n): random calls before a slice */
    bool *keep;          /* (B) */
    double loss;
} job;

static int64_t first_of(const job *j, int64_t i) { return i * j->length / j->n; }

/* ---- trees of tensors ---- */

/* A tree of nodes of its own on the same tensors. */
static int shell_of(pf_state **shell, pf_engine *e, const pf_state *from) {
    PF_TRY(pf_state_new(shell, e, from->batch, from->n_child));
    pf_state *s = *shell;
    s->kind = from->kind;
    s->position = from->position;
    for (int k = 0; k < PF_STATE_TENSORS; k++) s->tensor[k] = pf_tensor_retain(from->tensor[k]);
    for (int i = 0; i < from->n_child; i++) {
        int status = from->child[i] ? shell_of(&s->child[i], e, from->child[i]) : PF_OK;
        if (status >= 0) continue;
        pf_state_close(shell);
        return status;
    }
    return PF_OK;
}

/* Calls f on every tensor's place of a tree, and on the same place of another one. */
static int each(pf_state *a, pf_state *b, int (*f)(pf_state *a, pf_state *b, int k, void *context),
                void *context) {
    for (int k = 0; k < PF_STATE_TENSORS; k++) {
        if (a->tensor[k]) PF_TRY(f(a, b, k, context));
    }
    for (int i = 0; i < a->n_child; i++) {
        if (a->child[i]) PF_TRY(each(a->child[i], b ? b->child[i] : NULL, f, context));
    }
    return PF_OK;
}

/* A copy that outlives the tape. */
static int settle(pf_state *a, pf_state *b, int k, void *context) {
    pf_tensor *own = NULL;
    (void)b;
    PF_TRY(pf_tensor_detach(&own, context, a->tensor[k]));
    pf_replace(&a->tensor[k], own);
    return PF_OK;
}

static bool is_constant(const pf_state *a, int k) {
    return a->tensor[k]->dtype != PF_F32 || (a->kind->log_scale >> k & 1);
}

/* A leaf on the same numbers. */
static int mark(pf_state *a, pf_state *b, int k, void *context) {
    pf_tensor *leaf = NULL;
    (void)b, (void)context;
    if (is_constant(a, k)) return PF_OK;
    PF_TRY(pf_tensor_view(&leaf, a->tensor[k]));
    pf_replace(&a->tensor[k], leaf);
    return pf_tensor_require_grad(leaf, true);
}

/* The gradient of a leaf in its place; NULL: none. */
static int take_gradient(pf_state *a, pf_state *b, int k, void *context) {
    pf_tensor *leaf = a->tensor[k];
    (void)b, (void)context;
    pf_replace(&a->tensor[k], leaf->grad_stale ? NULL : pf_tensor_retain(leaf->grad));
    return PF_OK;
}

/* ---- one slice ---- */

/* *y = the module's output on slice i, from the state, which moves on. */
static int run_slice(job *j, int64_t i, pf_state *state, bool again, bool last, pf_tensor **y) {
    pf_pass pass = j->pass;
    pf_tensor *x = NULL;
    int64_t first = first_of(j, i), end = first_of(j, i + 1);
    pf_part slice = {first, j->pass.documents, j->pass.mask};
    uint64_t calls = j->calls[i];
    pf_run run = {PF_RUN_SLICE, &pass, state, last, &slice};
    pass.calls = &calls;
    pass.again = pass.again || again;
    pass.mask = pass.documents = NULL;
    int status = pf_part_of(&x, j->e, j->x, first, end);
    if (status >= 0) status = pf_part_of(&pass.mask, j->e, j->pass.mask, first, end);
    if (status >= 0) status = pf_part_of(&pass.documents, j->e, j->pass.documents, first, end);
    if (status >= 0) status = pf_run_module(j->m, j->e, &run, x, y);
    if (i + 1 < j->n) j->calls[i + 1] = calls;
    pf_tensor_release(&pass.documents);
    pf_tensor_release(&pass.mask);
    pf_tensor_release(&x);
    return status;
}

/* Items whose document at the beginning of slice i is not the one before it. */
static void cut(job *j, int64_t i, pf_state *state, bool gradient) {
    const pf_tensor *d = j->pass.documents;
    int64_t at = first_of(j, i);
    if (!d || i == 0) return;
    for (int64_t b = 0; b < j->batch; b++) {
        const int32_t *row = pf_i32(d) + b * d->stride[0];
        j->keep[b] = row[at * d->stride[1]] == row[(at - 1) * d->stride[1]];
    }
    pf_state_begin_anew(state, j->keep, gradient);
}

/* ---- forward ---- */

/* The state after slice i; what is made on the way is gone. */
static int pass_slice(job *j, int64_t i) {
    pf_tape *tape = NULL;
    pf_tensor *y = NULL;
    pf_state *state = NULL;
    PF_TRY(shell_of(&state, j->e, j->entry[i]));
    int status = pf_tape_open(&tape, j->e);
    if (status >= 0) {
        pf_tape_pause(j->e);
        status = run_slice(j, i, state, false, true, &y);
        if (status >= 0) status = each(state, NULL, settle, j->e);
    }
    pf_tensor_release(&y);
    pf_tape_close(&tape);
    if (status < 0) pf_state_close(&state);
    j->entry[i + 1] = state;
    if (status >= 0) cut(j, i + 1, state, false);
    return status;
}

/* ---- backward ---- */

/* What backward begins with: the slice's loss, and its exit state. */
typedef struct {
    pf_engine *e;
    pf_tensor **outs;
    const pf_tensor **seeds;
    int64_t n;
} ends;

static int count_place(pf_state *a, pf_state *b, int k, void *context) {
    (void)a, (void)b, (void)k;
    ++*(int64_t *)context;
    return PF_OK;
}

/* An exit tensor with its gradient, where it has one. */
static int add_end(pf_state *a, pf_state *b, int k, void *context) {
    ends *to = context;
    const pf_tensor *seed = b ? b->tensor[k] : NULL;
    if (!seed || !pf_in_graph(to->e, a->tensor[k])) return PF_OK;
    to->outs[to->n] = a->tensor[k];
    to->seeds[to->n++] = seed;
    return PF_OK;
}

static int64_t count_targets(const pf_tensor *target) {
    int64_t n = 0;
    for (int64_t i = 0; i < pf_tensor_numel(target); i++) n += pf_i32(target)[i] >= 0;
    return n;
}

/* The slice's part of the mean over all targets: *loss, to be seeded with *share. */
static int loss_of(job *j, int64_t i, pf_tensor *y, pf_tensor **loss, pf_tensor **share) {
    pf_tensor *target = NULL;
    double value = 0;
    PF_TRY(pf_part_of(&target, j->e, j->target, first_of(j, i), first_of(j, i + 1)));
    double part = (double)count_targets(target) / (double)j->counted;
    int status = pf_cross_entropy(loss, j->e, y, target);
    if (status >= 0) status = pf_tensor_get(*loss, 0, &value);
    if (status >= 0) status = pf_tensor_full(share, j->e, PF_F32, 0, NULL, part);
    j->loss += part * value;
    pf_tensor_release(&target);
    return status;
}

static int walk_back(job *j, pf_tape *tape, pf_state *exit, pf_tensor *loss, pf_tensor *share) {
    int64_t places = 1;
    PF_TRY(each(exit, NULL, count_place, &places));
    size_t bytes = (size_t)places * sizeof(pf_tensor *);
    ends to = {.e = j->e,
               .outs = pf_heap_alloc(j->e->heap, bytes),
               .seeds = pf_heap_alloc(j->e->heap, bytes)};
    int status = to.outs && to.seeds ? PF_OK : PF_ENOMEM;
    if (status >= 0) {
        if (pf_in_graph(j->e, loss)) to.outs[0] = loss, to.seeds[0] = share, to.n = 1;
        status = each(exit, j->cotangent, add_end, &to);
    }
    if (status >= 0) status = pf_tape_backward_all(tape, to.outs, to.seeds, to.n);
    pf_heap_free(j->e->heap, to.outs, bytes);
    pf_heap_free(j->e->heap, to.seeds, bytes);
    return status;
}

/* Slice i on an open tape: the entry state's leaves have their gradients afterwards. */
static int walk_on(job *j, int64_t i, pf_tape *tape, const pf_state *leaves) {
    pf_tensor *y = NULL, *loss = NULL, *share = NULL;
    pf_state *state = NULL;
    PF_TRY(shell_of(&state, j->e, leaves));
    int status = run_slice(j, i, state, i + 1 < j->n, false, &y);
    if (status >= 0) status = loss_of(j, i, y, &loss, &share);
    pf_tensor_release(&y);
    if (status >= 0) status = walk_back(j, tape, state, loss, share);
    pf_tensor_release(&loss);
    pf_tensor_release(&share);
    pf_state_close(&state);
    return status;
}

static int walk_slice(job *j, int64_t i) {
    pf_tape *tape = NULL;
    pf_state *leaves = j->entry[i];
    j->entry[i] = NULL;
    int status = i > 0 ? each(leaves, NULL, mark, NULL) : PF_OK;
    if (status >= 0) status = pf_tape_open(&tape, j->e);
    if (status >= 0) status = walk_on(j, i, tape, leaves);
    pf_tape_close(&tape);
    if (status >= 0) status = each(leaves, NULL, take_gradient, NULL);
    pf_state_close(&j->cotangent);
    j->cotangent = leaves;
    if (status >= 0) cut(j, i, leaves, true);
    return status;
}

/* ---- the step ---- */

static int run_all(job *j) {
    PF_TRY(pf_state_of(j->m, j->e, j->batch, &j->entry[0]));
    pf_state_begin_parts(j->entry[0]);
    for (int64_t i = 0; i + 1 < j->n; i++) PF_TRY(pass_slice(j, i));
    for (int64_t i = j->n - 1; i >= 0; i--) PF_TRY(walk_slice(j, i));
    return PF_OK;
}

/* A sum that broke off is no gradient. */
static void forget(const pf_module *m) {
    pf_tensor *t = NULL;
    for (int i = pf_module_tensor_count(m) - 1; i >= 0; i--) {
        if (pf_module_tensor_at(m, i, NULL, &t, NULL) >= 0) pf_tensor_clear_grad(t);
    }
}

static int run_job(job *j) {
    pf_heap *heap = j->e->heap;
    size_t states = (size_t)j->n * sizeof *j->entry, calls = (size_t)j->n * sizeof *j->calls;
    size_t keep = (size_t)j->batch * sizeof *j->keep;
    j->entry = pf_heap_zalloc(heap, states);
    j->calls = pf_heap_zalloc(heap, calls);
    j->keep = pf_heap_zalloc(heap, keep);
    int status = j->entry && j->calls && j->keep ? PF_OK : PF_ENOMEM;
    if (status >= 0 && j->pass.calls) j->calls[0] = *j->pass.calls;
    if (status >= 0) status = run_all(j);
    if (status < 0) forget(j->m);
    for (int64_t i = 0; j->entry && i < j->n; i++) pf_state_close(&j->entry[i]);
    pf_state_close(&j->cotangent);
    pf_heap_free(heap, j->entry, states);
    pf_heap_free(heap, j->calls, calls);
    pf_heap_free(heap, j->keep, keep);
    return status;
}

static int check_sizes(const job *j, const pf_tensor *target) {
    const pf_tensor *x = j->x;
    if (x->rank < 2 || target->rank != 2 || target->dtype != PF_I32 ||
        target->shape[0] != x->shape[0] || target->shape[1] != x->shape[1]) {
        return pf_fail(PF_ESHAPE,
                       "sliced: x is %s and the target %s %s, must be (B, L, ...) and "
                       "(B, L) i32",
                       pf_shape_of(x), pf_shape_of(target), pf_dtype_name(target->dtype));
    }
    if (j->n >= 1 && (j->n == 1 || x->shape[1] / j->n >= PF_SLICE_LEAST)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "sliced: %lld slices of %lld positions; a slice has at least %d, so "
                   "ask for 1 to %lld slices",
                   (long long)j->n, (long long)x->shape[1], PF_SLICE_LEAST,
                   (long long)pf_max(1, x->shape[1] / PF_SLICE_LEAST));
}

int pf_module_backward_sliced(double *loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                              pf_tensor *target, const pf_pass *pass, int64_t slices) {
    PF_OPEN(engine);
    PF_NEED(loss, module, x, target);
    *loss = 0;
    job j = {.e = engine, .m = module, .x = x, .n = slices};
    PF_TRY(pf_pass_take(&j.pass, pass));
    PF_TRY(pf_pass_check(&j.pass, x));
    if (j.pass.prefix) {
        return pf_fail(PF_EINVAL, "sliced: a prefix is seen from everywhere, and so has to be in "
                                  "the same slice; leave one out");
    }
    if (x->requires_grad || pf_in_graph(engine, x)) {
        return pf_fail(PF_EINVAL,
                       "sliced: x %s wants a gradient, which only parameters get here; "
                       "detach it, or use a tape",
                       pf_shape_of(x));
    }
    PF_TRY(check_sizes(&j, target));
    j.batch = x->shape[0], j.length = x->shape[1];
    PF_TRY(pf_tensor_compact(&j.target, engine, target));
    j.counted = pf_max(count_targets(j.target), 1);
    int status = run_job(&j);
    pf_tensor_release(&j.target);
    *loss = status < 0 ? 0 : j.loss;
    return status < 0 ? pf_fail_in(status, "sliced") : PF_OK;
}
