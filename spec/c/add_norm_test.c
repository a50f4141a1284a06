/*
 * add_norm_test.c - add_layernorm and add_rmsnorm have the bits of add followed by the norm, on
 * every kernel level: values and gradients, with and without a tape, however the sum and its
 * norm are used afterwards.
 */
#include "calls_support.h"
#include "nn_support.h"

static pf_engine engine;

enum { X, H, W, B, LEAVES, SUM = LEAVES, Y, KEPT };
/* What becomes of sum and y. */
typedef enum {
    SUM_ALONE,
    Y_ALONE,
    BRANCH,    /* sum + y^2, as around an mlp */
    PLAIN_SUM, /* sum + y: one gradient is given to both */
    SUM_TWICE, /* sum sum + y: more arrives for sum after its first gradient */
    USES
} use;

typedef struct {
    bool fused, rms, tape, twins, inner; /* twins: h is x; inner: x is no leaf */
    use use;
    int64_t rows, width;
    bool turned; /* x is a transposed view */
} setup;

static pf_tensor *make(int64_t rows, int64_t width, uint64_t stream) {
    const int64_t shape[2] = {rows, width};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make_lasting(&t, engine.heap, PF_F32, 2, shape));
    pf_rng rng = pf_rng_make(4, PF_DRAW_USER, stream, 0);
    pf_rng_fill_normal(&rng, 0, pf_tensor_numel(t), pf_f32(t));
    return t;
}

static pf_tensor *make_leaf(const setup *s, int i) {
    bool turned = i == X && s->turned;
    int64_t rows = i < W ? s->rows : 1;
    pf_tensor *t = turned ? make(s->width, rows, 1) : make(rows, s->width, (uint64_t)i + 1);
    if (turned) {
        pf_tensor *view;
        CHECK_OK(pf_permute(&view, &engine, t, 2, (const int[]){1, 0}));
        pf_tensor_release(&t);
        t = view;
    }
    if (i >= W) {
        pf_tensor *row;
        CHECK_OK(pf_reshape(&row, &engine, t, 1, &s->width));
        pf_tensor_release(&t);
        t = row;
    }
    CHECK_OK(pf_tensor_require_grad(t, true));
    return t;
}

/* sum and y of x and h, by one op or by two. */
static void norm_of_sum(const setup *s, pf_tensor *x, pf_tensor *const *leaf, pf_tensor **kept) {
    pf_tensor *h = s->twins ? x : leaf[H];
    if (s->fused && s->rms) {
        CHECK_OK(pf_add_rmsnorm(&kept[SUM], &kept[Y], &engine, x, h, leaf[W], 1e-6));
    } else if (s->fused) {
        CHECK_OK(pf_add_layernorm(&kept[SUM], &kept[Y], &engine, x, h, leaf[W], leaf[B], 1e-5));
    } else {
        CHECK_OK(pf_add(&kept[SUM], &engine, x, h));
        if (s->rms)
            CHECK_OK(pf_rmsnorm(&kept[Y], &engine, kept[SUM], leaf[W], 1e-6));
        else
            CHECK_OK(pf_layernorm(&kept[Y], &engine, kept[SUM], leaf[W], leaf[B], 1e-5));
    }
}

static pf_tensor *used(const setup *s, pf_tensor *sum, pf_tensor *y) {
    pf_tensor *more = NULL, *z = NULL;
    if (s->use == SUM_ALONE) return pf_tensor_retain(sum);
    if (s->use == Y_ALONE) return pf_tensor_retain(y);
    if (s->use == BRANCH) CHECK_OK(call_two(&more, &engine, &pf_op_mul, y, y));
    if (s->use == SUM_TWICE) CHECK_OK(call_two(&more, &engine, &pf_op_mul, sum, sum));
    CHECK_OK(pf_add(&z, &engine, s->use == SUM_TWICE ? y : sum, more ? more : y));
    pf_tensor_release(&more);
    return z;
}

/* Every number of a run in `to`: sum, y, then the gradients of the leaves (0 where none). */
static int64_t run(const setup *s, float *to) {
    pf_tensor *leaf[LEAVES], *kept[KEPT] = {NULL}, *x, *z, *seed = make(s->rows, s->width, 9);
    pf_tape *tape = NULL;
    int64_t n = 0;
    for (int i = 0; i < LEAVES; i++) leaf[i] = make_leaf(s, i);
    if (s->tape) CHECK_OK(pf_tape_open(&tape, &engine));
    if (s->inner)
        CHECK_OK(call_one(&x, &engine, &pf_op_tanh, leaf[X]));
    else
        x = pf_tensor_retain(leaf[X]);
    norm_of_sum(s, x, leaf, kept);
    for (int i = SUM; i < KEPT; i++) {
        memcpy(to + n, pf_f32(kept[i]), (size_t)(s->rows * s->width) * sizeof *to);
        n += s->rows * s->width;
    }
    if (tape) {
        z = used(s, kept[SUM], kept[Y]);
        pf_tensor_release(&x);
        for (int i = SUM; i < KEPT; i++) pf_tensor_release(&kept[i]);
        CHECK_OK(pf_tape_backward(tape, z, seed));
        pf_tensor_release(&z);
        pf_tape_close(&tape);
    }
    for (int i = 0; i < LEAVES; i++) {
        pf_tensor *grad = NULL;
        CHECK_OK(pf_tensor_grad(&grad, &engine, leaf[i]));
        int64_t size = pf_tensor_numel(leaf[i]);
        for (int64_t k = 0; k < size; k++) to[n + k] = grad ? pf_f32(grad)[k] : 0;
        n += size;
        pf_tensor_release(&grad);
    }
    for (int i = 0; i < LEAVES; i++) pf_tensor_release(&leaf[i]);
    for (int i = SUM; i < KEPT; i++) pf_tensor_release(&kept[i]);
    if (!s->tape) pf_tensor_release(&x);
    pf_tensor_release(&seed);
    return n;
}

static void same_bits(setup s) {
    size_t room = (size_t)(4 * s.rows * s.width + 2 * s.width);
    float *one = calloc(room, sizeof *one), *two = calloc(room, sizeof *two);
    s.fused = true;
    int64_t n = run(&s, one);
    s.fused = false;
    CHECK(run(&s, two) == n && (size_t)n == room);
    bool same = memcmp(one, two, room * sizeof *one) == 0;
    if (!same)
        fprintf(stderr, "  rms %d, tape %d, twins %d, inner %d, use %d, %lld x %lld\n", s.rms,
                s.tape, s.twins, s.inner, (int)s.use, (long long)s.rows, (long long)s.width);
    CHECK(same);
    if (s.tape && s.rows > 0 && s.use != SUM_ALONE) { /* numbers, not zeros */
        double sum = 0;
        for (size_t i = 0; i < room; i++) sum += fabs((double)one[i]);
        CHECK(sum > 1 && isfinite(sum));
    }
    free(one);
    free(two);
}

static void test_bits(void) {
    static const int64_t sizes[][2] = {{3, 8}, {131, 67}, {300, 24}, {1, 1}, {0, 4}};
    for (int k = 0; k < PF_COUNT(sizes); k++) {
        for (int flags = 0; flags < 16; flags++) {
            setup s = {.rms = flags & 1,
                       .twins = flags & 2,
                       .inner = flags & 4,
                       .turned = flags & 8,
                       .rows = sizes[k][0],
                       .width = sizes[k][1]};
            same_bits(s);
            s.tape = true;
            for (int u = 0; u < USES; u++) {
                s.use = (use)u;
                same_bits(s);
            }
        }
    }
}

/* What arrives for the sum may lie in a tensor that others hold: the caller's seed. */
static void test_seed_unchanged(void) {
    pf_tensor *x = make(5, 8, 1), *h = make(5, 8, 2), *w = make(1, 8, 3), *row, *sum, *y, *z;
    pf_tensor *seed = make(5, 8, 4), *copy = make(5, 8, 4);
    const int64_t eight = 8;
    CHECK_OK(pf_reshape(&row, &engine, w, 1, &eight));
    pf_tensor_require_grad(x, true);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &engine));
    CHECK_OK(pf_add_rmsnorm(&sum, &y, &engine, x, h, row, 1e-6));
    CHECK_OK(pf_add(&z, &engine, sum, y));
    CHECK_OK(pf_tape_backward(tape, z, seed));
    CHECK(memcmp(pf_f32(seed), pf_f32(copy), 40 * sizeof(float)) == 0);
    pf_tensor *all[] = {x, h, w, row, sum, y, z, seed, copy};
    for (int i = 0; i < PF_COUNT(all); i++) pf_tensor_release(&all[i]);
    pf_tape_close(&tape);
}

static void run_level(pf_cpu cpu) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 2;
    options.cpu = cpu;
    memset(&engine, 0, sizeof engine);
    if (pf_runtime_open(&engine, &options) < 0) {
        fprintf(stderr, "skipped a level: %s\n", pf_last_error());
        return;
    }
    CHECK_OK(pf_ops_register(&engine));
    size_t live = pf_heap_live(engine.heap);
    test_bits();
    test_seed_unchanged();
    pf_heap_free(engine.heap, engine.scratch, engine.scratch_bytes * (size_t)engine.threads);
    engine.scratch = NULL;
    engine.scratch_bytes = 0;
    CHECK(pf_heap_live(engine.heap) == live);
    pf_runtime_close(&engine);
}

/* What fails inside a block's second norm is said in its name, with the op and the shapes. */
static void test_name(const char *norm, const char *text) {
    pf_engine *e = engine_of(1, 3);
    char options[128];
    snprintf(options, sizeof options, "{'dim': 8, 'heads': 2, 'norm': '%s'}", norm);
    pf_module *m = layer_of(e, "block", options);
    const int64_t five = 5, shape[3] = {1, 3, 8};
    pf_tensor *x = NULL, *y = NULL;
    int norm2 = 0;
    while (strcmp(m->child[norm2].name, "norm2") != 0) norm2++;
    pf_tensor **weight = &m->child[norm2].module->slot[0].tensor;
    pf_tensor_release(weight);
    CHECK_OK(pf_tensor_full(weight, e, PF_F32, 1, &five, 1));
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 3, shape, 1));
    CHECK_FAILS(PF_ESHAPE, pf_module_forward(&y, e, m, x, NULL));
    CHECK(strstr(pf_last_error(), text) && strstr(pf_last_error(), "weight is [5]") && !y);
    pf_tensor_release(&x);
    pf_module_release(&m);
    pf_engine_close(&e);
}

int main(void) {
    test_name("layernorm", "norm2: add_layernorm: x is [1, 3, 8]");
    test_name("rmsnorm", "norm2: add_rmsnorm: x is [1, 3, 8]");
    run_level(PF_CPU_GENERIC);
    run_level(PF_CPU_AVX2);
    run_level(PF_CPU_AVX512);
    return CHECK_REPORT();
}
