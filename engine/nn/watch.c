/*
 * watch.c - softmax attention that looks at its queries and keys while it trains.
 *
 * A step that looks takes SIDE queries and keys of one batch item, evenly spaced, in every
 * head, and keeps |x|^2, |y|^2 and, for every pair, |x + y|^2 and |x - y|^2, in a tensor that is
 * neither trained nor saved. Nothing of the pass is touched. What theory makes of the numbers is
 * worked out when somebody asks.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "kern.h"
#include "module.h"

enum { SIDE = 12, PAIRS = SIDE * SIDE, EVERY = 16 };
/* What a look that nobody has taken yet is for. */
enum { ASKED = 1, DUE = 2 };
/* A head's row: step (in two halves, float holds 24 bits), pairs, mean |x|^2, mean |y|^2, ASKED or
 * DUE until pf_watch_take has read it, then |x + y|^2 and |x - y|^2 of each pair. */
enum {
    STEP_HIGH,
    STEP_LOW,
    COUNT,
    QUERY,
    KEY,
    FRESH,
    SUM,
    DIFFERENCE = SUM + PAIRS,
    ROW = DIFFERENCE + PAIRS
};

int pf_watch_make(pf_module *m, int64_t heads) {
    pf_tensor *watch = NULL;
    int64_t shape[2] = {heads, ROW};
    if (pf_module_tensor(m, "watch")) return PF_OK;
    PF_TRY(pf_tensor_make_lasting(&watch, m->heap, PF_F32, 2, shape));
    int status = pf_tensor_fill(watch, 0);
    if (status >= 0) status = pf_module_derived(m, "watch", watch);
    pf_tensor_release(&watch);
    return status;
}

/* ---- looking ---- */

typedef struct {
    const pf_kern *kern;
    const pf_tensor *q, *k, *mask;
    double scale;
    int64_t item, n;
    int64_t at[SIDE]; /* positions */
    bool causal;
} look;

static const float *row_of(const pf_tensor *t, int64_t item, int64_t head, int64_t at) {
    return pf_f32(t) + item * t->stride[0] + head * t->stride[1] + at * t->stride[2];
}

static bool keeps(const pf_tensor *mask, int64_t item, int64_t at) {
    return !mask || pf_i32(mask)[item * mask->stride[0] + at * mask->stride[1]] != 0;
}

/* Positions of the item, as far as they are there. */
static void pick(look *l) {
    int64_t length = pf_min(l->q->shape[2], l->k->shape[2]), n = pf_min(length, SIDE);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (2 * i + 1) * length / (2 * n);
        if (keeps(l->mask, l->item, at)) l->at[l->n++] = at;
    }
}

/* One head into its row; last strides are 1. */
static void look_at(const look *l, int64_t head, float *row) {
    int64_t d = l->q->shape[3], key_head = head / (l->q->shape[1] / l->k->shape[1]);
    float x[SIDE], y[SIDE], square = (float)(l->scale * l->scale);
    int count = 0;
    row[QUERY] = row[KEY] = 0;
    for (int64_t i = 0; i < l->n; i++) {
        x[i] = square * l->kern->sumsq(d, row_of(l->q, l->item, head, l->at[i]));
        y[i] = square * l->kern->sumsq(d, row_of(l->k, l->item, key_head, l->at[i]));
        row[QUERY] += x[i] / (float)l->n;
        row[KEY] += y[i] / (float)l->n;
    }
    for (int64_t i = 0; i < l->n; i++) {
        const float *q = row_of(l->q, l->item, head, l->at[i]);
        for (int64_t j = 0; j < (l->causal ? i + 1 : l->n); j++) {
            const float *k = row_of(l->k, l->item, key_head, l->at[j]);
            float twice = 2 * square * l->kern->dot(d, q, k);
            row[SUM + count] = x[i] + y[j] + twice;
            row[DIFFERENCE + count++] = x[i] + y[j] - twice;
        }
    }
    row[COUNT] = (float)count;
}

/* Every EVERY-th step looks at the next item of the batch, so that all have their turn; a pass that
 * asks (`watch`) looks at once, and moves no tilt: what is logged is nothing that trains. Rows that
 * don't lie with stride 1 are left out: it is a sample. */
void pf_watch_look(const pf_module *m, const pf_engine *e, const pf_attention *a,
                   const pf_pass *pass, const pf_tensor *q, const pf_tensor *k) {
    pf_tensor *watch = pf_module_tensor(m, "watch");
    bool due = pass->step % EVERY == 0, looks = pass->training && (pass->watch || due);
    if (!watch || !looks || q->shape[0] == 0 || q->stride[3] != 1 || k->stride[3] != 1) return;
    look l = {.kern = e->kern,
              .q = q,
              .k = k,
              .mask = pass->mask,
              .scale = a->kernel->spec.numbers.scale,
              .item = (int64_t)(pass->step / EVERY % (uint64_t)q->shape[0]),
              .causal = a->causal};
    pick(&l);
    for (int64_t h = 0; l.n > 0 && h < q->shape[1]; h++) {
        float *row = pf_f32(watch) + h * ROW;
        row[STEP_HIGH] = (float)(pass->step >> 20);
        row[STEP_LOW] = (float)(pass->step & 0xFFFFF);
        row[FRESH] = due ? DUE : ASKED;
        look_at(&l, h, row);
    }
}

/* The mean |x + y|^2 of a head, once for each look that was due: it moves a tilt once. */
bool pf_watch_take(const pf_module *m, int64_t head, double *sum) {
    pf_tensor *watch = pf_module_tensor(m, "watch");
    float *row = watch ? pf_f32(watch) + head * ROW : NULL;
    const bool due = row && row[FRESH] == DUE;
    if (row) row[FRESH] = 0;
    if (!due || row[COUNT] < 1) return false;
    *sum = 0;
    for (int i = 0; i < (int)row[COUNT]; i++) *sum += (double)row[SUM + i] / (double)row[COUNT];
    return isfinite(*sum);
}

/* ---- ranks ---- */

/* Did any layer below m look since its tilt moved, and how many floats have those that may? */
static bool looked(const pf_module *m, int64_t *floats) {
    const pf_tensor *watch = pf_module_tensor(m, "watch");
    bool any = watch && pf_f32(watch)[FRESH] != 0;
    if (watch) *floats += pf_tensor_numel(watch);
    for (int i = 0; i < m->n_child; i++) any |= looked(m->child[i].module, floats);
    return any;
}

/* The rows of all layers below m into `block`, or back from there; where the next one goes. */
static float *carry(const pf_module *m, float *block, bool back) {
    pf_tensor *watch = pf_module_tensor(m, "watch");
    const size_t n = watch ? (size_t)pf_tensor_numel(watch) : 0;
    if (n > 0 && back) memcpy(pf_f32(watch), block, n * sizeof *block);
    if (n > 0 && !back) memcpy(block, pf_f32(watch), n * sizeof *block);
    block += n;
    for (int i = 0; i < m->n_child; i++) block = carry(m->child[i].module, block, back);
    return block;
}

/* Where lanes look one after the other, what the last one saw stands: so it is on all ranks, of
 * which the last one that looked has it. */
int pf_watch_share(pf_engine *e, pf_module *m) {
    int64_t n = 0;
    if (!e->comm) return PF_OK;
    pf_comm_word word = {.size = sizeof word, .most = looked(m, &n) ? 1 + pf_comm_rank(e) : 0};
    if (n == 0) return PF_OK;
    float *block = pf_heap_alloc(e->heap, (size_t)n * sizeof *block);
    int status = pf_comm_agree_on(e, block ? PF_OK : PF_ENOMEM, &word);
    if (status >= 0 && word.most > 0) {
        PF_HOLDS(block);
        carry(m, block, false);
        status = pf_comm_share(e, PF_OK, word.most_of, block, (size_t)n * sizeof *block);
        if (status >= 0) carry(m, block, true);
    }
    pf_heap_free(e->heap, block, (size_t)n * sizeof *block);
    return status;
}

/* ---- telling ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* NaN stays, and is an error without limit. */
static double square_of(float value) { return value < 0 ? 0 : (double)value; }

typedef struct {
    double sum, median;
    pf_prediction mean, middle;
} told;

/* Means over the pairs of a row, and what theory makes of each, and of the median pair. */
static told tell(const float *row, const pf_kernel_spec *spec) {
    int n = (int)row[COUNT];
    float sorted[PAIRS] = {0};
    double difference = 0;
    told t = {0};
    for (int i = 0; i < n; i++) {
        pf_prediction p;
        pf_kernel_error(&p, spec, square_of(row[SUM + i]), square_of(row[DIFFERENCE + i]));
        t.mean.rel_mse += p.rel_mse / n;
        t.mean.coupled_rel_mse += p.coupled_rel_mse / n;
        t.mean.bias += p.bias / n;
        t.sum += square_of(row[SUM + i]) / n;
        difference += square_of(row[DIFFERENCE + i]) / n;
        sorted[i] = row[SUM + i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    t.median = square_of(sorted[n / 2]);
    difference += t.sum - t.median; /* |x|^2 + |y|^2 is one for both */
    pf_kernel_error(&t.middle, spec, t.median, difference < 0 ? 0 : difference);
    return t;
}

/* The options of layer m's kernel for query head `head`, with the tilt that its key head has. */
static int spec_of(const pf_module *m, int head, pf_kernel_spec *spec) {
    int64_t head_dim = pf_option_int(m, "head_dim"), heads = pf_option_int(m, "heads");
    if (head_dim == 0) head_dim = pf_option_int(m, "dim") / heads;
    PF_TRY(pf_kernel_resolve(spec, pf_config_get(m->options, "kernel"), head_dim));
    const pf_tensor *tilt = pf_module_tensor(m, "tilt");
    if (spec->map->tilted && tilt) {
        spec->numbers.tilt = (double)pf_f32(tilt)[head / (heads / tilt->shape[0])];
    }
    return PF_OK;
}

/* One head of one layer in numbers: what was seen, and what theory makes of it. */
static int fill_line(pf_config *line, const pf_module *m, const char *path, int head,
                     const float *row) {
    pf_kernel_spec spec;
    PF_TRY(spec_of(m, head, &spec));
    told t = tell(row, &spec);
    uint64_t step = (uint64_t)row[STEP_HIGH] << 20 | (uint64_t)row[STEP_LOW];
    PF_TRY(pf_config_set_string(line, "layer", path));
    PF_TRY(pf_config_set_string(line, "map", spec.map->name));
    PF_TRY(pf_config_set_number(line, "head", head));
    PF_TRY(pf_config_set_number(line, "features", (double)spec.features));
    PF_TRY(pf_config_set_number(line, "step", (double)step));
    PF_TRY(pf_config_set_number(line, "query", (double)row[QUERY]));
    PF_TRY(pf_config_set_number(line, "key", (double)row[KEY]));
    PF_TRY(pf_config_set_number(line, "sum", t.sum));
    PF_TRY(pf_config_set_number(line, "median", t.median));
    PF_TRY(pf_prediction_report(line, "mean", &t.mean));
    return pf_prediction_report(line, "middle", &t.middle);
}

static int report_heads(pf_config *lines, const pf_module *m, const char *path) {
    const pf_tensor *watch = pf_module_tensor(m, "watch");
    if (!watch) return PF_OK;
    for (int h = 0; h < watch->shape[0]; h++) {
        const float *row = pf_f32(watch) + (int64_t)h * ROW;
        if (row[COUNT] < 1) continue;
        pf_config *line = pf_config_new_beside(lines, PF_MAP);
        int status = line ? fill_line(line, m, path, h, row) : PF_ENOMEM;
        if (status < 0) {
            pf_config_free(line);
            return status;
        }
        PF_TRY(pf_config_push(lines, line));
    }
    return PF_OK;
}

/* All layers below m that look, by their paths. */
static int report(pf_config *lines, const pf_module *m, const char *path) {
    PF_TRY(report_heads(lines, m, path));
    for (int i = 0; i < m->n_child; i++) {
        char *inner = pf_heap_joined(m->heap, path, m->child[i].name);
        int status = inner ? report(lines, m->child[i].module, inner) : PF_ENOMEM;
        pf_heap_text_free(m->heap, inner);
        PF_TRY(status);
    }
    return PF_OK;
}

int pf_module_attention_report(pf_config **lines, const pf_module *module) {
    PF_OUT(lines);
    PF_NEED(module);
    *lines = pf_config_new_in(module->heap, PF_LIST);
    int status = *lines ? report(*lines, module, "") : pf_fail(PF_ENOMEM, "attention: no memory");
    if (status >= 0) return PF_OK;
    pf_config_free(*lines);
    *lines = NULL;
    return status;
}
