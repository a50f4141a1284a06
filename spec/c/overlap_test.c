/*
 * overlap_test.c - what the last lane's backward completes may travel while it goes on: the same
 * bits as at the step, on any number of ranks, whichever of them do it; groups leave before the
 * backward has ended, but those of parameters that later nodes still give to; and messages that are
 * late or lost. Steps that fail: overlap_fails_test.c.
 */
#include "overlap_support.h"

/* ---- the same bits ---- */

static const training trainings[] = {
    {.model = PLAIN ", 'dropout': 0.2"},
    {.model = PLAIN ", 'recompute': true, 'dropout': 0.2"},
    {.model = PLAIN ", 'reversible': true"},
    {.model = PLAIN ", 'ngrams': {'longest': 3, 'buckets': 64}"},
    {.model = PLAIN ", 'act': 'swiglu', 'kv_heads': 1", .partly = true},
    {.model = "'causal': true, 'attention': 'exact', 'positions': 'learned'",
     .optimizer = "{'type': 'muon', 'ema': 0.01}"},
    {.model = PLAIN, .lanes = 11},
};

static void test_bits(void) {
    static const int counts[] = {2, 3, 4, 5, 8};
    for (int i = 0; i < PF_COUNT(trainings); i++) {
        training t = trainings[i];
        t.steps = 3, t.group = 300;
        const uint64_t one = bits_on(1, 1, train, &t, t.bits);
        for (int k = 0; k < 3 * PF_COUNT(counts); k++) {
            const int ranks = counts[k / 3], bits[] = {0, ALL, 0xaa};
            t.overlaps = bits[k % 3];
            const bool same = bits_on(ranks, 1 + k % 2, train, &t, t.bits) == one;
            if (!same) fprintf(stderr, "  %s: %d ranks, %x\n", t.model, ranks, t.overlaps);
            CHECK(same);
        }
    }
}

/* ---- before the end ---- */

/* Of so many groups these had left when two ranks' backward ended, in one step. */
static void check_left(const char *model, int64_t group, int least, int most) {
    training t = {.model = model, .steps = 1, .overlaps = 1, .group = group};
    bits_on(2, 1, train, &t, t.bits);
    const bool well = t.left[0] >= least && t.left[0] <= most && t.left[1] == 0;
    if (!well) fprintf(stderr, "  %s: %d of %d groups\n", model, t.left[0], t.groups);
    CHECK(well);
    CHECK(t.groups >= most);
}

static void test_leaving(void) {
    check_left(PLAIN, 1, 14, 14); /* each parameter is a group, and all have left */
    check_left(PLAIN ", 'recompute': true", 1, 14, 14);
    check_left(PLAIN ", 'reversible': true", 1, 14, 14);
    check_left(PLAIN, 1 << 20, 1, 1); /* all are one */
    check_left(PLAIN ", 'ngrams': {'longest': 2, 'buckets': 64}", 1, 10, 15);
}

/* Parameters that are given to at many places leave behind the last of them. */
typedef struct {
    pf_module *m;
    pf_tensor *leaf[64];
    int n;
} seen;

static int note_leaf(void *context, pf_tensor *leaf) {
    seen *s = context;
    for (int i = 0; i < s->n; i++)
        if (s->leaf[i] == leaf) return PF_OK;
    s->leaf[s->n++] = leaf;
    pf_tensor_clear_grad(leaf); /* whatever comes behind this is seen at the end */
    return PF_OK;
}
static int note_nothing(void *context) { return (void)context, PF_OK; }
static void note_end(void *context, int status) {
    seen *s = context;
    s->n += status < 0 ? 1000 : 0;
}

static void test_whole(void) {
    static const char *const models[] = {PLAIN, PLAIN ", 'recompute': true",
                                         PLAIN ", 'reversible': true", PLAIN ", 'tied': true"};
    for (int i = 0; i < PF_COUNT(models); i++) {
        pf_engine *e = engine_of(1, 3);
        seen s = {.m = small_model(e, models[i])};
        training t = {.model = models[i]};
        const pf_leaf_watch watch = {note_leaf, note_nothing, note_end, &s};
        pf_tape *tape = NULL;
        pf_tensor *loss = NULL;
        CHECK_OK(pf_tape_open(&tape, e));
        CHECK_OK(loss_of(e, s.m, &t, 1, 0, &loss));
        pf_leaves_watch(e, &watch);
        CHECK_OK(pf_tape_backward(tape, loss, NULL));
        int trained = 0;
        for (int k = 0; k < pf_module_tensor_count(s.m); k++) {
            pf_tensor *w;
            bool is;
            CHECK_OK(pf_module_tensor_at(s.m, k, NULL, &w, &is));
            trained += is;
            CHECK(!w->grad || w->grad_stale); /* nothing came behind it */
        }
        CHECK(s.n == trained && s.n >= 14);
        pf_tensor_release(&loss);
        pf_tape_close(&tape);
        pf_module_release(&s.m);
        pf_engine_close(&e);
    }
}

/* ---- messages that are late, lost or false; ranks that die ---- */

static void test_transport(void) {
    training t = {.model = PLAIN, .steps = 2, .overlaps = ALL, .group = 300};
    const uint64_t one = bits_on(1, 1, train, &t, t.bits);
    ranks_world late = {.ranks = 3, .threads = 1, .whole = true, .late = 0.002, .direct = true};
    ranks_run(&late, train, &t);
    for (int r = 0; r < 3; r++) CHECK(late.status[r] == PF_OK && t.bits[r] == one);
    t.steps = 4;
    t.fails = 1;
    const uint64_t none = bits_on(2, 1, train, &t, t.bits);
    for (t.fails = 1; t.fails <= 3; t.fails++) { /* what is drained comes late, too */
        ranks_run(&late, train, &t);
        for (int r = 0; r < 3; r++) {
            CHECK(late.status[r] == PF_OK && t.bits[r] == none);
            if (late.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, late.text[r]);
        }
    }
    t.fails = 0, t.steps = 2;
    for (int at = 20; at < 160; at += 9) {
        ranks_world dies = {
            .ranks = 3, .threads = 1, .whole = true, .timeout = 0.3, .dies = 1, .dies_at = at};
        ranks_run(&dies, train, &t);
        for (int r = 0; r < 3; r++) CHECK(dies.status[r] < 0 || t.bits[r] == one);
        CHECK(dies.status[0] == PF_EIO && dies.status[2] == PF_EIO);
        if (dies.status[0] != PF_EIO) fprintf(stderr, "  at %d: %s\n", at, dies.text[0]);
    }
}

int main(void) {
    test_bits();
    test_leaving();
    test_whole();
    test_transport();
    return CHECK_REPORT();
}
