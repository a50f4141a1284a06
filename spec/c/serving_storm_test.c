/*
 * serving_storm_test.c - running batches in bad weather: sequences of random kinds join, leave, are
 * moved out and in again at random, and at random moments an allocation fails (once, or from then
 * on), a cancel comes, work, time or bytes run out. What fails has changed nothing and can be made
 * again; who goes on has the bits of a stream that had the model alone, on an engine where nothing
 * fails; in the end no byte is held. Two batches at a time, on engines and threads of their own,
 * share one model's weights. PF_LONG: forty times as long. A number given to it is the seed.
 * In LIVING_IN_A_HOST.md: [ends.4], [ends.5], [limits.2], [serving.1], [threads.11].
 */
#include <pthread.h>

#include "host.h"
#include "serving_support.h"

enum { V = 11, STEPS = 120, STORMS = 2 };

typedef enum { CALM, FAIL_ONCE, FAIL_ON, CANCEL, CANCEL_LATE, WORK, SECONDS, BYTES, KINDS } strike;

typedef struct {
    clients c; /* c.e is the calm engine, of the streams alone */
    pf_engine *e;
    host_memory memory, calm;
    atomic_int cancel;
    long cancel_at;               /* the allocation at which it comes; 0: none */
    long struck[KINDS], survived; /* calls that a strike ended, that went on under one */
    int left, moved;
} storm;

static void *resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    storm *s = (storm *)((char *)context - offsetof(storm, memory));
    if (!block && s->cancel_at && s->memory.calls + 1 >= s->cancel_at) atomic_store(&s->cancel, 1);
    return host_resize(&s->memory, block, old_bytes, bytes);
}

static pf_engine *open_engine(storm *s, host_memory *memory, bool stormy) {
    pf_options options = host_options(memory);
    pf_engine *e = NULL;
    options.threads = 1; /* so that allocations have an order */
    options.seed = 3;
    if (stormy) memory->allocator.resize = resize, options.cancel = &s->cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

/* ---- strikes ---- */

static void arm(storm *s, strike kind) {
    pf_info info = {.size = sizeof info};
    pf_limits limits = {.size = sizeof limits};
    if (pick(&s->c, 2)) pf_heap_trim(s->e->heap); /* else much is had from the cache */
    CHECK_OK(pf_engine_info(s->e, &info));
    long at = s->memory.calls + 1 + pick(&s->c, 1 << (1 + pick(&s->c, 8)));
    if (kind == FAIL_ONCE || kind == FAIL_ON) {
        s->memory.fail_at = at, s->memory.fail_on = kind == FAIL_ON;
    } else if (kind == CANCEL) {
        atomic_store(&s->cancel, 1);
    } else if (kind == CANCEL_LATE) {
        s->cancel_at = at;
    } else if (kind != CALM) {
        limits.work = kind == WORK ? 1 + (uint64_t)pick(&s->c, 1 << (1 + pick(&s->c, 20))) : 0;
        limits.seconds = kind == SECONDS ? 1e-9 : 0;
        limits.bytes = kind == BYTES ? info.live + (size_t)pick(&s->c, 1 << 16) + 1 : 0;
        CHECK_OK(pf_engine_limit(s->e, &limits));
    }
}

static void disarm(storm *s, strike kind, int status) {
    static const int answer[KINDS] = {PF_OK,      PF_ENOMEM, PF_ENOMEM, PF_ECANCEL,
                                      PF_ECANCEL, PF_ELIMIT, PF_ELIMIT, PF_ENOMEM};
    s->memory.fail_at = s->cancel_at = 0;
    atomic_store(&s->cancel, 0);
    CHECK_OK(pf_engine_limit(s->e, NULL));
    if (status < 0) {
        CHECK(status == answer[kind] && kind != CALM);
        s->struck[kind]++;
    } else if (kind != CALM) {
        s->survived++;
    }
}

static strike any_strike(storm *s) {
    return pick(&s->c, 2) ? CALM : (strike)(1 + pick(&s->c, KINDS - 1));
}

/* ---- what must stand ---- */

static uint64_t mix(uint64_t sum, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

/* All that can be seen of the sequences, whether they write or wait, but for the room that a failed
 * step has made for one that waits, which stays for the next try. */
static uint64_t look(const storm *s) {
    uint64_t sum = 14695981039346656037u;
    for (int i = 0; i < CLIENTS; i++) {
        int64_t n = 0, id = s->c.list[i].id;
        if (!id) continue;
        pf_sequence_info info;
        memset(&info, 0, sizeof info);
        info.size = sizeof info;
        CHECK_OK(pf_serving_sequence(&info, s->c.serving, id));
        info.bytes = 0;
        sum = mix(sum, &info, sizeof info);
        const float *logits = pf_serving_logits(s->c.serving, id, &n);
        if (logits) sum = mix(sum, logits, (size_t)n * sizeof *logits);
    }
    int64_t count = pf_serving_count(s->c.serving);
    return mix(sum, &count, sizeof count);
}

/* ---- what happens ---- */

/* Some have a token that there is none of, which ends them and nobody else. */
static void join(storm *s) {
    clients *c = &s->c;
    client q = random_client(c), *place = client_of(c, 0);
    strike kind = any_strike(s);
    if (!place) return;
    if (pick(c, 12) == 0) q.prompt[pick(c, q.n)] = V + pick(c, 1000);
    const pf_sequence_options o = options_for(&q);
    uint64_t before = look(s);
    arm(s, kind);
    int status = pf_serving_join(c->serving, q.prompt, (size_t)q.n, &o, &q.id);
    disarm(s, kind, status);
    if (status < 0) {
        CHECK(look(s) == before);
        return;
    }
    CHECK_OK(pf_stream_open(&q.alone, c->e, c->m));
    *place = q;
}

/* Out as a stream, on by a token, and in again beside the one that it came of; or it takes that
 * one's place. Its stream alone is a fork of that one's. */
static void move_out(storm *s, client *from) {
    clients *c = &s->c;
    client *place = client_of(c, 0), q = *from;
    strike kind = any_strike(s);
    pf_stream *out = NULL;
    if (!place || from->tokens == 0) return;
    const pf_sequence_options o = options_for(&q);
    uint64_t before = look(s);
    arm(s, kind);
    int status = pf_serving_fork(&out, c->serving, from->id);
    if (status >= 0) status = pf_stream_feed(out, &from->last, 1);
    if (status >= 0) status = pf_serving_join_stream(c->serving, out, &o, &q.id);
    bool last = status == PF_ESHAPE || status == PF_EINVAL; /* no position is left for it */
    disarm(s, last ? CALM : kind, last ? PF_OK : status);
    pf_stream_close(&out);
    if (status < 0) {
        CHECK(look(s) == before);
        return;
    }
    q.alone = NULL, q.n = 0, q.tokens = 0;
    CHECK_OK(pf_stream_fork(&q.alone, from->alone));
    CHECK_OK(pf_stream_feed(q.alone, &from->last, 1));
    *place = q;
    s->moved++;
    if (pick(c, 2)) leave(c, from);
}

static void step(storm *s) {
    clients *c = &s->c;
    size_t n = 1;
    strike kind = any_strike(s);
    uint64_t before = look(s);
    arm(s, kind);
    int status = pf_serving_step(c->serving);
    disarm(s, kind, status);
    const pf_served *made = pf_serving_made(c->serving, &n);
    if (status < 0) {
        CHECK(n == 0 && look(s) == before);
        CHECK_OK(step_all(c)); /* the same step again */
        return;
    }
    for (size_t i = 0; i < n; i++) check_made(c, &made[i]);
    for (size_t i = 0; i < n; i++) {
        client *q = client_of(c, made[i].id);
        if (q && made[i].end) leave(c, q);
    }
}

static void weather(storm *s, int steps) {
    clients *c = &s->c;
    for (int i = 0; i < steps; i++) {
        for (int n = pick(c, 4); n > 0; n--) join(s);
        client *q = &c->list[pick(c, CLIENTS)];
        if (q->id && pick(c, 8) == 0) move_out(s, q);
        q = &c->list[pick(c, CLIENTS)];
        if (q->id && q->tokens > 0 && pick(c, 4) == 0) check_state(c, q);
        if (q->id && pick(c, 12) == 0) leave(c, q), s->left++;
        if (pf_serving_count(c->serving) > 0) step(s);
    }
}

/* ---- two at a time, over models ---- */

typedef struct {
    storm s;
    pf_module *model;
    int slice, steps;
    uint64_t seed;
} place;

static void *run(void *context) {
    place *p = context;
    storm *s = &p->s;
    s->e = open_engine(s, &s->memory, true);
    pf_engine *calm = open_engine(s, &s->calm, false);
    clients_open(&s->c, s->e, p->model, p->slice, p->seed);
    s->c.e = calm;
    weather(s, p->steps);
    clients_close(&s->c);
    pf_engine_close(&s->e), pf_engine_close(&calm);
    CHECK(s->memory.blocks == 0 && s->memory.wrong == 0);
    CHECK(s->calm.blocks == 0 && s->calm.wrong == 0);
    return NULL;
}

static void storm_over(const char *options, int slice, int steps, uint64_t seed, long *struck) {
    pf_engine *home = engine_of(1, 11);
    pf_module *m = small_model(home, options);
    static place places[STORMS];
    pthread_t thread[STORMS];
    int failed = check_failed;
    fill_memory(m);
    for (int i = 0; i < STORMS; i++) {
        places[i] = (place){.model = m, .slice = slice, .steps = steps, .seed = seed + (uint64_t)i};
        CHECK(pthread_create(&thread[i], NULL, run, &places[i]) == 0);
    }
    for (int i = 0; i < STORMS; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < STORMS; i++) {
        const storm *s = &places[i].s;
        CHECK(s->c.made > steps / 4 && s->survived > 0 && s->left + s->moved > 0);
        for (int k = 0; k < KINDS; k++) struck[k] += s->struck[k];
    }
    if (check_failed > failed)
        fprintf(stderr, "  %s, slice %d, seed %llu\n", options, slice, (unsigned long long)seed);
    pf_module_release(&m);
    pf_engine_close(&home);
}

static const char *const models[] = {
    "'causal': true, 'kernel': {'features': 12}, 'conv': 3",
    "'causal': true, 'attention': 'sliding', 'attention_options': {'window': 9}",
    "'causal': true, 'attention': 'lsh', 'token_shift': true",
    "'causal': true, 'attentions': ['exact', 'favor'], 'kernel': {'name': 'relu', 'features': 8}, "
    "'positions': 'learned', 'local_heads': 1, 'local_window': 7",
    "'causal': true, 'kv_heads': 1, 'decay': 0.05, 'kernel': {'features': 12}, 'ngrams': "
    "{'longest': 3, 'buckets': 16, 'width': 4}",
};

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    long struck[KINDS] = {0};
    int steps = STEPS * (getenv("PF_LONG") ? 40 : 1) / (SANITIZED ? 2 : 1);
    for (int i = 0; i < PF_COUNT(models); i++)
        storm_over(models[i], i % 2 ? 7 : 0, steps, seed + 10 * (uint64_t)i, struck);
    /* Each way has ended calls; an allocation that fails once is made when the cache has gone. */
    for (int k = FAIL_ON; k < KINDS; k++) CHECK(struck[k] > 5);
    return CHECK_REPORT();
}
