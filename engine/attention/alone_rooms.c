/*
 * alone_rooms.c - states of attention alone whose positions are put into rooms (pf_rooms): the
 * table that tells them is given, or drawn from the engine's seed as a call by itself draws it, and
 * is the state's own: forks share it and files hold it, so that a stream finds the rooms of its
 * past.
 */
#include "attention.h"
#include "tape.h"

static int check_table(const pf_alone *alone, const pf_tensor *t) {
    const char *name = alone->attention.kind->rooms->table;
    PF_TRY(pf_tensor_check(t, PF_F32, "attention state", name));
    if (t->rank >= 3 && t->shape[0] == alone->heads && t->shape[2] == alone->head_dim) return PF_OK;
    return pf_fail(PF_ESHAPE, "attention state: %s are %s, must be for %lld heads of width %lld",
                   name, pf_shape_of(t), (long long)alone->heads, (long long)alone->head_dim);
}

int pf_alone_table(pf_alone *alone, pf_engine *e, const pf_config *options, pf_tensor *table) {
    pf_attention *a = &alone->attention;
    const pf_rooms *rooms = a->kind->rooms;
    if (!rooms) {
        return table ? pf_fail(PF_EINVAL, "attention state: %s attention takes no table of rooms",
                               a->kind->name)
                     : PF_OK;
    }
    if (!table) return rooms->make(&a->table, e, a, alone->heads, alone->head_dim, 0);
    PF_TRY(check_table(alone, table));
    PF_TRY(rooms->settle(a, options, table, NULL));
    return pf_tensor_detach(&a->table, e, table);
}

int pf_alone_tell(pf_tensor **numbers, const pf_alone *alone, pf_engine *e, pf_tensor *q,
                  pf_tensor *k) {
    const pf_attention *a = &alone->attention;
    *numbers = NULL;
    if (!a->kind->rooms) return PF_OK;
    bool fits = q->rank == 4 && k->rank == 4 && q->shape[1] == k->shape[1];
    if (!fits) {
        return pf_fail(PF_ESHAPE,
                       "attention state: a head of %s attention has rooms of its own, so queries "
                       "and keys have as many heads; q is %s and k %s",
                       a->kind->name, pf_shape_of(q), pf_shape_of(k));
    }
    pf_tape *tape = pf_tape_pause(e); /* numbers outlive the tape that happens to be open */
    int status = a->kind->rooms->tell(numbers, e, a, q, k, NULL);
    pf_tape_resume(tape);
    return status;
}
