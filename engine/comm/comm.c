/*
 * comm.c - the verbs of comm.h over whatever carries them. What must hold: with one rank nothing
 * happens, and the message of a failure names the rank that it happened to.
 */
#include "comm.h"

int pf_comm_sum(pf_engine *engine, pf_tensor *const *tensors, int n) {
    pf_comm *comm = engine->comm;
    if (!comm) return PF_OK;
    for (int i = 0; i < n; i++) {
        PF_TRY(pf_tensor_check(tensors[i], PF_F32, "sum over ranks", "tensor"));
        if (!pf_tensor_contiguous(tensors[i]))
            return pf_fail(PF_EINVAL, "sum over ranks: tensor %s is not contiguous", pf_place(i));
        PF_TRY(comm->sum(comm, pf_f32(tensors[i]), pf_tensor_numel(tensors[i])));
    }
    return PF_OK;
}

/* Ranks count from 0 for everybody, as whoever starts them numbers them. */
int pf_comm_agree(pf_engine *engine, int status) {
    pf_comm *comm = engine->comm;
    if (!comm) return status;
    if (status < 0) pf_fail_in(status, "rank %d of %d", comm->rank, comm->ranks);
    return comm->agree(comm, status);
}
