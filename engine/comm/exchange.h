/*
 * exchange.h - one round of messages between ranks: what all verbs are made of. Each message has a
 * head that says which verb it belongs to and how its sender fares.
 */
#ifndef PF_EXCHANGE_H
#define PF_EXCHANGE_H

#include "comm.h"

/* A message to or from a rank; several of one pair are told apart by their order. */
typedef struct {
    int rank;
    void *data; /* sent: not written to */
    size_t bytes;
} pf_message;

typedef enum {
    PF_VERB_GREET,
    PF_VERB_VOTE,
    PF_VERB_SHARE,
    PF_VERB_COLLECT,
    PF_VERB_SUM,
    PF_VERB_CLOSE,
    PF_VERB_SCAN,
    PF_VERB_PASS,
    PF_VERB_FAILURE, /* of a rank that comes to no verb any more; heard at any */
    PF_VERBS
} pf_verb;

/* What such a rank says. */
typedef struct {
    int32_t status;
    char text[PF_COMM_TEXT];
} pf_comm_note;

/* The same in all versions, so that ranks of two of them understand why they can't talk. */
typedef struct {
    uint32_t number; /* of the verb, since the comm was opened; a greeting's is 1 */
    uint32_t step;   /* its low half */
    uint64_t body;   /* bytes that follow; the verb in the highest eight bits */
} pf_message_head;

/* A message on its way. */
typedef struct {
    pf_message message;
    bool out, fails; /* fails: its rank says a failure in place of it */
    bool posted;     /* its head */
    int tag, ticket; /* ticket -1: nothing is under way */
    int body;        /* of a body that went with its head; -1: none */
    enum { PF_LEG_HEAD, PF_LEG_BODY, PF_LEG_DONE } at;
    size_t moved;   /* bytes of the body that have been posted */
    uint32_t place; /* of a round beside: the how manieth of its tag */
    pf_message_head head;
} pf_leg;

/* Messages that belong together, both ways. Rounds that are under way at the same time have other
 * tags; their heads another number than any that may be taken for them. */
typedef struct pf_round {
    pf_leg *leg;
    int n, tags; /* tags: their first; each pair of ranks has as many as it has messages one way */
    pf_verb verb;
    uint32_t number;
    bool at_once;  /* bodies go with their heads; then no failure can come in place of them */
    bool held;     /* the talk has closed, and the transport may still have some of it */
    bool discards; /* whatever comes is as good, up to the length of the message */
} pf_round;

/* ---- rounds that go on beside others (scatter.c, drain.c) ---- */

enum {
    PF_SIDE_ROUNDS = 8,      /* at a time */
    PF_SIDE_PIECE = 1 << 16, /* numbers of a message at most */
    PF_SIDE_PAIR = 32,       /* messages of a round from one rank to another */
    PF_SIDE_TAGS = PF_SIDE_ROUNDS * PF_SIDE_PAIR,
    PF_SIDE_FIRST = 1 << 13, /* tag: above those of other rounds, below those of groups */
    PF_SIDE_TALKS = 16       /* so many votes that fail, one after the other, have other tags */
};

/* Of one other rank, for each tag: messages to it that were begun, those from it that are awaited
 * or have come, and at a drain what it has sent. */
typedef struct {
    uint32_t sent[PF_SIDE_TAGS], awaited[PF_SIDE_TAGS], theirs[PF_SIDE_TAGS];
} pf_beside_count;

typedef struct {
    int (*turn)(void *context, const struct pf_round **left); /* NULL: nothing goes on */
    void *context;
    struct pf_round *round[PF_SIDE_ROUNDS]; /* that are under way, or NULL */
    uint32_t rounds;            /* so many were begun since the vote that failed last, when */
    uint32_t since;             /* so many had failed */
    bool spoiled;               /* some of them were given up, and others don't know it */
    pf_beside_count *count;     /* of each rank */
    float *waste;               /* PF_SIDE_PIECE numbers that nobody needs */
    void *left;                 /* whose memory those that were given up still use, or NULL; */
    void (*let_go)(void *left); /* called when nothing of them is under way any more */
} pf_beside;

/* Moves messages on, as pf_round_move does. *left: one of the rounds that are not whole yet; it
 * stays as it is where there is none. */
typedef int (*pf_turn_fn)(void *context, const pf_round **left);

/* As pf_comm_info has it. */
typedef struct {
    int local_rank, local_ranks, hosts, cpus, cpus_free;
} pf_comm_place;

struct pf_comm {
    pf_transport *transport;
    int rank, ranks;
    double timeout, waited;
    double least; /* seconds that a wait lasts at least: pf_comm_patience */
    int hops; /* of a message that is awaited: ranks that may have to wait first for its sender's */
    size_t piece;            /* bytes of a message at most: PF_TRANSPORT_PIECE */
    uint32_t number;         /* of the last vote, with which every verb begins */
    uint32_t failed;         /* of the last one that failed ... */
    char said[PF_COMM_TEXT]; /* ... and what all heard then */
    uint32_t failures;       /* votes that have failed */
    uint64_t step;
    int broken; /* < 0: the status of every verb from now on, with the message `why` */
    int held;   /* messages that the transport could not give up then, and their memory */
    char why[2 * PF_COMM_TEXT];
    pf_comm_note note;               /* that comes from a rank that has failed */
    char warnings[4 * PF_COMM_TEXT]; /* what ranks found out of each other, a line each */
    pf_comm_place place;
    char (*host)[PF_COMM_HOST]; /* of each rank */
    pf_leg *leg;
    int64_t n_legs; /* room */
    float *room;    /* pf_comm_room_for */
    int64_t n_room;
    pf_beside beside;
    int row_ranks;       /* ranks that share a row: all, or those of a group */
    struct pf_comm *row; /* their talk (group.c); NULL: one rank has its row alone */
    int talks;           /* of such there were so many, modulo TALKS; in their tags */
    int first, of; /* in names, of such a talk: its first rank of so many; of 0: they are all */
    bool told;     /* it has ended by a failure that its ranks tell each other of */
    bool passed;   /* this one has told all others */
    bool known;    /* the rank whose failure it is stands in the message */
};

/* Room for so many messages of a round, and in comm->room for numbers on their way: before the
 * ranks agree. Of a talk that is over nothing moves: its transport may still write there. */
int pf_comm_room(pf_engine *engine, int n);
int pf_comm_room_for(pf_engine *engine, int64_t numbers);

/* The order in which a round that has messages to all goes from rank to rank, far from 1 on: each
 * begins with the next one, so that no two begin with the same. */
static inline int pf_comm_next(const pf_comm *comm, int far) {
    return (comm->rank + far) % comm->ranks;
}

/* Sends and receives all of these and returns when they have gone and come; there is room for them,
 * and all ranks have agreed to come here. A failure breaks the talk. */
int pf_comm_exchange(pf_engine *engine, pf_verb verb, const pf_message *out, int n_out,
                     const pf_message *in, int n_in);

/* The parts of an exchange, for rounds that others do something beside. Of a round whose legs,
 * verb, number and tags are set: begins it; moves it on, and tells whether it is whole, 1:
 * something has moved, 0: nothing, < 0: a failure. And waits, turn by turn, as long as one names a
 * round that is not whole, with the deadline of every wait. */
void pf_round_begin(pf_comm *comm, pf_round *round, const pf_message *out, int n_out,
                    const pf_message *in, int n_in);
int pf_round_move(pf_comm *comm, pf_round *round, bool *whole);
int pf_round_wait(pf_engine *engine, pf_turn_fn turn, void *context);
/* What a failed round means: the talk is over. Returns the status. */
int pf_round_fail(pf_engine *engine, int status);

/* ---- drain.c ---- */
int pf_beside_open(pf_engine *engine);
void pf_beside_close(pf_engine *engine, pf_comm *comm);
/* Rounds are counted anew when so many votes have failed. */
void pf_beside_count_since(pf_comm *comm, uint32_t failures);
/* Behind a vote that failed, where rounds went on beside it on some rank: takes in what others have
 * sent since the one that failed before, so that nothing is under way any more. A verb; the talk is
 * over where it fails. */
void pf_beside_drain(pf_engine *engine);

/* This talk is over: `status` and the message that stands are what every verb says from now on,
 * and messages under way are given up. Without ranks there is none. Returns the status. */
int pf_comm_break(pf_comm *comm, int status);
/* "rank 2 of 4 on node7", in a thread-local buffer: good for two in a message. */
const char *pf_comm_name(const pf_comm *comm, int rank);

/* Everybody's to everybody, in one round: bytes[r] of rank r, one behind the other in `all`. In
 * list and the legs is room for twice the ranks. */
int pf_comm_swap(pf_engine *engine, pf_verb verb, const void *own, const size_t *bytes, char *all,
                 pf_message *list);

/* The vote that nothing follows: all have come to close. */
int pf_comm_vote_last(pf_engine *engine);

/* ---- hello.c ---- */
/* The first words of a talk: names and versions, and what the ranks must know of each other to have
 * the same bits; sets host, place and warnings. A failure is the same on all ranks, or the end of
 * the talk. */
int pf_comm_greet(pf_engine *engine, const char *host);
/* Of a rank that a launcher has started alone, and so has no others to ask: is it bound to a core
 * that all its threads share? Logged. */
void pf_comm_mind_binding(const pf_engine *engine);

/* One turn of waiting since `start` (pf_clock), the `turn`-th without progress: spins for a moment,
 * then sleeps, so that a rank that waits burns no core that another needs. */
void pf_comm_pause(double start, int turn);

#endif
