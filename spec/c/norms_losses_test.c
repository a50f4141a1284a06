/*
 * norms_losses_test.c - what the gradient check cannot see of norms, embedding, losses, dropout,
 * rotary and swiglu: values against plain double arithmetic, bounds, masks, layouts, extremes.
 */
#include "calls_support.h"
#include "check.h"

static pf_engine engine;

static pf_tensor *make(int rank, const int64_t *shape, uint64_t stream) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make_lasting(&t, engine.heap, PF_F32, rank, shape));
    pf_rng rng = pf_rng_make(3, PF_DRAW_USER, stream, 0);
    pf_rng_fill_normal(&rng, 0, pf_tensor_numel(t), pf_f32(t));
    return t;
}

static pf_tensor *make_ids(int rank, const int64_t *shape, const int32_t *ids) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_make_lasting(&t, engine.heap, PF_I32, rank, shape));
    memcpy(pf_i32(t), ids, (size_t)pf_tensor_numel(t) * sizeof *ids);
    return t;
}

static void drop(pf_tensor **list, int n) {
    for (int i = 0; i < n; i++) pf_tensor_release(&list[i]);
}

#define DROP(...)                                                                                  \
    do {                                                                                           \
        pf_tensor *drop_list_[] = {__VA_ARGS__};                                                   \
        drop(drop_list_, PF_COUNT(drop_list_));                                                    \
    } while (0)

static bool near(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance * (1 + fabs(b));
}

/* ---- norms ---- */

/* Rows of width n against two-pass double arithmetic; offset makes one-pass sums cancel. */
static void norm_values(int64_t rows, int64_t n, float offset) {
    const int64_t shape[2] = {rows, n};
    pf_tensor *x = make(2, shape, 1), *w = make(1, &n, 2), *b = make(1, &n, 3), *y, *z;
    for (int64_t i = 0; i < rows * n; i++) pf_f32(x)[i] += offset;
    CHECK_OK(pf_layernorm(&y, &engine, x, w, b, 1e-5));
    CHECK_OK(pf_rmsnorm(&z, &engine, x, w, 1e-6));
    double worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = pf_f32(x) + r * n;
        double mean = 0, var = 0, square = 0;
        for (int64_t i = 0; i < n; i++) mean += (double)row[i] / (double)n;
        for (int64_t i = 0; i < n; i++) {
            var += ((double)row[i] - mean) * ((double)row[i] - mean) / (double)n;
            square += (double)row[i] * (double)row[i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            double layer = ((double)row[i] - mean) / sqrt(var + 1e-5) * (double)pf_f32(w)[i] +
                           (double)pf_f32(b)[i];
            double root = (double)row[i] / sqrt(square + 1e-6) * (double)pf_f32(w)[i];
            worst = fmax(worst, fabs((double)pf_f32(y)[r * n + i] - layer) / (1 + fabs(layer)));
            worst = fmax(worst, fabs((double)pf_f32(z)[r * n + i] - root) / (1 + fabs(root)));
        }
    }
    CHECK(worst < 2e-6 * (1 + fabs((double)offset)));
    DROP(x, w, b, y, z);
}

static void test_norms(void) {
    norm_values(5, 64, 0);
    norm_values(300, 7, 0);
    norm_values(3, 1000, 30);
    norm_values(0, 4, 0);
    const int64_t shape[2] = {3, 4}, five = 5;
    pf_tensor *x = make(2, shape, 1), *w = make(1, &five, 2), *y = NULL;
    CHECK_FAILS(PF_ESHAPE, pf_rmsnorm(&y, &engine, x, w, 1e-5));
    CHECK(strstr(pf_last_error(), "[3, 4]") && strstr(pf_last_error(), "[5]"));
    DROP(x, w);
}

/* A tensor and its transposed view give the same rows. */
static void test_norm_of_a_view(void) {
    const int64_t shape[2] = {6, 4}, six = 6;
    pf_tensor *x = make(2, shape, 1), *w = make(1, &six, 2), *view, *flat, *a, *b;
    CHECK_OK(pf_permute(&view, &engine, x, 2, (const int[]){1, 0}));
    CHECK_OK(pf_tensor_detach(&flat, &engine, view));
    CHECK(!pf_tensor_contiguous(view));
    CHECK_OK(pf_layernorm(&a, &engine, view, w, NULL, 1e-5));
    CHECK_OK(pf_layernorm(&b, &engine, flat, w, NULL, 1e-5));
    CHECK(memcmp(pf_f32(a), pf_f32(b), 24 * sizeof(float)) == 0);
    DROP(x, w, view, flat, a, b);
}

/* ---- embedding ---- */

static void test_embedding(void) {
    const int64_t shape[2] = {5, 3}, four = 4;
    pf_tensor *table = make(2, shape, 1), *y = NULL;
    pf_tensor *ids = make_ids(1, &four, (const int32_t[]){4, 0, 4, 2});
    CHECK_OK(pf_embedding(&y, &engine, table, ids));
    for (int i = 0; i < 4; i++)
        CHECK(memcmp(pf_f32(y) + 3 * i, pf_f32(table) + 3 * pf_i32(ids)[i], 12) == 0);
    pf_tensor_release(&y);
    pf_i32(ids)[2] = 5;
    CHECK_FAILS(PF_EINVAL, pf_embedding(&y, &engine, table, ids));
    CHECK(strstr(pf_last_error(), "id 5") && strstr(pf_last_error(), "position 2") &&
          strstr(pf_last_error(), "V = 5"));
    pf_i32(ids)[2] = -1;
    CHECK_FAILS(PF_EINVAL, pf_embedding(&y, &engine, table, ids));
    CHECK_FAILS(PF_EDTYPE, pf_embedding(&y, &engine, table, table));
    DROP(table, ids);
}

/* Ids that turn bad between forward and backward are refused, not followed. */
static void test_changed_ids(void) {
    const int64_t shape[2] = {5, 3}, four = 4;
    pf_tensor *table = make(2, shape, 1), *y, *s;
    pf_tensor *ids = make_ids(1, &four, (const int32_t[]){4, 0, 4, 2});
    pf_tensor_require_grad(table, true);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &engine));
    CHECK_OK(pf_embedding(&y, &engine, table, ids));
    CHECK_OK(call_one(&s, &engine, &pf_op_sum, y));
    pf_i32(ids)[1] = 1 << 30;
    CHECK_FAILS(PF_EINVAL, pf_tape_backward(tape, s, NULL));
    pf_tape_close(&tape);
    DROP(table, ids, y, s);
}

/* ---- losses ---- */

static int cross_entropy_as(pf_tensor **y, pf_tensor *x, pf_tensor *ids, int64_t reduction) {
    pf_attr attr = {.i = reduction};
    pf_tensor *in[2] = {x, ids};
    return pf_apply(&engine, &pf_op_cross_entropy, in, 2, &attr, y);
}

static double row_loss(const float *x, int64_t n, int32_t id) {
    double m = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) m = fmax(m, (double)x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - m);
    return m + log(sum) - (double)x[id];
}

static void cross_entropy_values(int64_t n, float scale, float offset) {
    enum { ROWS = 9 };
    const int64_t shape[2] = {ROWS, n}, rows = ROWS;
    int32_t id[ROWS];
    pf_tensor *x = make(2, shape, 1), *y;
    for (int64_t i = 0; i < ROWS * n; i++) pf_f32(x)[i] = scale * pf_f32(x)[i] + offset;
    for (int i = 0; i < ROWS; i++) id[i] = (int32_t)((i * 31) % n);
    id[3] = -1;
    pf_f32(x)[3 * n] = NAN; /* not counted, so never seen */
    pf_tensor *ids = make_ids(1, &rows, id), *each, *sum;
    CHECK_OK(pf_cross_entropy(&y, &engine, x, ids));
    CHECK_OK(cross_entropy_as(&sum, x, ids, 1));
    CHECK_OK(cross_entropy_as(&each, x, ids, 2));
    double total = 0;
    for (int r = 0; r < ROWS; r++) {
        double loss = id[r] < 0 ? 0 : row_loss(pf_f32(x) + r * n, n, id[r]);
        total += loss;
        CHECK(near((double)pf_f32(each)[r], loss, 2e-6));
    }
    CHECK(near((double)pf_f32(y)[0], total / (ROWS - 1), 2e-6));
    CHECK(near((double)pf_f32(sum)[0], total, 2e-6));
    CHECK(y->rank == 0 && each->rank == 1);
    DROP(x, y, ids, each, sum);
}

static void test_cross_entropy(void) {
    cross_entropy_values(1, 1, 0);
    cross_entropy_values(24, 1, 0);
    cross_entropy_values(1500, 3, 0);
    cross_entropy_values(24, 1, 1000); /* the log-sum-exp alone is not exact enough here */
    cross_entropy_values(600, 1e3f, 0);
    const int64_t shape[2] = {2, 4}, two = 2;
    pf_tensor *x = make(2, shape, 1), *y = NULL;
    pf_tensor *ids = make_ids(1, &two, (const int32_t[]){-1, -1});
    CHECK_OK(pf_cross_entropy(&y, &engine, x, ids));
    CHECK(pf_f32(y)[0] == 0);
    pf_tensor_release(&y);
    pf_i32(ids)[1] = 4;
    CHECK_FAILS(PF_EINVAL, pf_cross_entropy(&y, &engine, x, ids));
    CHECK(strstr(pf_last_error(), "id 4") && strstr(pf_last_error(), "position 1"));
    CHECK_FAILS(PF_EDTYPE, pf_cross_entropy(&y, &engine, ids, ids));
    pf_tensor *flat = make(1, &two, 1);
    CHECK_FAILS(PF_ESHAPE, pf_cross_entropy(&y, &engine, flat, ids));
    DROP(x, ids, flat);
}

/* The gradient is (softmax - onehot) / counted, and 0 where nothing counts. */
static void test_cross_entropy_gradient(void) {
    const int64_t shape[2] = {3, 4}, three = 3;
    pf_tensor *x = make(2, shape, 1), *y, *ids = make_ids(1, &three, (const int32_t[]){2, -1, 0});
    pf_tensor_require_grad(x, true);
    for (int pass = 1; pass <= 2; pass++) { /* the second adds */
        pf_tape *tape;
        CHECK_OK(pf_tape_open(&tape, &engine));
        CHECK_OK(pf_cross_entropy(&y, &engine, x, ids));
        CHECK_OK(pf_tape_backward(tape, y, NULL));
        pf_tape_close(&tape);
        pf_tensor_release(&y);
        for (int r = 0; r < 3; r++)
            for (int i = 0; i < 4; i++) {
                double p = exp(-row_loss(pf_f32(x) + 4 * r, 4, i));
                double want = r == 1 ? 0 : (p - (i == pf_i32(ids)[r])) / 2 * pass;
                CHECK(near((double)pf_f32(x->grad)[4 * r + i], want, 1e-6));
            }
    }
    DROP(x, ids);
}

static void test_mean_square(void) {
    const int64_t many = 40000, none = 0;
    pf_tensor *a = make(1, &many, 1), *b = make(1, &many, 2), *y, *empty = make(1, &none, 3), *z;
    CHECK_OK(pf_apply(&engine, &pf_op_mean_square, (pf_tensor *[]){a, b}, 2, NULL, &y));
    CHECK_OK(pf_apply(&engine, &pf_op_mean_square, (pf_tensor *[]){empty, empty}, 2, NULL, &z));
    double sum = 0;
    for (int i = 0; i < many; i++)
        sum += pow((double)pf_f32(a)[i] - (double)pf_f32(b)[i], 2) / (double)many;
    CHECK(near((double)pf_f32(y)[0], sum, 1e-7) && pf_f32(z)[0] == 0);
    DROP(a, b, y, empty, z);
}

/* ---- dropout ---- */

static void test_dropout(void) {
    const int64_t n = 100000;
    pf_tensor *x = make(1, &n, 1), *y, *again, *other, *s;
    pf_f32(x)[0] = NAN;
    CHECK_OK(pf_dropout(&y, &engine, x, 0.3, 7));
    CHECK_OK(pf_dropout(&again, &engine, x, 0.3, 7));
    CHECK_OK(pf_dropout(&other, &engine, x, 0.3, 8));
    CHECK(memcmp(pf_f32(y) + 1, pf_f32(again) + 1, (size_t)(n - 1) * sizeof(float)) == 0);
    CHECK(memcmp(pf_f32(y) + 1, pf_f32(other) + 1, (size_t)(n - 1) * sizeof(float)) != 0);
    int64_t dropped = 0, wrong = 0;
    for (int64_t i = 1; i < n; i++) {
        double want = (double)pf_f32(x)[i] / 0.7;
        dropped += pf_f32(y)[i] == 0;
        wrong += pf_f32(y)[i] != 0 && !near((double)pf_f32(y)[i], want, 1e-6);
    }
    /* 6 standard deviations of a binomial */
    CHECK(wrong == 0 && fabs((double)dropped - 0.3 * (double)n) < 6 * sqrt(0.21 * (double)n));
    DROP(y, again, other);
    /* The backward has the forward's mask, whatever becomes of the seed. */
    pf_tensor_require_grad(x, true);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &engine));
    CHECK_OK(pf_dropout(&y, &engine, x, 0.3, 7));
    CHECK_OK(call_one(&s, &engine, &pf_op_sum, y));
    pf_seed(&engine, engine.seed + 1);
    CHECK_OK(pf_tape_backward(tape, s, NULL));
    wrong = 0;
    for (int64_t i = 1; i < n; i++) wrong += (pf_f32(y)[i] == 0) != (pf_f32(x->grad)[i] == 0);
    CHECK(wrong == 0);
    pf_tape_close(&tape);
    DROP(x, y, s);
}

static void test_dropout_ends(void) {
    const int64_t n = 10;
    pf_tensor *x = make(1, &n, 1), *y = NULL, *a = NULL, *b = NULL;
    CHECK_OK(pf_dropout(&y, &engine, x, 0, 1));
    CHECK(y != x && y->storage == x->storage);
    pf_tensor_release(&y);
    CHECK_FAILS(PF_EINVAL, pf_dropout(&y, &engine, x, 1, 1));
    CHECK_FAILS(PF_EINVAL, pf_dropout(&y, &engine, x, NAN, 1));
    /* From outside every call draws anew, and ops without chance draw nothing. */
    int index = pf_op_find(&engine, "dropout"), plain = pf_op_find(&engine, "exp");
    pf_attr p = {.f = 0.5};
    const int64_t many = 1000;
    pf_tensor *long_x = make(1, &many, 1);
    CHECK_OK(pf_op_apply(&engine, index, &long_x, 1, &p, &a));
    uint64_t draws = engine.draws;
    CHECK_OK(pf_op_apply(&engine, index, &long_x, 1, &p, &b));
    CHECK(engine.draws == draws + 1);
    CHECK(memcmp(pf_f32(a), pf_f32(b), many * sizeof(float)) != 0);
    CHECK_OK(pf_op_apply(&engine, plain, &x, 1, NULL, &y));
    CHECK(engine.draws == draws + 1);
    CHECK_FAILS(PF_ENOTFOUND, pf_op_apply(&engine, 100000, &x, 1, NULL, &y));
    DROP(x, y, a, b, long_x);
}

/* ---- rotary ---- */

static double rotated(const float *x, int64_t i, int64_t n, bool halves, double position) {
    int64_t pair = halves ? i % (n / 2) : i / 2;
    bool second = halves ? i >= n / 2 : i % 2;
    int64_t mate = halves ? (second ? i - n / 2 : i + n / 2) : (second ? i - 1 : i + 1);
    double angle = position * pow(10000, -2.0 * (double)pair / (double)n);
    double c = cos(angle), s = sin(angle);
    return second ? s * (double)x[mate] + c * (double)x[i] : c * (double)x[i] - s * (double)x[mate];
}

/* x (2, 3, 5, 8), positions given or not, near together or far apart. */
static void rotary_values(bool halves, int64_t offset, int64_t dims, const int32_t *position) {
    const int64_t shape[4] = {2, 3, 5, 8}, places[2] = {2, 5};
    pf_tensor *x = make(4, shape, 1), *y = NULL;
    pf_tensor *positions = position ? make_ids(2, places, position) : NULL;
    pf_attr attr[4] = {{.f = 10000}, {.i = halves}, {.i = offset}, {.i = dims}};
    pf_tensor *in[2] = {x, positions};
    CHECK_OK(pf_apply(&engine, &pf_op_rotary, in, position ? 2 : 1, attr, &y));
    double worst = 0;
    int64_t n = dims ? dims : 8;
    for (int64_t row = 0; row < 30; row++) {
        int64_t b = row / 15, l = row % 5;
        double at = (double)((position ? position[b * 5 + l] : l) + offset);
        for (int64_t i = 0; i < 8; i++) {
            const float *head = pf_f32(x) + row * 8;
            double want = i < n ? rotated(head, i, n, halves, at) : (double)head[i];
            worst = fmax(worst, fabs((double)pf_f32(y)[row * 8 + i] - want));
        }
    }
    CHECK(worst < 1e-6);
    DROP(x, y, positions);
}

static void test_rotary(void) {
    const int32_t packed[10] = {0, 1, 2, 0, 1, 0, 1, 2, 3, 4};
    const int32_t far[10] = {0, 1, 2000000000, 3, 4, -7, 1000000, 2, 3, 4};
    rotary_values(false, 0, 0, NULL);
    rotary_values(true, 0, 0, NULL);
    rotary_values(false, 1000000, 0, NULL); /* angles in double: still exact */
    rotary_values(true, 3, 4, packed);
    rotary_values(false, -2, 0, packed);
    rotary_values(false, 0, 6, far);
    const int64_t odd[4] = {1, 1, 2, 3}, even[4] = {1, 1, 2, 4};
    pf_tensor *x = make(4, odd, 1), *z = make(4, even, 1), *y = NULL;
    CHECK_FAILS(PF_ESHAPE, pf_rotary(&y, &engine, x, NULL, 10000, false, 0));
    CHECK_FAILS(PF_EINVAL, pf_rotary(&y, &engine, z, NULL, 0, false, 0));
    CHECK_FAILS(PF_EDTYPE, pf_rotary(&y, &engine, z, z, 10000, false, 0));
    DROP(x, z);
}

/* (B, L, H, d) memory seen as (B, H, L, d) stays so, forward and backward. */
static void test_rotary_layout(void) {
    const int64_t shape[4] = {2, 5, 3, 4};
    pf_tensor *x = make(4, shape, 1), *view, *y, *flat, *z, *s;
    pf_tensor_require_grad(x, true);
    pf_tape *tape;
    CHECK_OK(pf_tape_open(&tape, &engine));
    CHECK_OK(pf_permute(&view, &engine, x, 4, (const int[]){0, 2, 1, 3}));
    CHECK_OK(pf_rotary(&y, &engine, view, NULL, 10000, false, 0));
    CHECK(memcmp(y->stride, view->stride, 4 * sizeof *y->stride) == 0);
    CHECK_OK(pf_tensor_detach(&flat, &engine, view));
    CHECK_OK(pf_rotary(&z, &engine, flat, NULL, 10000, false, 0));
    bool same = true;
    for (int64_t i = 0; i < 120; i++) {
        double a = 0, b = 1;
        pf_tensor_get(y, i, &a);
        pf_tensor_get(z, i, &b);
        same = same && a == b;
    }
    CHECK(same);
    pf_tensor *square;
    CHECK_OK(call_one(&square, &engine, &pf_op_square, y));
    CHECK_OK(call_one(&s, &engine, &pf_op_sum, square));
    CHECK_OK(pf_tape_backward(tape, s, NULL));
    bool good = true; /* turning keeps lengths: d sum(y^2) / dx = 2 x */
    for (int64_t i = 0; i < 120; i++)
        good = good && near((double)pf_f32(x->grad)[i], 2 * (double)pf_f32(x)[i], 1e-5);
    CHECK(good);
    pf_tape_close(&tape);
    DROP(x, view, y, flat, z, square, s);
}

static void test_swiglu(void) {
    const int64_t n = 1300, other = 3;
    pf_tensor *g = make(1, &n, 1), *v = make(1, &n, 2), *w = make(1, &other, 3), *y = NULL;
    pf_f32(g)[0] = -200;
    pf_f32(g)[1] = 200;
    CHECK_OK(pf_swiglu(&y, &engine, g, v));
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)pf_f32(g)[i], want = x / (1 + exp(-x)) * (double)pf_f32(v)[i];
        worst = fmax(worst, fabs((double)pf_f32(y)[i] - want) / (1 + fabs(want)));
    }
    CHECK(worst < 1e-6);
    pf_tensor_release(&y);
    CHECK_FAILS(PF_ESHAPE, pf_swiglu(&y, &engine, g, w));
    DROP(g, v, w);
}

/* Every level this machine has. */
static void run_level(pf_cpu level) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 2;
    options.cpu = level;
    if (pf_runtime_open(&engine, &options) < 0) {
        fprintf(stderr, "skipped a level: %s\n", pf_last_error());
        return;
    }
    CHECK_OK(pf_ops_register(&engine));
    size_t live = pf_heap_live(engine.heap);
    test_norms();
    test_norm_of_a_view();
    test_embedding();
    test_changed_ids();
    test_cross_entropy();
    test_cross_entropy_gradient();
    test_mean_square();
    test_dropout();
    test_dropout_ends();
    test_rotary();
    test_rotary_layout();
    test_swiglu();
    pf_heap_free(engine.heap, engine.scratch, engine.scratch_bytes * (size_t)engine.threads);
    engine.scratch = NULL;
    engine.scratch_bytes = 0;
    CHECK(pf_heap_live(engine.heap) == live);
    pf_runtime_close(&engine);
}

int main(void) {
    run_level(PF_CPU_GENERIC);
    run_level(PF_CPU_AVX2);
    run_level(PF_CPU_AVX512);
    return CHECK_REPORT();
}
