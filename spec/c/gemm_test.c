/*
 * gemm_test.c - matrix products against a plain loop in double: all transposes, odd
 * sizes, strides longer than rows, alpha and beta, empty products; C beyond its columns
 * stays as it was, and beta 0 never reads it.
 */
#include "check.h"
#include "gemm.h"

#include <sys/mman.h>

enum { SIDE = 70, WIDEST = 300, FLOATS = WIDEST * 1050 };

static float a_[FLOATS], b_[FLOATS], c_[FLOATS], before_[FLOATS];

static void draw(float *x, int n, uint32_t seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)(seed >> 8) - 0x800000) / 0x800000;
    }
}

/* What C (m rows; ldc) holds before a product: NaN where it must not be read. */
static void fill_result(int m, int ldc, bool read) {
    const int n = m * ldc;
    draw(c_, n, 3);
    for (int i = 0; i < n && !read; i++) c_[i] = NAN;
    memcpy(before_, c_, sizeof(float) * (size_t)n);
}

/* The count of elements of C that are wrong, gaps included. */
static int wrong(bool ta, bool tb, int m, int n, int k, float alpha, float beta, int lda, int ldb,
                 int ldc) {
    int bad = 0;
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double want = 0;
            for (int p = 0; p < k; p++)
                want += (double)a_[ta ? p * lda + i : i * lda + p] *
                        (double)b_[tb ? j * ldb + p : p * ldb + j];
            want *= (double)alpha;
            if (beta != 0) want += (double)beta * (double)before_[i * ldc + j];
            bad += !(fabs((double)c_[i * ldc + j] - want) <= 1e-5 * fmax(1, k / 70.0));
        }
        for (int j = n; j < ldc; j++)
            bad += memcmp(&c_[i * ldc + j], &before_[i * ldc + j], sizeof(float)) != 0;
    }
    return bad;
}

static void check_product(bool ta, bool tb, int m, int n, int k, int extra) {
    const float betas[] = {0, 1, -0.5f};
    const int lda = (ta ? m : k) + extra, ldb = (tb ? k : n) + extra, ldc = n + extra;
    for (int t = 0; t < PF_COUNT(betas); t++) {
        fill_result(m, ldc, betas[t] != 0);
        pf_gemm(ta, tb, m, n, k, 0.75f, a_, lda, b_, ldb, betas[t], c_, ldc);
        CHECK(wrong(ta, tb, m, n, k, 0.75f, betas[t], lda, ldb, ldc) == 0);
    }
}

/* block_gemm of a level: the same judge, and a row alone has the bits it has in the block. */
static void check_block(const pf_kern *kern, bool ta, bool tb, int m, int n, int k, int extra) {
    static float row[WIDEST];
    float *panel = malloc(sizeof(float) * (size_t)pf_panel_floats(m, k)); /* just enough: asan */
    const float betas[] = {0, 1, -0.5f};
    const int lda = (ta ? m : k) + extra, ldb = (tb ? k : n) + extra, ldc = n + extra;
    for (int t = 0; t < PF_COUNT(betas); t++) {
        fill_result(m, ldc, betas[t] != 0);
        kern->block_gemm(ta, tb, m, n, k, a_, lda, b_, ldb, betas[t], c_, ldc, panel);
        CHECK(wrong(ta, tb, m, n, k, 1, betas[t], lda, ldb, ldc) == 0);
        for (int i = 0; i < m; i += m < SIDE ? 5 : 37) {
            memcpy(row, before_ + i * ldc, (size_t)n * sizeof(float));
            kern->block_gemm(ta, tb, 1, n, k, a_ + (ta ? i : i * lda), lda, b_, ldb, betas[t], row,
                             n, panel);
            CHECK(memcmp(row, c_ + i * ldc, (size_t)n * sizeof(float)) == 0);
        }
    }
    free(panel);
}

/* A long product goes in passes, which continue the same chain: zeros at its end change
 * nothing, wherever the passes are cut. */
static void check_long_block(const pf_kern *kern) {
    enum { K = 2 * PF_PANEL_DEPTH + 7, SHORT = PF_PANEL_DEPTH + 1, N = 5 };
    static float a[K], b[K * N], panel[PF_PANEL], whole[N], part[N];
    draw(a, SHORT, 7);
    draw(b, K * N, 8);
    kern->block_gemm(false, false, 1, N, K, a, K, b, N, 0, whole, N, panel);
    kern->block_gemm(false, false, 1, N, SHORT, a, K, b, N, 0, part, N, panel);
    CHECK(memcmp(whole, part, sizeof whole) == 0);
}

/* Products that are large at every level: A is packed, its rows come in two parts, k in passes,
 * and B in several groups of panels. */
static void check_large(const pf_kern *kern) {
    static const int sizes[][3] = {{PF_PACK_ROWS + 5, 269, 131}, {61, 297, 2 * PF_PANEL_DEPTH + 6}};
    for (int i = 0; i < PF_COUNT(sizes); i++)
        for (int turn = 0; turn < 4; turn++)
            check_block(kern, turn & 1, turn & 2, sizes[i][0], sizes[i][1], sizes[i][2], i);
}

static void check_blocks(void) {
    static const int sizes[] = {0, 1, 2, 5, 6, 7, 8, 15, 16, 17, 31, 33, 64};
    for (int level = PF_CPU_GENERIC; level <= (int)pf_cpu_detect(); level++) {
        const pf_kern *kern = pf_kern_table((pf_cpu)level);
        if (!kern || !kern->block_gemm) continue;
        check_long_block(kern);
        check_large(kern);
        for (int i = 0; i < PF_COUNT(sizes); i++) {
            for (int j = 0; j < PF_COUNT(sizes); j++) {
                const int k = sizes[(3 * i + 5 * j) % PF_COUNT(sizes)];
                for (int turn = 0; turn < 4; turn++) {
                    check_block(kern, turn & 1, turn & 2, sizes[i], sizes[j], k, (i + j) % 3);
                }
            }
        }
    }
}

/* A stride beyond 32 bits is cut into single rows; with one row it is never used. Two rows
 * so far apart live in address space that is reserved but hardly touched. */
static void check_long_stride(void) {
    const int64_t far = ((int64_t)1 << 31) + 64;
    const size_t bytes = (size_t)(far + 64) * sizeof(float);
    memcpy(before_, c_, sizeof c_);
    pf_gemm(false, false, 1, 9, 1, 1, a_, far, b_, far, 0, c_, far);
    CHECK(wrong(false, false, 1, 9, 1, 1, 0, 9, 9, 9) == 0);
    float *wide = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (wide == MAP_FAILED) return;        /* a host with little address space */
    for (int turn = 0; turn < 2; turn++) { /* A is wide; (2, 5), or (5, 2) turned */
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 5; j++) wide[i * far + j] = a_[i * 5 + j];
        const int m = turn ? 5 : 2, k = turn ? 2 : 5;
        pf_gemm(turn, false, m, 7, k, 1, wide, far, b_, 7, 0, c_, 7);
        CHECK(wrong(turn, false, m, 7, k, 1, 0, 5, 7, 7) == 0);
    }
    for (int turn = 0; turn < 2; turn++) { /* B is wide; (2, 5), or (5, 2) turned */
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 5; j++) wide[i * far + j] = b_[i * 5 + j];
        const int n = turn ? 2 : 5, k = turn ? 5 : 2;
        pf_gemm(false, turn, 6, n, k, 1, a_, k, wide, far, 0, c_, n);
        CHECK(wrong(false, turn, 6, n, k, 1, 0, k, 5, n) == 0);
    }
    pf_gemm(false, false, 2, 5, 3, 1, a_, 3, b_, 5, 0, wide, far); /* C is wide */
    memcpy(c_, wide, 5 * sizeof(float));
    memcpy(c_ + 5, wide + far, 5 * sizeof(float));
    CHECK(wrong(false, false, 2, 5, 3, 1, 0, 3, 5, 5) == 0);
    munmap(wide, bytes);
}

static void check_bench(void) {
    pf_engine engine = {0};
    pf_options options = PF_OPTIONS_DEFAULT;
    double seconds = -1;
    options.threads = 1; /* no pool: nothing is live */
    CHECK_OK(pf_runtime_open(&engine, &options));
    CHECK_OK(pf_bench_gemm(&engine, 64, 48, 32, false, true, 4, &seconds));
    CHECK(seconds > 0 && seconds < 10);
    CHECK_OK(pf_bench_gemm(&engine, 5, 7, 9, true, false, 1, &seconds));
    CHECK_FAILS(PF_EINVAL, pf_bench_gemm(&engine, 0, 1, 1, false, false, 1, &seconds));
    CHECK_FAILS(PF_EINVAL, pf_bench_gemm(&engine, 1, 1, 1, false, false, 0, &seconds));
    CHECK_FAILS(PF_ENOMEM, pf_bench_gemm(&engine, (int64_t)1 << 40, (int64_t)1 << 40, 1, false,
                                         false, 1, &seconds));
    CHECK(pf_heap_live(engine.heap) == 0);
    pf_runtime_close(&engine);
}

int main(void) {
    const int sizes[] = {1, 2, 3, 5, 8, 17, 31, 64, 67};
    draw(a_, FLOATS, 1);
    draw(b_, FLOATS, 2);
    for (int i = 0; i < PF_COUNT(sizes); i++)
        for (int j = 0; j < PF_COUNT(sizes); j++)
            for (int turns = 0; turns < 4; turns++) {
                const int m = sizes[i], n = sizes[j], k = sizes[(i + 2 * j) % PF_COUNT(sizes)];
                check_product(turns & 1, turns >> 1, m, n, k, (i + j) % 2 ? 3 : 0);
            }
    check_product(false, false, 0, 5, 5, 0);
    check_product(false, false, 5, 0, 5, 1);
    check_product(false, true, 5, 7, 0, 1); /* k 0 scales C, or clears it */
    check_blocks();
    check_long_stride();
    check_bench();
    CHECK(pf_blas_config()[0] != 0);
    return CHECK_REPORT();
}
