/*
 * serving_support.h - clients of a running batch, each with a stream of its own beside it: what
 * the batch makes of a sequence must be what the stream makes, bit for bit.
 */
#ifndef PF_SERVING_SUPPORT_H
#define PF_SERVING_SUPPORT_H

#include "nn_support.h"
#include "serving.h"

enum { CLIENTS = 8, PROMPT_MOST = 40 };

typedef struct {
    int64_t id;       /* 0: nobody */
    pf_stream *alone; /* stands where the sequence stood before its last token was drawn */
    pf_sampling sampling;
    int32_t prompt[PROMPT_MOST];
    int n;
    int32_t last, stop;
    int64_t tokens, most;
} client;

typedef struct {
    pf_engine *e;
    pf_module *m;
    pf_serving *serving;
    int slice;
    uint64_t random;
    client list[CLIENTS];
    long made, failed, stopped; /* tokens, sequences */
} clients;

static inline int pick(clients *c, int n) {
    c->random = c->random * 6364136223846793005u + 1442695040888963407u;
    return (int)((c->random >> 33) % (uint64_t)n);
}

static inline void clients_open(clients *c, pf_engine *e, pf_module *m, int slice, uint64_t seed) {
    const pf_serving_options o = {.size = sizeof o, .capacity = CLIENTS, .slice = slice};
    *c = (clients){.e = e, .m = m, .slice = slice ? slice : 1024, .random = seed};
    CHECK_OK(pf_serving_open(&c->serving, e, m, &o));
}

static inline void clients_close(clients *c) {
    for (int i = 0; i < CLIENTS; i++) pf_stream_close(&c->list[i].alone);
    pf_serving_close(&c->serving);
}

static inline client *client_of(clients *c, int64_t id) {
    for (int i = 0; i < CLIENTS; i++)
        if (c->list[i].id == id) return &c->list[i];
    return NULL;
}

static inline pf_sequence_options options_for(const client *q) {
    return (pf_sequence_options){.size = sizeof(pf_sequence_options),
                                 .sampling = &q->sampling,
                                 .tokens = q->most,
                                 .stops = &q->stop,
                                 .n_stops = q->stop >= 0};
}

/* Of every kind: greedy and not, with and without an end of their own. */
static inline client random_client(clients *c) {
    client q = {.n = 1 + pick(c, PROMPT_MOST), .last = -1, .stop = -1};
    q.sampling = (pf_sampling){sizeof q.sampling,    pick(c, 3) * 0.7,        pick(c, 2) * 5,
                               pick(c, 2) ? 0.9 : 1, (uint64_t)pick(c, 1000), pick(c, 2) * 0.05,
                               pick(c, 2) ? 1.3 : 1};
    if (pick(c, 3) == 0) q.n = 1 + pick(c, 3);
    if (pick(c, 4) == 0) q.stop = pick(c, 11);
    if (pick(c, 3) == 0) q.most = 1 + pick(c, 12);
    for (int i = 0; i < q.n; i++) q.prompt[i] = pick(c, 11);
    return q;
}

static inline void join_one(clients *c) {
    client *place = client_of(c, 0), q = random_client(c);
    if (!place) {
        int64_t id;
        CHECK_FAILS(PF_ESTATE, pf_serving_join(c->serving, q.prompt, (size_t)q.n, NULL, &id));
        return;
    }
    const pf_sequence_options o = options_for(&q);
    CHECK_OK(pf_serving_join(c->serving, q.prompt, (size_t)q.n, &o, &q.id));
    CHECK_OK(pf_stream_open(&q.alone, c->e, c->m));
    *place = q;
}

static inline void leave(clients *c, client *q) {
    CHECK_OK(pf_serving_leave(c->serving, q->id));
    CHECK_FAILS(PF_ENOTFOUND, pf_serving_leave(c->serving, q->id));
    pf_stream_close(&q->alone);
    *q = (client){0};
}

/* A sequence of which one is moved out and a second one goes on from there, with another seed. */
static inline void branch(clients *c, client *from) {
    client *place = client_of(c, 0), q = *from;
    pf_stream *out = NULL;
    if (!place || from->tokens == 0) return;
    CHECK_OK(pf_serving_fork(&out, c->serving, from->id));
    int status = pf_stream_feed(out, &from->last, 1);
    q.sampling.seed += 1000, q.tokens = 0, q.last = -1, q.n = 0, q.alone = NULL;
    if (status >= 0) {
        const pf_sequence_options o = options_for(&q);
        CHECK_OK(pf_serving_join_stream(c->serving, out, &o, &q.id));
        CHECK_OK(pf_stream_fork(&q.alone, out));
        *place = q;
    }
    pf_stream_close(&out);
}

/* The stream's next token: of its prompt, in the pieces of the batch, or behind its last one. */
static inline int next_alone(const clients *c, client *q, int32_t *token) {
    if (q->tokens > 0) return pf_stream_next(q->alone, q->last, &q->sampling, token);
    for (int at = 0; at < q->n; at += c->slice) {
        int n = q->n - at < c->slice ? q->n - at : c->slice;
        PF_TRY(pf_stream_feed(q->alone, q->prompt + at, (size_t)n));
    }
    return pf_stream_sample(q->alone, &q->sampling, token);
}

static inline bool same_logits(const clients *c, const client *q) {
    int64_t n = 0, own = 0;
    const float *got = pf_serving_logits(c->serving, q->id, &n);
    const float *want = pf_stream_logits(q->alone, &own);
    return got && want && n == own && memcmp(got, want, (size_t)n * sizeof *got) == 0;
}

/* Both trees stand at the same place and remember the same; of a kind that grows, as much. */
static inline bool same_trees(const pf_state *a, const pf_state *b) {
    bool same = a->kind == b->kind && a->position == b->position && a->recent == b->recent;
    bool whole = same && a->kind && !a->kind->grows;
    for (int i = 0; whole && i < PF_STATE_TENSORS; i++) {
        if (!a->tensor[i]) continue;
        size_t bytes = (size_t)pf_tensor_numel(a->tensor[i]) * pf_dtype_size(a->tensor[i]->dtype);
        const void *x = pf_tensor_data(a->tensor[i]), *y = pf_tensor_data(b->tensor[i]);
        same = same && memcmp(x, y, bytes) == 0;
    }
    for (int i = 0; i < a->n_child; i++) {
        if (a->child[i]) same = same && same_trees(a->child[i], b->child[i]);
    }
    return same;
}

/* A stream of the sequence's has the state of the one beside it. */
static inline void check_state(const clients *c, const client *q) {
    pf_stream *out = NULL;
    CHECK_OK(pf_serving_fork(&out, c->serving, q->id));
    CHECK(out && same_trees(out->state, q->alone->state));
    pf_stream_close(&out);
}

static inline void check_made(clients *c, const pf_served *made) {
    client *q = client_of(c, made->id);
    pf_sequence_info info = {.size = sizeof info};
    int32_t token = -1;
    CHECK(q != NULL);
    if (!q) return;
    int status = next_alone(c, q, &token);
    CHECK_OK(pf_serving_sequence(&info, c->serving, q->id));
    CHECK(info.end == made->end);
    if (made->end == PF_ENDED_FAILED) {
        CHECK(status < 0 && made->token == -1);
        CHECK(pf_serving_failure(c->serving, q->id) == status);
        c->failed++;
        return;
    }
    CHECK_OK(status);
    CHECK(token == made->token && token == info.last && same_logits(c, q));
    q->last = token;
    q->tokens++;
    c->made++;
    pf_end end = token == q->stop                      ? PF_ENDED_STOP
                 : q->most > 0 && q->tokens >= q->most ? PF_ENDED_TOKENS
                                                       : PF_ONGOING;
    CHECK(made->end == (int32_t)end && info.tokens == q->tokens);
    CHECK(info.position == pf_stream_position(q->alone) && info.waiting == 0);
    CHECK(info.bytes == pf_stream_bytes(q->alone));
    c->stopped += end != PF_ONGOING;
}

/* A step, what it made held against the streams, and those that have ended leave. */
static inline int step_all(clients *c) {
    size_t n = 0;
    int going = pf_serving_step(c->serving);
    if (going < 0) return going;
    const pf_served *made = pf_serving_made(c->serving, &n);
    for (size_t i = 0; i < n; i++) check_made(c, &made[i]);
    for (size_t i = 0; i < n; i++) {
        client *q = client_of(c, made[i].id);
        if (q && made[i].end) leave(c, q);
    }
    return going;
}

/* Sequences come and go at random. */
static inline void run_clients(clients *c, int steps) {
    for (int i = 0; i < steps; i++) {
        if (pick(c, 5) < 2 || pf_serving_count(c->serving) == 0) join_one(c);
        client *q = &c->list[pick(c, CLIENTS)];
        if (q->id && pick(c, 16) == 0) branch(c, q);
        if (q->id && q->tokens > 0 && pick(c, 3) == 0) check_state(c, q);
        if (q->id && pick(c, 10) == 0) leave(c, q);
        CHECK_OK(step_all(c));
    }
}

#endif
