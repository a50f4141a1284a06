/*
 * ranks.h - ranks in one process: threads with an engine each, and a transport between them that
 * does as a script says: messages that are late or lost, ranks that die, and memory that is written
 * to as soon as a message comes, as network cards do.
 *
 *   ranks_run(&world, fn, context)     fn(engine, rank, context) on each of world.ranks threads
 */
#ifndef PF_TEST_RANKS_H
#define PF_TEST_RANKS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "check.h"
#include "comm.h"

enum { RANKS_MOST = 128, RANKS_TICKETS = 1 << 14 };

typedef struct ranks_letter {
    struct ranks_letter *next;
    bool *taken; /* of the sender that waits for that; or NULL */
    int tag;
    size_t bytes;
    double due;
    char data[];
} ranks_letter;

typedef struct {
    bool used, receives, came;
    int from, tag, bad;
    long order; /* in which they were posted */
    void *data;
    size_t bytes;
} ranks_ticket;

typedef struct ranks_world ranks_world;
typedef struct {
    ranks_world *world;
    pf_transport transport;
    ranks_ticket ticket[RANKS_TICKETS];
    int rank, next, sent;
    long posted;
    pthread_t thread;
} ranks_end;

struct ranks_world {
    int ranks, threads; /* of each engine */
    bool whole;         /* engines with all floors, not the runtime alone */
    double timeout;
    /* The script: seconds that messages take at most, by their number; the rank that dies when it
     * has sent so many (from then on it neither sends nor hears), and one whose letter is lost. */
    double late;
    int dies, dies_at, loses, loses_at;
    void (*twist)(const ranks_end *from, char *data, size_t bytes); /* falsifies messages */
    pf_log_fn log;                                                  /* its context: the end */
    bool meets;                    /* a message has gone when it is taken in, as long ones are */
    bool direct;                   /* a message goes to where it is awaited, though nobody looks */
    const char *hosts[RANKS_MOST]; /* NULL: "here" */
    int bound;                     /* 1 + the rank that may use one processor only */
    pf_cpu cpu[RANKS_MOST];        /* 0: the best */
    bool own_cpu;
    const pf_workers *workers[RANKS_MOST]; /* NULL: threads of the engine's own */
    const void *cancel[RANKS_MOST];
    const pf_allocator *memory[RANKS_MOST]; /* NULL: the C library's; else no freed block is kept */
    /* inside */
    pthread_mutex_t lock;
    ranks_letter *post[RANKS_MOST][RANKS_MOST]; /* from, to */
    ranks_end *end[RANKS_MOST];
    atomic_int aborted, closed, given_up; /* given_up: tickets */
    int (*fn)(pf_engine *engine, int rank, void *context);
    void *context;
    int status[RANKS_MOST];     /* what comes back: of opening, or of fn */
    char text[RANKS_MOST][512]; /* and its message */
};

static bool ranks_dead(const ranks_end *end) {
    const ranks_world *w = end->world;
    return end->rank == w->dies && w->dies_at > 0 && end->sent >= w->dies_at;
}

static int ranks_take_ticket(ranks_end *end, ranks_ticket ticket) {
    for (int i = 0; i < RANKS_TICKETS; i++) {
        int at = (end->next + i) % RANKS_TICKETS;
        if (end->ticket[at].used) continue;
        end->ticket[at] = ticket;
        end->ticket[at].order = end->posted++;
        end->next = at + 1;
        return at;
    }
    return -1;
}

/* Is another awaited by the same pair and tag, and has been for longer? */
static bool ranks_is_behind(const ranks_end *end, const ranks_ticket *t) {
    for (int i = 0; i < RANKS_TICKETS; i++) {
        const ranks_ticket *o = &end->ticket[i];
        if (o->used && o->receives && !o->came && o->from == t->from && o->tag == t->tag &&
            o->order < t->order)
            return true;
    }
    return false;
}

/* The first letter of the pair with this tag, once it is due, goes to where it is awaited. Under
 * the lock. */
static void ranks_deliver(ranks_end *end, ranks_ticket *t) {
    if (!t->used || !t->receives || t->came) return;
    ranks_letter **at = &end->world->post[t->from][end->rank];
    while (*at && (*at)->tag != t->tag) at = &(*at)->next;
    ranks_letter *letter = *at;
    if (!letter || letter->due > pf_clock() || ranks_is_behind(end, t)) return;
    t->came = true;
    t->bad = letter->bytes != t->bytes;
    if (!t->bad && t->bytes) memcpy(t->data, letter->data, t->bytes);
    *at = letter->next;
    if (letter->taken) *letter->taken = true;
    free(letter);
}

/* Later by a number that the sender and its count give, so that letters overtake each other's pairs
 * in an order that is the same every time. */
static double ranks_delay(const ranks_end *end) {
    uint32_t mixed = (uint32_t)(end->sent * 2654435761u) ^ (uint32_t)(end->rank * 40503u);
    return end->world->late * ((mixed >> 8) % 1000) / 1000;
}

static int ranks_send(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    ranks_end *end = self;
    ranks_world *w = end->world;
    pthread_mutex_lock(&w->lock);
    *ticket = ranks_take_ticket(end, (ranks_ticket){.used = true});
    pthread_mutex_unlock(&w->lock);
    if (*ticket < 0) return 1;
    bool lost = w->loses_at > 0 && end->rank == w->loses && end->sent == w->loses_at;
    if (lost || ranks_dead(end)) {
        end->sent++;
        return 0;
    }
    ranks_letter *letter = malloc(sizeof *letter + bytes);
    *letter = (ranks_letter){.tag = tag, .bytes = bytes, .due = pf_clock() + ranks_delay(end)};
    if (bytes) memcpy(letter->data, data, bytes);
    if (w->twist) w->twist(end, letter->data, bytes);
    end->sent++;
    pthread_mutex_lock(&w->lock);
    ranks_letter **last = &w->post[end->rank][to];
    while (*last) last = &(*last)->next;
    *last = letter;
    if (w->meets) letter->taken = &end->ticket[*ticket].came;
    if (w->direct)
        for (int i = 0; i < RANKS_TICKETS; i++) ranks_deliver(w->end[to], &w->end[to]->ticket[i]);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static int ranks_receive(void *self, int from, int tag, void *data, size_t bytes, int *ticket) {
    ranks_end *end = self;
    pthread_mutex_lock(&end->world->lock);
    *ticket = ranks_take_ticket(end, (ranks_ticket){.used = true,
                                                    .receives = true,
                                                    .from = from,
                                                    .tag = tag,
                                                    .data = data,
                                                    .bytes = bytes});
    pthread_mutex_unlock(&end->world->lock);
    return *ticket < 0;
}

static int ranks_test(void *self, int ticket, int *done) {
    ranks_end *end = self;
    ranks_ticket *t = &end->ticket[ticket];
    pthread_mutex_lock(&end->world->lock);
    if (!ranks_dead(end)) ranks_deliver(end, t);
    *done = t->came || !(t->receives || end->world->meets);
    if (*done) t->used = false;
    pthread_mutex_unlock(&end->world->lock);
    return *done && t->receives && t->bad;
}

static int ranks_cancel(void *self) {
    ranks_end *end = self;
    pthread_mutex_lock(&end->world->lock);
    for (int to = 0; to < end->world->ranks; to++)
        for (ranks_letter *l = end->world->post[end->rank][to]; l; l = l->next) l->taken = NULL;
    for (int i = 0; i < RANKS_TICKETS; i++) {
        end->world->given_up += end->ticket[i].used;
        end->ticket[i].used = false;
    }
    pthread_mutex_unlock(&end->world->lock);
    return 0;
}

static void ranks_abort(void *self, int code) { ((ranks_end *)self)->world->aborted = code; }
static void ranks_close(void *self) { ((ranks_end *)self)->world->closed++; }

/* This thread alone. */
static void ranks_bind(bool bind) {
    cpu_set_t all, one;
    if (!bind || sched_getaffinity(0, sizeof all, &all) != 0) return;
    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void *ranks_thread(void *argument) {
    ranks_end *end = argument;
    ranks_world *w = end->world;
    pf_options options = {
        .size = sizeof options, .threads = w->threads ? w->threads : 1, .seed = 21};
    options.workers = w->workers[end->rank], options.cancel = w->cancel[end->rank];
    options.allocator = w->memory[end->rank], options.no_cache = options.allocator != NULL;
    pf_engine runtime = {0}, *engine = &runtime;
    if (w->own_cpu) options.cpu = w->cpu[end->rank];
    if (w->log) options.log = w->log, options.log_context = end;
    int status = w->whole ? pf_engine_open(&engine, &options) : pf_runtime_open(engine, &options);
    const char *host = w->hosts[end->rank] ? w->hosts[end->rank] : "here";
    ranks_bind(w->bound == end->rank + 1);
    if (status >= 0) status = pf_comm_open(engine, &end->transport, w->timeout, host);
    if (status >= 0) status = w->fn(engine, end->rank, w->context);
    w->status[end->rank] = status;
    snprintf(w->text[end->rank], sizeof w->text[0], "%s", status < 0 ? pf_last_error() : "");
    if (w->whole)
        pf_engine_close(&engine);
    else
        pf_runtime_close(engine);
    return NULL;
}

static void ranks_sweep(ranks_world *w) {
    for (int from = 0; from < w->ranks; from++) {
        free(w->end[from]);
        for (int to = 0; to < w->ranks; to++) {
            for (ranks_letter *next, *l = w->post[from][to]; l; l = next) next = l->next, free(l);
            w->post[from][to] = NULL;
        }
    }
    pthread_mutex_destroy(&w->lock);
}

static void ranks_run(ranks_world *w, int (*fn)(pf_engine *, int, void *), void *context) {
    w->fn = fn, w->context = context;
    if (w->timeout <= 0) w->timeout = 20;
    pthread_mutex_init(&w->lock, NULL);
    for (int r = 0; r < w->ranks; r++) {
        ranks_end *end = w->end[r] = calloc(1, sizeof *end);
        end->world = w, end->rank = r;
        end->transport = (pf_transport){.size = sizeof(pf_transport),
                                        .abi = PF_TRANSPORT_ABI,
                                        .self = end,
                                        .name = "threads",
                                        .rank = r,
                                        .ranks = w->ranks,
                                        .send = ranks_send,
                                        .receive = ranks_receive,
                                        .test = ranks_test,
                                        .cancel = ranks_cancel,
                                        .abort = ranks_abort,
                                        .close = ranks_close};
    }
    for (int r = 0; r < w->ranks; r++)
        pthread_create(&w->end[r]->thread, NULL, ranks_thread, w->end[r]);
    for (int r = 0; r < w->ranks; r++) pthread_join(w->end[r]->thread, NULL);
    ranks_sweep(w);
}

#endif
