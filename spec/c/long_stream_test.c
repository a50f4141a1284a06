/*
 * long_stream_test.c - 100,000 streamed tokens stay within 1e-4 of double precision, for every
 * feature map, by steps and by prefills; and position 1,000,000 is as good as position 0.
 *
 * What is hard on float32 is not noise but sameness: equal keys add the same number again and
 * again, and each addition rounds the same way. The judge is the recursion of the definition,
 * S += phi(k) v^T, z += phi(k), in double. A map that can be negative may divide by almost
 * nothing, so the distance is relative to the sum of absolute terms.
 */
#include "attention_oracle.h"
#include "nn_support.h"

enum { TOKENS = 100000, HEADS = 1, SLICE = 1000, WATCHED = 40, R = 2 * M };

typedef struct {
    attention a;
    pf_tensor *w;       /* (HEADS, m, D) or NULL */
    const float *decay; /* (HEADS) or NULL */
    double same;        /* share of a key that is the same for all tokens */
} judged;

/* What the definition remembers of one head. */
typedef struct {
    double s[R][DV], z[R], size[R], largest;
} memory;

static double fraction(uint64_t i) {
    uint64_t x = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 29, x *= UINT64_C(0xBF58476D1CE4E5B9), x ^= x >> 32;
    return (double)(x >> 11) * 0x1p-53 * 2 - 1;
}

/* Row t of head h: q, k (D), v (DV). Values have a mean, as real ones do. */
static void row_at(const judged *j, int64_t t, int h, float *q, float *k, float *v) {
    uint64_t at = (uint64_t)(t * HEADS + h) * 64;
    for (int c = 0; c < D; c++) {
        double steady = fraction((uint64_t)(c + 1000 * h + 77));
        q[c] = (float)fraction(at + (uint64_t)c);
        k[c] = (float)(j->same * steady + (1 - j->same) * fraction(at + 16 + (uint64_t)c));
    }
    for (int c = 0; c < DV; c++) {
        v[c] = (float)(0.6 + 0.3 * c + (1 - j->same) * fraction(at + 32 + (uint64_t)c));
    }
}

static const float *head_projection(const judged *j, int h) {
    return j->w ? pf_f32(j->w) + h * j->a.kernel.features * D : NULL;
}

static void features(const judged *j, int h, const float *x, double *f) {
    double row[D], left_out;
    for (int c = 0; c < D; c++) row[c] = x[c];
    double top =
        feature_row(&j->a, head_projection(j, h), j->a.kernel.numbers.tilt, row, f, 1, &left_out);
    for (int64_t a = 0; a < feature_width(&j->a); a++) f[a] *= exp(top);
}

/* The definition moves on by (k, v); with q, out (DV) and the size of its terms. */
static void definition(const judged *j, memory *m, int h, const float *q, const float *k,
                       const float *v, double *out, double *size) {
    double f[R], keep = j->decay ? exp(-(double)j->decay[h]) : 1;
    int64_t r = feature_width(&j->a);
    features(j, h, k, f);
    for (int64_t a = 0; a < r; a++) {
        m->z[a] = keep * m->z[a] + f[a];
        m->size[a] = keep * m->size[a] + fabs(f[a]);
        for (int c = 0; c < DV; c++) m->s[a][c] = keep * m->s[a][c] + f[a] * (double)v[c];
    }
    if (!q) return;
    double den = 0, all = 0;
    features(j, h, q, f);
    for (int c = 0; c < DV; c++) out[c] = 0;
    for (int64_t a = 0; a < r; a++) {
        den += f[a] * m->z[a];
        all += fabs(f[a]) * m->size[a];
        for (int c = 0; c < DV; c++) out[c] += f[a] * m->s[a][c];
    }
    for (int c = 0; c < DV; c++) out[c] /= den;
    *size = all / fabs(den);
}

/* The largest distance over the watched rows, relative to values and sizes of terms. */
static double compare(const double *want, const double *size, const float *got, int rows) {
    double worst = 0;
    for (int i = 0; i < rows; i++) {
        for (int c = 0; c < DV; c++) {
            double off = fabs((double)got[i * DV + c] - want[i * DV + c]);
            worst = fmax(worst, off / (3 * size[i]));
            if (isnan(got[i * DV + c])) return INFINITY;
        }
    }
    return worst;
}

static pf_state *open_state(const judged *j, pf_engine *e, pf_tensor *decay) {
    pf_config *options = options_of("{}");
    pf_state *s = NULL;
    CHECK_OK(pf_config_set_string(options, "name", j->a.map->name));
    CHECK_OK(pf_config_set_number(options, "features", (double)j->a.kernel.features));
    pf_kernel *kernel = NULL;
    CHECK_OK(pf_kernel_open(&kernel, e, options, j->w));
    pf_attention_state_options o = {.size = sizeof o,
                                    .kernel = kernel,
                                    .batch = 1,
                                    .heads = HEADS,
                                    .head_dim = D,
                                    .value_dim = DV,
                                    .decay = decay};
    CHECK_OK(pf_attention_state_open(&s, e, &o));
    pf_kernel_release(&kernel);
    pf_config_free(options);
    return s;
}

static pf_tensor *block(pf_engine *e, int64_t rows, int64_t width) {
    int64_t shape[4] = {1, HEADS, rows, width};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_empty(&t, e, PF_F32, 4, shape));
    return t;
}

typedef int (*move_fn)(pf_tensor **, pf_engine *, pf_state *, pf_tensor *, pf_tensor *,
                       pf_tensor *);

/* Streams all tokens, `slice` at a time; returns the distance of the last rows of slices. */
static double stream(const judged *j, pf_engine *e, int64_t slice, move_fn move) {
    pf_tensor *q = block(e, slice, D), *k = block(e, slice, D), *v = block(e, slice, DV);
    pf_tensor *decay = NULL, *out = NULL;
    int64_t heads = HEADS;
    memory *m = calloc(HEADS, sizeof *m);
    double worst = 0, want[HEADS * DV] = {0}, size[HEADS] = {0};
    float got[HEADS * DV];
    if (j->decay) {
        CHECK_OK(pf_tensor_empty(&decay, e, PF_F32, 1, &heads));
        CHECK_OK(pf_tensor_write(decay, j->decay, sizeof(float) * HEADS));
    }
    pf_state *s = open_state(j, e, decay);
    int64_t bytes = pf_state_bytes(s);
    for (int64_t t = 0; s && t < TOKENS; t++) {
        int64_t at = t % slice;
        bool watch = at == slice - 1 && (slice > 1 || t % (TOKENS / WATCHED) < 2);
        for (int h = 0; h < HEADS; h++) {
            float *row = pf_f32(q) + (h * slice + at) * D;
            row_at(j, t, h, row, pf_f32(k) + (h * slice + at) * D,
                   pf_f32(v) + (h * slice + at) * DV);
            definition(j, &m[h], h, watch ? row : NULL, pf_f32(k) + (h * slice + at) * D,
                       pf_f32(v) + (h * slice + at) * DV, want + h * DV, size + h);
        }
        if (at < slice - 1) continue;
        if (move(&out, e, s, q, k, v) < 0) break;
        for (int h = 0; h < HEADS && watch; h++) {
            for (int c = 0; c < DV; c++) {
                got[h * DV + c] = pf_f32(out)[(at * HEADS + h) * DV + c];
            }
        }
        pf_tensor_release(&out);
        if (watch) worst = fmax(worst, compare(want, size, got, HEADS));
    }
    CHECK(pf_state_position(s) == TOKENS && pf_state_bytes(s) == bytes);
    pf_state_close(&s);
    pf_tensor_release(&q), pf_tensor_release(&k), pf_tensor_release(&v);
    pf_tensor_release(&decay);
    free(m);
    return worst;
}

static void check_map(pf_engine *e, const pf_map *map, double same, const float *decay) {
    judged j = {.same = same, .decay = decay, .a = {.map = map}};
    pf_config *options = options_of("{'head_dim': 8, 'seed': 3}");
    CHECK_OK(pf_config_set_string(options, "name", map->name));
    CHECK_OK(pf_config_set_number(options, "features", map->softmax ? M : 0));
    CHECK_OK(pf_kernel_resolve(&j.a.kernel, options, D));
    if (map->softmax) CHECK_OK(pf_kernel_draw(&j.w, e, &j.a.kernel, HEADS, 0));
    CHECK(stream(&j, e, 1, pf_attention_step) <= 1e-4);
    bool often = map->softmax && map->width == 1; /* prefills: one sum for all maps */
    if (often || decay) CHECK(stream(&j, e, SLICE, pf_attention_prefill) <= 1e-4);
    pf_tensor_release(&j.w);
    pf_config_free(options);
}

/* ---- far positions ---- */

/* All nodes but the caches of exact attention, which are as long as they are. */
static void place_at(pf_state *s, int64_t position) {
    if (!s->kind || !s->kind->grows) s->position = position;
    for (int i = 0; i < s->n_child; i++) place_at(s->child[i], position);
}

/* One token of two sequences; the numbers of the logits. */
static float *step_of(pf_engine *e, pf_module *m, pf_state *s, int i) {
    pf_tensor *ids = NULL, *y = NULL;
    int64_t two = 2;
    int32_t tokens[2] = {i * 7 % 11, (i * i + 3) % 11};
    CHECK_OK(pf_tensor_empty(&ids, e, PF_I32, 1, &two));
    CHECK_OK(pf_tensor_write(ids, tokens, sizeof tokens));
    CHECK_OK(pf_module_step(&y, e, m, ids, s));
    float *out = numbers(y);
    pf_tensor_release(&ids), pf_tensor_release(&y);
    return out;
}

/* With exact attention, a stream that begins at position 1,000,000 gives what one that begins
 * at 0 does, since rotary positions count by their differences. */
static void test_far_positions(pf_engine *e) {
    enum { FAR = 1000000, STEPS = 60 };
    pf_module *m = small_model(e, "'causal': true, 'conv': 3, 'kernel': {'name': 'exact'}");
    pf_state *here = NULL, *far_off = NULL;
    double worst = 0;
    CHECK_OK(pf_module_state(&here, e, m, 2));
    CHECK_OK(pf_module_state(&far_off, e, m, 2));
    place_at(far_off, FAR);
    for (int i = 0; i < STEPS; i++) {
        float *a = step_of(e, m, far_off, i), *b = step_of(e, m, here, i);
        worst = fmax(worst, distance(a, b, 2 * 11));
        free(a), free(b);
    }
    CHECK(worst <= 1e-5);
    CHECK(pf_state_position(far_off) == FAR + STEPS);
    pf_state_close(&here), pf_state_close(&far_off);
    pf_module_release(&m);
}

/* A stream holds the same bytes after a million tokens as after a hundred. */
static void test_far_bytes(pf_engine *e) {
    pf_module *m = small_model(e, "'causal': true, 'kernel': {'features': 24}");
    pf_state *s = NULL;
    int64_t first = 0;
    CHECK_OK(pf_module_state(&s, e, m, 2));
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 100; i++) free(step_of(e, m, s, i));
        if (round == 0) first = pf_state_bytes(s);
        if (round == 0) place_at(s, 1000000);
    }
    CHECK(pf_state_bytes(s) == first && pf_state_position(s) == 1000100);
    pf_state_close(&s);
    pf_module_release(&m);
}

int main(void) {
    static const float fast[HEADS] = {0.0055f}, slow[HEADS] = {1.7e-4f};
    pf_engine *e = engine_of(1, 5);
    for (int i = 0; pf_map_at(i); i++) check_map(e, pf_map_at(i), 1, NULL);
    check_map(e, pf_map_find("softmax"), 0.5, NULL);
    check_map(e, pf_map_find("softmax"), 0.5, slow);
    check_map(e, pf_map_find("softmax"), 1, fast);
    test_far_positions(e);
    test_far_bytes(e);
    pf_engine_close(&e);
    return CHECK_REPORT();
}
