/*
 * wave_test.c - one sequence on many threads: what linear/wave.c makes has the bits of the
 * schedules that run a key head on one thread. Lengths around chunks and spans, every way to
 * see, entry and exit states, one and three key heads, values that are not finite.
 */
#include "attention_support.h"

enum { BLOCK = PF_CAUSAL_BLOCK, N_THREADS = 5 };
static const int thread_counts[N_THREADS] = {1, 2, 3, 4, 7};

/* Everything a run gives: out, the exit state, gradients of the leaves. */
enum { N_RESULTS = 4 + N_LEAVES };
typedef struct {
    float *data[N_RESULTS];
    size_t bytes[N_RESULTS];
} results;

static void keep(results *r, int i, const pf_tensor *t) {
    if (!t) return;
    r->bytes[i] = (size_t)pf_tensor_numel(t) * sizeof(float);
    r->data[i] = malloc(r->bytes[i] + 1);
    if (!r->data[i]) exit(1);
    CHECK_OK(pf_tensor_read(t, r->data[i], r->bytes[i]));
}

static void keep_gradients(results *r, inputs *x) {
    for (int i = 0; i < N_LEAVES; i++) {
        pf_tensor *grad = NULL;
        if (!x->t[leaves[i]]) continue;
        CHECK_OK(pf_tensor_grad(&grad, engine, x->t[leaves[i]]));
        keep(r, 4 + i, grad);
        pf_tensor_release(&grad);
    }
}

/* root: which output the loss is made of. */
static results run(const trial *t, int root, bool bad) {
    results r = {{NULL}, {0}};
    inputs x = make_inputs(t);
    pf_tensor *made[PF_MAX_OUT] = {NULL}, *seed;
    pf_tape *tape = NULL;
    for (int i = 0; bad && i < 3; i++) {
        pf_f32(x.t[IN_V])[(int64_t)(i + 1) * 600 * DV + i] = i ? NAN : INFINITY;
    }
    for (int i = 0; i < N_LEAVES; i++) {
        if (x.t[leaves[i]]) CHECK_OK(pf_tensor_require_grad(x.t[leaves[i]], true));
    }
    CHECK_OK(pf_tape_open(&tape, engine));
    CHECK_OK(call_attention(t, &x, true, made));
    for (int i = 0; i < 4; i++) keep(&r, i, made[i]);
    seed = random_tensor(made[root]->rank, made[root]->shape, 90);
    CHECK_OK(pf_tape_backward(tape, made[root], seed));
    keep_gradients(&r, &x);
    pf_tensor_release(&seed);
    for (int i = 0; i < PF_MAX_OUT; i++) pf_tensor_release(&made[i]);
    pf_tape_close(&tape);
    free_inputs(&x);
    return r;
}

static void free_results(results *r) {
    for (int i = 0; i < N_RESULTS; i++) free(r->data[i]);
}

static void same(const trial *t, const results *a, const results *b, int threads) {
    for (int i = 0; i < N_RESULTS; i++) {
        bool equal = a->bytes[i] == b->bytes[i] &&
                     (!a->bytes[i] || memcmp(a->data[i], b->data[i], a->bytes[i]) == 0);
        if (!equal) {
            fprintf(stderr, "  %s, %s, %lld x %lld: result %d differs on %d threads\n", t->a->name,
                    t->f->name, (long long)t->Lq, (long long)t->Lk, i, threads);
        }
        CHECK(equal);
    }
}

/* A trial of one item, its results on every number of threads. */
static void check_wave(const attention *a, const form *f, int64_t heads, int64_t L, int root,
                       bool bad, pf_cpu cpu) {
    trial t = make_trial(a, f, L);
    results one = {{NULL}, {0}};
    t.B = 1, t.H = t.Hkv = heads, t.Lq = t.Lk = L;
    if (f->cross == 1) t.Lq = L / 2 + 3;
    if (f->grouped) t.H = 2 * heads;
    for (int i = 0; i < N_THREADS; i++) {
        open_engine(thread_counts[i], cpu);
        results r = run(&t, root, bad);
        if (i == 0) one = r;
        same(&t, &one, &r, thread_counts[i]);
        if (i > 0) free_results(&r);
        pf_engine_close(&engine);
    }
    free_results(&one);
}

static const form seen[] = {
    {.name = "full"},
    {.name = "full, entry state, grouped", .entry = true, .grouped = true},
    {.name = "causal", .causal = true},
    {.name = "causal, entry state", .causal = true, .entry = true},
    {.name = "causal, forgetting, masked, grouped",
     .causal = true,
     .decay = true,
     .mask = true,
     .grouped = true},
    {.name = "causal, packed", .causal = true, .documents = true},
    {.name = "full, packed by offsets", .offsets = true},
    {.name = "causal, packed by offsets", .causal = true, .offsets = true},
    {.name = "staircase", .limits = true, .cross = 1},
    {.name = "prefix", .causal = true, .prefix = true},
};

int main(void) {
    static const int64_t lengths[] = {40 * BLOCK + 5, PF_SPAN + BLOCK, 2 * PF_SPAN + 1};
    attention list[MAX_ATTENTIONS];
    int n = list_attentions(list);
    for (int a = 0; a < n; a++) {
        bool softmax = list[a].map && strcmp(list[a].name, "softmax") == 0;
        bool relu = list[a].map && strcmp(list[a].name, "relu") == 0;
        for (int f = 0; (softmax || relu) && f < PF_COUNT(seen); f++) {
            int64_t L = lengths[(f + relu) % PF_COUNT(lengths)];
            check_wave(&list[a], &seen[f], softmax && f % 2 ? 3 : 1, L, seen[f].entry, false,
                       PF_CPU_BEST);
        }
        if (!softmax) continue;
        check_wave(&list[a], &seen[2], 1, lengths[0], 0, true, PF_CPU_BEST);
        check_wave(&list[a], &seen[0], 1, lengths[0], 0, true, PF_CPU_BEST);
        check_wave(&list[a], &seen[3], 1, lengths[1], 0, false, PF_CPU_GENERIC);
    }
    return CHECK_REPORT();
}
