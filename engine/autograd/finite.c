/*
 * finite.c - where the first number arises that is not finite: between begin and end every op's
 * inputs and results are looked at, and every gradient that a backward adds to, each with the layer
 * that it belongs to.
 *
 * What counts. A NaN ends the run at once. An infinity may be meant, a mask's -inf above all, so
 * the run goes on, and the first one is told at the end: +inf before the NaN that came of it, -inf
 * beside a NaN alone. An input is looked at before results are, so that what came in from outside
 * the ops (a weight, data, what a layer of the host made) is told as that.
 *
 * Rows in segments (nn/sequence.h) run on to their end, since all ranks have to, and what is first
 * can't go by the clock: it is what comes after the fewest ops of its segment, and of several
 * segments what no other can have brought there. So it is the same on any number of ranks, once
 * they have held theirs against each other.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "node.h"

enum { WORDS = 512 };
typedef enum { FINE, MINUS, PLUS, NOT, KINDS } number_kind; /* the worse the higher */

typedef struct {
    bool found, backward;
    uint64_t order; /* ops looked at before it, in its segment */
    int segment;
    char place[PF_PLACE_BYTES], op[64], what[WORDS];
} finding;

typedef struct {
    pf_heap *heap;
    char place[PF_PLACE_BYTES]; /* the path of the layer that runs; cut */
    int length;                 /* of the whole path */
    finding first[KINDS];       /* of each kind */
    bool segments;              /* rows are in some: nothing ends the run */
    uint64_t order;             /* of the op that is looked at, and its segment */
    int segment;
} watch;

static watch *watch_of(const pf_engine *e) { return e->own[PF_OWN_FINITE].thing; }

/* ---- the layer that runs ---- */

static void put(watch *w, const char *text) {
    for (; *text; text++, w->length++)
        if (w->length < PF_PLACE_BYTES - 1) w->place[w->length] = *text;
    w->place[w->length < PF_PLACE_BYTES ? w->length : PF_PLACE_BYTES - 1] = '\0';
}

int pf_finite_enter(const pf_engine *e, const char *name) {
    watch *w = watch_of(e);
    if (!w) return 0;
    int before = w->length;
    if (before > 0) put(w, ".");
    put(w, name);
    return before;
}

void pf_finite_leave(const pf_engine *e, int before) {
    watch *w = watch_of(e);
    if (!w) return;
    w->length = before;
    if (before < PF_PLACE_BYTES) w->place[before] = '\0';
}

int pf_finite_note(pf_tape *tape, pf_node *node) {
    const watch *w = watch_of(tape->engine);
    if (!w) return PF_OK;
    node->place = pf_heap_alloc(tape->heap, PF_PLACE_BYTES);
    if (!node->place) return PF_ENOMEM;
    memcpy(node->place, w->place, PF_PLACE_BYTES);
    return PF_OK;
}

int pf_finite_return(const pf_engine *e, const pf_node *node) {
    watch *w = watch_of(e);
    int before = w ? w->length : 0;
    if (!w || !node->place) return before;
    w->length = 0;
    put(w, node->place);
    return before;
}

/* ---- looking ---- */

/* The worst kind among t's numbers, and in row-major order the first of it. */
static number_kind look(const pf_tensor *t, int64_t *at) {
    number_kind worst = FINE;
    pf_iter it;
    int64_t offset;
    if (!t || t->dtype != PF_F32 || !t->storage || !t->storage->data) return FINE;
    pf_iter_make(&it, t->rank, t->shape, 1, &t);
    for (int64_t i = 0; i < it.outer && worst < NOT; i++) {
        pf_iter_at(&it, i, &offset);
        const float *x = pf_f32(t) + offset;
        for (int64_t k = 0; k < it.inner && worst < NOT; k++) {
            float v = x[k * it.inner_stride[0]];
            number_kind kind = isnan(v) ? NOT : isinf(v) ? (v > 0 ? PLUS : MINUS) : FINE;
            if (kind > worst) worst = kind, *at = i * it.inner + k;
        }
    }
    return worst;
}

/* A tensor that is told of, and what is in it. */
typedef struct {
    const char *role; /* "its input " */
    char name[48];    /* "weight" */
    const pf_tensor *t;
    number_kind kind;
    int64_t at;
} sight;

static const char *const words[KINDS] = {"finite numbers", "-inf", "inf", "nan"};

/* "its input 'weight' [16, 16] holds nan at [2, 3]" */
static void tell(char *out, size_t bytes, const sight *s) {
    char place[128] = "";
    int64_t rest = s->at;
    for (int d = s->t->rank - 1; d >= 0; d--) {
        char inner[128];
        snprintf(inner, sizeof inner, "%s%s%s", pf_place(rest % s->t->shape[d]), *place ? ", " : "",
                 place);
        memcpy(place, inner, sizeof place);
        rest /= s->t->shape[d];
    }
    snprintf(out, bytes, "%s'%s' %s holds %s%s%s%s", s->role, s->name, pf_shape_of(s->t),
             words[s->kind], *place ? " at [" : "", place, *place ? "]" : "");
}

/* Of segments: a state goes forward to those behind, and its gradient to those before. */
static bool is_before(const finding *a, const finding *b) {
    if (a->backward != b->backward) return b->backward;
    if (a->order != b->order) return a->order < b->order;
    return a->backward ? a->segment > b->segment : a->segment < b->segment;
}

/* The first of its kind is kept: `bad`, beside `other`, which may be NULL. PF_ENUMERIC of a NaN. */
static int keep(watch *w, const pf_op *op, bool backward, const sight *bad, const sight *other) {
    finding *f = &w->first[bad->kind];
    const finding own = {
        .found = true, .backward = backward, .order = w->order, .segment = w->segment};
    if (!f->found || (w->segments && is_before(&own, f))) {
        *f = own;
        memcpy(f->place, w->place, sizeof f->place);
        snprintf(f->op, sizeof f->op, "%s", op ? op->name : "");
        tell(f->what, WORDS / 2, bad);
        size_t used = strlen(f->what);
        if (other && other->kind > FINE) {
            used += (size_t)snprintf(f->what + used, sizeof f->what - used, ", ");
            tell(f->what + used, sizeof f->what - used, other);
        } else if (other) {
            snprintf(f->what + used, sizeof f->what - used, ", of finite %s",
                     backward ? "gradients of its results" : "inputs");
        }
    }
    if (bad->kind < NOT || w->segments) return PF_OK;
    return pf_fail(PF_ENUMERIC, "%s%s%s", op ? op->name : "", op ? ": " : "", f->what);
}

static void see(sight *worst, const char *role, const char *name, const pf_tensor *t) {
    int64_t at = 0;
    number_kind kind = look(t, &at);
    if (kind <= worst->kind) return;
    *worst = (sight){.role = role, .t = t, .kind = kind, .at = at};
    snprintf(worst->name, sizeof worst->name, "%s", name);
}

/* Name o of "y, shift" in a buffer. */
static const char *result_name(const pf_op *op, int o, char *name, size_t bytes) {
    const char *at = op->results;
    for (; o > 0 && at; o--) at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
    if (!at) return "y";
    at += strspn(at, " [");
    snprintf(name, bytes, "%.*s", (int)strcspn(at, ",]"), at);
    return name;
}

int pf_finite_forward(const pf_call *c) {
    watch *w = watch_of(c->engine);
    char name[48];
    sight in = {0}, out = {0};
    w->order++;
    for (int i = 0; i < c->n_in; i++) see(&in, "its input ", pf_op_arg_name(c->op, i), c->in[i]);
    if (in.kind == NOT) return keep(w, c->op, false, &in, NULL);
    for (int o = 0; o < c->op->n_out; o++)
        see(&out, "its result ", result_name(c->op, o, name, sizeof name), c->out[o]);
    if (in.kind > FINE) PF_TRY(keep(w, c->op, false, &in, NULL));
    return out.kind > FINE ? keep(w, c->op, false, &out, &in) : PF_OK;
}

int pf_finite_backward(const pf_tape *tape, const pf_node *node) {
    watch *w = watch_of(tape->engine);
    char name[48];
    sight in = {0}, out = {0};
    w->order++;
    for (int i = 0; i < node->n_in; i++) {
        const pf_target *to = &node->edge[i].to;
        const pf_tensor *grad = to->leaf        ? to->leaf->grad
                                : to->node >= 0 ? tape->nodes[to->node].grad[to->slot]
                                                : NULL;
        see(&in, "the gradient of its input ", pf_op_arg_name(node->op, i), grad);
    }
    if (in.kind == FINE) return PF_OK;
    for (int o = 0; o < node->op->n_out; o++)
        see(&out, "the gradient of its result ", result_name(node->op, o, name, sizeof name),
            node->grad[o]);
    return keep(w, node->op, true, &in, &out);
}

int pf_finite_given(const pf_engine *e, const pf_tensor *y) {
    watch *w = watch_of(e);
    sight given = {0};
    if (!w || (w->first[NOT].found && !w->segments)) return PF_OK;
    see(&given, "what it gives, ", "y", y);
    return given.kind > FINE ? keep(w, NULL, false, &given, NULL) : PF_OK;
}

void pf_finite_segment(const pf_engine *e, int segment) {
    watch *w = watch_of(e);
    if (!w) return;
    w->segments = true;
    w->segment = segment;
    w->order = 0;
}

/* ---- public ---- */

static void close_watch(pf_engine *e, void *thing) { pf_heap_free(e->heap, thing, sizeof(watch)); }

int pf_finite_begin(pf_engine *engine) {
    PF_OPEN(engine);
    if (watch_of(engine)) return pf_fail(PF_ESTATE, "finite: it is being watched already");
    watch *w = pf_heap_zalloc(engine->heap, sizeof *w);
    if (!w) return PF_ENOMEM;
    pf_engine_own(engine, PF_OWN_FINITE, w, close_watch);
    return PF_OK;
}

/* "backward of exp in blocks.1.mlp: <what>", or with ", segment 2" before what is of that part */
static void tell_finding(char *out, size_t bytes, const watch *w, const finding *f) {
    char segment[32] = "";
    if (w->segments) snprintf(segment, sizeof segment, ", segment %s", pf_place(f->segment));
    snprintf(out, bytes, "%s%s%s%s%s%s: %s", f->backward ? "backward" : "forward",
             *f->op ? " of " : "", f->op, *f->place ? " in " : "", f->place, segment, f->what);
}

static int fill_report(pf_config *report, const watch *w, const finding *f, uint64_t step) {
    if (w->segments) {
        PF_TRY(pf_config_set_number(report, "order", (double)f->order));
        PF_TRY(pf_config_set_number(report, "segment", (double)f->segment + 1));
    }
    PF_TRY(pf_config_set_number(report, "step", (double)step));
    PF_TRY(pf_config_set_string(report, "layer", f->place));
    PF_TRY(pf_config_set_string(report, "op", f->op));
    return pf_config_set_string(report, "phase", f->backward ? "backward" : "forward");
}

/* The first of what is told, and what beside it: an infinity came before the NaN that it made, and
 * -inf may be meant. NULL: nothing is wrong. */
static const finding *verdict(const watch *w, const finding **beside, const char **relation) {
    const finding *nan = &w->first[NOT], *inf = &w->first[PLUS], *minus = &w->first[MINUS];
    if (!nan->found && !inf->found) return NULL;
    const bool from_inf = inf->found && !(w->segments && nan->found && is_before(nan, inf));
    const finding *first = from_inf ? inf : nan;
    *relation = from_inf ? "; the first nan behind it: " : "; the first infinity before it: ";
    *beside = from_inf ? nan : minus;
    return first;
}

static int conclude(const watch *w, uint64_t step, pf_config **report) {
    char message[2 * WORDS] = "", other[2 * WORDS] = "";
    const finding *beside;
    const char *relation;
    const finding *f = verdict(w, &beside, &relation);
    if (!f) return PF_OK;
    tell_finding(message, sizeof message, w, f);
    if (beside->found) tell_finding(other, sizeof other, w, beside);
    int status = pf_fail(PF_ENUMERIC, "step %llu: %s%s%s", (unsigned long long)step, message,
                         *other ? relation : "", other);
    if (!report) return status;
    *report = pf_config_new_in(w->heap, PF_MAP);
    int filled = *report ? fill_report(*report, w, f, step) : PF_ENOMEM;
    if (filled >= 0) return status;
    pf_config_free(*report);
    *report = NULL;
    return filled;
}

int pf_finite_end(pf_engine *engine, uint64_t step, pf_config **report) {
    if (report) *report = NULL;
    PF_OPEN(engine);
    if (!watch_of(engine)) return pf_fail(PF_ESTATE, "finite: it is not being watched");
    int status = conclude(watch_of(engine), step, report);
    pf_engine_own(engine, PF_OWN_FINITE, NULL, NULL);
    return status;
}
