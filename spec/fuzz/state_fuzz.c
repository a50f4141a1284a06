/*
 * state_fuzz.c - any bytes as a file of a streaming state: an error, or a state that can be
 * moved on, copied and saved again. A checksum stands over such a file, and what is changed
 * would get no further: each input is read with its checksum right, and one of eight as it is.
 *
 * The engine's budget is far above what any input holds, so running out of it means that a
 * size in the file was believed before it was proved.
 */
#include "change_tensors.h"
#include "seal.h"

#define AGAIN "memory:again"

/* ---- a model with every kind of state ---- */

/* A layer of the host whose state is a number. */
static int host_forward(void *context, pf_engine *e, pf_tensor *x, const pf_pass *pass,
                        pf_tensor **y) {
    (void)context, (void)e, (void)pass;
    *y = pf_tensor_retain(x);
    return 0;
}

static int host_step(void *context, pf_engine *e, pf_tensor *x, void **state, pf_tensor **y) {
    if (!*state) *state = calloc(1, sizeof(double));
    return host_forward(context, e, x, NULL, y);
}

static void host_release(void *context, void *state) { (void)context, free(state); }

static int host_save(void *context, pf_engine *e, void *state, pf_named **tensors, int *n,
                     pf_config **data) {
    (void)context, (void)e, (void)tensors, (void)n;
    *data = pf_config_new(PF_MAP);
    return *data ? pf_config_set_number(*data, "number", *(double *)state) : PF_ENOMEM;
}

static int host_load(void *context, pf_engine *e, const pf_named *tensors, int n,
                     const pf_config *data, void **state) {
    const pf_config *number = pf_config_get(data, "number");
    int64_t seen = 0;
    (void)context, (void)e;
    for (int i = 0; i < n; i++) seen += pf_tensor_numel(tensors[i].tensor);
    double *kept = *state = calloc(1, sizeof *kept);
    if (kept) *kept = (number ? pf_config_number(number) : 0) + (double)seen;
    return kept ? 0 : PF_ENOMEM;
}

static pf_module *layer(const char *type, const char *options) {
    pf_config *o = NULL;
    pf_module *m = NULL;
    if (pf_json_parse(&o, options, strlen(options)) < 0 ||
        pf_module_new(&m, fuzz_engine(), type, o, NULL, 0) < 0) {
        __builtin_trap();
    }
    pf_config_free(o);
    return m;
}

static pf_module *fuzz_model(void) {
    static const pf_host_layer host = {.size = sizeof host,
                                       .forward = host_forward,
                                       .step = host_step,
                                       .release_state = host_release,
                                       .save_state = host_save,
                                       .load_state = host_load};
    static pf_module *m;
    if (m) return m;
    pf_module *part[] = {
        layer("embedding", "{\"vocab\": 5, \"dim\": 4}"),
        layer("block", "{\"dim\": 4, \"heads\": 2, \"causal\": true, \"conv\": 3, \"kernel\": "
                       "{\"name\": \"softmax\", \"features\": 2}}"),
        layer("block", "{\"dim\": 4, \"heads\": 2, \"causal\": true, \"attention\": \"exact\"}"),
        NULL,
        layer("linear", "{\"from\": 4, \"to\": 5}"),
    };
    if (pf_module_host(&part[3], fuzz_engine(), "number", &host, NULL, 0) < 0 ||
        pf_module_new(&m, fuzz_engine(), "chain", NULL, part, 5) < 0) {
        __builtin_trap();
    }
    for (int i = 0; i < 5; i++) pf_module_release(&part[i]);
    return m;
}

/* A kernel of the host's, whose features are its rows: files of any that were given fit it. */
static int host_map(void *context, pf_engine *e, pf_side side, pf_tensor *x, pf_tensor **phi) {
    (void)context, (void)e, (void)side;
    *phi = pf_tensor_retain(x);
    return 0;
}

static pf_kernel *fuzz_kernel(void) {
    static pf_kernel *kernel;
    pf_host_map map = {.size = sizeof map, .map = host_map};
    if (!kernel && pf_kernel_open_host(&kernel, fuzz_engine(), "mine", &map) < 0) __builtin_trap();
    return kernel;
}

/* ---- what was loaded is used ---- */

static bool good(int status) {
    if (status == PF_ENOMEM) {
        fprintf(stderr, "%s\n", pf_last_error());
        __builtin_trap();
    }
    return status >= 0;
}

/* One position of ones; states that were wide from the start are left in peace. */
static void step_alone(pf_engine *e, pf_state *s) {
    pf_attention_state_options o = {.size = sizeof o};
    pf_tensor *q = NULL, *v = NULL, *out = NULL;
    if (!good(pf_attention_state_info(s, &o))) __builtin_trap();
    if (o.batch * o.heads * o.head_dim > CHANGED_MOST ||
        o.batch * o.heads * o.value_dim > CHANGED_MOST)
        return;
    int64_t shape[4] = {o.batch, o.heads, 1, o.head_dim};
    int64_t wide[4] = {o.batch, o.heads, 1, o.value_dim};
    if (good(pf_tensor_full(&q, e, PF_F32, 4, shape, 1)) &&
        good(pf_tensor_full(&v, e, PF_F32, 4, wide, 1)) &&
        good(pf_attention_step(&out, e, s, q, q, v))) {
        pf_tensor_release(&out);
        if (good(pf_attention_prefill(&out, e, s, q, q, v))) pf_tensor_release(&out);
    }
    pf_tensor_release(&q), pf_tensor_release(&v);
}

/* A state that was loaded is one: what is saved or packed of it comes back. */
static void use_alone(pf_engine *e, pf_state **state, const char *path) {
    pf_state *copy = NULL;
    pf_named *list = NULL;
    pf_config *texts = NULL;
    int n = 0;
    if (!good(pf_state_pack(e, *state, &list, &n, &texts))) __builtin_trap();
    if (!good(pf_state_unpack(&copy, e, list, n, texts))) __builtin_trap();
    pf_named_free(list, n);
    pf_config_free(texts);
    pf_state_close(&copy);
    if (!good(pf_state_save(e, *state, path))) __builtin_trap();
    if (!good(pf_state_load(&copy, e, path, NULL))) __builtin_trap();
    step_alone(e, copy);
    pf_state_close(&copy);
    if (good(pf_state_fork(&copy, e, *state))) step_alone(e, copy);
    pf_state_close(&copy);
    pf_state_close(state);
}

static void use_model(pf_engine *e, pf_state **state, const char *path) {
    int64_t batch = pf_state_batch(*state);
    pf_tensor *ids = NULL, *y = NULL;
    pf_state *copy = NULL;
    if (!good(pf_module_state_save(e, fuzz_model(), *state, path))) __builtin_trap();
    if (!good(pf_module_state_load(&copy, e, fuzz_model(), path))) __builtin_trap();
    pf_state_close(&copy);
    if (good(pf_tensor_full(&ids, e, PF_I32, 1, &batch, 1)) &&
        good(pf_module_step(&y, e, fuzz_model(), ids, *state))) {
        pf_tensor_release(&y);
    }
    pf_tensor_release(&ids);
    pf_state_close(state);
}

static void use_stream(pf_stream *stream) {
    int32_t *next = calloc((size_t)pf_stream_batch(stream), sizeof *next);
    if (next) good(pf_stream_sample(stream, NULL, next));
    free(next);
}

static void take_alone(pf_engine *e, const char *path) {
    pf_attention_state_options hosted = {.size = sizeof hosted, .kernel = fuzz_kernel()};
    pf_state *state = NULL;
    if (good(pf_state_load(&state, e, path, NULL))) use_alone(e, &state, AGAIN), fuzz_good++;
    if (state) __builtin_trap();
    if (good(pf_state_load(&state, e, path, &hosted))) step_alone(e, state);
    pf_state_close(&state);
}

static void take_model(pf_engine *e, const char *path) {
    pf_state *state = NULL;
    pf_stream *stream = NULL;
    if (good(pf_module_state_load(&state, e, fuzz_model(), path))) {
        use_model(e, &state, AGAIN);
        fuzz_good++;
    }
    if (state) __builtin_trap();
    if (good(pf_stream_load(&stream, e, fuzz_model(), path))) {
        use_stream(stream);
        pf_stream_close(&stream);
    }
    if (stream) __builtin_trap();
}

/* ---- targets ---- */

/* One of eight inputs goes where it is most likely refused at once: as it is, whatever its
 * checksum, and to the readers of the other kind. */
static bool is_chosen(const uint8_t *data, size_t size) {
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++) sum += data[i];
    return sum % 8 == 0;
}

static bool is_model(const pf_config *meta) {
    const char *kind = pf_config_string(pf_config_get(meta, "kind"));
    return kind && strcmp(kind, "model") == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine();
    const char *path = fuzz_path(data, size);
    bool chosen = is_chosen(data, size);
    pf_named *tensors = NULL;
    pf_config *meta = NULL;
    int n = 0, status = pf_safetensors_load(e, path, &tensors, &n, &meta);
    if (status < 0 || !meta || chosen) take_alone(e, path), take_model(e, path);
    bool model = is_model(meta);
    if (meta && seal(e, model ? fuzz_model() : NULL, tensors, n, meta, path) >= 0) {
        if (!model || chosen) take_alone(e, path);
        if (model || chosen) take_model(e, path);
    }
    if (status >= 0) pf_named_free(tensors, n);
    pf_config_free(meta);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return change_tensors(data, size, max_size, seed);
}
