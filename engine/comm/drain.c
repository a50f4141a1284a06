/*
 * drain.c - what is under way beside other rounds when a vote fails: messages that one rank has
 * sent and another will never wait for. A message that is not taken in holds its sender's memory
 * for ever, so all are: the ranks tell each other how many they have sent, each takes in what it
 * has not, and takes back what it awaits in vain.
 */
#include <string.h>

#include "exchange.h"

static size_t count_bytes(const pf_comm *comm) {
    return (size_t)comm->ranks * sizeof(pf_beside_count);
}
static const size_t WASTE = PF_SIDE_PIECE * sizeof(float);

int pf_beside_open(pf_engine *engine) {
    pf_comm *comm = engine->comm;
    comm->beside.count = pf_heap_zalloc(engine->heap, count_bytes(comm));
    comm->beside.waste = pf_heap_alloc(engine->heap, WASTE);
    return comm->beside.count && comm->beside.waste ? PF_OK : PF_ENOMEM;
}

/* Of rounds that were given up nothing is under way, unless the transport still has some of it. */
static void let_go_left(pf_comm *comm) {
    pf_beside *b = &comm->beside;
    void *left = b->left;
    b->left = NULL;
    if (left && comm->held == 0) b->let_go(left);
}

/* The transport may still write to what is waste. */
void pf_beside_close(pf_engine *engine, pf_comm *comm) {
    pf_beside *b = &comm->beside;
    if (b->count) pf_heap_free(engine->heap, b->count, count_bytes(comm));
    if (b->waste && comm->held == 0) pf_heap_free(engine->heap, b->waste, WASTE);
    b->count = NULL, b->waste = NULL;
    let_go_left(comm);
}

/* ---- what goes on here ---- */

typedef struct {
    pf_comm *comm;
    pf_round *more; /* a message that is taken in beside them, or NULL */
} draining;

/* A message that its sender has not begun never comes. */
static bool is_vain(const pf_comm *comm, const pf_leg *leg) {
    const pf_beside_count *count = &comm->beside.count[leg->message.rank];
    return !leg->out && leg->place > count->theirs[leg->tag % PF_SIDE_TAGS];
}

static int turn(void *context, const pf_round **left) {
    draining *d = context;
    int moved = 0;
    bool whole = true;
    for (int i = 0; i < PF_SIDE_ROUNDS; i++) {
        pf_round *round = d->comm->beside.round[i];
        if (!round) continue;
        int status = pf_round_move(d->comm, round, &whole);
        PF_TRY(status);
        moved |= status;
        for (int k = 0; k < round->n && !d->more; k++)
            if (round->leg[k].at != PF_LEG_DONE && !is_vain(d->comm, &round->leg[k])) *left = round;
    }
    if (!d->more) return moved;
    int status = pf_round_move(d->comm, d->more, &whole);
    PF_TRY(status);
    if (!whole) *left = d->more;
    return moved | status;
}

/* ---- what others have sent ---- */

static int tell_counts(pf_engine *engine) {
    pf_comm *comm = engine->comm;
    pf_message out, in;
    for (int away = 1; away < comm->ranks; away++) { /* to the next ones, from those before */
        const int to = pf_comm_next(comm, away);
        const int from = (comm->rank + comm->ranks - away) % comm->ranks;
        out = (pf_message){to, comm->beside.count[to].sent, sizeof comm->beside.count[0].sent};
        in = (pf_message){from, comm->beside.count[from].theirs, out.bytes};
        PF_TRY(pf_comm_exchange(engine, PF_VERB_SUM, &out, 1, &in, 1));
    }
    return PF_OK;
}

/* One that nobody here waits for. */
static int take_in(pf_engine *engine, int from, int tag) {
    pf_comm *comm = engine->comm;
    pf_leg leg;
    pf_round one = {.leg = &leg, .verb = PF_VERB_SUM, .tags = tag, .discards = true};
    draining d = {comm, &one};
    const pf_message in = {from, comm->beside.waste, WASTE};
    pf_round_begin(comm, &one, NULL, 0, &in, 1);
    return pf_round_wait(engine, turn, &d);
}

static int take_all(pf_engine *engine, uint32_t since) {
    pf_comm *comm = engine->comm;
    const int first = PF_SIDE_FIRST + (int)(since % PF_SIDE_TALKS * PF_SIDE_TAGS);
    for (int from = 0; from < comm->ranks; from++) {
        pf_beside_count *c = &comm->beside.count[from];
        for (int i = 0; i < PF_SIDE_TAGS && from != comm->rank; i++)
            for (; c->awaited[i] < c->theirs[i]; c->awaited[i]++)
                PF_TRY(take_in(engine, from, first + i));
    }
    draining d = {comm, NULL};
    return pf_round_wait(engine, turn, &d);
}

void pf_beside_count_since(pf_comm *comm, uint32_t failures) {
    pf_beside *b = &comm->beside;
    if (b->since == failures) return;
    b->rounds = 0, b->since = failures, b->spoiled = false;
    memset(b->count, 0, count_bytes(comm));
}

void pf_beside_drain(pf_engine *engine) {
    pf_comm *comm = engine->comm;
    pf_beside *b = &comm->beside;
    const uint32_t since = comm->failures - 1;
    pf_beside_count_since(comm, since);
    b->turn = NULL, b->context = NULL; /* from here on it is ours to move */
    int status = tell_counts(engine);
    if (status >= 0) status = take_all(engine, since);
    if (status >= 0) comm->held = comm->transport->cancel(comm->transport->self);
    if (status >= 0 && comm->held > 0)
        status = pf_fail(PF_EIO, "sum over ranks: %d messages can't be taken back", comm->held);
    if (status < 0) pf_round_fail(engine, status);
    memset(b->round, 0, sizeof b->round);
    let_go_left(comm);
}
