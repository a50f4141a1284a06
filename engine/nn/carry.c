/*
 * carry.c - rows that go on where the rows before them ended: streams of a data set, of which a
 * model carries its state from step to step, without its gradient (Dai et al. 2019,
 * "Transformer-XL", section 3.2). A window's state is its last keys and values, linear attention's
 * its sums: what a slice of a row hands to the next one (slices.c) here a row hands on.
 *
 * The model's state is the one child of a node that holds what layers ask of the positions before
 * a row: documents and mask of the last AHEAD of them, and how many positions the last document
 * has had. Where the first document of a row is another than the last one before it, nothing is
 * carried. A call that carries is all or nothing (state/undo.c).
 */
#include <string.h>

#include "slices.h"

enum { DOCUMENTS, MASK, COUNTED };
enum { AHEAD = PF_SLICE_LEAST }; /* no layer but attention looks back further */

static const pf_state_kind state_carry = {
    .name = "carry", .tensor = {"documents", "mask", "counted"}, .carries = true};
/* The same of a model whose windows keep inputs of their layers (attention_rows.c). */
static const pf_state_kind state_carry_rows = {
    .name = PF_CARRY_ROWS, .tensor = {"documents", "mask", "counted"}, .carries = true};

static int32_t *numbers(const pf_state *s, int i) { return pf_i32(s->tensor[i]); }

/* ---- making one ---- */

static void set_keep(pf_state *s, int64_t keep) {
    s->keep = keep;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) set_keep(s->child[i], keep);
    }
}

/* Before the first row: no position is there, and of a document that no row has. */
static int make_node(pf_state *s, const pf_engine *e, bool rows) {
    int64_t shape[2] = {s->batch, AHEAD};
    s->kind = rows ? &state_carry_rows : &state_carry;
    for (int i = DOCUMENTS; i <= COUNTED; i++) {
        int rank = i == COUNTED ? 1 : 2;
        PF_TRY(pf_tensor_make_lasting(&s->tensor[i], e->heap, PF_I32, rank, shape));
        PF_TRY(pf_tensor_fill(s->tensor[i], i == DOCUMENTS ? -1 : 0));
    }
    return PF_OK;
}

/* The words that a model's refusal is told with. */
static int check_model(const pf_module *module) {
    if (!pf_module_whole(module)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "carry: rows of this model can't go on from rows before: it needs causal "
                   "attention with a state of fixed size (favor, sliding ...), and layers of the "
                   "host's that have `part`");
}

/* Nodes of layers whose attention is a window keep rows; how many there are. */
static int keep_rows(pf_state *s) {
    int n = 0;
    const pf_state *below = s->n_child == 1 ? s->child[0] : NULL;
    if (!s->kind && below && below->kind && below->kind->slides) {
        s->kind = &pf_state_rows;
        return 1;
    }
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) n += keep_rows(s->child[i]);
    }
    return n;
}

static int fill(pf_state *s, pf_engine *e, const pf_module *module, int64_t keep, bool rows) {
    PF_TRY(make_node(s, e, rows));
    PF_TRY(pf_state_of(module, e, s->batch, &s->child[0]));
    pf_state_begin_parts(s->child[0]);
    set_keep(s, keep);
    if (!rows || keep_rows(s->child[0]) > 0) return PF_OK;
    return pf_fail(PF_EINVAL, "rows are kept of windows, and this model has none "
                              "(attention = \"sliding\")");
}

/* Whether some node leaves no more than its last `keep` rows. */
static bool trims(const pf_state *s) {
    if (s->kind && s->kind->trim) return true;
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i] && trims(s->child[i])) return true;
    }
    return false;
}

int pf_carry_make(pf_state **state, pf_engine *e, const pf_module *module, int64_t batch,
                  int64_t keep, bool rows) {
    if (batch < 1 || batch > INT32_MAX || keep < 0) {
        return pf_fail(PF_EINVAL,
                       "carry: the batch must be from 1 to %d and keep at least 0, got "
                       "%lld and %lld",
                       INT32_MAX, (long long)batch, (long long)keep);
    }
    PF_TRY(check_model(module));
    PF_TRY(pf_state_new(state, e, batch, 1));
    int status = fill(*state, e, module, keep, rows);
    if (status < 0) pf_state_close(state);
    return status < 0 ? pf_fail_in(status, "carry") : PF_OK;
}

/* A number of positions is of windows: sums hold all that was before. */
static int make(pf_state **state, pf_engine *e, const pf_module *module, int64_t batch,
                int64_t keep, bool rows) {
    PF_TRY(pf_carry_make(state, e, module, batch, keep, rows));
    if (keep == 0 || trims((*state)->child[0])) return PF_OK;
    pf_state_close(state);
    return pf_fail(
        PF_EINVAL,
        "carry: keep = %lld positions are of windows (attention = \"sliding\"), and this "
        "model has none: what it carries is of all that was before; leave keep out",
        (long long)keep);
}

int pf_module_carry(pf_state **state, pf_engine *engine, pf_module *module, int64_t batch,
                    int64_t keep) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(module);
    return make(state, engine, module, batch, keep, false);
}

int pf_module_carry_rows(pf_state **state, pf_engine *engine, pf_module *module, int64_t batch,
                         int64_t keep) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(module);
    return make(state, engine, module, batch, keep, true);
}

int pf_carried(pf_state **state, const pf_state *carry) {
    *state = NULL;
    if (!carry->kind || !carry->kind->carries || carry->n_child != 1) {
        return pf_fail(PF_EINVAL,
                       "carry: this state is a stream's; what rows go on from is made by "
                       "the model's carry");
    }
    *state = carry->child[0];
    return PF_OK;
}

/* ---- entering a row ---- */

static int check_row(const pf_slices *s, const pf_state *carry) {
    pf_state *own;
    PF_TRY(pf_carried(&own, carry));
    if (carry->moving) return pf_fail(PF_ESTATE, "carry: the state is at work in another call");
    if (s->x->rank < 2 || s->x->shape[0] != carry->batch) {
        return pf_fail(PF_ESHAPE, "carry: x is %s, but the state is of %lld rows side by side",
                       pf_shape_of(s->x), (long long)carry->batch);
    }
    if (s->x->shape[1] < 1) return pf_fail(PF_ESHAPE, "carry: a row has at least 1 position");
    if (s->pass.prefix) {
        return pf_fail(PF_EINVAL, "carry: a prefix is seen from everywhere in its row, and rows "
                                  "that go on have none; leave one out");
    }
    if (s->pass.n_inputs == 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "carry: what is read beside x ('%s') belongs to one row; rows that "
                   "go on read x alone",
                   s->pass.inputs[0].name);
}

/* *joined (B, AHEAD + L) i32: what the node holds of the positions before, then of (B, L). */
static int join(const pf_state *carry, int i, pf_engine *e, pf_tensor *of, pf_tensor **joined) {
    pf_tensor *flat = NULL;
    int64_t L, shape[2] = {carry->batch, 0};
    if (!of) return PF_OK;
    PF_TRY(pf_tensor_compact(&flat, e, of));
    L = flat->shape[1], shape[1] = AHEAD + L;
    int status = pf_tensor_make_lasting(joined, e->heap, PF_I32, 2, shape);
    for (int64_t b = 0; b < carry->batch && status >= 0; b++) {
        int32_t *row = pf_i32(*joined) + b * shape[1];
        memcpy(row, numbers(carry, i) + b * AHEAD, AHEAD * sizeof *row);
        memcpy(row + AHEAD, pf_i32(flat) + b * L, (size_t)L * sizeof *row);
    }
    pf_tensor_release(&flat);
    return status;
}

/* *before (B): positions that a row's first document had in the rows before. */
static int count_before(const pf_state *carry, const pf_engine *e, const pf_tensor *documents,
                        pf_tensor **before) {
    PF_TRY(pf_tensor_make_lasting(before, e->heap, PF_I32, 1, &carry->batch));
    for (int64_t b = 0; b < carry->batch; b++) {
        const int32_t *row = documents ? pf_i32(documents) + b * documents->stride[0] : NULL;
        bool same = !row || row[AHEAD] == row[AHEAD - 1];
        pf_i32(*before)[b] = same ? numbers(carry, COUNTED)[b] : 0;
    }
    return PF_OK;
}

int pf_carry_enter(pf_slices *s) {
    pf_state *carry = s->pass.carry;
    PF_TRY(check_row(s, carry));
    PF_TRY(pf_state_begin(carry));
    s->pass.carry = NULL;
    s->carried = carry;
    s->whole.first = s->whole.ahead = AHEAD;
    PF_TRY(join(carry, DOCUMENTS, s->e, s->pass.documents, &s->whole.documents));
    PF_TRY(join(carry, MASK, s->e, s->pass.mask, &s->whole.mask));
    return count_before(carry, s->e, s->whole.documents, &s->whole.before);
}

/* ---- leaving it ---- */

static int copy_place(pf_state *a, const pf_state *b, int k, void *context) {
    pf_tensor *own = NULL;
    (void)b;
    PF_TRY(pf_tensor_detach(&own, context, a->tensor[k]));
    pf_replace(&a->tensor[k], own);
    return PF_OK;
}

/* `to` takes over the tensors of `from`, and where it stands. */
static void take_tree(pf_state *to, pf_state *from) {
    to->position = from->position, to->recent = from->recent;
    for (int i = 0; i < PF_STATE_TENSORS; i++) {
        pf_tensor_release(&to->tensor[i]);
        to->tensor[i] = from->tensor[i];
        from->tensor[i] = NULL;
    }
    for (int i = 0; i < to->n_child; i++) {
        if (to->child[i]) take_tree(to->child[i], from->child[i]);
    }
}

static int trim_tree(pf_state *s, pf_engine *e) {
    if (s->kind && s->kind->trim && s->keep > 0) PF_TRY(s->kind->trim(s, e));
    for (int i = 0; i < s->n_child; i++) {
        if (s->child[i]) PF_TRY(trim_tree(s->child[i], e));
    }
    return PF_OK;
}

/* The last AHEAD of (the positions before, then the row's). of NULL: `otherwise` is everywhere, or
 * < 0: what the last one before had. */
static int last_of(pf_state *carry, int i, pf_engine *e, const pf_tensor *of, int64_t L,
                   int otherwise) {
    int64_t skipped = L - AHEAD; /* negative: so many of before stay */
    PF_TRY(pf_state_renew(carry, e, i));
    for (int64_t b = 0; b < carry->batch; b++) {
        int32_t *row = numbers(carry, i) + b * AHEAD, last = row[AHEAD - 1];
        int64_t stay = pf_max(-skipped, 0);
        memmove(row, row + AHEAD - stay, (size_t)stay * sizeof *row);
        for (int64_t t = stay; t < AHEAD; t++) {
            int64_t at = AHEAD + skipped + t; /* in `of`, which has AHEAD in front */
            row[t] = of              ? pf_i32(of)[b * of->stride[0] + at * of->stride[1]]
                     : otherwise < 0 ? last
                                     : otherwise;
        }
    }
    return PF_OK;
}

/* How many positions the document that a row ends in has had. */
static int count_on(pf_state *carry, pf_engine *e, const pf_part *whole, int64_t L) {
    PF_TRY(pf_state_renew(carry, e, COUNTED));
    for (int64_t b = 0; b < carry->batch; b++) {
        const pf_tensor *d = whole->documents;
        const int32_t *row = d ? pf_i32(d) + b * d->stride[0] + AHEAD : NULL;
        int64_t run = L;
        if (row)
            for (run = 1; run < L && row[L - 1 - run] == row[L - 1];) run++;
        int64_t had = run == L ? pf_i32(whole->before)[b] : 0;
        numbers(carry, COUNTED)[b] = (int32_t)pf_min(had + run, INT32_MAX);
    }
    return PF_OK;
}

static int leave(pf_slices *s, pf_state *left) {
    pf_state *carry = s->carried;
    int64_t L = s->length;
    PF_TRY(pf_state_each(left, NULL, copy_place, s->e));
    take_tree(carry->child[0], left);
    PF_TRY(trim_tree(carry->child[0], s->e));
    PF_TRY(count_on(carry, s->e, &s->whole, L));
    PF_TRY(last_of(carry, DOCUMENTS, s->e, s->whole.documents, L, -1));
    PF_TRY(last_of(carry, MASK, s->e, s->whole.mask, L, 1));
    carry->position += L;
    return PF_OK;
}

int pf_carry_leave(pf_slices *s, const pf_state *state) {
    pf_state *left = NULL;
    if (!s->carried) return PF_OK;
    pf_tape *tape = pf_tape_pause(s->e);
    int status = pf_state_shell(&left, s->e, state);
    if (status >= 0) status = leave(s, left);
    pf_state_close(&left);
    pf_tape_resume(tape);
    return status;
}

void pf_carry_end(pf_slices *s, int status) {
    if (s->carried) pf_state_end(s->carried, s->e, status);
    s->carried = NULL;
    if (s->whole.ahead == 0) return;
    pf_tensor_release(&s->whole.documents);
    pf_tensor_release(&s->whole.mask);
    pf_tensor_release(&s->whole.before);
}
