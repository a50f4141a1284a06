/*
 * dtype.c - what a number can be in memory, a row each: its names, its size, what it holds, and
 * the way to doubles and back. Whoever asks one of these reads the row: shapes, fills, copies,
 * texts and files. What must hold: a row's number is its pf_dtype; load keeps the value, and so
 * does store where pf_dtype_fits says so.
 */
#include <float.h>
#include <math.h>

#include "tensor.h"

static void load_f32(double *out, const void *from, int64_t step, int64_t n) {
    const float *x = from;
    for (int64_t i = 0; i < n; i++) out[i] = x[i * step];
}

static void store_f32(void *to, int64_t step, const double *in, int64_t n) {
    float *x = to;
    for (int64_t i = 0; i < n; i++) x[i * step] = (float)in[i];
}

static void load_i32(double *out, const void *from, int64_t step, int64_t n) {
    const int32_t *x = from;
    for (int64_t i = 0; i < n; i++) out[i] = x[i * step];
}

static void store_i32(void *to, int64_t step, const double *in, int64_t n) {
    int32_t *x = to;
    for (int64_t i = 0; i < n; i++) x[i * step] = (int32_t)in[i];
}

static const pf_dtype_row rows[] = {
    [PF_F32] = {.name = "f32",
                .file_name = "F32",
                .element = "float",
                .bytes = sizeof(float),
                .low = -FLT_MAX,
                .high = FLT_MAX,
                .counts = (int64_t)1 << 24,
                .load = load_f32,
                .store = store_f32},
    [PF_I32] = {.name = "i32",
                .file_name = "I32",
                .element = "int32_t",
                .bytes = sizeof(int32_t),
                .whole = true,
                .low = INT32_MIN,
                .high = INT32_MAX,
                .counts = (int64_t)INT32_MAX + 1,
                .load = load_i32,
                .store = store_i32},
};

const pf_dtype_row *pf_dtype_find(pf_dtype dtype) {
    return (int)dtype >= 0 && (int)dtype < PF_COUNT(rows) ? &rows[dtype] : NULL;
}

const char *pf_dtype_name(pf_dtype dtype) {
    const pf_dtype_row *row = pf_dtype_find(dtype);
    return row ? row->name : "unknown";
}

/* An unknown one must not give a division by 0. */
size_t pf_dtype_size(pf_dtype dtype) {
    const pf_dtype_row *row = pf_dtype_find(dtype);
    return row ? row->bytes : sizeof(float);
}

/* A NaN is no whole number. The bounds are open, so that what is cut to one of them fits. Of floats
 * a number must stay one: what would round to an infinity is none. */
bool pf_dtype_fits(const pf_dtype_row *row, double value, bool cut) {
    if (!row->whole) return row->high == 0 || !isinf((float)value) || isinf(value);
    return value > row->low - 1 && value < row->high + 1 && (cut || value == trunc(value));
}
