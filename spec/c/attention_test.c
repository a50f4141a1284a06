/*
 * attention_test.c - attention against a quadratic oracle in double that works with
 * logarithms and the plain definition of the features: every map, full and causal, every
 * length around a block, masks, documents, entry and exit states, streaming; gradients
 * against differences of the oracle; and the promises of equal bits.
 */
#include "attention.h"
#include "linear.h"

#include "check.h"

enum { B = 2, H = 2, D = 8, DV = 6, M = 24 };

typedef struct {
    const pf_map *map; /* NULL: exact */
    int64_t L;
    bool causal, mask, documents, decay;
} test_case;

static const float decays[H] = {0.3f, 0.01f};

static pf_engine *engine;

static pf_tensor *random_tensor(int64_t L, int64_t width, uint64_t seed, float scale) {
    int64_t shape[4] = {B, H, L, width};
    pf_tensor *t = NULL;
    pf_rng rng = pf_rng_make(seed, PF_DRAW_USER, 0, 0);
    CHECK_OK(pf_tensor_make_lasting(&t, engine->heap, PF_F32, 4, shape));
    pf_rng_fill_normal(&rng, 0, pf_tensor_numel(t), pf_f32(t));
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) pf_f32(t)[i] *= scale;
    return t;
}

static pf_tensor *projection_of(const pf_map *map) {
    pf_projection_options o = {sizeof o, M, D, H, 7, 1, 0, false, false};
    pf_tensor *w = NULL;
    if (map && map->softmax) CHECK_OK(pf_projection_draw(&w, engine, &o));
    return w;
}

/* (B, L) i32: mask with holes, or runs of documents. */
static pf_tensor *rows_tensor(int64_t L, bool documents) {
    int64_t shape[2] = {B, L};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make_lasting(&t, engine->heap, PF_I32, 2, shape));
    for (int64_t i = 0; i < B * L; i++) {
        int64_t at = i % L + i / L * 3;
        pf_i32(t)[i] = documents ? (int32_t)(at / 29) : (at % 5 != 0);
    }
    return t;
}

/* ---- the oracle: inputs as doubles, (B, H, L, width) ---- */

typedef struct {
    double *q, *k, *v, *out;
    const float *w;
    const int32_t *mask, *documents;
} oracle_data;

static double log_feature_row(const test_case *t, const double *x, const float *w, double *row) {
    double scale = pf_map_scale(t->map, 0, D), half = 0, u[M];
    int64_t m = w ? M : D;
    for (int i = 0; i < D; i++) half += 0.5 * scale * scale * x[i] * x[i];
    for (int64_t a = 0; a < m; a++) {
        u[a] = w ? 0 : scale * x[a];
        for (int i = 0; w && i < D; i++) u[a] += scale * x[i] * (double)w[a * D + i];
    }
    if (t->map->softmax) {
        for (int64_t a = 0; a < m; a++) row[a] = u[a] - half;
    } else {
        pf_map_args args = {NULL, m, m, (float)t->map->eps};
        t->map->define(&args, u, half, row);
        for (int64_t a = 0; a < m; a++) row[a] = log(row[a]);
    }
    return 0;
}

/* log w_ij for rows of one head. */
static double log_weight(const test_case *t, const double *fq, const double *fk, int64_t r) {
    if (!t->map) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += fq[i] * fk[i];
        return sum / sqrt(D);
    }
    double top = -INFINITY, sum = 0;
    for (int64_t a = 0; a < r; a++) top = fmax(top, fq[a] + fk[a]);
    for (int64_t a = 0; a < r; a++) sum += exp(fq[a] + fk[a] - top);
    return top + log(sum);
}

static bool visible(const test_case *t, const oracle_data *o, int b, int64_t i, int64_t j) {
    if (t->causal && j > i) return false;
    if (t->mask && !o->mask[b * t->L + j]) return false;
    return !t->documents || o->documents[b * t->L + i] == o->documents[b * t->L + j];
}

static void oracle_head(const test_case *t, const oracle_data *o, int b, int h) {
    int64_t L = t->L, at = (b * H + h) * L, r = t->map && o->w ? M : D;
    const float *w = o->w ? o->w + h * M * D : NULL;
    double *fq = malloc((size_t)(L * M + 1) * sizeof *fq);
    double *fk = malloc((size_t)(L * M + 1) * sizeof *fk);
    double *lw = malloc((size_t)(L + 1) * sizeof *lw);
    for (int64_t i = 0; i < L; i++) {
        if (!t->map) {
            memcpy(fq + i * r, o->q + (at + i) * D, D * sizeof *fq);
            memcpy(fk + i * r, o->k + (at + i) * D, D * sizeof *fk);
        } else {
            log_feature_row(t, o->q + (at + i) * D, w, fq + i * r);
            log_feature_row(t, o->k + (at + i) * D, w, fk + i * r);
        }
    }
    for (int64_t i = 0; i < L; i++) {
        double top = -INFINITY, sum = 0, *out = o->out + (at + i) * DV;
        for (int64_t j = 0; j < L; j++) {
            lw[j] = visible(t, o, b, i, j) ? log_weight(t, fq + i * r, fk + j * r, r) : -INFINITY;
            if (t->decay) lw[j] -= (double)decays[h] * (double)(i - j);
            top = fmax(top, lw[j]);
        }
        memset(out, 0, DV * sizeof *out);
        if (top == -INFINITY) continue;
        for (int64_t j = 0; j < L; j++) {
            double weight = exp(lw[j] - top);
            sum += weight;
            for (int c = 0; c < DV; c++) out[c] += weight * o->v[(at + j) * DV + c];
        }
        for (int c = 0; c < DV; c++) out[c] /= sum;
    }
    free(fq), free(fk), free(lw);
}

static void oracle(const test_case *t, const oracle_data *o) {
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < H; h++) oracle_head(t, o, b, h);
    }
}

static double *doubles(const pf_tensor *t) {
    double *out = malloc((size_t)(pf_tensor_numel(t) + 1) * sizeof *out);
    CHECK_OK(pf_tensor_read(t, out, (size_t)pf_tensor_numel(t) * sizeof *out));
    return out;
}

/* max|a - b| / max|b| over a head, the worst head. */
static double distance(const double *a, const double *b, int64_t head_size) {
    double worst = 0;
    for (int64_t h = 0; h < B * H; h++) {
        double far = 0, top = 1e-300;
        for (int64_t i = h * head_size; i < (h + 1) * head_size; i++) {
            double gap = fabs(a[i] - b[i]);
            far = gap > far || isnan(gap) ? gap : far;
            top = fmax(top, fabs(b[i]));
        }
        double ratio = far / top;
        worst = ratio > worst || isnan(ratio) ? ratio : worst;
    }
    return worst;
}

/* ---- running the engine ---- */

typedef struct {
    pf_tensor *q, *k, *v, *w, *mask, *documents, *decay;
} inputs;

static int attend(const test_case *t, const inputs *x, pf_tensor **out) {
    pf_attend a = {.kind = t->map ? PF_ATTEND_FAVOR : PF_ATTEND_EXACT, .projection = x->w,
                   .causal = t->causal, .decay = x->decay};
    if (t->map) {
        a.kernel = (pf_kernel){.map = t->map, .scale = pf_map_scale(t->map, 0, D),
                               .eps = t->map->eps, .head_dim = D};
    }
    return pf_attend_call(out, engine, &a, x->q, x->k, x->v, x->mask, x->documents);
}

static inputs make_inputs(const test_case *t) {
    inputs x = {random_tensor(t->L, D, 1, 1), random_tensor(t->L, D, 2, 1),
                random_tensor(t->L, DV, 3, 1), projection_of(t->map), NULL, NULL, NULL};
    int64_t heads = H;
    if (t->decay) {
        CHECK_OK(pf_tensor_make_lasting(&x.decay, engine->heap, PF_F32, 1, &heads));
        memcpy(pf_f32(x.decay), decays, sizeof decays);
    }
    if (t->mask) x.mask = rows_tensor(t->L, false);
    if (t->documents) x.documents = rows_tensor(t->L, true);
    return x;
}

static void free_inputs(inputs *x) {
    pf_tensor **all[] = {&x->q, &x->k, &x->v, &x->w, &x->mask, &x->documents, &x->decay};
    for (int i = 0; i < 7; i++) pf_tensor_release(all[i]);
}

static oracle_data make_oracle(const inputs *x) {
    return (oracle_data){doubles(x->q), doubles(x->k), doubles(x->v), doubles(x->v),
                         x->w ? pf_f32(x->w) : NULL, x->mask ? pf_i32(x->mask) : NULL,
                         x->documents ? pf_i32(x->documents) : NULL};
}

static void free_oracle(oracle_data *o) { free(o->q), free(o->k), free(o->v), free(o->out); }

/* d/dt of sum(out * g) at x + t * dir, by central differences of the oracle. */
static double oracle_slope(const test_case *t, oracle_data *o, double *x, const double *dir,
                           int64_t n, const double *g, int64_t n_out) {
    double h = 1e-5, sum[2] = {0, 0};
    for (int side = 0; side < 2; side++) {
        double step = side == 0 ? h : -2 * h;
        for (int64_t i = 0; i < n; i++) x[i] += step * dir[i];
        oracle(t, o);
        for (int64_t i = 0; i < n_out; i++) sum[side] += o->out[i] * g[i];
    }
    for (int64_t i = 0; i < n; i++) x[i] += h * dir[i];
    return (sum[0] - sum[1]) / (2 * h);
}

static void check_gradients(const test_case *t, inputs *x, oracle_data *o) {
    pf_tape *tape = NULL;
    pf_tensor *out = NULL, *g = random_tensor(t->L, DV, 9, 1), *leaf[3] = {x->q, x->k, x->v};
    for (int i = 0; i < 3; i++) CHECK_OK(pf_tensor_require_grad(leaf[i], true));
    CHECK_OK(pf_tape_open(&tape, engine));
    CHECK_OK(attend(t, x, &out));
    CHECK_OK(pf_tape_backward(tape, out, g));
    pf_tensor_release(&out);
    pf_tape_close(&tape);
    double *cotangent = doubles(g), *values[3] = {o->q, o->k, o->v};
    int64_t n_out = B * H * t->L * DV;
    for (int i = 0; i < 3; i++) {
        pf_tensor *grad = NULL;
        CHECK_OK(pf_tensor_grad(&grad, engine, leaf[i]));
        CHECK(grad != NULL);
        if (!grad) continue;
        double *dx = doubles(grad);
        int64_t n = pf_tensor_numel(leaf[i]), width = i == 2 ? DV : D;
        for (int round = 0; round < (t->L > 100 ? 1 : 2); round++) {
            pf_tensor *dir = random_tensor(t->L, width, 20 + (uint64_t)(3 * i + round), 1);
            double *direction = doubles(dir), slope = 0, norm = 0;
            for (int64_t e = 0; e < n; e++) slope += dx[e] * direction[e];
            for (int64_t e = 0; e < n; e++) norm += dx[e] * dx[e];
            double expected = oracle_slope(t, o, values[i], direction, n, cotangent, n_out);
            double gap = fabs(slope - expected) / (sqrt(norm) + 0.1); /* L = 1: 0 */
            if (!(gap < 1e-4)) {
                fprintf(stderr, "  gradient %d of %s L=%lld causal=%d mask=%d docs=%d: %g, %g\n",
                        i, t->map ? t->map->name : "exact", (long long)t->L, t->causal, t->mask,
                        t->documents, slope, expected);
            }
            CHECK(gap < 1e-4);
            free(direction);
            pf_tensor_release(&dir);
        }
        free(dx);
        pf_tensor_release(&grad);
        CHECK_OK(pf_tensor_require_grad(leaf[i], false));
    }
    free(cotangent);
    pf_tensor_release(&g);
}

static void check_case(const test_case *t) {
    inputs x = make_inputs(t);
    oracle_data o = make_oracle(&x);
    pf_tensor *out = NULL;
    CHECK_OK(attend(t, &x, &out));
    if (!out) return;
    double *got = doubles(out);
    oracle(t, &o);
    double far = distance(got, o.out, t->L * DV);
    if (!(far < 1e-5)) {
        fprintf(stderr, "  %s L=%lld causal=%d mask=%d docs=%d: %g\n",
                t->map ? t->map->name : "exact", (long long)t->L, t->causal, t->mask,
                t->documents, far);
    }
    CHECK(far < 1e-5);
    free(got);
    pf_tensor_release(&out);
    if (t->L > 0) check_gradients(t, &x, &o);
    free_oracle(&o);
    free_inputs(&x);
}

static void test_oracle(void) {
    static const int64_t lengths[] = {0, 1, 5, 63, 64, 65, 128, 197};
    for (int map = -1; map < pf_map_count(); map++) {
        for (int shape = 0; shape < 16; shape++) {
            if (shape > 7 && !(shape & 1)) continue; /* decay is causal */
            for (int n = 0; n < PF_COUNT(lengths); n++) {
                test_case t = {map < 0 ? NULL : pf_map_at(map), lengths[n], shape & 1,
                               (shape & 2) != 0, (shape & 4) != 0, (shape & 8) != 0};
                check_case(&t);
            }
        }
    }
}

/* ---- equal bits ---- */

static bool same_rows(const pf_tensor *a, const pf_tensor *b, int64_t rows) {
    for (int64_t i = 0; i < B * H; i++) {
        for (int64_t l = 0; l < rows; l++) {
            const float *ra = pf_f32(a) + i / H * a->stride[0] + i % H * a->stride[1] +
                              l * a->stride[2];
            const float *rb = pf_f32(b) + i / H * b->stride[0] + i % H * b->stride[1] +
                              l * b->stride[2];
            if (memcmp(ra, rb, DV * sizeof(float)) != 0) return false;
        }
    }
    return true;
}

static void poison(pf_tensor *t, int64_t from, float value) {
    for (int64_t i = 0; i < B * H; i++) {
        for (int64_t l = from; l < t->shape[2]; l++) {
            float *row = pf_f32(t) + (i * t->shape[2] + l) * t->shape[3];
            for (int64_t c = 0; c < t->shape[3]; c++) row[c] = value;
        }
    }
}

/* Whatever comes after position t leaves the rows up to t the same bits. */
static void test_causality(void) {
    static const float values[] = {1e30f, 300, -1000, NAN, INFINITY, 0};
    static const int64_t cuts[] = {1, 40, 64, 100};
    for (int map = -1; map < pf_map_count(); map++) {
        test_case t = {map < 0 ? NULL : pf_map_at(map), 130, true, false, false, map != 0};
        inputs x = make_inputs(&t);
        pf_tensor *before = NULL, *after = NULL, *leaf[3] = {x.q, x.k, x.v};
        CHECK_OK(attend(&t, &x, &before));
        for (int i = 0; i < PF_COUNT(values); i++) {
            for (int which = 1; which < 8; which++) {
                int64_t cut = cuts[(i + which) % 4];
                inputs y = make_inputs(&t);
                pf_tensor *changed[3] = {y.q, y.k, y.v};
                for (int n = 0; n < 3; n++) {
                    if (which & 1 << n) poison(changed[n], cut, values[i]);
                }
                CHECK_OK(attend(&t, &y, &after));
                bool same = same_rows(before, after, cut);
                if (!same)
                    fprintf(stderr, "  leak: map %d value %g which %d\n", map, (double)values[i],
                            which);
                CHECK(same);
                pf_tensor_release(&after);
                free_inputs(&y);
            }
        }
        (void)leaf;
        /* A prefix alone, too. */
        for (int64_t L = 1; L < 130; L += 43) {
            test_case s = t;
            s.L = L;
            inputs y = {NULL};
            pf_tensor **to[3] = {&y.q, &y.k, &y.v}, *from[3] = {x.q, x.k, x.v};
            for (int n = 0; n < 3; n++) {
                CHECK_OK(pf_tensor_view(to[n], from[n]));
                (*to[n])->shape[2] = L;
            }
            y.w = x.w ? pf_tensor_retain(x.w) : NULL;
            y.decay = x.decay ? pf_tensor_retain(x.decay) : NULL;
            CHECK_OK(attend(&s, &y, &after));
            CHECK(same_rows(before, after, L));
            pf_tensor_release(&after);
            free_inputs(&y);
        }
        pf_tensor_release(&before);
        free_inputs(&x);
    }
}

/* Prefill of n, then steps, against one forward. */
static void test_streaming(void) {
    for (int map = -1; map < pf_map_count(); map++) {
        test_case t = {map < 0 ? NULL : pf_map_at(map), 150, true, false, false, map != 1};
        inputs x = make_inputs(&t);
        pf_tensor *whole = NULL;
        pf_state *state = NULL;
        CHECK_OK(attend(&t, &x, &whole));
        pf_attend a = {.kind = t.map ? PF_ATTEND_FAVOR : PF_ATTEND_EXACT, .projection = x.w,
                       .causal = true, .decay = x.decay};
        if (t.map)
            a.kernel =
                (pf_kernel){.map = t.map, .scale = pf_map_scale(t.map, 0, D), .eps = t.map->eps};
        CHECK_OK(pf_attend_state(&state, engine, &a, B, H, D, DV));
        double *all = doubles(whole), worst = 0;
        for (int64_t at = 0; at < t.L;) {
            int64_t n = at == 0 ? 70 : at == 70 ? 33 : 1;
            pf_tensor *part[3] = {NULL}, *from[3] = {x.q, x.k, x.v}, *out = NULL;
            for (int i = 0; i < 3; i++) {
                CHECK_OK(pf_tensor_view(&part[i], from[i]));
                part[i]->shape[2] = n;
                part[i]->offset += at * part[i]->stride[2];
            }
            if (n == 1) {
                CHECK_OK(pf_attend_step(&out, engine, &a, state, part[0], part[1], part[2]));
            } else {
                CHECK_OK(pf_attend_prefill(&out, engine, &a, state, part[0], part[1], part[2]));
            }
            double *got = doubles(out);
            for (int64_t i = 0; i < B * H * n * DV; i++) {
                int64_t head = i / (n * DV), rest = i % (n * DV);
                worst = fmax(worst, fabs(got[i] - all[head * t.L * DV + at * DV + rest]));
            }
            free(got);
            for (int i = 0; i < 3; i++) pf_tensor_release(&part[i]);
            pf_tensor_release(&out);
            at += n;
        }
        CHECK(worst < 1e-5);
        CHECK(pf_state_position(state) == t.L);
        free(all);
        pf_state_close(&state);
        pf_tensor_release(&whole);
        free_inputs(&x);
    }
}

/* Positions first .. first+n-1 of x as an op's view, so that the graph sees the slice. */
static pf_tensor *cut(pf_tensor *x, int64_t first, int64_t n) {
    pf_tensor *part = NULL;
    CHECK_OK(pf_slice(&part, engine, x, 2, first, first + n));
    return part;
}

/* favor on a slice, with an entry state (three tensors or NULLs), to out and exit state. */
static void favor_slice(const test_case *t, const inputs *x, int64_t first, int64_t n,
                        pf_tensor **state, pf_tensor **out) {
    pf_tensor *in[10] = {cut(x->q, first, n), cut(x->k, first, n), cut(x->v, first, n), x->w,
                         NULL, NULL, state[0], state[1], state[2], x->decay};
    pf_tensor *made[PF_MAX_OUT] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    pf_kernel kernel = {.map = t->map, .scale = pf_map_scale(t->map, 0, D), .eps = t->map->eps};
    pf_op_fill_defaults(&pf_op_favor, attr);
    pf_favor_attrs(attr, &kernel, t->causal, true);
    CHECK_OK(pf_apply(engine, &pf_op_favor, in, 10, attr, made));
    for (int i = 0; i < 3; i++) {
        pf_tensor_release(&in[i]);
        pf_tensor_release(&state[i]);
        state[i] = made[1 + i];
    }
    *out = made[0];
}

/* Gradients of q, k, v of a whole forward, or of slices chained by their states. */
static void chained_gradients(const test_case *t, const inputs *x, const int64_t *cuts, int n,
                              double **grads, double **out) {
    pf_tensor *leaf[3] = {x->q, x->k, x->v}, *state[3] = {NULL}, *parts[8], *whole = NULL;
    pf_tensor *g = random_tensor(t->L, DV, 9, 1);
    pf_tape *tape = NULL;
    for (int i = 0; i < 3; i++) CHECK_OK(pf_tensor_require_grad(leaf[i], true));
    CHECK_OK(pf_tape_open(&tape, engine));
    for (int i = 0; i < n; i++) {
        favor_slice(t, x, cuts[i], cuts[i + 1] - cuts[i], state, &parts[i]);
    }
    pf_attr attr[PF_MAX_ATTR];
    pf_op_fill_defaults(&pf_op_concat, attr);
    attr[0].i = 2;
    CHECK_OK(pf_apply(engine, &pf_op_concat, parts, n, attr, &whole));
    CHECK_OK(pf_tape_backward(tape, whole, g));
    *out = doubles(whole);
    for (int i = 0; i < 3; i++) {
        pf_tensor *grad = NULL;
        CHECK_OK(pf_tensor_grad(&grad, engine, leaf[i]));
        grads[i] = doubles(grad);
        pf_tensor_release(&grad);
        pf_tensor_clear_grad(leaf[i]);
        pf_tensor_release(&state[i]);
    }
    for (int i = 0; i < n; i++) pf_tensor_release(&parts[i]);
    pf_tensor_release(&whole);
    pf_tensor_release(&g);
    pf_tape_close(&tape);
}

/* Slices chained by their differentiable states are one long sequence. */
static void test_chained_states(void) {
    static const int64_t whole[] = {0, 200}, slices[] = {0, 70, 71, 140, 200};
    for (int map = 0; map < pf_map_count(); map++) {
        test_case t = {pf_map_at(map), 200, true, false, false, map != 1};
        inputs x = make_inputs(&t);
        double *a[3], *b[3], *out_a, *out_b;
        chained_gradients(&t, &x, whole, 1, a, &out_a);
        chained_gradients(&t, &x, slices, 4, b, &out_b);
        CHECK(distance(out_b, out_a, t.L * DV) < 1e-5);
        for (int i = 0; i < 3; i++) {
            CHECK(distance(b[i], a[i], t.L * (i == 2 ? DV : D)) < 1e-4);
            free(a[i]), free(b[i]);
        }
        free(out_a), free(out_b);
        free_inputs(&x);
    }
}

/* Extreme inputs: finite. */
static void test_extremes(void) {
    static const float scales[] = {1e-3f, 1, 30, 1e3f};
    for (int map = -1; map < pf_map_count(); map++) {
        for (int s = 0; s < PF_COUNT(scales); s++) {
            for (int causal = 0; causal < 2; causal++) {
                test_case t = {map < 0 ? NULL : pf_map_at(map), 130, causal, false, false, false};
                inputs x = make_inputs(&t);
                pf_tensor *leaf[3] = {x.q, x.k, x.v}, *out = NULL;
                pf_tape *tape = NULL;
                for (int i = 0; i < 3; i++) {
                    for (int64_t e = 0; e < pf_tensor_numel(leaf[i]); e++)
                        pf_f32(leaf[i])[e] *= scales[s];
                    CHECK_OK(pf_tensor_require_grad(leaf[i], true));
                }
                CHECK_OK(pf_tape_open(&tape, engine));
                CHECK_OK(attend(&t, &x, &out));
                double *got = doubles(out), sum = 0;
                for (int64_t i = 0; i < pf_tensor_numel(out); i++) sum += got[i];
                CHECK(isfinite(sum));
                CHECK_OK(pf_tape_backward(tape, out, x.v));
                for (int i = 0; i < 3; i++) {
                    pf_tensor *grad = NULL;
                    CHECK_OK(pf_tensor_grad(&grad, engine, leaf[i]));
                    double *g = doubles(grad), total = 0;
                    for (int64_t e = 0; e < pf_tensor_numel(grad); e++) total += g[e];
                    if (!isfinite(total))
                        fprintf(stderr, "  map %d scale %g causal %d gradient %d\n", map,
                                (double)scales[s], causal, i);
                    CHECK(isfinite(total));
                    free(g);
                    pf_tensor_release(&grad);
                }
                free(got);
                pf_tensor_release(&out);
                pf_tape_close(&tape);
                free_inputs(&x);
            }
        }
    }
}

/* The estimator's mean is right for +z and for -z: fails with LAPACK's QR as it comes. */
static void test_unbiased(void) {
    enum { DRAWS = 3000 };
    double sum[2] = {0, 0}, square[2] = {0, 0};
    for (uint64_t n = 0; n < DRAWS; n++) {
        pf_projection_options o = {sizeof o, D, D, 0, 11, 0, n, false, false};
        pf_tensor *w = NULL;
        CHECK_OK(pf_projection_draw(&w, engine, &o));
        for (int side = 0; side < 2; side++) {
            double z = side ? -0.35 : 0.35, mean = 0, norm = D * z * z; /* |z|^2 = 0.98 */
            for (int a = 0; a < D; a++) {
                double u = 0;
                for (int i = 0; i < D; i++) u += z * (double)pf_f32(w)[a * D + i];
                mean += exp(u - norm / 2) / D;
            }
            sum[side] += mean;
            square[side] += mean * mean;
        }
        pf_tensor_release(&w);
    }
    for (int side = 0; side < 2; side++) {
        double mean = sum[side] / DRAWS, var = square[side] / DRAWS - mean * mean;
        CHECK(fabs(mean - 1) < 5 * sqrt(var / DRAWS));
    }
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 2;
    CHECK_OK(pf_engine_open(&engine, &options));
    if (!engine) return 1;
    test_oracle();
    test_causality();
    test_streaming();
    test_chained_states();
    test_extremes();
    test_unbiased();
    pf_engine_info(engine, &(pf_info){0});
    CHECK(pf_heap_live(engine->heap) < 1 << 20);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
