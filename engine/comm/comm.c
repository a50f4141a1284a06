/*
 * comm.c - the verbs of comm.h but the sums (tree.c), over rounds of messages. What must hold: with
 * one rank nothing happens, the message of a failure names the rank that it happened to, and what
 * can fail on one rank alone fails before the ranks agree.
 */
#include "comm.h"

#include <stdio.h>
#include <string.h>

#include "exchange.h"

/* ---- rounds over a binomial tree ---- */

/* Rank r's parent is r without its lowest bit; what stands below it are the ranks r + k for the
 * powers k of two below that bit. Ranks are counted from the root. */

static int from_root(const pf_comm *comm, int rank, int root) {
    return (rank - root + comm->ranks) % comm->ranks;
}
static int to_rank(const pf_comm *comm, int place, int root) {
    return (place + root) % comm->ranks;
}

/* Bytes at `data` go from the root to everybody. */
static int spread(pf_engine *engine, pf_verb verb, int root, void *data, size_t bytes) {
    pf_comm *comm = engine->comm;
    int place = from_root(comm, comm->rank, root), low = 1;
    while (low < comm->ranks && !(place & low)) low <<= 1;
    if (place) { /* the root may wait for the last vote, and then it comes down to here */
        comm->hops =
            __builtin_popcount((unsigned)place) + 32 - __builtin_clz((unsigned)comm->ranks);
        pf_message in = {to_rank(comm, place - low, root), data, bytes};
        PF_TRY(pf_comm_exchange(engine, verb, NULL, 0, &in, 1));
    }
    pf_message out[32];
    int n = 0;
    for (int k = low >> 1; k > 0; k >>= 1)
        if (place + k < comm->ranks)
            out[n++] = (pf_message){to_rank(comm, place + k, root), data, bytes};
    return n ? pf_comm_exchange(engine, verb, out, n, NULL, 0) : PF_OK;
}

/* ---- agreeing ---- */

enum { COUNTS = 4 }; /* of pf_comm_word */

typedef struct {
    int32_t status, rank; /* of the lowest rank that failed */
    int32_t beside;       /* somewhere rounds go on beside this vote */
    pf_comm_word word;
    /* word.count's halves, whose sums over any number of ranks fit: a sum that is too large is so
     * for all, whatever the order of the additions. */
    int64_t high[COUNTS], low[COUNTS];
    char text[PF_COMM_TEXT];
} ballot;

static void split_counts(ballot *b) {
    for (int i = 0; i < COUNTS; i++) {
        b->low[i] = b->word.count[i] & 0xffffffff;
        b->high[i] = (b->word.count[i] - b->low[i]) / ((int64_t)1 << 32);
    }
}

static int join_counts(ballot *b) {
    for (int i = 0; i < COUNTS; i++) {
        const int64_t high = b->high[i] + (b->low[i] >> 32);
        if (high < INT32_MIN || high > INT32_MAX)
            return pf_fail(PF_EINVAL, "ranks: the sum of their %s numbers is beyond 64 bits",
                           (const char *[COUNTS]){"first", "second", "third", "fourth"}[i]);
        b->word.count[i] = high * ((int64_t)1 << 32) + (b->low[i] & 0xffffffff);
    }
    return PF_OK;
}

static void count(ballot *all, const ballot *other) {
    if (other->status < 0 && (all->status >= 0 || other->rank < all->rank)) {
        all->status = other->status, all->rank = other->rank;
        memcpy(all->text, other->text, sizeof all->text);
    }
    all->beside |= other->beside;
    all->word.flags |= other->word.flags;
    for (int i = 0; i < COUNTS; i++) all->high[i] += other->high[i], all->low[i] += other->low[i];
    if (other->word.most > all->word.most) {
        all->word.most = other->word.most;
        all->word.most_of = other->word.most_of;
    }
}

/* Ballots go up the tree to rank 0, which then tells all what it has counted. */
static int vote(pf_engine *engine, pf_verb verb, ballot *own) {
    pf_comm *comm = engine->comm;
    ballot other;
    comm->number++;
    for (int k = 1; k < comm->ranks; k <<= 1) {
        if (comm->rank & k) {
            pf_message up = {comm->rank - k, own, sizeof *own};
            PF_TRY(pf_comm_exchange(engine, verb, &up, 1, NULL, 0));
            break;
        }
        if (comm->rank + k >= comm->ranks) continue;
        pf_message down = {comm->rank + k, &other, sizeof other};
        comm->hops = __builtin_ctz((unsigned)k); /* what is below that rank */
        PF_TRY(pf_comm_exchange(engine, verb, NULL, 0, &down, 1));
        count(own, &other);
    }
    return spread(engine, verb, 0, own, sizeof *own);
}

/* What a rank that has failed says of itself counts, too. */
static int read_word(pf_comm_word *own, const pf_comm_word *word, int status) {
    if (!word) return status;
    if (status < 0) {
        if (word->size == sizeof *own) *own = *word;
        return status;
    }
    PF_TRY(pf_options_take(own, sizeof *own, word, "comm"));
    return status;
}

/* Is it what a vote of the group has told, with the name of the rank? Said to all once. */
static bool is_known(const pf_comm *comm) {
    pf_comm *row = comm->row;
    const bool known = row && row->known;
    if (row) row->known = false;
    return known;
}

int pf_comm_agree_on(pf_engine *engine, int status, pf_comm_word *word) {
    PF_OPEN(engine);
    pf_comm *comm = engine->comm;
    ballot own = {.status = 0};
    status = read_word(&own.word, word, status);
    if (!comm) return status;
    if (comm->broken < 0) return pf_fail(comm->broken, "%s", comm->why);
    own.rank = comm->rank;
    own.status = status < 0 ? status : 0;
    own.word.most_of = comm->rank;
    own.beside = comm->beside.turn || comm->beside.spoiled;
    split_counts(&own);
    if (status < 0) {
        if (!is_known(comm)) pf_fail_in(status, "%s", pf_comm_name(comm, comm->rank));
        snprintf(own.text, sizeof own.text, "%s", pf_message_marked());
    }
    PF_TRY(vote(engine, PF_VERB_VOTE, &own));
    const int fits = join_counts(&own);
    if (own.status >= 0 && fits < 0) {
        own.status = fits;
        snprintf(own.text, sizeof own.text, "%s", pf_message_marked());
    }
    own.word.size = sizeof own.word;
    if (word) PF_TRY(pf_result_give(word, &own.word, sizeof own.word, "comm"));
    if (own.status >= 0) return status;
    comm->failed = comm->number;
    comm->failures++;
    comm->known = true;
    if (own.beside) pf_beside_drain(engine);
    status = pf_fail(own.status, "%s", own.text);
    snprintf(comm->said, sizeof comm->said, "%s", pf_last_error());
    return status;
}

int pf_comm_vote_last(pf_engine *engine) {
    ballot last = {.rank = engine->comm->rank};
    return vote(engine, PF_VERB_CLOSE, &last);
}

int pf_comm_agree(pf_engine *engine, int status) { return pf_comm_agree_on(engine, status, NULL); }

/* Is the message that stands, whatever was said around it, the one that the last vote told all?
 * Another one is a failure of this rank's, which came after that vote: who has gone on from it
 * waits to hear. */
static bool is_told(const pf_comm *comm) {
    return comm->number > 0 && comm->failed == comm->number && strstr(pf_last_error(), comm->said);
}

int pf_comm_settle(pf_engine *engine, int status) {
    PF_OPEN(engine);
    const pf_comm *comm = engine->comm;
    if (comm && status < 0 && is_told(comm)) return status;
    return pf_comm_agree(engine, status);
}

/* ---- bytes for all ---- */

/* What is wrong with a part of a verb is this rank's failure, and told to all. */
static int check_part(int status, const char *verb, const char *name, const void *part) {
    return status < 0 ? status : pf_need(verb, name, &part, 1);
}

/* What has another size on another rank, no rank takes: all find the same. Where not all are at
 * this verb, the messages say so. */
static int agree_on_bytes(pf_engine *engine, int status, size_t bytes) {
    const int ranks = pf_comm_ranks(engine);
    pf_comm_word word = {.size = sizeof word, .count = {(int64_t)bytes, 1}, .most = (double)bytes};
    PF_TRY(pf_comm_agree_on(engine, status, &word));
    if (word.count[1] != ranks || (double)word.count[0] == word.most * ranks) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "share: %s has %.0f bytes, and another has fewer; all must give as many",
                   pf_comm_name(engine->comm, word.most_of), word.most);
}

int pf_comm_share(pf_engine *engine, int status, int root, void *data, size_t bytes) {
    PF_OPEN(engine);
    if (bytes > 0) status = check_part(status, __func__, "data", data);
    if (status >= 0 && (root < 0 || root >= pf_comm_ranks(engine)))
        status =
            pf_fail(PF_EINVAL, "share: there is no rank %d among %d", root, pf_comm_ranks(engine));
    if (!engine->comm) return status;
    PF_TRY(agree_on_bytes(engine, status, bytes));
    return spread(engine, PF_VERB_SHARE, root, data, bytes);
}

int pf_comm_swap(pf_engine *engine, pf_verb verb, const void *own, const size_t *bytes, char *all,
                 pf_message *list) {
    pf_comm *comm = engine->comm;
    int n = 0, others = comm->ranks - 1;
    size_t at = 0;
    PF_HOLDS(bytes && list);
    for (int r = 0; r < comm->ranks; at += bytes[r++]) {
        if (r == comm->rank) {
            memmove(all + at, own, bytes[r]);
            continue;
        }
        list[n] = (pf_message){r, (void *)(uintptr_t)own, bytes[comm->rank]};
        list[others + n++] = (pf_message){r, all + at, bytes[r]};
    }
    return pf_comm_exchange(engine, verb, list, others, list + others, others);
}

int pf_comm_collect_all(pf_engine *engine, int status, const void *own, const size_t *bytes,
                        void *all) {
    PF_OPEN(engine);
    pf_comm *comm = engine->comm;
    status = check_part(status, __func__, "own", own);
    status = check_part(status, __func__, "bytes", bytes);
    status = check_part(status, __func__, "all", all);
    if (!comm) {
        if (status >= 0) memmove(all, own, bytes[0]);
        return status;
    }
    size_t room = 2 * (size_t)comm->ranks * sizeof(pf_message);
    pf_message *list = pf_heap_alloc(engine->heap, room);
    if (status >= 0 && !list) status = PF_ENOMEM;
    if (status >= 0) status = pf_comm_room(engine, 2 * comm->ranks);
    status = pf_comm_agree(engine, status);
    if (status >= 0) status = pf_comm_swap(engine, PF_VERB_COLLECT, own, bytes, all, list);
    if (list) pf_heap_free(engine->heap, list, room);
    return status;
}

int pf_comm_collect(pf_engine *engine, int status, const void *own, size_t bytes, void *all) {
    PF_OPEN(engine);
    status = check_part(status, __func__, "own", own);
    status = check_part(status, __func__, "all", all);
    int ranks = pf_comm_ranks(engine);
    size_t room = (size_t)ranks * sizeof(size_t), *each = pf_heap_alloc(engine->heap, room);
    if (status >= 0 && !each) status = PF_ENOMEM;
    for (int r = 0; r < ranks && each; r++) each[r] = bytes;
    status = pf_comm_collect_all(engine, status, own, each, all);
    if (each) pf_heap_free(engine->heap, each, room);
    return status;
}

/* ---- who we are ---- */

void pf_comm_abort(pf_engine *engine, int code) {
    pf_comm *comm = engine ? engine->comm : NULL;
    if (comm) comm->transport->abort(comm->transport->self, code);
}

int pf_comm_rank(const pf_engine *engine) { return engine->comm ? engine->comm->rank : 0; }
int pf_comm_ranks(const pf_engine *engine) { return engine->comm ? engine->comm->ranks : 1; }
void pf_comm_at(pf_engine *engine, uint64_t step) {
    if (engine && engine->comm) engine->comm->step = step;
}

void pf_comm_patience(pf_engine *engine, double seconds) {
    if (engine && engine->comm) engine->comm->least = seconds;
}

const char *pf_comm_host(const pf_engine *engine, int rank) {
    const pf_comm *comm = engine ? engine->comm : NULL;
    return comm && rank >= 0 && rank < comm->ranks ? comm->host[rank] : NULL;
}

int pf_comm_about(const pf_engine *engine, pf_comm_info *info) {
    PF_OPEN(engine);
    PF_NEED(info);
    const pf_comm *comm = engine->comm;
    pf_comm_info own = {.size = sizeof own,
                        .ranks = 1,
                        .local_ranks = 1,
                        .hosts = 1,
                        .warnings = "",
                        .row_ranks = 1};
    if (comm) {
        own.rank = comm->rank, own.ranks = comm->ranks;
        own.local_rank = comm->place.local_rank, own.local_ranks = comm->place.local_ranks;
        own.hosts = comm->place.hosts;
        own.cpus = comm->place.cpus, own.cpus_free = comm->place.cpus_free;
        own.warnings = comm->warnings;
        own.transport = comm->transport->name;
        own.waited = comm->waited;
        own.lost = comm->broken < 0;
        own.row_ranks = comm->row_ranks;
    }
    return pf_result_give(info, &own, sizeof own, "comm");
}
