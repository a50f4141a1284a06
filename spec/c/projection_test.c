/*
 * projection_test.c - Hadamard products at every level this machine has: the draw against the
 * matrix in double, both ways through the kernels, a row's bits wherever it stands, factors
 * that are stale or broken.
 */
#include "check.h"
#include "projector.h"

enum { ROWS = 37, LD = 3, M_MAX = 1200, D_MAX = 1024 };

static pf_engine *e;
static float x_[ROWS * (D_MAX + LD)], u_[ROWS * (M_MAX + LD)], back_[ROWS * (D_MAX + LD)];
static float alone_[M_MAX], panel_[PF_PANEL], packed_[ROWS * M_MAX];

static const struct {
    int m, d;
} shapes[] = {{64, 64},   {256, 64}, {100, 64}, {256, 128}, {200, 100}, {65, 65},
              {127, 127}, {96, 96},  {250, 80}, {512, 512}, {130, 70},  {1030, 1024}};

static void fill(float *x, int n, uint64_t seed) {
    pf_rng rng = pf_rng_make(seed, PF_DRAW_USER, 0, 0);
    pf_rng_fill_normal(&rng, 0, n, x);
}

static pf_drawing drawing_of(int m, int d) {
    return (pf_drawing){
        .features = m, .head_dim = d, .seed = 5, .layer = 2, .epoch = 3, .rows = PF_ROWS_HADAMARD};
}

/* |got - sum_i a_i b_i| against the sum of |a_i b_i|. */
static bool near_product(float got, const float *a, int64_t sa, const float *b, int64_t sb, int n) {
    double sum = 0, size = 0;
    for (int i = 0; i < n; i++) {
        double term = (double)a[i * sa] * (double)b[i * sb];
        sum += term;
        size += fabs(term);
    }
    return fabs((double)got - sum) <= 3e-6 * size;
}

/* Both products of n rows, against the matrix in double; other memory stays as it was. */
static void check_products(const pf_projector *p, int n) {
    const int m = (int)p->m, d = (int)p->d, ldu = m + LD;
    int bad = 0;
    fill(x_, n * d, 1);
    for (int i = 0; i < n * ldu; i++) u_[i] = 7;
    pf_project(p, n, x_, u_, ldu);
    for (int i = 0; i < n; i++) {
        for (int a = 0; a < m; a++) {
            bad += !near_product(u_[i * ldu + a], x_ + i * d, 1, p->w + a * d, 1, d);
        }
        for (int a = m; a < ldu; a++) bad += u_[i * ldu + a] != 7;
    }
    CHECK(bad == 0);
    memset(back_, 0, (size_t)(n * d + 1) * sizeof *back_);
    pf_project_back(p, n, u_, ldu, back_);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < d; j++) {
            bad += !near_product(back_[i * d + j], u_ + i * ldu, 1, p->w + j, d, m);
        }
    }
    CHECK(bad == 0 && back_[n * d] == 0);
    for (int i = 0; i < n; i++) { /* alone: the same bits */
        pf_project(p, 1, x_ + i * d, alone_, m);
        bad += memcmp(alone_, u_ + i * ldu, (size_t)m * sizeof(float)) != 0;
        memset(alone_, 0, (size_t)d * sizeof(float));
        pf_project_back(p, 1, u_ + i * ldu, ldu, alone_);
        bad += memcmp(alone_, back_ + i * d, (size_t)d * sizeof(float)) != 0;
    }
    CHECK(bad == 0);
}

/* NaN in a row stays there. */
static void check_nan(const pf_projector *p) {
    const int m = (int)p->m, d = (int)p->d;
    int bad = 0;
    fill(x_, 5 * d, 1);
    x_[2 * d + 1] = NAN;
    pf_project(p, 5, x_, u_, m);
    for (int i = 0; i < 5 * m; i++) bad += (isnan(u_[i]) != 0) != (i / m == 2);
    CHECK(bad == 0);
}

/* W turned once or in every product: the same bits. */
static void check_turned(const pf_kern *kern, int m, int d, pf_tensor *w) {
    pf_projector p;
    void *at = NULL;
    if (!kern->block_gemm) return;
    pf_projector_open(&p, kern, m, d, pf_f32(w), NULL, panel_, &at);
    float *strips = aligned_alloc(PF_ALIGN, (size_t)pf_packed_floats(m, d) * sizeof(float));
    fill(x_, ROWS * d, 3);
    pf_project(&p, ROWS, x_, u_, m + LD);
    pf_projector_pack(&p, strips);
    CHECK(p.packed.strips == strips);
    int bad = 0;
    static const int counts[] = {1, 5, ROWS};
    for (int c = 0; c < PF_COUNT(counts); c++) {
        pf_project(&p, counts[c], x_, packed_, m);
        for (int i = 0; i < counts[c]; i++) {
            bad += memcmp(packed_ + i * m, u_ + i * (m + LD), (size_t)m * sizeof(float)) != 0;
        }
    }
    CHECK(bad == 0);
    free(strips);
}

/* Factors that don't give w, or are no factors, are left alone. */
static void check_stale(const pf_kern *kern, int m, int d, pf_tensor *w, pf_tensor *factors,
                        void *scratch) {
    float *f = pf_f32(factors), *v = pf_f32(w);
    const float wrong[] = {NAN, 0, 1e9f, 1.5f, -2};
    pf_projector p;
    for (int i = 0; i < PF_COUNT(wrong); i++) {
        void *at = scratch;
        float kept = f[0];
        f[0] = wrong[i];
        pf_projector_open(&p, kern, m, d, v, f, panel_, &at);
        /* Where nothing is permuted the place is not read, and -2 means the sign alone. */
        bool same = wrong[i] == kept || (wrong[i] == -2 && kept < 0 && (d & (d - 1)) == 0);
        CHECK(same || p.blocks == NULL);
        f[0] = kept;
    }
    float kept = v[m * d - 1];
    void *at = scratch;
    v[m * d - 1] += 0.01f;
    pf_projector_open(&p, kern, m, d, v, f, panel_, &at);
    CHECK(p.blocks == NULL);
    v[m * d - 1] = kept;
}

/* What an open projector takes of the scratch, measured from address 0. */
static size_t projector_bytes(int m, int d, const float *factors) {
    pf_projector p;
    void *end = NULL;
    pf_projector_open(&p, NULL, m, d, NULL, factors, NULL, &end);
    return (size_t)(uintptr_t)end;
}

static void check_shape(const pf_kern *kern, int m, int d) {
    pf_drawing drawing = drawing_of(m, d);
    pf_tensor *w = NULL, *factors = NULL;
    CHECK_OK(pf_projection_make(&w, e, &drawing));
    CHECK_OK(pf_factors_make(&factors, e, &drawing));
    size_t bytes = projector_bytes(m, d, pf_f32(factors));
    CHECK(bytes > 0 && projector_bytes(m, d, NULL) == 0);
    void *scratch = aligned_alloc(PF_ALIGN, bytes), *at = scratch;
    pf_projector p;
    pf_projector_open(&p, kern, m, d, pf_f32(w), pf_f32(factors), panel_, &at);
    CHECK(p.blocks != NULL && (char *)at == (char *)scratch + bytes);
    static const int counts[] = {0, 1, 3, 4, 8, 13, 16, 17, ROWS};
    for (int i = 0; i < PF_COUNT(counts); i++) check_products(&p, counts[i]);
    check_nan(&p);
    check_turned(kern, m, d, w);
    check_stale(kern, m, d, w, factors, scratch);
    free(scratch);
    pf_tensor_release(&w), pf_tensor_release(&factors);
}

/* Every small width gives orthogonal rows, and none that the factors would be worth. */
static void test_small(void) {
    for (int d = 1; d < 40; d++) {
        pf_drawing drawing = drawing_of(2 * d + 1, d);
        pf_tensor *w = NULL;
        CHECK_OK(pf_projection_make(&w, e, &drawing));
        int bad = 0;
        for (int a = 0; a < 2 * d; a++) {
            for (int b = a / d * d; b < a; b++) {
                double sum = 0, size = 0;
                for (int i = 0; i < d; i++) {
                    double x = (double)pf_f32(w)[a * d + i], y = (double)pf_f32(w)[b * d + i];
                    sum += x * y;
                    size += x * x + y * y;
                }
                bad += !(fabs(sum) <= 1e-6 * size);
            }
        }
        CHECK(bad == 0);
        pf_tensor_release(&w);
    }
    CHECK(!pf_projector_factored(256, 32) && pf_projector_factored(256, 64));
    CHECK(!pf_projector_factored(16, 64));
}

/* The same key gives the same bits in pieces: a head's draw does not know the others. */
static void test_heads(void) {
    pf_drawing one = drawing_of(70, 64), many = one;
    many.heads = 5;
    pf_tensor *a = NULL, *b = NULL;
    CHECK_OK(pf_projection_make(&a, e, &one));
    CHECK_OK(pf_projection_make(&b, e, &many));
    size_t bytes = (size_t)(70 * 64) * sizeof(float);
    CHECK(memcmp(pf_f32(a), pf_f32(b), bytes) == 0);
    CHECK(memcmp(pf_f32(a), pf_f32(b) + 70 * 64, bytes) != 0);
    pf_tensor_release(&a), pf_tensor_release(&b);
}

static void test_options(void) {
    pf_projection_options o = {.size = sizeof o, .features = 8, .head_dim = 8};
    pf_tensor *t = NULL;
    o.rows = "given";
    CHECK_FAILS(PF_EINVAL, pf_projection_draw(&t, e, &o));
    o.rows = "simplex", o.norms = "sqrt";
    CHECK_FAILS(PF_EINVAL, pf_projection_draw(&t, e, &o));
    o.norms = NULL;
    CHECK_FAILS(PF_EINVAL, pf_projection_factors(&t, e, &o));
    o.head_dim = 5000;
    CHECK_FAILS(PF_EINVAL, pf_projection_draw(&t, e, &o));
    CHECK(pf_choice_place("a|bb|c", "bb") == 1 && pf_choice_place("a|bb|c", "b") == -1);
    CHECK(pf_choice_place("a|bb|c", "c") == 2 && pf_choice_place("a|bb|c", "a|bb") == -1);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 2;
    CHECK_OK(pf_engine_open(&e, &options));
    test_heads();
    test_options();
    test_small();
    for (int level = 0; level <= (int)pf_cpu_detect(); level++) {
        const pf_kern *kern = pf_kern_table((pf_cpu)level);
        CHECK(kern != NULL);
        for (int i = 0; kern && i < PF_COUNT(shapes); i++) {
            check_shape(kern, shapes[i].m, shapes[i].d);
        }
    }
    pf_engine_close(&e);
    return CHECK_REPORT();
}
