/*
 * comm_test.c - the seam of the ranks: identity for one, and for two (the other one played here)
 * sums in place, one verdict, and a message that names the rank.
 */
#include "check.h"
#include "comm.h"
#include "tensor_support.h"

/* The other rank holds 10 everywhere, and fails if told to. */
typedef struct {
    pf_comm comm;
    int status, sums;
} pair;

static int pair_sum(pf_comm *comm, float *x, int64_t n) {
    ((pair *)comm)->sums++;
    for (int64_t i = 0; i < n; i++) x[i] += 10;
    return PF_OK;
}

static int pair_agree(pf_comm *comm, int status) {
    const pair *p = (pair *)comm;
    if (status <= p->status) return status;
    return pf_fail(p->status, "rank 1 of 2: no room");
}

static void test_one_rank(void) {
    pf_engine engine = engine_of(1, NULL);
    pf_tensor *t = counted(&engine, 2, 3);
    CHECK(!engine.comm);
    CHECK_OK(pf_comm_sum(&engine, &t, 1));
    CHECK(pf_f32(t)[0] == 0 && pf_f32(t)[5] == 5);
    CHECK(pf_comm_agree(&engine, 7) == 7);
    pf_fail(PF_EIO, "x");
    CHECK(pf_comm_agree(&engine, PF_EIO) == PF_EIO && strcmp(pf_last_error(), "x") == 0);
    pf_tensor_release(&t);
    pf_runtime_close(&engine);
}

static void test_two_ranks(void) {
    pf_engine engine = engine_of(1, NULL);
    pair p = {.comm = {.ranks = 2, .sum = pair_sum, .agree = pair_agree}};
    pf_tensor *t[2] = {counted(&engine, 2, 3), counted(&engine, 1, 4)}, *turned;
    engine.comm = &p.comm;
    CHECK_OK(pf_comm_sum(&engine, t, 2));
    CHECK(pf_f32(t[0])[5] == 15 && pf_f32(t[1])[0] == 10 && p.sums == 2);
    turned = transposed(t[0]);
    CHECK_FAILS(PF_EINVAL, pf_comm_sum(&engine, &turned, 1));
    CHECK(pf_comm_agree(&engine, PF_OK) == PF_OK);
    pf_fail(PF_EIO, "the disk is full");
    CHECK(pf_comm_agree(&engine, PF_EIO) == PF_EIO);
    CHECK(strcmp(pf_last_error(), "rank 0 of 2: the disk is full") == 0);
    p.status = PF_ENOMEM;
    CHECK_FAILS(PF_ENOMEM, pf_comm_agree(&engine, PF_OK));
    CHECK(strcmp(pf_last_error(), "rank 1 of 2: no room") == 0);
    engine.comm = NULL;
    pf_tensor_release(&t[0]), pf_tensor_release(&t[1]), pf_tensor_release(&turned);
    pf_runtime_close(&engine);
}

int main(void) {
    test_one_rank();
    test_two_ranks();
    return CHECK_REPORT();
}
