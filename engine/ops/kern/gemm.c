/*
 * gemm.c - matrix products by the BLAS. What must hold: the BLAS counts in 32 bits, so
 * larger problems are cut until they fit; nothing here touches its thread settings.
 */
#include "gemm.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "blas.h"

/* C (m, n; ldc) *= beta, where 0 overwrites. */
static void scale_rows(int64_t m, int64_t n, float beta, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++) {
        float *row = c + i * ldc;
        if (beta == 0.0f)
            memset(row, 0, (size_t)n * sizeof *row);
        else
            for (int64_t j = 0; j < n; j++) row[j] *= beta;
    }
}

/* A stored matrix whose row stride is too long for the BLAS must come a row at a time. */
static bool must_cut(int64_t rows, int64_t size, int64_t ld) {
    return size > INT_MAX || (size > 1 && rows > 1 && ld > INT_MAX);
}

/* A stride the BLAS accepts: of a single row it is never used. */
static int blas_stride(int64_t rows, int64_t columns, int64_t ld) {
    return (int)(rows > 1 ? ld : pf_max(columns, 1));
}

/* Without a BLAS no sum is known; what nobody can take for one says so. */
static void spoil_rows(int64_t m, int64_t n, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] = NAN;
}

void pf_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
             int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (k <= 0) {
        scale_rows(m, n, beta, c, ldc);
        return;
    }
    const pf_blas *blas = pf_blas_get();
    if (!blas) {
        spoil_rows(m, n, c, ldc);
        return;
    }
    const int64_t a_rows = ta ? k : m, b_rows = tb ? n : k;
    if (must_cut(m, m, ldc) || (!ta && must_cut(a_rows, m, lda))) {
        const int64_t h = m / 2;
        pf_gemm(ta, tb, h, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        pf_gemm(ta, tb, m - h, n, k, alpha, a + (ta ? h : h * lda), lda, b, ldb, beta, c + h * ldc,
                ldc);
    } else if (n > INT_MAX || (tb && must_cut(b_rows, n, ldb))) {
        const int64_t h = n / 2;
        pf_gemm(ta, tb, m, h, k, alpha, a, lda, b, ldb, beta, c, ldc);
        pf_gemm(ta, tb, m, n - h, k, alpha, a, lda, b + (tb ? h * ldb : h), ldb, beta, c + h, ldc);
    } else if (k > INT_MAX || (ta && must_cut(a_rows, k, lda)) ||
               (!tb && must_cut(b_rows, k, ldb))) {
        const int64_t h = k / 2;
        pf_gemm(ta, tb, m, n, h, alpha, a, lda, b, ldb, beta, c, ldc);
        pf_gemm(ta, tb, m, n, k - h, alpha, a + (ta ? h * lda : h), lda, b + (tb ? h : h * ldb),
                ldb, 1.0f, c, ldc);
    } else {
        blas->sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                    (int)m, (int)n, (int)k, alpha, a, blas_stride(a_rows, ta ? m : k, lda), b,
                    blas_stride(b_rows, tb ? k : n, ldb), beta, c, blas_stride(m, n, ldc));
    }
}

/* ---- the yardstick ------------------------------------------------------------ */

typedef struct {
    int64_t m, n, k;
    bool ta, tb;
    int repeats;
    float *a, *b, *c;
    double *seconds; /* (repeats) */
} bench;

static void bench_task(void *context, int64_t task, void *scratch) {
    (void)task, (void)scratch;
    const bench *s = context;
    const int64_t lda = s->ta ? s->m : s->k, ldb = s->tb ? s->k : s->n;
    for (int i = -1; i < s->repeats; i++) { /* -1: the warm-up */
        const double start = pf_clock();
        pf_gemm(s->ta, s->tb, s->m, s->n, s->k, 1.0f, s->a, lda, s->b, ldb, 0.0f, s->c, s->n);
        if (i >= 0) s->seconds[i] = pf_clock() - start;
    }
}

/* Sorts by insertion (repeats are few); the middle, or the mean of the two middle ones. */
static double median(double *x, int n) {
    for (int i = 1; i < n; i++) {
        const double v = x[i];
        int j = i;
        for (; j > 0 && x[j - 1] > v; j--) x[j] = x[j - 1];
        x[j] = v;
    }
    return (x[(n - 1) / 2] + x[n / 2]) / 2.0;
}

/* Floats of an (r, c) matrix in bytes; false if they don't fit. */
static bool matrix_bytes(int64_t r, int64_t c, size_t *bytes) {
    size_t count;
    return pf_mul_size((size_t)r, (size_t)c, &count) && pf_mul_size(count, sizeof(float), bytes);
}

int pf_bench_gemm(pf_engine *engine, int64_t m, int64_t n, int64_t k, bool ta, bool tb, int repeats,
                  double *seconds) {
    PF_OPEN(engine);
    PF_NEED(seconds);
    size_t bytes_a, bytes_b, bytes_c;
    if (m < 1 || n < 1 || k < 1 || repeats < 1 || repeats > 10000)
        return pf_fail(PF_EINVAL,
                       "bench_gemm: m, n, k are %lld, %lld, %lld and repeats %d; sizes are from 1 "
                       "on, repeats from 1 to 10000",
                       (long long)m, (long long)n, (long long)k, repeats);
    if (!matrix_bytes(m, k, &bytes_a) || !matrix_bytes(k, n, &bytes_b) ||
        !matrix_bytes(m, n, &bytes_c))
        return pf_fail(PF_ENOMEM, "bench_gemm: a matrix does not fit in memory");
    PF_TRY(pf_blas_need());

    const size_t bytes_times = (size_t)repeats * sizeof(double);
    bench s = {.m = m, .n = n, .k = k, .ta = ta, .tb = tb, .repeats = repeats};
    s.a = pf_heap_alloc(engine->heap, bytes_a);
    s.b = s.a ? pf_heap_alloc(engine->heap, bytes_b) : NULL;
    s.c = s.b ? pf_heap_alloc(engine->heap, bytes_c) : NULL;
    s.seconds = s.c ? pf_heap_alloc(engine->heap, bytes_times) : NULL;
    int status = PF_ENOMEM; /* pf_heap_alloc has left the message */
    if (s.seconds) {
        const pf_rng rng = pf_rng_make(1, PF_DRAW_USER, 0, 0);
        pf_rng_fill_uniform(&rng, 0, m * k, s.a);
        pf_rng_fill_uniform(&rng, (uint64_t)(m * k), k * n, s.b);
        status = pf_parallel(engine, 1, 0, bench_task, &s);
        if (status >= 0) *seconds = median(s.seconds, repeats);
        pf_heap_free(engine->heap, s.seconds, bytes_times);
    }
    if (s.c) pf_heap_free(engine->heap, s.c, bytes_c);
    if (s.b) pf_heap_free(engine->heap, s.b, bytes_b);
    if (s.a) pf_heap_free(engine->heap, s.a, bytes_a);
    return status;
}
