/*
 * attention_rooms.c - attention layers whose positions are put into rooms (pf_rooms of
 * attention.h): the table by which they are told is a buffer, drawn for the layer's place, and
 * where the kind says so keys are the queries at length 1.
 *
 * Numbers are told before positions turn queries and keys, so that a token's room is its own. They
 * are a choice: a run that is kept holds them for its second one (choices.c).
 */
#include <math.h>

#include "attention_layer.h"

static const pf_rooms *rooms_of(const pf_module *m) {
    return ((const attention_self *)m->self)->attention.kind->rooms;
}

int pf_attention_rooms(pf_module *m, pf_engine *e, attention_self *self, uint64_t place) {
    pf_attention *a = &self->attention;
    const pf_rooms *rooms = a->kind->rooms;
    pf_tensor *table = NULL;
    if (!rooms) return PF_OK;
    self->shared = rooms->shared(a);
    if (self->kv_heads != self->heads) {
        return pf_fail(
            PF_EINVAL,
            "attention: a head of %s attention has rooms of its own, for its queries and "
            "keys, so kv_heads %lld must be heads %lld, or left out",
            a->kind->name, (long long)self->kv_heads, (long long)self->heads);
    }
    PF_TRY(rooms->make(&table, e, a, self->heads, self->head_dim, place));
    int status = pf_module_buffer(m, rooms->table, table);
    a->table = table; /* the slot holds it */
    pf_tensor_release(&table);
    return status;
}

/* ---- what follows from options ---- */

/* A derived slot of m, filled with `value`, unless it is there. */
static int derive(pf_module *m, const char *name, int rank, const int64_t *shape, double value) {
    pf_tensor *t = NULL;
    if (pf_module_tensor(m, name)) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&t, m->heap, PF_F32, rank, shape));
    int status = pf_tensor_fill(t, value);
    if (status >= 0) status = pf_module_derived(m, name, t);
    pf_tensor_release(&t);
    return status;
}

/* The scale of a norm that gives length 1, and what training steps gather. */
int pf_attention_rooms_derive(pf_module *m) {
    const attention_self *self = m->self;
    const pf_rooms *rooms = rooms_of(m);
    const pf_tensor *table = self->attention.table;
    int64_t shape[PF_MAX_RANK], d = self->head_dim;
    if (!rooms) return PF_OK;
    if (self->shared) PF_TRY(derive(m, "unit", 1, &d, 1 / sqrt((double)d)));
    if (!rooms->note) return PF_OK;
    for (int i = 0; i < table->rank; i++) shape[i] = table->shape[i] + (i == table->rank - 1);
    return derive(m, "sums", table->rank, shape, 0);
}

/* ---- running ---- */

int pf_attention_share(const pf_module *m, pf_engine *e, pf_tensor *q, pf_tensor **k) {
    return pf_rmsnorm(k, e, q, pf_module_tensor(m, "unit"), 1e-12);
}

/* A forward's second run notes nothing twice. */
static int note(const pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **side,
                pf_tensor *numbers) {
    const attention_self *self = m->self;
    pf_tensor *sums = pf_module_tensor(m, "sums");
    if (!sums || !run->pass->training || run->pass->again) return PF_OK;
    return rooms_of(m)->note(&self->attention, sums, e, side[0], side[1], numbers);
}

int pf_attention_number(const pf_module *m, pf_engine *e, const pf_run *run, pf_tensor **side,
                        pf_tensor **numbers) {
    const attention_self *self = m->self;
    const pf_rooms *rooms = rooms_of(m);
    *numbers = NULL;
    if (!rooms) return PF_OK;
    PF_TRY(pf_run_chosen(run, e, numbers));
    if (*numbers) return PF_OK;
    PF_TRY(rooms->tell(numbers, e, &self->attention, side[0], side[1], run->pass->mask));
    int status = pf_run_choose(run, e, *numbers);
    if (status >= 0) status = note(m, e, run, side, *numbers);
    if (status < 0) pf_tensor_release(numbers);
    return status;
}

pf_tensor *pf_attention_notes(const pf_module *m) {
    return rooms_of(m) && rooms_of(m)->move ? pf_module_tensor(m, "sums") : NULL;
}

int pf_attention_move(pf_module *m, pf_engine *e) {
    const attention_self *self = m->self;
    pf_tensor *sums = pf_attention_notes(m);
    if (!sums) return PF_OK;
    return rooms_of(m)->move(&self->attention, sums, e);
}
