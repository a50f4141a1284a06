/*
 * latency_test.c - how long after a deadline, or a cancel, a call ends: the longest stretch of
 * processor time between two looks at them, in work that is large enough to be cut short. A tenth
 * of a second at most. With PF_LONG in the environment all is four times as large, PF_SHOW tells
 * the stretches.
 *
 * In LIVING_IN_A_HOST.md: [limits.5].
 *
 * The bound is of processor time, on one thread, so that a busy machine changes nothing; and the
 * deadline itself is set to pass midway: the call answers PF_ELIMIT, and the next one goes through.
 */
#include <time.h>

#include "attention.h"
#include "host.h"
#include "json.h"
#include "nn_support.h"
#include "performer_attention.h"
#include "scratch.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOST 2.0
#else
#define MOST 0.1
#endif

static pf_engine *e;
static char files[256];
static int64_t times = 1; /* how large */

/* ---- what is seen ---- */

static struct {
    double last, gap;
    long looks, stop_at; /* at which look the time is up; 0: never */
    pf_meter *meter;
} seen;

static double cpu(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void look(void *own) {
    double now = cpu();
    (void)own;
    if (now - seen.last > seen.gap) seen.gap = now - seen.last;
    seen.last = now;
    if (++seen.looks == seen.stop_at) atomic_store(&seen.meter->over, PF_OVER_TIME);
}

static int watched(int (*run)(void), long stop_at) {
    CHECK_OK(pf_meter_open(&seen.meter, e, NULL));
    CHECK_OK(pf_meter_enter(seen.meter));
    seen.meter->looked = look;
    seen.looks = 0, seen.gap = 0, seen.stop_at = stop_at, seen.last = cpu();
    int status = run();
    double rest = cpu() - seen.last;
    if (rest > seen.gap) seen.gap = rest;
    pf_meter_close(&seen.meter);
    return status;
}

/* Once to the end; once stopped midway, which must take no longer, and hold nothing. */
static void measure(const char *name, int (*run)(void)) {
    size_t before, after;
    CHECK_OK(watched(run, 0));
    double gap = seen.gap;
    long looks = seen.looks;
    pf_engine_memory(e, &before, NULL);
    if (looks > 1) {
        CHECK_FAILS(PF_ELIMIT, watched(run, looks / 2 + 1));
        if (seen.gap > gap) gap = seen.gap;
        pf_engine_memory(e, &after, NULL);
        check_one(after <= before, name, __FILE__, __LINE__);
    }
    if (getenv("PF_SHOW")) fprintf(stderr, "%-24s %7.1f ms %7ld looks\n", name, 1e3 * gap, looks);
    check_one(gap < MOST, name, __FILE__, __LINE__);
}

/* ---- models ---- */

static pf_module *model;
static pf_optimizer *optimizer;

static int build(void) {
    pf_module *m = NULL;
    pf_config *o = options_of("{'vocab': 4096, 'dim': 256, 'layers': 4, 'heads': 4, 'length': 512, "
                              "'causal': true, 'kernel': {'name': 'softmax', 'features': 64}}");
    pf_config_set_number(o, "layers", (double)(4 * times));
    int status = pf_module_new(&m, e, "performer", o, NULL, 0);
    pf_config_free(o);
    if (!model)
        model = m;
    else
        pf_module_release(&m);
    return status;
}

/* Tables of an n-gram memory. */
static int build_ngrams(void) {
    pf_module *m = NULL;
    pf_config *o = options_of("{'vocab': 256, 'dim': 64, 'layers': 1, 'heads': 1, 'length': 64, "
                              "'causal': true, 'ngrams': {'longest': 4, 'width': 16}}");
    pf_config *ngrams = (pf_config *)pf_config_get(o, "ngrams");
    pf_config_set_number(ngrams, "buckets", (double)(300000 * times));
    int status = pf_module_new(&m, e, "performer", o, NULL, 0);
    pf_config_free(o);
    pf_module_release(&m);
    return status;
}

static pf_config *chain_of(int n) {
    pf_config *chain = pf_config_new(PF_MAP), *list = pf_config_new(PF_LIST);
    pf_config_set_string(chain, "type", "chain");
    for (int i = 0; i < n; i++) {
        pf_config *layer = options_of("{'type': 'rmsnorm', 'options': {'dim': 4}}");
        pf_config_push(list, layer);
    }
    pf_config_set(chain, "children", list);
    return chain;
}

static pf_config *chain;
static int build_chain(void) {
    pf_module *m = NULL;
    int status = pf_module_build(&m, e, chain);
    if (status >= 0) status = pf_module_tensor_count(m);
    pf_module_release(&m);
    return status;
}

/* ---- files ---- */

static const char *run_folder(void) { return scratch_path("%s/run", files); }

static int save(void) {
    static uint64_t step;
    return pf_checkpoint_save(e, run_folder(), ++step, model, optimizer, NULL, NULL, 1);
}

static int load(void) {
    pf_module *m = NULL;
    pf_optimizer *o = NULL;
    int status = pf_checkpoint_load(e, run_folder(), &m, &o, NULL, NULL);
    pf_optimizer_close(&o);
    pf_module_release(&m);
    return status;
}

static int load_model(void) {
    pf_module *m = NULL;
    int status = pf_model_load(&m, e, run_folder());
    pf_module_release(&m);
    return status;
}

static int inspect(void) {
    pf_config *info = NULL;
    int status = pf_inspect(&info, e, run_folder());
    pf_config_free(info);
    return status;
}

/* Sequences of some hundred letters, every fourth a copy, many of them alike. */
static void write_fasta(int64_t n) {
    static char line[400];
    FILE *file = fopen(scratch_path("%s/p.fasta", files), "wb");
    uint32_t x = 1;
    for (int64_t i = 0; i < n && file; i++) {
        if (i % 4 != 3) {
            for (int k = 0; k < 300; k++) {
                x = x * 1664525u + 1013904223u;
                if (i % 16 == 0 || x >> 29 == 0) line[k] = "ACDEFGHIKLMNPQRSTVWY"[(x >> 8) % 20];
            }
        }
        fprintf(file, ">s%lld\n%s\n", (long long)i, line);
    }
    CHECK(file && fclose(file) == 0);
}

static pf_config *data_options(const char *more) {
    char text[600];
    snprintf(text, sizeof text, "{'path': '%s/p.fasta', %s}", files, more);
    return options_of(text);
}

static int read_with(const char *more) {
    pf_config *o = data_options(more);
    pf_data *data = NULL;
    pf_batch batch = {.size = sizeof batch};
    int status = pf_data_open(&data, e, o);
    if (status >= 0) status = pf_data_batch(&batch, e, data, PF_TRAIN, 3, 64, true, 5);
    pf_batch_release(&batch);
    pf_data_close(&data);
    pf_config_free(o);
    return status;
}

static int read_fasta(void) {
    return read_with("'length': 512, 'valid_fraction': 0.1, 'unique': true");
}

static int split(void) {
    return read_with("'length': 512, 'valid_fraction': 0.1, 'split': 'homology'");
}

static int shard(void) {
    pf_config *o = data_options("'block': 65536");
    int status = pf_data_shard(e, o, scratch_path("%s/shards", files));
    if (status >= 0) scratch_remove(scratch_path("%s/shards", files));
    pf_config_free(o);
    return status;
}

static int encode(void) {
    size_t bytes = (size_t)(2000000 * times), n = bytes;
    char *text = malloc(bytes);
    int32_t *ids = malloc(bytes * sizeof *ids);
    memset(text, 'A', bytes);
    pf_engine *before = pf_engine_lend(e);
    int status = pf_tokenizer_encode("protein", text, bytes, ids, &n);
    if (status >= 0) status = pf_tokenizer_decode("protein", ids, n, text, &bytes);
    CHECK(pf_engine_lend(before) == e);
    free(text), free(ids);
    return status;
}

/* As large as plain data may be. */
static int read_json(void) {
    size_t bytes = (size_t)(750000 * times);
    if (bytes > 1500000) bytes = 1500000;
    bytes = 2 * bytes - 1;
    char *text = pf_heap_alloc(e->heap, bytes + 1);
    pf_config *node = NULL;
    for (size_t i = 0; i < bytes; i++) text[i] = i % 2 ? ',' : '1';
    text[0] = '[', text[1] = text[bytes - 2] = '1', text[bytes - 1] = ']', text[bytes] = 0;
    int status = pf_json_read(&node, e, text, bytes, "it");
    pf_config_free(node);
    pf_heap_free(e->heap, text, bytes + 1);
    return status;
}

/* ---- training and streams ---- */

static pf_tensor *row_of(int64_t batch, int64_t length) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, e, PF_I32, 2, (int64_t[]){batch, length}, 7));
    return t;
}

static pf_tensor *short_rows, *long_row;

static int train(void) {
    pf_tape *tape = NULL;
    pf_tensor *loss = NULL;
    int status = pf_tape_open(&tape, e);
    if (status >= 0) status = pf_module_loss(&loss, e, model, short_rows, short_rows, NULL);
    if (status >= 0) status = pf_tape_backward(tape, loss, NULL);
    pf_tensor_release(&loss);
    pf_tape_close(&tape);
    return status;
}

static int train_sliced(void) {
    const pf_slicing slicing = {.size = sizeof slicing, .length = 256};
    double loss;
    return pf_module_backward_sliced(&loss, e, model, long_row, long_row, NULL, &slicing);
}

static int prefill(void) {
    pf_stream *s = NULL;
    int64_t n = pf_tensor_numel(long_row);
    int status = pf_stream_open(&s, e, model);
    if (status >= 0) status = pf_stream_feed(s, pf_i32(long_row), (size_t)n);
    pf_stream_close(&s);
    return status;
}

static int steps(void) {
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 1, .top_p = 0.9};
    int32_t next[64] = {0};
    pf_stream *s = NULL;
    int status = pf_stream_open_batch(&s, e, model, 64);
    for (int i = 0; i < 4 * times && status >= 0; i++) {
        status = pf_stream_feed(s, next, 1);
        if (status >= 0) status = pf_stream_sample(s, &sampling, next);
    }
    pf_stream_close(&s);
    return status;
}

/* ---- ops ---- */

static int apply(const char *name, pf_tensor *const *in, int n) {
    pf_attr attrs[PF_MAX_ATTR];
    pf_tensor *y[PF_MAX_OUT] = {NULL};
    int op = pf_op_find(e, name), status = pf_op_defaults(e, op, attrs);
    if (status >= 0) status = pf_op_apply(e, op, in, n, attrs, y);
    for (int i = 0; i < PF_MAX_OUT; i++) pf_tensor_release(&y[i]);
    return status;
}

static pf_tensor *heads, *square, *flat;
static int exact(void) { return apply("exact_attention", (pf_tensor *[]){heads, heads, heads}, 3); }
/* Tasks as long as a row: exact attention's backward, the plain features. */
static int exact_back(void) {
    pf_tape *tape = NULL;
    pf_tensor *in[] = {heads, heads, heads}, *y = NULL;
    pf_attr attrs[PF_MAX_ATTR];
    int op = pf_op_find(e, "exact_attention"), status = pf_op_defaults(e, op, attrs);
    if (status >= 0) status = pf_tape_open(&tape, e);
    if (status >= 0) status = pf_op_apply(e, op, in, 3, attrs, &y);
    if (status >= 0) status = pf_tape_backward(tape, y, y);
    pf_tensor_release(&y);
    pf_tape_close(&tape);
    return status;
}
static int features(void) {
    pf_tensor *in[] = {heads, NULL};
    int status = pf_tensor_rand(&in[1], e, 2, (int64_t[]){64, 64}, true);
    if (status >= 0) status = apply("features", in, 2);
    pf_tensor_release(&in[1]);
    return status;
}
static int product(void) { return apply("matmul", (pf_tensor *[]){square, square}, 2); }
static int total(void) { return apply("sum", &flat, 1); }
static int biggest(void) { return apply("softmax", &flat, 1); }

static int fill(void) {
    pf_tensor *t = NULL;
    int status = pf_tensor_full(&t, e, PF_F32, 1, (int64_t[]){20000000 * times}, 3);
    pf_tensor_release(&t);
    if (status >= 0) status = pf_tensor_rand(&t, e, 1, (int64_t[]){4000000 * times}, true);
    pf_tensor_release(&t);
    if (status >= 0) status = pf_tensor_arange(&t, e, PF_F32, 10000000);
    pf_tensor_release(&t);
    return status;
}

/* The square transposed, or as one row. */
static int view_of(pf_tensor **view, bool row) {
    int64_t side = square->shape[0];
    int status = pf_tensor_view(view, square);
    if (status < 0) return status;
    (*view)->rank = row ? 1 : 2;
    (*view)->shape[0] = row ? side * side : side;
    (*view)->stride[0] = 1, (*view)->stride[1] = side;
    return PF_OK;
}

/* What takes no engine, and asks the one that is lent. */
static int in_place(void) {
    pf_tensor *t = NULL, *row = NULL, *whole = NULL, *mask = NULL;
    int64_t side = 900 * times;
    size_t bytes = (size_t)(side * side) * 2;
    char *half = malloc(bytes);
    int status = view_of(&t, false);
    if (status >= 0) status = view_of(&row, true);
    if (status >= 0) status = pf_tensor_detach(&whole, e, square);
    if (status >= 0) status = pf_tensor_full(&mask, e, PF_I32, 2, square->shape, 1);
    pf_engine *before = pf_engine_lend(e);
    if (status >= 0) status = pf_tensor_copy(whole, t);
    if (status >= 0) status = pf_tensor_set_masked(whole, mask, row);
    if (status >= 0) status = pf_tensor_set_part(whole, (int64_t[]){0}, &side, 1, t);
    if (status >= 0) status = pf_tensor_copy(mask, whole); /* cut to whole numbers */
    if (status >= 0) status = pf_tensor_fill(whole, 3);
    if (status >= 0) status = pf_tensor_to_bytes(t, "f16", true, half, bytes);
    CHECK(pf_engine_lend(before) == e);
    pf_tensor_release(&t), pf_tensor_release(&row);
    pf_tensor_release(&whole), pf_tensor_release(&mask);
    free(half);
    return status;
}

/* ---- all ---- */

static void open_all(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&e, &options));
    scratch_open(files, sizeof files);
    write_fasta(16000 * times);
    chain = chain_of((int)(5000 * times));
    short_rows = row_of(1, 512 * times), long_row = row_of(1, 1024 * times);
    CHECK_OK(pf_tensor_rand(&heads, e, 4, (int64_t[]){1, 1, 3000 * times, 64}, true));
    CHECK_OK(pf_tensor_rand(&square, e, 2, (int64_t[]){900 * times, 900 * times}, true));
    CHECK_OK(pf_tensor_rand(&flat, e, 1, (int64_t[]){8000000 * times}, false));
}

static void close_all(void) {
    pf_tensor_release(&heads), pf_tensor_release(&square), pf_tensor_release(&flat);
    pf_tensor_release(&short_rows), pf_tensor_release(&long_row);
    pf_optimizer_close(&optimizer);
    pf_module_release(&model);
    pf_config_free(chain);
    pf_engine_close(&e);
    scratch_remove(files);
}

int main(void) {
    if (getenv("PF_LONG")) times = 4;
    open_all();
    measure("building a model", build);
    CHECK_OK(pf_optimizer_new(&optimizer, e, model, NULL));
    measure("an n-gram memory", build_ngrams);
    measure("many layers", build_chain);
    measure("a training step", train);
    CHECK_OK(pf_optimizer_step(optimizer, e, 0.001, 1, NULL));
    measure("a step in slices", train_sliced);
    measure("a prompt", prefill);
    measure("a batch of streams", steps);
    measure("saving a checkpoint", save);
    measure("loading a checkpoint", load);
    measure("loading a model", load_model);
    measure("inspecting a run", inspect);
    measure("reading sequences", read_fasta);
    measure("a split by homology", split);
    measure("making shards", shard);
    measure("encoding", encode);
    measure("plain data", read_json);
    measure("exact attention", exact);
    CHECK_OK(pf_tensor_require_grad(heads, true));
    measure("exact attention, back", exact_back);
    measure("plain features", features);
    measure("a product", product);
    measure("a sum", total);
    measure("a softmax", biggest);
    measure("filling", fill);
    measure("in place", in_place);
    close_all();
    return CHECK_REPORT();
}
