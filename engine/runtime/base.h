/*
 * base.h - the smallest shared words of the engine: visibility, limits, checked
 * arithmetic. Everything may include it; it includes nothing of ours but the public
 * header, whose types (status codes, dtypes, opaque names) are the engine's own.
 */
#ifndef PF_BASE_H
#define PF_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "performer.h"

#define PF_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define PF_ALIGN        64 /* bytes: a cache line, and the widest vector */

static inline int64_t pf_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t pf_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t pf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t pf_round_up(int64_t a, int64_t b) { return pf_ceil_div(a, b) * b; }

/* *out = a * b; false when the product does not fit. */
static inline bool pf_mul_size(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

#endif
