/*
 * access.c - elements in and out of tensors: read, write, get, set, fill, copy, compact,
 * detach. What must hold: elements go in row-major order whatever the strides; a conversion
 * either keeps the value or (f32 to i32 copies) cuts it toward zero, and a value that the
 * target cannot hold fails before anything is written.
 */
#include <math.h>
#include <string.h>

#include "tensor.h"

enum { GRAIN = 1 << 16, TILE = 32 };

/* What stands in memory. F64 occurs in the caller's arrays only. */
typedef enum { AS_F32 = PF_F32, AS_I32 = PF_I32, AS_F64 } form;

/* Four bytes of either dtype. */
typedef uint32_t __attribute__((may_alias)) word;

static size_t form_size(form f) { return f == AS_F64 ? sizeof(double) : sizeof(float); }

/* ---- one run ---- */

/* n elements of four bytes each from src to dst, strides in elements. */
static void move_run(word *dst, int64_t ds, const word *src, int64_t ss, int64_t n) {
    if (ds == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    for (int64_t i = 0; i < n; i++) dst[i * ds] = src[i * ss];
}

static double load(const void *at, form f, int64_t i) {
    if (f == AS_F32) return ((const float *)at)[i];
    return f == AS_I32 ? ((const int32_t *)at)[i] : ((const double *)at)[i];
}

/* The value is known to fit. */
static void store(void *at, form f, int64_t i, double value) {
    if (f == AS_F32)
        ((float *)at)[i] = (float)value;
    else if (f == AS_I32)
        ((int32_t *)at)[i] = (int32_t)value;
    else
        ((double *)at)[i] = value;
}

static char *at(const void *base, form f, int64_t offset) {
    return (char *)base + offset * (int64_t)form_size(f);
}

/* ---- a whole walk ---- */

/* Side 0 is written, side 1 read; both cover the same shape. */
typedef struct {
    pf_iter it;
    void *base[2];
    form as[2];
} transfer;

static void copy_run(const transfer *job, const int64_t offset[2], int64_t n) {
    void *dst = at(job->base[0], job->as[0], offset[0]);
    const void *src = at(job->base[1], job->as[1], offset[1]);
    int64_t ds = job->it.inner_stride[0], ss = job->it.inner_stride[1];
    if (job->as[0] == job->as[1] && job->as[0] != AS_F64)
        move_run(dst, ds, src, ss, n);
    else
        for (int64_t i = 0; i < n; i++)
            store(dst, job->as[0], i * ds, load(src, job->as[1], i * ss));
}

/* Elements first .. last-1 of the walk, cut wherever a range or a run ends. */
static void copy_range(void *context, int64_t first, int64_t last) {
    const transfer *job = context;
    int64_t inner = job->it.inner, offset[PF_ITER_MAX];
    while (first < last) {
        int64_t run = first / inner, skip = first % inner;
        int64_t n = pf_min(inner - skip, last - first);
        pf_iter_at(&job->it, run, offset);
        for (int k = 0; k < 2; k++) offset[k] += skip * job->it.inner_stride[k];
        copy_run(job, offset, n);
        first += n;
    }
}

/* The two innermost walked dimensions as a matrix whose columns lie together on the read
 * side: a transposition, done in tiles so that either side's cache lines are used whole. */
static bool is_transposed(const transfer *job) {
    const pf_iter *it = &job->it;
    return it->rank > 0 && job->as[0] == job->as[1] && job->as[0] != AS_F64 &&
           it->inner_stride[0] == 1 && it->inner_stride[1] > 1 &&
           it->stride[1][it->rank - 1] == 1 && it->inner >= TILE && it->shape[it->rank - 1] >= TILE;
}

/* One tile: rows x cols elements, dst (row stride dr, columns together), src (column stride
 * sc, rows together). By way of a small square, so that memory is touched in whole lines also
 * where a stride is a power of two and all lines would fall into one set of the cache. */
static void move_tile(word *dst, int64_t dr, const word *src, int64_t sc, int64_t rows,
                      int64_t cols) {
    word square[TILE][TILE + 1];
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < rows; r++) square[r][c] = src[c * sc + r];
    for (int64_t r = 0; r < rows; r++) memcpy(dst + r * dr, square[r], (size_t)cols * sizeof *dst);
}

/* Strips first .. last-1, each TILE rows of one matrix. */
static void transpose_range(void *context, int64_t first, int64_t last) {
    const transfer *job = context;
    const pf_iter *it = &job->it;
    int64_t rows = it->shape[it->rank - 1], strips = pf_ceil_div(rows, TILE);
    for (int64_t s = first; s < last; s++) {
        int64_t offset[PF_ITER_MAX], row = s % strips * TILE;
        pf_iter_at(it, s / strips * rows + row, offset);
        for (int64_t c = 0; c < it->inner; c += TILE)
            move_tile((word *)job->base[0] + offset[0] + c, it->stride[0][it->rank - 1],
                      (const word *)job->base[1] + offset[1] + c * it->inner_stride[1],
                      it->inner_stride[1], pf_min(TILE, rows - row), pf_min(TILE, it->inner - c));
    }
}

/* engine NULL: on this thread. */
static int run_transfer(pf_engine *engine, const transfer *job) {
    int64_t n = job->it.outer * job->it.inner, grain = GRAIN;
    pf_range_fn fn = copy_range;
    if (n == 0) return PF_OK;
    if (is_transposed(job)) {
        int64_t rows = job->it.shape[job->it.rank - 1];
        n = job->it.outer / rows * pf_ceil_div(rows, TILE);
        grain = pf_ceil_div(GRAIN, TILE * job->it.inner);
        fn = transpose_range;
    }
    if (engine && n > grain) return pf_parallel_range(engine, n, grain, fn, (void *)job);
    fn((void *)job, 0, n);
    return PF_OK;
}

static void *base_of(const pf_tensor *t) { return at(t->storage->data, (form)t->dtype, t->offset); }

/* Between a tensor (side `side`) and the caller's contiguous array. */
static int transfer_array(const pf_tensor *t, int side, void *array, form f) {
    pf_tensor flat = {.rank = t->rank};
    memcpy(flat.shape, t->shape, sizeof flat.shape);
    pf_shape_strides(t->rank, t->shape, flat.stride);
    transfer job;
    job.base[side] = base_of(t), job.base[1 - side] = array;
    job.as[side] = (form)t->dtype, job.as[1 - side] = f;
    const pf_tensor *operands[2] = {side == 0 ? t : &flat, side == 0 ? &flat : t};
    pf_iter_make(&job.it, t->rank, t->shape, 2, operands);
    return run_transfer(NULL, &job);
}

static int transfer_tensor(pf_engine *engine, pf_tensor *to, const pf_tensor *from) {
    transfer job = {.base = {base_of(to), base_of(from)},
                    .as = {(form)to->dtype, (form)from->dtype}};
    const pf_tensor *operands[2] = {to, from};
    pf_iter_make(&job.it, to->rank, to->shape, 2, operands);
    return run_transfer(engine, &job);
}

/* ---- what fits ---- */

static int check_alive(const pf_tensor *t, const char *op, const char *arg) {
    return pf_tensor_check(t, t ? t->dtype : PF_F32, op, arg);
}

/* Whole and within i32, or just within i32 once cut toward zero. NaN fails either way. */
static bool fits_i32(double value, bool whole) {
    return value > -2147483649.0 && value < 2147483648.0 && (!whole || value == trunc(value));
}

static int check_fits(const pf_tensor *t, double value, const char *op) {
    if (t->dtype != PF_I32 || fits_i32(value, true)) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: an i32 tensor %s cannot hold %g", op, pf_shape_of(t), value);
}

/* Every element of an f32 tensor that is to become i32. */
static int check_cut(const pf_tensor *from) {
    pf_iter it;
    int64_t offset[PF_ITER_MAX];
    pf_iter_make(&it, from->rank, from->shape, 1, &from);
    for (int64_t run = 0; run < it.outer; run++) {
        pf_iter_at(&it, run, offset);
        const float *x = pf_f32(from) + offset[0];
        for (int64_t i = 0; i < it.inner; i++)
            if (!fits_i32(x[i * it.inner_stride[0]], false))
                return pf_fail(PF_EINVAL, "copy: f32 %s holds %g, which i32 cannot",
                               pf_shape_of(from), (double)x[i * it.inner_stride[0]]);
    }
    return PF_OK;
}

/* Which of the two array forms a byte count means. */
static int form_of(const pf_tensor *t, size_t bytes, const char *op, form *f) {
    size_t n = (size_t)pf_tensor_numel(t);
    *f = bytes == n * sizeof(float) ? (form)t->dtype : AS_F64;
    if (bytes == n * sizeof(float) || bytes == n * sizeof(double)) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: %s has %zu elements, %zu bytes are neither %s nor double", op,
                   pf_shape_of(t), n, bytes, t->dtype == PF_F32 ? "float" : "int32_t");
}

/* ---- public ---- */

int pf_tensor_read(const pf_tensor *t, void *out, size_t bytes) {
    form f;
    PF_TRY(check_alive(t, "read", "tensor"));
    PF_TRY(form_of(t, bytes, "read", &f));
    if (!out && bytes) return pf_fail(PF_EINVAL, "read: the array is missing");
    return transfer_array(t, 1, out, f);
}

int pf_tensor_write(pf_tensor *t, const void *in, size_t bytes) {
    form f;
    PF_TRY(check_alive(t, "write", "tensor"));
    PF_TRY(form_of(t, bytes, "write", &f));
    if (!in && bytes) return pf_fail(PF_EINVAL, "write: the array is missing");
    if (t->dtype == PF_I32 && f == AS_F64)
        for (int64_t i = 0, n = pf_tensor_numel(t); i < n; i++)
            PF_TRY(check_fits(t, ((const double *)in)[i], "write"));
    return transfer_array(t, 0, (void *)in, f);
}

/* The element of row-major position `index`, as an offset from the tensor's start. */
static int locate(const pf_tensor *t, int64_t index, const char *op, int64_t *offset) {
    PF_TRY(check_alive(t, op, "tensor"));
    int64_t n = pf_tensor_numel(t);
    if (index < 0 || index >= n)
        return pf_fail(PF_EINVAL, "%s: position %s is outside %s, which has %lld elements", op,
                       pf_place(index), pf_shape_of(t), (long long)n);
    *offset = 0;
    for (int i = t->rank - 1; i >= 0; i--) {
        *offset += index % t->shape[i] * t->stride[i];
        index /= t->shape[i];
    }
    return PF_OK;
}

int pf_tensor_get(const pf_tensor *t, int64_t index, double *out) {
    int64_t offset;
    PF_TRY(locate(t, index, "get", &offset));
    *out = load(base_of(t), (form)t->dtype, offset);
    return PF_OK;
}

int pf_tensor_set(pf_tensor *t, int64_t index, double value) {
    int64_t offset;
    PF_TRY(locate(t, index, "set", &offset));
    PF_TRY(check_fits(t, value, "set"));
    store(base_of(t), (form)t->dtype, offset, value);
    return PF_OK;
}

int pf_tensor_fill(pf_tensor *t, double value) {
    pf_iter it;
    int64_t offset[PF_ITER_MAX];
    const pf_tensor *operand = t;
    PF_TRY(check_alive(t, "fill", "tensor"));
    PF_TRY(check_fits(t, value, "fill"));
    union {
        float f;
        int32_t i;
        uint32_t word;
    } bits = {.word = 0};
    if (t->dtype == PF_F32)
        bits.f = (float)value;
    else
        bits.i = (int32_t)value;
    pf_iter_make(&it, t->rank, t->shape, 1, &operand);
    for (int64_t run = 0; run < it.outer; run++) {
        pf_iter_at(&it, run, offset);
        word *x = (word *)base_of(t) + offset[0];
        if (bits.word == 0 && it.inner_stride[0] == 1)
            memset(x, 0, (size_t)it.inner * sizeof *x);
        else
            for (int64_t i = 0; i < it.inner; i++) x[i * it.inner_stride[0]] = bits.word;
    }
    return PF_OK;
}

/* Two views of one storage may overlap: the elements go by way of a block of their own. */
static int copy_aside(pf_tensor *to, const pf_tensor *from) {
    size_t bytes = (size_t)pf_tensor_numel(from) * pf_dtype_size(from->dtype);
    void *aside = pf_heap_alloc(from->heap, bytes);
    if (!aside) return PF_ENOMEM;
    int status = transfer_array(from, 1, aside, (form)from->dtype);
    if (status == PF_OK) status = transfer_array(to, 0, aside, (form)from->dtype);
    pf_heap_free(from->heap, aside, bytes);
    return status;
}

int pf_tensor_copy(pf_tensor *to, const pf_tensor *from) {
    PF_TRY(check_alive(to, "copy", "target"));
    PF_TRY(check_alive(from, "copy", "source"));
    if (!pf_same_shape(to, from))
        return pf_fail(PF_ESHAPE, "copy: source %s does not have the target's shape %s",
                       pf_shape_of(from), pf_shape_of(to));
    if (to->dtype == PF_I32 && from->dtype == PF_F32) PF_TRY(check_cut(from));
    if (to->storage == from->storage) return copy_aside(to, from);
    return transfer_tensor(NULL, to, from);
}

/* Contents of `t` into the new tensor *out; on failure *out is released. */
static int fill_copy(pf_tensor **out, pf_engine *engine, const pf_tensor *t) {
    int status = transfer_tensor(engine, *out, t);
    if (status < 0) pf_tensor_release(out);
    return status;
}

int pf_tensor_detach(pf_tensor **out, pf_engine *engine, const pf_tensor *t) {
    *out = NULL;
    PF_TRY(check_alive(t, "detach", "tensor"));
    PF_TRY(pf_tensor_make_lasting(out, engine->heap, t->dtype, t->rank, t->shape));
    return fill_copy(out, engine, t);
}

int pf_tensor_compact(pf_tensor **out, pf_engine *engine, const pf_tensor *t) {
    *out = NULL;
    PF_TRY(check_alive(t, "compact", "tensor"));
    if (pf_tensor_contiguous(t)) {
        *out = pf_tensor_retain((pf_tensor *)t);
        return PF_OK;
    }
    PF_TRY(pf_tensor_make(out, engine, t->dtype, t->rank, t->shape));
    return fill_copy(out, engine, t);
}
