/*
 * lives_test.c - engines, models, streams and loads come and go, a thousand of each (with PF_LONG
 * ten thousand), a stream writes a hundred thousand tokens (a million), and the
 * process has no more memory and no more open files at the end than when it had warmed up.
 */
#include "lives.h"
#include "nn_support.h"
#include "scratch.h"

enum { LIVES = 1000, LONG = 10 * LIVES, WARM = 200, TOKENS = 100 };

static char dir[256], run[300];

static pf_module *model_of(pf_engine *e) {
    return small_model(e, "'causal': true, 'kernel': {'features': 8}");
}

/* ---- one life of each kind ---- */

static void live_engine(void) {
    pf_engine *e = engine_of(3, 1);
    pf_tensor *t = NULL, *y = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){1 << 17}, 2));
    CHECK_OK(pf_affine(&y, e, t, 2, 1)); /* its threads have started */
    pf_tensor_release(&t);
    pf_engine_close(&e);
    pf_tensor_release(&y); /* and the heap goes with the last of it */
}

static pf_engine *engine; /* of the others */
static pf_module *model;

static void live_model(void) {
    pf_module *m = model_of(engine);
    pf_module_release(&m);
}

static void live_stream(void) {
    pf_stream *s = NULL, *copy = NULL;
    CHECK_OK(pf_stream_open(&s, engine, model));
    CHECK_OK(pf_stream_feed(s, (int32_t[]){1, 2, 3, 4}, 4));
    CHECK_OK(pf_stream_fork(&copy, s));
    pf_stream_close(&s), pf_stream_close(&copy);
}

static pf_stream *speaker; /* of one text without an end */

static void live_tokens(void) {
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 1};
    int32_t next = 1;
    for (int i = 0; i < TOKENS; i++) {
        CHECK_OK(pf_stream_feed(speaker, &next, 1));
        CHECK_OK(pf_stream_sample(speaker, &sampling, &next));
    }
}

static void live_load(void) {
    pf_module *m = NULL;
    CHECK_OK(pf_model_load(&m, engine, run));
    pf_module_release(&m);
}

static void live_mapped(void) {
    pf_module *m = NULL;
    CHECK_OK(pf_model_load_mapped(&m, engine, run));
    pf_module_release(&m);
}

static void live_step(void) {
    pf_tape *tape = NULL;
    pf_tensor *x = some_ids(engine, 1, 9, 1), *loss = NULL;
    CHECK_OK(pf_tape_open(&tape, engine));
    CHECK_OK(pf_module_loss(&loss, engine, model, x, x, NULL));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tensor_release(&loss), pf_tensor_release(&x);
    pf_tape_close(&tape);
}

/* A call that fails leaves as little. */
static void live_failure(void) {
    pf_module *m = NULL;
    CHECK(pf_model_load(&m, engine, "/no/such/folder") == PF_ENOTFOUND);
    CHECK(pf_module_new(&m, engine, "linear", NULL, NULL, 0) == PF_EINVAL);
}

static void live(const char *what, void (*one)(void)) {
    lives_of(what, one, WARM, getenv("PF_LONG") ? LONG : LIVES);
}

int main(void) {
    scratch_open(dir, sizeof dir);
    snprintf(run, sizeof run, "%s/run", dir);
    engine = engine_of(2, 3);
    model = model_of(engine);
    CHECK_OK(pf_checkpoint_save(engine, run, 1, model, NULL, NULL, NULL, 0));
    live("engines", live_engine);
    live("models", live_model);
    live("streams", live_stream);
    CHECK_OK(pf_stream_open(&speaker, engine, model));
    live("tokens", live_tokens);
    pf_stream_close(&speaker);
    live("training steps", live_step);
    live("loads", live_load);
    live("mapped loads", live_mapped);
    live("failures", live_failure);
    pf_module_release(&model);
    pf_engine_close(&engine);
    scratch_remove(dir);
    return CHECK_REPORT();
}
