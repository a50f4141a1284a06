/*
 * talk.c - how a talk between ranks begins and ends. What must hold: what was opened is closed, and
 * nobody waits without an end for those who don't come to either.
 */
#include <stdio.h>

#include "exchange.h"

/* Of another ABI's nothing is called: where its functions lie is not known. */
static int check_abi(const pf_transport *t) {
    if (t->size >= sizeof *t && t->abi == PF_TRANSPORT_ABI) return PF_OK;
    return pf_fail(PF_EINVAL, "comm: the transport has ABI %u, this library %u: build it anew",
                   (unsigned)t->abi, (unsigned)PF_TRANSPORT_ABI);
}

static int check_places(const pf_transport *t) {
    if (t->ranks >= 1 && t->rank >= 0 && t->rank < t->ranks) return PF_OK;
    return pf_fail(PF_EINVAL, "comm: the transport says rank %d of %d", t->rank, t->ranks);
}

/* In one block with the names of the hosts. */
static size_t block_of(int ranks) { return sizeof(pf_comm) + (size_t)ranks * PF_COMM_HOST; }

/* To end a talk well takes all ranks: the last vote is that they have come, and what waits for them
 * without an end (MPI's own) begins when they have. Of a talk that is broken the transport stays as
 * it is; it is asked once more to give up what it held when the talk broke, since the others have
 * had time for their part, and only what it holds then stays, too. */
static void close_with(pf_engine *engine, void *thing) {
    pf_comm *comm = thing;
    if ((comm->beside.turn || comm->beside.left) && comm->broken >= 0)
        comm->held = comm->transport->cancel(comm->transport->self);
    comm->beside.turn = NULL;
    for (int i = 0; i < PF_SIDE_ROUNDS; i++)
        if (comm->beside.round[i]) comm->beside.round[i]->held = comm->held > 0;
    if (comm->broken >= 0 && pf_comm_vote_last(engine) < 0)
        pf_log(engine, PF_LOG_WARN, "ranks: %s", comm->why);
    engine->comm = NULL;
    if (comm->held > 0) comm->held = comm->transport->cancel(comm->transport->self);
    pf_comm_close_row(engine, comm);
    if (comm->broken >= 0) comm->transport->close(comm->transport->self);
    pf_beside_close(engine, comm);
    if (comm->held > 0) return;
    pf_heap_free(engine->heap, comm->leg, (size_t)comm->n_legs * sizeof *comm->leg);
    pf_heap_free(engine->heap, comm->room, (size_t)comm->n_room * sizeof *comm->room);
    pf_heap_free(engine->heap, comm, block_of(comm->ranks));
}

void pf_comm_close(pf_engine *engine) {
    if (engine && engine->comm) pf_engine_own(engine, PF_OWN_RANKS, NULL, NULL);
}

int pf_comm_open(pf_engine *engine, pf_transport *transport, double timeout, const char *host) {
    PF_OPEN(engine);
    PF_NEED(transport);
    PF_TRY(check_abi(transport));
    int status = check_places(transport);
    if (status >= 0 && engine->comm)
        status = pf_fail(PF_ESTATE, "comm: the engine has ranks already");
    pf_comm *comm = status < 0 ? NULL : pf_heap_zalloc(engine->heap, block_of(transport->ranks));
    if (!comm) {
        transport->close(transport->self);
        return status < 0 ? status : PF_ENOMEM;
    }
    comm->transport = transport;
    comm->rank = transport->rank, comm->ranks = transport->ranks;
    comm->timeout = timeout > 0 ? timeout : PF_COMM_TIMEOUT;
    comm->piece = PF_TRANSPORT_PIECE;
    comm->host = (char(*)[PF_COMM_HOST])(comm + 1);
    engine->comm = comm;
    pf_engine_own(engine, PF_OWN_RANKS, comm, close_with);
    status = pf_comm_room(engine, 32 + 2 * comm->ranks); /* of a vote, and of a greeting */
    if (status >= 0) status = pf_beside_open(engine);
    if (status >= 0) status = pf_comm_open_row(engine);
    if (status < 0) pf_comm_break(comm, status); /* closing well would wait for the others */
    if (status >= 0) status = pf_comm_greet(engine, host);
    if (status >= 0) return PF_OK;
    char text[PF_COMM_TEXT * 2];
    snprintf(text, sizeof text, "%s", pf_message_marked());
    pf_comm_close(engine);
    return pf_fail(status, "%s", text);
}
