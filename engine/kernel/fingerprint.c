/*
 * fingerprint.c - how wide a kernel's features are, and numbers by which two kernels are told
 * apart when their states are merged or loaded. Rows of ordinary size go through the map, and
 * the features of each are summed with uneven weights: any change of the map, its options or
 * the projection moves a sum. The numbers stand in files of states: they stay as they are.
 */
#include <math.h>
#include <string.h>

#include "encoder.h"

enum { PROBES = 4, HOST_PROBES = 3 };

/* ---- maps of our own ---- */

/* One head: for each probe, either side's log-shift and sum. x, half, f are work space. */
static void probe_head(const pf_encoder *e, float *x, float *f, float *to) {
    int64_t d = e->of->d;
    for (int p = 0; p < PROBES; p++) {
        for (int side = 0; side < 2; side++) {
            double sum = 0;
            for (int64_t c = 0; c < d; c++) x[c] = (float)sin(1 + 3.0 * p + 7.0 * (double)c);
            e->of->kern->scale(d, e->of->scale, x, x);
            float half = 0.5f * e->of->kern->sumsq(d, x);
            pf_encode(e, side ? PF_SIDE_KEY : PF_SIDE_QUERY, 1, x, &half, f, to++);
            for (int64_t a = 0; a < e->of->r; a++) sum += cos((double)a) * (double)f[a];
            *to++ = (float)sum;
        }
    }
}

static int own_fingerprint(pf_tensor **t, pf_engine *e, const pf_kernel *kernel, int64_t heads,
                           const pf_tensor *decay) {
    int64_t shape[2] = {heads, 4 * PROBES + 1};
    pf_encoding n;
    pf_encoding_of(&n, kernel, e->kern);
    size_t x_bytes = (size_t)n.d * sizeof(float), f_bytes = (size_t)n.r * sizeof(float);
    size_t bytes =
        pf_encoder_bytes(&n, 1, PF_ENCODE_ONE) + x_bytes + f_bytes + 3 * (size_t)PF_ALIGN;
    void *scratch = pf_heap_alloc(e->heap, bytes), *rest = scratch;
    if (!scratch) return PF_ENOMEM;
    float *x = pf_carve(&rest, x_bytes), *f = pf_carve(&rest, f_bytes);
    int status = pf_tensor_make_lasting(t, e->heap, PF_F32, 2, shape);
    for (int64_t h = 0; h < heads && status >= 0; h++) {
        float *to = pf_f32(*t) + h * shape[1];
        void *own = rest;
        pf_encoder encoder;
        pf_encoder_open(&encoder, &n, h, 1, PF_ENCODE_ONE, NULL, &own);
        probe_head(&encoder, x, f, to);
        to[shape[1] - 1] = decay ? pf_f32(decay)[h] : 0;
    }
    pf_heap_free(e->heap, scratch, bytes);
    return status;
}

/* ---- the host's ---- */

/* The features that the host makes of the probes, (1, heads, HOST_PROBES, r), outside any tape. */
static int host_features(pf_tensor **phi, pf_engine *e, const pf_kernel *kernel, int64_t heads,
                         pf_side side) {
    int64_t d = kernel->spec.head_dim, shape[4] = {1, heads, HOST_PROBES, d};
    pf_tensor *x = NULL, *rows = NULL;
    pf_tape *tape = e->tape;
    PF_TRY(pf_tensor_make_lasting(&x, e->heap, PF_F32, 4, shape));
    for (int64_t i = 0; i < heads * HOST_PROBES * d; i++) {
        int64_t p = i / d % HOST_PROBES + 1, c = i % d + 1;
        pf_f32(x)[i] = (float)sin((double)(1 + 3 * p + 7 * c));
    }
    e->tape = NULL;
    int status = pf_kernel_rows(&rows, e, kernel, side, x);
    e->tape = tape;
    if (status >= 0) status = pf_tensor_detach(phi, e, rows);
    pf_tensor_release(&rows);
    pf_tensor_release(&x);
    return status;
}

/* (heads, 2 HOST_PROBES): the sums of the queries' features, then of the keys'. */
static int host_fingerprint(pf_tensor **t, pf_engine *e, const pf_kernel *kernel, int64_t heads) {
    int64_t shape[2] = {heads, (int64_t)2 * HOST_PROBES};
    PF_TRY(pf_tensor_make_lasting(t, e->heap, PF_F32, 2, shape));
    for (int side = 0; side < 2; side++) {
        pf_tensor *phi = NULL;
        int status = host_features(&phi, e, kernel, heads, side ? PF_SIDE_KEY : PF_SIDE_QUERY);
        if (status < 0) {
            pf_tensor_release(t);
            return status;
        }
        int64_t r = phi->shape[3];
        for (int64_t i = 0; i < heads * HOST_PROBES; i++) {
            const float *row = pf_f32(phi) + i * r;
            double sum = 0;
            for (int64_t a = 0; a < r; a++) sum += cos((double)(a + 1)) * (double)row[a];
            int64_t at = i / HOST_PROBES * shape[1] + (int64_t)side * HOST_PROBES + i % HOST_PROBES;
            pf_f32(*t)[at] = (float)sum;
        }
        pf_tensor_release(&phi);
    }
    return PF_OK;
}

/* ---- either ---- */

int pf_kernel_fingerprint(pf_tensor **t, pf_engine *e, const pf_kernel *kernel, int64_t heads,
                          const pf_tensor *decay) {
    *t = NULL;
    if (!pf_kernel_given(kernel)) return own_fingerprint(t, e, kernel, heads, decay);
    return pf_kernel_is_host(kernel) ? host_fingerprint(t, e, kernel, heads) : PF_OK;
}

/* Only the host knows how wide its map's features are: it is asked for some. */
int pf_kernel_width(int64_t *width, pf_engine *e, const pf_kernel *kernel, int64_t heads) {
    const pf_tensor *W = kernel->projection;
    *width = (W ? W->shape[W->rank - 2] : kernel->spec.head_dim) * kernel->spec.map->width;
    if (!pf_kernel_is_host(kernel)) return PF_OK;
    pf_tensor *phi = NULL;
    PF_TRY(host_features(&phi, e, kernel, heads > 0 ? heads : 1, PF_SIDE_KEY));
    *width = phi->shape[3];
    pf_tensor_release(&phi);
    return PF_OK;
}
