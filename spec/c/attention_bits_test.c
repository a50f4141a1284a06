/*
 * attention_bits_test.c - promises of equal bits, for every attention of the registry in every
 * form: what a query does not see, NaN and infinity included, leaves its output the same bits;
 * so do the neighbours of an item and padding behind it; and any number of threads. Levels of
 * instructions differ by rounding only.
 */
#include "attention_support.h"

enum { C = PF_CAUSAL_BLOCK };

static attention list[MAX_ATTENTIONS];
static int n_list;

static void complain(const trial *t, const char *what, double value) {
    fprintf(stderr, "  %s, %s, %lld x %lld: %s %g\n", t->a->name, t->f->name, (long long)t->Lq,
            (long long)t->Lk, what, value);
}

/* Row `row` of x (.., L, width), contiguous, becomes `value`. */
static void poison_row(pf_tensor *x, int64_t row, float value) {
    int64_t width = x->shape[3];
    for (int64_t c = 0; c < width; c++) pf_f32(x)[row * width + c] = value;
}

static const float poisons[] = {NAN, INFINITY, -INFINITY, 1e30f, 300};

/* ---- the future ---- */

/* Keys from `cut` on, and with `queries` those queries that see them, become `value`. */
static void poison_future(const oracle *o, inputs *x, int64_t cut, bool queries, float value) {
    const trial *t = o->t;
    for (int64_t head = 0; head < t->B * t->Hkv; head++) {
        for (int64_t j = cut; j < t->Lk; j++) {
            poison_row(x->t[IN_K], head * t->Lk + j, value);
            poison_row(x->t[IN_V], head * t->Lk + j, value);
        }
    }
    for (int64_t row = 0; queries && row < t->B * t->H * t->Lq; row++) {
        if (sees_below(o, row / t->Lq / t->H, row % t->Lq) > cut) {
            poison_row(x->t[IN_Q], row, value);
        }
    }
}

/* Rows that see no key from `cut` on: the same bits in a and b (B, H, Lq, width)? */
static bool same_past(const oracle *o, const double *a, const double *b, int64_t width,
                      int64_t cut) {
    const trial *t = o->t;
    for (int64_t row = 0; row < t->B * t->H * t->Lq; row++) {
        if (sees_below(o, row / t->Lq / t->H, row % t->Lq) > cut) continue;
        if (memcmp(a + row * width, b + row * width, (size_t)width * sizeof *a) != 0) return false;
    }
    return true;
}

static void check_future(const trial *t) {
    static const int64_t cuts[] = {1, 40, C, C + 37};
    inputs x = make_inputs(t);
    oracle o = open_oracle(t, &x);
    pf_tensor *out = run_attention(t, &x, NULL, NULL);
    double *before = doubles(out);
    for (int p = 0; p < PF_COUNT(poisons); p++) {
        int64_t cut = cuts[p % PF_COUNT(cuts)];
        inputs y = make_inputs(t);
        poison_future(&o, &y, cut, p % 2 == 0, poisons[p]);
        pf_tensor *other = run_attention(t, &y, NULL, NULL);
        double *after = doubles(other);
        bool same = same_past(&o, before, after, DV, cut);
        if (!same) complain(t, "the past changed with", (double)poisons[p]);
        CHECK(same);
        free(after);
        pf_tensor_release(&other);
        free_inputs(&y);
    }
    free(before);
    pf_tensor_release(&out);
    close_oracle(&o);
    free_inputs(&x);
}

static void test_future(void) {
    for (int f = 0; f < PF_COUNT(forms); f++) {
        const form *what = &forms[f];
        if (!what->causal && !what->limits) continue;
        for (int a = 0; a < n_list; a++) {
            if (!has_form(&list[a], what)) continue;
            trial t = make_trial(&list[a], what, 2 * C + 2);
            check_future(&t);
        }
    }
}

/* ---- neighbours ---- */

/* Output and gradients of trial t, packed one after the other; n: how many of item 0. */
typedef struct {
    double *value[1 + N_LEAVES];
    int64_t item[1 + N_LEAVES];
} results;

static results take_results(const trial *t, const inputs *x) {
    results r = {{NULL}, {0}};
    pf_tensor *g = random_tensor(4, (int64_t[]){t->B, t->H, t->Lq, DV}, 9);
    pf_tensor *out = run_attention(t, x, g, r.value + 1);
    r.value[0] = out ? doubles(out) : oracle_alloc(pf_tensor_numel(g));
    r.item[0] = pf_tensor_numel(g) / t->B;
    for (int i = 0; i < N_LEAVES; i++) {
        if (x->t[leaves[i]]) r.item[1 + i] = pf_tensor_numel(x->t[leaves[i]]) / t->B;
    }
    pf_tensor_release(&out);
    pf_tensor_release(&g);
    return r;
}

static void free_results(results *r) {
    for (int i = 0; i <= N_LEAVES; i++) free(r->value[i]);
}

static void same_item(const trial *t, const results *a, const results *b, const char *what) {
    for (int i = 0; i <= N_LEAVES; i++) {
        bool same = !a->item[i] ||
                    memcmp(a->value[i], b->value[i], (size_t)a->item[i] * sizeof(double)) == 0;
        if (!same) complain(t, what, i);
        CHECK(same);
    }
}

static void poison_item(const trial *t, inputs *x, int64_t item, float value) {
    static const int side[] = {IN_Q, IN_K, IN_V};
    for (int i = 0; i < 3; i++) {
        int64_t rows = pf_tensor_numel(x->t[side[i]]) / x->t[side[i]]->shape[3] / t->B;
        for (int64_t row = 0; row < rows; row++) {
            poison_row(x->t[side[i]], item * rows + row, value);
        }
    }
}

/* Item 0 beside item 1, beside poison, and alone. */
static void check_neighbours(const trial *t) {
    inputs x = make_inputs(t);
    results beside = take_results(t, &x);
    for (int p = 0; p < 3; p += 2) {
        inputs y = make_inputs(t);
        poison_item(t, &y, 1, poisons[p]);
        results other = take_results(t, &y);
        same_item(t, &beside, &other, "a poisoned neighbour changed result");
        free_results(&other);
        free_inputs(&y);
    }
    trial alone = *t;
    alone.B = 1;
    inputs y = make_inputs(&alone); /* the same numbers as item 0 of two */
    results other = take_results(&alone, &y);
    same_item(t, &beside, &other, "a neighbour changed result");
    free_results(&other);
    free_results(&beside);
    free_inputs(&y);
    free_inputs(&x);
}

static void test_neighbours(void) {
    for (int f = 0; f < PF_COUNT(forms); f++) {
        if (forms[f].offsets) continue; /* one item */
        for (int a = 0; a < n_list; a++) {
            if (!has_form(&list[a], &forms[f])) continue;
            trial t = make_trial(&list[a], &forms[f], C + 7);
            check_neighbours(&t);
        }
    }
}

/* ---- padding ---- */

/* x (B, heads, L, width) with `pad` rows of NaN behind each head. */
static pf_tensor *padded(const pf_tensor *x, int64_t pad) {
    int64_t heads = x->shape[0] * x->shape[1], L = x->shape[2], width = x->shape[3];
    pf_tensor *y = empty_tensor(PF_F32, 4, (int64_t[]){x->shape[0], x->shape[1], L + pad, width});
    CHECK_OK(pf_tensor_fill(y, NAN));
    for (int64_t h = 0; h < heads; h++) {
        memcpy(pf_f32(y) + h * (L + pad) * width, pf_f32(x) + h * L * width,
               (size_t)(L * width) * sizeof(float));
    }
    return y;
}

/* x (B, L) i32, or NULL for all `kept`, with `behind` in the padding. */
static pf_tensor *padded_counts(const trial *t, const pf_tensor *x, int64_t pad, int32_t kept,
                                int32_t behind) {
    pf_tensor *y = empty_tensor(PF_I32, 2, (int64_t[]){t->B, t->Lk + pad});
    for (int64_t i = 0; i < t->B * (t->Lk + pad); i++) {
        int64_t b = i / (t->Lk + pad), j = i % (t->Lk + pad);
        pf_i32(y)[i] = j >= t->Lk ? behind : x ? pf_i32(x)[b * t->Lk + j] : kept;
    }
    return y;
}

/* The rows that are there, the same bits in a (B, heads, L, width) and b (.., L + pad, ..)? */
static bool same_rows(const double *a, const double *b, int64_t heads, int64_t L, int64_t pad,
                      int64_t width) {
    for (int64_t h = 0; h < heads; h++) {
        if (memcmp(a + h * L * width, b + h * (L + pad) * width, (size_t)(L * width) * sizeof *a) !=
            0) {
            return false;
        }
    }
    return true;
}

static void check_padding(const trial *t, int64_t pad) {
    inputs x = make_inputs(t), y = x;
    trial longer = *t;
    form masked = *t->f;
    masked.mask = true;
    longer.f = &masked, longer.Lq += pad, longer.Lk += pad;
    for (int i = IN_Q; i <= IN_V; i++) y.t[i] = padded(x.t[i], pad);
    y.t[IN_MASK] = padded_counts(t, x.t[IN_MASK], pad, 1, 0);
    if (x.t[IN_DOCUMENTS]) y.t[IN_DOCUMENTS] = padded_counts(t, x.t[IN_DOCUMENTS], pad, 0, -1);
    pf_tensor *out = run_attention(t, &x, NULL, NULL);
    pf_tensor *other = run_attention(&longer, &y, NULL, NULL);
    double *a = doubles(out), *b = doubles(other);
    bool same = same_rows(a, b, t->B * t->H, t->Lq, pad, DV);
    if (!same) complain(t, "padding changed a row, rows of it", (double)pad);
    CHECK(same);
    free(a), free(b);
    pf_tensor_release(&out);
    pf_tensor_release(&other);
    for (int i = IN_Q; i <= IN_V; i++) pf_tensor_release(&y.t[i]);
    pf_tensor_release(&y.t[IN_MASK]);
    if (x.t[IN_DOCUMENTS]) pf_tensor_release(&y.t[IN_DOCUMENTS]);
    free_inputs(&x);
}

static void test_padding(void) {
    for (int f = 0; f < PF_COUNT(forms); f++) {
        if (forms[f].offsets || forms[f].limits || forms[f].prefix || forms[f].cross) continue;
        for (int a = 0; a < n_list; a++) {
            if (!has_form(&list[a], &forms[f])) continue;
            trial t = make_trial(&list[a], &forms[f], C + 6);
            check_padding(&t, 70);
        }
    }
}

/* ---- threads ---- */

static uint64_t hash_of(uint64_t hash, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    return hash;
}

/* One number of the output, the output without a tape, and all gradients. */
static uint64_t fingerprint(const trial *t) {
    inputs x = make_inputs(t);
    results r = take_results(t, &x);
    pf_tensor *out = run_attention(t, &x, NULL, NULL);
    double *plain = doubles(out);
    uint64_t hash = hash_of(14695981039346656037u, plain, pf_tensor_numel(out));
    for (int i = 0; i <= N_LEAVES; i++) hash = hash_of(hash, r.value[i], r.item[i] * t->B);
    bool same = memcmp(plain, r.value[0], (size_t)pf_tensor_numel(out) * sizeof *plain) == 0;
    if (!same) complain(t, "a tape changes the output", 0);
    CHECK(same);
    free(plain);
    pf_tensor_release(&out);
    free_results(&r);
    free_inputs(&x);
    return hash;
}

/* The trials of thread counts: every form, and one head alone over many blocks. */
static int fingerprints(uint64_t *hash) {
    static const form alone[] = {{.name = "one head, full"},
                                 {.name = "one head, causal", .causal = true}};
    int n = 0;
    for (int a = 0; a < n_list; a++) {
        for (int f = 0; f < PF_COUNT(forms); f++) {
            if (!has_form(&list[a], &forms[f])) continue;
            trial t = make_trial(&list[a], &forms[f], C + 9);
            hash[n++] = fingerprint(&t);
        }
        for (int f = 0; f < 2; f++) {
            trial t = {&list[a], &alone[f], 1, 1, 1, 17 * C + 5, 17 * C + 5, 0};
            hash[n++] = fingerprint(&t);
        }
    }
    return n;
}

enum { MANY = MAX_ATTENTIONS * (PF_COUNT(forms) + 2) };

static void test_threads(void) {
    static const int threads[] = {2, 1, 3, 4, 7};
    static uint64_t first[MANY], hash[MANY];
    int n = fingerprints(first);
    for (int i = 1; i < PF_COUNT(threads); i++) {
        pf_engine_close(&engine);
        CHECK(open_engine(threads[i], PF_CPU_BEST));
        fingerprints(hash);
        int differ = 0;
        for (int k = 0; k < n; k++) differ += hash[k] != first[k];
        if (differ) fprintf(stderr, "  %d threads: %d of %d differ\n", threads[i], differ, n);
        CHECK(differ == 0);
    }
}

/* ---- levels of instructions ---- */

/* Against the portable kernels, of a head's largest and of a head's gradient. */
static const double out_bound = 4e-6, gradient_bound = 4e-5;
static double worst_out, worst_gradient;

/* |a - b| over |b| as norms of item and head, the worst; heads of n / heads numbers. */
static double apart(const double *a, const double *b, int64_t n, int64_t heads) {
    double worst = 0;
    for (int64_t h = 0; h < heads && n > 0; h++) {
        double gap = 0, size = 0;
        for (int64_t i = h * n / heads; i < (h + 1) * n / heads; i++) {
            gap += (a[i] - b[i]) * (a[i] - b[i]);
            size += b[i] * b[i];
        }
        double far = sqrt(gap) / (sqrt(size) + 1e-30);
        worst = far > worst || isnan(far) ? far : worst;
    }
    return worst;
}

static results level_results(const trial *t, oracle *o, const inputs *x) {
    results r = {{NULL}, {0}};
    pf_tensor *g = cotangents(t, o), *out = run_attention(t, x, g, r.value + 1);
    r.value[0] = out ? doubles(out) : oracle_alloc(pf_tensor_numel(g));
    pf_tensor_release(&out);
    pf_tensor_release(&g);
    return r;
}

/* One trial at `level` against the portable one, each in an engine of its own. */
static void check_level(const trial *t, pf_cpu level) {
    results r[2];
    oracle o[2];
    for (int side = 0; side < 2; side++) {
        if (!open_engine(2, side ? level : PF_CPU_GENERIC)) exit(1);
        inputs x = make_inputs(t);
        o[side] = open_oracle(t, &x);
        o[side].sizes = true;
        run_oracle(&o[side]);
        r[side] = level_results(t, &o[side], &x);
        for (int i = 0; i < N_LEAVES; i++) {
            r[side].item[1 + i] = x.t[leaves[i]] ? pf_tensor_numel(x.t[leaves[i]]) : 0;
        }
        free_inputs(&x);
        pf_engine_close(&engine);
    }
    memcpy(o[0].out, r[0].value[0], (size_t)(t->B * t->H * t->Lq * DV) * sizeof(double));
    double far = distance(t, &o[0], r[1].value[0]);
    if (!(far < out_bound)) complain(t, "levels apart, out", far);
    CHECK(far < out_bound);
    worst_out = fmax(worst_out, far);
    for (int i = 0; i < N_LEAVES; i++) {
        far = apart(r[1].value[1 + i], r[0].value[1 + i], r[0].item[1 + i], t->B * t->Hkv);
        if (!(far < gradient_bound)) complain(t, "levels apart, a gradient", far);
        CHECK(far < gradient_bound);
        worst_gradient = fmax(worst_gradient, far);
    }
    for (int side = 0; side < 2; side++) close_oracle(&o[side]), free_results(&r[side]);
}

static void test_levels(void) {
    static const form some[] = {
        {.name = "full, masked", .mask = true},
        {.name = "causal", .causal = true},
        {.name = "causal, forgetting, entry state", .causal = true, .decay = true, .entry = true},
        {.name = "staircase, grouped", .limits = true, .grouped = true, .cross = 1},
    };
    for (int level = PF_CPU_AVX2; level <= PF_CPU_AVX512; level++) {
        bool there = open_engine(1, (pf_cpu)level);
        if (engine) pf_engine_close(&engine);
        for (int a = 0; there && a < n_list; a++) {
            for (int f = 0; f < PF_COUNT(some); f++) {
                if (!has_form(&list[a], &some[f])) continue;
                trial t = make_trial(&list[a], &some[f], C + 9);
                check_level(&t, (pf_cpu)level);
            }
        }
    }
    printf("levels apart: out %.3g, gradients %.3g\n", worst_out, worst_gradient);
}

int main(void) {
    if (!open_engine(2, PF_CPU_BEST)) return 1;
    n_list = list_attentions(list);
    test_future();
    test_neighbours();
    test_padding();
    test_threads();
    pf_engine_close(&engine);
    test_levels();
    return CHECK_REPORT();
}
