/*
 * run.c - the door of the linear-attention operator: a filled pf_operator runs, forward or
 * backward, over all segments and heads.
 *
 * A task is one key head of one segment, with full.c's or causal.c's schedule. Few tasks would
 * leave threads idle, so then one head's blocks are spread over them (wave.c), with the same bits.
 */
#include "operator.h"

/* Where tasks are many, or come out even, each is best left to one thread. */
static bool wave_wanted(const pf_operator *op) {
    int64_t tasks = pf_work_tasks(op), threads = op->engine->threads;
    int64_t blocks = tasks * pf_ceil_div(pf_max(op->Lq, op->Lk), op->block);
    if (threads < 2 || tasks < 1 || op->Lq < 1 || op->Lk < 1) return false;
    if (tasks >= 4 * threads || tasks % threads == 0) return false;
    return blocks >= 4 * threads;
}

int pf_linear_run(pf_operator *op, bool backward) {
    static const pf_task_fn run[2][2] = {{pf_full_forward, pf_full_backward},
                                         {pf_causal_forward, pf_causal_backward}};
    if (wave_wanted(op)) return pf_wave_run(op, backward);
    return pf_parallel(op->engine, pf_work_tasks(op), pf_work_bytes(op, backward),
                       run[op->causal][backward], op);
}
