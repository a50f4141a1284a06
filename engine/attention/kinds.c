/*
 * kinds.c - the table of kinds, and rows through any of them: whole ones, streaming (prefill, step)
 * and part by part in training. Streaming is not differentiable; its states lie outside any tape.
 */
#include <string.h>

#include "attention.h"
#include "pattern.h"

static const pf_op *const rows[] = {
#define PF_OP(name) &pf_op_##name,
#include "attention.def"
#undef PF_OP
};

int pf_attention_register(pf_engine *engine) {
    return pf_registry_add(engine, rows, PF_COUNT(rows));
}

static const pf_attention_kind *const kinds[] = {
#define PF_KIND(name) &pf_kind_##name,
#include "kinds.def"
#undef PF_KIND
};

const char pf_kind_names[] = ""
#define PF_KIND(name) "|" #name
#include "kinds.def"
#undef PF_KIND
    ;

const pf_attention_kind *pf_kind_at(int index) {
    return index >= 0 && index < PF_COUNT(kinds) ? kinds[index] : NULL;
}

static const pf_attention_kind *find(const char *name) {
    for (int i = 0; i < PF_COUNT(kinds); i++) {
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    }
    return NULL;
}

int pf_kind_find(const pf_attention_kind **kind, const char *name, const char *where) {
    *kind = kinds[0];
    if (!name) return PF_OK;
    *kind = find(name);
    if (*kind) return PF_OK;
    const char *names[PF_COUNT(kinds)];
    for (int i = 0; i < PF_COUNT(kinds); i++) names[i] = kinds[i]->name;
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_EINVAL, "%s: there is no attention '%s'%s", where, name,
                   pf_names_told(told, sizeof told, name, names, PF_COUNT(kinds)));
}

/* `identity` is a feature map too, and as a kernel's name it always was that one. */
const pf_attention_kind *pf_kind_of_kernel(const pf_config *kernel) {
    const pf_config *text = kernel ? pf_config_get(kernel, "name") : NULL;
    const char *name = text ? pf_config_string(text) : NULL;
    return name && !pf_map_find(name) ? find(name) : NULL;
}

/* A kind that is named like a map is told by a word of its own. */
const pf_attention_kind *pf_kind_of_words(const pf_config *words) {
    const pf_config *text = pf_config_get(words, "attention");
    const pf_attention_kind *kind =
        text && pf_config_string(text) ? find(pf_config_string(text)) : pf_kind_of_kernel(words);
    return kind ? kind : kinds[0];
}

const char *pf_kind_input_name(int input) {
    static const char *const names[PF_REACH_INPUTS] = {
        [PF_IN_MASK] = "mask",     [PF_IN_DOCUMENTS] = "documents",
        [PF_IN_DECAY] = "decay",   [PF_IN_LIMITS] = "limits",
        [PF_IN_PREFIX] = "prefix", [PF_IN_CU_SEQLENS] = "cu_seqlens"};
    return names[input];
}

int pf_kind_takes(const pf_attention_kind *kind, int input, const char *where) {
    if (kind->takes >> input & 1) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: %s attention takes no %s", where, kind->name,
                   pf_kind_input_name(input));
}

static int check_taken(const pf_attention_kind *kind, pf_tensor *const *in) {
    for (int i = PF_IN_MASK; i < PF_REACH_INPUTS; i++) {
        if (in[i]) PF_TRY(pf_kind_takes(kind, i, "attention"));
    }
    return PF_OK;
}

/* What a kind does not take it refuses, instead of passing it over: of who sees whom, and where it
 * carries no state, an entry and an exit. */
static int check_edges(const pf_attention *a) {
    if (!a->kind->edges == !a->edges && (a->edges || !a->edge_bias)) return PF_OK;
    if (a->kind->edges) {
        return pf_fail(PF_EINVAL, "attention: %s attention needs edges", a->kind->name);
    }
    return pf_fail(PF_EINVAL, "attention: %s attention takes no edges", a->kind->name);
}

int pf_attend_rows(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_tensor *const *in,
                   bool exit) {
    PF_TRY(check_taken(a->kind, in));
    PF_TRY(check_edges(a));
    if (exit && !a->kind->carries) {
        return pf_fail(PF_EINVAL, "attention: %s has no state to hand on", a->kind->name);
    }
    for (int i = PF_REACH_INPUTS; i < PF_ATTENTION_INPUTS && !a->kind->carries; i++) {
        if (!in[i]) continue;
        return pf_fail(PF_EINVAL, "attention: %s begins from no state", a->kind->name);
    }
    return a->kind->call(out, e, a, in, exit);
}

/* A state outlives the tape that happens to be open; its numbers take no gradient. */
int pf_apply_lasting(pf_engine *e, const pf_op *op, pf_tensor *const *in, int n,
                     const pf_attr *attrs, pf_tensor **out) {
    pf_tape *tape = e->tape;
    e->tape = NULL;
    int status = pf_apply(e, op, in, n, attrs, out);
    e->tape = tape;
    return status;
}

/* ---- streaming ---- */

static pf_state_mark mark_of(const pf_attention *a) {
    pf_state_mark mark = {.of = a->kind, .by = a->kernel ? a->kernel->spec.map : NULL};
    _Static_assert(sizeof mark.number == sizeof a->option, "a number for each option");
    memcpy(mark.number, a->option, sizeof mark.number);
    return mark;
}

int pf_attend_check(const pf_attention *a, const pf_state *state, const char *where) {
    static const char *const none = "the state is not one of this model";
    pf_state_mark own = mark_of(a), was = state ? state->mark : (pf_state_mark){.of = NULL};
    const pf_attention_kind *kind = was.of;
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    if (!kind || kind->state != state->kind) return pf_fail(PF_ESTATE, "%s: %s", where, none);
    if (kind != a->kind) {
        return pf_fail(PF_ESTATE, "%s: %s: it is of %s attention, the layer of %s", where, none,
                       kind->name, a->kind->name);
    }
    if (was.by != own.by) {
        return pf_fail(PF_ESTATE, "%s: %s: it is of another feature map than the layer's", where,
                       none);
    }
    for (int i = 0; i < n; i++) {
        if (was.number[i] == own.number[i]) continue;
        return pf_fail(PF_ESTATE, "%s: %s: its %s attention has %s = %g, the layer's %g", where,
                       none, kind->name, all[i].name, was.number[i], own.number[i]);
    }
    return PF_OK;
}

/* Kinds that remember nothing have a node all the same: it counts the positions. */
int pf_attend_state(pf_state **state, pf_engine *e, const pf_attention *a, int64_t batch,
                    int64_t heads, int64_t head_dim, int64_t value_dim) {
    if (batch < 1 || heads < 1 || head_dim < 1 || value_dim < 1) {
        return pf_fail(PF_EINVAL, "attention state: batch, heads, head_dim and value_dim must "
                                  "be at least 1");
    }
    if (!a->kind->prefill) {
        return pf_fail(PF_EINVAL, "attention state: %s attention can't stream%s", a->kind->name,
                       a->kind->no_stream ? a->kind->no_stream : "");
    }
    PF_TRY(pf_state_new(state, e, batch, 0));
    (*state)->mark = mark_of(a);
    if (!a->kind->state) return PF_OK;
    (*state)->kind = a->kind->state;
    int status = a->kind->open(*state, e, a, heads, head_dim, value_dim);
    if (status < 0) pf_state_close(state);
    return status;
}

/* q (B, H, L, d), k (B, Hkv, L, d), v (B, Hkv, L, dv) of the state's batch and sizes. */
static int check_rows(const pf_attention *a, const pf_state *s, const pf_tensor *q,
                      const pf_tensor *k, const pf_tensor *v) {
    const pf_state *one = s->row ? s->row[0] : s;
    const pf_tensor *all[3] = {q, k, v}, *held = one->tensor[0];
    static const char *const names[3] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) {
        PF_TRY(pf_tensor_check(all[i], PF_F32, "attention state", names[i]));
        bool fits = all[i]->rank == 4 && all[i]->shape[0] == s->batch &&
                    all[i]->shape[2] == q->shape[2] && (i < 2 || all[i]->shape[1] == k->shape[1]);
        if (!fits) {
            return pf_fail(PF_ESHAPE,
                           "attention state: %s is %s, must be (batch, heads, "
                           "length, width) with batch %lld, like q %s",
                           names[i], pf_shape_of(all[i]), (long long)s->batch, pf_shape_of(q));
        }
    }
    if (!held) return PF_OK;
    if (k->shape[1] != held->shape[1] || q->shape[1] % held->shape[1] != 0) {
        return pf_fail(PF_ESHAPE, "attention state: q is %s, k %s, but the state has %lld heads",
                       pf_shape_of(q), pf_shape_of(k), (long long)held->shape[1]);
    }
    int64_t d, dv;
    a->kind->widths(a, one, &d, &dv);
    if (q->shape[3] == d && k->shape[3] == d && v->shape[3] == dv) return PF_OK;
    return pf_fail(PF_ESHAPE,
                   "attention state: q is %s, k %s, v %s, but the state is for queries "
                   "and keys of width %lld and values of width %lld",
                   pf_shape_of(q), pf_shape_of(k), pf_shape_of(v), (long long)d, (long long)dv);
}

int pf_attend_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(a, state, q, k, v));
    PF_TRY(a->kind->prefill(out, e, a, state, q, k, v));
    state->position += q->shape[2];
    return PF_OK;
}

/* Ops of a host's map have promised nothing of rows that go through them together. */
bool pf_attend_together(const pf_attention *a) {
    return a->kind->step_rows && !(a->kernel && pf_kernel_given(a->kernel));
}

/* The position moves on when the kind has succeeded, never before. */
int pf_attend_step(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                   pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    PF_TRY(check_rows(a, state, q, k, v));
    if (q->shape[2] != 1) {
        return pf_fail(PF_ESHAPE, "step: q is %s, but a step takes one position; use prefill",
                       pf_shape_of(q));
    }
    PF_TRY((a->kind->step ? a->kind->step : a->kind->prefill)(out, e, a, state, q, k, v));
    if (!state->row) state->position += 1;
    for (int64_t b = 0; state->row && b < state->batch; b++) state->row[b]->position += 1;
    return PF_OK;
}

const char *pf_attend_no_part(const pf_attention *a) {
    if (!a->kind->part) return a->kind->no_part;
    return a->kind->no_part_of ? a->kind->no_part_of(a) : NULL;
}

int pf_attend_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *state,
                   pf_tensor *const *in) {
    const char *why = pf_attend_no_part(a);
    if (why) return pf_fail(PF_EINVAL, "attention: %s attention %s", a->kind->name, why);
    PF_TRY(check_taken(a->kind, in));
    PF_TRY(a->kind->part(out, e, a, state, in));
    state->position += in[PF_IN_Q]->shape[2];
    return PF_OK;
}

/* ---- public ---- */

/* The kernel for the heads of k, of kinds that take one; NULL: softmax. */
static int bind_for_rows(pf_attention *a, pf_engine *e, const pf_tensor *q, const pf_tensor *k,
                         pf_kernel *kernel) {
    PF_TRY(pf_tensor_check(q, PF_F32, a->kind->name, "q"));
    PF_TRY(pf_tensor_check(k, PF_F32, a->kind->name, "k"));
    if (q->rank != 4 || k->rank != 4) {
        return pf_fail(PF_ESHAPE,
                       "%s: q is %s and k %s, they must be (batch, heads, length, width)",
                       a->kind->name, pf_shape_of(q), pf_shape_of(k));
    }
    if (!a->kind->takes_kernel) {
        return kernel ? pf_fail(PF_EINVAL, "%s attention takes no kernel", a->kind->name) : PF_OK;
    }
    pf_kernel *open = kernel ? pf_kernel_retain(kernel) : NULL;
    int status = open ? PF_OK : pf_kernel_open(&open, e, NULL, NULL);
    if (status >= 0) status = pf_kernel_bind(&a->kernel, e, open, q->shape[3], k->shape[1]);
    pf_kernel_release(&open);
    return status;
}

/* a->buckets: as given, or told by a table, which is given or drawn; *made: to be released. */
static int tell_rooms(pf_tensor *made[2], pf_attention *a, pf_engine *e,
                      const pf_attention_options *o, pf_tensor *const *in) {
    const pf_rooms *rooms = a->kind->rooms;
    if (!rooms) {
        bool given = o->rooms || o->table;
        return given ? pf_fail(PF_EINVAL, "attention: %s attention takes no %s", a->kind->name,
                               o->rooms ? "rooms" : "table of rooms")
                     : PF_OK;
    }
    if (o->rooms && o->table) {
        return pf_fail(PF_EINVAL,
                       "attention: rooms of %s attention are given, or told by a table; give one "
                       "of the two",
                       a->kind->name);
    }
    PF_TRY(rooms->settle(a, o->options, o->table, o->rooms));
    a->buckets = o->rooms;
    if (o->rooms) return PF_OK;
    const int64_t *shape = in[PF_IN_K]->shape;
    if (!o->table) PF_TRY(rooms->make(&made[0], e, a, shape[1], shape[3], 0));
    a->table = o->table ? o->table : made[0];
    PF_TRY(rooms->tell(&made[1], e, a, in[PF_IN_Q], in[PF_IN_K], o->mask));
    a->buckets = made[1];
    return PF_OK;
}

int pf_attention_fits(const pf_attention *a, int64_t Lq, int64_t Lk, bool causal) {
    if (!a->kind->rule) return PF_OK;
    const pf_ask ask = {.where = a->kind->name,
                        .option = a->option,
                        .Lq = Lq,
                        .Lk = Lk,
                        .causal = causal,
                        .ahead = Lk - Lq};
    return pf_pattern_fits(a->kind->rule, &ask);
}

int pf_attention_fits_some(const pf_attention *a, bool causal) {
    return pf_attention_fits(a, INT32_MAX, INT32_MAX, causal);
}

/* What the public call says of its attention, as one that is ready to run, for this call alone. */
int pf_attention_call(pf_tensor **out, pf_tensor *exit[3], pf_engine *engine, pf_tensor *q,
                      pf_tensor *k, pf_tensor *v, const pf_attention_options *options) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(q, k, v);
    pf_attention_options o = {0};
    PF_TRY(pf_options_take(&o, sizeof o, options, "attention"));
    pf_attention a = {.causal = o.causal, .edges = o.edges, .edge_bias = o.edge_bias};
    pf_tensor *made[PF_ATTENTION_OUTPUTS] = {NULL};
    pf_tensor *in[PF_ATTENTION_INPUTS] = {[PF_IN_Q] = q,
                                          [PF_IN_K] = k,
                                          [PF_IN_V] = v,
                                          [PF_IN_MASK] = o.mask,
                                          [PF_IN_DECAY] = o.decay,
                                          [PF_IN_DOCUMENTS] = o.documents,
                                          [PF_IN_LIMITS] = o.limits,
                                          [PF_IN_PREFIX] = o.prefix,
                                          [PF_IN_CU_SEQLENS] = o.cu_seqlens};
    memcpy(in + PF_REACH_INPUTS, o.entry, sizeof o.entry);
    PF_TRY(pf_kind_find(&a.kind, o.attention, "attention"));
    PF_TRY(pf_attention_settle(&a, o.options, "attention"));
    PF_TRY(pf_attention_of_layers(&a, o.options, "attention"));
    PF_TRY(bind_for_rows(&a, engine, q, k, o.kernel));
    pf_tensor *told[2] = {NULL, NULL};
    int status = pf_attention_fits(&a, q->shape[2], k->shape[2], o.causal || o.limits);
    if (status >= 0) status = tell_rooms(told, &a, engine, &o, in);
    if (status >= 0) status = pf_attend_rows(made, engine, &a, in, exit != NULL);
    for (int i = 0; i < 2; i++) pf_tensor_release(&told[i]);
    pf_kernel_release(&a.kernel);
    if (status < 0) return status;
    *out = made[0];
    if (exit) memcpy(exit, made + 1, PF_ENTRY_INPUTS * sizeof *exit);
    return PF_OK;
}

int pf_attention_flops(double *forward, double *backward, const char *attention,
                       const pf_attention_shape *shape) {
    PF_NEED(forward, backward, shape);
    pf_attention a = {0};
    pf_attention_shape s = {.length = 0};
    PF_TRY(pf_options_take(&s, sizeof s, shape, "flops"));
    PF_TRY(pf_kind_find(&a.kind, attention, "flops"));
    PF_TRY(pf_attention_settle(&a, s.options, "flops"));
    a.kind->flops(&a, &s, forward, backward);
    return PF_OK;
}
