/*
 * projection.c - drawing the random projections of FAVOR+ (paper, section 2.4 and B.2).
 *
 * Rows come in blocks of head_dim orthogonal ones. Gram-Schmidt on Gaussian rows with a
 * positive diagonal gives a Haar matrix, so E[exp(w.x - |x|^2/2)] is right for +z and -z;
 * LAPACK's QR, with its own sign convention, does not. Each row is then scaled by the norm
 * of an independent Gaussian vector (chi), which makes it marginally N(0, I), or by
 * sqrt(d) (SMREG). Everything is drawn in double from (seed, layer, head, epoch).
 */
#include <math.h>
#include <string.h>

#include "maps.h"

static double dot(int64_t n, const double *a, const double *b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Takes from row its components along the `rows` unit rows of q (rows, d); returns what is
 * left of its length. Twice, since once loses digits. */
static double orthogonalise(int64_t rows, int64_t d, const double *q, double *row) {
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t j = 0; j < rows; j++) {
            double along = dot(d, q + j * d, row);
            for (int64_t i = 0; i < d; i++) row[i] -= along * q[j * d + i];
        }
    }
    return sqrt(dot(d, row, row));
}

/* One head: w (m, d) float from gaussian numbers; block (d, d) is work space. */
static void draw_head(const pf_projection_options *o, uint64_t head, double *block, float *w) {
    int64_t m = o->features, d = o->head_dim;
    pf_rng rng = pf_rng_make(o->seed, PF_DRAW_PROJECTION, o->layer << 32 | head, o->epoch);
    double *norms = block + d * d;
    for (int64_t a = 0; a < m; a++) {
        int64_t in_block = o->iid ? 0 : a % d;
        double *row = block + in_block * d;
        pf_rng_fill_normal_double(&rng, (uint64_t)(a * d), d, row);
        double length = 1;
        if (!o->iid) {
            double left = orthogonalise(in_block, d, block, row);
            for (int64_t i = 0; i < d; i++) row[i] /= left;
            pf_rng_fill_normal_double(&rng, (uint64_t)((m + a) * d), d, norms);
            length = sqrt(dot(d, norms, norms));
        }
        if (o->regular) length = sqrt((double)d / dot(d, row, row));
        for (int64_t i = 0; i < d; i++) w[a * d + i] = (float)(row[i] * length);
    }
}

typedef struct {
    const pf_projection_options *options;
    float *w;
} draw_context;

static void draw_task(void *context, int64_t head, void *scratch) {
    draw_context *c = context;
    int64_t size = c->options->features * c->options->head_dim;
    draw_head(c->options, (uint64_t)head, scratch, c->w + head * size);
}

static int check_options(const pf_projection_options *o) {
    if (o->features < 1 || o->head_dim < 1 || o->heads < 0) {
        return pf_fail(PF_EINVAL,
                       "projection: features (%lld) and head_dim (%lld) must be at least 1, "
                       "heads (%lld) at least 0",
                       (long long)o->features, (long long)o->head_dim, (long long)o->heads);
    }
    if (o->head_dim > 4096 || o->features > 1 << 20) {
        return pf_fail(PF_EINVAL, "projection: head_dim %lld (at most 4096) or features %lld "
                                  "(at most 1048576) is too large",
                       (long long)o->head_dim, (long long)o->features);
    }
    return 0;
}

/* Fills `projection` ((m, d) or (H, m, d), contiguous) with the draw that o names. */
int pf_projection_fill(pf_tensor *projection, pf_engine *engine, const pf_projection_options *o) {
    draw_context context = {o, pf_f32(projection)};
    size_t bytes = (size_t)((o->head_dim + 1) * o->head_dim) * sizeof(double);
    return pf_parallel(engine, pf_max(o->heads, 1), bytes, draw_task, &context);
}

int pf_projection_draw(pf_tensor **projection, pf_engine *engine,
                       const pf_projection_options *options) {
    pf_projection_options o = {0};
    memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    PF_TRY(check_options(&o));
    int64_t shape[3] = {o.heads, o.features, o.head_dim};
    bool per_head = o.heads > 0;
    PF_TRY(pf_tensor_make_lasting(projection, engine->heap, PF_F32, per_head ? 3 : 2,
                                  per_head ? shape : shape + 1));
    int status = pf_projection_fill(*projection, engine, &o);
    if (status < 0) pf_tensor_release(projection);
    return status;
}
