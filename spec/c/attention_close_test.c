/*
 * attention_close_test.c - every attention of the registry in every form at every length around a
 * block, against the oracle in double precision: outputs to 1e-5 of a head's largest (for maps
 * of any sign numerator and denominator held apart, relative to the sum of absolute terms),
 * gradients of q, k, v and of entry states to 1e-4 against the oracle's own differences;
 * streaming and chained states against the parallel form.
 */
#include "attention_support.h"

enum { BLOCK = PF_CAUSAL_BLOCK, WIDE_BLOCK = PF_FULL_BLOCK };

static bool verbose;
static double worst_out, worst_gradient;

/* ---- closeness ---- */

static void report(const trial *t, const char *what, double far) {
    fprintf(stderr, "  %s, %s, %lld x %lld: %s off by %.3g\n", t->a->name, t->f->name,
            (long long)t->Lq, (long long)t->Lk, what, far);
}

static void judge_out(const trial *t, const oracle *o, const pf_tensor *out, double tolerance) {
    double *got = doubles(out), far = distance(t, o, got);
    free(got);
    if (!(far < tolerance) || verbose) report(t, "out", far);
    worst_out = fmax(worst_out, far);
    CHECK(far < tolerance);
}

/* ---- gradients ---- */

/* loss (B Hkv): sum of out g over the heads that share keys and values. */
static void losses(const oracle *o, const double *g, double factor, double *loss) {
    const trial *t = o->t;
    run_oracle(o);
    int64_t size = t->H / t->Hkv * t->Lq * DV;
    for (int64_t i = 0; i < t->B * t->H * t->Lq * DV; i++) {
        loss[i / size] += factor * o->out[i] * g[i];
    }
}

/* Slopes (B Hkv) of the loss along a direction of x (n): central differences; for v, in which
 * it is linear when no state enters, its value at the direction. */
static void slopes(const oracle *o, const double *g, double *x, const double *direction, int64_t n,
                   double *slope) {
    const double h = 1e-5;
    double *kept = oracle_alloc(n);
    memcpy(kept, x, (size_t)n * sizeof *x);
    memset(slope, 0, (size_t)(o->t->B * o->t->Hkv) * sizeof *slope);
    bool linear = x == o->v && !o->s;
    if (linear) {
        memcpy(x, direction, (size_t)n * sizeof *x);
        losses(o, g, 1, slope);
    }
    for (int side = -1; side <= 1 && !linear; side += 2) {
        for (int64_t i = 0; i < n; i++) x[i] = kept[i] + side * h * direction[i];
        losses(o, g, side / (2 * h), slope);
    }
    memcpy(x, kept, (size_t)n * sizeof *x);
    free(kept);
}

/* The gradient dx (n) of the leaf x against slopes along one direction, head by head. */
static void judge_gradient(const oracle *o, const double *g, const char *name, double *x,
                           const double *dx, int64_t n) {
    const trial *t = o->t;
    int64_t heads = t->B * t->Hkv, size = n / heads, rows = t->H / t->Hkv * t->Lq * DV;
    double *direction = oracle_alloc(n), *slope = oracle_alloc(heads);
    pf_rng rng = pf_rng_make(20, PF_DRAW_USER, 2, (uint64_t)n);
    pf_rng_fill_normal_double(&rng, 0, n, direction);
    slopes(o, g, x, direction, n, slope);
    for (int64_t head = 0; head < heads; head++) {
        double along = 0, norm = 0, least = 0;
        for (int64_t i = head * size; i < (head + 1) * size; i++) {
            along += dx[i] * direction[i];
            norm += dx[i] * dx[i];
        }
        /* Where the true gradient is 0 (one key alone) only rounding is left, of the size of
         * absolute terms over the square of the denominator. */
        for (int64_t i = head * rows; i < (head + 1) * rows; i++) {
            double share = o->share[i / DV], term = share > 0 ? g[i] / (share * share) : 0;
            least += term * term;
        }
        double far = fabs(along - slope[head]) / (sqrt(norm) + 0.1 * sqrt(least) + 1e-30);
        if (!(far < 1e-4) || verbose) report(t, name, far);
        worst_gradient = fmax(worst_gradient, far);
        CHECK(far < 1e-4);
    }
    free(direction), free(slope);
}

/* ---- one trial ---- */

static void check_trial(const trial *t, call_fn call) {
    inputs x = make_inputs(t);
    oracle o = open_oracle(t, &x);
    double *leaf[N_LEAVES] = {o.q, o.k, o.v, o.s, o.z}, *gradient[N_LEAVES];
    o.sizes = true;
    run_oracle(&o);
    o.sizes = false;
    pf_tensor *g = cotangents(t, &o), *out = run_call(call, t, &x, g, gradient);
    double *cotangent = doubles(g);
    if (out) judge_out(t, &o, out, 1e-5);
    for (int i = 0; i < N_LEAVES; i++) {
        const pf_tensor *in = x.t[leaves[i]];
        if (out && in && pf_tensor_numel(in)) {
            judge_gradient(&o, cotangent, input_names[leaves[i]], leaf[i], gradient[i],
                           pf_tensor_numel(in));
        }
        free(gradient[i]);
    }
    free(cotangent);
    pf_tensor_release(&g);
    pf_tensor_release(&out);
    close_oracle(&o);
    free_inputs(&x);
}

static void test_every_form(const attention *list, int n) {
    for (int f = 0; f < PF_COUNT(forms); f++) {
        const form *what = &forms[f];
        int64_t C = what->causal || what->limits ? BLOCK : WIDE_BLOCK;
        int64_t lengths[] = {0, 1, C - 1, C, C + 1, 3 * C + 5};
        for (int a = 0; a < n; a++) {
            if (!has_form(&list[a], what)) continue;
            for (int l = 0; l < PF_COUNT(lengths); l++) {
                trial t = make_trial(&list[a], what, lengths[l]);
                if (lengths[l] > BLOCK + 1) t.B = 1; /* quadratic in double takes its time */
                check_trial(&t, call_whole);
            }
        }
    }
}

static const form plain[] = {{.name = "full"}, {.name = "causal", .causal = true}};

/* Up to |x|^2 = 16, where features span e^16 and more. */
static void test_large_norms(const attention *list, int n) {
    for (int a = 0; a < n; a++) {
        for (int f = 0; f < PF_COUNT(plain); f++) {
            trial t = make_trial(&list[a], &plain[f], BLOCK + 9);
            t.norm = 16;
            check_trial(&t, call_whole);
        }
    }
}

static void test_settings(void) {
    attention set[MAX_ATTENTIONS];
    int n = list_set_attentions(set);
    for (int a = 0; a < n; a++) {
        for (int f = 0; f < PF_COUNT(plain); f++) {
            trial t = make_trial(&set[a], &plain[f], BLOCK + 9);
            check_trial(&t, call_whole);
        }
    }
}

/* ---- states ---- */

static const form streamed[] = {
    {.name = "causal", .causal = true},
    {.name = "causal, forgetting", .causal = true, .decay = true},
    {.name = "causal, grouped", .causal = true, .grouped = true},
};

/* Positions first .. first + n - 1, as an op's view: the tape sees the slice. */
static int slice_inputs(const inputs *x, int64_t first, int64_t n, inputs *part) {
    for (int i = IN_Q; i <= IN_V; i++) {
        PF_TRY(pf_slice(&part->t[i], engine, x->t[i], 2, first, first + n));
    }
    return 0;
}

enum { SLICES = 4 };
static const int64_t cuts[SLICES + 1] = {0, 70, 71, 140, 200};

/* call_fn: slices, each entered with the exit state of the one before. */
static int call_chained(const trial *t, const inputs *x, pf_tensor **out) {
    pf_tensor *parts[SLICES] = {NULL};
    inputs part = *x;
    pf_attr attr[PF_MAX_ATTR];
    for (int i = 0; i < SLICES; i++) {
        pf_tensor *made[PF_MAX_OUT] = {NULL};
        PF_TRY(slice_inputs(x, cuts[i], cuts[i + 1] - cuts[i], &part));
        PF_TRY(call_attention(t, &part, true, made));
        parts[i] = made[0];
        for (int s = 0; s < 3; s++) {
            pf_tensor_release(&part.t[IN_Q + s]);
            if (part.t[IN_S + s]) pf_tensor_release(&part.t[IN_S + s]);
            part.t[IN_S + s] = made[1 + s];
        }
    }
    pf_op_fill_defaults(&pf_op_concat, attr);
    attr[0].i = 2;
    PF_TRY(pf_apply(engine, &pf_op_concat, parts, SLICES, attr, out));
    for (int i = 0; i < SLICES; i++) pf_tensor_release(&parts[i]);
    for (int s = 0; s < 3; s++) pf_tensor_release(&part.t[IN_S + s]);
    return 0;
}

/* Slices chained by their differentiable states are one long sequence. */
static void test_chained(const attention *list, int n) {
    for (int a = 0; a < n; a++) {
        for (int f = 0; f < PF_COUNT(streamed) && list[a].map; f++) {
            trial t = make_trial(&list[a], &streamed[f], cuts[SLICES]);
            check_trial(&t, call_chained);
        }
    }
}

/* Prefills of 70 and 33 positions, then steps: out (B, H, L, DV) as doubles. */
static void stream(const trial *t, const inputs *x, double *all) {
    pf_kernel kernel = bound_kernel(t, x);
    pf_attention a = {.kind = t->a->map ? &pf_kind_favor : &pf_kind_exact,
                      .kernel = t->a->map ? &kernel : NULL,
                      .decay = x->t[IN_DECAY],
                      .causal = true};
    pf_state *state = NULL;
    CHECK_OK(pf_attend_state(&state, engine, &a, t->B, t->Hkv, D, DV));
    for (int64_t at = 0, n = 70; state && at < t->Lq; at += n, n = at == 70 ? 33 : 1) {
        inputs part = {{NULL}};
        pf_tensor *out = NULL;
        CHECK_OK(slice_inputs(x, at, n, &part));
        CHECK_OK(pf_state_begin(state));
        int status = n == 1 ? pf_attend_step(&out, engine, &a, state, part.t[IN_Q], part.t[IN_K],
                                             part.t[IN_V])
                            : pf_attend_prefill(&out, engine, &a, state, part.t[IN_Q], part.t[IN_K],
                                                part.t[IN_V]);
        CHECK_OK(pf_state_end(state, engine, status));
        double *got = out ? doubles(out) : oracle_alloc(t->B * t->H * n * DV);
        for (int64_t head = 0; head < t->B * t->H; head++) {
            memcpy(all + (head * t->Lq + at) * DV, got + head * n * DV,
                   (size_t)(n * DV) * sizeof *got);
        }
        free(got);
        pf_tensor_release(&out);
        for (int i = IN_Q; i <= IN_V; i++) pf_tensor_release(&part.t[i]);
    }
    if (state) CHECK(pf_state_position(state) == t->Lq);
    pf_state_close(&state);
}

/* Prefill of n, then steps, is one forward. */
static void test_streaming(const attention *list, int n) {
    for (int a = 0; a < n; a++) {
        for (int f = 0; f < PF_COUNT(streamed); f++) {
            trial t = make_trial(&list[a], &streamed[f], 150);
            inputs x = make_inputs(&t);
            oracle o = open_oracle(&t, &x);
            double *all = oracle_alloc(t.B * t.H * t.Lq * DV);
            o.sizes = true;
            run_oracle(&o);
            stream(&t, &x, all);
            double far = distance(&t, &o, all);
            if (!(far < 1e-5) || verbose) report(&t, "streamed out", far);
            CHECK(far < 1e-5);
            free(all);
            close_oracle(&o);
            free_inputs(&x);
        }
    }
}

int main(int argc, char **argv) {
    attention list[MAX_ATTENTIONS];
    verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    if (!open_engine(2, PF_CPU_BEST)) return 1;
    int n = list_attentions(list);
    test_every_form(list, n);
    test_large_norms(list, n);
    test_settings();
    test_chained(list, n);
    test_streaming(list, n);
    printf("worst: out %.3g, gradients %.3g\n", worst_out, worst_gradient);
    const size_t scratch = engine->scratch_bytes * (size_t)engine->threads;
    CHECK(pf_heap_live(engine->heap) < scratch + (1 << 20));
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
