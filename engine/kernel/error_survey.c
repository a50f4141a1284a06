/*
 * error_survey.c - the error of a kernel on real queries and keys, a head at a time: told by theory
 * (error_theory.c) and measured, over the same pairs. From at most ITEMS batch items `rows` queries
 * and keys each are taken, evenly spaced, and every one of those queries meets every one of
 * those keys (causal: those that are not after it). A mean over pairs is one of numbers that
 * grow with exp(|x + y|^2), so the longest pairs are most of it; the median pair stands beside.
 *
 * Measured is the plain definition of the features in double, by logarithms, over projections
 * of epochs 0, 1, 2 ... of the kernel's seed: (estimate / exp(x.y) - 1)^2, and the mean of
 * estimate / exp(x.y) - 1 in standard errors over the draws.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

enum { ITEMS = 4, ROWS = 32, MOST_ROWS = 256 };

/* One head. What is 0 without draws stands last. */
typedef struct {
    int64_t pairs;
    double query, key;                           /* mean |x|^2, |y|^2 */
    double sum, difference;                      /* mean |x + y|^2, |x - y|^2 */
    double median, largest;                      /* of |x + y|^2 */
    pf_prediction mean;                          /* over pairs: the longest are most of it */
    pf_prediction middle;                        /* of the pair of median |x + y|^2 */
    double measured_rel_mse, measured_deviation; /* and its standard error */
    double bias, bias_sigma;                     /* relative, and in standard errors */
} head_report;

typedef struct {
    pf_engine *engine;
    pf_kernel_spec spec;
    head_report *heads;
    const pf_tensor *q, *k;
    const double *tilt; /* (H), or NULL: the kernel's */
    int64_t H, d, m, r, items, nq, nk;
    bool causal;
    pf_tensor *projection;
    double *pair; /* (H, pairs): |x + y|^2, to find the median */
    int64_t draw; /* the running one, from 1 */
} survey;

/* Sample i of `count` among n, evenly spaced. */
static int64_t pick(int64_t i, int64_t count, int64_t n) { return (2 * i + 1) * n / (2 * count); }

static bool sees(const survey *s, int64_t i, int64_t j) {
    return !s->causal || pick(j, s->nk, s->k->shape[2]) <= pick(i, s->nq, s->q->shape[2]);
}

/* Row `at` of (item, head) of t, scaled, in double. */
static void load(const survey *s, const pf_tensor *t, int64_t item, int64_t head, int64_t at,
                 double *x) {
    const float *row = pf_f32(t) + item * t->stride[0] + head * t->stride[1] + at * t->stride[2];
    for (int64_t i = 0; i < s->d; i++) x[i] = s->spec.numbers.scale * (double)row[i * t->stride[3]];
}

/* x (nq, d), y (nk, d) of sampled item `n`; grouped keys: head h has keys h / (H / Hk). */
static void load_item(const survey *s, int64_t n, int64_t head, double *x, double *y) {
    int64_t item = pick(n, s->items, s->q->shape[0]);
    int64_t key_head = head / (s->H / s->k->shape[1]);
    for (int64_t i = 0; i < s->nq; i++) {
        load(s, s->q, item, head, pick(i, s->nq, s->q->shape[2]), x + i * s->d);
    }
    for (int64_t j = 0; j < s->nk; j++) {
        load(s, s->k, item, key_head, pick(j, s->nk, s->k->shape[2]), y + j * s->d);
    }
}

/* Rounding can take a square below 0; NaN stays. */
static double square_of(double value) { return value < 0 ? 0 : value; }

static double dot(int64_t n, const double *a, const double *b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- predicting ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static pf_kernel_spec spec_of(const survey *s, int64_t head) {
    pf_kernel_spec spec = s->spec;
    if (s->tilt) spec.numbers.tilt = s->tilt[head];
    return spec;
}

static void add_pair(head_report *h, const pf_kernel_spec *spec, double sum, double difference) {
    pf_prediction p;
    pf_kernel_error(&p, spec, sum, difference);
    h->pairs++;
    h->sum += sum, h->difference += difference;
    h->largest = fmax(h->largest, sum);
    h->mean.rel_mse += p.rel_mse;
    h->mean.coupled_rel_mse += p.coupled_rel_mse;
    h->mean.bias += p.bias;
}

/* Sums over pairs become means; the pair of median |x + y|^2 is predicted too. */
static void conclude(const survey *s, head_report *h, const pf_kernel_spec *spec, double *sums) {
    double n = (double)pf_max(h->pairs, 1), rows = (double)(s->items * s->nq),
           keys = (double)(s->items * s->nk);
    h->query /= fmax(rows, 1), h->key /= fmax(keys, 1);
    h->sum /= n, h->difference /= n;
    h->mean.rel_mse /= n, h->mean.coupled_rel_mse /= n, h->mean.bias /= n;
    if (h->pairs == 0) return;
    qsort(sums, (size_t)h->pairs, sizeof *sums, by_value);
    h->median = sums[h->pairs / 2];
    /* |x|^2 + |y|^2 is one for both, so the typical |x - y|^2 lies as far on the other side. */
    double other = fmax(h->sum + h->difference - h->median, 0);
    pf_kernel_error(&h->middle, spec, h->median, other);
}

/* One head: everything but what is measured. scratch: x, y. */
static void predict_task(void *context, int64_t head, void *scratch) {
    const survey *s = context;
    double *x = scratch, *y = x + s->nq * s->d, *sums = s->pair + head * s->items * s->nq * s->nk;
    head_report *h = &s->heads[head];
    pf_kernel_spec spec = spec_of(s, head);
    for (int64_t n = 0; n < s->items; n++) {
        load_item(s, n, head, x, y);
        for (int64_t i = 0; i < s->nq; i++) h->query += dot(s->d, x + i * s->d, x + i * s->d);
        for (int64_t j = 0; j < s->nk; j++) h->key += dot(s->d, y + j * s->d, y + j * s->d);
        for (int64_t i = 0; i < s->nq; i++) {
            const double *a = x + i * s->d;
            for (int64_t j = 0; j < s->nk; j++) {
                if (!sees(s, i, j)) continue;
                const double *b = y + j * s->d;
                double lengths = dot(s->d, a, a) + dot(s->d, b, b), product = 2 * dot(s->d, a, b);
                sums[h->pairs] = square_of(lengths + product);
                add_pair(h, &spec, square_of(lengths + product), square_of(lengths - product));
            }
        }
    }
    conclude(s, h, &spec, sums);
}

/* ---- measuring ---- */

/* Work space of a head's draw, and its features: phi_a = exp(top) f_a, f at most 1. */
typedef struct {
    double *x, *y, *u, *sign, *fq, *fk, *top_q, *top_k;
    float *bias;
} trial;

static size_t carve_trial(const survey *s, trial *t, void *scratch) {
    size_t unit = sizeof(double);
    void *end = scratch;
    t->x = pf_carve(&end, (size_t)(s->nq * s->d) * unit);
    t->y = pf_carve(&end, (size_t)(s->nk * s->d) * unit);
    t->u = pf_carve(&end, (size_t)s->m * unit);
    t->sign = pf_carve(&end, (size_t)s->r * unit);
    t->fq = pf_carve(&end, (size_t)(s->nq * s->r) * unit);
    t->fk = pf_carve(&end, (size_t)(s->nk * s->r) * unit);
    t->top_q = pf_carve(&end, (size_t)s->nq * unit);
    t->top_k = pf_carve(&end, (size_t)s->nk * unit);
    t->bias = pf_carve(&end, (size_t)s->m * sizeof(float));
    return (size_t)((uintptr_t)end - (uintptr_t)scratch);
}

/* Rows x (n, d) -> f (n, r) and top (n), by the map's definition. */
static void define_rows(const survey *s, trial *t, const pf_map_args *args, const float *w,
                        int64_t n, const double *x, double *f, double *top) {
    for (int64_t i = 0; i < n; i++, x += s->d, f += s->r) {
        for (int64_t a = 0; a < s->m; a++) {
            double u = 0;
            for (int64_t c = 0; c < s->d; c++) u += (double)w[a * s->d + c] * x[c];
            t->u[a] = u;
        }
        args->map->define(args, t->u, dot(s->d, x, x) / 2, f, t->sign);
        top[i] = -INFINITY;
        for (int64_t a = 0; a < s->r; a++) top[i] = fmax(top[i], f[a]);
        for (int64_t a = 0; a < s->r; a++) f[a] = t->sign[a] * exp(f[a] - top[i]);
    }
}

/* Adds estimate / exp(x.y) - 1 and its square over the pairs of one item. */
static void judge_pairs(const survey *s, const trial *t, double *error, double *square) {
    for (int64_t i = 0; i < s->nq; i++) {
        for (int64_t j = 0; j < s->nk; j++) {
            if (!sees(s, i, j)) continue;
            double log_scale =
                t->top_q[i] + t->top_k[j] - dot(s->d, t->x + i * s->d, t->y + j * s->d);
            double e = dot(s->r, t->fq + i * s->r, t->fk + j * s->r) * exp(log_scale) - 1;
            *error += e;
            *square += e * e;
        }
    }
}

/* Mean and sum of squared deviations after value number n (Welford). */
static void welford(double value, double n, double *mean, double *spread) {
    double step = value - *mean;
    *mean += step / n;
    *spread += step * (value - *mean);
}

/* One head under the running draw's projection. */
static void measure_task(void *context, int64_t head, void *scratch) {
    const survey *s = context;
    trial t;
    head_report *h = &s->heads[head];
    double error = 0, square = 0, pairs = (double)pf_max(h->pairs, 1);
    carve_trial(s, &t, scratch);
    const pf_tensor *W = s->projection; /* of every head, of every key head, or one */
    int64_t own = W->rank == 3 ? head / (s->H / W->shape[0]) : 0;
    const float *w = pf_f32(W) + own * s->m * s->d;
    pf_map_args args = pf_map_args_of(s->spec.map, s->engine->kern, s->m, &s->spec.numbers);
    if (s->spec.map->tilted) pf_map_tilt(&args, spec_of(s, head).numbers.tilt, w, s->d, t.bias);
    for (int64_t n = 0; n < s->items; n++) {
        load_item(s, n, head, t.x, t.y);
        define_rows(s, &t, &args, w, s->nq, t.x, t.fq, t.top_q);
        define_rows(s, &t, &args, w, s->nk, t.y, t.fk, t.top_k);
        judge_pairs(s, &t, &error, &square);
    }
    welford(square / pairs, (double)s->draw, &h->measured_rel_mse, &h->measured_deviation);
    welford(error / pairs, (double)s->draw, &h->bias, &h->bias_sigma);
}

/* Spreads over the draws become standard errors, and the bias is told in them. */
static void conclude_measuring(const survey *s) {
    double n = (double)s->draw;
    for (int64_t i = 0; i < s->H; i++) {
        head_report *h = &s->heads[i];
        double of_mean = n > 1 ? sqrt(h->bias_sigma / (n * (n - 1))) : 0;
        h->measured_deviation = n > 1 ? sqrt(h->measured_deviation / (n * (n - 1))) : 0;
        h->bias_sigma = of_mean > 0 ? h->bias / of_mean : 0;
    }
}

/* draws: projections of epochs 0, 1 ...; a given one is measured once. */
static int measure(survey *s, pf_kernel *kernel, int draws) {
    trial t;
    int status = PF_OK;
    size_t bytes = carve_trial(s, &t, NULL);
    pf_kernel *bound = NULL;
    bool given = s->spec.rows == PF_ROWS_GIVEN;
    if (given) {
        PF_TRY(pf_kernel_bind(&bound, s->engine, kernel, s->d, s->k->shape[1]));
        s->projection = pf_tensor_retain(bound->projection);
        pf_kernel_release(&bound);
        draws = 1;
    }
    for (int i = 0; i < draws && status >= 0; i++) {
        s->draw = i + 1;
        if (!given) status = pf_kernel_draw(&s->projection, s->engine, &s->spec, s->H, (uint64_t)i);
        if (status >= 0) status = pf_parallel(s->engine, s->H, bytes, measure_task, s);
    }
    pf_tensor_release(&s->projection);
    if (status >= 0) conclude_measuring(s);
    return status;
}

/* ---- the report ---- */

typedef struct {
    const char *name;
    double value;
} number;

static int put_numbers(pf_config *map, const number *list, int n) {
    for (int i = 0; i < n; i++) PF_TRY(pf_config_set_number(map, list[i].name, list[i].value));
    return PF_OK;
}

int pf_prediction_report(pf_config *map, const char *name, const pf_prediction *p) {
    pf_config *own = pf_config_new_beside(map, PF_MAP);
    number list[] = {
        {"rel_mse", p->rel_mse}, {"coupled_rel_mse", p->coupled_rel_mse}, {"bias", p->bias}};
    int status = own ? put_numbers(own, list, PF_COUNT(list)) : PF_ENOMEM;
    if (status >= 0) return pf_config_set(map, name, own);
    pf_config_free(own);
    return status;
}

static int report_head(pf_config *map, const head_report *h, bool measured) {
    number list[] = {{"pairs", (double)h->pairs},
                     {"query", h->query},
                     {"key", h->key},
                     {"sum", h->sum},
                     {"difference", h->difference},
                     {"median", h->median},
                     {"largest", h->largest},
                     {"measured_rel_mse", h->measured_rel_mse},
                     {"measured_deviation", h->measured_deviation},
                     {"bias", h->bias},
                     {"bias_sigma", h->bias_sigma}};
    PF_TRY(put_numbers(map, list, measured ? PF_COUNT(list) : PF_COUNT(list) - 4));
    PF_TRY(pf_prediction_report(map, "mean", &h->mean));
    return pf_prediction_report(map, "middle", &h->middle);
}

static int report(pf_config *list, const survey *s, bool measured) {
    for (int64_t h = 0; h < s->H; h++) {
        pf_config *map = pf_config_new_beside(list, PF_MAP);
        if (!map) return PF_ENOMEM;
        int status = report_head(map, &s->heads[h], measured);
        if (status < 0) {
            pf_config_free(map);
            return status;
        }
        PF_TRY(pf_config_push(list, map));
    }
    return PF_OK;
}

/* ---- checks ---- */

static int check_rows(const pf_tensor *q, const pf_tensor *k, bool causal) {
    PF_TRY(pf_tensor_check(q, PF_F32, "survey", "q"));
    PF_TRY(pf_tensor_check(k, PF_F32, "survey", "k"));
    if (q->rank == 4 && k->rank == 4 && q->shape[0] == k->shape[0] && k->shape[1] > 0 &&
        q->shape[1] % k->shape[1] == 0 && q->shape[3] == k->shape[3] && q->shape[3] > 0 &&
        (!causal || q->shape[2] == k->shape[2])) {
        return PF_OK;
    }
    return pf_fail(PF_ESHAPE,
                   "survey: q is %s and k is %s; they must be (B, H, Lq, d) and "
                   "(B, H, Lk, d)%s",
                   pf_shape_of(q), pf_shape_of(k), causal ? ", with Lq = Lk where causal" : "");
}

static void fill_sizes(survey *s, const pf_survey_options *o) {
    int64_t rows = o->rows > 0 ? pf_min(o->rows, MOST_ROWS) : ROWS;
    s->H = s->q->shape[1], s->d = s->q->shape[3];
    s->m = s->spec.features, s->r = s->m * s->spec.map->width;
    s->items = pf_min(s->q->shape[0], ITEMS);
    s->nq = pf_min(s->q->shape[2], rows), s->nk = pf_min(s->k->shape[2], rows);
}

static int run(survey *s, pf_kernel *kernel, int draws) {
    size_t bytes = (size_t)((s->nq + s->nk) * s->d) * sizeof(double);
    PF_TRY(pf_parallel(s->engine, s->H, bytes, predict_task, s));
    return draws > 0 && s->items > 0 ? measure(s, kernel, draws) : PF_OK;
}

int pf_kernel_survey(pf_config **heads, pf_engine *engine, pf_kernel *kernel, const pf_tensor *q,
                     const pf_tensor *k, const pf_survey_options *options) {
    PF_OUT(heads);
    PF_OPEN(engine);
    PF_NEED(kernel, q, k);
    pf_survey_options o = {0};
    PF_TRY(pf_options_take(&o, sizeof o, options, "survey"));
    survey s = {.engine = engine, .q = q, .k = k, .causal = o.causal, .tilt = o.tilt};
    PF_TRY(check_rows(q, k, o.causal));
    PF_TRY(pf_kernel_spec_for(&s.spec, kernel, q->shape[3], "survey"));
    fill_sizes(&s, &o);
    size_t pairs = (size_t)(s.H * s.items * s.nq * s.nk) * sizeof(double);
    size_t bytes = pairs + (size_t)s.H * sizeof *s.heads;
    s.pair = pf_heap_zalloc(engine->heap, bytes);
    if (!s.pair) return PF_ENOMEM;
    s.heads = (head_report *)((char *)s.pair + pairs);
    *heads = pf_config_new_in(engine->heap, PF_LIST);
    int status = *heads ? run(&s, kernel, o.draws) : PF_ENOMEM;
    if (status >= 0) status = report(*heads, &s, o.draws > 0);
    pf_heap_free(engine->heap, s.pair, bytes);
    if (status >= 0) return status;
    pf_config_free(*heads);
    *heads = NULL;
    return status;
}
