/*
 * map_args.c - what goes with a map: its arguments, the tilt of FAVOR++, and what a kernel's
 * options default to, the map's own or those of a published version (presets).
 */
#include <math.h>
#include <string.h>

#include "map.h"

double pf_map_scale(const pf_map *map, double scale, int64_t head_dim) {
    if (scale > 0) return scale;
    return map->softmax ? pow((double)pf_max(head_dim, 1), -0.25) : 1;
}

static double own_ratio(const pf_map *map, int64_t m) {
    return map->root > 0 ? 1 / sqrt((double)map->root * (double)pf_max(m, 1)) : 1;
}

void pf_map_join(const pf_map_args *args, int64_t n, int64_t ld, const float *c, const float *z,
                 float *df) {
    for (int64_t i = 0; c && i < n; i++) args->kern->axpy(args->r, c[i], z, df + i * ld);
}

pf_map_args pf_map_args_of(const pf_map *map, const pf_kern *kern, int64_t m,
                           const pf_numbers *numbers) {
    pf_map_args args = {.map = map, .kern = kern, .m = m, .r = m * map->width, .slope = 1};
    double ratio = numbers->ratio > 0 ? numbers->ratio : own_ratio(map, m);
    args.eps = (float)(numbers->eps < 0 ? map->eps : numbers->eps);
    args.ratio = (float)ratio;
    args.left_out = map->softmax ? log(ratio) : 0;
    return args;
}

/* ---- FAVOR++ ---- */

void pf_map_tilt(pf_map_args *args, double tilt, const float *w, int64_t d, float *bias) {
    for (int64_t a = 0; a < args->m; a++) {
        double sum = 0;
        for (int64_t i = 0; i < d; i++) sum += (double)w[a * d + i] * (double)w[a * d + i];
        bias[a] = (float)(tilt * sum);
    }
    args->slope = (float)sqrt(1 - 4 * tilt);
    args->bias = bias;
    args->left_out += 0.25 * (double)d * log(1 - 4 * tilt);
}

double pf_kernel_best_tilt(double s, int64_t d) {
    double n = (double)d, t = 2 * s + n;
    if (!(s > 0) || d < 1) return 0;
    /* rho = (sqrt(t^2 + 8 n s) - t) / (4 s), without the cancellation. */
    double rho = 2 * n / (sqrt(t * t + 8 * n * s) + t);
    return (1 - 1 / rho) / 8;
}

/* ---- presets ---- */

static pf_preset own_preset(const pf_map *map, int64_t d) {
    return (pf_preset){
        .scale = pf_map_scale(map, 0, d),
        .eps = map->eps,
        .project = map->softmax,
        .features = 4 * d,
    };
}

/* The authors' JAX code: generalised maps plain (no scale, no ratio, no projection), 1e-3
 * added; softmax with a stabiliser of 1e-6 and 256 features. */
static void preset_authors(pf_preset *p, const pf_map *map) {
    p->features = 256;
    if (!map->softmax) {
        p->eps = 1e-3;
    } else if (map->positive) {
        p->eps = 1e-6;
    }
}

/* performer-pytorch: scaled and projected whatever the map, d ln d features. */
static void preset_pytorch(pf_preset *p, const pf_map *map, int64_t d) {
    p->features = pf_max((int64_t)((double)d * log((double)pf_max(d, 1))), 1);
    p->scale = pow((double)pf_max(d, 1), -0.25);
    p->project = true;
    if (!map->softmax) {
        p->eps = 1e-3;
    } else if (map->positive) {
        p->eps = 1e-4;
    }
}

pf_preset pf_preset_of(const char *name, const pf_map *map, int64_t head_dim) {
    pf_preset p = own_preset(map, head_dim);
    if (strcmp(name, "authors") == 0) preset_authors(&p, map);
    if (strcmp(name, "pytorch") == 0) preset_pytorch(&p, map, head_dim);
    return p;
}
