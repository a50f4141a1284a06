/*
 * sliced.c - a training step over one slice of the sequence after another (Likhosherstov et al.
 * 2020, "Sub-Linear Memory: How to Make Performers SLiM", algorithm 1): the memory of one slice,
 * the gradient of the whole.
 *
 * Forward goes over all slices but the last without keeping anything but the states that layers
 * hand on. Then the slices are walked, the last first: each is run again from its entry state,
 * whose tensors are leaves of its tape, and its backward begins with the slice's loss and with
 * the gradient of its exit state, which is that of the next slice's entry state. What stands
 * before the first slice is made of the inputs beside x (a memory's sums): that is walked last, as
 * a slice without positions, so that no slice reads what its tape does not hold or take for a leaf.
 *
 * Where the states of n slices are too many, about sqrt(n) are kept at a time (two levels): forward
 * keeps the first of every group, and before a group is walked the states between are made again,
 * in the same way and so of the same bits.
 */
#include <math.h>

#include "slices.h"

/* More bytes of states than these are kept on two levels, when nobody says how many. */
#define STATES_ROOM ((size_t)256 << 20)

typedef struct {
    pf_slices s; /* first */
    int64_t counted;
    int64_t group;       /* slices of a group; n: one level */
    pf_state **entry;    /* (n): what stands before a slice; its tensors lie outside any tape */
    pf_state *cotangent; /* of the exit state of the slice that is walked; NULL: none */
    double loss;
} job;

/* ---- leaves and gradients ---- */

static bool is_constant(const pf_state *a, int k) {
    return a->tensor[k]->dtype != PF_F32 || (a->kind->log_scale >> k & 1);
}

/* A leaf on the same numbers. */
static int mark(pf_state *a, const pf_state *b, int k, void *context) {
    pf_tensor *leaf = NULL;
    (void)b, (void)context;
    if (is_constant(a, k)) return PF_OK;
    PF_TRY(pf_tensor_view(&leaf, a->tensor[k]));
    pf_replace(&a->tensor[k], leaf);
    return pf_tensor_require_grad(leaf, true);
}

/* The gradient of a leaf in its place; NULL: none. */
static int take_gradient(pf_state *a, const pf_state *b, int k, void *context) {
    pf_tensor *leaf = a->tensor[k];
    (void)b, (void)context;
    pf_replace(&a->tensor[k], leaf->grad_stale ? NULL : pf_tensor_retain(leaf->grad));
    return PF_OK;
}

/* ---- forward ---- */

/* The entry state of slice i + 1; that of slice i goes where it is not wanted any more. */
static int pass_on(job *j, int64_t i, bool keep, bool again) {
    pf_state *state = j->entry[i];
    if (keep)
        PF_TRY(pf_state_shell(&state, j->s.e, j->entry[i]));
    else
        j->entry[i] = NULL;
    j->entry[i + 1] = state;
    return pf_slice_pass(&j->s, i, state, again, NULL);
}

/* The bytes of the states before every slice. */
static size_t all_states(const job *j) {
    return (size_t)j->s.n * (size_t)pf_state_bytes(j->entry[0]);
}

/* levels 0: one where all states have room. */
static void choose_group(job *j, int levels) {
    if (levels == 0) levels = all_states(j) > STATES_ROOM ? 2 : 1;
    j->group = levels == 2 ? (int64_t)ceil(sqrt((double)j->s.n)) : j->s.n;
}

/* The first time: of every group the first state stays, of the last one all do. */
static int pass_all(job *j) {
    int64_t last = (j->s.n - 1) / j->group * j->group;
    for (int64_t i = 0; i + 1 < j->s.n; i++)
        PF_TRY(pass_on(j, i, i % j->group == 0 || i >= last, false));
    return PF_OK;
}

/* The states before slices first + 1 .. end - 1, from that before `first`. */
static int pass_again(job *j, int64_t first, int64_t end) {
    for (int64_t i = first; i + 1 < end; i++)
        if (!j->entry[i + 1]) PF_TRY(pass_on(j, i, true, true));
    return PF_OK;
}

/* ---- backward ---- */

/* What backward begins with: the slice's loss, and its exit state. */
typedef struct {
    pf_engine *e;
    pf_tensor **outs;
    const pf_tensor **seeds;
    int64_t n;
} ends;

static int count_place(pf_state *a, const pf_state *b, int k, void *context) {
    (void)a, (void)b, (void)k;
    ++*(int64_t *)context;
    return PF_OK;
}

/* An exit tensor with its gradient, where it has one. What a slice hands on as it found it, a
 * memory's sums, is still the leaf: a node of its own takes the gradient there. */
static int add_end(pf_state *a, const pf_state *b, int k, void *context) {
    ends *to = context;
    const pf_tensor *seed = b ? b->tensor[k] : NULL;
    pf_tensor *same = NULL;
    if (!seed || !pf_in_graph(to->e, a->tensor[k])) return PF_OK;
    if (a->tensor[k]->requires_grad) {
        PF_TRY(pf_reshape(&same, to->e, a->tensor[k], a->tensor[k]->rank, a->tensor[k]->shape));
        pf_replace(&a->tensor[k], same);
    }
    to->outs[to->n] = a->tensor[k];
    to->seeds[to->n++] = seed;
    return PF_OK;
}

/* The slice's part of the mean over all targets, of which `mean` is that of `counted`: *share is
 * what the gradient begins with. */
static int share_of(job *j, pf_tensor *mean, int64_t counted, pf_tensor **share) {
    double value = 0, part = (double)counted / (double)j->counted;
    PF_TRY(pf_tensor_get(mean, 0, &value));
    j->loss += part * value;
    return pf_tensor_full(share, j->s.e, PF_F32, 0, NULL, part);
}

static int64_t targets_in(const job *j, int64_t i) {
    int64_t n = 0, first = pf_slice_first(&j->s, i), end = pf_slice_first(&j->s, i + 1);
    for (int64_t b = 0; b < j->s.batch; b++) {
        const int32_t *id = pf_i32(j->s.target) + b * j->s.length;
        for (int64_t t = first; t < end; t++) n += id[t] >= 0;
    }
    return n;
}

/* loss NULL: the exit state is all there is. */
static int walk_back(job *j, pf_tape *tape, pf_state *exit, pf_tensor *loss, pf_tensor *share) {
    int64_t places = 1;
    PF_TRY(pf_state_each(exit, NULL, count_place, &places));
    size_t bytes = (size_t)places * sizeof(pf_tensor *);
    ends to = {.e = j->s.e,
               .outs = pf_heap_alloc(j->s.e->heap, bytes),
               .seeds = pf_heap_alloc(j->s.e->heap, bytes)};
    int status = to.outs && to.seeds ? PF_OK : PF_ENOMEM;
    if (status >= 0) {
        if (loss && pf_in_graph(j->s.e, loss)) to.outs[0] = loss, to.seeds[0] = share, to.n = 1;
        status = pf_state_each(exit, j->cotangent, add_end, &to);
    }
    if (status >= 0 && to.n > 0) status = pf_tape_backward_all(tape, to.outs, to.seeds, to.n);
    pf_heap_free(j->s.e->heap, to.outs, bytes);
    pf_heap_free(j->s.e->heap, to.seeds, bytes);
    return status;
}

/* Slice i on an open tape: the entry state's leaves have their gradients afterwards. */
static int walk_on(job *j, int64_t i, pf_tape *tape, const pf_state *leaves) {
    pf_score score = {.each = false};
    pf_tensor *share = NULL;
    pf_state *state = NULL;
    PF_TRY(pf_state_shell(&state, j->s.e, leaves));
    const pf_run run = {.state = state, .cotangent = j->cotangent};
    int status = pf_slice_run(&j->s, i, &run, i + 1 < j->s.n, &score);
    if (status >= 0 && i + 1 == j->s.n) status = pf_carry_leave(&j->s, state);
    if (status >= 0) status = share_of(j, score.loss, targets_in(j, i), &share);
    if (status >= 0) status = walk_back(j, tape, state, score.loss, share);
    pf_score_release(&score);
    pf_tensor_release(&share);
    pf_state_close(&state);
    return status;
}

/* Is there anything before the first slice that has a gradient to hand on? */
static bool begins(const job *j) { return j->s.pass.n_inputs > 0; }

static int walk_slice(job *j, int64_t i) {
    pf_tape *tape = NULL;
    pf_state *leaves = j->entry[i];
    j->entry[i] = NULL;
    int status = i > 0 || begins(j) ? pf_state_each(leaves, NULL, mark, NULL) : PF_OK;
    if (status >= 0) status = pf_tape_open(&tape, j->s.e);
    if (status >= 0) status = walk_on(j, i, tape, leaves);
    pf_tape_close(&tape);
    if (status >= 0) status = pf_state_each(leaves, NULL, take_gradient, NULL);
    pf_state_close(&j->cotangent);
    j->cotangent = leaves;
    if (status >= 0) pf_slice_cut(&j->s, i, leaves, true);
    return status;
}

/* What stands before the first slice, whose walk has left its gradient. */
static int walk_beginning(job *j) {
    pf_tape *tape = NULL;
    pf_state *state = NULL;
    PF_TRY(pf_tape_open(&tape, j->s.e));
    int status = pf_slices_begin(&j->s, &state, j->cotangent, true);
    if (status >= 0) status = walk_back(j, tape, state, NULL, NULL);
    pf_state_close(&state);
    pf_tape_close(&tape);
    return status;
}

/* ---- the step ---- */

static int walk_group(job *j, int64_t first) {
    int64_t end = pf_min(first + j->group, j->s.n);
    PF_TRY(pass_again(j, first, end));
    for (int64_t i = end - 1; i >= first; i--) PF_TRY(walk_slice(j, i));
    return PF_OK;
}

static int run_all(job *j, int levels) {
    PF_TRY(pf_slices_state(&j->s, &j->entry[0]));
    choose_group(j, levels);
    PF_TRY(pass_all(j));
    for (int64_t first = (j->s.n - 1) / j->group * j->group; first >= 0; first -= j->group)
        PF_TRY(walk_group(j, first));
    return begins(j) ? walk_beginning(j) : PF_OK;
}

/* A sum that broke off is no gradient. */
static void forget(const pf_module *m) {
    pf_tensor *t = NULL;
    for (int i = pf_module_tensor_count(m) - 1; i >= 0; i--) {
        if (pf_module_tensor_at(m, i, NULL, &t, NULL) >= 0) pf_tensor_clear_grad(t);
    }
}

static int run_job(job *j, pf_tensor *target, int levels) {
    pf_slices *s = &j->s;
    size_t states = (size_t)s->n * sizeof *j->entry;
    j->entry = pf_heap_zalloc(s->e->heap, states);
    int status = j->entry ? pf_slices_open(s, target) : PF_ENOMEM;
    if (status >= 0) {
        for (int64_t i = 0; i < s->n; i++) j->counted += targets_in(j, i);
        j->counted = s->pass.counted ? (int64_t)s->pass.counted : pf_max(j->counted, 1);
        status = run_all(j, levels);
        if (status < 0) forget(s->m);
    }
    for (int64_t i = 0; j->entry && i < s->n; i++) pf_state_close(&j->entry[i]);
    pf_state_close(&j->cotangent);
    pf_heap_free(s->e->heap, j->entry, states);
    return pf_slices_close(s, status);
}

/* ---- what is asked for ---- */

static int refuse_count(const pf_slices *s) {
    return pf_fail(PF_EINVAL,
                   "sliced: %lld slices of %lld positions; a slice has at least %d, so "
                   "ask for 1 to %lld slices",
                   (long long)s->n, (long long)s->x->shape[1], PF_SLICE_LEAST,
                   (long long)pf_max(1, s->x->shape[1] / PF_SLICE_LEAST));
}

/* What an open tape made would wait for a gradient in vain; a leaf gets its own. */
static int check_inputs(const pf_slices *s) {
    for (int i = 0; i < s->pass.n_inputs; i++) {
        const pf_named *input = &s->pass.inputs[i];
        if (input->tensor->requires_grad || !pf_in_graph(s->e, input->tensor)) continue;
        return pf_fail(PF_EINVAL,
                       "sliced: the input '%s' %s was computed on the open tape, which gets no "
                       "gradient here; detach it, or use a tape",
                       input->name, pf_shape_of(input->tensor));
    }
    return PF_OK;
}

/* Sets n and each from a count or a length of slices; x fits. */
static int settle_slices(pf_slices *s, const pf_slicing *how) {
    int64_t length = s->x->shape[1];
    if (how->slices != 0 && how->length != 0) {
        return pf_fail(PF_EINVAL, "sliced: give a number of slices or their length, not both");
    }
    if (how->length == 0) {
        s->n = how->slices;
        return s->n >= 1 && (s->n == 1 || length / s->n >= PF_SLICE_LEAST) ? PF_OK
                                                                           : refuse_count(s);
    }
    if (how->length < PF_SLICE_LEAST) {
        return pf_fail(PF_EINVAL, "sliced: a slice of %lld positions; it has at least %d",
                       (long long)how->length, PF_SLICE_LEAST);
    }
    s->each = how->length;
    s->n = pf_max(1, pf_ceil_div(length, s->each));
    return PF_OK;
}

static int check_x(const pf_slices *s) {
    if (s->pass.counted > INT64_MAX) {
        return pf_fail(PF_EINVAL, "sliced: counted is %llu, more targets than there can be",
                       (unsigned long long)s->pass.counted);
    }
    if (s->pass.prefix) {
        return pf_fail(PF_EINVAL, "sliced: a prefix is seen from everywhere, and so has to be in "
                                  "the same slice; leave one out");
    }
    if (!s->x->requires_grad && !pf_in_graph(s->e, s->x)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "sliced: x %s wants a gradient, which only parameters get here; "
                   "detach it, or use a tape",
                   pf_shape_of(s->x));
}

int pf_module_backward_sliced(double *loss, pf_engine *engine, pf_module *module, pf_tensor *x,
                              pf_tensor *target, const pf_pass *pass, const pf_slicing *slicing) {
    PF_OPEN(engine);
    PF_NEED(loss, module, x, target);
    *loss = 0;
    pf_slicing how = {.slices = 1};
    job j = {.s = {.e = engine, .m = module, .x = x}};
    if (slicing) {
        how.slices = 0;
        PF_TRY(pf_options_take(&how, sizeof how, slicing, "sliced"));
    }
    if (how.levels < 0 || how.levels > 2) {
        return pf_fail(PF_EINVAL, "sliced: %d levels; there are 1, 2, and 0 for either",
                       how.levels);
    }
    PF_TRY(pf_pass_take(&j.s.pass, pass));
    PF_TRY(pf_pass_check(&j.s.pass, module, x));
    PF_TRY(check_x(&j.s));
    PF_TRY(check_inputs(&j.s));
    PF_TRY(pf_score_check(target, x, "sliced"));
    PF_TRY(settle_slices(&j.s, &how));
    int status = run_job(&j, target, how.levels);
    *loss = status < 0 ? 0 : j.loss;
    return status < 0 ? pf_fail_in(status, "sliced") : PF_OK;
}
