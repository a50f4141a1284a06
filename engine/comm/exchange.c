/*
 * exchange.c - a round of messages, each its head and then its body, with one deadline for all.
 *
 * What must hold: a round is whole or the talk is over. Nothing in it can fail on one rank alone:
 * the room for legs is there before the ranks agree to begin, and no cancel or limit ends a wait,
 * which the timeout bounds: whoever was stopped says so at the next vote, and then all stop.
 */
#include "exchange.h"

#include <math.h>
#include <stdio.h>

static const char *const NAMES[PF_VERBS] = {"greeting", "vote", "share", "collect", "sum",
                                            "close",    "scan", "pass",  "failure"};
enum { VERB_AT = 56 }; /* its bits in a head */

const char *pf_comm_name(const pf_comm *comm, int rank) {
    static _Thread_local char names[2][PF_COMM_HOST + 64];
    static _Thread_local int next;
    char *name = names[next++ & 1];
    const char *host = comm->host[rank];
    snprintf(name, sizeof names[0], "rank %d of %d%s%s", comm->first + rank,
             comm->of ? comm->of : comm->ranks, host[0] ? " on " : "", host);
    return name;
}

int pf_comm_break(pf_comm *comm, int status) {
    if (!comm || comm->broken < 0) return status;
    comm->broken = status;
    snprintf(comm->why, sizeof comm->why, "%s", pf_message_marked());
    comm->held = comm->transport->cancel(comm->transport->self);
    return status;
}

/* ---- legs ---- */

/* How many legs before this one are of the same pair and way: both ends count alike. */
static int tag_of(const pf_leg *legs, int i) {
    int tag = 0;
    for (int j = 0; j < i; j++)
        tag += legs[j].out == legs[i].out && legs[j].message.rank == legs[i].message.rank;
    return tag;
}

void pf_round_begin(pf_comm *comm, pf_round *round, const pf_message *out, int n_out,
                    const pf_message *in, int n_in) {
    round->n = n_out + n_in;
    for (int i = 0; i < round->n; i++) {
        pf_leg *leg = &round->leg[i];
        *leg = (pf_leg){.out = i < n_out, .ticket = -1, .body = -1, .at = PF_LEG_HEAD};
        leg->message = leg->out ? out[i] : in[i - n_out];
        leg->tag = round->tags + tag_of(round->leg, i);
        leg->head = (pf_message_head){round->number, (uint32_t)comm->step,
                                      (uint64_t)round->verb << VERB_AT | leg->message.bytes};
    }
}

static int post(pf_comm *comm, pf_leg *leg, void *data, size_t bytes, int *ticket) {
    pf_transport *t = comm->transport;
    int bad = leg->out ? t->send(t->self, leg->message.rank, leg->tag, data, bytes, ticket)
                       : t->receive(t->self, leg->message.rank, leg->tag, data, bytes, ticket);
    if (!bad) return PF_OK;
    *ticket = -1;
    return pf_fail(PF_EIO, "%s: %s failed with %d", pf_comm_name(comm, leg->message.rank),
                   leg->out ? "sending to it" : "receiving from it", bad);
}

/* What comes in place of a message is why it does not. */
static bool expect_note(pf_comm *comm, pf_leg *leg, uint64_t bytes) {
    if (comm->note.status < 0 || bytes != sizeof comm->note) return false;
    comm->note.status = PF_EIO; /* until it is here */
    leg->message.data = &comm->note, leg->message.bytes = sizeof comm->note;
    return leg->fails = true;
}

static int tell_note(pf_comm *comm) {
    pf_comm_note *note = &comm->note;
    note->text[sizeof note->text - 1] = 0;
    comm->told = comm->known = true;
    return pf_fail(note->status < 0 ? note->status : PF_EIO, "%s", note->text);
}

typedef char where_text[64];

/* Where a rank is: "vote 3 of step 12"; step 0 is before the first, or of ranks that don't say. */
static const char *place_of(where_text text, uint64_t verb, uint32_t number, uint64_t step) {
    const char *name = verb < PF_VERBS ? NAMES[verb] : "nothing known";
    int at = snprintf(text, sizeof(where_text), "%s %u", name, (unsigned)number);
    if (step)
        snprintf(text + at, sizeof(where_text) - (size_t)at, " of step %llu",
                 (unsigned long long)step);
    return text;
}

/* A head has come: is it of this verb, and as long as it was expected? */
static int check_head(pf_comm *comm, const pf_round *round, pf_leg *leg) {
    const pf_verb verb = round->verb;
    const pf_message_head *head = &leg->head;
    const char *name = pf_comm_name(comm, leg->message.rank);
    uint64_t theirs = head->body >> VERB_AT, bytes = head->body & (((uint64_t)1 << VERB_AT) - 1);
    if (head->number != round->number && __builtin_bswap32(head->number) == round->number) {
        return pf_fail(PF_EINVAL, "%s has the other byte order than %s: ranks are of one kind",
                       name, pf_comm_name(comm, comm->rank));
    }
    if (round->discards && bytes <= leg->message.bytes) {
        leg->message.bytes = bytes;
        return PF_OK;
    }
    if (theirs == PF_VERB_FAILURE && expect_note(comm, leg, bytes)) return PF_OK;
    if (head->number != round->number || theirs != (uint64_t)verb) {
        where_text its, own;
        return pf_fail(PF_ESTATE, "ranks out of step: %s is at %s, %s at %s", name,
                       place_of(its, theirs, head->number, head->step),
                       pf_comm_name(comm, comm->rank),
                       place_of(own, verb, round->number, comm->step));
    }
    if (bytes == leg->message.bytes) return PF_OK;
    return pf_fail(PF_ESTATE, "ranks out of step: %s sends %llu bytes in %s %u, not %zu", name,
                   (unsigned long long)bytes, NAMES[verb], (unsigned)round->number,
                   leg->message.bytes);
}

/* The next piece of a body, or its end. */
static int post_body(pf_comm *comm, pf_leg *leg, int *ticket) {
    size_t left = leg->message.bytes - leg->moved;
    size_t bytes = left < comm->piece ? left : comm->piece;
    char *data = (char *)leg->message.data + leg->moved;
    leg->moved += bytes;
    return left ? post(comm, leg, data, bytes, ticket) : PF_OK;
}

/* A round that nobody waits at has its bodies under way with the heads: a turn less for each. */
static int post_head(pf_comm *comm, const pf_round *round, pf_leg *leg) {
    leg->posted = true;
    PF_TRY(post(comm, leg, &leg->head, sizeof leg->head, &leg->ticket));
    return round->at_once ? post_body(comm, leg, &leg->body) : PF_OK;
}

/* What is behind a head or a piece that has gone or come. */
static int go_on(pf_comm *comm, pf_leg *leg) {
    leg->ticket = leg->body;
    leg->body = -1;
    if (leg->ticket < 0) PF_TRY(post_body(comm, leg, &leg->ticket));
    leg->at = leg->ticket < 0 ? PF_LEG_DONE : PF_LEG_BODY;
    return PF_OK;
}

/* Moves a leg on by one thing at most; 1: it has moved, 0: it still waits. */
static int move(pf_comm *comm, const pf_round *round, pf_leg *leg) {
    if (leg->at == PF_LEG_DONE) return 0;
    if (!leg->posted) {
        PF_TRY(post_head(comm, round, leg));
        return 1;
    }
    int done = 0, bad = comm->transport->test(comm->transport->self, leg->ticket, &done);
    if (bad) {
        where_text place;
        return pf_fail(PF_EIO, "%s: the transport (%s) failed with %d in %s",
                       pf_comm_name(comm, leg->message.rank), comm->transport->name, bad,
                       place_of(place, round->verb, round->number, comm->step));
    }
    if (!done) return 0;
    if (leg->at == PF_LEG_HEAD && !leg->out) PF_TRY(check_head(comm, round, leg));
    PF_TRY(go_on(comm, leg));
    return leg->fails && leg->at == PF_LEG_DONE ? tell_note(comm) : 1;
}

int pf_round_move(pf_comm *comm, pf_round *round, bool *whole) {
    int moved = 0;
    *whole = true;
    for (int i = 0; i < round->n; i++) {
        int status = move(comm, round, &round->leg[i]);
        PF_TRY(status);
        moved |= status;
        *whole &= round->leg[i].at == PF_LEG_DONE;
    }
    return moved;
}

/* ---- waiting for a round ---- */

/* Whom we wait for: who owes an answer, before who takes none. */
static const char *whom(const pf_comm *comm, const pf_round *round) {
    const pf_leg *late = round->leg;
    for (int i = 0; i < round->n; i++) {
        const pf_leg *leg = &round->leg[i];
        if (leg->at == PF_LEG_DONE) continue;
        if (late->at == PF_LEG_DONE || (late->out && !leg->out)) late = leg;
    }
    return pf_comm_name(comm, late->message.rank);
}

/* Who is nearest to a rank that is lost gives up first, and so it is this rank that is named. */
static double patience(const pf_comm *comm) {
    return fmax(comm->least, comm->timeout) * (1 + comm->hops / 16.0);
}

/* The first messages of all are where hosts turn out not to reach each other. */
static int too_late(const pf_comm *comm, const pf_round *round) {
    if (round->verb == PF_VERB_GREET) {
        return pf_fail(PF_EIO,
                       "no answer from %s for %g s to the greeting: if hosts have networks that "
                       "the others don't reach (docker0, virbr0), name the one that they do: "
                       "OMPI_MCA_btl_tcp_if_include=eth0",
                       whom(comm, round), comm->timeout);
    }
    where_text place;
    return pf_fail(PF_EIO, "no answer from %s for %.3g s in %s", whom(comm, round), patience(comm),
                   place_of(place, round->verb, round->number, comm->step));
}

/* Said once a wait, long before it is given up. */
static bool tell_wait(const pf_engine *engine, const pf_round *round, double waited) {
    const pf_comm *comm = engine->comm;
    if (waited < comm->timeout / 6) return false;
    where_text place;
    pf_log(engine, PF_LOG_WARN, "ranks: %s has waited for %s for %.3g s in %s",
           pf_comm_name(comm, comm->rank), whom(comm, round), waited,
           place_of(place, round->verb, round->number, comm->step));
    return true;
}

int pf_round_wait(pf_engine *engine, pf_turn_fn turn, void *context) {
    pf_comm *comm = engine->comm;
    double start = pf_clock();
    bool told = false;
    for (int n = 0;; n++) {
        const pf_round *left = NULL;
        int moved = turn(context, &left);
        PF_TRY(moved);
        double now = pf_clock();
        if (moved || !left) comm->waited += now - start;
        if (!left) return PF_OK;
        if (moved) {
            start = now, n = 0, told = false;
            continue;
        }
        if (!told) told = tell_wait(engine, left, now - start);
        if (now - start > patience(comm)) return too_late(comm, left);
        pf_comm_pause(start, n);
    }
}

/* Where a talk has ended, what its transport still holds stays where it is. */
static int still_talk(const pf_comm *comm) {
    return comm->broken < 0 ? pf_fail(comm->broken, "%s", comm->why) : PF_OK;
}

int pf_comm_room(pf_engine *engine, int n) {
    pf_comm *comm = engine->comm;
    void *legs = comm->leg;
    PF_TRY(still_talk(comm));
    int status = pf_heap_grow(engine->heap, &legs, &comm->n_legs, n, sizeof *comm->leg);
    comm->leg = legs;
    return status;
}

int pf_comm_room_for(pf_engine *engine, int64_t numbers) {
    pf_comm *comm = engine->comm;
    void *room = comm->room;
    PF_TRY(still_talk(comm));
    int status = pf_heap_grow(engine->heap, &room, &comm->n_room, numbers, sizeof *comm->room);
    comm->room = room;
    return status;
}

typedef struct {
    pf_comm *comm;
    pf_round round;
} exchange;

/* What goes on beside is no progress of this round, whose deadline is its own. */
static int turn(void *context, const pf_round **left) {
    exchange *x = context;
    const pf_round *beside = NULL;
    bool whole;
    int moved = pf_round_move(x->comm, &x->round, &whole);
    PF_TRY(moved);
    if (!whole) *left = &x->round;
    if (x->comm->beside.turn) PF_TRY(x->comm->beside.turn(x->comm->beside.context, &beside));
    return moved;
}

int pf_comm_exchange(pf_engine *engine, pf_verb verb, const pf_message *out, int n_out,
                     const pf_message *in, int n_in) {
    pf_comm *comm = engine->comm;
    exchange x = {comm, {.leg = comm->leg, .verb = verb, .number = comm->number}};
    pf_round_begin(comm, &x.round, out, n_out, in, n_in);
    int status = pf_round_wait(engine, turn, &x);
    comm->hops = 0;
    return status < 0 ? pf_round_fail(engine, status) : PF_OK;
}

int pf_round_fail(pf_engine *engine, int status) {
    pf_comm *comm = engine->comm;
    pf_comm_break(comm, status);
    if (comm->held > 0) {
        pf_log(engine, PF_LOG_WARN,
               "ranks: %d message%s still under way in %s, and what is read or written by that "
               "must stay: end this process soon",
               comm->held, comm->held == 1 ? " is" : "s are", comm->transport->name);
    }
    return status;
}
