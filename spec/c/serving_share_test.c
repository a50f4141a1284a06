/*
 * serving_share_test.c - one model, several engines on a thread each, every one with a running
 * batch of its own that sequences join and leave: all of them have the bits of streams, and the
 * thread sanitizer (preset tsan) finds no race [threads.11].
 */
#include <pthread.h>

#include "serving_support.h"

enum { THREADS = 3, STEPS = 25 };

typedef struct {
    pf_module *model;
    uint64_t seed;
    bool good;
} server;

/* The tokens, and a number of the logits behind each. */
typedef struct {
    int32_t token[STEPS * CLIENTS];
    float logits[STEPS * CLIENTS];
    size_t n;
} course;

static int serve(course *out, pf_engine *e, pf_module *m, uint64_t seed) {
    pf_serving *s = NULL;
    clients c = {.random = seed};
    int status = pf_serving_open(&s, e, m, NULL);
    for (int i = 0; i < STEPS && status >= 0; i++) {
        client q = random_client(&c);
        const pf_sequence_options o = options_for(&q);
        if (pf_serving_count(s) < CLIENTS - 1) {
            status = pf_serving_join(s, q.prompt, (size_t)q.n, &o, &q.id);
        }
        if (status >= 0) status = pf_serving_step(s);
        size_t n = 0;
        const pf_served *made = pf_serving_made(s, &n);
        for (size_t k = 0; k < n && status >= 0; k++) {
            out->token[out->n] = made[k].token;
            out->logits[out->n++] = pf_serving_logits(s, made[k].id, NULL)[1];
            if (made[k].end) status = pf_serving_leave(s, made[k].id);
        }
    }
    pf_serving_close(&s);
    return status;
}

static int serve_alone(course *out, const server *own, int threads) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.threads = threads;
    PF_TRY(pf_engine_open(&e, &options));
    int status = serve(out, e, own->model, own->seed);
    pf_engine_close(&e);
    return status;
}

static void *serve_in_thread(void *context) {
    server *own = context;
    course *out = calloc(1, sizeof *out), *again = calloc(1, sizeof *again);
    own->good = serve_alone(out, own, 2) >= 0 && serve_alone(again, own, 1) >= 0;
    own->good = own->good && out->n > STEPS && memcmp(out, again, sizeof *out) == 0;
    pf_module_release(&own->model);
    free(out), free(again);
    return NULL;
}

static void share(pf_module *model) {
    pthread_t thread[THREADS];
    server own[THREADS];
    for (int i = 0; i < THREADS; i++) {
        own[i] = (server){.model = pf_module_retain(model), .seed = (uint64_t)i};
        CHECK(pthread_create(&thread[i], NULL, serve_in_thread, &own[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(own[i].good);
    }
}

int main(void) {
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        pf_engine *e = engine_of(2, 11);
        pf_module *model = small_model(e, causal_kinds[i]);
        clients c;
        clients_open(&c, e, model, 0, 3); /* held against streams here, before */
        run_clients(&c, 10);
        clients_close(&c);
        pf_engine_close(&e);
        share(model);
        pf_module_release(&model);
    }
    return CHECK_REPORT();
}
