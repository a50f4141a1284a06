/*
 * encoded.h - a block of chosen rows of one head, loaded and through the feature map: what items,
 * weights and log-partitions do with rows. The encoder is the operator's own (encoder.h).
 */
#ifndef PF_ENCODED_H
#define PF_ENCODED_H

#include "encoder.h"

enum { PF_ENCODED_BLOCK = 128 }; /* rows that a product takes */

typedef struct pf_encoded {
    pf_encoder encoder;
    float *x, *half, *f, *shift, *panel; /* (rows, d) scaled, (rows), (rows, r), (rows) */
    float *df, *coef;                    /* (rows, r), (rows): for the way back */
    int64_t rows;                        /* that the products of this block take */
} pf_encoded;

/* What a head's block takes of the scratch; `backward`: to pull gradients too. */
size_t pf_encoded_bytes(const pf_encoding *encoding, bool backward);
void pf_encoded_open(pf_encoded *block, const pf_encoding *encoding, int64_t head, bool backward,
                     void **scratch);
/* Loads n <= PF_ENCODED_BLOCK rows of x, scaled: row i is at[first + i], or first + i with at
 * NULL. Rows past the end become 0. */
void pf_encoded_load(pf_encoded *block, const float *x, int64_t stride, const int64_t *at,
                     int64_t first, int64_t n);
/* The same, and encodes them. */
void pf_encoded_fill(pf_encoded *block, pf_side side, const float *x, int64_t stride,
                     const int64_t *at, int64_t first, int64_t n);
/* block->df holds dLoss/dfeatures of the n encoded rows -> to (n rows, d; stride). */
void pf_encoded_pull(pf_encoded *block, pf_side side, int64_t n, float *to, int64_t stride);

#endif
