/*
 * leaves_test.c - an engine that closes while a backward of it runs, by what that calls: the
 * backward ends with a failure that says so, or with that of who closed it; who watches it hears of
 * nothing any more, and may be gone; and all that is left can be released, with no byte kept.
 */
#include "autograd_support.h"

enum { N = 4 };

typedef struct {
    pf_engine *engine;
    pf_leaf_watch *watch;
    bool fails; /* behind the close */
    int runs, heard;
} closer;

static int hear(closer *c) { return c->heard++, PF_OK; }
static int hear_leaf(void *context, pf_tensor *leaf) { return (void)leaf, hear(context); }
static int hear_between(void *context) { return hear(context); }
static void hear_end(void *context, int status) { (void)status, hear(context); }

/* x * x; the second time, in backward, the engine closes, and who watched is no more. */
static int square(void *context, pf_engine *e, pf_tensor *const *in, int n, pf_tensor **y) {
    closer *c = context;
    pf_tensor *two[] = {in[0], in[0]};
    (void)n;
    if (++c->runs == 2) {
        pf_engine_close(&c->engine);
        *c->watch = (pf_leaf_watch){.context = NULL};
        c->heard = 0;
        if (c->fails) return pf_fail(PF_EHOST, "closed on purpose");
    }
    return pf_op_apply(e, pf_op_find(e, "mul"), two, 2, NULL, y);
}

static size_t kept; /* bytes that the allocator has not had back */
static void *count_bytes(void *context, void *block, size_t old, size_t bytes) {
    (void)context;
    kept += bytes - old;
    if (bytes) return realloc(block, bytes);
    free(block);
    return NULL;
}

static void test_close_within(bool fails) {
    pf_allocator allocator = {sizeof allocator, count_bytes, NULL};
    const pf_options options = {.size = sizeof options, .threads = 1, .allocator = &allocator};
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, &options));
    closer c = {.engine = e, .fails = fails};
    pf_leaf_watch watch = {hear_leaf, hear_between, hear_end, &c};
    const pf_recomputed f = {.size = sizeof f, .run = square, .context = &c};
    pf_tensor *leaf[2] = {NULL}, *x = NULL, *y = NULL, *mean = NULL;
    pf_tape *tape = NULL;
    c.watch = &watch;
    for (int i = 0; i < 2; i++) {
        CHECK_OK(pf_tensor_full(&leaf[i], e, PF_F32, 1, (int64_t[]){N}, 2));
        CHECK_OK(pf_tensor_require_grad(leaf[i], true));
    }
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_op_apply(e, pf_op_find(e, "mul"), leaf, 2, NULL, &x)); /* walked last */
    CHECK_OK(pf_recompute(&y, e, &f, &x, 1));
    CHECK_OK(pf_op_apply(e, pf_op_find(e, "mean"), &y, 1, NULL, &mean));
    pf_leaves_watch(e, &watch);
    CHECK(pf_tape_backward(tape, mean, NULL) == (fails ? PF_EHOST : PF_ESTATE));
    CHECK(strstr(pf_last_error(), fails ? "closed on purpose" : "its engine has closed"));
    CHECK(c.runs == 2 && c.heard == 0);
    CHECK(!leaf[0]->grad || leaf[0]->grad_stale);
    pf_tensor_release(&leaf[0]), pf_tensor_release(&leaf[1]);
    pf_tensor_release(&x), pf_tensor_release(&y), pf_tensor_release(&mean);
    pf_tape_close(&tape);
    CHECK(kept == 0);
}

int main(void) {
    test_close_within(true);
    test_close_within(false);
    return CHECK_REPORT();
}
