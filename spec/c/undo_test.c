/*
 * undo_test.c - a call that moves a stream or a state on is all or nothing. Every allocation of
 * it fails once, and a cancel comes at every allocation and inside every task; whatever it was,
 * the stream is what it was before the call to the bit, goes on with the bits of one that was never
 * interrupted, and so does a second try.
 * In LIVING_IN_A_HOST.md: [ends.4].
 */
#include "counting.h"
#include "host.h"
#include "nn_support.h"

enum { V = 11, MORE = 3 };

/* ---- what strikes ---- */

/* A tick is an allocation, a loop inside a task, or a call of a layer of the host. */
static struct {
    host_memory memory;
    atomic_int cancel;
    long ticks, at; /* at: the tick at which the cancel comes; 0: none */
    const pf_kern *kern;
} strike;

static void tick(void) {
    if (++strike.ticks == strike.at) atomic_store(&strike.cancel, 1);
}

static void *resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    if (!block) tick();
    return host_resize(context, block, old_bytes, bytes);
}

static void tick_scale(int64_t n, float a, const float *x, float *y) {
    tick();
    strike.kern->scale(n, a, x, y);
}

static float tick_sumsq(int64_t n, const float *x) {
    tick();
    return strike.kern->sumsq(n, x);
}

static float tick_softmax(int64_t n, const float *x, float *y) {
    tick();
    return strike.kern->softmax(n, x, y);
}

static pf_engine *open_engine(pf_kern *kern) {
    pf_options options = host_options(&strike.memory);
    pf_engine *e = NULL;
    strike.memory.allocator.resize = resize;
    options.threads = 1;
    options.seed = 3;
    options.cancel = &strike.cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    strike.kern = e->kern;
    *kern = *e->kern;
    kern->scale = tick_scale, kern->sumsq = tick_sumsq, kern->softmax = tick_softmax;
    e->kern = kern;
    return e;
}

static void close_engine(pf_engine **e) {
    (*e)->kern = strike.kern;
    pf_engine_close(e);
    CHECK(strike.memory.blocks == 0 && strike.memory.wrong == 0);
}

/* The n-th allocation from now on fails, or the cancel comes at the n-th tick. What lies in the
 * heap's cache would not be asked for. */
static void arm(pf_engine *e, bool cancel, long n) {
    pf_heap_trim(e->heap);
    strike.ticks = 0;
    strike.at = cancel ? n : 0;
    strike.memory.fail_at = cancel ? 0 : strike.memory.calls + n;
}

static void disarm(void) {
    strike.at = 0, strike.memory.fail_at = 0;
    atomic_store(&strike.cancel, 0);
}

/* ---- models ---- */

/* A layer of the host that adds to x how often it was called, and a map of the host's; each fails
 * while *context. */
static int count_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    const bool *fails = context;
    int call = count_call(state);
    tick();
    if (fails && *fails) return PF_EHOST;
    return pf_affine(y, e, x, 1, 0.01 * call);
}

static int ticking_map(void *context, pf_engine *e, pf_side side, pf_tensor *x, pf_tensor **phi) {
    const bool *fails = context;
    (void)side;
    tick();
    if (fails && *fails) return pf_fail(PF_EHOST, "the map says no");
    return sigmoid_map(e, x, phi);
}

static pf_kernel *open_map(pf_engine *e, bool *fails) {
    pf_host_map map = {.size = sizeof map, .map = ticking_map, .context = fails};
    pf_kernel *kernel = NULL;
    CHECK_OK(pf_kernel_open_host(&kernel, e, "mine", &map));
    return kernel;
}

/* embedding, a layer of the host, attention by a map of the host's, the same once more, a head:
 * what fails in the second attention finds the first one moved on. */
static pf_module *host_chain(pf_engine *e, const pf_host_layer *layer) {
    pf_module *part[6] = {NULL}, *m = NULL;
    const char *attention = "{'dim': 8, 'heads': 2, 'causal': true, 'kernel': {'name': 'mine'}}";
    part[0] = layer_of(e, "embedding", "{'vocab': 11, 'dim': 8}");
    CHECK_OK(pf_module_host(&part[1], e, "counter", layer, NULL, 0));
    part[2] = layer_of(e, "attention", attention);
    CHECK_OK(pf_module_host(&part[3], e, "counter", layer, NULL, 0));
    part[4] = layer_of(e, "attention", attention);
    part[5] = layer_of(e, "linear", "{'from': 8, 'to': 11}");
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, part, 6));
    for (int i = 0; i < 6; i++) pf_module_release(&part[i]);
    return m;
}

/* Every attention, and every layer that remembers something; about how many ticks a call has for
 * one of the first's. */
static const struct {
    const char *options;
    long ticks;
} models[] = {
    {"'causal': true, 'conv': 3, 'decay': 0.1, 'kernel': {'name': 'softmax', 'features': 8}, "
     "'ngrams': {'longest': 3, 'buckets': 16, 'width': 4}, 'positions': 'sinusoidal'",
     1},
    {"'causal': true, 'kernel': {'name': 'exact'}, 'conv': 4, 'reversible': true", 12},
    {"'causal': true, 'attention': 'sliding', 'attention_options': {'window': 3}, "
     "'positions': 'relative'",
     12},
    {"'causal': true, 'attention': 'lsh', 'attention_options': {'window': 3, 'rounds': 2, "
     "'buckets': 4}",
     12},
    {"'causal': true, 'attention': 'identity', 'conv': 2, 'kv_heads': 1, 'norm': 'rmsnorm', "
     "'positions': 'learned'",
     1},
    {"'causal': true, 'shared': true, 'token_shift': true, 'residual': 'post', 'head': "
     "'transform', 'embedding_dim': 8, 'positions': 'axial', 'axes': [4, 4, 4], 'kernel': "
     "{'features': 8}",
     2},
};

/* ---- streams ---- */

static int32_t id_of(int64_t i) { return (int32_t)((i * 7 + i / 5) % V); }

/* The call under test: n tokens are fed, or (0) one, with the next one drawn. */
static int call(pf_stream *s, int n) {
    int32_t *ids = malloc(sizeof *ids * (size_t)(n + 1)), next;
    for (int i = 0; i <= n; i++) ids[i] = id_of(i + 3);
    int status = n > 0 ? pf_stream_feed(s, ids, (size_t)n) : pf_stream_next(s, 4, NULL, &next);
    free(ids);
    return status;
}

static bool same_logits(const pf_stream *a, const pf_stream *b) {
    int64_t n, other;
    const float *x = pf_stream_logits(a, &n), *y = pf_stream_logits(b, &other);
    if (!x || !y) return !x && !y;
    return n == other && memcmp(x, y, (size_t)n * sizeof *x) == 0;
}

static bool same_place(const pf_stream *a, const pf_stream *b) {
    return pf_stream_position(a) == pf_stream_position(b) && same_logits(a, b);
}

/* The logits that stand, and those of a few calls more, which move the stream on. */
static void follow(pf_stream *s, float course[MORE + 1][V]) {
    for (int i = 0; i <= MORE; i++) {
        const float *logits = pf_stream_logits(s, NULL);
        CHECK(logits != NULL);
        if (logits) memcpy(course[i], logits, sizeof course[i]);
        if (i < MORE) CHECK_OK(call(s, i == 1 ? 2 : 0));
    }
}

static bool same_course(pf_stream *s, float want[MORE + 1][V]) {
    float course[MORE + 1][V];
    follow(s, course);
    return memcmp(course, want, sizeof course) == 0;
}

/* One try, struck at n; true when it was done before. What it left shows in the second try and in
 * all that follows. */
static bool try_call(pf_engine *e, const pf_stream *before, float after[MORE + 1][V], int tokens,
                     bool cancel, long n) {
    pf_stream *s = NULL;
    CHECK_OK(pf_stream_fork(&s, before));
    arm(e, cancel, n);
    int status = call(s, tokens);
    bool struck = cancel ? strike.ticks >= n : strike.memory.calls >= strike.memory.fail_at;
    disarm();
    CHECK(status >= 0 || (status == (cancel ? PF_ECANCEL : PF_ENOMEM) && pf_last_error()[0]));
    if (status < 0) {
        CHECK(same_place(s, before));
        CHECK_OK(call(s, tokens));
    }
    CHECK(same_course(s, after));
    pf_stream_close(&s);
    return !struck;
}

/* Tries from the first tick to the last, but for `skip` ticks between two of a long call. */
static void sweep_from(pf_engine *e, const pf_stream *before, int tokens, long skip) {
    float after[MORE + 1][V];
    pf_stream *s = NULL;
    CHECK_OK(pf_stream_fork(&s, before));
    CHECK_OK(call(s, tokens));
    follow(s, after);
    pf_stream_close(&s);
    for (int cancel = 0; cancel < 2; cancel++) {
        long n = 1;
        while (n < 1000000 && !try_call(e, before, after, tokens, cancel, n)) n += 1 + skip;
        CHECK(n > 1 && n < 1000000);
    }
}

static void sweep(pf_engine *e, pf_module *m, int fed, int tokens, long skip) {
    pf_stream *before = NULL;
    CHECK_OK(pf_stream_open(&before, e, m));
    if (fed > 0) CHECK_OK(call(before, fed));
    for (int i = 1; i < fed; i += 2) CHECK_OK(call(before, 0));
    sweep_from(e, before, tokens, skip);
    pf_stream_close(&before);
}

static void test_streams(pf_engine *e) {
    for (int i = 0; i < PF_COUNT(models); i++) {
        pf_module *m = small_model(e, models[i].options);
        long ticks = models[i].ticks;
        fill_memory(m);
        sweep(e, m, 0, 0, 4 * ticks), sweep(e, m, 0, 3, 4 * ticks);
        sweep(e, m, 5, 0, ticks - 1), sweep(e, m, 5, 4, 3 * ticks - 1);
        if (i < 2) sweep(e, m, 5, 1025, 997 * ticks * ticks); /* a slice, and a step behind it */
        pf_module_release(&m);
    }
    pf_kernel *kernel = open_map(e, NULL);
    const pf_host_layer counter = counting_layer(count_step, NULL);
    pf_module *m = host_chain(e, &counter);
    sweep(e, m, 0, 0, 0), sweep(e, m, 5, 0, 0), sweep(e, m, 5, 3, 1);
    pf_module_release(&m);
    pf_kernel_release(&kernel);
}

/* The recent sums of 512 steps join the large ones in the step that follows. */
static void test_full(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'name': 'relu'}");
    pf_stream *before = NULL;
    CHECK_OK(pf_stream_open(&before, e, m));
    for (int i = 0; i < 512; i++) CHECK_OK(call(before, 0));
    sweep_from(e, before, 0, 2);
    pf_stream_close(&before);
    pf_module_release(&m);
}

/* ---- other failures ---- */

/* A token that there is none of, a draw that finds nothing, a layer and a map that fail. */
static void test_refused(pf_engine *e) {
    bool map_fails = false, layer_fails = false;
    const pf_host_layer host = counting_layer(count_step, &layer_fails);
    pf_kernel *kernel = open_map(e, &map_fails);
    pf_module *m = host_chain(e, &host);
    pf_stream *s = NULL, *before = NULL;
    float course[MORE + 1][V];
    int32_t next, ids[] = {1, 2, V, 4};
    uint8_t none[V] = {0};
    CHECK_OK(pf_stream_open(&s, e, m));
    CHECK_OK(call(s, 5));
    CHECK_OK(pf_stream_fork(&before, s));
    CHECK(pf_stream_feed(s, ids, 4) < 0 && same_place(s, before));
    CHECK_OK(pf_stream_allow(s, none, V));
    CHECK_FAILS(PF_EINVAL, pf_stream_next(s, 1, NULL, &next));
    CHECK(same_place(s, before));
    CHECK_OK(pf_stream_allow(s, NULL, 0));
    map_fails = true;
    CHECK_FAILS(PF_EHOST, call(s, 3));
    CHECK(same_place(s, before) && strstr(pf_last_error(), "the map says no"));
    map_fails = false, layer_fails = true; /* which leaves no message of its own */
    CHECK_FAILS(PF_EHOST, call(s, 0));
    CHECK(strstr(pf_last_error(), "counter") && !strstr(pf_last_error(), "the map says no"));
    CHECK(same_place(s, before));
    layer_fails = false;
    pf_stream *copy = NULL;
    CHECK_OK(pf_stream_fork(&copy, before));
    follow(copy, course);
    CHECK(same_course(s, course));
    pf_stream_close(&s), pf_stream_close(&before), pf_stream_close(&copy);
    pf_module_release(&m);
    pf_kernel_release(&kernel);
}

/* A layer whose state can't be copied can't be undone: every later use says so. */
static void test_broken(pf_engine *e) {
    bool layer_fails = false;
    pf_host_layer host = counting_layer(count_step, &layer_fails);
    host.fork_state = NULL;
    pf_kernel *kernel = open_map(e, NULL);
    pf_module *m = host_chain(e, &host);
    pf_stream *s = NULL, *copy = NULL;
    int32_t next;
    CHECK_OK(pf_stream_open(&s, e, m));
    layer_fails = true; /* the first token: nothing was there to be changed */
    CHECK(call(s, 3) == PF_EHOST);
    layer_fails = false;
    CHECK_OK(call(s, 3));
    layer_fails = true;
    CHECK(call(s, 3) == PF_EHOST && pf_stream_position(s) == 3);
    layer_fails = false;
    CHECK_FAILS(PF_ESTATE, call(s, 3));
    CHECK_FAILS(PF_ESTATE, call(s, 0));
    CHECK_FAILS(PF_ESTATE, pf_stream_sample(s, NULL, &next));
    CHECK_FAILS(PF_ESTATE, pf_stream_fork(&copy, s));
    CHECK_FAILS(PF_ESTATE, pf_stream_reorder(s, (int64_t[]){0}, 1));
    CHECK_FAILS(PF_ESTATE, pf_stream_save(s, "/no/such/folder/x"));
    CHECK(strstr(pf_last_error(), "interrupted"));
    pf_stream_close(&s);
    pf_module_release(&m);
    pf_kernel_release(&kernel);
}

/* The vocabulary is known when a stream opens, but where it ends in a layer of the host's. */
static void test_allow(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true");
    pf_stream *s = NULL;
    uint8_t allow[V] = {0, 1};
    int64_t n = 0;
    int32_t next;
    CHECK_OK(pf_stream_open(&s, e, m));
    CHECK(!pf_stream_logits(s, &n) && n == V);
    CHECK_FAILS(PF_ESHAPE, pf_stream_allow(s, allow, 7));
    CHECK_OK(pf_stream_allow(s, allow, V));
    CHECK_OK(pf_stream_next(s, 3, NULL, &next));
    CHECK(next == 1);
    pf_stream_close(&s);
    const pf_host_layer counter = counting_layer(count_step, NULL);
    pf_module *part[2] = {m, NULL}, *chain = NULL;
    CHECK_OK(pf_module_host(&part[1], e, "counter", &counter, NULL, 0));
    CHECK_OK(pf_module_new(&chain, e, "chain", NULL, part, 2));
    CHECK_OK(pf_stream_open(&s, e, chain));
    CHECK(!pf_stream_logits(s, &n) && n == 0);
    CHECK_OK(pf_stream_allow(s, allow, 7));
    CHECK_FAILS(PF_ESHAPE, pf_stream_next(s, 3, NULL, &next));
    CHECK(pf_stream_position(s) == 0);
    CHECK_OK(pf_stream_allow(s, NULL, 0));
    CHECK_OK(pf_stream_next(s, 3, NULL, &next));
    pf_stream_close(&s);
    pf_module_release(&chain), pf_module_release(&part[0]), pf_module_release(&part[1]);
}

/* ---- states of attention alone ---- */

static pf_state *open_alone(pf_engine *e, const char *attention, const char *own,
                            const char *kernel_options) {
    pf_config *options = own ? options_of(own) : NULL;
    pf_kernel *kernel = kernel_options ? kernel_of(e, kernel_options) : NULL;
    pf_tensor *decay = NULL;
    pf_state *s = NULL;
    CHECK_OK(pf_tensor_full(&decay, e, PF_F32, 1, (int64_t[]){2}, 0.1));
    pf_attention_state_options o = {.size = sizeof o,
                                    .attention = attention,
                                    .options = options,
                                    .kernel = kernel,
                                    .batch = 2,
                                    .heads = 2,
                                    .head_dim = 4,
                                    .value_dim = 3,
                                    .decay = decay};
    CHECK_OK(pf_attention_state_open(&s, e, &o));
    pf_config_free(options);
    pf_tensor_release(&decay);
    pf_kernel_release(&kernel);
    return s;
}

typedef enum { STEP, PREFILL, MERGE, ACTS } act;

typedef struct {
    pf_tensor *q, *k, *v; /* (2, 2, 5, width) */
} alone_rows;

/* The act on s; *out: numbers of the last position, to be freed. */
static int act_on(pf_engine *e, pf_state *s, const pf_state *later, const alone_rows *x, act what,
                  float **out) {
    pf_tensor *part[3] = {NULL}, *y = NULL;
    pf_tensor *const all[3] = {x->q, x->k, x->v};
    *out = NULL;
    if (what == MERGE) return pf_state_merge(e, s, later);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pf_tensor_view(&part[i], all[i]));
        if (what == STEP) part[i]->shape[2] = 1;
    }
    int status = (what == STEP ? pf_attention_step : pf_attention_prefill)(&y, e, s, part[0],
                                                                           part[1], part[2]);
    if (status >= 0) *out = numbers(y);
    for (int i = 0; i < 3; i++) pf_tensor_release(&part[i]);
    pf_tensor_release(&y);
    return status;
}

/* The same bits of a next step and a next prompt. */
static bool alike(pf_engine *e, const pf_state *a, const pf_state *b, const alone_rows *x) {
    bool same = pf_state_position(a) == pf_state_position(b);
    for (act what = STEP; what <= PREFILL; what++) {
        pf_state *s = NULL, *t = NULL;
        float *y = NULL, *z = NULL;
        CHECK_OK(pf_state_fork(&s, e, a));
        CHECK_OK(pf_state_fork(&t, e, b));
        CHECK_OK(act_on(e, s, NULL, x, what, &y));
        CHECK_OK(act_on(e, t, NULL, x, what, &z));
        size_t n = 2 * 2 * (what == STEP ? 1 : 5) * 3;
        same = same && memcmp(y, z, n * sizeof *y) == 0;
        free(y), free(z);
        pf_state_close(&s), pf_state_close(&t);
    }
    return same;
}

static void sweep_alone(pf_engine *e, const pf_state *before, const alone_rows *x, act what) {
    pf_state *after = NULL;
    float *out;
    CHECK_OK(pf_state_fork(&after, e, before));
    CHECK_OK(act_on(e, after, before, x, what, &out));
    free(out);
    for (int cancel = 0; cancel < 2; cancel++) {
        bool done = false;
        for (long n = 1; !done; n += 1 + n / 32) { /* exact attention has many ticks */
            pf_state *s = NULL;
            CHECK_OK(pf_state_fork(&s, e, before));
            arm(e, cancel, n);
            int status = act_on(e, s, before, x, what, &out);
            done = cancel ? strike.ticks < n : strike.memory.calls < strike.memory.fail_at;
            disarm();
            free(out);
            CHECK(alike(e, s, status < 0 ? before : after, x));
            pf_state_close(&s);
        }
    }
    pf_state_close(&after);
}

static void open_rows(alone_rows *x, pf_engine *e) {
    CHECK_OK(pf_tensor_rand(&x->q, e, 4, (int64_t[]){2, 2, 5, 4}, true));
    CHECK_OK(pf_tensor_rand(&x->k, e, 4, (int64_t[]){2, 2, 5, 4}, true));
    CHECK_OK(pf_tensor_rand(&x->v, e, 4, (int64_t[]){2, 2, 5, 3}, true));
}

static void close_rows(alone_rows *x) {
    pf_tensor_release(&x->q), pf_tensor_release(&x->k), pf_tensor_release(&x->v);
}

/* A kind, options of its own, and a kernel. */
static const char *const alone[][3] = {
    {"favor", NULL, "{'name': 'softmax', 'features': 8}"},
    {"favor", NULL, "{'name': 'relu'}"},
    {"favor", NULL, "{'name': 'mine'}"},
    {"exact", NULL, NULL},
    {"identity", NULL, NULL},
    {"sliding", "{'window': 3, 'global': 2}", NULL},
    {"fixed", "{'stride': 4, 'last': 1}", NULL},
    {"lsh", "{'window': 3, 'rounds': 2, 'buckets': 4}", NULL},
    {"routing", "{'window': 3, 'clusters': 3, 'tied': false}", NULL},
};

static void test_alone(pf_engine *e) {
    pf_kernel *mine = open_map(e, NULL);
    alone_rows x = {NULL};
    open_rows(&x, e);
    for (int i = 0; i < PF_COUNT(alone); i++) {
        pf_state *s = open_alone(e, alone[i][0], alone[i][1], alone[i][2]);
        for (int fed = 0; fed < 3; fed++) { /* nothing, a prompt, a step behind it */
            float *out;
            if (fed > 0) {
                CHECK_OK(act_on(e, s, NULL, &x, fed == 1 ? PREFILL : STEP, &out));
                free(out);
            }
            for (act what = STEP; what < ACTS; what++) sweep_alone(e, s, &x, what);
        }
        pf_state_close(&s);
    }
    close_rows(&x);
    pf_kernel_release(&mine);
}

/* s as it is before the call that lets go of rows: a fork of it does, by that very prompt. */
static void feed_to_edge(pf_engine *e, pf_state *s, const alone_rows *x) {
    int64_t gone = s->recent;
    for (bool edge = false; !edge && pf_state_position(s) < 2000;) {
        pf_state *next = NULL;
        float *out;
        CHECK_OK(pf_state_fork(&next, e, s));
        CHECK_OK(act_on(e, next, NULL, x, PREFILL, &out));
        free(out);
        edge = next->recent != gone;
        if (!edge) CHECK_OK(act_on(e, s, NULL, x, PREFILL, &out));
        if (!edge) free(out);
        pf_state_close(&next);
    }
    CHECK(pf_state_position(s) > 100 && pf_state_position(s) < 2000);
}

/* Windows that let go of rows in the call, with first tokens that stay and without; and that have
 * let go of some, merged with such. */
static void test_windows(pf_engine *e) {
    static const char *const own[] = {"{'window': 3}", "{'window': 2, 'dilation': 2, 'global': 1}"};
    alone_rows x = {NULL};
    open_rows(&x, e);
    for (int i = 0; i < PF_COUNT(own); i++) {
        pf_state *s = open_alone(e, "sliding", own[i], NULL);
        float *out;
        feed_to_edge(e, s, &x);
        sweep_alone(e, s, &x, PREFILL);
        CHECK_OK(act_on(e, s, NULL, &x, PREFILL, &out));
        free(out);
        CHECK(s->recent > 0);
        for (act what = STEP; what < ACTS; what++) sweep_alone(e, s, &x, what);
        pf_state_close(&s);
    }
    close_rows(&x);
}

int main(void) {
    pf_kern kern;
    pf_engine *e = open_engine(&kern);
    test_streams(e);
    test_full(e);
    test_refused(e);
    test_broken(e);
    test_allow(e);
    test_alone(e);
    test_windows(e);
    close_engine(&e);
    return CHECK_REPORT();
}
