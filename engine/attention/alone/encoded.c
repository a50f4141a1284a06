/*
 * encoded.c - see encoded.h. A row's bits do not depend on the rows beside it: blocks are padded to
 * what products take, and encoded as the operator encodes them.
 */
#include "encoded.h"

#include <string.h>

enum { B = PF_ENCODED_BLOCK };

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* Cuts the work space; with *scratch NULL-based it only measures. */
static void carve_all(pf_encoded *block, const pf_encoding *n, bool backward, void **scratch) {
    block->x = carve(scratch, B * n->d);
    block->half = carve(scratch, B);
    block->f = carve(scratch, B * n->r);
    block->shift = carve(scratch, B);
    block->panel = carve(scratch, PF_PANEL);
    block->df = backward ? carve(scratch, B * n->r) : NULL;
    block->coef = backward ? carve(scratch, B) : NULL;
}

size_t pf_encoded_bytes(const pf_encoding *n, bool backward) {
    pf_encoded block;
    void *end = NULL;
    carve_all(&block, n, backward, &end);
    pf_carve(&end, pf_encoder_bytes(n, B, backward ? PF_ENCODE_PULL : 0));
    return (size_t)(uintptr_t)end;
}

void pf_encoded_open(pf_encoded *block, const pf_encoding *n, int64_t head, bool backward,
                     void **scratch) {
    *block = (pf_encoded){0};
    carve_all(block, n, backward, scratch);
    pf_encoder_open(&block->encoder, n, head, B, backward ? PF_ENCODE_PULL : 0, block->panel,
                    scratch);
}

void pf_encoded_load(pf_encoded *block, const float *x, int64_t stride, const int64_t *at,
                     int64_t first, int64_t n) {
    const pf_encoding *of = block->encoder.of;
    block->rows = pf_block_rows(of->kern, n, B);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = at ? at[first + i] : first + i;
        of->kern->scale(of->d, of->scale, x + row * stride, block->x + i * of->d);
    }
    memset(block->x + n * of->d, 0, (size_t)((block->rows - n) * of->d) * sizeof(float));
}

void pf_encoded_fill(pf_encoded *block, pf_side side, const float *x, int64_t stride,
                     const int64_t *at, int64_t first, int64_t n) {
    const pf_encoding *of = block->encoder.of;
    pf_encoded_load(block, x, stride, at, first, n);
    for (int64_t i = 0; i < block->rows; i++) {
        block->half[i] = 0.5f * of->kern->sumsq(of->d, block->x + i * of->d);
    }
    pf_encode(&block->encoder, side, block->rows, block->x, block->half, block->f, block->shift);
}

/* Rows past the n real ones get no gradient, and give none. */
void pf_encoded_pull(pf_encoded *block, pf_side side, int64_t n, float *to, int64_t stride) {
    const pf_encoding *of = block->encoder.of;
    int64_t d = of->d;
    memset(block->df + n * of->r, 0, (size_t)((block->rows - n) * of->r) * sizeof(float));
    pf_encode_pull(&block->encoder, side, block->rows, block->f, NULL, NULL, block->df, block->coef,
                   block->x);
    for (int64_t i = 0; i < n; i++) {
        of->kern->scale(d, of->scale, block->x + i * d, to + i * stride);
    }
}
