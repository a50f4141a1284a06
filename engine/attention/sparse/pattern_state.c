/*
 * pattern_state.c - see pattern_state.h: streaming, by listed_attention over the keys that are
 * held. A step is a prefill of one row.
 */
#include "pattern_state.h"

#include <string.h>

#include "cache_rows.h"
#include "listed.h"
#include "pattern_kinds.h"

enum { KEYS, VALUES, BUCKETS };

const pf_state_kind pf_state_pattern = {
    .name = "pattern",
    .tensor = {"keys", "values", "buckets"},
    .grows = true,
};

/* ---- what a kind's options say ---- */

/* A number of the kind's own by its name; `otherwise` where it has none. */
static double option_of(const pf_attention *a, const char *name, double otherwise) {
    int n;
    const pf_option_info *all = pf_kind_options(a->kind, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, name) == 0) return a->option[i];
    }
    return otherwise;
}

/* ---- the call ---- */

typedef int (*apply_fn)(pf_engine *e, const pf_op *op, pf_tensor *const *in, int n,
                        const pf_attr *attrs, pf_tensor **out);

/* Causal, over in (PF_LISTED_INPUTS, but for the pattern): keys from place `kept` on stand
 * `skipped` further. */
static int listed(apply_fn apply, pf_tensor **out, pf_engine *e, const pf_attention *a,
                  pf_tensor **in, int64_t skipped, int64_t kept) {
    pf_tensor *words = NULL;
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_listed_attention, attr);
    attr[PF_SOFTMAX_CAUSAL].i = 1;
    attr[PF_SOFTMAX_SCALE].f = pf_pattern_kind_scale(a);
    attr[PF_SOFTMAX_DROPOUT].f = a->dropout;
    attr[PF_SOFTMAX_DRAW].i = (int64_t)a->draw;
    attr[PF_LISTED_SKIPPED].i = skipped;
    attr[PF_LISTED_KEPT].i = kept;
    PF_TRY(pf_pattern_words(&words, e, a->kind->rule, a->option, NULL, 0));
    in[PF_LISTED_RELATIVE] = a->relative;
    in[PF_LISTED_PATTERN] = words;
    int status = apply(e, &pf_op_listed_attention, in, PF_LISTED_INPUTS, attr, out);
    pf_tensor_release(&words);
    return status;
}

/* q against `held` rows of the state. */
static int attend(pf_tensor **out, pf_engine *e, const pf_attention *a, const pf_state *s,
                  pf_tensor *q, int64_t held, pf_tensor *buckets, int64_t skipped, int64_t kept) {
    pf_tensor *in[PF_LISTED_INPUTS] = {
        [PF_IN_Q] = q, [PF_IN_DECAY] = a->decay, [PF_LISTED_BUCKETS] = buckets};
    int status = pf_cache_view(&in[PF_IN_K], s->tensor[KEYS], 0, held);
    if (status >= 0) status = pf_cache_view(&in[PF_IN_V], s->tensor[VALUES], 0, held);
    if (status >= 0) status = listed(pf_apply_lasting, out, e, a, in, skipped, kept);
    pf_tensor_release(&in[PF_IN_K]);
    pf_tensor_release(&in[PF_IN_V]);
    return status;
}

/* ---- all keys ---- */

static int make_cache(pf_state *s, int which, pf_dtype dtype, int64_t heads, int64_t width) {
    int64_t shape[4] = {s->batch, heads, 0, width};
    PF_TRY(pf_shape_valid(4, shape, dtype, "attention state"));
    return pf_tensor_make_lasting(&s->tensor[which], s->heap, dtype, 4, shape);
}

/* Without room: the first keys make it. Where there are buckets, heads of queries and of keys are
 * the same. */
int pf_pattern_open(pf_state *s, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                    int64_t dv) {
    (void)e;
    PF_TRY(make_cache(s, KEYS, PF_F32, heads, d));
    PF_TRY(make_cache(s, VALUES, PF_F32, heads, dv));
    const pf_rooms *rooms = a->kind->rooms;
    return rooms ? make_cache(s, BUCKETS, PF_I32, heads, rooms->rounds(a)) : PF_OK;
}

void pf_pattern_widths(const pf_attention *a, const pf_state *s, int64_t *d, int64_t *dv) {
    (void)a;
    *d = s->tensor[KEYS]->shape[3];
    *dv = s->tensor[VALUES]->shape[3];
}

static int turned(pf_tensor **to, pf_engine *e, pf_tensor *x) {
    static const int order[4] = {0, 1, 3, 2};
    pf_tensor *view = NULL;
    PF_TRY(pf_permute(&view, e, x, 4, order));
    int status = pf_tensor_compact(to, e, view);
    pf_tensor_release(&view);
    return status;
}

/* The buckets of the new keys, (B, H, rounds, n), join those that are held, (B, H, room, rounds);
 * *all (B, H, rounds, held). */
static int add_buckets(pf_tensor **all, pf_engine *e, const pf_attention *a, pf_state *s,
                       int64_t held) {
    pf_tensor *rows = NULL, *view = NULL;
    if (!s->tensor[BUCKETS]) return PF_OK;
    if (!a->buckets) {
        return pf_fail(PF_EINVAL, "attention state: %s attention needs the buckets of its keys",
                       a->kind->name);
    }
    PF_TRY(turned(&rows, e, a->buckets));
    int status = pf_cache_append(s, BUCKETS, rows);
    if (status >= 0) status = pf_cache_view(&view, s->tensor[BUCKETS], 0, held);
    if (status >= 0) status = turned(all, e, view);
    pf_tensor_release(&view);
    pf_tensor_release(&rows);
    return status;
}

int pf_pattern_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                       pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    pf_tensor *buckets = NULL;
    int64_t held = s->position + k->shape[2];
    PF_TRY(pf_cache_append(s, KEYS, k));
    PF_TRY(pf_cache_append(s, VALUES, v));
    PF_TRY(add_buckets(&buckets, e, a, s, held));
    int status = attend(out, e, a, s, q, held, buckets, 0, 0);
    pf_tensor_release(&buckets);
    return status;
}

/* Rows first .. first + n - 1 of `later` behind those of s. */
static int append_rows(pf_state *s, const pf_state *later, int64_t first, int64_t n) {
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        pf_tensor *rows = NULL;
        if (!s->tensor[i]) continue;
        PF_TRY(pf_cache_view(&rows, later->tensor[i], first, n));
        int status = pf_cache_append(s, i, rows);
        pf_tensor_release(&rows);
        PF_TRY(status);
    }
    return PF_OK;
}

int pf_pattern_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later) {
    (void)e, (void)a;
    return append_rows(s, later, 0, later->position);
}

/* ---- windows ---- */

static int trim(pf_state *s, pf_engine *e);

/* there (B, 1, rows, 1) i32, of parts alone: keys that the next one may see. */
enum { THERE = BUCKETS };
const pf_state_kind pf_state_window = {
    .name = "window",
    .tensor = {"keys", "values", "there"},
    .grows = true,
    .slides = true,
    .parts_only = 1u << THERE,
    .anew = 1u << KEYS | 1u << VALUES | 1u << THERE,
    .trim = trim,
};

/* How far a window looks back, in keys; and rows of the first tokens, which never go. */
static int64_t back_of(const pf_attention *a) {
    return (int64_t)(option_of(a, "dilation", 1) * (option_of(a, "window", 1) - 1));
}
static int64_t kept_of(const pf_attention *a) {
    return pf_round_up((int64_t)option_of(a, "global", 0), PF_TILE);
}
int64_t pf_window_distances(const pf_attention *a) {
    return a->kind->state == &pf_state_window ? back_of(a) + 1 : 0;
}
/* Rows that it lets go of at a time: a run of each residue, so that others keep their tiles. */
static int64_t run_of(const pf_attention *a) {
    return PF_TILE * (int64_t)option_of(a, "dilation", 1);
}

/* Rows that no query from `position` on sees any more, of those behind the first `kept`: whole
 * runs, of a state that has let go of `gone` rows. */
static int64_t useless(const pf_attention *a, int64_t position, int64_t kept, int64_t gone) {
    int64_t first = position - back_of(a) - kept - gone; /* behind `kept`, before those in reach */
    return first > 0 ? first / run_of(a) * run_of(a) : 0;
}

/* The room that a window is to have: it lets go of rows when they fill more. */
static int64_t room_of(const pf_attention *a) {
    return kept_of(a) + pf_round_up(back_of(a) + 1, PF_TILE) + run_of(a) +
           pf_round_up(back_of(a) / 4 + 1, PF_TILE);
}

/* What lies before the reach of `position`, which `held` rows come to, goes where room is short. */
static int let_go(pf_state *s, const pf_attention *a, int64_t position, int64_t held) {
    int64_t kept = kept_of(a), room = room_of(a), n = useless(a, position, kept, s->recent);
    if (s->tensor[KEYS]->shape[2] <= room) return PF_OK;
    for (int i = KEYS; i <= VALUES; i++) {
        pf_tensor *cut = NULL;
        int64_t front = pf_min(kept, held), rest = held - front - n;
        PF_TRY(pf_cache_cut(&cut, s->heap, s->tensor[i], room, front, front + n, rest));
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = cut;
    }
    s->recent += n;
    return PF_OK;
}

int pf_window_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v) {
    int64_t held = pf_state_held(s) + k->shape[2];
    PF_TRY(pf_cache_append(s, KEYS, k));
    PF_TRY(pf_cache_append(s, VALUES, v));
    PF_TRY(attend(out, e, a, s, q, held, NULL, s->recent, kept_of(a)));
    int status = let_go(s, a, s->position + k->shape[2], held);
    if (status < 0) pf_tensor_release(out);
    return status;
}

/* Of a later stretch that has let go of rows, all that is in reach of what comes lies in it, but
 * for first tokens: those are s's, as far as it has them. */
int pf_window_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later) {
    int64_t n = pf_state_held(later), kept = kept_of(a), held = pf_state_held(s);
    int64_t position = s->position + later->position;
    (void)e;
    if (later->recent == 0) {
        PF_TRY(append_rows(s, later, 0, n));
        return let_go(s, a, position, held + n);
    }
    int64_t own = pf_min(held, kept), first = pf_min(kept - own, n), rest = n - kept;
    for (int i = KEYS; i <= VALUES; i++) {
        pf_tensor *cut = NULL;
        PF_TRY(pf_cache_cut(&cut, s->heap, s->tensor[i], own + first + rest, own, 0, 0));
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = cut;
    }
    s->recent = s->position - own; /* so that rows come behind its own first ones */
    PF_TRY(append_rows(s, later, 0, first));
    s->recent -= first;
    PF_TRY(append_rows(s, later, kept, rest));
    s->recent = position - own - first - rest;
    return PF_OK;
}

/* ---- windows in parts of a row ---- */

const char *pf_window_no_part(const pf_attention *a) {
    if (option_of(a, "global", 0) == 0) return NULL;
    return "with global tokens can't go from slice to slice: they are of one row and document; "
           "leave out `global`, or train on whole rows";
}

/* *joined: rows before, then the part's, recorded; *before NULL or empty: those alone. */
static int join(pf_tensor **joined, pf_engine *e, pf_tensor *before, pf_tensor *rows) {
    pf_tensor *in[2] = {before, rows};
    pf_attr dim = {.i = 2};
    if (before->shape[2] > 0) return pf_apply(e, &pf_op_concat, in, 2, &dim, joined);
    *joined = pf_tensor_retain(rows);
    return PF_OK;
}

/* What each key of a part, the n before it first, is marked with: (B, n + L) i32. */
typedef struct {
    pf_tensor *there, *documents;
    bool all_there;
} marks;

static int32_t number_at(const pf_tensor *t, int64_t b, int64_t i) {
    return pf_i32(t)[b * t->stride[0] + i * t->stride[1]];
}

/* Rows before the part are of its first document, or not there. */
static int mark_row(marks *m, const pf_state *s, pf_tensor *const *in, int64_t b, int64_t n,
                    int64_t L) {
    const pf_tensor *documents = in[PF_IN_DOCUMENTS], *before = s->tensor[THERE];
    int32_t *there = pf_i32(m->there) + b * (n + L);
    int32_t *document = m->documents ? pf_i32(m->documents) + b * (n + L) : NULL;
    PF_HOLDS(documents || !document);
    for (int64_t i = 0; i < n + L; i++) {
        bool is = i < n ? !before || pf_i32(before)[b * n + i] != 0
                        : pf_mask_keeps(in[PF_IN_MASK], b, i - n);
        there[i] = is;
        m->all_there = m->all_there && is;
        if (document) document[i] = number_at(documents, b, i < n ? 0 : i - n);
    }
    return PF_OK;
}

static int make_marks(marks *m, pf_engine *e, const pf_state *s, pf_tensor *const *in, int64_t n) {
    int64_t L = in[PF_IN_K]->shape[2], shape[2] = {s->batch, n + L};
    *m = (marks){.all_there = true};
    PF_TRY(pf_tensor_make_lasting(&m->there, e->heap, PF_I32, 2, shape));
    if (in[PF_IN_DOCUMENTS])
        PF_TRY(pf_tensor_make_lasting(&m->documents, e->heap, PF_I32, 2, shape));
    for (int64_t b = 0; b < s->batch && L > 0; b++) PF_TRY(mark_row(m, s, in, b, n, L));
    return PF_OK;
}

/* The last `rows` of those marked, where they are of the document that a row ends in. */
static int leave_marks(pf_tensor **left, pf_engine *e, const marks *m, int64_t rows) {
    int64_t B = m->there->shape[0], all = m->there->shape[1], shape[4] = {B, 1, rows, 1};
    PF_TRY(pf_tensor_make_lasting(left, e->heap, PF_I32, 4, shape));
    for (int64_t b = 0; b < B; b++) {
        for (int64_t i = 0; i < rows; i++) {
            int64_t at = all - rows + i;
            bool ends = !m->documents ||
                        number_at(m->documents, b, at) == number_at(m->documents, b, all - 1);
            pf_i32(*left)[b * rows + i] = ends ? number_at(m->there, b, at) : 0;
        }
    }
    return PF_OK;
}

/* The last `rows` of what keys and values have come to go on to the next part. */
static int leave(pf_state *s, pf_engine *e, pf_tensor *const *all, const marks *m, int64_t rows) {
    pf_tensor *left[3] = {NULL};
    int64_t n = all[KEYS]->shape[2];
    int status = PF_OK;
    for (int i = KEYS; i <= VALUES && status >= 0; i++)
        status = pf_slice(&left[i], e, all[i], 2, n - rows, n);
    if (status >= 0) status = leave_marks(&left[THERE], e, m, rows);
    for (int i = 0; i < 3; i++) {
        pf_tensor_release(status < 0 ? &left[i] : &s->tensor[i]);
        if (status >= 0) s->tensor[i] = left[i];
    }
    return status;
}

int pf_window_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                   pf_tensor *const *in) {
    int64_t n = s->tensor[KEYS]->shape[2], L = in[PF_IN_K]->shape[2], gone = s->position - n;
    pf_tensor *all[2] = {NULL}, *given[PF_LISTED_INPUTS] = {NULL};
    marks m;
    int status = make_marks(&m, e, s, in, n);
    if (status >= 0) status = join(&all[KEYS], e, s->tensor[KEYS], in[PF_IN_K]);
    if (status >= 0) status = join(&all[VALUES], e, s->tensor[VALUES], in[PF_IN_V]);
    if (status >= 0) {
        given[PF_IN_Q] = in[PF_IN_Q], given[PF_IN_DECAY] = a->decay;
        given[PF_IN_K] = all[KEYS], given[PF_IN_V] = all[VALUES];
        given[PF_IN_MASK] = m.all_there ? NULL : m.there;
        given[PF_IN_DOCUMENTS] = m.documents;
        status = listed(pf_apply, out, e, a, given, gone, 0);
    }
    int64_t useful = n + L - useless(a, s->position + L, 0, gone);
    if (status >= 0) status = leave(s, e, all, &m, useful);
    if (status >= 0) s->recent = s->position + L - useful;
    if (status < 0) pf_tensor_release(out);
    for (int i = 0; i < 2; i++) pf_tensor_release(&all[i]);
    pf_tensor_release(&m.there);
    pf_tensor_release(&m.documents);
    return status;
}

/* Of rows first .. n - 1 those before the last `keep` are not there. */
static int forget(pf_state *s, pf_engine *e, int64_t rows, int64_t keep) {
    PF_TRY(pf_state_renew(s, e, THERE));
    for (int64_t b = 0; b < s->batch; b++) {
        memset(pf_i32(s->tensor[THERE]) + b * rows, 0, (size_t)(rows - keep) * sizeof(int32_t));
    }
    return PF_OK;
}

/* Of a state that is carried the last s->keep rows are seen. It lets go of whole runs. */
static int trim(pf_state *s, pf_engine *e) {
    int64_t n = s->tensor[KEYS]->shape[2], more = pf_max(n - s->keep, 0);
    int64_t drop = more / PF_TILE * PF_TILE;
    if (more == 0 || !s->tensor[THERE]) return PF_OK;
    for (int i = KEYS; i <= THERE && drop > 0; i++) {
        pf_tensor *cut = NULL;
        PF_TRY(pf_cache_cut(&cut, s->heap, s->tensor[i], n - drop, 0, drop, n - drop));
        pf_tensor_release(&s->tensor[i]);
        s->tensor[i] = cut;
    }
    s->recent += drop;
    return forget(s, e, n - drop, s->keep);
}
