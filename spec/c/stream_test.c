/* stream_test.c - streaming a model: equal to the parallel form, sampled by rule, cheap. */
#include "host.h"
#include "nn_support.h"

enum { V = 11 };

/* Prefill of `first` positions and steps for the rest against one forward. */
static void check_stream(pf_engine *e, const char *kind, int first) {
    enum { B = 2, L = 90 };
    pf_module *m = small_model(e, kind);
    if (strstr(kind, "learned")) {
        pf_module_release(&m);
        m = layer_of(e, "performer",
                     "{'vocab': 11, 'dim': 16, 'layers': 2, 'heads': 2, "
                     "'length': 90, 'causal': true, 'positions': 'learned'}");
    }
    pf_tensor *x = some_ids(e, B, L, 5), *head = some_ids(e, B, first, 0), *y = NULL;
    float *want = forward_of(e, m, x, NULL, NULL), *got = calloc(B * L * V, sizeof *got);
    for (int i = 0; i < B * first; i++) {
        pf_i32(head)[i] = pf_i32(x)[i / first * L + i % first];
    }
    pf_state *state = NULL;
    CHECK_OK(pf_module_state(&state, e, m, B));
    if (first > 0) {
        CHECK_OK(pf_module_prefill(&y, e, m, head, state));
        float *part = numbers(y);
        for (int b = 0; b < B; b++) {
            memcpy(got + b * L * V, part + b * first * V, (size_t)first * V * sizeof *got);
        }
        free(part);
        pf_tensor_release(&y);
    }
    int64_t two = B;
    pf_tensor *token = NULL;
    CHECK_OK(pf_tensor_full(&token, e, PF_I32, 1, &two, 0));
    for (int t = first; t < L; t++) {
        for (int b = 0; b < B; b++) pf_i32(token)[b] = pf_i32(x)[b * L + t];
        CHECK_OK(pf_module_step(&y, e, m, token, state));
        float *row = numbers(y);
        for (int b = 0; b < B; b++) memcpy(got + (b * L + t) * V, row + b * V, V * sizeof *got);
        free(row);
        pf_tensor_release(&y);
    }
    CHECK(pf_state_position(state) == L);
    double error = distance(got, want, B * L * V);
    /* Features of both signs: a denominator can come near 0, and rounding counts for more. */
    double limit = strstr(kind, "{'name': 'identity'}") ? 5e-5 : 1e-5;
    if (error > limit) fprintf(stderr, "  %s, prefill %d: %g\n", kind, first, error);
    CHECK(error <= limit);
    free(want), free(got);
    pf_state_close(&state);
    pf_tensor_release(&x), pf_tensor_release(&head), pf_tensor_release(&token);
    pf_module_release(&m);
}

static void test_equal(pf_engine *e) {
    static const int first[] = {0, 1, 70, 90};
    for (int i = 0; i < PF_COUNT(causal_kinds); i++) {
        for (int k = 0; k < PF_COUNT(first); k++) check_stream(e, causal_kinds[i], first[k]);
    }
}

/* A prompt longer than a slice equals its tokens one by one. */
static void test_feed(pf_engine *e) {
    enum { N = 1500 };
    pf_module *m = small_model(e, causal_kinds[5]);
    pf_stream *a = NULL, *b = NULL;
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = (i * 7 + i / 5) % V;
    CHECK_OK(pf_stream_open(&a, e, m));
    CHECK_OK(pf_stream_open(&b, e, m));
    CHECK(!pf_stream_logits(a, NULL));
    int32_t next;
    CHECK_FAILS(PF_ESTATE, pf_stream_sample(a, NULL, &next));
    CHECK_OK(pf_stream_feed(a, ids, N));
    for (int i = 0; i < N; i++) CHECK_OK(pf_stream_feed(b, ids + i, 1));
    int64_t n = 0;
    const float *la = pf_stream_logits(a, &n), *lb = pf_stream_logits(b, NULL);
    CHECK(n == V && distance(la, lb, V) <= 1e-5);
    int64_t bytes = pf_stream_bytes(a);
    CHECK_OK(pf_stream_feed(a, ids, N));
    CHECK(pf_stream_bytes(a) == bytes && bytes > 0);
    int32_t wrong = V;
    CHECK(pf_stream_feed(a, &wrong, 1) < 0);
    CHECK_FAILS(PF_EINVAL, pf_stream_feed(a, ids, (size_t)-1)); /* a difference that wrapped */
    pf_stream_close(&a), pf_stream_close(&b);
    pf_module_release(&m);
}

static int32_t draw(pf_stream *s, double temperature, int top_k, double top_p, uint64_t seed) {
    pf_sampling o = {
        .size = sizeof o, .temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = seed};
    int32_t next = -1;
    CHECK_OK(pf_stream_sample(s, &o, &next));
    return next;
}

static void test_sampling(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true");
    pf_stream *s = NULL;
    int32_t start[3] = {1, 2, 3}, best;
    CHECK_OK(pf_stream_open(&s, e, m));
    CHECK_OK(pf_stream_feed(s, start, 3));
    const float *logits = pf_stream_logits(s, NULL);
    double p[V], sum = 0;
    int order[V], seen[V] = {0};
    for (int i = 0; i < V; i++) sum += p[i] = exp(4 * logits[i]);
    for (int i = 0; i < V; i++) {
        int rank = 0;
        for (int j = 0; j < V; j++) rank += p[j] > p[i];
        order[rank] = i;
    }
    best = draw(s, 0, 0, 1, 0);
    CHECK(best == order[0] && draw(s, 1, 1, 1, 5) == best && draw(s, 1, 0, 1e-6, 9) == best);
    enum { DRAWS = 20000 };
    for (int i = 0; i < DRAWS; i++) seen[draw(s, 0.25, 0, 1, (uint64_t)i)]++;
    for (int i = 0; i < V; i++) {
        double share = p[i] / sum, sigma = sqrt(share * (1 - share) / DRAWS);
        CHECK(fabs(seen[i] / (double)DRAWS - share) < 5 * sigma + 1e-9);
    }
    /* top_k and top_p keep the likeliest only, and draw them by their shares */
    int most[V] = {0}, share[V] = {0};
    double nucleus = (p[order[0]] + p[order[1]] / 2) / sum;
    for (int i = 0; i < 2000; i++) {
        most[draw(s, 0.25, 3, 1, (uint64_t)i)]++;
        share[draw(s, 0.25, 0, nucleus, (uint64_t)i)]++;
    }
    for (int r = 0; r < V; r++) {
        CHECK((most[order[r]] > 0) == (r < 3));
        CHECK((share[order[r]] > 0) == (r < 2));
    }
    CHECK(draw(s, 0.5, 0, 1, 77) == draw(s, 0.5, 0, 1, 77));
    uint8_t allow[V] = {0};
    allow[order[5]] = 1;
    CHECK_OK(pf_stream_allow(s, allow, V));
    CHECK(draw(s, 1, 0, 1, 1) == order[5] && draw(s, 0, 0, 1, 1) == order[5]);
    allow[order[5]] = 0;
    CHECK_OK(pf_stream_allow(s, allow, V));
    int32_t next;
    CHECK_FAILS(PF_EINVAL, pf_stream_sample(s, NULL, &next));
    CHECK_FAILS(PF_ESHAPE, pf_stream_allow(s, allow, V + 1));
    CHECK_OK(pf_stream_allow(s, NULL, 0));
    pf_sampling bad = {.size = sizeof bad, .temperature = -1, .top_p = 1};
    CHECK_FAILS(PF_EINVAL, pf_stream_sample(s, &bad, &next));
    pf_stream_close(&s);
    pf_module_release(&m);
}

/* Steady decoding asks the host for nothing. */
static void test_quiet(void) {
    host_memory host = {0};
    pf_options options = host_options(&host);
    pf_engine *e = NULL;
    pf_stream *s = NULL;
    options.threads = 2;
    CHECK_OK(pf_engine_open(&e, &options));
    pf_module *m = small_model(e, "'causal': true, 'conv': 4");
    CHECK_OK(pf_stream_open(&s, e, m));
    int32_t token = 1;
    for (int i = 0; i < 4; i++) CHECK_OK(pf_stream_next(s, token, NULL, &token));
    long calls = host.calls;
    for (int i = 0; i < 40; i++) CHECK_OK(pf_stream_next(s, token, NULL, &token));
    CHECK(host.calls == calls);
    pf_stream_close(&s);
    pf_module_release(&m);
    pf_engine_close(&e);
    CHECK(host.blocks == 0 && host.bytes == 0 && host.wrong == 0);
}

/* Every allocation may fail: a status and a message, and nothing stays behind. */
static void test_poor(void) {
    int done = 0;
    for (long n = 1; n < 4000 && !done; n += 1 + n / 40) {
        host_memory host = {0};
        pf_options options = host_options(&host);
        pf_engine *e = NULL;
        pf_stream *s = NULL;
        pf_module *m = NULL;
        pf_optimizer *o = NULL;
        pf_config *small = options_of("{'vocab': 5, 'dim': 4, 'layers': 1, 'heads': 1, 'conv': 2, "
                                      "'causal': true, 'positions': 'sinusoidal', 'length': 8}");
        int32_t ids[3] = {1, 2, 3}, next;
        options.threads = 1;
        host.fail_at = n;
        host.fail_on = 1;
        int status = pf_engine_open(&e, &options);
        if (status >= 0) status = pf_module_new(&m, e, "performer", small, NULL, 0);
        if (status >= 0) status = pf_optimizer_new(&o, e, m, NULL);
        if (status >= 0) status = pf_stream_open(&s, e, m);
        if (status >= 0) status = pf_stream_feed(s, ids, 3);
        if (status >= 0) status = pf_stream_next(s, 1, NULL, &next);
        CHECK(status >= 0 || (status == PF_ENOMEM && pf_last_error()[0]));
        done = status >= 0;
        pf_stream_close(&s);
        pf_optimizer_close(&o);
        pf_module_release(&m);
        pf_engine_close(&e);
        pf_config_free(small);
        CHECK(host.blocks == 0 && host.wrong == 0);
    }
    CHECK(done);
}

/* Two engines, one set of weights; the model outlives the engine that made it. */
static void test_two_engines(void) {
    pf_engine *a = engine_of(1, 3), *b = engine_of(2, 4);
    pf_module *m = small_model(a, "'causal': true");
    pf_stream *sa = NULL, *sb = NULL;
    int32_t ids[5] = {1, 4, 2, 8, 5};
    CHECK_OK(pf_stream_open(&sa, a, m));
    CHECK_OK(pf_stream_open(&sb, b, m));
    CHECK_OK(pf_stream_feed(sa, ids, 5));
    float first[V];
    memcpy(first, pf_stream_logits(sa, NULL), sizeof first);
    pf_stream_close(&sa);
    pf_engine_close(&a);
    CHECK_OK(pf_stream_feed(sb, ids, 5));
    CHECK(memcmp(first, pf_stream_logits(sb, NULL), sizeof first) == 0);
    pf_stream_close(&sb);
    pf_engine_close(&b);
    pf_module_release(&m);
}

int main(void) {
    pf_engine *e = engine_of(1, 11);
    test_equal(e);
    test_feed(e);
    test_sampling(e);
    test_quiet();
    test_poor();
    test_two_engines();
    pf_engine_close(&e);
    return CHECK_REPORT();
}
