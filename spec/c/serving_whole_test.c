/*
 * serving_whole_test.c - what a running batch refuses and what it survives: a step that finds no
 * memory, is cancelled or meets a limit leaves every sequence as it was; what fails of one sequence
 * ends that one, and the others go on with their bits [ends.5]; sequences move out, into files, and
 * in again.
 */
#include <unistd.h>

#include "counting.h"
#include "host.h"
#include "serving_support.h"

enum { V = 11, MORE = 4, MANY = 5 };

/* ---- all or nothing ---- */

static struct {
    host_memory memory;
    atomic_int cancel;
    long at; /* the allocation at which the cancel comes; 0: none */
} strike;

static void *resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    if (!block && strike.memory.calls + 1 == strike.at) atomic_store(&strike.cancel, 1);
    return host_resize(context, block, old_bytes, bytes);
}

static pf_engine *open_engine(void) {
    pf_options options = host_options(&strike.memory);
    pf_engine *e = NULL;
    strike.memory.allocator.resize = resize;
    options.threads = 1;
    options.seed = 3;
    options.cancel = &strike.cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

/* From the n-th allocation on they fail, or that one brings the cancel. */
static void arm(pf_engine *e, bool cancel, long n) {
    pf_heap_trim(e->heap);
    strike.at = cancel ? strike.memory.calls + n : 0;
    strike.memory.fail_at = cancel ? 0 : strike.memory.calls + n;
    strike.memory.fail_on = 1;
}

static bool disarm(void) {
    long at = strike.at ? strike.at : strike.memory.fail_at;
    strike.at = strike.memory.fail_at = 0;
    atomic_store(&strike.cancel, 0);
    return strike.memory.calls >= at;
}

/* Some that write, some that read their prompt, one that joins behind them. */
static pf_serving *some_serving(pf_engine *e, pf_module *m, int64_t *id) {
    const pf_serving_options o = {.size = sizeof o, .slice = 16};
    const pf_sampling warm = {.size = sizeof warm, .temperature = 0.8, .seed = 5};
    const pf_sequence_options sampled = {.size = sizeof sampled, .sampling = &warm};
    int32_t ids[48];
    pf_serving *s = NULL;
    for (int i = 0; i < 48; i++) ids[i] = i * 7 % V;
    CHECK_OK(pf_serving_open(&s, e, m, &o));
    for (int i = 0; i < MANY - 1; i++) {
        CHECK_OK(pf_serving_join(s, ids + i, (size_t)(3 + 5 * i), &sampled, &id[i]));
        CHECK_OK(pf_serving_step(s));
    }
    CHECK_OK(pf_serving_join(s, ids, 40, NULL, &id[MANY - 1]));
    return s;
}

typedef struct {
    pf_sequence_info info;
    float logits[V];
} place;

static void look(place *at, const pf_serving *s, int64_t id) {
    const float *logits = pf_serving_logits(s, id, NULL);
    memset(at, 0, sizeof *at);
    at->info.size = sizeof at->info;
    CHECK_OK(pf_serving_sequence(&at->info, s, id));
    if (logits) memcpy(at->logits, logits, sizeof at->logits);
}

static void look_at_all(place *at, const pf_serving *s, const int64_t *id) {
    for (int i = 0; i < MANY; i++) look(&at[i], s, id[i]);
}

/* What comes of steps first .. MORE - 1. */
static void follow(pf_serving *s, const int64_t *id, int first, place course[MORE][MANY]) {
    for (int i = first; i < MORE; i++) {
        CHECK_OK(pf_serving_step(s));
        look_at_all(course[i], s, id);
    }
}

/* The step has failed, and nothing has moved. */
static void check_same(const pf_serving *s, const int64_t *id, const place *before) {
    static place after[MANY];
    size_t made = 1;
    look_at_all(after, s, id);
    CHECK(memcmp(before, after, sizeof after) == 0);
    pf_serving_made(s, &made);
    CHECK(made == 0);
}

/* One step, struck at n; true when it was done before. A cancel may come too late to be heard. */
static bool try_step(pf_engine *e, pf_module *m, place want[MORE][MANY], bool cancel, long n) {
    static place course[MORE][MANY], before[MANY];
    int64_t id[MANY];
    pf_serving *s = some_serving(e, m, id);
    look_at_all(before, s, id);
    arm(e, cancel, n);
    int status = pf_serving_step(s);
    bool struck = disarm();
    if (status < 0) {
        CHECK(status == (cancel ? PF_ECANCEL : PF_ENOMEM) && pf_last_error()[0]);
        check_same(s, id, before);
    } else {
        CHECK(!struck || cancel);
        look_at_all(course[0], s, id);
    }
    follow(s, id, status < 0 ? 0 : 1, course);
    CHECK(memcmp(course, want, sizeof course) == 0);
    pf_serving_close(&s);
    return !struck;
}

static void sweep(pf_engine *e, const char *options) {
    static place want[MORE][MANY];
    pf_module *m = small_model(e, options);
    int64_t id[MANY];
    pf_serving *s = some_serving(e, m, id);
    follow(s, id, 0, want);
    pf_serving_close(&s);
    for (int cancel = 0; cancel < 2; cancel++) {
        long n = 1;
        while (n < 100000 && !try_step(e, m, want, cancel, n)) n += getenv("PF_LONG") ? 1 : 2;
        CHECK(n > 20 && n < 100000);
    }
    pf_module_release(&m);
}

/* Deadlines from before the first check to behind the last, wherever this machine meets them. */
static void sweep_time(pf_engine *e) {
    static place want[MORE][MANY], course[MORE][MANY], before[MANY];
    pf_module *m = small_model(e, "'causal': true, 'conv': 2, 'attentions': ['favor', 'exact']");
    int64_t id[MANY];
    pf_serving *s = some_serving(e, m, id);
    follow(s, id, 0, want);
    pf_serving_close(&s);
    int late = 0;
    for (double seconds = 1e-7; seconds < 100 && late < 3; seconds *= 1.05) {
        const pf_limits limits = {.size = sizeof limits, .seconds = seconds};
        s = some_serving(e, m, id);
        look_at_all(before, s, id);
        CHECK_OK(pf_engine_limit(e, &limits));
        int status = pf_serving_step(s);
        CHECK_OK(pf_engine_limit(e, NULL));
        CHECK(status >= 0 || status == PF_ELIMIT);
        if (status < 0) check_same(s, id, before);
        if (status >= 0) look_at_all(course[0], s, id);
        follow(s, id, status < 0 ? 0 : 1, course);
        CHECK(memcmp(course, want, sizeof course) == 0);
        late += status >= 0;
        pf_serving_close(&s);
    }
    CHECK(late == 3);
    pf_module_release(&m);
}

/* A sequence joins or it doesn't. */
static void sweep_join(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'conv': 2");
    const int32_t prompt[] = {1, 2, 3}, stop = 4;
    const uint8_t allow[V] = {1, 1, 1};
    const pf_sequence_options o = {
        .size = sizeof o, .stops = &stop, .n_stops = 1, .allow = allow, .n_allow = V};
    pf_serving *s = NULL;
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    for (long n = 1, done = 0; !done && n < 1000; n++) {
        int64_t id = -1, count = pf_serving_count(s);
        arm(e, false, n);
        int status = pf_serving_join(s, prompt, 3, &o, &id);
        done = !disarm();
        CHECK(done ? status >= 0 && id == 1 : status == PF_ENOMEM && id == 0);
        CHECK(pf_serving_count(s) == count + (done ? 1 : 0));
        CHECK_OK(pf_serving_step(s));
    }
    CHECK(pf_serving_count(s) == 1);
    pf_serving_close(&s);
    pf_module_release(&m);
}

static void test_whole(void) {
    pf_engine *e = open_engine();
    sweep(e,
          "'causal': true, 'conv': 3, 'kernel': {'name': 'softmax', 'features': 8}, 'positions': "
          "'sinusoidal'");
    sweep(e, "'causal': true, 'attentions': ['exact', 'sliding'], 'token_shift': true");
    sweep_time(e);
    sweep_join(e);
    pf_engine_close(&e);
    CHECK(strike.memory.blocks == 0 && strike.memory.wrong == 0);
}

/* ---- what fails of one ---- */

/* A layer of the host that adds how often it was called to a sequence, and at the number `ends`
 * fails. */
static int count_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    const int *ends = context;
    int call = count_call(state);
    if (call == *ends) return pf_set_error(PF_EHOST, "that was the last one");
    CHECK(pf_tensor_size(x, 0) == 1);
    return pf_affine(y, e, x, 1, 0.01 * call);
}

static int map(void *context, pf_engine *e, pf_side side, pf_tensor *x, pf_tensor **phi) {
    (void)context, (void)side;
    return sigmoid_map(e, x, phi);
}

/* embedding, the host's layer, attention by a map of the host's, a head */
static pf_module *host_model(pf_engine *e, int *ends, pf_kernel **kernel) {
    const pf_host_layer layer = counting_layer(count_step, ends);
    const pf_host_map own = {.size = sizeof own, .map = map};
    pf_module *part[4] = {NULL}, *m = NULL;
    CHECK_OK(pf_kernel_open_host(kernel, e, "mine", &own));
    part[0] = layer_of(e, "embedding", "{'vocab': 11, 'dim': 8}");
    CHECK_OK(pf_module_host(&part[1], e, "counter", &layer, NULL, 0));
    part[2] = layer_of(
        e, "attention",
        "{'dim': 8, 'heads': 2, 'rotary': true, 'causal': true, 'kernel': {'name': 'mine'}}");
    part[3] = layer_of(e, "linear", "{'from': 8, 'to': 11}");
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, part, 4));
    for (int i = 0; i < 4; i++) pf_module_release(&part[i]);
    return m;
}

static void test_host(pf_engine *e) {
    int ends = 30;
    pf_kernel *kernel = NULL;
    pf_module *m = host_model(e, &ends, &kernel);
    clients c;
    clients_open(&c, e, m, 9, 5);
    run_clients(&c, 120);
    CHECK(c.made > 120 && c.failed > 0 && c.stopped > 0);
    clients_close(&c);
    pf_module_release(&m);
    pf_kernel_release(&kernel);
}

/* The only sequence of those that a client has. */
static int64_t join_ids(pf_serving *s, const int32_t *ids, size_t n) {
    int64_t id = 0;
    CHECK_OK(pf_serving_join(s, ids, n, NULL, &id));
    return id;
}

static pf_end end_of(const pf_serving *s, int64_t id) {
    pf_sequence_info info = {.size = sizeof info};
    CHECK_OK(pf_serving_sequence(&info, s, id));
    return (pf_end)info.end;
}

static void test_apart(pf_engine *e) {
    pf_module *m = layer_of(e, "performer",
                            "{'vocab': 11, 'dim': 16, 'layers': 1, 'heads': 2, 'length': 8, "
                            "'causal': true, 'positions': 'learned'}");
    const int32_t ids[] = {1, 2, V, 3, 4, 5, 6, 7};
    const uint8_t none[V] = {0};
    pf_serving *s = NULL;
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    int64_t good = join_ids(s, ids, 2), wrong = join_ids(s, ids + 1, 2);
    int64_t late = join_ids(s, ids + 3, 5), mute = join_ids(s, ids, 1);
    CHECK_OK(pf_serving_allow(s, mute, none, V));
    CHECK(pf_serving_step(s) == 2);
    CHECK(end_of(s, wrong) == PF_ENDED_FAILED && end_of(s, mute) == PF_ENDED_FAILED);
    CHECK(pf_serving_failure(s, wrong) < 0 && strstr(pf_last_error(), "embedding"));
    CHECK_FAILS(PF_EINVAL, pf_serving_failure(s, mute));
    CHECK(strstr(pf_last_error(), "no token is allowed") && pf_serving_failure(s, good) == PF_OK);
    CHECK(pf_serving_step(s) == 2 && pf_serving_step(s) == 2 && pf_serving_step(s) == 2);
    CHECK(pf_serving_step(s) == 1 && end_of(s, late) == PF_ENDED_FAILED);
    CHECK_FAILS(PF_EINVAL, pf_serving_failure(s, late));
    CHECK(strstr(pf_last_error(), "learned table holds 8"));
    size_t n = 0;
    const pf_served *made = pf_serving_made(s, &n);
    CHECK(n == 2 && made[0].id == good && made[0].token >= 0 && made[1].token == -1);
    CHECK(pf_serving_count(s) == 4); /* until they leave */
    pf_serving_close(&s);
    pf_module_release(&m);
}

/* ---- prompts ---- */

static int64_t waiting(const pf_serving *s, int64_t id, int64_t prompt) {
    pf_sequence_info info = {.size = sizeof info};
    CHECK_OK(pf_serving_sequence(&info, s, id));
    CHECK(info.position + info.waiting == prompt + info.tokens - (info.tokens > 0));
    return info.waiting;
}

/* A step reads at most a slice, of those that came first: nobody overtakes, and who has its prompt
 * read writes meanwhile. */
static void test_slices(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true");
    const pf_serving_options o = {.size = sizeof o, .slice = 8};
    const int32_t ids[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    const int64_t prompt[3] = {10, 10, 5};
    const int64_t left[][3] = {{2, 10, 5}, {0, 10, 5}, {0, 2, 5}, {0, 0, 0}};
    const size_t tokens[] = {0, 1, 1, 3};
    pf_serving *s = NULL;
    int64_t id[3];
    CHECK_OK(pf_serving_open(&s, e, m, &o));
    for (int i = 0; i < 3; i++) id[i] = join_ids(s, ids, (size_t)prompt[i]);
    for (int t = 0; t < PF_COUNT(left); t++) {
        size_t made = 0;
        CHECK(pf_serving_step(s) == 3);
        for (int i = 0; i < 3; i++) CHECK(waiting(s, id[i], prompt[i]) == left[t][i]);
        pf_serving_made(s, &made);
        CHECK(made == tokens[t]);
    }
    pf_serving_close(&s);
    pf_module_release(&m);
}

/* One ends and stays, and in the same step another's prompt is read: as many write as before, but
 * not the same ones. */
static void test_stays(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'conv': 2");
    const pf_sequence_options few = {.size = sizeof few, .tokens = 3};
    const int32_t ids[] = {1, 2, 3};
    pf_serving *s = NULL;
    pf_stream *alone = NULL;
    int64_t ends, late;
    int32_t last;
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    CHECK_OK(pf_serving_join(s, ids, 1, &few, &ends));
    join_ids(s, ids, 2);
    CHECK(pf_serving_step(s) == 2 && pf_serving_step(s) == 2);
    late = join_ids(s, ids, 3);
    CHECK(pf_serving_step(s) == 2 && end_of(s, ends) == PF_ENDED_TOKENS);
    CHECK(pf_serving_step(s) == 2 && s->again == 0);
    CHECK_OK(pf_stream_open(&alone, e, m));
    CHECK_OK(pf_stream_feed(alone, ids, 3));
    CHECK_OK(pf_stream_sample(alone, NULL, &last));
    CHECK_OK(pf_stream_next(alone, last, NULL, &last));
    CHECK(memcmp(pf_serving_logits(s, late, NULL), pf_stream_logits(alone, NULL),
                 V * sizeof(float)) == 0);
    pf_stream_close(&alone);
    pf_serving_close(&s);
    pf_module_release(&m);
}

/* ---- moving ---- */

/* Out, into a file, and in again under another number: the course is the same. */
static void test_moves(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'conv': 3, 'attentions': ['favor', 'exact']");
    const int32_t ids[] = {1, 2, 3, 4};
    char path[] = "/tmp/servingXXXXXX";
    pf_serving *s = NULL;
    pf_stream *out = NULL, *in = NULL;
    int64_t again;
    close(mkstemp(path));
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    int64_t id = join_ids(s, ids, 4);
    join_ids(s, ids, 2);
    for (int i = 0; i < 5; i++) CHECK_OK(pf_serving_step(s));
    pf_sequence_info info = {.size = sizeof info}, other = info;
    CHECK_OK(pf_serving_sequence(&info, s, id));
    CHECK(info.position == 8 && info.tokens == 5 && info.waiting == 0);
    CHECK_OK(pf_serving_fork(&out, s, id));
    CHECK(pf_stream_position(out) == 8);
    CHECK_OK(pf_stream_feed(out, &info.last, 1));
    CHECK_OK(pf_stream_save(out, path));
    CHECK_OK(pf_stream_load(&in, e, m, path));
    CHECK_OK(pf_serving_join_stream(s, in, NULL, &again));
    for (int i = 0; i < 20; i++) {
        CHECK_OK(pf_serving_step(s));
        CHECK_OK(pf_serving_sequence(&info, s, id));
        CHECK_OK(pf_serving_sequence(&other, s, again));
        CHECK(info.last == other.last && info.position == other.position);
        CHECK(memcmp(pf_serving_logits(s, id, NULL), pf_serving_logits(s, again, NULL),
                     V * sizeof(float)) == 0);
    }
    CHECK(pf_serving_bytes(s) >= info.bytes + other.bytes);
    const uint8_t allow[V] = {[7] = 1};
    CHECK_OK(pf_stream_allow(in, allow, V));
    CHECK_OK(pf_serving_join_stream(s, in, NULL, &again));
    CHECK_OK(pf_serving_step(s));
    CHECK_OK(pf_serving_sequence(&other, s, again));
    CHECK(other.last == 7); /* what the stream allowed stands */
    pf_stream_close(&out), pf_stream_close(&in);
    pf_serving_close(&s);
    pf_module_release(&m);
    unlink(path);
}

/* A model that reads another sequence beside: each has its own. */
static void test_inputs(pf_engine *e) {
    pf_config *tree = options_of(
        "{'type': 'encoder_decoder', 'children': [{'type': 'performer', 'options': {'vocab': 11, "
        "'dim': 16, 'layers': 1, 'heads': 2}}, {'type': 'performer', 'options': {'vocab': 11, "
        "'dim': 16, 'layers': 2, 'heads': 2, 'causal': true, 'cross': true, 'attentions': "
        "['favor', 'exact']}}]}");
    pf_module *m = NULL;
    CHECK_OK(pf_module_build(&m, e, tree));
    pf_config_free(tree);
    pf_serving *s = NULL;
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    pf_stream *alone[3] = {NULL};
    int64_t id[3];
    int32_t last[3] = {1, 2, 3};
    CHECK(pf_serving_join(s, last, 1, NULL, &id[0]) < 0 && strstr(pf_last_error(), "source"));
    for (int i = 0; i < 3; i++) {
        pf_tensor *source = some_ids(e, 1, 3 + 2 * i, (uint32_t)i);
        const pf_named input = {"source", source};
        const pf_sequence_options o = {.size = sizeof o, .inputs = &input, .n_inputs = 1};
        CHECK_OK(pf_serving_join(s, &last[i], 1, &o, &id[i]));
        CHECK_OK(pf_stream_open_inputs(&alone[i], e, m, 1, &input, 1));
        pf_tensor_release(&source);
    }
    for (int t = 0; t < 12; t++) {
        CHECK_OK(pf_serving_step(s));
        for (int i = 0; i < 3; i++) {
            CHECK_OK(pf_stream_next(alone[i], last[i], NULL, &last[i]));
            CHECK(memcmp(pf_serving_logits(s, id[i], NULL), pf_stream_logits(alone[i], NULL),
                         V * sizeof(float)) == 0);
        }
    }
    for (int i = 0; i < 3; i++) pf_stream_close(&alone[i]);
    pf_serving_close(&s);
    pf_module_release(&m);
}

/* ---- misuse ---- */

static void test_refused(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true"), *other = small_model(e, "'causal': true");
    pf_module *both = small_model(e, "");
    const int32_t ids[] = {1, -2};
    pf_serving *s = NULL;
    pf_stream *stream = NULL;
    int64_t id = 5;
    pf_serving_options bad = {.size = sizeof bad, .capacity = -1};
    pf_sequence_options o = {.size = sizeof o, .tokens = -1};
    CHECK_FAILS(PF_EINVAL, pf_serving_open(&s, e, m, &bad));
    CHECK_FAILS(PF_EINVAL, pf_serving_open(&s, e, both, NULL));
    CHECK(!s && strstr(pf_last_error(), "causal"));
    CHECK_OK(pf_serving_open(&s, e, m, NULL));
    CHECK(pf_serving_step(s) == 0 && pf_serving_count(s) == 0);
    CHECK_FAILS(PF_EINVAL, pf_serving_join(s, ids, 0, NULL, &id));
    CHECK_FAILS(PF_EINVAL, pf_serving_join(s, ids, 1, &o, &id));
    o = (pf_sequence_options){.size = sizeof o, .n_stops = 1};
    CHECK_FAILS(PF_EINVAL, pf_serving_join(s, ids, 1, &o, &id));
    o = (pf_sequence_options){.size = sizeof o, .stops = ids, .n_stops = 2};
    CHECK_FAILS(PF_EINVAL, pf_serving_join(s, ids, 1, &o, &id));
    o = (pf_sequence_options){.size = sizeof o, .allow = (const uint8_t *)"abc", .n_allow = 3};
    CHECK_FAILS(PF_ESHAPE, pf_serving_join(s, ids, 1, &o, &id));
    pf_sampling cold = {.size = sizeof cold, .temperature = -1};
    o = (pf_sequence_options){.size = sizeof o, .sampling = &cold};
    CHECK_FAILS(PF_EINVAL, pf_serving_join(s, ids, 1, &o, &id));
    CHECK(id == 0 && pf_serving_count(s) == 0);
    CHECK_OK(pf_stream_open(&stream, e, m));
    CHECK_FAILS(PF_ESTATE, pf_serving_join_stream(s, stream, NULL, &id));
    pf_stream_close(&stream);
    CHECK_OK(pf_stream_open(&stream, e, other));
    CHECK_OK(pf_stream_feed(stream, ids, 1));
    CHECK_FAILS(PF_EINVAL, pf_serving_join_stream(s, stream, NULL, &id));
    pf_stream_close(&stream);
    CHECK_OK(pf_stream_open_batch(&stream, e, m, 2));
    CHECK_FAILS(PF_EINVAL, pf_serving_join_stream(s, stream, NULL, &id));
    pf_stream_close(&stream);
    CHECK_FAILS(PF_ENOTFOUND, pf_serving_leave(s, 1));
    CHECK(!pf_serving_logits(s, 1, NULL));
    pf_serving_close(&s);
    pf_module_release(&m), pf_module_release(&other), pf_module_release(&both);
}

int main(void) {
    pf_engine *e = engine_of(2, 11);
    test_whole();
    test_apart(e);
    test_host(e);
    test_slices(e);
    test_stays(e);
    test_moves(e);
    test_inputs(e);
    test_refused(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
