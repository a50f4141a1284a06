/* inputs_test.c - models of several inputs and outputs as a host sees them: an encoder and a
 * decoder from a tree, a stream with a source, several tasks; layers of the host's that read
 * inputs, that hand on what slices need and follow steps; and what is refused. */
#include "nn_support.h"

#include "performer_extend.h"

enum { V = 11 };

static pf_module *built(pf_engine *e, const char *tree) {
    pf_config *node = options_of(tree);
    pf_module *m = NULL;
    CHECK_OK(pf_module_build(&m, e, node));
    pf_config_free(node);
    return m;
}

static pf_module *translator(pf_engine *e) {
    return built(e, "{'type': 'encoder_decoder', 'children': ["
                    "{'type': 'performer', 'options': {'vocab': 11, 'dim': 16, 'layers': 1, "
                    "'heads': 2}}, {'type': 'performer', 'options': {'vocab': 11, 'dim': 16, "
                    "'layers': 1, 'heads': 2, 'causal': true, 'cross': true}}]}");
}

/* What a stream says after a source is what the whole call says. */
static void test_stream(void) {
    pf_engine *e = engine_of(1, 3);
    pf_module *m = translator(e);
    pf_tensor *x = some_ids(e, 1, 5, 1), *y = NULL;
    pf_named source = {"source", some_ids(e, 1, 7, 2)};
    pf_pass pass = {.size = sizeof pass, .inputs = &source, .n_inputs = 1};
    pf_stream *stream = NULL, *copy = NULL;
    CHECK_OK(pf_stream_open_inputs(&stream, e, m, 1, &source, 1));
    CHECK_OK(pf_stream_feed(stream, pf_i32(x), 5));
    CHECK_OK(pf_module_forward(&y, e, m, x, &pass));
    int64_t n = 0;
    const float *logits = pf_stream_logits(stream, &n);
    CHECK(n == V);
    float *whole = numbers(y);
    for (int i = 0; i < V; i++) CHECK(fabsf(logits[i] - whole[4 * V + i]) < 1e-5f);
    free(whole);
    int32_t next = 0, twin = 0;
    CHECK_OK(pf_stream_fork(&copy, stream));
    pf_tensor_release((pf_tensor **)&source.tensor); /* the stream has what it needs */
    CHECK_OK(pf_stream_next(stream, 4, NULL, &next));
    CHECK_OK(pf_stream_next(copy, 4, NULL, &twin));
    CHECK(next == twin);
    pf_stream_close(&copy);
    pf_stream_close(&stream);
    pf_tensor_release(&x), pf_tensor_release(&y);
    pf_module_release(&m);
    pf_engine_close(&e);
}

static void test_names(void) {
    pf_engine *e = engine_of(1, 3);
    pf_module *m = translator(e);
    const char *name = NULL;
    bool required = true;
    CHECK(pf_module_input_count(m) == 4);
    CHECK_OK(pf_module_input_at(m, 0, &name, &required));
    CHECK(strcmp(name, "source") == 0 && !required);
    CHECK_FAILS(PF_ENOTFOUND, pf_module_input_at(m, 4, &name, NULL));
    CHECK_FAILS(PF_ENOTFOUND, pf_module_input_at(m, -1, &name, NULL));
    pf_tensor *ids = some_ids(e, 1, 7, 2), *y = NULL;
    pf_named list[2] = {{"source", ids}, {"source", ids}};
    pf_pass pass = {.size = sizeof pass, .inputs = list, .n_inputs = 2};
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    CHECK(strstr(pf_last_error(), "'source' is given twice"));
    list[1].name = "sorce";
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    CHECK(strstr(pf_last_error(), "'sorce' (did you mean 'source'?)"));
    list[1] = (pf_named){"source_mask", NULL};
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    list[1] = (pf_named){NULL, ids};
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    pass.n_inputs = PF_INPUTS + 1;
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    pass.inputs = NULL, pass.n_inputs = 1;
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, &pass));
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, ids, NULL));
    CHECK(strstr(pf_last_error(), "the input 'source' is missing"));
    pf_tensor_release(&ids);
    pf_module_release(&m);
    pf_engine_close(&e);
}

/* ---- layers of the host's ---- */

typedef struct {
    int begun, batch, released;
} host;

static pf_tensor *find(const pf_named *list, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(list[i].name, name) == 0) return list[i].tensor;
    }
    return NULL;
}

static int host_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                        pf_tensor **y) {
    (void)context;
    return pf_add(y, e, x, find(pass->inputs, pass->n_inputs, "by"));
}

static int host_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    (void)context;
    return pf_add(y, e, x, *state);
}

static int host_begin(void *context, pf_engine *e, const pf_named *inputs, int n, int64_t batch,
                      void **state) {
    host *h = context;
    (void)e;
    h->begun++, h->batch = (int)batch;
    *state = pf_tensor_retain(find(inputs, n, "by"));
    return PF_OK;
}

static void host_release(void *context, void *state) {
    ((host *)context)->released++;
    pf_tensor_release((pf_tensor **)&state);
}

static void test_host(void) {
    static const char *const reads[] = {"by", "[more]", NULL}, *const taken[] = {"mask", NULL};
    pf_engine *e = engine_of(1, 3);
    host h = {0};
    pf_host_layer layer = {.size = sizeof layer,
                           .forward = host_forward,
                           .step = host_step,
                           .release_state = host_release,
                           .context = &h,
                           .inputs = reads,
                           .begin = host_begin};
    pf_module *m = NULL;
    CHECK_OK(pf_module_host(&m, e, "by", &layer, NULL, 0));
    int64_t shape[2] = {2, 3};
    pf_tensor *x = NULL, *y = NULL, *by = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 2, shape, 1));
    CHECK_OK(pf_tensor_full(&by, e, PF_F32, 2, shape, 4));
    pf_named list[1] = {{"by", by}};
    pf_state *state = NULL;
    CHECK_OK(pf_module_state_inputs(&state, e, m, 2, list, 1));
    CHECK(h.begun == 1 && h.batch == 2);
    CHECK_OK(pf_module_step(&y, e, m, x, state));
    CHECK(pf_f32(y)[5] == 5);
    pf_state_close(&state);
    CHECK(h.released == 1);
    pf_tensor_release(&y);
    CHECK_FAILS(PF_EINVAL, pf_module_forward(&y, e, m, x, NULL));
    CHECK(strstr(pf_last_error(), "by: the input 'by' is missing"));
    CHECK_FAILS(PF_EINVAL, pf_module_state(&state, e, m, 2));
    CHECK(h.begun == 1);
    pf_module_release(&m);
    layer.begin = NULL;
    CHECK_OK(pf_module_host(&m, e, "by", &layer, NULL, 0));
    CHECK_FAILS(PF_EINVAL, pf_module_state_inputs(&state, e, m, 2, list, 1));
    CHECK(strstr(pf_last_error(), "has no begin, so it can't stream"));
    pf_module_release(&m);
    layer.inputs = taken;
    CHECK_FAILS(PF_EINVAL, pf_module_host(&m, e, "by", &layer, NULL, 0));
    CHECK(!m && strstr(pf_last_error(), "no input can be called 'mask'"));
    pf_tensor_release(&x), pf_tensor_release(&by);
    pf_engine_close(&e);
}

/* ---- several outputs ---- */

static void test_outputs(void) {
    pf_engine *e = engine_of(1, 3);
    pf_module *m = built(
        e, "{'type': 'tasks', 'options': {'own': 'next', 'names': ['size']}, 'children': ["
           "{'type': 'performer', 'options': {'vocab': 11, 'dim': 8, 'layers': 1, 'heads': 2}}, "
           "{'type': 'chain', 'children': [{'type': 'pool', 'options': {}}, "
           "{'type': 'linear', 'options': {'from': 8, 'to': 1}}]}]}");
    pf_tensor *x = some_ids(e, 2, 5, 1), *y[2] = {NULL, NULL}, *h = NULL, *own = NULL;
    const char *name = NULL;
    CHECK(pf_module_output_count(m) == 2);
    CHECK_OK(pf_module_output_at(m, 1, &name));
    CHECK(strcmp(name, "size") == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_module_output_at(m, 2, &name));
    CHECK_OK(pf_module_outputs(y, e, m, x, NULL));
    CHECK(y[0]->rank == 3 && y[0]->shape[2] == V && y[1]->rank == 2 && y[1]->shape[1] == 1);
    CHECK_OK(pf_module_forward(&own, e, pf_module_child(m, 0), x, NULL));
    float *a = numbers(own), *b = numbers(y[0]);
    CHECK(memcmp(a, b, 2 * 5 * V * sizeof *a) == 0);
    free(a), free(b);
    CHECK_OK(pf_module_hidden(&h, e, m, x, NULL, 0));
    CHECK(h->shape[2] == 8);
    for (int i = 0; i < 2; i++) pf_tensor_release(&y[i]);
    CHECK(pf_module_output_count(pf_module_child(m, 0)) == 1);
    CHECK_OK(pf_module_outputs(y, e, pf_module_child(m, 0), x, NULL));
    CHECK(y[0] && !y[1]);
    pf_tensor_release(&x), pf_tensor_release(&y[0]), pf_tensor_release(&h);
    pf_tensor_release(&own);
    pf_module_release(&m);
    pf_engine_close(&e);
}

/* ---- a layer of the host's in slices, and behind a step ---- */

typedef struct {
    int parts, entries, most; /* exits that it claims */
    uint64_t step;
} walker;

static int plain(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass, pf_tensor **y) {
    (void)context, (void)pass;
    return pf_affine(y, e, x, 1, 0);
}

/* y = x; what goes on is the first positions of x, `most` times. */
static int walk_part(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                     pf_tensor *const *entry, int n, pf_tensor **exit, int *n_exit, pf_tensor **y) {
    walker *w = context;
    (void)pass;
    w->parts++, w->entries += n;
    for (int i = 0; i < n; i++) CHECK(entry[i] && entry[i]->shape[0] == x->shape[0]);
    for (int i = 0; i < w->most; i++) {
        int status = pf_slice(&exit[i], e, x, 1, 0, 1);
        if (status < 0) return status;
        *n_exit = i + 1;
    }
    return pf_affine(y, e, x, 1, 0);
}

static int walk_after(void *context, pf_engine *e, uint64_t step) {
    (void)e;
    ((walker *)context)->step = step;
    return PF_OK;
}

static void test_parts(void) {
    pf_engine *e = engine_of(1, 3);
    walker w = {.most = PF_HOST_PARTS};
    pf_host_layer layer = {.size = sizeof layer,
                           .forward = plain,
                           .context = &w,
                           .part = walk_part,
                           .after_step = walk_after,
                           .width = 8};
    pf_module *part[3] = {layer_of(e, "embedding", "{'vocab': 11, 'dim': 8}"), NULL,
                          layer_of(e, "linear", "{'from': 8, 'to': 11}")},
              *m = NULL;
    CHECK_OK(pf_module_host(&part[1], e, "walker", &layer, NULL, 0));
    CHECK(pf_module_width(part[1]) == 8);
    CHECK_OK(pf_module_new(&m, e, "chain", NULL, part, 3));
    pf_tensor *x = some_ids(e, 2, 64, 1);
    pf_slicing how = {.size = sizeof how, .slices = 4};
    double loss = 0;
    CHECK_OK(pf_module_backward_sliced(&loss, e, m, x, x, NULL, &how));
    /* Three forward, four back; the first has no entry. */
    CHECK(w.parts == 7 && w.entries == 5 * PF_HOST_PARTS);
    int drawn = 0;
    CHECK_OK(pf_module_after_step(e, m, 5, &drawn));
    CHECK(w.step == 5 && drawn == 0);
    pf_state *state = NULL;
    CHECK_FAILS(PF_EINVAL, pf_module_state(&state, e, m, 2));
    CHECK(!state && strstr(pf_last_error(), "walker: this layer has no step"));
    for (int i = 0; i < 3; i++) pf_module_release(&part[i]);
    pf_module_release(&m);
    pf_tensor_release(&x);
    pf_engine_close(&e);
}

int main(void) {
    test_outputs();
    test_parts();
    test_stream();
    test_names();
    test_host();
    return CHECK_REPORT();
}
