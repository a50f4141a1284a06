/*
 * listed_bits_test.c - promises of equal bits of attention over patterns: a window as wide as the
 * sequence is exact attention, outputs and gradients, in every form; what is later changes nothing
 * that is earlier, NaN included; packed documents are as alone; and any number of threads. Every
 * rule that needs no buckets, in the forms that attention_support.h lists.
 */
#include "attention_support.h"
#include "listed.h"

/* ---- patterns ---- */

/* A rule and its options, and NULL: exact attention. */
typedef struct {
    const char *rule;
    double option[PF_PATTERN_OPTIONS];
} shape;

static const shape shapes[] = {
    {NULL, {0}},
    {"sliding", {70, -1, 1, 0}},
    {"sliding", {9, 3, 5, 0}},
    {"sliding", {20, -1, 1, 3}},
    {"sliding", {5, -1, 4, 2}},
    {"strided", {12, 0}},
    {"fixed", {16, 0, 3}},
    {"bigbird", {8, 3, 1, 2, 5, 1}},
};

static const attention exact = {.name = "listed"};
static pf_tensor *words; /* of the pattern that call_listed takes; NULL: exact attention */

static pf_tensor *words_of(const char *name, const double *option) {
    const pf_pattern_rule *rule = NULL;
    pf_tensor *made = NULL;
    CHECK_OK(pf_pattern_rule_find(&rule, name, "test"));
    CHECK_OK(pf_pattern_words(&made, engine, rule, option, NULL, 0));
    return made;
}

static void use(const shape *s) {
    pf_tensor_release(&words);
    words = s->rule ? words_of(s->rule, s->option) : NULL;
}

static void use_wide(int64_t window) {
    double option[PF_PATTERN_OPTIONS] = {(double)window, -1, 1, 0};
    pf_tensor_release(&words);
    words = words_of("sliding", option);
}

static int call_listed(const trial *t, const inputs *x, pf_tensor **out) {
    const pf_op *op = words ? &pf_op_listed_attention : &pf_op_exact_attention;
    pf_tensor *in[PF_MAX_IN] = {NULL}, *made[PF_MAX_OUT] = {NULL};
    pf_attr attr[PF_MAX_ATTR];
    for (int i = 0; i < N_INPUTS; i++) {
        if (x->t[i]) in[place_of(op, input_names[i])] = x->t[i];
    }
    if (words) in[PF_LISTED_PATTERN] = words;
    pf_op_fill_defaults(op, attr);
    attr[PF_SOFTMAX_CAUSAL].i = t->f->causal;
    PF_TRY(pf_apply(engine, op, in, op->max_in, attr, made));
    *out = made[0];
    return 0;
}

/* ---- results ---- */

enum { N_RESULTS = 4 }; /* out, dq, dk, dv */

typedef struct {
    double *value[N_RESULTS];
    int64_t n[N_RESULTS];
} results;

/* Rows of the cotangent from `cut` keys on are 0: their queries see a later key. */
static pf_tensor *cotangent(const trial *t, const oracle *o, int64_t cut) {
    pf_tensor *g = random_tensor(4, (int64_t[]){t->B, t->H, t->Lq, DV}, 9);
    for (int64_t row = 0; o && row < t->B * t->H * t->Lq; row++) {
        if (sees_below(o, row / t->Lq / t->H, row % t->Lq) <= cut) continue;
        memset(pf_f32(g) + row * DV, 0, DV * sizeof(float));
    }
    return g;
}

static results take_results(const trial *t, const inputs *x, const oracle *o, int64_t cut) {
    double *gradient[N_LEAVES];
    pf_tensor *g = cotangent(t, o, cut);
    pf_tensor *out = run_call(call_listed, t, x, g, gradient);
    results r = {{out ? doubles(out) : oracle_alloc(1)}, {out ? pf_tensor_numel(out) : 0}};
    for (int i = 0; i < 3; i++) {
        r.value[i + 1] = gradient[i];
        r.n[i + 1] = pf_tensor_numel(x->t[leaves[i]]);
    }
    pf_tensor_release(&out);
    pf_tensor_release(&g);
    return r;
}

static void free_results(results *r) {
    for (int i = 0; i < N_RESULTS; i++) free(r->value[i]);
}

static void complain(const trial *t, const shape *s, const char *what, int64_t at) {
    fprintf(stderr, "  %s, %s, %lld x %lld: %s %lld\n", s && s->rule ? s->rule : "wide", t->f->name,
            (long long)t->Lq, (long long)t->Lk, what, (long long)at);
}

static void check_same(const trial *t, const shape *s, const results *a, const results *b,
                       const char *what) {
    for (int i = 0; i < N_RESULTS; i++) {
        bool same = a->n[i] == b->n[i] &&
                    memcmp(a->value[i], b->value[i], (size_t)a->n[i] * sizeof(double)) == 0;
        if (!same) complain(t, s, what, i);
        CHECK(same);
    }
}

/* ---- a wide window ---- */

static void check_wide(const trial *t) {
    inputs x = make_inputs(t);
    use(&shapes[0]);
    results want = take_results(t, &x, NULL, 0);
    use_wide(pf_max(t->Lq, t->Lk) + 5);
    results got = take_results(t, &x, NULL, 0);
    check_same(t, NULL, &want, &got, "is not exact attention in result");
    free_results(&want);
    free_results(&got);
    free_inputs(&x);
}

static void test_wide(void) {
    static const int64_t lengths[] = {1, 2, 63, 127, 128, 129, 130, 517};
    static const form alone = {.name = "one head, causal", .causal = true};
    for (int f = 0; f < PF_COUNT(forms); f++) {
        for (int n = 0; n < PF_COUNT(lengths) && has_form(&exact, &forms[f]); n++) {
            trial t = make_trial(&exact, &forms[f], lengths[n]);
            check_wide(&t);
        }
    }
    trial t = {&exact, &alone, 1, 1, 1, 17 * PF_TILE + 5, 17 * PF_TILE + 5, 0};
    check_wide(&t);
}

/* ---- the past ---- */

/* Keys and values from `cut` on, and queries that see them, become `value`. */
static void poison(const oracle *o, inputs *x, int64_t cut, float value) {
    const trial *t = o->t;
    static const int64_t width[] = {D, D, DV};
    for (int i = IN_Q; i <= IN_V; i++) {
        int64_t heads = i == IN_Q ? t->H : t->Hkv, L = i == IN_Q ? t->Lq : t->Lk;
        for (int64_t row = 0; row < t->B * heads * L; row++) {
            bool later = i == IN_Q ? sees_below(o, row / L / heads, row % L) > cut : row % L >= cut;
            for (int64_t c = 0; later && c < width[i]; c++) {
                pf_f32(x->t[i])[row * width[i] + c] = value;
            }
        }
    }
}

/* Rows of result i that only what is before the cut may change: the same bits? */
static bool same_past(const oracle *o, const results *a, const results *b, int i, int64_t cut) {
    const trial *t = o->t;
    bool of_keys = i > 1;
    int64_t heads = of_keys ? t->Hkv : t->H, L = of_keys ? t->Lk : t->Lq;
    int64_t width = a->n[i] / (t->B * heads * L);
    for (int64_t row = 0; row < t->B * heads * L; row++) {
        int64_t n = of_keys ? row % L + 1 : sees_below(o, row / L / heads, row % L);
        if (n > cut) continue;
        if (memcmp(a->value[i] + row * width, b->value[i] + row * width,
                   (size_t)width * sizeof(double)) != 0)
            return false;
    }
    return true;
}

static void check_past(const trial *t, const shape *s, int64_t cut, float value) {
    inputs x = make_inputs(t), y = make_inputs(t);
    oracle o = open_oracle(t, &x);
    results before = take_results(t, &x, &o, cut);
    poison(&o, &y, cut, value);
    results after = take_results(t, &y, &o, cut);
    for (int i = 0; i < N_RESULTS; i++) {
        bool same = same_past(&o, &before, &after, i, cut);
        if (!same) complain(t, s, "the past changed in result", i);
        CHECK(same);
    }
    free_results(&before);
    free_results(&after);
    close_oracle(&o);
    free_inputs(&x);
    free_inputs(&y);
}

static void test_past(void) {
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 1e30f, 300};
    static const int64_t cuts[] = {1, 40, 128, 139};
    for (int f = 0; f < PF_COUNT(forms); f++) {
        if ((!forms[f].causal && !forms[f].limits) || !has_form(&exact, &forms[f])) continue;
        for (int s = 0; s < PF_COUNT(shapes); s++) {
            use(&shapes[s]);
            trial t = make_trial(&exact, &forms[f], 150);
            for (int p = 0; p < PF_COUNT(poisons); p++) {
                check_past(&t, &shapes[s], cuts[p % PF_COUNT(cuts)], poisons[p]);
            }
        }
    }
}

/* A prefix has the pattern of the whole: a longer sequence leaves its outputs the same bits. */
static void check_prefix(const shape *s, int64_t L, int64_t more) {
    static const form causal = {.name = "causal", .causal = true};
    trial t = {&exact, &causal, 1, 1, 1, L, L, 0}, longer = t;
    longer.Lq = longer.Lk = L + more;
    inputs x = make_inputs(&t), y = make_inputs(&longer); /* begin with the same rows */
    results a = take_results(&t, &x, NULL, 0), b = take_results(&longer, &y, NULL, 0);
    bool same = memcmp(a.value[0], b.value[0], (size_t)a.n[0] * sizeof(double)) == 0;
    if (!same) complain(&t, s, "is changed by rows behind it:", more);
    CHECK(same);
    free_results(&a);
    free_results(&b);
    free_inputs(&x);
    free_inputs(&y);
}

static void test_prefix(void) {
    for (int s = 0; s < PF_COUNT(shapes); s++) {
        use(&shapes[s]);
        check_prefix(&shapes[s], 130, 1);
        check_prefix(&shapes[s], 517, 300);
        if (shapes[s].rule) check_prefix(&shapes[s], 70, 9000);
    }
}

/* ---- documents ---- */

/* Rows from .. to - 1 of every head. */
static pf_tensor *slice(const pf_tensor *x, int64_t from, int64_t to) {
    int64_t heads = x->shape[0] * x->shape[1], L = x->shape[2], width = x->shape[3];
    pf_tensor *y = empty_tensor(PF_F32, 4, (int64_t[]){x->shape[0], x->shape[1], to - from, width});
    for (int64_t h = 0; h < heads; h++) {
        memcpy(pf_f32(y) + h * (to - from) * width, pf_f32(x) + (h * L + from) * width,
               (size_t)((to - from) * width) * sizeof(float));
    }
    return y;
}

/* out of each document of a packed item and of the document alone. */
static void check_packed(const trial *t, const shape *s) {
    inputs x = make_inputs(t);
    const pf_tensor *ends = x.t[IN_OFFSETS];
    pf_tensor *all = run_call(call_listed, t, &x, NULL, NULL);
    for (int64_t i = 0; i + 1 < pf_tensor_numel(ends); i++) {
        int64_t from = pf_i32(ends)[i], to = pf_i32(ends)[i + 1];
        if (from == to) continue;
        form plain = *t->f;
        plain.offsets = false;
        trial one = *t;
        one.f = &plain, one.Lq = one.Lk = to - from;
        inputs y = {
            {slice(x.t[IN_Q], from, to), slice(x.t[IN_K], from, to), slice(x.t[IN_V], from, to)}};
        pf_tensor *out = run_call(call_listed, &one, &y, NULL, NULL);
        double *a = doubles(out), *b = doubles(all);
        for (int64_t h = 0; h < t->H; h++) {
            bool same = memcmp(a + h * (to - from) * DV, b + (h * t->Lk + from) * DV,
                               (size_t)((to - from) * DV) * sizeof(double)) == 0;
            if (!same) complain(t, s, "packed is not alone, document", i);
            CHECK(same);
        }
        free(a), free(b);
        pf_tensor_release(&out);
        free_inputs(&y);
    }
    pf_tensor_release(&all);
    free_inputs(&x);
}

static void test_packed(void) {
    for (int f = 0; f < PF_COUNT(forms); f++) {
        for (int s = 0; s < PF_COUNT(shapes) && forms[f].offsets; s++) {
            use(&shapes[s]);
            trial t = make_trial(&exact, &forms[f], 290);
            check_packed(&t, &shapes[s]);
        }
    }
}

/* ---- threads ---- */

static uint64_t hash_of(uint64_t hash, const results *r) {
    for (int i = 0; i < N_RESULTS; i++) {
        for (int64_t n = 0; n < r->n[i]; n++) {
            uint64_t bits;
            memcpy(&bits, &r->value[i][n], sizeof bits);
            hash = (hash ^ bits) * 1099511628211u;
        }
    }
    return hash;
}

/* A few heads in every form, and one head that is long enough for chunks and spans. */
static uint64_t fingerprint(const shape *s) {
    static const form alone[] = {{.name = "one head, full"},
                                 {.name = "one head, causal", .causal = true}};
    uint64_t hash = 14695981039346656037u;
    use(s);
    for (int f = 0; f < PF_COUNT(forms) + 2; f++) {
        bool one = f >= PF_COUNT(forms);
        trial t = {&exact, one ? &alone[f % 2] : NULL, 1, 1, 1, 9000, 9000, 0};
        if (!one && !has_form(&exact, &forms[f])) continue;
        if (!one) t = make_trial(&exact, &forms[f], 150);
        if (one && !s->rule) continue; /* attention_bits_test has exact attention */
        inputs x = make_inputs(&t);
        results r = take_results(&t, &x, NULL, 0);
        hash = hash_of(hash, &r);
        free_results(&r);
        free_inputs(&x);
    }
    return hash;
}

static void test_threads(void) {
    static const int threads[] = {2, 1, 3, 7};
    uint64_t first[PF_COUNT(shapes)];
    for (int i = 0; i < PF_COUNT(threads); i++) {
        pf_tensor_release(&words);
        if (i > 0) pf_engine_close(&engine);
        if (i > 0) CHECK(open_engine(threads[i], PF_CPU_BEST));
        for (int s = 0; s < PF_COUNT(shapes); s++) {
            uint64_t hash = fingerprint(&shapes[s]);
            if (i == 0) first[s] = hash;
            if (hash != first[s])
                fprintf(stderr, "  %d threads: shape %d differs\n", threads[i], s);
            CHECK(hash == first[s]);
        }
    }
}

int main(void) {
    if (!open_engine(2, PF_CPU_BEST)) return 1;
    test_wide();
    test_past();
    test_prefix();
    test_packed();
    test_threads();
    pf_tensor_release(&words);
    pf_engine_close(&engine);
    if (!open_engine(2, PF_CPU_GENERIC)) return 1; /* where the BLAS stands in */
    test_wide();
    test_packed();
    pf_tensor_release(&words);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
