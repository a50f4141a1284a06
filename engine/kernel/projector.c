/*
 * projector.c - blocks of rows times a projection (paper, section 2.4 and B.2).
 *
 * Three ways to u = x W^T, of which a projector has one:
 *
 *     blocks          the factors of a Hadamard product, O(m log d) a row
 *     packed.strips   W laid out once as products read it, for many blocks of rows
 *     otherwise       W as it lies
 *
 * The matrix W says what a projection is; the factors of a Hadamard product are a faster way
 * to the same numbers. So each time they are opened their product with one vector is held
 * against W's, row by row: a projection that was set from outside makes its factors stale,
 * and then counts as it stands. The check costs as much as half a row of queries.
 *
 * Which of the first and the others is taken depends on m, d and the factors, never on how many
 * rows there are, and every way gives a row the same bits whatever stands beside it. The matrix's
 * two ways give the same bits; the factors' are others, within rounding.
 */
#include <math.h>
#include <string.h>

#include "projector.h"

/* Measured (DIARY.md): at d = 32 both ways cost the same, from d = 64 on the
 * factors win by a factor of 2 and more; a lone short block wastes what it does not use. */
enum { WORTH_D = 64 };

bool pf_projector_factored(int64_t m, int64_t d) {
    return d >= WORTH_D && pf_hadamard_blocks(m, d) * d <= 2 * m;
}

/* One block's factors as the kernels take them: a weight for every entry of every round, and the
 * place that it is read from. A factor is a signed place (projection.h): its sign goes to the
 * weight, which is +-1. The kernels' transform has no 1 / sqrt(window): the weights that come after
 * it have, of entries that it was about. The last row, the lengths, is weights alone. */
static void fill_block(int64_t d, const float *factors, float *weight, int32_t *place,
                       pf_hadamard *block) {
    int rounds = pf_hadamard_rounds(d);
    int64_t first = 0, window = pf_hadamard_window(d, 0, &first);
    float size = (float)(1 / sqrt((double)window));
    int64_t from = 0, to = 0; /* entries that the round before transformed */
    for (int t = 0; t <= rounds; t++) {
        for (int64_t i = 0; i < d; i++) {
            float entry = factors[t * d + i];
            int64_t at = t < rounds ? (int64_t)fabsf(entry) - 1 : i;
            float w = t < rounds ? copysignf(1, entry) : entry;
            weight[t * d + i] = at >= from && at < to ? w * size : w;
            if (t < rounds) place[t * d + i] = (int32_t)at;
        }
        window = pf_hadamard_window(d, t, &from);
        to = from + window;
    }
    *block = (pf_hadamard){d, window, rounds, weight, window == d ? NULL : place};
}

/* Places outside 0 .. d - 1 would be read: factors come from files too. */
static bool places_are_good(int64_t n, int64_t d, const float *factors) {
    int rounds = pf_hadamard_rounds(d);
    for (int64_t b = 0; b < n; b++, factors += (rounds + 1) * d) {
        for (int64_t i = 0; i < rounds * d; i++) {
            float at = fabsf(factors[i]);
            if (!(at >= 1 && at <= (float)d && at == floorf(at))) return false;
        }
    }
    return true;
}

/* Whether the factors give w: their product with one vector, x (d), y and z (m), within what float
 * rounds. The vector has no two entries alike, so that rows out of order are told too. A NaN in w
 * agrees with nothing. */
static bool agrees(const pf_projector *p, float *x, float *y, float *z) {
    for (int64_t i = 0; i < p->d; i++) x[i] = (float)cos(1.0 + (double)(i * i));
    p->kern->rows_dot(p->m, p->d, p->d, p->w, x, y);
    p->kern->hadamard(p->blocks, p->m, 1, x, p->d, z, p->m, p->lanes);
    float limit = 1e-5f * sqrtf(p->kern->sumsq(p->d, x));
    for (int64_t a = 0; a < p->m; a++) {
        float length = sqrtf(p->kern->sumsq(p->d, p->w + a * p->d));
        if (!(fabsf(y[a] - z[a]) <= limit * length)) return false;
    }
    return true;
}

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* Measuring (w NULL) it must cut what opening would, so the check of the factors comes last. Places
 * are looked at before any is read. */
void pf_projector_open(pf_projector *p, const pf_kern *kern, int64_t m, int64_t d, const float *w,
                       const float *factors, float *panel, void **scratch) {
    int64_t n = pf_hadamard_blocks(m, d);
    int rounds = pf_hadamard_rounds(d);
    *p = (pf_projector){.kern = kern, .m = m, .d = d, .w = w, .panel = panel};
    if (!factors || !pf_projector_factored(m, d)) return;
    float *weight = carve(scratch, n * (rounds + 1) * d);
    int32_t *place = pf_carve(scratch, (size_t)(n * rounds * d) * sizeof(int32_t));
    pf_hadamard *blocks = pf_carve(scratch, (size_t)n * sizeof *blocks);
    float *x = carve(scratch, d), *y = carve(scratch, m), *z = carve(scratch, m);
    p->lanes = carve(scratch, PF_HADAMARD_PANEL * d);
    if (!w || !places_are_good(n, d, factors)) return;
    for (int64_t b = 0; b < n; b++) {
        fill_block(d, factors + b * (rounds + 1) * d, weight + b * (rounds + 1) * d,
                   place + b * rounds * d, &blocks[b]);
    }
    p->blocks = blocks;
    if (!agrees(p, x, y, z)) p->blocks = NULL;
}

/* Factors are as fast for few rows as for many. */
void pf_projector_pack(pf_projector *p, float *strips) {
    if (p->blocks) return;
    p->packed = (pf_packed){.n = p->m, .k = p->d, .strips = strips};
    pf_pack(&p->packed, p->w);
}

void pf_project(const pf_projector *p, int64_t n, const float *x, float *u, int64_t ldu) {
    if (p->blocks) {
        p->kern->hadamard(p->blocks, p->m, n, x, p->d, u, ldu, p->lanes);
    } else if (p->packed.strips) {
        pf_packed_gemm(p->kern, &p->packed, n, x, p->d, u, ldu, p->panel);
    } else {
        pf_block_gemm(p->kern, false, true, n, p->m, p->d, x, p->d, p->w, p->d, 0, u, ldu,
                      p->panel);
    }
}

/* The transpose; packed strips are for one direction only. */
void pf_project_back(const pf_projector *p, int64_t n, const float *u, int64_t ldu, float *x) {
    if (p->blocks) {
        p->kern->hadamard_back(p->blocks, p->m, n, u, ldu, x, p->d, p->lanes);
    } else {
        pf_block_gemm(p->kern, false, false, n, p->d, p->m, u, ldu, p->w, p->d, 1, x, p->d,
                      p->panel);
    }
}
