/*
 * talk_test.c - how a talk between ranks begins and ends, each rank a thread with an engine: what
 * they find out of each other first; what the others hear of a rank that is late, is lost, or does
 * something else, and whose the memory is then; and that the last word is everybody's.
 */
#include "exchange.h"
#include "ranks.h"
#include "tensor_support.h"

/* ---- ranks that fail ---- */

/* Many verbs, of which one rank leaves some to the others. */
static int many(pf_engine *engine, int rank, void *context) {
    (void)context;
    for (int step = 1; step <= 20; step++) {
        int32_t data = step, all[RANKS_MOST];
        pf_comm_at(engine, (uint64_t)step);
        int status = pf_comm_collect(engine, PF_OK, &data, sizeof data, all);
        if (status < 0) { /* and so it stays */
            char text[512];
            snprintf(text, sizeof text, "%s", pf_last_error());
            if (pf_comm_agree(engine, PF_OK) != status || strcmp(text, pf_last_error()) != 0)
                return pf_fail(PF_EHOST, "rank %d went on", rank);
            pf_comm_abort(engine, 75);
            return status;
        }
    }
    return PF_OK;
}

static void test_lost(void) {
    for (int at = 1; at < 60; at += 7) {
        ranks_world w = {.ranks = 3, .timeout = 0.05, .dies = 1, .dies_at = at};
        ranks_run(&w, many, NULL);
        CHECK(w.aborted == 75 || w.status[0] < 0);
        for (int r = 0; r < 3; r++) {
            CHECK(w.status[r] == PF_EIO && strstr(w.text[r], "no answer from rank "));
            CHECK(strstr(w.text[r], " s in ") || at == 1);
            CHECK(at > 1 || strstr(w.text[r], " for 0.05 s to the greeting: "));
        }
    }
    ranks_world w = {.ranks = 4, .timeout = 0.05, .loses = 2, .loses_at = 40};
    ranks_run(&w, many, NULL);
    for (int r = 0; r < 4; r++) CHECK(w.status[r] == PF_EIO);
}

/* Rank `dies` is lost behind the first words. */
static int lose_one(pf_engine *engine, int rank, void *context) {
    ranks_world *w = context;
    if (rank == w->dies) w->dies_at = 1;
    return pf_comm_agree(engine, PF_OK);
}

/* Whoever gives up first, and ends the others, names it: not one that waits for it, too. */
static void test_named(void) {
    for (int lost = 0; lost < 7; lost++) {
        ranks_world w = {.ranks = 7, .timeout = 0.1, .dies = lost};
        double first = 1e9;
        int named = -1;
        ranks_run(&w, lose_one, &w);
        for (int r = 0; r < 7; r++) {
            int who = -1, n = 0;
            double seconds = 1e9;
            n = sscanf(w.text[r], "no answer from rank %d of 7 on here for %lf s", &who, &seconds);
            CHECK(w.status[r] == PF_EIO && n == 2);
            if (r == lost || seconds > first) continue;
            CHECK(seconds < first || who == named);
            first = seconds, named = who;
        }
        CHECK(named == lost);
    }
}

/* The one that takes nothing is named, and not another whose message has gone. */
static int one_takes_nothing(void *self, int ticket, int *done) {
    const ranks_end *end = self;
    const ranks_ticket *t = &end->ticket[ticket];
    if (end->rank == 0 && !t->receives && t->from == 2) return *done = 0;
    return ranks_test(self, ticket, done);
}

static int send_numbered(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    int bad = ranks_send(self, to, tag, data, bytes, ticket);
    if (!bad) ((ranks_end *)self)->ticket[*ticket].from = to;
    return bad;
}

static int share_to_all(pf_engine *engine, int rank, void *context) {
    char data[8] = {0};
    (void)context;
    if (rank == 0) {
        engine->comm->transport->send = send_numbered;
        engine->comm->transport->test = one_takes_nothing;
    }
    return pf_comm_share(engine, PF_OK, 0, data, sizeof data);
}

static void test_takes_nothing(void) {
    ranks_world w = {.ranks = 4, .timeout = 0.2};
    ranks_run(&w, share_to_all, NULL);
    CHECK(w.status[0] == PF_EIO && strstr(w.text[0], "no answer from rank 2 of 4"));
}

static int out_of_step(pf_engine *engine, int rank, void *context) {
    (void)context;
    int32_t data = 0, all[RANKS_MOST];
    if (rank == 1) PF_TRY(pf_comm_collect(engine, PF_OK, &data, sizeof data, all));
    return pf_comm_share(engine, PF_OK, 0, &data, sizeof data);
}

static int other_size(pf_engine *engine, int rank, void *context) {
    (void)context;
    char data[8] = {(char)rank, 0};
    int status = pf_comm_share(engine, PF_OK, 0, data, rank == 1 ? 4 : 8);
    if (status != PF_EINVAL || data[0] != rank) return PF_EHOST;
    if (!strstr(pf_last_error(), "rank 0 of 2 on here has 8 bytes, and another has fewer"))
        return PF_EHOST;
    PF_TRY(pf_comm_share(engine, PF_OK, 1, data, sizeof data)); /* and goes on */
    return data[0] == 1 ? PF_OK : PF_EHOST;
}

static void test_out_of_step(void) {
    ranks_world w = {.ranks = 2, .timeout = 10};
    ranks_run(&w, out_of_step, NULL);
    CHECK(w.status[1] == PF_ESTATE);
    CHECK(strstr(w.text[1], "rank 0 of 2 on here is at share 3, rank 1 of 2 on here at collect 3"));
    w = (ranks_world){.ranks = 2, .timeout = 10};
    ranks_run(&w, other_size, NULL);
    CHECK(w.status[0] == PF_OK && w.status[1] == PF_OK);
}

/* ---- what is under way when a rank gives up ---- */

enum { BODY = 4096 };

typedef struct {
    atomic_int gave_up, sent;
    unsigned char *memory;
    int written;
} abandoned;

static abandoned *left_alone;

/* Rank 0's body goes when rank 1 waits for it no longer. */
static int send_too_late(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    if (bytes == BODY)
        while (!left_alone->gave_up) sched_yield();
    int bad = ranks_send(self, to, tag, data, bytes, ticket);
    if (bytes == BODY) left_alone->sent = 1;
    return bad;
}

static int give_up(pf_engine *engine, int rank, void *context) {
    abandoned *a = context;
    unsigned char *body = malloc(BODY);
    memset(body, rank + 1, BODY);
    if (rank == 0)
        engine->comm->transport->send = send_too_late;
    else
        engine->comm->timeout = 0.05;
    int status = pf_comm_share(engine, PF_OK, 0, body, BODY);
    if (rank == 1) {
        char text[PF_COMM_TEXT];
        snprintf(text, sizeof text, "%s", pf_last_error());
        a->gave_up = 1;
        while (!a->sent) sched_yield();
        for (int i = 0; i < BODY; i++) a->written += body[i] != 2;
        pf_fail(status, "%s", text);
    }
    engine->comm->timeout = 0.05; /* rank 1 does not come to close */
    free(body);
    return status;
}

/* Whoever gives up has its memory back: what comes then is written nowhere. */
static void test_given_up(void) {
    abandoned a = {0};
    left_alone = &a;
    ranks_world w = {.ranks = 2, .direct = true, .timeout = 20};
    ranks_run(&w, give_up, &a);
    CHECK(w.status[1] == PF_EIO && strstr(w.text[1], "no answer from rank 0 of 2 on here"));
    CHECK(a.written == 0);
    CHECK(w.given_up == 2 && w.closed == 0); /* the body, and the last vote */
}

/* A message that the transport can't give up: its memory stays, whatever is asked for. */
static int hold_one(void *self) {
    (void)self;
    return 1;
}

static int ask_again(pf_engine *engine, int rank, void *context) {
    (void)context;
    pf_comm *comm = engine->comm;
    if (rank == 1) return PF_OK;
    comm->transport->cancel = hold_one;
    CHECK_OK(pf_comm_room_for(engine, 10));
    const float *room = comm->room;
    const pf_leg *leg = comm->leg;
    comm->timeout = 0.05;
    int status = pf_comm_agree(engine, PF_OK);
    CHECK(status < 0 && comm->held == 1);
    CHECK(pf_comm_room_for(engine, 1 << 20) == status && comm->room == room);
    CHECK(pf_comm_room(engine, 1 << 10) == status && comm->leg == leg);
    pf_heap_free(engine->heap, comm->leg, (size_t)comm->n_legs * sizeof *leg);
    pf_heap_free(engine->heap, comm->room, (size_t)comm->n_room * sizeof *room);
    comm->leg = NULL, comm->room = NULL, comm->held = 0, comm->n_legs = comm->n_room = 0;
    return PF_OK;
}

static void test_held(void) {
    ranks_world w = {.ranks = 2, .timeout = 0.2};
    ranks_run(&w, ask_again, NULL);
    CHECK(w.closed == 0);
}

/* What is given up late, when the ranks close, has its memory back then. */
static _Thread_local int holds;
static int hold_at_first(void *self) {
    const int held = holds-- > 0;
    return held ? held : ranks_cancel(self);
}

typedef struct {
    int times;   /* that something is held */
    size_t left; /* in rank 0's heap, when its ranks have closed */
} closing;

static int close_later(pf_engine *engine, int rank, void *context) {
    closing *c = context;
    if (rank == 1) return PF_OK;
    holds = c->times;
    engine->comm->transport->cancel = hold_at_first;
    CHECK_OK(pf_comm_room_for(engine, 1 << 16));
    engine->comm->timeout = 0.05;
    CHECK(pf_comm_agree(engine, PF_OK) < 0);
    pf_comm_close(engine);
    c->left = pf_heap_live(engine->heap);
    return PF_OK;
}

static void test_held_at_first(void) {
    closing c[2] = {{0, 0}, {1, 0}};
    ranks_world w = {.ranks = 2, .timeout = 0.2};
    for (int i = 0; i < 2; i++) ranks_run(&w, close_later, &c[i]);
    CHECK(c[1].left == c[0].left);
}

/* ---- closing ---- */

/* Rank 0 closes where the others want a verdict. */
static int close_early(pf_engine *engine, int rank, void *context) {
    (void)context;
    if (rank > 0) PF_TRY(pf_comm_agree(engine, PF_OK));
    pf_comm_close(engine);
    CHECK(pf_comm_ranks(engine) == 1 && pf_comm_agree(engine, PF_OK) == PF_OK);
    return PF_OK;
}

static void test_close(void) {
    ranks_world w = {.ranks = 3, .timeout = 0.2};
    ranks_run(&w, close_early, NULL);
    CHECK(w.closed == 0); /* where some don't come nobody waits for them in the transport */
    for (int r = 1; r < 3; r++) CHECK(w.status[r] < 0);
}

/* ---- waiting ---- */

static atomic_int told;
static char waits_for[512];

static void hear(void *context, pf_log_level level, const char *text) {
    const ranks_end *end = context;
    if (end->rank != 0 || level != PF_LOG_WARN || told) return;
    snprintf(waits_for, sizeof waits_for, "%s", text);
    told = 1;
}

static int wait_long(pf_engine *engine, int rank, void *context) {
    (void)context;
    pf_comm_at(engine, 281);
    while (rank == 1 && !told) sched_yield();
    return pf_comm_agree(engine, PF_OK);
}

static void test_told(void) {
    ranks_world w = {.ranks = 2, .timeout = 6, .log = hear};
    ranks_run(&w, wait_long, NULL);
    CHECK(w.status[0] == PF_OK && w.status[1] == PF_OK);
    CHECK(strstr(waits_for, "ranks: rank 0 of 2 on here has waited for rank 1 of 2 on here for "));
    CHECK(strstr(waits_for, " s in vote 3 of step 281"));
}

/* ---- the first words ---- */

static pf_comm_info seen[RANKS_MOST];
static char warnings[RANKS_MOST][1024];
static pf_cpu level[RANKS_MOST];

static int look(pf_engine *engine, int rank, void *context) {
    (void)context;
    seen[rank].size = sizeof seen[0];
    PF_TRY(pf_comm_about(engine, &seen[rank]));
    snprintf(warnings[rank], sizeof warnings[0], "%s", seen[rank].warnings);
    level[rank] = engine->cpu;
    return PF_OK;
}

static void test_levels(void) {
    ranks_world w = {.ranks = 3,
                     .whole = true,
                     .own_cpu = true,
                     .cpu = {PF_CPU_BEST, PF_CPU_GENERIC, PF_CPU_BEST}};
    pf_engine engine = engine_of(1, NULL);
    ranks_run(&w, look, NULL);
    for (int r = 0; r < 3; r++) {
        CHECK(w.status[r] == PF_OK && level[r] == PF_CPU_GENERIC);
        CHECK(engine.cpu == PF_CPU_GENERIC ||
              strstr(warnings[r], "rank 1 of 3 on here has kernels of level generic at most"));
    }
    pf_runtime_close(&engine);
}

static void test_places(void) {
    ranks_world w = {.ranks = 5, .hosts = {"n1", "n2", "n1", "n3", "n1"}};
    pf_engine engine = engine_of(1, NULL);
    ranks_run(&w, look, NULL);
    for (int r = 0; r < 5; r++) CHECK(w.status[r] == PF_OK && seen[r].hosts == 3);
    CHECK(seen[0].local_rank == 0 && seen[2].local_rank == 1 && seen[4].local_rank == 2);
    CHECK(seen[4].local_ranks == 3 && seen[1].local_ranks == 1 && seen[3].local_rank == 0);
    pf_comm_info alone = {.size = sizeof alone};
    CHECK_OK(pf_comm_about(&engine, &alone));
    CHECK(alone.hosts == 1 && alone.local_ranks == 1 && !alone.warnings[0]);
    pf_runtime_close(&engine);
}

/* A rank that has one processor of several, alone on its host: told by all. */
static void test_bound(void) {
    ranks_world w = {.ranks = 3, .bound = 2, .hosts = {"n1", "n2", "n1"}};
    char text[128];
    ranks_run(&w, look, NULL);
    int free = seen[1].cpus_free;
    CHECK(free >= 1 && seen[1].cpus == 1);
    snprintf(text, sizeof text, "rank 1 of 3 on n2 is bound to 1 of %d cores: add --bind-to none\n",
             free);
    for (int r = 0; r < 3 && free > 1; r++) CHECK(strstr(warnings[r], text));
}

/* A host whose ranks have more threads than it has processors; one rank may have what it likes. */
static void test_threads(void) {
    ranks_world w = {.ranks = 3, .hosts = {"n1", "n2", "n1"}};
    char text[128];
    ranks_run(&w, look, NULL);
    const int free = seen[0].cpus_free;
    const bool fits = free >= 2;
    for (int r = 0; r < 3; r++) CHECK(!strstr(warnings[r], "start fewer") == fits);
    w.threads = free;
    ranks_run(&w, look, NULL);
    snprintf(text, sizeof text,
             "2 ranks on n1 have %d threads and %d cores: start fewer, or give them fewer\n",
             2 * free, free);
    for (int r = 0; r < 3; r++) {
        CHECK(strstr(warnings[r], text));
        CHECK(!strstr(warnings[r], "n2"));
    }
}

/* What rank 1 sends has `from` where it says it, and others read `to`. */
static void replace(const ranks_end *end, char *data, size_t bytes, const char *from, char to) {
    size_t n = strlen(from);
    for (size_t i = 0; end->rank == 1 && i + n <= bytes; i++)
        if (memcmp(data + i, from, n) == 0) data[i + n - 1] = to;
}
static void other_version(const ranks_end *end, char *data, size_t bytes) {
    replace(end, data, bytes, pf_version(), 'x');
}
static void other_libc(const ranks_end *end, char *data, size_t bytes) {
    replace(end, data, bytes, "glibc ", '-');
}
static void other_order(const ranks_end *end, char *data, size_t bytes) {
    pf_message_head head;
    if (end->rank != 1 || bytes != sizeof head) return;
    memcpy(&head, data, sizeof head);
    head = (pf_message_head){__builtin_bswap32(head.number), __builtin_bswap32(head.step),
                             __builtin_bswap64(head.body)};
    memcpy(data, &head, sizeof head);
}

static void test_strangers(void) {
    char text[128];
    ranks_world w = {.ranks = 3, .timeout = 0.2, .twist = other_version};
    ranks_run(&w, look, NULL);
    snprintf(text, sizeof text,
             "rank 1 of 3 on here runs Performer %.*sx and rank 0 of 3 on here %s",
             (int)strlen(pf_version()) - 1, pf_version(), pf_version());
    for (int r = 0; r < 3; r += 2) CHECK(w.status[r] == PF_EINVAL && strstr(w.text[r], text));
    CHECK(w.closed == 0);

    w = (ranks_world){.ranks = 3, .timeout = 0.2, .twist = other_order};
    ranks_run(&w, look, NULL);
    for (int r = 0; r < 3; r += 2)
        CHECK(w.status[r] == PF_EINVAL &&
              strstr(w.text[r], "rank 1 of 3 has the other byte order"));

    w = (ranks_world){.ranks = 3, .twist = other_libc};
    ranks_run(&w, look, NULL);
    for (int r = 0; r < 3; r += 2) {
        CHECK(w.status[r] == PF_OK);
        CHECK(strstr(warnings[r], "rank 1 of 3 on here has glibc-") &&
              strstr(warnings[r], ", rank 0 of 3 on here glibc "));
    }
}

static void test_transport(void) {
    pf_engine engine = engine_of(1, NULL);
    ranks_world w = {.ranks = 1};
    ranks_end end = {.world = &w, .rank = 0};
    pf_transport t = {.size = sizeof t, .abi = 99, .self = &end, .close = ranks_close, .ranks = 1};
    CHECK_FAILS(PF_EINVAL, pf_comm_open(&engine, &t, 0, NULL));
    t.abi = PF_TRANSPORT_ABI, t.rank = 1;
    CHECK_FAILS(PF_EINVAL, pf_comm_open(&engine, &t, 0, NULL));
    CHECK(!engine.comm && w.closed == 1); /* of another ABI nothing is called */
    pf_runtime_close(&engine);
}

int main(void) {
    test_levels();
    test_places();
    test_bound();
    test_threads();
    test_strangers();
    test_transport();
    test_told();
    test_lost();
    test_named();
    test_takes_nothing();
    test_out_of_step();
    test_given_up();
    test_held();
    test_held_at_first();
    test_close();
    return CHECK_REPORT();
}
