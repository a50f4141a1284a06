/*
 * segment_bytes_test.c - what ranks that share a row in segments say to each other: as many bytes
 * for a row of 128 positions as for one of 2,048, forward and back.
 */
#include "nn_support.h"
#include "ranks.h"
#include "sequence.h"

enum { RANKS = 4 };

typedef struct {
    const char *options;
    int64_t length;
    bool chain;
} setting;

static atomic_llong sent;
static atomic_int messages;

static void count(const ranks_end *from, char *data, size_t bytes) {
    (void)from, (void)data;
    atomic_fetch_add(&sent, (long long)bytes);
    atomic_fetch_add(&messages, 1);
}

static int train(pf_engine *e, int rank, void *context) {
    const setting *s = context;
    pf_module *m = small_model(e, s->options);
    pf_tensor *x = some_ids(e, 1, s->length, 1), *target = some_ids(e, 1, s->length, 2);
    const pf_pass pass = {.size = sizeof pass, .training = true, .step = 1};
    const pf_segmenting how = {.size = sizeof how, .segments = RANKS, .chain = s->chain};
    double loss = 0;
    (void)rank;
    int status = pf_module_backward_segments(&loss, e, m, x, target, &pass, &how);
    if (status >= 0 && !(loss > 0)) status = pf_fail(PF_ESTATE, "the loss is %g", loss);
    pf_tensor_release(&x), pf_tensor_release(&target);
    pf_module_release(&m);
    return status;
}

static long long bytes_of(setting s) {
    ranks_world w = {.ranks = RANKS, .threads = 1, .whole = true, .twist = count};
    atomic_store(&sent, 0), atomic_store(&messages, 0);
    ranks_run(&w, train, &s);
    for (int r = 0; r < RANKS; r++) {
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
        CHECK(w.status[r] == PF_OK);
    }
    return atomic_load(&sent);
}

int main(void) {
    static const char *const models[] = {
        "'causal': true, 'kernel': {'name': 'softmax', 'features': 16}, 'conv': 4",
        "'causal': true, 'kernel': {'name': 'relu'}, 'decay': 1, 'kv_heads': 1",
    };
    for (int i = 0; i < PF_COUNT(models); i++)
        for (int chain = 0; chain < 2; chain++) {
            const long long few = bytes_of((setting){models[i], 128, chain});
            const int rounds = atomic_load(&messages);
            CHECK(few > 0);
            CHECK(bytes_of((setting){models[i], 2048, chain}) == few);
            CHECK(atomic_load(&messages) == rounds);
        }
    return CHECK_REPORT();
}
