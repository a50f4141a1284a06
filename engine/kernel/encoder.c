/*
 * encoder.c - rows through the feature map, with their true size: what items, weights and
 * log-partitions share (partition.h). Encodes blocks of rows as the operator does, so features
 * have the same meaning everywhere.
 */
#include <math.h>
#include <string.h>

#include "partition.h"

int pf_encoder_open(pf_encoder *e, pf_engine *engine, const pf_kernel *kernel, const pf_tensor *W,
                    const pf_tensor *tilt, int64_t d) {
    const pf_map *map = kernel->map;
    *e = (pf_encoder){
        .kern = engine->kern, .map = map, .d = d, .m = d, .scale = (float)kernel->scale};
    if (W) {
        e->m = W->shape[W->rank - 2];
        e->w = pf_f32(W);
        e->w_head = W->rank == 3 ? e->m * d : 0;
    }
    if (map->tilted) {
        e->tilted = kernel->tilt;
        e->tilt = tilt ? pf_f32(tilt) : NULL;
    }
    e->args = pf_map_args_of(map, e->kern, e->m, kernel->eps, kernel->ratio);
    e->r = e->args.r;
    return 0;
}

static float *carve(void **scratch, int64_t n) {
    return pf_carve(scratch, (size_t)n * sizeof(float));
}

/* Cuts the work space; with *scratch NULL-based it only measures. */
static void carve_all(pf_encoded *block, const pf_encoder *e, bool backward, void **scratch) {
    enum { B = PF_PROBE_BLOCK };
    block->x = carve(scratch, B * e->d);
    block->half = carve(scratch, B);
    block->f = carve(scratch, B * e->r);
    block->shift = carve(scratch, B);
    block->bias = carve(scratch, e->map->tilted ? e->m : 0);
    block->panel = carve(scratch, PF_PANEL);
    block->u = backward && e->map->needs_u ? carve(scratch, B * e->m) : NULL;
    block->df = backward ? carve(scratch, B * e->r) : NULL;
    block->coef = backward ? carve(scratch, B) : NULL;
}

size_t pf_encoded_bytes(const pf_encoder *e, bool backward) {
    pf_encoded block;
    void *end = NULL;
    carve_all(&block, e, backward, &end);
    return (size_t)(uintptr_t)end;
}

void pf_encoded_open(pf_encoded *block, const pf_encoder *e, int64_t head, bool backward,
                     void **scratch) {
    *block = (pf_encoded){.encoder = e, .args = e->args};
    block->w = e->w ? e->w + head * e->w_head : NULL;
    carve_all(block, e, backward, scratch);
    double tilt = e->tilt ? (double)e->tilt[head] : e->tilted;
    if (block->w && tilt != 0) pf_map_tilt(&block->args, tilt, block->w, e->d, block->bias);
}

void pf_encode_load(pf_encoded *block, const float *x, int64_t stride, const int64_t *at,
                    int64_t first, int64_t n) {
    const pf_encoder *e = block->encoder;
    block->rows = pf_block_rows(e->kern, n, PF_PROBE_BLOCK);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = at ? at[first + i] : first + i;
        e->kern->scale(e->d, e->scale, x + row * stride, block->x + i * e->d);
    }
    memset(block->x + n * e->d, 0, (size_t)((block->rows - n) * e->d) * sizeof(float));
}

void pf_encode(pf_encoded *block, pf_side side, const float *x, int64_t stride, const int64_t *at,
               int64_t first, int64_t n) {
    const pf_encoder *e = block->encoder;
    pf_encode_load(block, x, stride, at, first, n);
    int64_t C = block->rows;
    if (block->w) {
        pf_block_gemm(e->kern, false, true, C, e->m, e->d, block->x, e->d, block->w, e->d, 0,
                      block->f, e->r, block->panel);
    } else {
        for (int64_t i = 0; i < C; i++) {
            memcpy(block->f + i * e->r, block->x + i * e->d, (size_t)e->d * sizeof(float));
        }
    }
    for (int64_t i = 0; i < C; i++) {
        block->half[i] = 0.5f * e->kern->sumsq(e->d, block->x + i * e->d);
        if (!block->u) continue;
        memcpy(block->u + i * e->m, block->f + i * e->r, (size_t)e->m * sizeof(float));
    }
    e->map->encode(&block->args, side, C, e->r, block->f, block->half, block->shift);
}

void pf_encode_pull(pf_encoded *block, pf_side side, int64_t n, float *to, int64_t stride) {
    const pf_encoder *e = block->encoder;
    int64_t C = block->rows, d = e->d;
    memset(block->df + n * e->r, 0, (size_t)((C - n) * e->r) * sizeof(float));
    e->map->pull(&block->args, side, C, e->r, block->f, block->u, NULL, NULL, block->df,
                 block->coef);
    for (int64_t i = 0; i < C; i++) {
        e->kern->scale(d, block->coef[i], block->x + i * d, block->x + i * d);
    }
    if (block->w) {
        pf_block_gemm(e->kern, false, false, C, d, e->m, block->df, e->r, block->w, d, 1, block->x,
                      d, block->panel);
    } else {
        for (int64_t i = 0; i < n; i++) {
            e->kern->axpy(d, 1, block->df + i * e->r, block->x + i * d);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        e->kern->scale(d, e->scale, block->x + i * d, to + i * stride);
    }
}

int pf_probe_kernel(pf_kernel *kernel, bool *exact, const pf_config *options, const pf_tensor *W,
                    int64_t head_dim, const char *where) {
    *exact = false;
    const pf_config *named = options ? pf_config_get(options, "name") : NULL;
    const char *name = named ? pf_config_string(named) : NULL;
    if (name && strcmp(name, "exact") == 0) {
        const pf_config *scale = pf_config_get(options, "scale");
        *exact = true;
        *kernel = (pf_kernel){.map = &pf_map_given, .head_dim = head_dim};
        kernel->scale =
            pf_map_scale(&pf_map_softmax, scale ? pf_config_number(scale) : 0, head_dim);
        return W ? pf_fail(PF_EINVAL, "%s: exact takes no projection", where) : 0;
    }
    PF_TRY(pf_kernel_resolve(kernel, options, head_dim));
    if (!W && kernel->map->softmax) {
        return pf_fail(PF_EINVAL, "%s: the kernel needs a projection", where);
    }
    if (!W) return 0;
    PF_TRY(pf_tensor_check(W, PF_F32, where, "projection"));
    if ((W->rank == 2 || W->rank == 3) && W->shape[W->rank - 1] == head_dim &&
        W->shape[W->rank - 2] >= 1) {
        return 0;
    }
    return pf_fail(PF_ESHAPE,
                   "%s: projection is %s, must be (features, %lld) or (heads, "
                   "features, %lld)",
                   where, pf_shape_of(W), (long long)head_dim, (long long)head_dim);
}
