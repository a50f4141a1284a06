/*
 * sample_test.c - drawing the next token from given logits: a number of its own for every row and
 * position, the share of top_p taken of the top_k, the first of equals.
 */
#include "check.h"
#include "sample.h"

enum { B = 8, V = 16, POSITIONS = 64 };

static pf_engine *engine;

static pf_sampler sampler_of(pf_heap *heap, int64_t batch, int64_t vocab, const float *logits) {
    pf_sampler s = {0};
    CHECK_OK(pf_sampler_room(&s, heap, batch, vocab));
    for (int64_t i = 0; i < batch * vocab; i++) s.logits[i] = logits ? logits[i % vocab] : 0;
    return s;
}

/* Among V equal tokens the rows of one position, and the positions of one row, agree no more often
 * than chance: 1 in V, 5 standard deviations allowed. */
static void test_every_place_draws_anew(pf_heap *heap) {
    pf_sampler s = sampler_of(heap, B, V, NULL);
    pf_sampling o = {.size = sizeof o, .temperature = 1, .top_p = 1, .seed = 3};
    int32_t drawn[POSITIONS][B], again[B];
    for (int t = 0; t < POSITIONS; t++)
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &o, drawn[t]));
    int over_rows = 0, over_positions = 0, pairs_rows = 0, pairs_positions = 0;
    for (int t = 0; t < POSITIONS; t++) {
        for (int b = 0; b < B; b++) {
            if (b > 0) pairs_rows++, over_rows += drawn[t][b] == drawn[t][b - 1];
            if (t > 0) pairs_positions++, over_positions += drawn[t][b] == drawn[t - 1][b];
        }
    }
    double p = 1.0 / V;
    CHECK(over_rows < pairs_rows * p + 5 * sqrt(pairs_rows * p * (1 - p)));
    CHECK(over_positions < pairs_positions * p + 5 * sqrt(pairs_positions * p * (1 - p)));
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 5, &o, again));
    CHECK(memcmp(again, drawn[5], sizeof again) == 0);
    pf_sampler_free(&s, heap);
}

/* Weights 4, 3, 2, 1: of the two likeliest the first alone reaches half, of all it does not. */
static void test_top_p_of_top_k(pf_heap *heap) {
    const float logits[4] = {logf(2), logf(4), logf(1), logf(3)};
    pf_sampler s = sampler_of(heap, 1, 4, logits);
    pf_sampling both = {.size = sizeof both, .temperature = 1, .top_k = 2, .top_p = 0.5, .seed = 1};
    pf_sampling share = {.size = sizeof share, .temperature = 1, .top_p = 0.5, .seed = 1};
    int seen[4] = {0};
    int32_t id;
    for (int t = 0; t < 200; t++) {
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &both, &id));
        CHECK(id == 1);
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &share, &id));
        seen[id]++;
    }
    CHECK(seen[0] == 0 && seen[2] == 0 && seen[1] > 0 && seen[3] > 0);
    pf_sampler_free(&s, heap);
}

/* Weights 8, 4, 2, 1 at temperature 1: of a quarter of the likeliest's share or more there are 3;
 * a colder draw leaves fewer, and top_p is a share of what min_p leaves. */
static void test_min_p(pf_heap *heap) {
    const float logits[4] = {logf(2), logf(8), logf(1), logf(4)};
    pf_sampler s = sampler_of(heap, 1, 4, logits);
    pf_sampling warm = {.size = sizeof warm, .temperature = 1, .min_p = 0.249, .seed = 1};
    pf_sampling cold = warm, both = warm;
    cold.temperature = 0.5; /* weights 64, 16, 4, 1 */
    both.top_p = 0.6;       /* of 14: 8 is less, 8 + 4 is enough */
    int seen[3][4] = {{0}};
    int32_t id;
    for (int t = 0; t < 300; t++) {
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &warm, &id));
        seen[0][id]++;
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &cold, &id));
        seen[1][id]++;
        CHECK_OK(pf_sampler_draw(&s, engine, s.logits, t, &both, &id));
        seen[2][id]++;
    }
    CHECK(seen[0][2] == 0 && seen[0][0] > 0 && seen[0][1] > 0 && seen[0][3] > 0);
    CHECK(seen[1][2] == 0 && seen[1][0] == 0 && seen[1][1] > 0 && seen[1][3] > 0);
    CHECK(seen[2][2] == 0 && seen[2][0] == 0 && seen[2][1] > 0 && seen[2][3] > 0);
    double share = seen[0][1] / 300.0; /* 8 of 14, 5 standard deviations */
    CHECK(fabs(share - 8.0 / 14) < 5 * sqrt(8.0 / 14 * 6 / 14 / 300));
    warm.min_p = 1;
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 0, &warm, &id));
    CHECK(id == 1);
    pf_sampler_free(&s, heap);
}

/* A logit that was fed is divided by the penalty above 0, multiplied below; what a call feeds
 * counts for its own draw, and stands once it is kept. */
static void test_penalty(pf_heap *heap) {
    const float logits[4] = {2, 3, -1, -1.5f};
    pf_sampler s = sampler_of(heap, 2, 4, logits);
    pf_sampling o = {.size = sizeof o, .repetition_penalty = 2};
    int32_t id[2];
    const int32_t fed[2] = {1, 0};
    memcpy(s.coming, s.logits, sizeof(float) * 8);
    pf_sampler_note(&s, fed, 1, 1); /* row 0 feeds 1, row 1 feeds 0 */
    CHECK_OK(pf_sampler_draw(&s, engine, s.coming, 0, &o, id));
    CHECK(id[0] == 0 && id[1] == 1); /* 3 / 2 < 2 */
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 0, &o, id));
    CHECK(id[0] == 1 && id[1] == 1);   /* not kept yet */
    const int32_t others[2] = {9, -1}; /* no tokens of the vocabulary; the call before has failed */
    pf_sampler_note(&s, others, 1, 1);
    CHECK_OK(pf_sampler_draw(&s, engine, s.coming, 0, &o, id));
    CHECK(id[0] == 1 && id[1] == 1);
    pf_sampler_note(&s, fed, 1, 1);
    pf_sampler_keep(&s);
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 0, &o, id));
    CHECK(id[0] == 0 && id[1] == 1);
    const uint8_t low[4] = {0, 0, 1, 1};
    const int32_t third[2] = {2, 2};
    CHECK_OK(pf_sampler_allow(&s, heap, low, 4));
    pf_sampler_note(&s, third, 1, 1);
    pf_sampler_keep(&s);
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 0, &o, id));
    CHECK(id[0] == 3 && id[1] == 3); /* -1 * 2 < -1.5 */
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 0, NULL, id));
    CHECK(id[0] == 2);
    pf_sampler copy = {0};
    CHECK_OK(pf_sampler_copy(&copy, heap, &s));
    CHECK_OK(pf_sampler_draw(&copy, engine, copy.logits, 0, &o, id));
    CHECK(id[0] == 3 && id[1] == 3);
    pf_sampler_free(&copy, heap);
    pf_sampler_free(&s, heap);
}

static void test_refusals(void) {
    pf_sampling own;
    for (int i = 0; i < 5; i++) {
        pf_sampling bad = {.size = sizeof bad, .temperature = 1};
        bad.min_p = i == 0 ? -0.1 : i == 1 ? 1.5 : i == 2 ? NAN : 0;
        bad.repetition_penalty = i == 3 ? -1 : i == 4 ? INFINITY : 0;
        CHECK(pf_sampling_take(&own, &bad) == PF_EINVAL);
    }
    /* A host of before has less of the struct. */
    const pf_sampling all = {.size = offsetof(pf_sampling, min_p), .min_p = 7};
    CHECK_OK(pf_sampling_take(&own, &all));
    CHECK(own.min_p == 0 && own.repetition_penalty == 1);
}

static void test_first_of_equals(pf_heap *heap) {
    const float logits[5] = {0, 2, 1, 2, 2};
    pf_sampler s = sampler_of(heap, 2, 5, logits);
    int32_t id[2];
    CHECK_OK(pf_sampler_draw(&s, engine, s.logits, 9, NULL, id));
    CHECK(id[0] == 1 && id[1] == 1);
    pf_sampler_free(&s, heap);
}

int main(void) {
    CHECK_OK(pf_engine_open(&engine, NULL));
    pf_heap *heap = engine->heap;
    test_every_place_draws_anew(heap);
    test_top_p_of_top_k(heap);
    test_first_of_equals(heap);
    test_min_p(heap);
    test_penalty(heap);
    test_refusals();
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
