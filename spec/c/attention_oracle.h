/*
 * attention_oracle.h - attention in double precision by its definition, for C tests: every
 * pair of a query and a key, features by the plain definition of the map, all sizes held as
 * logarithms (plain exp(-|x|^2 / 2) underflows even doubles):
 *
 *     out_i = sum_j w_ij v_j / sum_j w_ij,   w_ij = phi(q_i) . phi(k_j) e^(-D (n_i - j))
 *
 * Beside out it tells, a row, the denominator over the sum of its absolute terms: 1 for a
 * positive map, and for the others how much of the digits the division leaves.
 *
 * A trial is an attention (a map with its options, or exact) in a form (what a query sees)
 * at a size. Queries of a group of heads share a head of keys and values.
 */
#ifndef PF_ATTENTION_ORACLE_H
#define PF_ATTENTION_ORACLE_H

#include "attention.h"
#include "operator.h"

#include "check.h"

enum { D = 8, DV = 6, M = 24, WIDE = 2 * M };

/* An attention under test; map NULL: exact. */
typedef struct {
    char name[64];
    const pf_map *map;
    pf_kernel_spec kernel;
} attention;

/* What a query sees. */
typedef struct {
    const char *name;
    bool causal, mask, documents, offsets, limits, prefix, decay, entry;
    bool shared;  /* one projection for all heads, one row of limits for all items */
    int cross;    /* 1: fewer queries than keys, 2: more */
    bool grouped; /* two heads of queries to one of keys and values */
} form;

typedef struct {
    const attention *a;
    const form *f;
    int64_t B, H, Hkv, Lq, Lk;
    double norm; /* |x|^2 of every row of queries and keys; 0: as drawn */
} trial;

/* The trial's inputs as the oracle reads them; NULL: absent. */
typedef struct {
    const trial *t;
    double *q, *k, *v;               /* (B, H, Lq, D), (B, Hkv, Lk, D), (.., DV) */
    double *s, *z, *shift;           /* (B, Hkv, r, DV), (B, Hkv, r), (B, Hkv) */
    const float *w, *decay, *tilts;  /* (m, D) or (Hkv, m, D); (Hkv) each */
    const int32_t *mask, *documents; /* (B, Lk) */
    const int32_t *limits, *prefix, *offsets;
    int64_t w_head, n_offsets;
    double *out;           /* (B, H, Lq, DV) */
    bool sizes;            /* tell these too, (B, H, Lq): */
    double *share, *reach; /* |den| / sum |terms|; largest |v| seen */
} oracle;

/* One head at work: features, each row divided by e^(its largest log), and for the keys what
 * they were divided by over e^top. */
typedef struct {
    double *fq, *fk;      /* (Lq, r), (r, Lk) */
    double *ek, top;      /* (Lk) */
    double left_out;      /* log of what encoded features, and so entry states, lack */
    double *fade;         /* e^(-D n) */
    double *dots, *sizes; /* (Lk) each, of one query */
    int32_t *document;    /* (Lk) */
} oracle_head;

static inline void *oracle_alloc(int64_t n) {
    void *p = calloc((size_t)n + 1, sizeof(double));
    if (!p) exit(1);
    return p;
}

static inline double *doubles(const pf_tensor *t) {
    double *out = oracle_alloc(pf_tensor_numel(t));
    CHECK_OK(pf_tensor_read(t, out, (size_t)pf_tensor_numel(t) * sizeof *out));
    return out;
}

/* Projections of an attention: 0 for exact and where it is not projected. */
static inline int64_t projections(const attention *a) { return a->map ? a->kernel.features : 0; }

/* Width of the features; for exact attention the rows themselves stand for them. */
static inline int64_t feature_width(const attention *a) {
    if (!a->map) return D;
    return (projections(a) ? projections(a) : D) * a->map->width;
}

/* ---- features ---- */

/* u = W x and |x|^2 / 2 of one row, x scaled. */
static inline double project_row(const attention *a, const float *w, const double *x, double *u) {
    double scale = a->kernel.numbers.scale, half = 0;
    int64_t m = projections(a);
    for (int i = 0; i < D; i++) half += 0.5 * scale * scale * x[i] * x[i];
    for (int64_t p = 0; p < (m ? m : D); p++) {
        u[p] = m ? 0 : scale * x[p];
        for (int i = 0; m && i < D; i++) u[p] += scale * x[i] * (double)w[p * D + i];
    }
    return half;
}

/* One row: f (r, elements `step` apart) and the log of what it was divided by. For exact
 * attention the row itself. */
static inline double feature_row(const attention *a, const float *w, double tilt, const double *x,
                                 double *f, int64_t step, double *left_out) {
    double u[M], log_size[WIDE], sign[WIDE], top = -INFINITY;
    float bias[M];
    int64_t m = projections(a) ? projections(a) : D, r = feature_width(a);
    *left_out = 0;
    for (int i = 0; !a->map && i < D; i++) f[i * step] = x[i];
    if (!a->map) return 0;
    const pf_kernel_spec *k = &a->kernel;
    pf_map_args args = pf_map_args_of(a->map, NULL, m, &k->numbers);
    if (a->map->tilted) pf_map_tilt(&args, tilt, w, D, bias);
    double half = project_row(a, w, x, u);
    *left_out = args.left_out;
    a->map->define(&args, u, half, log_size, sign);
    for (int64_t c = 0; c < r; c++) top = fmax(top, log_size[c]);
    if (top == -INFINITY) top = 0;
    for (int64_t c = 0; c < r; c++) f[c * step] = sign[c] * exp(log_size[c] - top);
    return top;
}

/* ---- who sees whom ---- */

/* Keys that query i of item b sees lie below this position. */
static inline int64_t sees_below(const oracle *o, int64_t b, int64_t i) {
    const trial *t = o->t;
    int64_t end = t->Lk;
    if (t->f->limits) return o->limits[(t->f->shared ? 0 : b * t->Lq) + i];
    if (t->f->causal) end = i + 1 + t->Lk - t->Lq;
    if (t->f->prefix && end < o->prefix[b]) end = o->prefix[b] < t->Lk ? o->prefix[b] : t->Lk;
    return end;
}

/* The document (a number) of every position of item b -> n->document, by ids or by offsets. */
static inline void number_documents(const oracle *o, oracle_head *n, int64_t b) {
    int64_t document = 0, Lk = o->t->Lk;
    for (int64_t j = 0; j < Lk; j++) {
        while (o->offsets && document + 2 < o->n_offsets && o->offsets[document + 1] <= j) {
            document++;
        }
        n->document[j] = o->documents ? o->documents[b * Lk + j] : (int32_t)document;
    }
}

/* ---- one head ---- */

static inline oracle_head open_head(const trial *t) {
    int64_t r = feature_width(t->a), Lk = t->Lk, Lq = t->Lq;
    return (oracle_head){.fq = oracle_alloc(Lq * r),
                         .fk = oracle_alloc(Lk * r),
                         .dots = oracle_alloc(Lk),
                         .sizes = oracle_alloc(Lk),
                         .ek = oracle_alloc(Lk),
                         .fade = oracle_alloc(pf_max(Lq, Lk)),
                         .document = oracle_alloc(Lk)};
}

static inline void close_head(oracle_head *n) {
    free(n->fq), free(n->fk), free(n->dots), free(n->sizes), free(n->ek), free(n->fade);
    free(n->document);
}

/* n->ek <- e^(top_j - top), from the logs that stand there; top counts the entry state. */
static inline void scale_keys(const oracle *o, oracle_head *n, const double *shift) {
    double least = INFINITY;
    n->top = shift ? *shift : -INFINITY;
    for (int64_t j = 0; j < o->t->Lk; j++) {
        n->top = fmax(n->top, n->ek[j]);
        least = fmin(least, n->ek[j]);
    }
    if (n->top - least > 600) CHECK(!"a top for all rows"); /* they would need one each */
    for (int64_t j = 0; j < o->t->Lk; j++) n->ek[j] = exp(n->ek[j] - n->top);
}

/* Head h of item b: features of its queries (Lq, r) and of its keys, transposed (r, Lk). */
static inline void fill_head(const oracle *o, oracle_head *n, int64_t b, int64_t h) {
    const trial *t = o->t;
    int64_t r = feature_width(t->a), hk = h * t->Hkv / t->H, head = b * t->Hkv + hk;
    const float *w = o->w ? o->w + hk * o->w_head : NULL;
    double tilt = o->tilts ? (double)o->tilts[hk] : t->a->kernel.numbers.tilt;
    for (int64_t i = 0; i < t->Lq; i++) {
        const double *x = o->q + ((b * t->H + h) * t->Lq + i) * D;
        feature_row(t->a, w, tilt, x, n->fq + i * r, 1, &n->left_out);
    }
    for (int64_t j = 0; j < t->Lk; j++) {
        const double *x = o->k + (head * t->Lk + j) * D;
        n->ek[j] = feature_row(t->a, w, tilt, x, n->fk + j, t->Lk, &n->left_out);
    }
    double entry = o->s ? o->shift[head] + n->left_out : 0;
    scale_keys(o, n, o->s ? &entry : NULL);
    for (int64_t i = 0; i < pf_max(t->Lq, t->Lk); i++) {
        n->fade[i] = o->decay ? exp(-(double)o->decay[hk] * (double)i) : 1;
    }
    number_documents(o, n, b);
}

/* dots <- weights w_ij of query i for j < end; sizes <- sums of their absolute terms. Widths
 * are multiples of 4. */
static inline void weigh_keys(const oracle *o, oracle_head *n, int64_t i, int64_t end) {
    const trial *t = o->t;
    int64_t r = feature_width(t->a), Lk = t->Lk;
    bool any_sign = o->sizes && t->a->map && !t->a->map->positive;
    double *dots = n->dots, *sizes = n->sizes;
    memset(dots, 0, (size_t)Lk * sizeof(double));
    memset(sizes, 0, (size_t)Lk * sizeof(double));
    for (int64_t c = 0; c < r; c += 4) {
        const double *f = n->fq + i * r + c, *k = n->fk + c * Lk;
        const double *k1 = k + Lk, *k2 = k1 + Lk, *k3 = k2 + Lk;
        for (int64_t j = 0; j < end; j++) {
            dots[j] += f[0] * k[j] + f[1] * k1[j] + f[2] * k2[j] + f[3] * k3[j];
        }
        for (int64_t j = 0; any_sign && j < end; j++) {
            sizes[j] +=
                fabs(f[0] * k[j]) + fabs(f[1] * k1[j]) + fabs(f[2] * k2[j]) + fabs(f[3] * k3[j]);
        }
    }
    for (int64_t j = 0; j < end; j++) {
        dots[j] = t->a->map ? dots[j] * n->ek[j] : exp(dots[j] / sqrt(D));
        sizes[j] = any_sign ? sizes[j] * n->ek[j] : dots[j];
    }
}

/* Adds the entry state's part: num (DV), den, and the sum of absolute terms. */
static inline void add_entry(const oracle *o, const oracle_head *n, int64_t head, int64_t i,
                             int64_t last, double *num, double *den, double *size) {
    int64_t r = feature_width(o->t->a);
    double factor = exp(o->shift[head] + n->left_out - n->top) * n->fade[last];
    for (int64_t c = 0; c < r; c++) {
        double f = factor * n->fq[i * r + c], z = o->z[head * r + c];
        *den += f * z;
        *size += fabs(f * z);
        for (int x = 0; x < DV; x++) num[x] += f * o->s[(head * r + c) * DV + x];
    }
}

/* out_i of head h. A head that forgets counts from the last key that the query sees; the entry
 * state's log-scale is that at position 0. */
static inline void answer_row(const oracle *o, oracle_head *n, int64_t b, int64_t h, int64_t i) {
    const trial *t = o->t;
    int64_t head = b * t->Hkv + h * t->Hkv / t->H, row = (b * t->H + h) * t->Lq + i;
    int64_t end = sees_below(o, b, i);
    bool packed = o->documents || o->offsets;
    double den = 0, size = 0, reach = 0, *num = o->out + row * DV;
    weigh_keys(o, n, i, end);
    memset(num, 0, DV * sizeof *num);
    for (int64_t j = 0; j < end; j++) {
        if (o->mask && !o->mask[b * t->Lk + j]) continue;
        if (packed && n->document[i] != n->document[j]) continue;
        double fade = n->fade[end - 1 - j], w = fade * n->dots[j];
        const double *v = o->v + (head * t->Lk + j) * DV;
        den += w;
        for (int x = 0; x < DV; x++) num[x] += w * v[x];
        if (!o->sizes) continue;
        size += fade * n->sizes[j];
        for (int x = 0; x < DV; x++) reach = fmax(reach, fabs(v[x]));
    }
    if (o->s && (!packed || n->document[i] == n->document[0])) {
        add_entry(o, n, head, i, pf_max(end - 1, 0), num, &den, &size);
    }
    for (int x = 0; x < DV; x++) num[x] = den != 0 ? num[x] / den : 0;
    if (!o->sizes) return;
    o->share[row] = size > 0 ? fabs(den) / size : 0;
    o->reach[row] = reach;
}

static inline void run_oracle(const oracle *o) {
    const trial *t = o->t;
    oracle_head n = open_head(t);
    for (int64_t b = 0; b < t->B; b++) {
        for (int64_t h = 0; h < t->H; h++) {
            fill_head(o, &n, b, h);
            for (int64_t i = 0; i < t->Lq; i++) answer_row(o, &n, b, h, i);
        }
    }
    close_head(&n);
}

#endif
