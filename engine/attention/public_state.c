/*
 * public_state.c - states of attention alone (public): a kind, its kernel and one node, with the
 * proof that two of them belong together, and the merge of two segments.
 *
 * The node is the state's; what it is made of (kind, kernel, decay, words, fingerprint) is a
 * pf_alone, which forks share: nobody changes one, and the last of them frees it.
 *
 * A state whose sizes are not all given is *unsized*: it has a node without tensors, and its
 * pf_alone holds what was asked for, the kernel not yet bound, sizes 0 where they were open, words
 * NULL (which is how it is told from a sized one). The first keys and values say the rest: a sized
 * state is opened beside it, sees them and takes its place, so that whoever holds the state sees it
 * grow up, and a call that fails leaves it unsized. A fork of an unsized state is unsized too, and
 * may become of other sizes. Merging knows both: two unsized ones have seen nothing, and an unsized
 * earlier one takes over all that the later one is.
 */
#include <math.h>
#include <string.h>

#include "attention.h"

/* ---- what a state is made of ---- */

static void drop(pf_state_own *own) {
    pf_alone *a = (pf_alone *)own;
    pf_heap *heap = a->heap;
    pf_kernel_release(&a->attention.kernel);
    pf_tensor_release(&a->attention.decay);
    pf_tensor_release(&a->attention.table);
    pf_tensor_release(&a->fingerprint);
    pf_config_free(a->words);
    pf_config_free(a->options);
    pf_heap_free(heap, a, sizeof *a);
    pf_heap_release(heap);
}

static int check_decay(const pf_attention_state_options *o) {
    const pf_tensor *t = o->decay;
    if (!t) return PF_OK;
    PF_TRY(pf_tensor_check(t, PF_F32, "attention state", "decay"));
    bool fits = t->rank == 1 && (o->heads == 0 || t->shape[0] == o->heads);
    if (fits) return pf_reach_decay(t, "attention state");
    return pf_fail(PF_ESHAPE, "attention state: decay is %s, must be (%lld), one a head",
                   pf_shape_of(t), (long long)o->heads);
}

/* What files say of it: the kernel's options with the sizes that it has here, or the kind. */
static int make_words(pf_alone *alone) {
    const pf_attention *a = &alone->attention;
    const pf_kernel *k = a->kernel;
    alone->words =
        k ? pf_config_copy_in(alone->heap, k->options) : pf_config_new_in(alone->heap, PF_MAP);
    if (!alone->words) return pf_fail(PF_ENOMEM, "attention state: no memory for the kernel");
    PF_TRY(pf_attention_set_words(alone->words, alone->options));
    if (!k) {
        if (pf_map_find(a->kind->name)) {
            PF_TRY(pf_config_set_string(alone->words, "attention", a->kind->name));
        }
        return pf_config_set_string(alone->words, "name", a->kind->name);
    }
    if (pf_kernel_given(k)) { /* width: of the rows before their features, as a file has it */
        if (!pf_config_get(alone->words, "width")) {
            PF_TRY(pf_config_set_number(alone->words, "width", (double)k->spec.head_dim));
        }
        return pf_config_set_string(alone->words, "name", "given");
    }
    PF_TRY(pf_config_set_number(alone->words, "head_dim", (double)alone->head_dim));
    if (!k->projection) return PF_OK;
    double features = (double)k->projection->shape[k->projection->rank - 2];
    PF_TRY(pf_config_set_number(alone->words, "features", features));
    return pf_config_set_bool(alone->words, "project", true);
}

/* The kernel for these heads (NULL: softmax), of kinds that take one. */
static int bind_kernel(pf_attention *a, pf_engine *e, const pf_attention_state_options *o) {
    pf_kernel *kernel = o->kernel ? pf_kernel_retain(o->kernel) : NULL;
    if (!a->kind->takes_kernel) {
        pf_kernel_release(&kernel);
        return o->kernel ? pf_fail(PF_EINVAL, "attention state: %s attention takes no kernel",
                                   a->kind->name)
                         : PF_OK;
    }
    int status = kernel ? PF_OK : pf_kernel_open(&kernel, e, NULL, NULL);
    if (status >= 0) status = pf_kernel_bind(&a->kernel, e, kernel, o->head_dim, o->heads);
    pf_kernel_release(&kernel);
    return status;
}

/* What the sized state's kind and bound kernel still lack: sizes, words, decay, and the numbers
 * that two equal kernels share, which a file's state brings where its kernel is the host's. */
static int finish(pf_alone *alone, pf_engine *e, const pf_attention_state_options *o) {
    pf_attention *a = &alone->attention;
    a->causal = true;
    alone->heads = o->heads, alone->head_dim = o->head_dim, alone->value_dim = o->value_dim;
    PF_TRY(check_decay(o));
    PF_TRY(pf_alone_table(alone, e, alone->options, o->table));
    if (!alone->words) PF_TRY(make_words(alone)); /* a file brings its own */
    if (o->decay) PF_TRY(pf_tensor_detach(&a->decay, e, o->decay));
    if (o->fingerprint) return pf_tensor_detach(&alone->fingerprint, e, o->fingerprint);
    if (!a->kernel) return PF_OK;
    return pf_kernel_fingerprint(&alone->fingerprint, e, a->kernel, o->heads, a->decay);
}

static int new_alone(pf_alone **alone, pf_engine *e) {
    *alone = pf_heap_zalloc(e->heap, sizeof **alone);
    if (!*alone) return PF_ENOMEM;
    (*alone)->heap = pf_heap_retain(e->heap);
    (*alone)->own.drop = drop;
    atomic_init(&(*alone)->own.refs, 1);
    return PF_OK;
}

/* The state has a part of its own by then, or there is none. */
static void release_alone(pf_alone **alone) {
    pf_state_own *own = *alone ? &(*alone)->own : NULL;
    *alone = NULL;
    pf_state_own_release(&own);
}

/* Opens the node of a finished `alone`, which it then owns a part of. */
static int open_node(pf_state **state, pf_engine *e, pf_alone *alone, int64_t batch) {
    PF_TRY(pf_attend_state(state, e, &alone->attention, batch, alone->heads, alone->head_dim,
                           alone->value_dim));
    (*state)->own = pf_state_own_retain(&alone->own);
    return PF_OK;
}

/* ---- opening ---- */

static bool sized(const pf_attention_state_options *o) {
    return o->batch > 0 && o->heads > 0 && o->head_dim > 0 && o->value_dim > 0;
}

static int read_options(pf_attention_state_options *o, const pf_attention_state_options *given) {
    *o = (pf_attention_state_options){0};
    return pf_options_take(o, sizeof *o, given, "attention state");
}

/* Without all its sizes a state keeps what it was asked for until the first keys come. */
static int open_unsized(pf_state **state, pf_engine *e, pf_alone *alone,
                        const pf_attention_state_options *o) {
    if (o->batch < 0 || o->heads < 0 || o->head_dim < 0 || o->value_dim < 0) {
        return pf_fail(PF_EINVAL, "attention state: batch, heads, head_dim and value_dim must "
                                  "be at least 1");
    }
    alone->heads = o->heads, alone->head_dim = o->head_dim, alone->value_dim = o->value_dim;
    PF_TRY(check_decay(o));
    if (o->kernel) alone->attention.kernel = pf_kernel_retain(o->kernel);
    if (o->decay) PF_TRY(pf_tensor_detach(&alone->attention.decay, e, o->decay));
    if (o->table) PF_TRY(pf_tensor_detach(&alone->attention.table, e, o->table));
    if (o->fingerprint) PF_TRY(pf_tensor_detach(&alone->fingerprint, e, o->fingerprint));
    PF_TRY(pf_state_new(state, e, o->batch, 0));
    (*state)->own = pf_state_own_retain(&alone->own);
    return PF_OK;
}

static int open_sized(pf_state **state, pf_engine *e, pf_alone *alone,
                      const pf_attention_state_options *o) {
    PF_TRY(bind_kernel(&alone->attention, e, o));
    PF_TRY(finish(alone, e, o));
    return open_node(state, e, alone, o->batch);
}

static int take_kind(pf_alone *alone, const pf_attention_state_options *o) {
    pf_attention *a = &alone->attention;
    PF_TRY(pf_kind_find(&a->kind, o->attention, "attention state"));
    if (o->decay) PF_TRY(pf_kind_takes(a->kind, PF_IN_DECAY, "attention state"));
    PF_TRY(pf_attention_settle(a, o->options, "attention state"));
    PF_TRY(pf_attention_of_layers(a, o->options, "attention state"));
    PF_TRY(pf_attention_fits_some(a, true));
    if (!o->options) return PF_OK;
    alone->options = pf_config_copy_in(alone->heap, o->options);
    return alone->options ? PF_OK : pf_fail(PF_ENOMEM, "attention state: no memory for options");
}

int pf_attention_state_open(pf_state **state, pf_engine *engine,
                            const pf_attention_state_options *options) {
    PF_OUT(state);
    PF_OPEN(engine);
    pf_attention_state_options o;
    pf_alone *alone = NULL;
    PF_TRY(read_options(&o, options));
    PF_TRY(new_alone(&alone, engine));
    int status = take_kind(alone, &o);
    if (status >= 0) {
        status = (sized(&o) ? open_sized : open_unsized)(state, engine, alone, &o);
    }
    if (status < 0) pf_state_close(state);
    release_alone(&alone);
    return status;
}

static int restore_options(pf_alone *alone) {
    const pf_config *options = pf_config_get(alone->words, PF_ATTENTION_OPTIONS);
    PF_TRY(pf_attention_settle(&alone->attention, options, "attention state"));
    if (!options) return PF_OK;
    alone->options = pf_config_copy_in(alone->heap, options);
    return alone->options ? PF_OK : PF_ENOMEM;
}

/* The kernel that the words say beside the kind's own options. */
static int restore_kernel(pf_alone *alone, pf_engine *e, pf_tensor *projection,
                          const pf_attention_state_options *sizes) {
    pf_kernel **bound = &alone->attention.kernel, *open = NULL;
    pf_config *words = pf_config_copy_in(e->heap, alone->words);
    if (!words) return PF_ENOMEM;
    pf_config_remove(words, PF_ATTENTION_OPTIONS);
    int status;
    if (pf_kernel_words_given(words)) {
        status = pf_kernel_open(&open, e, words, NULL);
        if (status >= 0) status = pf_kernel_bind(bound, e, open, sizes->head_dim, sizes->heads);
        pf_kernel_release(&open);
    } else {
        status = pf_kernel_restore(bound, e, words, projection, sizes->head_dim, sizes->heads);
    }
    pf_config_free(words);
    return status;
}

/* As open_sized, but for a kernel that is given by words and, where it has one, the projection that
 * was drawn once; its words stay as the file has them. */
int pf_alone_restore(pf_state **state, pf_engine *e, const pf_config *words, pf_tensor *projection,
                     const pf_attention_state_options *sizes) {
    pf_alone *alone = NULL;
    *state = NULL;
    PF_TRY(new_alone(&alone, e));
    alone->attention.kind = pf_kind_of_words(words);
    alone->words = pf_config_copy_in(e->heap, words);
    int status = alone->words ? restore_options(alone) : PF_ENOMEM;
    if (status >= 0 && alone->attention.kind->takes_kernel) {
        status = restore_kernel(alone, e, projection, sizes);
    }
    if (status >= 0) status = finish(alone, e, sizes);
    if (status >= 0) status = open_node(state, e, alone, sizes->batch);
    release_alone(&alone);
    return status;
}

/* ---- moving on ---- */

static int need_alone(const pf_state *state) {
    if (state->own) return PF_OK;
    return pf_fail(PF_ESTATE, "attention: this state belongs to a model; use the model's step");
}

/* What a state was asked for (0: anything) and what there is. */
static int take_size(const char *name, int64_t asked, int64_t has, int64_t *size) {
    *size = has;
    if (asked == 0 || asked == has) return PF_OK;
    return pf_fail(PF_ESHAPE, "attention state: asked for was %s %lld, here it is %lld", name,
                   (long long)asked, (long long)has);
}

/* *grown: of an unsized state one for these rows, which is to take its place; NULL: it is sized. */
static int size_by(pf_state **grown, const pf_state *state, pf_engine *e, const pf_tensor *k,
                   const pf_tensor *v) {
    const pf_alone *asked = pf_alone_of(state);
    *grown = NULL;
    if (asked->words) return PF_OK;
    PF_TRY(pf_tensor_check(k, PF_F32, "attention state", "k"));
    PF_TRY(pf_tensor_check(v, PF_F32, "attention state", "v"));
    if (k->rank != 4 || v->rank != 4) {
        return pf_fail(PF_ESHAPE,
                       "attention state: k is %s and v %s, they must be (batch, heads, "
                       "length, width)",
                       pf_shape_of(k), pf_shape_of(v));
    }
    pf_attention_state_options o = {.size = sizeof o,
                                    .attention = asked->attention.kind->name,
                                    .options = asked->options,
                                    .kernel = asked->attention.kernel,
                                    .decay = asked->attention.decay,
                                    .table = asked->attention.table,
                                    .fingerprint = asked->fingerprint};
    PF_TRY(take_size("batch", state->batch, k->shape[0], &o.batch));
    PF_TRY(take_size("heads", asked->heads, k->shape[1], &o.heads));
    PF_TRY(take_size("head_dim", asked->head_dim, k->shape[3], &o.head_dim));
    PF_TRY(take_size("value_dim", asked->value_dim, v->shape[3], &o.value_dim));
    return pf_attention_state_open(grown, e, &o);
}

/* The structs change places, so that the caller's pointer holds; forks stay as they are. */
static void change_places(pf_state *a, pf_state *b) {
    pf_state held = *a;
    *a = *b;
    *b = held;
}

typedef int (*attend_fn)(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                         pf_tensor *q, pf_tensor *k, pf_tensor *v);

/* All or nothing: a state that was unsized is so again where the call fails. */
static int move_on(pf_tensor **out, pf_engine *e, pf_state *state, pf_tensor *q, pf_tensor *k,
                   pf_tensor *v, attend_fn attend) {
    pf_state *grown = NULL;
    *out = NULL;
    PF_TRY(need_alone(state));
    PF_TRY(size_by(&grown, state, e, k, v));
    pf_state *s = grown ? grown : state;
    int status = pf_state_begin(s);
    if (status >= 0) {
        pf_attention a = pf_alone_of(s)->attention; /* this call's */
        status = pf_alone_tell(&a.buckets, pf_alone_of(s), e, q, k);
        if (status >= 0) status = attend(out, e, &a, s, q, k, v);
        pf_tensor_release(&a.buckets);
        status = pf_state_end(s, e, status);
    }
    if (status >= 0 && grown) change_places(state, grown);
    pf_state_close(&grown);
    return status;
}

int pf_attention_prefill(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                         pf_tensor *k, pf_tensor *v) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(state, q, k, v);
    return move_on(out, engine, state, q, k, v, pf_attend_prefill);
}

int pf_attention_step(pf_tensor **out, pf_engine *engine, pf_state *state, pf_tensor *q,
                      pf_tensor *k, pf_tensor *v) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(state, q, k, v);
    return move_on(out, engine, state, q, k, v, pf_attend_step);
}

/* ---- do two belong together? ---- */

static int differ(const char *what) {
    return pf_fail(PF_EINVAL, "attention state: the two differ in %s", what);
}

/* Equal but for what two CPU levels may round differently; NaN is equal to NaN. */
static bool near(const pf_tensor *a, const pf_tensor *b) {
    if (!a || !b) return !a && !b;
    if (!pf_same_shape(a, b)) return false;
    for (int64_t i = 0; i < pf_tensor_numel(a); i++) {
        double x = (double)pf_f32(a)[i], y = (double)pf_f32(b)[i];
        bool same = x == y || (isnan(x) && isnan(y));
        if (!same && !(fabs(x - y) <= 1e-5 * fmax(1, fmax(fabs(x), fabs(y))))) return false;
    }
    return true;
}

/* Kernels count as equal when they give equal features: the options may be said in other words, and
 * projections may be other tensors. */
int pf_alone_alike(const pf_alone *a, const pf_alone *b) {
    const pf_attention *x = &a->attention, *y = &b->attention;
    if (x->kind != y->kind) return differ("the kind of attention");
    PF_TRY(pf_attention_same_options(x, y));
    if (x->kernel && x->kernel->spec.map != y->kernel->spec.map) return differ("the feature map");
    if (a->heads != b->heads || a->head_dim != b->head_dim || a->value_dim != b->value_dim) {
        return pf_fail(PF_ESHAPE,
                       "attention state: one has %lld heads of %lld and values of "
                       "%lld, the other %lld, %lld and %lld",
                       (long long)a->heads, (long long)a->head_dim, (long long)a->value_dim,
                       (long long)b->heads, (long long)b->head_dim, (long long)b->value_dim);
    }
    if (!near(x->decay, y->decay)) return differ("the decay of the heads");
    if (!near(x->table, y->table)) return differ(x->kind->rooms->table);
    if (!near(a->fingerprint, b->fingerprint)) {
        return differ("the kernel: its options or its projection are not the same");
    }
    return PF_OK;
}

int pf_attention_state_info(const pf_state *state, pf_attention_state_options *info) {
    PF_NEED(state, info);
    if (!state->own) return pf_fail(PF_ESTATE, "attention: this state belongs to a model");
    const pf_alone *a = pf_alone_of(state);
    const pf_attention_state_options own = {
        .size = sizeof own,
        .attention = a->attention.kind->name,
        .options = a->options,
        .kernel = a->attention.kernel,
        .batch = state->batch,
        .heads = a->heads,
        .head_dim = a->head_dim,
        .value_dim = a->value_dim,
        .decay = a->attention.decay,
        .fingerprint = a->fingerprint,
        .table = a->attention.table,
    };
    return pf_result_give(info, &own, sizeof own, "attention state");
}

/* What `options` leave open can't differ, so it is taken from the state; a state of them is then
 * opened (for one sequence: batches are compared as they are) and held beside it. */
int pf_attention_state_check(pf_engine *engine, const pf_state *state,
                             const pf_attention_state_options *options) {
    PF_OPEN(engine);
    PF_NEED(state, options);
    pf_attention_state_options o, own = {.size = sizeof own};
    pf_state *wanted = NULL;
    PF_TRY(pf_attention_state_info(state, &own));
    PF_TRY(read_options(&o, options));
    if (o.batch != 0 && o.batch != own.batch) {
        return pf_fail(PF_ESHAPE, "the state is of %lld sequences, wanted are %lld",
                       (long long)own.batch, (long long)o.batch);
    }
    o.batch = 1;
    if (o.heads == 0) o.heads = own.heads;
    if (o.head_dim == 0) o.head_dim = own.head_dim;
    if (o.value_dim == 0) o.value_dim = own.value_dim;
    if (!o.table) o.table = own.table;
    PF_TRY(pf_attention_state_open(&wanted, engine, &o));
    int status = pf_alone_alike(pf_alone_of(state), pf_alone_of(wanted));
    pf_state_close(&wanted);
    return status;
}

enum { WIDEST = 1 << 20 }; /* all heads of a row, where only a file says how wide they are */

/* The sizes of a loaded state whose features the host's kernel makes, in place of those that are
 * open in `o`. */
static int sizes_for_host(pf_attention_state_options *o, const pf_state *state) {
    const pf_alone *held = pf_alone_of(state);
    const pf_config *words = pf_config_get(held->words, "width");
    double width = words ? pf_config_number(words) : (double)held->head_dim;
    if (!pf_kernel_words_given(held->words)) {
        const pf_kernel *kernel = held->attention.kernel;
        return pf_fail(PF_EINVAL, "the state is of %s, not of the kernel '%s'",
                       kernel ? pf_kernel_name(kernel) : held->attention.kind->name,
                       pf_kernel_name(o->kernel));
    }
    double most = (double)(o->head_dim > 0 ? o->head_dim : WIDEST / held->heads);
    if (!(width >= 1 && width <= most)) {
        return pf_fail(PF_EINVAL, "the file says heads of width %g; if so, give head_dim", width);
    }
    PF_TRY(take_size("batch", o->batch, state->batch, &o->batch));
    PF_TRY(take_size("heads", o->heads, held->heads, &o->heads));
    PF_TRY(take_size("head_dim", o->head_dim, (int64_t)width, &o->head_dim));
    return take_size("value_dim", o->value_dim, held->value_dim, &o->value_dim);
}

/* The kernel of the host's whose features a loaded state holds takes its place in it. */
static int adopt_host(pf_state *state, pf_engine *e, const pf_attention_state_options *given) {
    pf_alone *held = pf_alone_of(state);
    pf_attention_state_options o = *given;
    pf_state *wanted = NULL;
    PF_TRY(sizes_for_host(&o, state));
    o.batch = 1;
    PF_TRY(pf_attention_state_open(&wanted, e, &o));
    pf_alone *own = pf_alone_of(wanted);
    int status = PF_OK;
    if (!near(held->attention.decay, own->attention.decay)) {
        status = differ("the decay of the heads");
    } else if (!near(held->fingerprint, own->fingerprint) ||
               state->tensor[0]->shape[2] != wanted->tensor[0]->shape[2]) {
        status = differ("the kernel: its map does not give the same features");
    } else {
        pf_tensor *numbers = own->fingerprint; /* the file's own stay, to the bit */
        own->fingerprint = held->fingerprint;
        held->fingerprint = numbers;
        pf_state_own *before = state->own;
        state->own = wanted->own;
        wanted->own = before;
    }
    pf_state_close(&wanted);
    return status;
}

int pf_alone_adopt(pf_state *state, pf_engine *e, const pf_attention_state_options *options) {
    pf_attention_state_options o;
    PF_TRY(read_options(&o, options));
    bool hosted = o.kernel && pf_kernel_is_host(o.kernel);
    return hosted ? adopt_host(state, e, &o) : pf_attention_state_check(e, state, &o);
}

/* ---- merging ---- */

/* Sized ones are alike; a sized one is of what the other was asked for, where that has seen
 * nothing. Two that have seen nothing make nothing of each other. */
static int check_pair(pf_engine *e, const pf_state *state, const pf_state *later) {
    if (!state->own || !later->own) {
        return pf_fail(PF_ESTATE, "merge: only states of attention alone can be merged; what a "
                                  "model's layers see depends on all that was before");
    }
    const pf_alone *a = pf_alone_of(state), *b = pf_alone_of(later);
    if (!a->words || !b->words) {
        pf_attention_state_options asked = {.size = sizeof asked};
        if (!a->words && !b->words) return PF_OK;
        PF_TRY(pf_attention_state_info(a->words ? later : state, &asked));
        return pf_attention_state_check(e, a->words ? state : later, &asked);
    }
    PF_TRY(pf_alone_alike(a, b));
    if (state->batch == later->batch) return PF_OK;
    return pf_fail(PF_ESHAPE, "merge: one state has %lld sequences, the other %lld",
                   (long long)state->batch, (long long)later->batch);
}

/* Two sized ones; kinds use up `later`. */
static int merge_sized(pf_engine *e, pf_state *state, pf_state *later) {
    const pf_attention *a = &pf_alone_of(state)->attention;
    int status = pf_state_begin(state);
    if (status < 0) return status;
    if (a->kind->merge) status = a->kind->merge(state, e, a, later);
    if (status >= 0) state->position += later->position;
    return pf_state_end(state, e, status);
}

/* `later` stays as it was: kinds use up what they merge, so they get a fork. */
int pf_state_merge(pf_engine *engine, pf_state *state, const pf_state *later) {
    PF_OPEN(engine);
    PF_NEED(state, later);
    pf_state *other = NULL;
    PF_TRY(check_pair(engine, state, later));
    if (!pf_alone_of(later)->words) return PF_OK; /* it has seen nothing */
    PF_TRY(pf_state_fork(&other, engine, later)); /* it may be the same state */
    int status = PF_OK;
    if (!pf_alone_of(state)->words) {
        change_places(state, other);
    } else {
        status = merge_sized(engine, state, other);
    }
    pf_state_close(&other);
    return status;
}
