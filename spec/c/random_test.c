/*
 * random_test.c - random numbers that an engine is lent for a while (pf_random): its own are what
 * they would be without them, whatever is drawn, seeded or built meanwhile.
 */
#include "draw.h"

static pf_engine *open_engine(uint64_t seed) {
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1, options.seed = seed;
    CHECK_OK(pf_engine_open(&engine, &options));
    return engine;
}

static uint64_t seed_of(pf_engine *engine) {
    pf_info info = {.size = sizeof info};
    CHECK_OK(pf_engine_info(engine, &info));
    return info.seed;
}

/* The first three numbers of an engine of this seed. */
static void first_three(uint64_t seed, float out[3]) {
    pf_engine *engine = open_engine(seed);
    for (int i = 0; i < 3; i++) out[i] = draw(engine);
    pf_engine_close(&engine);
}

static void test_apart(void) {
    float own[3], other[3];
    first_three(7, own), first_three(9, other);
    CHECK(own[0] != own[1] && own[0] != other[0]);
    pf_engine *engine = open_engine(7);
    pf_random *a = NULL, *b = NULL;
    CHECK_OK(pf_random_open(&a, engine));
    CHECK(draw(engine) == own[0]);
    CHECK_OK(pf_random_open(&b, engine)); /* from the seed, whatever was drawn */
    CHECK(pf_engine_lend_random(engine, a) == NULL);
    CHECK(draw(engine) == own[0]);
    pf_seed(engine, 9);
    CHECK(draw(engine) == other[0] && seed_of(engine) == 9);
    CHECK(pf_engine_lend_random(engine, b) == a); /* one inside the other */
    CHECK(draw(engine) == own[0] && draw(engine) == own[1]);
    CHECK(pf_engine_lend_random(engine, b) == b);
    CHECK(pf_engine_lend_random(engine, NULL) == b); /* a host's function, inside both */
    CHECK(draw(engine) == own[1] && seed_of(engine) == 7);
    CHECK(pf_engine_lend_random(engine, a) == NULL);
    CHECK(draw(engine) == other[1]);
    CHECK(pf_engine_lend_random(engine, NULL) == a);
    CHECK(draw(engine) == own[2]);
    pf_random_close(&a);
    pf_random_close(&b);
    pf_random_close(&b);
    pf_engine_close(&engine);
}

/* Closed while it is lent, handed to another engine, or outliving its own. */
static void test_ends(void) {
    float own[3];
    first_three(7, own);
    pf_engine *engine = open_engine(7), *other = open_engine(7);
    pf_random *a = NULL, *b = NULL;
    CHECK_OK(pf_random_open(&a, engine));
    pf_engine_lend_random(engine, a);
    pf_seed(engine, 1);
    CHECK_OK(pf_random_open(&b, engine)); /* from the engine's own seed, also now */
    pf_random_close(&a);
    CHECK(draw(engine) == own[0]);
    CHECK(pf_engine_lend_random(other, b) == NULL && pf_engine_lend_random(other, NULL) == NULL);
    CHECK(draw(other) == own[0]);
    pf_engine_lend_random(engine, b);
    CHECK(draw(engine) == own[0]);
    pf_engine_close(&other);
    pf_engine_close(&engine);
    pf_random_close(&b);
    CHECK_FAILS(PF_EINVAL, pf_random_open(&b, NULL));
    CHECK(!b && pf_engine_lend_random(NULL, NULL) == NULL);
}

int main(void) {
    test_apart();
    test_ends();
    return CHECK_REPORT();
}
