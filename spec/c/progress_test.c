/*
 * progress_test.c - what a long call is at reaches the host: of every kind of long call, on its own
 * thread, with numbers that go up to their total; no more often than it wants; and whenever it says
 * so the call ends as by a cancel, with what stood before as it was.
 * In LIVING_IN_A_HOST.md: [callbacks.6].
 */
#include <pthread.h>

#include "data_support.h"
#include "nn_support.h"
#include "performer_attention.h"

enum { SEEN = 16, V = 11 };

static struct {
    pthread_t caller;
    const char *what[SEEN]; /* that were told, each once */
    int n, calls, strangers, backwards, endless;
    uint64_t last;
    int stop_at; /* the call that says stop; 0: none */
    pf_engine *e;
} host;

static int on_progress(void *context, const char *what, uint64_t done, uint64_t total) {
    int i = 0;
    CHECK(context == &host);
    host.strangers += !pthread_equal(pthread_self(), host.caller);
    while (i < host.n && strcmp(host.what[i], what) != 0) i++;
    if (i == host.n && host.n < SEEN) host.what[host.n++] = what;
    host.backwards += total > 0 && done > total;
    host.endless += total == 0 && done > 0; /* "2160 of 0" is for what nobody can know */
    host.calls++;
    return host.stop_at > 0 && host.calls >= host.stop_at;
}

static bool was_told(const char *what) {
    for (int i = 0; i < host.n; i++) {
        if (strcmp(host.what[i], what) == 0) return true;
    }
    fprintf(stderr, "  nothing of '%s'\n", what);
    return false;
}

static pf_engine *open_telling(double every) {
    pf_options o = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    o.threads = 2, o.seed = 3;
    o.progress = on_progress, o.progress_context = &host, o.progress_every = every;
    CHECK_OK(pf_engine_open(&e, &o));
    host.caller = pthread_self();
    host.n = host.calls = host.strangers = host.backwards = host.endless = host.stop_at = 0;
    return e;
}

static int open_data(pf_data **data, pf_engine *e) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    pf_config_set_number(options, "length", 64);
    int status = pf_data_open(data, e, options);
    pf_config_free(options);
    return status;
}

static pf_module *model_of(pf_engine *e) {
    return small_model(e, "'causal': true, 'kernel': {'features': 8}");
}

/* One of each; all that is told, is. */
static void test_all(void) {
    pf_engine *e = open_telling(1e-9);
    pf_module *m = model_of(e), *loaded = NULL;
    pf_stream *s = NULL;
    pf_data *data = NULL;
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL, *x = some_ids(e, 1, 40, 1);
    pf_evaluation result = {.size = sizeof result};
    char run[64];
    int32_t ids[2000];
    for (int i = 0; i < 2000; i++) ids[i] = i % V;
    CHECK_OK(pf_tape_open(&tape, e));
    CHECK_OK(pf_module_loss(&loss, e, m, x, x, NULL));
    CHECK_OK(pf_tape_backward(tape, loss, NULL));
    pf_tape_close(&tape);
    CHECK_OK(pf_module_evaluate(&result, e, m, x, x, NULL, 16));
    snprintf(run, sizeof run, "%s/run", folder);
    CHECK_OK(pf_checkpoint_save(e, run, 1, m, NULL, NULL, NULL, 0));
    CHECK_OK(pf_model_load(&loaded, e, run));
    CHECK_OK(pf_stream_open(&s, e, m));
    CHECK_OK(pf_stream_feed(s, ids, 2000));
    CHECK_OK(open_data(&data, e));
    static const char *const all[] = {"drawing weights",    "running layers",   "going back",
                                      "going through rows", "saving weights",   "verifying",
                                      "loading weights",    "reading a prompt", "reading data"};
    for (int i = 0; i < PF_COUNT(all); i++) CHECK(was_told(all[i]));
    CHECK(host.strangers == 0 && host.backwards == 0 && host.endless == 0);
    pf_data_close(&data);
    pf_stream_close(&s);
    pf_tensor_release(&loss), pf_tensor_release(&x);
    pf_module_release(&m), pf_module_release(&loaded);
    pf_engine_close(&e);
}

/* An hour apart: nothing is told. */
static void test_seldom(void) {
    pf_engine *e = open_telling(3600);
    pf_module *m = model_of(e);
    CHECK(host.calls == 0);
    pf_module_release(&m);
    pf_engine_close(&e);
}

/* At every place where it can be ended, it ends, and a second try makes what one makes alone. */
static void test_stop(void) {
    int stops = 0;
    float want[V] = {0};
    int32_t ids[1100];
    for (int i = 0; i < 1100; i++) ids[i] = i % V;
    for (int at = 0; at >= 0; at += at / 4 + 1) {
        pf_engine *e = open_telling(1e-9);
        pf_module *m = model_of(e);
        pf_stream *s = NULL;
        CHECK_OK(pf_stream_open(&s, e, m));
        host.calls = 0, host.stop_at = at;
        int status = pf_stream_feed(s, ids, 1100);
        CHECK(at == 0 ? status == PF_OK : status == PF_OK || status == PF_ECANCEL);
        bool stopped = status < 0;
        if (stopped) CHECK(strstr(pf_last_error(), "by the host while "));
        stops += stopped;
        host.stop_at = 0;
        if (stopped) {
            CHECK(pf_stream_position(s) == 0 && !pf_stream_logits(s, NULL));
            CHECK_OK(pf_stream_feed(s, ids, 1100));
        }
        const float *logits = pf_stream_logits(s, NULL);
        if (at == 0) memcpy(want, logits, sizeof want);
        CHECK(memcmp(want, logits, sizeof want) == 0);
        pf_stream_close(&s);
        pf_module_release(&m);
        pf_engine_close(&e);
        if (at > 0 && !stopped) break;
    }
    CHECK(stops > 5);
}

int main(void) {
    begin_data_test();
    write_text("text.txt", "What a long call is at reaches the host, again and again and again.\n");
    test_all();
    test_seldom();
    test_stop();
    return end_data_test();
}
