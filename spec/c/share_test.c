/*
 * share_test.c - one model, many threads: a stream and an engine each, as a server has them. They
 * get the logits of one stream alone, bit by bit, while references come and go; and the thread
 * sanitizer (preset tsan) finds no race.
 * In LIVING_IN_A_HOST.md: [threads.2].
 */
#include <pthread.h>

#include "nn_support.h"

enum { V = 11, THREADS = 4, PROMPT = 45, STEPS = 12 };

typedef struct {
    pf_module *model;
    pthread_barrier_t *gate; /* all run at the same time, whatever the machine does; or NULL */
    float last[V];
    int bad;
} reader;

static void pass(const reader *r) {
    if (r->gate) pthread_barrier_wait(r->gate);
}

/* A prompt, then greedy steps; on an engine of its own with `threads` threads. */
static int read_model(reader *r, int threads) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    pf_stream *s = NULL, *fork = NULL;
    int32_t ids[PROMPT], token = 3;
    for (int i = 0; i < PROMPT; i++) ids[i] = i * 7 % V;
    options.threads = threads;
    int bad = pf_engine_open(&e, &options) < 0;
    pass(r);
    bad += pf_stream_open(&s, e, r->model) < 0 || pf_stream_feed(s, ids, PROMPT) < 0;
    bad += pf_stream_fork(&fork, s) < 0;
    for (int i = 0; i < STEPS && !bad; i++) bad += pf_stream_next(s, token, NULL, &token) < 0;
    if (!bad) memcpy(r->last, pf_stream_logits(s, NULL), sizeof r->last);
    pf_stream_close(&fork), pf_stream_close(&s);
    pass(r);
    pf_engine_close(&e);
    return bad;
}

static atomic_int reading;

static void *read_in_thread(void *context) {
    reader *r = context;
    r->bad = read_model(r, 2);
    pf_module_release(&r->model);
    atomic_fetch_sub(&reading, 1);
    return NULL;
}

/* References to every weight come and go while the others read: nobody's header is a plain copy. */
static void count_references(pf_module *model) {
    int n = pf_module_tensor_count(model);
    for (int i = 0; atomic_load(&reading) > 0; i = (i + 1) % n) {
        pf_tensor *t = NULL;
        if (pf_module_tensor_at(model, i, NULL, &t, NULL) < 0) break;
        pf_tensor *held = pf_tensor_retain(t);
        pf_tensor_release(&held);
    }
}

static void share(pf_module *model) {
    reader alone = {.model = model}, others[THREADS];
    pthread_t thread[THREADS];
    pthread_barrier_t gate;
    pthread_barrier_init(&gate, NULL, THREADS);
    CHECK(read_model(&alone, 1) == 0);
    atomic_store(&reading, THREADS);
    for (int i = 0; i < THREADS; i++) {
        others[i] = (reader){.model = pf_module_retain(model), .gate = &gate};
        CHECK(pthread_create(&thread[i], NULL, read_in_thread, &others[i]) == 0);
    }
    count_references(model);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(others[i].bad == 0);
        CHECK(memcmp(others[i].last, alone.last, sizeof alone.last) == 0);
    }
    pthread_barrier_destroy(&gate);
}

int main(void) {
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        pf_engine *e = engine_of(2, 11);
        pf_module *model = small_model(e, causal_kinds[i]);
        pf_engine_close(&e); /* the model outlives it */
        share(model);
        pf_module_release(&model);
    }
    return CHECK_REPORT();
}
