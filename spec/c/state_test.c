/* state_test.c - states as a C host has them: copies, orders, merges, files, layers of the host,
 * and what failing allocations leave behind. */
#include "host.h"
#include "nn_support.h"
#include "scratch.h"

enum { B = 2, H = 2, D = 4, DV = 3, L = 7 };
static char folder[256];

static pf_tensor *random_rows(pf_engine *e, int64_t batch, int64_t length, int64_t width) {
    int64_t shape[4] = {batch, H, length, width};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_rand(&t, e, 4, shape, true));
    return t;
}

static int open_relu(pf_state **s, pf_engine *e, double scale) {
    pf_config *options = options_of("{'name': 'relu'}");
    pf_kernel *kernel = NULL;
    CHECK_OK(pf_config_set_number(options, "scale", scale));
    CHECK_OK(pf_kernel_open(&kernel, e, options, NULL));
    pf_attention_state_options o = {
        .size = sizeof o, .kernel = kernel, .batch = B, .heads = H, .head_dim = D, .value_dim = DV};
    int status = pf_attention_state_open(s, e, &o);
    pf_kernel_release(&kernel);
    pf_config_free(options);
    return status;
}

/* Moves a state on by `length` random positions; the last out as numbers, or NULL. */
static float *move(pf_engine *e, pf_state *s, int64_t length) {
    int64_t batch = pf_state_batch(s);
    pf_tensor *q = random_rows(e, batch, length, D), *k = random_rows(e, batch, length, D);
    pf_tensor *v = random_rows(e, batch, length, DV), *out = NULL;
    float *numbers_out = NULL;
    int status = length == 1 ? pf_attention_step(&out, e, s, q, k, v)
                             : pf_attention_prefill(&out, e, s, q, k, v);
    if (status >= 0) numbers_out = numbers(out);
    pf_tensor_release(&q), pf_tensor_release(&k), pf_tensor_release(&v);
    pf_tensor_release(&out);
    return numbers_out;
}

/* Both give the same bits for the same step. */
static int same_next(pf_engine *e, pf_state *a, pf_state *b) {
    pf_state *x = NULL, *y = NULL;
    CHECK_OK(pf_state_fork(&x, e, a));
    CHECK_OK(pf_state_fork(&y, e, b));
    pf_seed(e, 99);
    float *p = move(e, x, 1);
    pf_seed(e, 99);
    float *q = move(e, y, 1);
    int same = p && q && memcmp(p, q, B * H * DV * sizeof *p) == 0;
    free(p), free(q);
    pf_state_close(&x), pf_state_close(&y);
    return same;
}

/* ---- attention alone ---- */

static void test_alone(pf_engine *e) {
    pf_state *s = NULL, *copy = NULL, *other = NULL, *loaded = NULL;
    const char *path = scratch_path("%s/alone.safetensors", folder);
    CHECK_OK(open_relu(&s, e, 1));
    CHECK_OK(open_relu(&other, e, 2));
    free(move(e, s, L)), free(move(e, s, 1));
    CHECK(pf_state_position(s) == L + 1 && pf_state_batch(s) == B);
    CHECK_OK(pf_state_fork(&copy, e, s));
    CHECK(same_next(e, s, copy) && pf_state_bytes(s) == pf_state_bytes(copy));

    static const int64_t swap[] = {1, 0}, wrong[] = {0, 2}, negative[] = {-1};
    CHECK_FAILS(PF_EINVAL, pf_state_reorder(e, s, wrong, 2));
    CHECK_FAILS(PF_EINVAL, pf_state_reorder(e, s, negative, 1));
    CHECK_FAILS(PF_EINVAL, pf_state_reorder(e, s, swap, 0));
    CHECK(same_next(e, s, copy));
    CHECK_OK(pf_state_reorder(e, s, swap, 2));
    CHECK(!same_next(e, s, copy));
    CHECK_OK(pf_state_reorder(e, s, swap, 2));
    CHECK(same_next(e, s, copy));

    pf_attention_state_options o = {.size = sizeof o};
    CHECK_OK(pf_attention_state_info(s, &o));
    CHECK(o.heads == H && o.head_dim == D && o.value_dim == DV && o.batch == B);
    CHECK(strcmp(o.attention, "favor") == 0 && o.kernel->spec.map == &pf_map_relu);
    CHECK_OK(pf_attention_state_check(e, copy, &o));
    CHECK_FAILS(PF_EINVAL, pf_attention_state_check(e, other, &o));
    CHECK_FAILS(PF_EINVAL, pf_state_merge(e, s, other));
    CHECK(same_next(e, s, copy));

    CHECK_OK(pf_state_save(e, s, path));
    CHECK_OK(pf_state_load(&loaded, e, path, NULL));
    CHECK(same_next(e, s, loaded) && pf_state_position(loaded) == L + 1);
    pf_state_close(&loaded);
    CHECK_OK(pf_state_load(&loaded, e, path, &o));
    pf_state_close(&loaded);
    CHECK_OK(pf_attention_state_info(other, &o));
    CHECK_FAILS(PF_EFORMAT, pf_state_load(&loaded, e, path, &o));
    CHECK(!loaded);
    CHECK(pf_state_save(e, s, scratch_path("%s/none/x", folder)) < 0 && pf_last_error()[0]);
    pf_state_close(&s), pf_state_close(&copy), pf_state_close(&other);
    pf_state_close(&s);
}

/* ---- a layer of the host: a counter for each sequence ---- */

typedef struct {
    int64_t n;
    int32_t seen[8];
} counter;

static int living;

static int count_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                         pf_tensor **y) {
    (void)context, (void)pass;
    return pf_affine(y, e, x, 1, 0);
}

static int count_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    (void)context;
    counter *c = *state;
    if (!c) {
        *state = c = calloc(1, sizeof *c);
        c->n = pf_tensor_size(x, 0);
        living++;
    }
    for (int64_t b = 0; b < c->n; b++) c->seen[b] += 1 + (int32_t)b;
    return pf_affine(y, e, x, 1, 0);
}

static void count_release(void *context, void *state) {
    (void)context;
    CHECK(state != NULL);
    free(state);
    living--;
}

static int count_fork(void *context, pf_engine *e, void *state, int64_t batch, const int64_t *rows,
                      int64_t n, void **copy) {
    (void)context, (void)e;
    const counter *from = state;
    counter *to = calloc(1, sizeof *to);
    CHECK(batch == from->n);
    to->n = n;
    for (int64_t b = 0; b < n; b++) to->seen[b] = from->seen[rows ? rows[b] : b];
    *copy = to;
    living++;
    return 0;
}

static int count_save(void *context, pf_engine *e, void *state, pf_named **tensors, int *n,
                      pf_config **data) {
    (void)context;
    const counter *c = state;
    *tensors = calloc(1, sizeof **tensors);
    (*tensors)[0].name = strdup("seen");
    *n = 1;
    *data = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set_number(*data, "n", (double)c->n));
    PF_TRY(pf_tensor_empty(&(*tensors)[0].tensor, e, PF_I32, 1, &c->n));
    return pf_tensor_write((*tensors)[0].tensor, c->seen, (size_t)c->n * sizeof(int32_t));
}

static int count_load(void *context, pf_engine *e, const pf_named *tensors, int n,
                      const pf_config *data, void **state) {
    (void)context, (void)e;
    CHECK(n == 1 && strcmp(tensors[0].name, "seen") == 0);
    counter *c = calloc(1, sizeof *c);
    *state = c;
    living++;
    c->n = (int64_t)pf_config_number(pf_config_get(data, "n"));
    return pf_tensor_read(tensors[0].tensor, c->seen, (size_t)c->n * sizeof(int32_t));
}

static const pf_host_layer whole = {
    .size = sizeof whole,
    .forward = count_forward,
    .step = count_step,
    .release_state = count_release,
    .fork_state = count_fork,
    .save_state = count_save,
    .load_state = count_load,
};

static pf_module *host_model(pf_engine *e, const pf_host_layer *layer) {
    pf_module *part[2] = {layer_of(e, "linear", "{'from': 4, 'to': 4}"), NULL}, *m = NULL;
    CHECK_OK(pf_module_host(&part[1], e, "counter", layer, NULL, 0));
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, part, 2));
    pf_module_release(&part[0]), pf_module_release(&part[1]);
    return m;
}

static void step_model(pf_engine *e, pf_module *m, pf_state *s) {
    int64_t shape[2] = {pf_state_batch(s), 4};
    pf_tensor *x = NULL, *y = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 2, shape, 1));
    CHECK_OK(pf_module_step(&y, e, m, x, s));
    pf_tensor_release(&x), pf_tensor_release(&y);
}

static const counter *counter_of(const pf_state *s) { return s->child[1]->host; }

static void test_host(pf_engine *e) {
    pf_module *m = host_model(e, &whole);
    pf_state *s = NULL, *copy = NULL, *early = NULL;
    const char *path = scratch_path("%s/host.safetensors", folder);
    CHECK_OK(pf_module_state(&s, e, m, B));
    CHECK_OK(pf_state_fork(&early, e, s)); /* before the layer has made its state */
    step_model(e, m, s), step_model(e, m, early);
    CHECK(living == 2 && counter_of(early)->seen[1] == 2);
    CHECK_OK(pf_state_fork(&copy, e, s));
    step_model(e, m, s);
    CHECK(living == 3 && counter_of(copy)->seen[1] == 2 && counter_of(s)->seen[1] == 4);
    static const int64_t rows[] = {1, 1, 0};
    CHECK_OK(pf_state_reorder(e, s, rows, 3));
    CHECK(living == 3 && counter_of(s)->n == 3 && counter_of(s)->seen[1] == 4 &&
          counter_of(s)->seen[2] == 2);
    CHECK_FAILS(PF_ESTATE, pf_state_save(e, s, path));
    CHECK_OK(pf_module_state_save(e, m, s, path));
    pf_state_close(&copy);
    CHECK_OK(pf_module_state_load(&copy, e, m, path));
    CHECK(counter_of(copy)->n == 3 && counter_of(copy)->seen[0] == 4);
    CHECK_FAILS(PF_ESTATE, pf_state_merge(e, s, copy));
    pf_state_close(&s), pf_state_close(&copy), pf_state_close(&early);
    CHECK(living == 0);
    pf_module_release(&m);

    /* without the calls: clear failures, nothing dropped */
    pf_host_layer plain = {.size = sizeof plain,
                           .forward = count_forward,
                           .step = count_step,
                           .release_state = count_release};
    m = host_model(e, &plain);
    CHECK_OK(pf_module_state(&s, e, m, B));
    step_model(e, m, s);
    CHECK_FAILS(PF_ESTATE, pf_state_fork(&copy, e, s));
    CHECK_FAILS(PF_ESTATE, pf_state_reorder(e, s, rows, 3));
    CHECK_FAILS(PF_ESTATE, pf_module_state_save(e, m, s, path));
    CHECK(!copy && pf_state_batch(s) == B && counter_of(s)->seen[1] == 2 && living == 1);
    pf_state_close(&s);
    CHECK(living == 0);
    pf_module_release(&m);
}

/* ---- what a kind does not take ---- */

/* A row that lacks an input refuses it by its name. */
static void test_takes(pf_engine *e) {
    pf_attention_kind kind = pf_kind_exact;
    pf_attention a = {.kind = &kind, .causal = true};
    pf_tensor *mask = NULL, *out[PF_ATTENTION_OUTPUTS] = {NULL};
    CHECK_OK(pf_tensor_full(&mask, e, PF_I32, 2, (int64_t[]){B, L}, 1));
    pf_tensor *in[PF_ATTENTION_INPUTS] = {[PF_IN_Q] = random_rows(e, B, L, D),
                                          [PF_IN_K] = random_rows(e, B, L, D),
                                          [PF_IN_V] = random_rows(e, B, L, DV),
                                          [PF_IN_MASK] = mask};
    CHECK_OK(pf_attention_settle(&a, NULL, "test"));
    CHECK_OK(pf_attend_rows(out, e, &a, in, false));
    pf_tensor_release(&out[0]);
    kind.takes &= ~PF_TAKES(MASK);
    CHECK_FAILS(PF_EINVAL, pf_attend_rows(out, e, &a, in, false));
    CHECK(!out[0] && strstr(pf_last_error(), "exact attention takes no mask"));
    in[PF_IN_MASK] = NULL;
    CHECK_OK(pf_attend_rows(out, e, &a, in, false));
    pf_tensor_release(&out[0]), pf_tensor_release(&mask);
    for (int i = 0; i < 3; i++) pf_tensor_release(&in[i]);
}

/* ---- streams ---- */

static void test_streams(pf_engine *e) {
    enum { V = 11 };
    pf_module *m = small_model(e, "'causal': true, 'conv': 3"), *other = small_model(e, "");
    pf_stream *s = NULL, *copy = NULL, *loaded = NULL;
    const char *path = scratch_path("%s/stream.safetensors", folder);
    int32_t ids[6] = {1, 2, 3, 4, 5, 6}, next[4], again[4];
    CHECK_FAILS(PF_EINVAL, pf_stream_open_batch(&s, e, m, 0));
    CHECK_OK(pf_stream_open_batch(&s, e, m, 2));
    CHECK_OK(pf_stream_fork(&copy, s)); /* before anything was fed */
    pf_stream_close(&copy);
    CHECK_OK(pf_stream_feed(s, ids, 3));
    CHECK_FAILS(PF_EINVAL, pf_stream_next(s, 1, NULL, next));
    CHECK_OK(pf_stream_fork(&copy, s));
    int64_t n = 0;
    const float *a = pf_stream_logits(s, &n), *b = pf_stream_logits(copy, NULL);
    CHECK(n == V && a != b && memcmp(a, b, 2 * V * sizeof *a) == 0);
    static const int64_t rows[] = {1, 0, 1, 1}, wrong[] = {2};
    CHECK_FAILS(PF_EINVAL, pf_stream_reorder(s, wrong, 1));
    CHECK_FAILS(PF_EINVAL, pf_stream_reorder(s, NULL, 1));
    CHECK_OK(pf_stream_reorder(s, rows, 4));
    a = pf_stream_logits(s, &n);
    CHECK(pf_stream_batch(s) == 4 && memcmp(a + V, b, V * sizeof *a) == 0);
    CHECK(memcmp(a, b + V, V * sizeof *a) == 0 && memcmp(a, a + 3 * V, V * sizeof *a) == 0);
    CHECK_OK(pf_stream_save(s, path));
    CHECK_OK(pf_stream_load(&loaded, e, m, path));
    pf_sampling hot = {.size = sizeof hot, .temperature = 1, .seed = 3};
    CHECK_OK(pf_stream_feed(s, ids, 1));
    CHECK_OK(pf_stream_feed(loaded, ids, 1));
    CHECK_OK(pf_stream_sample(s, &hot, next));
    CHECK_OK(pf_stream_sample(loaded, &hot, again));
    CHECK(memcmp(next, again, sizeof next) == 0 && pf_stream_position(loaded) == 4);
    pf_stream_close(&loaded);
    CHECK_FAILS(PF_EFORMAT, pf_stream_load(&loaded, e, other, path));
    CHECK(!loaded);
    pf_stream_close(&s), pf_stream_close(&copy);
    pf_module_release(&m), pf_module_release(&other);
}

/* ---- failing allocations ---- */

/* The calls under test; a failure of any leaves what was there as it was. */
static int work(pf_engine *e, pf_module *m, pf_state *s, const char *path) {
    static const int64_t rows[] = {1, 0};
    pf_state *copy = NULL, *model_state = NULL, *unpacked = NULL;
    pf_stream *stream = NULL, *twin = NULL;
    pf_named *packed = NULL;
    pf_config *texts = NULL;
    int32_t ids[2] = {1, 2};
    int n_packed = 0, status = pf_state_fork(&copy, e, s);
    if (status >= 0) status = pf_state_merge(e, copy, s);
    if (status >= 0) status = pf_state_reorder(e, copy, rows, 2);
    if (status >= 0) status = pf_state_pack(e, copy, &packed, &n_packed, &texts);
    if (status >= 0) status = pf_state_unpack(&unpacked, e, packed, n_packed, texts);
    pf_named_free(packed, n_packed), pf_config_free(texts), pf_state_close(&unpacked);
    if (status >= 0) status = pf_state_save(e, copy, path);
    pf_state_close(&copy);
    if (status >= 0) status = pf_state_load(&copy, e, path, NULL);
    if (status >= 0) status = pf_module_state(&model_state, e, m, 2);
    if (status >= 0) status = pf_stream_open(&stream, e, m);
    if (status >= 0) status = pf_stream_feed(stream, ids, 2);
    if (status >= 0) status = pf_stream_fork(&twin, stream);
    if (status >= 0) status = pf_stream_reorder(twin, rows + 1, 1);
    if (status >= 0) status = pf_stream_save(twin, path);
    pf_stream_close(&twin);
    if (status >= 0) status = pf_stream_load(&twin, e, m, path);
    pf_stream_close(&stream), pf_stream_close(&twin);
    pf_state_close(&copy), pf_state_close(&model_state);
    return status;
}

static void test_poor(void) {
    const char *path = scratch_path("%s/poor.safetensors", folder);
    int done = 0;
    for (long n = 0; n < 4000 && !done; n += 1 + n / 60) {
        host_memory host = {0};
        pf_options options = host_options(&host);
        pf_engine *e = NULL;
        pf_state *s = NULL, *before = NULL;
        options.threads = 1;
        CHECK_OK(pf_engine_open(&e, &options));
        pf_module *m = small_model(e, "'causal': true");
        CHECK_OK(open_relu(&s, e, 1));
        free(move(e, s, L));
        CHECK_OK(pf_state_fork(&before, e, s));
        host.fail_at = host.calls + 1 + n, host.fail_on = 1;
        int status = work(e, m, s, path);
        host.fail_at = 0;
        CHECK(status >= 0 || (status == PF_ENOMEM && pf_last_error()[0]));
        CHECK(same_next(e, s, before));
        done = status >= 0;
        pf_state_close(&s), pf_state_close(&before);
        pf_module_release(&m);
        pf_engine_close(&e);
        CHECK(host.blocks == 0 && host.wrong == 0);
    }
    CHECK(done);
}

int main(void) {
    pf_engine *e = engine_of(1, 7);
    scratch_open(folder, sizeof folder);
    test_alone(e);
    test_host(e);
    test_takes(e);
    test_streams(e);
    test_poor();
    pf_engine_close(&e);
    scratch_remove(folder);
    return CHECK_REPORT();
}
