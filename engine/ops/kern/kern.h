/*
 * kern.h - the table of SIMD kernels: pointers and lengths only, no tensor, no allocation,
 * no error. kern_{body,unary,reduce,rows}.c hold every body once, in the verbs of vec.h, and
 * are compiled for generic C, AVX2+FMA and AVX-512; kern_select.c picks. Unless a line says
 * otherwise pointers may be unaligned, runs are contiguous, and in-place (y == x) is allowed.
 *
 * Each element's bits depend on its own inputs only, never on its place in the run: tails
 * go through the same vector code as whole vectors. Reductions add in a fixed order that
 * depends on n only. Levels may differ in the last bits from each other.
 */
#ifndef PF_KERN_H
#define PF_KERN_H

#include "runtime.h"

typedef enum {
    PF_UNARY_NEG,
    PF_UNARY_EXP,
    PF_UNARY_LOG,
    PF_UNARY_SQRT,
    PF_UNARY_SQUARE,
    PF_UNARY_TANH,
    PF_UNARY_SIGMOID,
    PF_UNARY_RELU,
    PF_UNARY_REQU,
    PF_UNARY_GELU,
    PF_UNARY_GELU_TANH,
    PF_UNARY_SILU,
    PF_UNARY_ELU,
    PF_UNARY_ABS,
    PF_UNARY_COS,
    PF_UNARY_SIN,
    PF_UNARY_COUNT
} pf_unary;

typedef enum {
    PF_BINARY_ADD,
    PF_BINARY_SUB,
    PF_BINARY_MUL,
    PF_BINARY_DIV,
    PF_BINARY_POW,
    PF_BINARY_MAX,
    PF_BINARY_MIN,
    PF_BINARY_COUNT
} pf_binary;

/* block_gemm's work space: a few panels of B, two of the widest vectors wide and as deep as one
 * pass over k, and as many rows of A. */
enum { PF_PANEL_DEPTH = 512, PF_PANELS = 4, PF_PACK_ROWS = 512 };
/* In floats: for every product, and for those of at most m rows and depth k. */
enum { PF_PANEL = (32 * PF_PANELS + PF_PACK_ROWS) * PF_PANEL_DEPTH + 16 };
static inline int64_t pf_panel_floats(int64_t m, int64_t k) {
    return ((int64_t)32 * PF_PANELS + pf_min(m, PF_PACK_ROWS)) * pf_min(k, PF_PANEL_DEPTH) + 16;
}

/* A block of a Hadamard product (attention/hadamard.c): rounds of Walsh-Hadamard transforms of
 * `window` entries, a power of two, from the first on in even rounds and to the last in odd
 * ones. Input i of a round is weight[i] times entry place[i] (NULL: i, where window is d). */
typedef struct pf_hadamard {
    int64_t d, window;
    int rounds;
    const float *weight;  /* (rounds + 1, d): of the inputs, and of the block's outputs */
    const int32_t *place; /* (rounds, d) */
} pf_hadamard;
enum { PF_HADAMARD_PANEL = 3 * 16 }; /* work space: floats a channel, three wide vectors */

typedef struct pf_kern {
    const char *name; /* "generic", "avx2", "avx512" */

    /* y[i] = f(x[i]). Bounds in ulp: exp, log, elu 1; tanh 2; sigmoid, silu, cos, sin 3;
     * gelu 4 (5 without FMA), all in the tails too; gelu_tanh 4, but 6 |u| ulp in its lower
     * tail (u: the argument of tanh). sigmoid, silu, gelu fade to 0 below 1e-38. */
    void (*unary)(pf_unary f, int64_t n, const float *x, float *y);
    /* dx[i] += dy[i] * f'(x[i]) (y[i] = f(x[i]) is given too; either may be used). */
    void (*unary_grad)(pf_unary f, int64_t n, const float *x, const float *y, const float *dy,
                       float *dx);
    /* y[i] = f(a[i*sa], b[i*sb]); sa, sb are 0 or 1. */
    void (*binary)(pf_binary f, int64_t n, const float *a, int64_t sa, const float *b, int64_t sb,
                   float *y);

    float (*sum)(int64_t n, const float *x);
    float (*max)(int64_t n, const float *x); /* -inf for n = 0; NaN if any is NaN */
    float (*dot)(int64_t n, const float *a, const float *b);
    float (*sumsq)(int64_t n, const float *x);
    double (*sumsq_double)(int64_t n, const float *x);          /* for gradient norms */
    void (*axpy)(int64_t n, float a, const float *x, float *y); /* y += a x */
    /* to = y + a x, with the bits of axpy */
    void (*axpy_to)(int64_t n, float a, const float *x, const float *y, float *to);
    void (*scale)(int64_t n, float a, const float *x, float *y);           /* y = a x */
    void (*affine)(int64_t n, float a, float b, const float *x, float *y); /* y = a x + b */
    void (*fma)(int64_t n, const float *a, const float *b, float *y);      /* y += a * b */
    void (*fill)(int64_t n, float value, float *y);

    /* Row of n: y = softmax(x); returns log-sum-exp. All -inf: y = 0, returns -inf. */
    float (*softmax)(int64_t n, const float *x, float *y);
    /* Returns log-sum-exp only. */
    float (*logsumexp)(int64_t n, const float *x);
    /* dx += y * (dy - sum(dy * y)) */
    void (*softmax_grad)(int64_t n, const float *y, const float *dy, float *dx);

    /* Row norms. layernorm: y = (x - mean) * rstd * w + b (w, b may be NULL); writes mean, rstd.
     * rmsnorm: y = x * rrms * w. The backward adds to dx; dw, db (may be NULL) are added to. */
    void (*layernorm)(int64_t n, float eps, const float *x, const float *w, const float *b,
                      float *y, float *mean, float *rstd);
    void (*layernorm_grad)(int64_t n, const float *x, const float *w, float mean, float rstd,
                           const float *dy, float *dx, float *dw, float *db);
    void (*rmsnorm)(int64_t n, float eps, const float *x, const float *w, float *y, float *rrms);
    void (*rmsnorm_grad)(int64_t n, const float *x, const float *w, float rrms, const float *dy,
                         float *dx, float *dw);

    /* FAVOR+ rows (attention/map_softmax.c): u (n, m) with stride ld, in place.
     * For each row i: t = max_a u[i][a]; u[i][a] = exp(u[i][a] - t); shift[i] = t - half[i]
     * (half = |x|^2 / 2; NULL: 0). A row with a NaN or +inf becomes NaN, shift too; -inf gives
     * 0, and a row of nothing else gives 0 with shift -inf. */
    void (*softmax_features)(int64_t n, int64_t m, int64_t ld, float *u, const float *half,
                             float *shift);
    /* df[i][a] = (df[i][a] + c[i] z[a]) f[i][a], or without z (m) where c is NULL;
     * rowsum[i] = sum_a df[i][a] (after), by `sum`. */
    void (*features_pull)(int64_t n, int64_t m, int64_t ld, const float *f, const float *c,
                          const float *z, float *df, float *rowsum);
    /* Rows of d, each with a factor c[i * step] (step 0: one for all).
     * rows_scale: y_i = c x_i, or add: y_i += c x_i, product and sum rounded.
     * rows_load: y (n, d) = c x_i, half[i] = |y_i|^2 / 2.
     * rows_weigh: y (n, d) = c x_i, dots[i] = -y_i . z_i. */
    void (*rows_scale)(int64_t n, int64_t d, const float *c, int64_t step, const float *x,
                       int64_t ldx, bool add, float *y, int64_t ldy);
    void (*rows_load)(int64_t n, int64_t d, float c, const float *x, int64_t ldx, float *y,
                      float *half);
    void (*rows_weigh)(int64_t n, int64_t d, const float *c, const float *x, int64_t ldx,
                       const float *z, int64_t ldz, float *y, float *dots);
    /* y (n) = F z for rows of F (n, m), and y (m) += sum_i w[i] F[i] (w NULL: 1). */
    void (*rows_dot)(int64_t n, int64_t m, int64_t ld, const float *f, const float *z, float *y);
    void (*rows_sum)(int64_t n, int64_t m, int64_t ld, const float *f, const float *w, float *y);

    /* Decode: y (n) = W (n, k) x, each row by `dot`; y[j] = W[j] . x (+ b[j] if b). */
    void (*gemv)(int64_t n, int64_t k, const float *w, int64_t ld, const float *x, const float *b,
                 float *y);

    /* C (m, n; ldc) = op(A) op(B) + beta C for blocks that lie in the caches (ta: A is stored
     * (k, m); tb: B is stored (n, k)). An element is one chain of multiply-adds over k, in
     * order: its bits depend on its row of A and column of B alone, whatever the shape.
     * `panel` is work space of pf_panel_floats(m, k). beta 0 never reads C. NULL: use the BLAS. */
    void (*block_gemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                       int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc,
                       float *panel);

    /* y (n, m; ldy) = x (n, d; ldx) W^T and x += y W, for W (m, d) the first m rows of `blocks`:
     * O(m log d) a row. */
    void (*hadamard)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *x, int64_t ldx,
                     float *y, int64_t ldy, float *panel);
    void (*hadamard_back)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *y,
                          int64_t ldy, float *x, int64_t ldx, float *panel);

    /* AdamW on n elements: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
     * p -= lr * (m*c1 / (sqrt(v*c2) + eps) + decay * p), g scaled by gscale first. */
    void (*adamw)(int64_t n, float *p, const float *g, float *m, float *v, float gscale, float lr,
                  float b1, float b2, float eps, float decay, float c1, float c2);
    /* Rotate pairs: x (n) as n/2 pairs; cs holds cos, sn sin (n/2). pairs: neighbours
     * (2i, 2i+1) or halves (i, i + n/2). sign -1 rotates back. y = rotated x. */
    void (*rotary)(int64_t n, bool halves, const float *x, const float *cs, const float *sn,
                   float sign, float *y);
    /* Dropout by random words: y[i] = words[i] >= cut ? x[i] * factor : 0. */
    void (*dropout)(int64_t n, const uint32_t *words, uint32_t cut, float factor, const float *x,
                    float *y);
} pf_kern;

/* The table of a level, or NULL when it was not compiled in. */
const pf_kern *pf_kern_table(pf_cpu level);

#endif
