/*
 * projection_rows.c - from Gaussian rows to the unit rows of a block (paper, section 2.4; the
 * simplex after "Simplex Random Features", Reid et al. 2023).
 *
 *     iid          g_i / |g_i|
 *     orthogonal   Gram-Schmidt of the g_i: R-ORF
 *     simplex      sqrt(n / (n - 1)) (q_i - mean of q), q orthogonal: each pair at -1 / (n - 1)
 *     hadamard     T P D, three times over: O(d log d) to apply, see hadamard.c
 *
 * Gram-Schmidt on Gaussian rows, with a positive diagonal, gives a Haar matrix: q and -q are
 * equally likely, which unbiased estimates for +z and -z need. LAPACK's QR keeps a sign
 * convention of its own and does not. A direction depends on the directions of the g_i only,
 * never on their lengths.
 */
#include <math.h>

#include "projection_rows.h"

/* Four sums side by side, added as a tree: one alone waits for itself. */
double pf_dot_double(int64_t n, const double *a, const double *b) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < n; i++) s0 += a[i] * b[i];
    return (s0 + s1) + (s2 + s3);
}

static void unit(int64_t d, double *row) {
    double length = sqrt(pf_dot_double(d, row, row));
    for (int64_t i = 0; i < d; i++) row[i] /= length;
}

/* Takes from row its components along the `rows` unit rows of q (rows, d). Twice, since once
 * loses digits. */
static void orthogonalise(int64_t rows, int64_t d, const double *q, double *row) {
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t j = 0; j < rows; j++) {
            double along = pf_dot_double(d, q + j * d, row);
            for (int64_t i = 0; i < d; i++) row[i] -= along * q[j * d + i];
        }
    }
}

static void gram_schmidt(int64_t n, int64_t d, double *block) {
    for (int64_t a = 0; a < n; a++) {
        orthogonalise(a, d, block, block + a * d);
        unit(d, block + a * d);
    }
}

/* Orthonormal rows (n, d) -> the corners of a regular simplex around their centre. A lone row
 * has none to repel. */
static void simplex(int64_t n, int64_t d, double *block) {
    if (n < 2) return;
    double size = sqrt((double)n / (double)(n - 1));
    for (int64_t i = 0; i < d; i++) {
        double mean = 0;
        for (int64_t a = 0; a < n; a++) mean += block[a * d + i] / (double)n;
        for (int64_t a = 0; a < n; a++) block[a * d + i] = size * (block[a * d + i] - mean);
    }
}

/* Nothing of the Gaussian rows stays but their lengths. work: a row, then the rounds. */
static void hadamard(const pf_rng *rng, uint64_t *word, int64_t n, int64_t d, double *block,
                     double *work) {
    float *rounds = (float *)(void *)(work + d);
    pf_hadamard_draw(rng, word, d, rounds);
    for (int64_t a = 0; a < n; a++) pf_hadamard_row(rounds, d, a, block + a * d, work);
}

void pf_rows_turn(pf_row_kind kind, const pf_rng *rng, uint64_t *word, int64_t n, int64_t d,
                  double *block, double *work) {
    switch (kind) {
    case PF_ROWS_IID:
        for (int64_t a = 0; a < n; a++) unit(d, block + a * d);
        break;
    case PF_ROWS_HADAMARD:
        hadamard(rng, word, n, d, block, work);
        break;
    case PF_ROWS_SIMPLEX:
        gram_schmidt(n, d, block);
        simplex(n, d, block);
        break;
    case PF_ROWS_ORTHOGONAL:
    case PF_ROWS_GIVEN:
        gram_schmidt(n, d, block);
        break;
    }
}
