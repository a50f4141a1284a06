/*
 * encoder.h - rows through a feature map and gradients back: the one way, for the operator,
 * the step of a stream, sets of items, weights, log-partitions and fingerprints alike, so that
 * a feature means the same everywhere.
 *
 * An encoding is a kernel as loops see it: sizes and pointers, for all heads. An encoder is one
 * head of it with its work space. Rows come scaled (x = scale q), with half = |x|^2 / 2.
 */
#ifndef PF_ENCODER_H
#define PF_ENCODER_H

#include "kernel.h"
#include "projector.h"

typedef struct pf_encoding {
    const pf_kern *kern;
    const pf_map *map;
    pf_map_args args; /* of a head without a tilt */
    int64_t d, m, r;
    float scale;
    bool projected;
    const float *w;       /* (m, d) or (heads, m, d) */
    int64_t w_head;       /* stride between heads, 0 when shared */
    const float *factors; /* of a Hadamard product, (blocks, rounds + 1, d) a head; NULL */
    int64_t factors_head;
    const float *tilts; /* (heads), of tilted maps; NULL: the number `tilt` for all */
    pf_numbers numbers;
} pf_encoding;

/* scale, args and r, of the map, the sizes and the numbers that are there. */
void pf_encoding_settle(pf_encoding *encoding);
/* Of a bound kernel, whose tensors must stay. */
void pf_encoding_of(pf_encoding *encoding, const pf_kernel *kernel, const pf_kern *kern);
/* Rows that are features already, times `scale`. */
void pf_encoding_given(pf_encoding *encoding, const pf_kern *kern, int64_t r, float scale);

/* What an encoder is for. */
enum {
    PF_ENCODE_PULL = 1, /* gradients too */
    PF_ENCODE_MANY = 2, /* many blocks: the projection is packed once for all of them */
    PF_ENCODE_ONE = 4   /* lone rows: reads W as it lies */
};

typedef struct pf_encoder {
    const pf_encoding *of;
    pf_map_args args; /* of this head */
    unsigned use;
    const float *w; /* (m, d) of this head; NULL: not projected */
    pf_projector projector;
    float *bias, *strips; /* of a tilt; of the packed projection */
    float *u;             /* (rows, m): projected again, for maps whose pull reads it */
} pf_encoder;

/* What pf_encoder_open takes of the scratch; rows: of the largest block. */
size_t pf_encoder_bytes(const pf_encoding *encoding, int64_t rows, unsigned use);
/* panel (PF_PANEL) is the caller's. */
void pf_encoder_open(pf_encoder *e, const pf_encoding *encoding, int64_t head, int64_t rows,
                     unsigned use, float *panel, void **scratch);
/* f (rows, r) and shift (rows) of x (rows, d), scaled. */
void pf_encode(const pf_encoder *e, pf_side side, int64_t rows, const float *x, const float *half,
               float *f, float *shift);
/* df (rows, r) + c z^T is dLoss/dfeatures of f, made of x (rows, d): x <- dLoss/dx. df and coef
 * (rows) are work space afterwards; c (rows) and z (r), or both NULL. */
void pf_encode_pull(const pf_encoder *e, pf_side side, int64_t rows, const float *f, const float *c,
                    const float *z, float *df, float *coef, float *x);

#endif
