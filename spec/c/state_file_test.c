/*
 * state_file_test.c - files of states that somebody made: their checksum is right, and what they
 * say of themselves is not. Nothing is believed before the tensors have proved it, nothing is
 * made of a file that can't be taken, and what is taken goes on.
 */
#include "host.h"
#include "nn_support.h"
#include "scratch.h"
#include "seal.h"

enum { B = 2, H = 2, D = 4, DV = 3, L = 7 };
static char folder[256];

/* A file in memory, to be changed. */
typedef struct {
    pf_named *list;
    int n;
    pf_config *meta;
} held;

static held read_file(pf_engine *e, const char *path) {
    held f = {0};
    CHECK_OK(pf_safetensors_load(e, path, &f.list, &f.n, &f.meta));
    return f;
}

static void drop(held *f) {
    pf_named_free(f->list, f->n);
    pf_config_free(f->meta);
    *f = (held){0};
}

/* Tensor `name` becomes one of zeros with `rows` for the size of dimension `dim`. */
static void resize(pf_engine *e, held *f, const char *name, int dim, int64_t rows) {
    int64_t shape[PF_MAX_RANK];
    for (int i = 0; i < f->n; i++) {
        pf_tensor *t = f->list[i].tensor, *other = NULL;
        if (strcmp(f->list[i].name, name) != 0) continue;
        for (int d = 0; d < pf_tensor_rank(t); d++) shape[d] = pf_tensor_size(t, d);
        shape[dim] = rows;
        CHECK_OK(pf_tensor_full(&other, e, pf_tensor_dtype(t), pf_tensor_rank(t), shape, 0));
        pf_tensor_release(&f->list[i].tensor);
        f->list[i].tensor = other;
        return;
    }
    CHECK(!"a tensor of that name");
}

static void take_out(held *f, const char *name) {
    for (int i = 0; i < f->n; i++) {
        pf_named *t = &f->list[i];
        if (strcmp(t->name, name) != 0) continue;
        free((char *)t->name);
        pf_tensor_release(&t->tensor);
        *t = f->list[--f->n];
        return;
    }
    CHECK(!"a tensor of that name");
}

/* Loads the changed file as a state of attention alone; *peak: bytes held meanwhile. */
static int try_alone(pf_engine *e, held *f, pf_state **s, size_t *peak) {
    const char *path = scratch_path("%s/made.safetensors", folder);
    size_t live;
    CHECK_OK(seal(e, NULL, f->list, f->n, f->meta, path));
    drop(f);
    pf_engine_reset_peak(e);
    int status = pf_state_load(s, e, path, NULL);
    pf_engine_memory(e, &live, peak);
    return status;
}

/* Of a kernel, or of exact attention. */
static pf_state *open_alone(pf_engine *e, const char *kernel) {
    pf_attention_state_options o = {
        .size = sizeof o, .batch = B, .heads = H, .head_dim = D, .value_dim = DV};
    pf_state *s = NULL;
    if (kernel[0] == '{')
        o.kernel = kernel_of(e, kernel);
    else
        o.attention = kernel;
    CHECK_OK(pf_attention_state_open(&s, e, &o));
    pf_kernel_release(&o.kernel);
    return s;
}

/* Moves a state on by `length` positions, one by one. */
static void move(pf_engine *e, pf_state *s, int length) {
    int64_t shape[4] = {B, H, 1, D}, wide[4] = {B, H, 1, DV};
    pf_tensor *q = NULL, *v = NULL, *out = NULL;
    CHECK_OK(pf_tensor_full(&q, e, PF_F32, 4, shape, 0.5));
    CHECK_OK(pf_tensor_full(&v, e, PF_F32, 4, wide, 0.25));
    for (int i = 0; i < length; i++) {
        CHECK_OK(pf_attention_step(&out, e, s, q, q, v));
        pf_tensor_release(&out);
    }
    pf_tensor_release(&q), pf_tensor_release(&v);
}

/* The rows that are filled: what is behind them may be anything. */
static bool same_numbers(const pf_tensor *a, const pf_tensor *b) {
    int64_t rows = pf_min(pf_tensor_size(a, 2), L + 2), width = pf_tensor_size(a, 3);
    for (int64_t i = 0; i < B * H; i++) {
        const float *x = pf_f32(a) + i * pf_tensor_size(a, 2) * width;
        const float *y = pf_f32(b) + i * pf_tensor_size(b, 2) * width;
        if (memcmp(x, y, (size_t)(rows * width) * sizeof *x) != 0) return false;
    }
    return true;
}

static held saved(pf_engine *e, const char *kernel) {
    const char *path = scratch_path("%s/real.safetensors", folder);
    pf_state *s = open_alone(e, kernel);
    move(e, s, L);
    CHECK_OK(pf_state_save(e, s, path));
    pf_state_close(&s);
    return read_file(e, path);
}

/* ---- sizes ---- */

/* A head of a million numbers, and an S without any: its sums would be far larger than SMALL. */
static void test_sizes(pf_engine *e) {
    static const char *const kernels[] = {"{'name': 'relu'}", "{'name': 'given'}"};
    enum { SMALL = 8 << 20 };
    pf_state *s = NULL;
    size_t peak;
    for (int i = 0; i < 2; i++) {
        held f = saved(e, kernels[i]);
        CHECK_OK(try_alone(e, &f, &s, &peak)); /* only the checksum is new */
        CHECK(pf_state_position(s) == L);
        move(e, s, 2);
        pf_state_close(&s);

        f = saved(e, kernels[i]);
        CHECK_OK(pf_config_set_string(f.meta, "head_dim", "1048576"));
        resize(e, &f, "s", 2, 0);
        CHECK_FAILS(PF_EFORMAT, try_alone(e, &f, &s, &peak));
        CHECK(!s && peak < SMALL);

        f = saved(e, kernels[i]);
        CHECK_OK(pf_config_set_string(f.meta, "value_dim", "1048576"));
        CHECK_OK(pf_config_set_string(f.meta, "batch", "1048576"));
        take_out(&f, "s");
        CHECK_FAILS(PF_EFORMAT, try_alone(e, &f, &s, &peak));
        CHECK(!s && peak < SMALL);
    }
    held f = saved(e, "exact");
    CHECK_OK(pf_config_set_string(f.meta, "head_dim", "1048576"));
    CHECK_OK(pf_config_set_string(f.meta, "batch", "1048576"));
    CHECK_FAILS(PF_EFORMAT, try_alone(e, &f, &s, &peak));
    CHECK(!s && peak < SMALL);
}

/* ---- what a file says of itself ---- */

typedef struct {
    const char *key, *value, *message;
} word;

static const word alone_words[] = {
    {"format", "other", "holds no state"},
    {"version", "9", "version 9 of the format"},
    {"kind", "model", "a state of a model, wanted is one of attention alone"},
    {"positions", "{}", "'positions' in the file is not what it must be"},
    {"positions", "[7", "line 1"},
    {"positions", "[-1]", "a position in it is none"},
    {"positions", "[0.5]", "a position in it is none"},
    {"positions", "[1e300]", "a position in it is none"},
    {"positions", "[]", "fewer layers"},
    {"positions", "[7, 7]", "holds more than this state"},
    {"recent", "[]", "fewer layers"},
    {"recent", "[-1]", "a count of steps in it is none"},
    {"recent", "[0.5]", "a count of steps in it is none"},
    {"hosts", "[]", "'hosts' in the file is not what it must be"},
    {"kernel", "[]", "'kernel' in the file is not what it must be"},
    {"kernel", "{\"name\": \"none such\"}", "does not hold"},
    {"host", "mine", "custom kernel 'mine'"},
    {"batch", "", "'batch' is '', not a size"},
    {"batch", "1", "it says 1 sequences of 2 heads"},
    {"heads", "0", "'heads' is '0', not a size"},
    {"heads", "2x", "'heads' is '2x', not a size"},
    {"heads", "4", "it says 2 sequences of 4 heads"},
    {"head_dim", "-3", "'head_dim' is '-3', not a size"},
    {"value_dim", "1048577", "'value_dim' is '1048577', not a size"},
    {"value_dim", "5", "values of 5"},
};

static const word stream_words[] = {
    {"kind", "attention", "a state of attention alone, wanted is one of a model"},
    {"model", "0", "of another model"},
    {"batch", "none", "'batch' is 'none', not a size"},
    {"keep", "some", "what it keeps is no number"},
    {"keep", "-1", "what it keeps is no number"},
    {"keep", "3x", "what it keeps is no number"},
    {"positions", "[]", "fewer layers"},
};

/* The file as it is but for one word. */
static void write_with(pf_engine *e, const held *f, const char *path, const word *w) {
    CHECK_OK(pf_config_set_string(f->meta, w->key, w->value));
    CHECK_OK(seal(e, NULL, f->list, f->n, f->meta, path));
}

static void told(int status, const word *w) {
    bool good = status == PF_EFORMAT && strstr(pf_last_error(), w->message);
    if (!good) fprintf(stderr, "  %s = %s: %s\n", w->key, w->value, pf_last_error());
    check_one(good, w->message, __FILE__, __LINE__);
}

static void test_words(pf_engine *e) {
    const char *path = scratch_path("%s/words.safetensors", folder);
    pf_state *s = NULL;
    for (int i = 0; i < PF_COUNT(alone_words); i++) {
        held f = saved(e, "{'name': 'relu'}");
        write_with(e, &f, path, &alone_words[i]);
        drop(&f);
        told(pf_state_load(&s, e, path, NULL), &alone_words[i]);
        CHECK(!s);
    }
}

/* Tensors that the state has, of other shapes or not at all. */
static void test_tensors(pf_engine *e) {
    static const struct {
        const char *kernel, *name;
        int dim;
        const char *message;
    } rows[] = {
        {"{'name': 'relu'}", "z", 2, "'z' in the file is"},
        {"{'name': 'relu'}", "z", -1, "lacks the tensor 'z'"},
        {"{'name': 'relu'}", "s", 0, "'s' in the file is"},
        {"{'name': 'relu'}", "s", -1, "'s' in the file is not there"},
        {"exact", "keys", 1, "'keys' in the file is"},
        {"exact", "values", 2, "'values' in the file is"},
        {"exact", "values", -1, "lacks the tensor 'values'"},
    };
    pf_state *s = NULL;
    size_t peak;
    for (int i = 0; i < PF_COUNT(rows); i++) {
        held f = saved(e, rows[i].kernel);
        if (rows[i].dim >= 0)
            resize(e, &f, rows[i].name, rows[i].dim, 9);
        else
            take_out(&f, rows[i].name);
        const word w = {rows[i].name, rows[i].kernel, rows[i].message};
        told(try_alone(e, &f, &s, &peak), &w);
        CHECK(!s);
    }
}

/* ---- counts ---- */

/* More steps in the recent sums than these ever hold: they are settled at the next step. */
static void test_recent(pf_engine *e) {
    held f = saved(e, "{'name': 'relu'}");
    pf_state *s = NULL;
    size_t peak;
    CHECK_OK(pf_config_set_string(f.meta, "positions", "[100000]"));
    CHECK_OK(pf_config_set_string(f.meta, "recent", "[99999]"));
    CHECK_OK(try_alone(e, &f, &s, &peak));
    move(e, s, 1);
    CHECK(s->recent == 1 && pf_state_position(s) == 100001);
    pf_state_close(&s);
    f = saved(e, "{'name': 'relu'}");
    CHECK_OK(pf_config_set_string(f.meta, "recent", "[8]"));
    CHECK_FAILS(PF_EFORMAT, try_alone(e, &f, &s, &peak));
    CHECK(!s);
}

static pf_module *deep_model(pf_engine *e, int layers) {
    char options[256];
    snprintf(options, sizeof options,
             "{'vocab': 5, 'dim': 8, 'layers': %d, 'heads': 2, 'causal': "
             "true, 'conv': 3, 'kernel': {'name': 'softmax', 'features': 4}}",
             layers);
    return layer_of(e, "performer", options);
}

/* ---- within other files ---- */

/* Packed, kept in another order, and back: it goes on as the state that it was; changed, it does
 * not come back. */
static void test_packed(pf_engine *e) {
    static const char *const kernels[] = {"{'name': 'relu'}", "exact"};
    for (int i = 0; i < 2; i++) {
        pf_state *s = open_alone(e, kernels[i]), *back = NULL;
        pf_named *list = NULL;
        pf_config *meta = NULL;
        int n = 0;
        move(e, s, L);
        CHECK_OK(pf_state_pack(e, s, &list, &n, &meta));
        CHECK(n >= 2);
        pf_named first = list[0];
        list[0] = list[n - 1], list[n - 1] = first;
        CHECK_OK(pf_state_unpack(&back, e, list, n, meta));
        move(e, s, 2), move(e, back, 2);
        CHECK(pf_state_position(back) == L + 2);
        CHECK(same_numbers(s->tensor[0], back->tensor[0]));
        pf_state_close(&back);
        CHECK_FAILS(PF_EFORMAT, pf_state_unpack(&back, e, list, n - 1, meta));
        CHECK_OK(pf_config_set_string(meta, "positions", "[9]"));
        CHECK_FAILS(PF_EFORMAT, pf_state_unpack(&back, e, list, n, meta));
        CHECK(!back);
        pf_named_free(list, n);
        pf_config_free(meta);
        pf_state_close(&s);
    }
    /* A kind that is named like a map, and keeps no tensor. */
    pf_state *none = NULL, *back = NULL;
    pf_attention_state_options o = {.size = sizeof o, .attention = "identity"};
    o.batch = B, o.heads = H, o.head_dim = o.value_dim = D;
    CHECK_OK(pf_attention_state_open(&none, e, &o));
    CHECK_OK(pf_state_save(e, none, scratch_path("%s/none.safetensors", folder)));
    CHECK_OK(pf_state_load(&back, e, scratch_path("%s/none.safetensors", folder), &o));
    CHECK_OK(pf_attention_state_info(back, &o));
    CHECK(strcmp(o.attention, "identity") == 0 && o.batch == B && !o.kernel);
    CHECK_OK(pf_state_merge(e, none, back));
    pf_state_close(&none), pf_state_close(&back);
    pf_module *m = deep_model(e, 1);
    pf_state *s = NULL;
    pf_named *list = NULL;
    pf_config *meta = NULL;
    int n = 0;
    CHECK_OK(pf_module_state(&s, e, m, 1));
    CHECK_FAILS(PF_ESTATE, pf_state_pack(e, s, &list, &n, &meta));
    CHECK(!list && !meta);
    pf_state_close(&s);
    pf_module_release(&m);
}

/* ---- models ---- */

static pf_stream *fed(pf_engine *e, pf_module *m, int tokens) {
    pf_stream *s = NULL;
    CHECK_OK(pf_stream_open(&s, e, m));
    for (int i = 0; i < tokens; i++) {
        const int32_t id = i % 5;
        CHECK_OK(pf_stream_feed(s, &id, 1));
    }
    return s;
}

/* A million sequences, and the tensors of one. */
static void test_batch(pf_engine *e) {
    const char *path = scratch_path("%s/stream.safetensors", folder);
    pf_module *m = deep_model(e, 2);
    pf_stream *s = fed(e, m, 3), *loaded = NULL;
    size_t live, peak;
    CHECK_OK(pf_stream_save(s, path));
    pf_stream_close(&s);
    for (int changed = 0; changed < 2; changed++) {
        held f = read_file(e, path);
        if (changed) CHECK_OK(pf_config_set_string(f.meta, "batch", "1000000"));
        CHECK_OK(seal(e, m, f.list, f.n, f.meta, path));
        drop(&f);
        pf_engine_reset_peak(e);
        int status = pf_stream_load(&loaded, e, m, path);
        pf_engine_memory(e, &live, &peak);
        CHECK(status == (changed ? PF_EFORMAT : 0) && peak < 8 << 20);
        pf_stream_close(&loaded);
    }
    pf_module_release(&m);
}

static void test_stream_words(pf_engine *e) {
    const char *path = scratch_path("%s/stream.safetensors", folder);
    pf_module *m = deep_model(e, 1);
    pf_stream *s = fed(e, m, 3), *loaded = NULL;
    for (int i = 0; i < PF_COUNT(stream_words); i++) {
        CHECK_OK(pf_stream_save(s, path));
        held f = read_file(e, path);
        write_with(e, &f, path, &stream_words[i]);
        drop(&f);
        told(pf_stream_load(&loaded, e, m, path), &stream_words[i]);
        CHECK(!loaded);
    }
    pf_stream_close(&s);
    pf_module_release(&m);
}

/* The logits that stand, and what was fed, are of the batch and of one vocabulary. */
static void test_picked(pf_engine *e) {
    static const struct {
        const char *name;
        int dim;
        const char *message;
    } rows[] = {{"logits", 0, "'logits' in the file is"},
                {"seen", 0, "'seen' in the file is"},
                {"seen", 1, "of two vocabularies"}};
    const char *path = scratch_path("%s/stream.safetensors", folder);
    pf_module *m = deep_model(e, 1);
    pf_stream *s = fed(e, m, 3), *loaded = NULL;
    for (int i = 0; i < PF_COUNT(rows); i++) {
        const word w = {rows[i].name, "resized", rows[i].message};
        CHECK_OK(pf_stream_save(s, path));
        held f = read_file(e, path);
        resize(e, &f, rows[i].name, rows[i].dim, 9);
        CHECK_OK(seal(e, m, f.list, f.n, f.meta, path));
        drop(&f);
        told(pf_stream_load(&loaded, e, m, path), &w);
        CHECK(!loaded);
    }
    pf_stream_close(&s);
    pf_module_release(&m);
}

/* Whatever the depth: the places of many nodes are a long text. */
static void test_depth(pf_engine *e) {
    const char *path = scratch_path("%s/deep.safetensors", folder);
    pf_module *m = deep_model(e, 30);
    pf_stream *s = fed(e, m, 12), *loaded = NULL;
    int64_t n = 0;
    CHECK_OK(pf_stream_save(s, path));
    CHECK_OK(pf_stream_load(&loaded, e, m, path));
    CHECK(loaded && pf_stream_position(loaded) == 12);
    const float *a = pf_stream_logits(s, &n), *b = loaded ? pf_stream_logits(loaded, &n) : NULL;
    CHECK(b && memcmp(a, b, (size_t)n * sizeof *a) == 0);
    pf_stream_close(&s), pf_stream_close(&loaded);
    pf_module_release(&m);
}

int main(void) {
    host_memory host = {0};
    pf_options options = host_options(&host);
    pf_engine *e = NULL;
    scratch_open(folder, sizeof folder);
    CHECK_OK(pf_engine_open(&e, &options));
    test_sizes(e);
    test_words(e);
    test_tensors(e);
    test_recent(e);
    test_packed(e);
    test_batch(e);
    test_stream_words(e);
    test_picked(e);
    test_depth(e);
    pf_engine_close(&e);
    scratch_remove(folder);
    CHECK(host.blocks == 0 && host.wrong == 0);
    return CHECK_REPORT();
}
