/*
 * kern_hadamard.c - Hadamard products of many rows (attention/hadamard.c), compiled once a
 * level. VW rows lie in the lanes of a vector, so a Walsh-Hadamard transform is additions of
 * whole vectors and rows never mix: a row's bits do not depend on its neighbours or place.
 *
 * A round gathers its inputs, weighted, into the first stage of the transform; stages of two
 * are taken three (or two) at a time, so that eight vectors stay in registers. The way back
 * is the transpose: stages, which are symmetric, then inputs scattered to where they came
 * from.
 */
#include "kern_level.h"

/* ---- a transform in passes ---- */

enum { PASSES = 8 };

/* Radices 8, 4, 2 whose product is the window; their number, at most 4 up to 4096. */
static int radices(int64_t window, int radix[PASSES]) {
    int n = 0;
    while (window > 1) {
        int r = window == 2 ? 2 : window == 4 || window == 16 ? 4 : 8;
        radix[n++] = r;
        window /= r;
    }
    return n;
}

/* v (n) <- H v, n = 2, 4, 8, a constant where it is inlined. */
PF_INLINE void butterflies(vf *v, const int n) {
#pragma GCC unroll 3
    for (int h = 1; h < n; h *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            if (i & h) continue;
            const vf sum = vf_add(v[i], v[i + h]);
            v[i + h] = vf_sub(v[i], v[i + h]);
            v[i] = sum;
        }
    }
}

/* Entries `stride` apart, in place: v (window, VW). */
PF_INLINE void pass(int64_t window, int64_t stride, const int n, float *v) {
    for (int64_t base = 0; base < window; base += n * stride) {
        for (int64_t j = base; j < base + stride; j++) {
            vf x[8];
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) x[i] = vf_load(v + (j + i * stride) * VW);
            butterflies(x, n);
#pragma GCC unroll 8
            for (int i = 0; i < n; i++) vf_store(v + (j + i * stride) * VW, x[i]);
        }
    }
}

/* The first pass of a round: input i is weight[i] times entry place[i] of `from`. */
PF_INLINE void gather_pass(int64_t window, const int n, const float *weight, const int32_t *place,
                           const float *from, float *v) {
    for (int64_t j = 0; j < window; j += n) {
        vf x[8];
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            const int64_t at = place ? place[j + i] : j + i;
            x[i] = vf_mul(vf_set(weight[j + i]), vf_load(from + at * VW));
        }
        butterflies(x, n);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) vf_store(v + (j + i) * VW, x[i]);
    }
}

/* The last pass on the way back: weight[i] times entry i goes to place[i] of `to`; adds. */
PF_INLINE void scatter_pass(int64_t window, const int n, const float *weight, const int32_t *place,
                            const float *v, float *to, const bool add) {
    for (int64_t j = 0; j < window; j += n) {
        vf x[8];
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) x[i] = vf_load(v + (j + i) * VW);
        butterflies(x, n);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            float *at = to + (place ? place[j + i] : j + i) * VW;
            const vf w = vf_set(weight[j + i]);
            vf_store(at, add ? vf_fma(w, x[i], vf_load(at)) : vf_mul(w, x[i]));
        }
    }
}

/* All passes but the one at stride 1. */
static void upper_passes(int64_t window, const int *radix, int n, float *v) {
    int64_t stride = radix[0];
    for (int i = 1; i < n; stride *= radix[i++]) {
        switch (radix[i]) {
        case 8:
            pass(window, stride, 8, v);
            break;
        case 4:
            pass(window, stride, 4, v);
            break;
        default:
            pass(window, stride, 2, v);
            break;
        }
    }
}

/* ---- rounds ---- */

/* The part of a round that its window leaves alone. */
typedef struct {
    int64_t first, last;
} outside;

static outside outside_of(const pf_hadamard *h, int round) {
    const int64_t rest = h->d - h->window;
    return round % 2 == 0 ? (outside){h->window, h->d} : (outside){0, rest};
}

/* to (d, VW) <- one round of `from` (d, VW). */
static void round_forward(const pf_hadamard *h, int round, const float *from, float *to) {
    const outside rest = outside_of(h, round);
    const int64_t first = round % 2 == 0 ? 0 : h->d - h->window;
    const float *weight = h->weight + round * h->d;
    const int32_t *place = h->place ? h->place + round * h->d : NULL;
    for (int64_t i = rest.first; i < rest.last; i++) {
        PF_HOLDS(place); /* where it is left out there is no rest */
        vf_store(to + i * VW, vf_mul(vf_set(weight[i]), vf_load(from + place[i] * VW)));
    }
    int radix[PASSES] = {1}, n = radices(h->window, radix);
    const int32_t *inside = place ? place + first : NULL;
    const float *source = place ? from : from + first * VW;
    weight += first;
    to += first * VW;
    switch (radix[0]) {
    case 8:
        gather_pass(h->window, 8, weight, inside, source, to);
        break;
    case 4:
        gather_pass(h->window, 4, weight, inside, source, to);
        break;
    case 2:
        gather_pass(h->window, 2, weight, inside, source, to);
        break;
    default:
        gather_pass(h->window, 1, weight, inside, source, to);
        break;
    }
    upper_passes(h->window, radix, n, to);
}

/* to (d, VW) <- (or +=) the transpose of one round of v (d, VW), which is overwritten. */
static void round_back(const pf_hadamard *h, int round, float *v, float *to, bool add) {
    const outside rest = outside_of(h, round);
    const int64_t first = round % 2 == 0 ? 0 : h->d - h->window;
    const float *weight = h->weight + round * h->d;
    const int32_t *place = h->place ? h->place + round * h->d : NULL;
    for (int64_t i = rest.first; i < rest.last; i++) {
        PF_HOLDS(place); /* where it is left out there is no rest */
        float *at = to + place[i] * VW;
        const vf x = vf_mul(vf_set(weight[i]), vf_load(v + i * VW));
        vf_store(at, add ? vf_add(vf_load(at), x) : x);
    }
    int radix[PASSES] = {1}, n = radices(h->window, radix);
    const int32_t *inside = place ? place + first : NULL;
    float *target = place ? to : to + first * VW;
    weight += first;
    v += first * VW;
    upper_passes(h->window, radix, n, v);
    switch (radix[0]) {
    case 8:
        scatter_pass(h->window, 8, weight, inside, v, target, add);
        break;
    case 4:
        scatter_pass(h->window, 4, weight, inside, v, target, add);
        break;
    case 2:
        scatter_pass(h->window, 2, weight, inside, v, target, add);
        break;
    default:
        scatter_pass(h->window, 1, weight, inside, v, target, add);
        break;
    }
}

/* ---- rows in and out of the lanes ---- */

/* v (width, VW) <- rows x (n, width; ld), n <= VW; 0 in the lanes beyond. */
static void turn_in(int64_t n, int64_t width, const float *x, int64_t ld, float *v) {
    int64_t i = 0, whole = width - width % VT;
    for (; i + VT <= n; i += VT) {
        for (int64_t j = 0; j < whole; j += VT) vt_turn(x + i * ld + j, ld, v + j * VW + i, VW);
        for (int64_t j = whole; j < width; j++) {
            for (int k = 0; k < VT; k++) v[j * VW + i + k] = x[(i + k) * ld + j];
        }
    }
    for (; i < VW; i++) {
        for (int64_t j = 0; j < width; j++) v[j * VW + i] = i < n ? x[i * ld + j] : 0;
    }
}

/* y (n, width; ld) <- the first n lanes of v (width, VW). */
static void turn_out(int64_t n, int64_t width, const float *v, float *y, int64_t ld) {
    int64_t i = 0, whole = width - width % VT;
    for (; i + VT <= n; i += VT) {
        for (int64_t j = 0; j < whole; j += VT) vt_turn(v + j * VW + i, VW, y + i * ld + j, ld);
        for (int64_t j = whole; j < width; j++) {
            for (int k = 0; k < VT; k++) y[(i + k) * ld + j] = v[j * VW + i + k];
        }
    }
    for (; i < n; i++) {
        for (int64_t j = 0; j < width; j++) y[i * ld + j] = v[j * VW + i];
    }
}

static void weigh(int64_t n, const float *weight, float *v) {
    for (int64_t i = 0; i < n; i++) {
        vf_store(v + i * VW, vf_mul(vf_set(weight[i]), vf_load(v + i * VW)));
    }
}

/* ---- products ---- */

void PF_KERN(hadamard)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *x, int64_t ldx,
                       float *y, int64_t ldy, float *panel) {
    const int64_t d = blocks->d;
    float *input = panel, *one = panel + d * VW, *other = one + d * VW;
    for (int64_t row = 0; row < n; row += VW) {
        const int64_t rows = pf_min(VW, n - row);
        turn_in(rows, d, x + row * ldx, ldx, input);
        for (int64_t first = 0; first < m; first += d) {
            const pf_hadamard *h = blocks + first / d;
            const float *from = input;
            float *to = one;
            for (int t = 0; t < h->rounds; t++) {
                round_forward(h, t, from, to);
                from = to;
                to = to == one ? other : one;
            }
            float *out = to == one ? other : one;
            const int64_t width = pf_min(d, m - first);
            weigh(width, h->weight + h->rounds * d, out);
            turn_out(rows, width, out, y + row * ldy + first, ldy);
        }
    }
}

void PF_KERN(hadamard_back)(const pf_hadamard *blocks, int64_t m, int64_t n, const float *y,
                            int64_t ldy, float *x, int64_t ldx, float *panel) {
    const int64_t d = blocks->d;
    float *sum = panel, *one = panel + d * VW, *other = one + d * VW;
    for (int64_t row = 0; row < n; row += VW) {
        const int64_t rows = pf_min(VW, n - row);
        turn_in(rows, d, x + row * ldx, ldx, sum);
        for (int64_t first = 0; first < m; first += d) {
            const pf_hadamard *h = blocks + first / d;
            const int64_t width = pf_min(d, m - first);
            float *v = one;
            turn_in(rows, width, y + row * ldy + first, ldy, v);
            for (int64_t i = width; i < d; i++) vf_store(v + i * VW, vf_zero());
            weigh(width, h->weight + h->rounds * d, v);
            for (int t = h->rounds - 1; t > 0; t--) {
                float *to = v == one ? other : one;
                round_back(h, t, v, to, false);
                v = to;
            }
            round_back(h, 0, v, sum, true);
        }
        turn_out(rows, d, sum, x + row * ldx, ldx);
    }
}
