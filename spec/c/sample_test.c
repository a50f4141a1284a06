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
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
