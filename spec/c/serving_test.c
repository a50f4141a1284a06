/*
 * serving_test.c - a running batch: whoever joins and leaves, every sequence has the tokens and the
 * logits of a stream of its own, bit for bit; what fails of one ends that one; and a step is all or
 * nothing, whatever it fails of.
 * In LIVING_IN_A_HOST.md: [serving.1].
 */
#include "host.h"
#include "serving_support.h"

enum { V = 11 };

/* Every attention that streams, and every layer that remembers something or knows its position. */
static const char *const models[] = {
    "'causal': true, 'attention': 'sliding', 'attention_options': {'window': 9}",
    "'causal': true, 'attention': 'sliding', 'attention_options': {'window': 5, 'dilation': 2, "
    "'global': 1}, 'positions': 'none', 'conv': 2",
    "'causal': true, 'attention': 'sliding', 'attention_options': {'window': 16}, 'positions': "
    "'relative'",
    "'causal': true, 'attention': 'strided', 'attention_options': {'stride': 6}",
    "'causal': true, 'attention': 'fixed', 'kv_heads': 1, 'positions': 'learned'",
    "'causal': true, 'attention': 'lsh', 'token_shift': true",
    "'causal': true, 'kv_heads': 1, 'decay': 0.05, 'kernel': {'name': 'softmax', 'features': 12}, "
    "'ngrams': {'longest': 3, 'buckets': 16, 'width': 4}",
    "'causal': true, 'reversible': true, 'conv': 3, 'kernel': {'name': 'softmax_hyp', 'features': "
    "8}, 'positions': 'axial_sinusoidal', 'axes': [4, 16]",
    "'causal': true, 'attentions': ['exact', 'favor'], 'kernel': {'features': 16}, 'local_heads': "
    "1, 'local_window': 7",
    "'causal': true, 'attentions': ['identity', 'strided'], 'norm': 'rmsnorm', 'kernel': {'name': "
    "'relu', 'features': 8}",
};

static void check_model(pf_engine *e, const char *options, int slice, int steps, uint64_t seed) {
    pf_module *m = small_model(e, options);
    clients c;
    int before = check_failed;
    fill_memory(m);
    clients_open(&c, e, m, slice, seed);
    run_clients(&c, steps);
    CHECK(c.made > steps / 2 && c.stopped > 0);
    /* All went in one pass, unless one of them could not go on. */
    CHECK(c.serving->again <= c.failed && (c.failed > 0 || c.serving->again == 0));
    CHECK(c.failed == 0 || strstr(options, "learned") || strstr(options, "axial"));
    if (check_failed > before) fprintf(stderr, "  %s, slice %d\n", options, slice);
    clients_close(&c);
    pf_module_release(&m);
}

static void test_bits(pf_engine *e, int steps) {
    for (int i = 0; i < PF_COUNT(models); i++) check_model(e, models[i], 0, steps, (uint64_t)i);
    for (int i = 0; i < PF_COUNT(causal_kinds); i++)
        check_model(e, causal_kinds[i], 7 + 5 * i, steps, (uint64_t)i + 100);
    check_model(e, models[0], 1, steps, 7);
}

/* The recent sums of 512 steps join the large ones, of each sequence in a step of its own, with and
 * without others that have just come. */
static void test_settling(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'decay': 0.02, 'kernel': {'name': 'softmax', "
                                  "'features': 8}");
    clients c;
    clients_open(&c, e, m, 0, 9);
    for (int i = 0; i < 530; i++) {
        if (i == 0 || i == 7 || i == 500) {
            join_one(&c);
            client *q = &c.list[(i > 0) + (i > 7)];
            CHECK_OK(pf_serving_leave(c.serving, q->id)); /* and in again, without an end */
            q->stop = -1, q->most = 0;
            const pf_sequence_options o = options_for(q);
            CHECK_OK(pf_serving_join(c.serving, q->prompt, (size_t)q->n, &o, &q->id));
        }
        CHECK_OK(step_all(&c));
    }
    CHECK(c.made > 530 + 520 && c.list[0].tokens == 530 && c.serving->again == 0);
    check_state(&c, &c.list[0]), check_state(&c, &c.list[1]);
    clients_close(&c);
    pf_module_release(&m);
}

int main(void) {
    bool more = getenv("PF_LONG") != NULL;
    pf_engine *e = engine_of(2, 11);
    test_bits(e, more ? 3000 : 150);
    test_settling(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
