/*
 * logger_test.c - a logger of the host's that calls back: it opens another engine and loads there
 * what made the first one speak, which speaks again; it runs ops and loads on the engine that is
 * speaking; it leaves an error of its own. The call that it interrupts answers what it answers to a
 * logger that only listens, with its own message where it fails. And texts of failures that come
 * from deep within: long ones, with signs of formats and of places, through nested layers of the
 * host's and of the engine's.
 * In LIVING_IN_A_HOST.md: [ends.3], [callbacks.1], [callbacks.4], [threads.2].
 */
#include <sys/stat.h>

#include "nn_support.h"
#include "scratch.h"

enum { DEEPEST = 3, LAYERS = 40 };

static char dir[300];
static const char *run; /* whose newest checkpoint is damaged */

/* ---- the logger ---- */

static struct {
    bool talks; /* it calls back, and does not only listen */
    pf_engine *speaking;
    int depth, deepest, heard, bad;
    char text[1024];
} host;

static int load_elsewhere(void);

static int work_here(pf_engine *e) {
    const int64_t n = 100;
    pf_tensor *x = NULL, *y = NULL;
    double got = 0;
    int bad = pf_tensor_full(&x, e, PF_F32, 1, &n, 2) < 0 || pf_affine(&y, e, x, 3, 1) < 0;
    bad = bad || pf_tensor_get(y, 99, &got) < 0 || got != 7;
    pf_tensor_release(&x), pf_tensor_release(&y);
    return bad;
}

/* The checkpoint that is whole, by its own name, which nothing is said of. */
static int load_here(pf_engine *e) {
    pf_module *m = NULL;
    int bad = pf_model_load(&m, e, scratch_path("%s/step-1", run)) < 0;
    pf_module_release(&m);
    return bad;
}

static void on_log(void *context, pf_log_level level, const char *message) {
    (void)context, (void)level;
    host.heard++;
    snprintf(host.text, sizeof host.text, "%s", message);
    if (!host.talks || host.depth == DEEPEST) return;
    pf_engine *e = host.speaking;
    host.depth++;
    if (host.depth > host.deepest) host.deepest = host.depth;
    host.bad += work_here(e) + load_here(e) + load_elsewhere();
    host.speaking = e;
    host.depth--;
    /* What was said stands where it was: the engine's text is not written over by ours. */
    host.bad += strcmp(message, "") == 0 || pf_set_error(PF_EHOST, "%n%s the logger's") != PF_EHOST;
}

static pf_engine *open_engine(void) {
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    o.threads = 2, o.seed = 3;
    o.log = on_log;
    CHECK_OK(pf_engine_open(&e, &o));
    return e;
}

static int load_elsewhere(void) {
    pf_engine *e = open_engine();
    pf_module *m = NULL;
    host.speaking = e;
    int bad = pf_model_load(&m, e, run) < 0;
    pf_module_release(&m);
    pf_engine_close(&e);
    return bad;
}

static void listen(pf_engine *e, bool talks) {
    memset(&host, 0, sizeof host);
    host.speaking = e, host.talks = talks;
}

/* ---- what it interrupts ---- */

static void damage(const char *file) { CHECK(truncate(scratch_path("%s/%s", run, file), 60) == 0); }

static float *logits_of(pf_engine *e, bool talks) {
    pf_module *m = NULL;
    listen(e, talks);
    CHECK_OK(pf_model_load(&m, e, run));
    CHECK(host.heard > 0 && host.bad == 0 && strstr(host.text, "step-2"));
    CHECK(host.deepest == (talks ? DEEPEST : 0));
    pf_tensor *x = some_ids(e, 1, 20, 1);
    float *out = forward_of(e, m, x, NULL, NULL);
    pf_tensor_release(&x);
    pf_module_release(&m);
    return out;
}

static void test_loads(void) {
    pf_engine *e = open_engine(), *other = open_engine();
    damage("step-2/model.safetensors");
    float *want = logits_of(e, false), *got = logits_of(e, true), *more = logits_of(other, true);
    CHECK(memcmp(want, got, 20 * 11 * sizeof *want) == 0);
    CHECK(memcmp(want, more, 20 * 11 * sizeof *want) == 0);
    free(want), free(got), free(more);
    pf_engine_close(&other);

    /* Nothing is left to fall back to: the message is the load's, whatever the logger has left. */
    char first[2048];
    pf_module *m = NULL;
    damage("LATEST"), damage("step-1/model.safetensors");
    CHECK(scratch_write(scratch_path("%s/LATEST", run), "nonsense", 8) == 0);
    listen(e, false);
    int status = pf_model_load(&m, e, run);
    snprintf(first, sizeof first, "%s", pf_last_error());
    CHECK(status == PF_EFORMAT && host.heard > 0 && strstr(first, "damaged too"));
    listen(e, true);
    host.depth = DEEPEST - 1; /* where it loads elsewhere nothing is left either */
    CHECK(pf_model_load(&m, e, run) == status);
    CHECK(strcmp(first, pf_last_error()) == 0);
    pf_engine_close(&e);
}

/* ---- texts from deep within ---- */

static char long_text[6000];

static int fails(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    (void)e, (void)x, (void)pass, (void)y;
    return pf_set_error(PF_EHOST, context);
}

/* Asks the next one, whose failure it hands on with a text of its own, or with none. */
static int asks(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    int status = pf_module_forward(y, e, context, x, pass);
    return status < 0 ? pf_set_error(status, pf_last_error()) : status;
}

static pf_module *host_layer(pf_engine *e, const char *name, pf_module *child, char *text) {
    const pf_host_layer layer = {.size = sizeof layer,
                                 .forward = child ? asks : fails,
                                 .context = child ? (void *)child : (void *)text};
    pf_module *m = NULL;
    CHECK_OK(pf_module_host(&m, e, name, &layer, child ? &child : NULL, child ? 1 : 0));
    pf_module_release(&child);
    return m;
}

/* Layers of the engine's and of the host's by turns around one that fails. */
static int fail_within(pf_engine *e, char *text) {
    pf_tensor *x = NULL, *y = NULL;
    pf_module *m = host_layer(e, "%s%n", NULL, text), *around = NULL;
    for (int i = 0; i < LAYERS; i++) {
        if (i % 8 == 7) {
            m = host_layer(e, "a layer of the host's, %d", m, NULL);
            continue;
        }
        CHECK_OK(pf_module_new(&around, e, "residual", NULL, &m, 1));
        pf_module_release(&m);
        m = around, around = NULL;
    }
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, (int64_t[]){1, 2, 4}, 1));
    int status = pf_module_forward(&y, e, m, x, NULL);
    CHECK(!y);
    pf_tensor_release(&x);
    pf_module_release(&m);
    return status;
}

static bool is_plain(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < ' ' && *text != '\n') return false;
    return true;
}

static void test_texts(pf_engine *e) {
    char marked[] = "at \x01"
                    "3\x02 of \x01",
         percent[] = "100%s %n %", none[] = "";
    char *const texts[] = {long_text, marked, percent, none, NULL};
    memset(long_text, '%', sizeof long_text - 1);
    for (int i = 0; i < PF_COUNT(texts); i++) {
        CHECK(fail_within(e, texts[i]) == PF_EHOST);
        const char *said = pf_last_error();
        CHECK(strlen(said) < 2048 && is_plain(said) && said[0]);
        if (texts[i] == percent) CHECK(strstr(said, percent));
        if (!texts[i]) CHECK(strstr(said, pf_status_text(PF_EHOST)));
    }
}

int main(void) {
    pf_engine *e = engine_of(1, 5);
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'features': 12}");
    char place[320];
    scratch_open(dir, sizeof dir);
    snprintf(place, sizeof place, "%s/run", dir);
    run = place;
    for (uint64_t step = 1; step <= 2; step++)
        CHECK_OK(pf_checkpoint_save(e, run, step, m, NULL, NULL, NULL, 0));
    pf_module_release(&m);
    test_texts(e);
    pf_engine_close(&e);
    test_loads();
    scratch_remove(dir);
    return CHECK_REPORT();
}
