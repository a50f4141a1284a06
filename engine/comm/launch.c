/*
 * launch.c - the ranks that a launcher has started become an engine's. What must hold: ranks that a
 * launcher has started never train each for itself, in one folder, for want of a transport or since
 * it does not see the others (srun without PMIx: each is rank 0 of 1).
 */
#include <stdlib.h>

#include "exchange.h"

/* A launcher's own number, of the first that there is. Slurm's are those of a step: it names its
 * tasks in a batch script, too, which is none. */
static int number_of(const char *const *names, int n) {
    for (int i = 0; i < n; i++) {
        const char *text = getenv(names[i]);
        if (text && *text) return atoi(text);
    }
    return 0;
}

int pf_comm_launched(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE",
                                        "SLURM_STEP_NUM_TASKS"};
    return number_of(names, PF_COUNT(names));
}

int pf_comm_launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK",
                                        "SLURM_PROCID"};
    return pf_comm_launched() > 1 ? number_of(names, PF_COUNT(names)) : 0;
}

static int check_count(const pf_transport *transport, int launched) {
    if (launched == 0 || transport->ranks == launched) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "ranks: started as %d ranks, but %s sees %d: each would train alone in one "
                   "folder; start them with its own mpirun (Slurm: srun --mpi=pmix)",
                   launched, transport->name, transport->ranks);
}

int pf_comm_launch(pf_engine *engine, const pf_comm_options *options) {
    PF_OPEN(engine);
    pf_comm_options own = PF_COMM_OPTIONS_DEFAULT;
    if (options) PF_TRY(pf_options_take(&own, sizeof own, options, "comm"));
    const int launched = pf_comm_launched();
    pf_transport *transport;
    if (launched == 1) pf_comm_mind_binding(engine);
    if (launched <= 1 && !own.file) return PF_OK;
    if (engine->comm) return pf_fail(PF_ESTATE, "ranks: the engine has some already");
    int status = pf_transport_load(&transport, own.file, own.timeout);
    if (status < 0 && launched > 1) {
        return pf_fail_in(status, "ranks: started as %d ranks, each of which would train alone",
                          launched);
    }
    PF_TRY(status);
    status = check_count(transport, launched);
    if (status < 0) {
        transport->close(transport->self);
        return status;
    }
    return pf_comm_open(engine, transport, own.timeout, NULL);
}
