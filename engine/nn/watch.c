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

#include "kern.h"
#include "module.h"

enum { SIDE = 12, PAIRS = SIDE * SIDE, EVERY = 16 };
/* A head's row: step (in two halves, float holds 24 bits), pairs, mean |x|^2, mean |y|^2, 1
 * until pf_watch_take has read it, then |x + y|^2 and |x - y|^2 of each pair. */
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
    int64_t length = l->q->shape[2], n = pf_min(length, SIDE);
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
    row[FRESH] = 1;
}

void pf_watch_look(const pf_module *m, const pf_engine *e, const pf_attend *a, const pf_pass *pass,
                   const pf_tensor *q, const pf_tensor *k) {
    pf_tensor *watch = pf_module_tensor(m, "watch");
    bool due = pass->training && (pass->watch || pass->step % EVERY == 0);
    if (!watch || !due || q->shape[0] == 0 || q->stride[3] != 1 || k->stride[3] != 1) return;
    look l = {.kern = e->kern,
              .q = q,
              .k = k,
              .mask = pass->mask,
              .scale = a->kernel.scale,
              .item = (int64_t)(pass->step / EVERY % (uint64_t)q->shape[0]),
              .causal = a->causal};
    pick(&l);
    for (int64_t h = 0; l.n > 0 && h < q->shape[1]; h++) {
        float *row = pf_f32(watch) + h * ROW;
        row[STEP_HIGH] = (float)(pass->step >> 20);
        row[STEP_LOW] = (float)(pass->step & 0xFFFFF);
        look_at(&l, h, row);
    }
}

bool pf_watch_take(const pf_module *m, int64_t head, double *sum) {
    pf_tensor *watch = pf_module_tensor(m, "watch");
    float *row = watch ? pf_f32(watch) + head * ROW : NULL;
    if (!row || row[FRESH] == 0 || row[COUNT] < 1) return false;
    row[FRESH] = 0;
    *sum = 0;
    for (int i = 0; i < (int)row[COUNT]; i++) *sum += (double)row[SUM + i] / (double)row[COUNT];
    return isfinite(*sum);
}

/* ---- telling ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* NaN stays, and is an error without limit. */
static double square_of(float value) { return value < 0 ? 0 : (double)value; }

/* Means over the pairs of a row, and what theory makes of each, and of the median pair. */
static void tell(const float *row, const pf_kernel *kernel, pf_attention_line *line) {
    int n = (int)row[COUNT];
    float sorted[PAIRS];
    double difference = 0;
    for (int i = 0; i < n; i++) {
        pf_prediction p;
        pf_kernel_error(&p, kernel, square_of(row[SUM + i]), square_of(row[DIFFERENCE + i]));
        line->mean.rel_mse += p.rel_mse / n;
        line->mean.coupled_rel_mse += p.coupled_rel_mse / n;
        line->mean.bias += p.bias / n;
        line->sum += square_of(row[SUM + i]) / n;
        difference += square_of(row[DIFFERENCE + i]) / n;
        sorted[i] = row[SUM + i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    line->median = square_of(sorted[n / 2]);
    difference += line->sum - line->median; /* |x|^2 + |y|^2 is one for both */
    pf_kernel_error(&line->middle, kernel, line->median, difference < 0 ? 0 : difference);
}

/* Head `head` of attention layer m, whose row was looked at. */
static int fill_line(const pf_module *m, int head, const float *row, pf_attention_line *line) {
    pf_kernel kernel;
    int64_t head_dim = pf_option_int(m, "head_dim");
    if (head_dim == 0) head_dim = pf_option_int(m, "dim") / pf_option_int(m, "heads");
    PF_TRY(pf_kernel_resolve(&kernel, pf_config_get(m->options, "kernel"), head_dim));
    const pf_tensor *tilt = pf_module_tensor(m, "tilt");
    if (kernel.map->tilted && tilt) kernel.tilt = (double)pf_f32(tilt)[head];
    line->head = head;
    line->map = kernel.map->name;
    line->features = kernel.features;
    line->step = (uint64_t)row[STEP_HIGH] << 20 | (uint64_t)row[STEP_LOW];
    line->query = (double)row[QUERY], line->key = (double)row[KEY];
    tell(row, &kernel, line);
    return 0;
}

/* A walk over the tree that counts lines, and fills number `wanted`. */
typedef struct {
    int wanted, seen;
    pf_attention_line *line;
} walk;

static int visit_heads(walk *w, const pf_module *m, const char *path) {
    const pf_tensor *watch = pf_module_tensor(m, "watch");
    if (m->type != &pf_layer_attention || !watch) return 0;
    for (int h = 0; h < watch->shape[0]; h++) {
        const float *row = pf_f32(watch) + h * ROW;
        if (row[COUNT] < 1 || w->seen++ != w->wanted) continue;
        snprintf(w->line->layer, sizeof w->line->layer, "%s", path);
        PF_TRY(fill_line(m, h, row, w->line));
    }
    return 0;
}

static int visit(walk *w, const pf_module *m, const char *path) {
    char inner[sizeof w->line->layer];
    PF_TRY(visit_heads(w, m, path));
    for (int i = 0; i < m->n_child; i++) {
        int n = snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", m->child[i].name);
        if (n < 0 || (size_t)n >= sizeof inner) inner[sizeof inner - 1] = 0; /* cut short */
        PF_TRY(visit(w, m->child[i].module, inner));
    }
    return 0;
}

int pf_module_attention_count(const pf_module *module) {
    walk w = {.wanted = -1};
    PF_TRY(visit(&w, module, ""));
    return w.seen;
}

int pf_module_attention_at(const pf_module *module, int index, pf_attention_line *line) {
    *line = (pf_attention_line){0};
    walk w = {.wanted = index < 0 ? -1 : index, .line = line};
    PF_TRY(visit(&w, module, ""));
    if (index >= 0 && index < w.seen) return 0;
    return pf_fail(PF_ENOTFOUND, "attention: there is no line %s; there are %d", pf_place(index),
                   w.seen);
}
