/* nn_support.h - what the tests of models share: options in one line, ids, one run. */
#ifndef PF_NN_SUPPORT_H
#define PF_NN_SUPPORT_H

#include "check.h"
#include "module.h"
#include "optim.h"

/* JSON with ' for " -> a config. */
static inline pf_config *options_of(const char *text) {
    char buffer[2048];
    size_t n = strlen(text);
    pf_config *node = NULL;
    for (size_t i = 0; i <= n && i < sizeof buffer; i++) {
        buffer[i] = text[i] == '\'' ? '"' : text[i];
    }
    CHECK_OK(pf_json_parse(&node, buffer, n));
    return node;
}

/* An open kernel of these options. */
static inline pf_kernel *kernel_of(pf_engine *e, const char *text) {
    pf_config *options = options_of(text);
    pf_kernel *kernel = NULL;
    CHECK_OK(pf_kernel_open(&kernel, e, options, NULL));
    pf_config_free(options);
    return kernel;
}

/* ---- a list of tensors as a file of an optimizer ---- */

typedef struct {
    const pf_named *list;
    int n;
} kept_list;

static inline const char *kept_name(const void *file, int i) {
    return ((const kept_list *)file)->list[i].name;
}

static inline int kept_find(const void *file, const char *name) {
    const kept_list *kept = file;
    int i = kept->n - 1;
    while (i >= 0 && strcmp(kept->list[i].name, name) != 0) i--;
    return i;
}

static inline int kept_about(const void *file, int i, pf_dtype *dtype, int *rank,
                             const int64_t **shape) {
    const pf_tensor *t = ((const kept_list *)file)->list[i].tensor;
    *dtype = t->dtype, *rank = t->rank, *shape = t->shape;
    return PF_OK;
}

static inline int kept_read(void *file, int i, int64_t first, int64_t n, float *out) {
    memcpy(out, pf_f32(((const kept_list *)file)->list[i].tensor) + first, (size_t)n * sizeof *out);
    return PF_OK;
}

static inline int restore_from(pf_optimizer *o, const pf_named *list, int n,
                               const pf_config *config) {
    kept_list kept = {list, n};
    const pf_saved file = {&kept, n, kept_name, kept_find, kept_about, kept_read};
    return pf_optimizer_restore(o, &file, false, false, config);
}

static inline pf_engine *engine_of(int threads, uint64_t seed) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.threads = threads;
    options.seed = seed;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

static inline pf_module *layer_of(pf_engine *e, const char *type, const char *text) {
    pf_config *options = options_of(text);
    pf_module *m = NULL;
    CHECK_OK(pf_module_new(&m, e, type, options, NULL, 0));
    pf_config_free(options);
    return m;
}

/* A small performer; `more` is added to its options. */
static inline pf_module *small_model(pf_engine *e, const char *more) {
    char text[1024];
    snprintf(text, sizeof text,
             "{'vocab': 11, 'dim': 16, 'layers': 2, 'heads': 2, 'length': 64%s%s}",
             more[0] ? ", " : "", more);
    return layer_of(e, "performer", text);
}

/* Rows of an n-gram memory begin at 0. */
static inline void fill_memory(pf_module *m) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        const char *name;
        pf_tensor *t;
        bool trained;
        CHECK_OK(pf_module_tensor_at(m, i, &name, &t, &trained));
        for (int64_t k = 0; strstr(name, "ngrams.weight") && k < pf_tensor_numel(t); k++)
            pf_f32(t)[k] = 0.1f * (float)(k % 7 - 3);
    }
}

/* (B, L) ids that look random, below 11. */
static inline int try_ids(pf_tensor **t, pf_engine *e, int64_t batch, int64_t length,
                          uint32_t salt) {
    int64_t shape[2] = {batch, length};
    PF_TRY(pf_tensor_full(t, e, PF_I32, 2, shape, 0));
    for (int64_t i = 0; i < batch * length; i++) {
        uint32_t x = ((uint32_t)i + 1) * 2654435761u + salt * 40503u;
        pf_i32(*t)[i] = (int32_t)((x ^ x >> 15) % 11);
    }
    return PF_OK;
}

static inline pf_tensor *some_ids(pf_engine *e, int64_t batch, int64_t length, uint32_t salt) {
    pf_tensor *t = NULL;
    CHECK_OK(try_ids(&t, e, batch, length, salt));
    return t;
}

/* The numbers of f32 t, row-major; free() them. */
static inline float *numbers(const pf_tensor *t) {
    size_t n = (size_t)pf_tensor_numel(t);
    float *out = calloc(n + 1, sizeof *out);
    CHECK_OK(pf_tensor_read(t, out, n * sizeof *out));
    return out;
}

/* Forward without a graph; the numbers of the result. */
static inline float *forward_of(pf_engine *e, pf_module *m, pf_tensor *x, pf_tensor *documents,
                                pf_tensor *mask) {
    pf_pass pass = {.size = sizeof pass, .documents = documents, .mask = mask};
    pf_tensor *y = NULL;
    CHECK_OK(pf_module_forward(&y, e, m, x, &pass));
    if (!y) return calloc(1 << 16, sizeof(float));
    float *out = numbers(y);
    pf_tensor_release(&y);
    return out;
}

/* max |a - b| / max |b| */
static inline double distance(const float *a, const float *b, int64_t n) {
    double most = 0, top = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - b[i]));
        top = fmax(top, fabs(b[i]));
        if (isnan(a[i]) || isnan(b[i])) return INFINITY;
    }
    return most / top;
}

/* The options that a promise is checked under. */
static const char *const causal_kinds[] = {
    "'causal': true, 'kernel': {'name': 'softmax', 'features': 24}",
    "'causal': true, 'kernel': {'name': 'relu'}, 'positions': 'learned'",
    "'causal': true, 'kernel': {'name': 'elu', 'features': 24}, 'positions': 'sinusoidal'",
    "'causal': true, 'kernel': {'name': 'exact'}, 'conv': 3",
    "'causal': true, 'kernel': {'name': 'identity'}, 'norm': 'rmsnorm', 'act': 'swiglu'",
    "'causal': true, 'qk_norm': true, 'conv': 4, 'bias': true, 'positions': 'none', "
    "'tied': false, 'act': 'square_relu'",
    "'causal': true, 'residual': 'post', 'shared': true, 'embedding_dim': 12, 'embedding_norm': "
    "true, 'head': 'transform', 'token_shift': true, 'positions': 'axial', 'axes': [16, 8, 64]",
    "'causal': true, 'residual': 'rezero', 'norm': 'scalenorm', 'act': 'geglu', 'attentions': "
    "[{'name': 'exact', 'scale': 0.4}], 'rotary_pairs': 'neighbours', 'head_bias': true",
    "'causal': true, 'head_groups': [{'heads': 1, 'attention': 'exact'}, {'heads': 1, 'kernel': "
    "{'features': 8}}], 'act': 'glu'",
};

/* Bytes live in e's heap, without the threads' work space, as the heap rounds it up. */
static inline size_t live_bytes(pf_engine *e) {
    pf_info info = {.size = sizeof info};
    pf_engine_info(e, &info);
    const size_t scratch = e->scratch_bytes * (size_t)e->threads / 8 * 9;
    return info.live > scratch ? info.live - scratch : 0;
}

#endif
