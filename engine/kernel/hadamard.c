/*
 * hadamard.c - rows whose product with a vector takes O(d log d) (paper, B.2: H-ORF).
 *
 * A block of d rows is M = T_R P_R D_R ... T_1 P_1 D_1 with random signs D and, with H the
 * Walsh-Hadamard matrix of size p = the largest power of two in d,
 *
 *     d = p:  R = 3, T = H / sqrt(p), no permutation P
 *     d > p:  R = 6, T acts on the first p entries, then on the last p, in turn, and before
 *             each of the first kind a random permutation P says which entries those are
 *
 * so M is orthogonal for every d. With D_1 (and P_1) a row's mean is 0 and its covariance
 * I / d exactly, for each row and any d; the fourth moments are those of the sphere but for a
 * share of O(1 / d^2) along the axes (measured: 3 % at d = 8, under 2 % from d = 16 on), and
 * with them the estimate's bias. Without permutations, or signs between the two windows,
 * some rows would stay near an axis.
 *
 * With d = 6, p = 4: rounds 1, 3, 5 transform entries 0 .. 3 after a permutation, rounds 2, 4, 6
 * entries 2 .. 5. Entries 2 and 3, which both windows have, carry what one knows to the other.
 *
 * A draw and its bits are fixed for good: files keep seeds, and projections must come back. Words
 * of the stream are taken one a sign, two a swap of a permutation, from an even one on.
 */
#include <math.h>
#include <string.h>

#include "projection.h"

/* p, the largest power of two in d. */
static int64_t window_size(int64_t d) {
    int64_t p = 1;
    while (2 * p <= d) p *= 2;
    return p;
}

int pf_hadamard_rounds(int64_t d) { return window_size(d) == d ? 3 : 6; }

/* In turn at the beginning and at the end; where p is d they are one. */
int64_t pf_hadamard_window(int64_t d, int round, int64_t *first) {
    int64_t p = window_size(d);
    *first = round % 2 == 0 ? 0 : d - p;
    return p;
}

/* place[i], i < d: a random permutation (Fisher and Yates), shift apart from the signs. */
static void permute(const pf_rng *rng, uint64_t *word, int64_t d, float *rounds) {
    for (int64_t i = d - 1; i > 0; i--) {
        uint64_t j = pf_rng_below(rng, (*word + 1) / 2, (uint64_t)i + 1); /* takes two words */
        *word = ((*word + 1) / 2 + 1) * 2;
        float held = rounds[i];
        rounds[i] = rounds[j];
        rounds[j] = held;
    }
}

/* An entry is 1 + the place that it is read from, so that it has a sign. */
void pf_hadamard_draw(const pf_rng *rng, uint64_t *word, int64_t d, float *rounds) {
    int n = pf_hadamard_rounds(d);
    for (int t = 0; t < n; t++, rounds += d) {
        for (int64_t i = 0; i < d; i++) rounds[i] = (float)(1 + i);
        if (n > 3 && t % 2 == 0) permute(rng, word, d, rounds);
        for (int64_t i = 0; i < d; i++) {
            if (pf_rng_u32(rng, (*word)++) >> 31) rounds[i] = -rounds[i];
        }
    }
}

/* x (p) <- H x / sqrt(p), log2 p passes of sums and differences. */
static void walsh_hadamard(int64_t p, double *x) {
    double size = 1 / sqrt((double)p);
    for (int64_t h = 1; h < p; h *= 2) {
        for (int64_t i = 0; i < p; i += 2 * h) {
            for (int64_t j = i; j < i + h; j++) {
                double sum = x[j] + x[j + h], difference = x[j] - x[j + h];
                x[j] = sum;
                x[j + h] = difference;
            }
        }
    }
    for (int64_t i = 0; i < p; i++) x[i] *= size;
}

/* Row a is M^T e_a: the rounds backwards, each T its own transpose. */
void pf_hadamard_row(const float *rounds, int64_t d, int64_t a, double *row, double *spare) {
    memset(row, 0, (size_t)d * sizeof *row);
    row[a] = 1;
    for (int t = pf_hadamard_rounds(d) - 1; t >= 0; t--) {
        int64_t first, p = pf_hadamard_window(d, t, &first);
        walsh_hadamard(p, row + first);
        for (int64_t i = 0; i < d; i++) {
            float signed_place = rounds[t * d + i];
            int64_t j = (int64_t)fabsf(signed_place) - 1;
            spare[j] = signed_place < 0 ? -row[i] : row[i];
        }
        memcpy(row, spare, (size_t)d * sizeof *row);
    }
}
