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

static void set_legs(pf_comm *comm, pf_verb verb, const pf_message *out, int n_out,
                     const pf_message *in, int n_in) {
    for (int i = 0; i < n_out + n_in; i++) {
        pf_leg *leg = &comm->leg[i];
        leg->out = i < n_out;
        leg->message = leg->out ? out[i] : in[i - n_out];
        leg->tag = tag_of(comm->leg, i);
        leg->ticket = -1;
        leg->at = PF_LEG_HEAD;
        leg->fails = false;
        leg->moved = 0;
        leg->head = (pf_message_head){comm->number, (uint32_t)comm->step,
                                      (uint64_t)verb << VERB_AT | leg->message.bytes};
    }
}

static int post(pf_comm *comm, pf_leg *leg, void *data, size_t bytes) {
    pf_transport *t = comm->transport;
    int bad = leg->out
                  ? t->send(t->self, leg->message.rank, leg->tag, data, bytes, &leg->ticket)
                  : t->receive(t->self, leg->message.rank, leg->tag, data, bytes, &leg->ticket);
    if (!bad) return PF_OK;
    leg->ticket = -1;
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

/* A head has come: is it of this verb, and as long as it was expected? */
static int check_head(pf_comm *comm, pf_leg *leg, pf_verb verb) {
    const pf_message_head *head = &leg->head;
    const char *name = pf_comm_name(comm, leg->message.rank);
    uint64_t theirs = head->body >> VERB_AT, bytes = head->body & (((uint64_t)1 << VERB_AT) - 1);
    if (head->number != comm->number && __builtin_bswap32(head->number) == comm->number) {
        return pf_fail(PF_EINVAL, "%s has the other byte order than %s: ranks are of one kind",
                       name, pf_comm_name(comm, comm->rank));
    }
    if (theirs == PF_VERB_FAILURE && expect_note(comm, leg, bytes)) return PF_OK;
    if (head->number != comm->number || theirs != (uint64_t)verb) {
        return pf_fail(PF_ESTATE,
                       "ranks out of step: %s is at %s %u of step %u, %s at %s %u of step %u", name,
                       theirs < PF_VERBS ? NAMES[theirs] : "nothing known", (unsigned)head->number,
                       (unsigned)head->step, pf_comm_name(comm, comm->rank), NAMES[verb],
                       (unsigned)comm->number, (unsigned)(uint32_t)comm->step);
    }
    if (bytes == leg->message.bytes) return PF_OK;
    return pf_fail(PF_ESTATE, "ranks out of step: %s sends %llu bytes in %s %u, not %zu", name,
                   (unsigned long long)bytes, NAMES[verb], (unsigned)comm->number,
                   leg->message.bytes);
}

/* The next piece of a body, or its end. */
static int post_body(pf_comm *comm, pf_leg *leg) {
    size_t left = leg->message.bytes - leg->moved;
    size_t bytes = left < comm->piece ? left : comm->piece;
    char *data = (char *)leg->message.data + leg->moved;
    leg->at = left ? PF_LEG_BODY : PF_LEG_DONE;
    leg->moved += bytes;
    return left ? post(comm, leg, data, bytes) : PF_OK;
}

/* Moves a leg on by one thing at most; 1: it has moved, 0: it still waits. */
static int move(pf_comm *comm, pf_leg *leg, pf_verb verb) {
    if (leg->at == PF_LEG_DONE) return 0;
    if (leg->at == PF_LEG_HEAD && leg->ticket < 0 && leg->moved == 0) {
        PF_TRY(post(comm, leg, &leg->head, sizeof leg->head));
        return 1;
    }
    int done = 0, bad = comm->transport->test(comm->transport->self, leg->ticket, &done);
    if (bad) {
        return pf_fail(PF_EIO, "%s: the transport (%s) failed with %d in %s %u of step %llu",
                       pf_comm_name(comm, leg->message.rank), comm->transport->name, bad,
                       NAMES[verb], (unsigned)comm->number, (unsigned long long)comm->step);
    }
    if (!done) return 0;
    leg->ticket = -1;
    if (leg->at == PF_LEG_HEAD && !leg->out) PF_TRY(check_head(comm, leg, verb));
    PF_TRY(post_body(comm, leg));
    return leg->fails && leg->at == PF_LEG_DONE ? tell_note(comm) : 1;
}

/* ---- the round ---- */

/* Whom we wait for: who owes an answer, before who takes none. */
static const char *whom(const pf_comm *comm, int n) {
    const pf_leg *late = comm->leg;
    for (int i = 0; i < n; i++) {
        const pf_leg *leg = &comm->leg[i];
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
static int too_late(const pf_comm *comm, int n, pf_verb verb) {
    if (verb == PF_VERB_GREET) {
        return pf_fail(PF_EIO,
                       "no answer from %s for %g s to the greeting: if hosts have networks that "
                       "the others don't reach (docker0, virbr0), name the one that they do: "
                       "OMPI_MCA_btl_tcp_if_include=eth0",
                       whom(comm, n), comm->timeout);
    }
    return pf_fail(PF_EIO, "no answer from %s for %.3g s in %s %u of step %llu", whom(comm, n),
                   patience(comm), NAMES[verb], (unsigned)comm->number,
                   (unsigned long long)comm->step);
}

/* Said once a wait, long before it is given up. */
static bool tell_wait(const pf_engine *engine, int n, pf_verb verb, double waited) {
    const pf_comm *comm = engine->comm;
    if (waited < comm->timeout / 6) return false;
    pf_log(engine, PF_LOG_WARN, "ranks: waiting for %s for %.3g s in %s %u of step %llu",
           whom(comm, n), waited, NAMES[verb], (unsigned)comm->number,
           (unsigned long long)comm->step);
    return true;
}

static int move_all(pf_engine *engine, int n, pf_verb verb) {
    pf_comm *comm = engine->comm;
    double start = pf_clock();
    bool told = false;
    for (int turn = 0;; turn++) {
        int left = 0, moved = 0;
        for (int i = 0; i < n; i++) {
            int status = move(comm, &comm->leg[i], verb);
            PF_TRY(status);
            moved |= status;
            left += comm->leg[i].at != PF_LEG_DONE;
        }
        double now = pf_clock();
        if (moved || left == 0) comm->waited += now - start;
        if (left == 0) return PF_OK;
        if (moved) {
            start = now, turn = 0, told = false;
            continue;
        }
        if (!told) told = tell_wait(engine, n, verb, now - start);
        if (now - start > patience(comm)) return too_late(comm, n, verb);
        pf_comm_pause(start, turn);
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

int pf_comm_exchange(pf_engine *engine, pf_verb verb, const pf_message *out, int n_out,
                     const pf_message *in, int n_in) {
    pf_comm *comm = engine->comm;
    set_legs(comm, verb, out, n_out, in, n_in);
    int status = move_all(engine, n_out + n_in, verb);
    comm->hops = 0;
    if (status >= 0) return PF_OK;
    pf_comm_break(comm, status);
    if (comm->held > 0) {
        pf_log(engine, PF_LOG_WARN,
               "ranks: %d messages are still under way in %s, and what they read or write must "
               "stay: end this process soon",
               comm->held, comm->transport->name);
    }
    return status;
}
