/*
 * group.c - groups of ranks that share each row (nn/sequence.h): n ranks side by side are one, and
 * beside the talk of all there is one of each group, over the same transport with tags of its own.
 *
 * What must hold: the verbs of a group are matched among its ranks alone, so that groups need not
 * do the same at the same time; a failure that a group knows of comes to all at their next verb,
 * and only what a group can't tell its ranks (one is lost) is the end of the talk of all.
 */
#include <stdio.h>

#include "exchange.h"

/* Above those that a round of all has, and below what MPI has at least; for each talk some. */
enum { ROW_TAGS = 1 << 14, TALK_TAGS = 1 << 10, TALKS = 16 };

/* ---- the transport of a group ---- */

typedef struct {
    pf_transport face, *under;
    int first, tags;
} group_transport;

static int send_to(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    const group_transport *g = self;
    return g->under->send(g->under->self, g->first + to, g->tags + tag, data, bytes, ticket);
}

static int receive_from(void *self, int from, int tag, void *data, size_t bytes, int *ticket) {
    const group_transport *g = self;
    return g->under->receive(g->under->self, g->first + from, g->tags + tag, data, bytes, ticket);
}

static int test(void *self, int ticket, int *done) {
    const group_transport *g = self;
    return g->under->test(g->under->self, ticket, done);
}

static int cancel(void *self) {
    const group_transport *g = self;
    return g->under->cancel(g->under->self);
}

static void end_all(void *self, int code) {
    const group_transport *g = self;
    g->under->abort(g->under->self, code);
}

/* The talk of all closes it. */
static void leave_open(void *self) { (void)self; }

/* ---- opening ---- */

/* In one block with its transport. */
static size_t block_of(void) { return sizeof(pf_comm) + sizeof(group_transport); }

static int tags_of(const pf_comm *all) { return ROW_TAGS + all->talks * TALK_TAGS; }

static pf_comm *make_row(const pf_engine *engine, int n) {
    pf_comm *all = engine->comm, *row = pf_heap_zalloc(engine->heap, block_of());
    if (!row) return NULL;
    group_transport *g = (group_transport *)(row + 1);
    g->under = all->transport;
    g->tags = tags_of(all);
    g->first = all->rank - all->rank % n;
    g->face = (pf_transport){.size = sizeof g->face,
                             .abi = PF_TRANSPORT_ABI,
                             .self = g,
                             .name = all->transport->name,
                             .rank = all->rank - g->first,
                             .ranks = n,
                             .send = send_to,
                             .receive = receive_from,
                             .test = test,
                             .cancel = cancel,
                             .abort = end_all,
                             .close = leave_open};
    row->transport = &g->face;
    row->rank = g->face.rank, row->ranks = n;
    row->first = g->first, row->of = all->ranks;
    row->timeout = all->timeout;
    row->piece = all->piece;
    row->host = all->host + g->first;
    row->row_ranks = n;
    return row;
}

/* Room for the votes of a group is there before it is needed. */
static int open_row(pf_engine *engine, int n, pf_comm **row) {
    pf_comm *all = engine->comm;
    if (n == 1) return PF_OK;
    *row = make_row(engine, n);
    if (!*row) return PF_ENOMEM;
    engine->comm = *row;
    int status = pf_comm_room(engine, 32 + 2 * n);
    engine->comm = all;
    return status;
}

int pf_comm_open_row(pf_engine *engine) {
    pf_comm *all = engine->comm;
    all->row_ranks = all->ranks;
    return open_row(engine, all->ranks, &all->row);
}

static void free_row(const pf_engine *engine, pf_comm *row) {
    if (!row || row->held > 0) return; /* the transport's still */
    pf_heap_free(engine->heap, row->leg, (size_t)row->n_legs * sizeof *row->leg);
    pf_heap_free(engine->heap, row->room, (size_t)row->n_room * sizeof *row->room);
    pf_heap_free(engine->heap, row, block_of());
}

void pf_comm_close_row(pf_engine *engine, pf_comm *all) {
    if (all->row) all->row->held = all->held;
    free_row(engine, all->row);
    all->row = NULL;
}

/* All ranks have said the same number; and have the next talk, though groups had fewer or more. */
static int agree_on_size(pf_engine *engine, int status, int n) {
    pf_comm *all = engine->comm;
    pf_comm_word word = {
        .size = sizeof word, .flags = (uint64_t)1 << all->talks, .count = {n}, .most = n};
    PF_TRY(pf_comm_agree_on(engine, status, &word));
    all->talks = (64 - __builtin_clzll(word.flags)) % TALKS;
    if (word.count[0] == (int64_t)n * all->ranks && word.most == n) return PF_OK;
    return pf_fail(PF_EINVAL, "ranks a row: %d here, and up to %.0f elsewhere; say the same on all",
                   n, word.most);
}

int pf_comm_row_ranks(pf_engine *engine, int ranks) {
    PF_OPEN(engine);
    pf_comm *all = engine->comm, *row = NULL;
    const int most = pf_comm_ranks(engine);
    int status = PF_OK;
    if (ranks < 1 || most % ranks != 0)
        status = pf_fail(PF_EINVAL, "ranks a row: %d do not divide the %d ranks that there are",
                         ranks, most);
    if (!all) return status;
    if (status >= 0) status = open_row(engine, ranks, &row);
    status = agree_on_size(engine, status, ranks);
    if (status < 0) {
        free_row(engine, row);
        return status;
    }
    if (row) ((group_transport *)(row + 1))->tags = tags_of(all);
    pf_comm_close_row(engine, all);
    all->row = row, all->row_ranks = ranks;
    return PF_OK;
}

/* ---- going in and out ---- */

bool pf_comm_is_told(const pf_engine *engine) { return engine->comm && engine->comm->told; }
int pf_comm_row_size(const pf_engine *engine) { return engine->comm ? engine->comm->row_ranks : 1; }

static void end_with(pf_comm *talk, const pf_comm *ended) {
    if (ended->broken >= 0 || talk->broken < 0) return;
    talk->broken = ended->broken;
    talk->held = ended->held;
    snprintf(talk->why, sizeof talk->why, "%s", ended->why);
}

/* All of a group have heard why their talk has ended: they have a new one, whose messages are not
 * taken for those that the old one may have under way. */
static void begin_again(pf_comm *all) {
    pf_comm *row = all->row;
    all->talks = (all->talks + 1) % TALKS;
    ((group_transport *)(row + 1))->tags = tags_of(all);
    row->number = row->failed = 0;
    row->broken = 0;
    row->told = row->passed = false;
    row->note.status = 0;
}

pf_comm *pf_comm_enter_row(pf_engine *engine) {
    pf_comm *all = engine->comm;
    if (!all) return NULL;
    engine->comm = all->row; /* NULL: alone */
    if (!all->row) return all;
    all->row->least = all->least, all->row->step = all->step;
    all->row->known = false;
    end_with(all->row, all);
    return all;
}

void pf_comm_leave_row(pf_engine *engine, pf_comm *all) {
    pf_comm *row = engine->comm;
    engine->comm = all;
    if (!row) return;
    all->waited += row->waited;
    row->waited = 0;
    if (row->broken < 0 && row->told && row->held == 0)
        begin_again(all);
    else
        end_with(all, row);
}
