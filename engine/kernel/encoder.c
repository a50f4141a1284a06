/*
 * encoder.c - see encoder.h. What must hold: the bits of a row's features do not depend on the
 * rows beside it, and the matrix or the factors are taken by what the encoder was opened for,
 * never by how many rows a call brings.
 */
#include <math.h>
#include <string.h>

#include "encoder.h"

void pf_encoding_settle(pf_encoding *n) {
    n->scale = (float)pf_map_scale(n->map, n->numbers.scale, n->d);
    n->args = pf_map_args_of(n->map, n->kern, n->m, &n->numbers);
    n->r = n->args.r;
}

/* Strides between heads are 0 where all share one projection. */
void pf_encoding_of(pf_encoding *n, const pf_kernel *kernel, const pf_kern *kern) {
    const pf_kernel_spec *spec = &kernel->spec;
    const pf_tensor *W = kernel->projection, *factors = kernel->factors;
    *n = (pf_encoding){.kern = kern,
                       .map = spec->map,
                       .d = spec->head_dim,
                       .m = W ? W->shape[W->rank - 2] : spec->head_dim,
                       .projected = W != NULL,
                       .numbers = spec->numbers};
    pf_encoding_settle(n);
    if (W) n->w = pf_f32(W);
    if (W && W->rank == 3) n->w_head = n->m * n->d;
    if (factors) n->factors = pf_f32(factors);
    if (factors && factors->rank == 4) n->factors_head = factors->stride[0];
    if (kernel->tilts) n->tilts = pf_f32(kernel->tilts);
}

void pf_encoding_given(pf_encoding *n, const pf_kern *kern, int64_t r, float scale) {
    *n = (pf_encoding){.kern = kern, .map = &pf_map_given, .d = r, .m = r, .r = r, .scale = scale};
    n->args = pf_map_args_of(n->map, kern, r, &n->numbers);
}

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* Cuts the work space, and opens the projector; with e->w NULL both only measure. */
static void carve_all(pf_encoder *e, const pf_encoding *n, int64_t rows, const float *factors,
                      float *panel, void **scratch) {
    bool pull = e->use & PF_ENCODE_PULL, one = e->use & PF_ENCODE_ONE;
    e->bias = n->map->tilted ? carve(scratch, n->m) : NULL;
    e->u = pull && n->map->needs_u && n->projected ? carve(scratch, rows * n->m) : NULL;
    if (!n->projected || one) return;
    e->strips = e->use & PF_ENCODE_MANY ? carve(scratch, pf_packed_floats(n->m, n->d)) : NULL;
    pf_projector_open(&e->projector, n->kern, n->m, n->d, e->w, factors, panel, scratch);
}

size_t pf_encoder_bytes(const pf_encoding *n, int64_t rows, unsigned use) {
    pf_encoder e = {.use = use};
    void *end = NULL;
    carve_all(&e, n, rows, n->factors, NULL, &end);
    return (size_t)(uintptr_t)end;
}

/* Cut before it is filled: what pf_encoder_bytes measured is what is cut here. */
void pf_encoder_open(pf_encoder *e, const pf_encoding *n, int64_t head, int64_t rows, unsigned use,
                     float *panel, void **scratch) {
    *e = (pf_encoder){.of = n, .args = n->args, .use = use};
    e->w = n->projected ? n->w + head * n->w_head : NULL;
    const float *factors = n->factors ? n->factors + head * n->factors_head : NULL;
    carve_all(e, n, rows, factors, panel, scratch);
    if (e->strips) pf_projector_pack(&e->projector, e->strips);
    if (!n->map->tilted) return;
    double tilt = n->tilts ? (double)n->tilts[head] : n->numbers.tilt;
    pf_map_tilt(&e->args, tilt, e->w, n->d, e->bias);
}

/* u (rows, m; ldu) <- x W^T, or x itself. */
static void project(const pf_encoder *e, int64_t rows, const float *x, float *u, int64_t ldu) {
    const pf_encoding *n = e->of;
    for (int64_t i = 0; !e->w && i < rows; i++) {
        memcpy(u + i * ldu, x + i * n->d, (size_t)n->d * sizeof(float));
    }
    if (!e->w) return;
    if (!(e->use & PF_ENCODE_ONE)) {
        pf_project(&e->projector, rows, x, u, ldu);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        n->kern->gemv(n->m, n->d, e->w, n->d, x + i * n->d, NULL, u + i * ldu);
    }
}

void pf_encode(const pf_encoder *e, pf_side side, int64_t rows, const float *x, const float *half,
               float *f, float *shift) {
    project(e, rows, x, f, e->of->r);
    e->of->map->encode(&e->args, side, rows, e->of->r, f, half, shift);
}

/* The projected rows again, for maps whose derivative can't be read off the features. */
static const float *input_of(const pf_encoder *e, int64_t rows, const float *x) {
    if (!e->of->map->needs_u) return NULL;
    if (!e->w) return x;
    project(e, rows, x, e->u, e->of->m);
    return e->u;
}

/* dx = (dLoss/du) W + coef x, where x holds the row that it was made of until the last step. */
void pf_encode_pull(const pf_encoder *e, pf_side side, int64_t rows, const float *f, const float *c,
                    const float *z, float *df, float *coef, float *x) {
    const pf_encoding *n = e->of;
    float one = 1;
    n->map->pull(&e->args, side, rows, n->r, f, input_of(e, rows, x), c, z, df, coef);
    n->kern->rows_scale(rows, n->d, coef, 1, x, n->d, false, x, n->d);
    if (e->w) {
        pf_project_back(&e->projector, rows, df, n->r, x);
    } else {
        n->kern->rows_scale(rows, n->d, &one, 0, df, n->r, true, x, n->d);
    }
}
