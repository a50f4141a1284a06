/*
 * access.c - elements in and out of tensors: read, write, get, set, fill, copy, compact,
 * detach. What must hold: elements go in row-major order whatever the strides; a conversion
 * keeps the value, rounds it (to f32) or cuts it toward zero (copies to i32), and a value that
 * the target cannot hold fails before anything is written; what wrote says so (change.c).
 */
#include <string.h>

#include "tensor.h"

enum { GRAIN = 1 << 16, TILE = 32, BLOCK = 256 };

/* Four bytes: an element of any of today's dtypes. What only moves is moved as words. */
typedef uint32_t __attribute__((may_alias)) word;

static void load_double(double *out, const void *from, int64_t step, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = ((const double *)from)[i * step];
}

static void store_double(void *to, int64_t step, const double *in, int64_t n) {
    for (int64_t i = 0; i < n; i++) ((double *)to)[i * step] = in[i];
}

/* What the caller's arrays may hold beside a tensor's own dtype. No tensor is of it. */
static const pf_dtype_row doubles = {
    .element = "double", .bytes = sizeof(double), .load = load_double, .store = store_double};

/* ---- one run ---- */

static void fill_run(word *dst, word value, int64_t n) {
    if (value == 0)
        memset(dst, 0, (size_t)n * sizeof *dst);
    else
        for (int64_t i = 0; i < n; i++) dst[i] = value;
}

/* n elements of four bytes each from src to dst, strides in elements. */
static void move_run(word *dst, int64_t ds, const word *src, int64_t ss, int64_t n) {
    if (ds == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    if (ds == 1 && ss == 0) {
        fill_run(dst, *src, n);
        return;
    }
    for (int64_t i = 0; i < n; i++) dst[i * ds] = src[i * ss];
}

/* n values that the target can hold, from one row's elements to another's. */
static void convert_run(const pf_dtype_row *to, void *dst, int64_t ds, const pf_dtype_row *from,
                        const void *src, int64_t ss, int64_t n) {
    double value[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t more = pf_min(BLOCK, n - i);
        from->load(value, (const char *)src + i * ss * (int64_t)from->bytes, ss, more);
        to->store((char *)dst + i * ds * (int64_t)to->bytes, ds, value, more);
    }
}

static char *at(const void *base, const pf_dtype_row *row, int64_t offset) {
    return (char *)base + offset * (int64_t)row->bytes;
}

/* ---- a whole walk ---- */

/* Side 0 is written, side 1 read; both cover the same shape. A base is the address of the first
 * element, and the walk's offsets are in elements of its own row. */
typedef struct {
    pf_iter it;
    void *base[2];
    const pf_dtype_row *as[2];
} transfer;

static void copy_run(const transfer *job, const int64_t offset[2], int64_t n) {
    void *dst = at(job->base[0], job->as[0], offset[0]);
    const void *src = at(job->base[1], job->as[1], offset[1]);
    int64_t ds = job->it.inner_stride[0], ss = job->it.inner_stride[1];
    if (job->as[0] == job->as[1])
        move_run(dst, ds, src, ss, n);
    else
        convert_run(job->as[0], dst, ds, job->as[1], src, ss, n);
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
    return it->rank > 0 && job->as[0] == job->as[1] && it->inner_stride[0] == 1 &&
           it->inner_stride[1] > 1 && it->stride[1][it->rank - 1] == 1 && it->inner >= TILE &&
           it->shape[it->rank - 1] >= TILE;
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

/* engine NULL: on this thread. A task is GRAIN elements, or as many strips of a transposition. */
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

static void *base_of(const pf_tensor *t) {
    return at(t->storage->data, pf_dtype_find(t->dtype), t->offset);
}

/* Between a tensor (side `side`) and the caller's contiguous array. */
static int transfer_array(const pf_tensor *t, int side, void *array, const pf_dtype_row *row) {
    pf_tensor flat = {.rank = t->rank};
    memcpy(flat.shape, t->shape, sizeof flat.shape);
    pf_shape_strides(t->rank, t->shape, flat.stride);
    transfer job;
    job.base[side] = base_of(t), job.base[1 - side] = array;
    job.as[side] = pf_dtype_find(t->dtype), job.as[1 - side] = row;
    const pf_tensor *operands[2] = {side == 0 ? t : &flat, side == 0 ? &flat : t};
    pf_iter_make(&job.it, t->rank, t->shape, 2, operands);
    return run_transfer(pf_engine_lent(), &job);
}

static int transfer_tensor(pf_engine *engine, const pf_tensor *to, const pf_tensor *from) {
    transfer job = {.base = {base_of(to), base_of(from)},
                    .as = {pf_dtype_find(to->dtype), pf_dtype_find(from->dtype)}};
    const pf_tensor *operands[2] = {to, from};
    pf_iter_make(&job.it, to->rank, to->shape, 2, operands);
    return run_transfer(engine, &job);
}

/* ---- what fits ---- */

static int check_alive(const pf_tensor *t, const char *op, const char *arg) {
    return pf_tensor_check(t, t ? t->dtype : PF_F32, op, arg);
}

static int check_target(const pf_tensor *t, const char *op, const char *arg) {
    PF_TRY(check_alive(t, op, arg));
    return pf_tensor_check_writable(t, op);
}

static int check_fits(const pf_tensor *t, double value, const char *op) {
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    if (pf_dtype_fits(row, value, false)) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: an %s tensor %s cannot hold %g", op, row->name, pf_shape_of(t),
                   value);
}

/* Every element of a tensor that is to become one of row `to`, as it is or (cut) cut. */
static int check_holds(const pf_tensor *from, const pf_dtype_row *to, bool cut) {
    const pf_dtype_row *row = pf_dtype_find(from->dtype);
    pf_iter it;
    int64_t offset[PF_ITER_MAX];
    double value[BLOCK];
    pf_iter_make(&it, from->rank, from->shape, 1, &from);
    for (int64_t i = 0, n; i < it.outer * it.inner; i += n) {
        n = pf_min(it.inner - i % it.inner, BLOCK);
        pf_iter_at(&it, i / it.inner, offset);
        row->load(value, at(base_of(from), row, offset[0] + i % it.inner * it.inner_stride[0]),
                  it.inner_stride[0], n);
        if (i % GRAIN < n) PF_TRY(pf_check_lent());
        for (int64_t k = 0; k < n; k++)
            if (!pf_dtype_fits(to, value[k], cut))
                return pf_fail(PF_EINVAL, "copy: %s %s holds %g, which %s cannot", row->name,
                               pf_shape_of(from), value[k], to->name);
    }
    return PF_OK;
}

/* What the caller's array of so many bytes holds: the tensor's own elements, or doubles. */
static int row_of(const pf_tensor *t, size_t bytes, const char *op, const pf_dtype_row **row) {
    size_t n = (size_t)pf_tensor_numel(t);
    const pf_dtype_row *own = pf_dtype_find(t->dtype);
    *row = bytes == n * own->bytes ? own : &doubles;
    if (bytes == n * (*row)->bytes) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: %s has %zu elements, %zu bytes are neither %s nor double", op,
                   pf_shape_of(t), n, bytes, own->element);
}

/* ---- public ---- */

int pf_tensor_read(const pf_tensor *t, void *out, size_t bytes) {
    PF_NEED(t);
    PF_NEED_ARRAY(out, bytes);
    const pf_dtype_row *row;
    PF_TRY(check_alive(t, "read", "tensor"));
    PF_TRY(row_of(t, bytes, "read", &row));
    return transfer_array(t, 1, out, row);
}

int pf_tensor_write(pf_tensor *t, const void *in, size_t bytes) {
    PF_NEED(t);
    PF_NEED_ARRAY(in, bytes);
    const pf_dtype_row *row;
    PF_TRY(check_target(t, "write", "tensor"));
    PF_TRY(row_of(t, bytes, "write", &row));
    if (row == &doubles)
        for (int64_t i = 0, n = pf_tensor_numel(t); i < n; i++)
            PF_TRY(check_fits(t, ((const double *)in)[i], "write"));
    int status = transfer_array(t, 0, (void *)in, row);
    pf_tensor_touch(t, "write"); /* stopped, too: a part is written */
    return status;
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
    PF_NEED(t, out);
    int64_t offset;
    PF_TRY(locate(t, index, "get", &offset));
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    row->load(out, at(base_of(t), row, offset), 1, 1);
    return PF_OK;
}

int pf_tensor_set(pf_tensor *t, int64_t index, double value) {
    PF_NEED(t);
    int64_t offset;
    PF_TRY(locate(t, index, "set", &offset));
    PF_TRY(pf_tensor_check_writable(t, "set"));
    PF_TRY(check_fits(t, value, "set"));
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    row->store(at(base_of(t), row, offset), 1, &value, 1);
    pf_tensor_touch(t, "an assignment");
    return PF_OK;
}

int pf_tensor_fill(pf_tensor *t, double value) {
    PF_NEED(t);
    const pf_tensor one = {.rank = 0}, *operands[2] = {t, &one};
    const pf_dtype_row *row = pf_dtype_find(t->dtype);
    word bits = 0;
    PF_TRY(check_target(t, "fill", "tensor"));
    PF_TRY(check_fits(t, value, "fill"));
    row->store(&bits, 1, &value, 1);
    transfer job = {.base = {base_of(t), &bits}, .as = {row, row}};
    pf_iter_make(&job.it, t->rank, t->shape, 2, operands);
    int status = run_transfer(pf_engine_lent(), &job);
    pf_tensor_touch(t, "fill_");
    return status;
}

/* By way of a block of their own: two views of one storage may overlap, and the two shapes need
 * not be the same, if they have as many elements. */
static int copy_aside(const pf_tensor *to, const pf_tensor *from) {
    size_t bytes = (size_t)pf_tensor_numel(from) * pf_dtype_size(from->dtype);
    void *aside = pf_heap_alloc(from->heap, bytes);
    if (!aside) return PF_ENOMEM;
    int status = transfer_array(from, 1, aside, pf_dtype_find(from->dtype));
    if (status == PF_OK) status = transfer_array(to, 0, aside, pf_dtype_find(from->dtype));
    pf_heap_free(from->heap, aside, bytes);
    return status;
}

int pf_tensor_copy(pf_tensor *to, const pf_tensor *from) {
    PF_NEED(to, from);
    PF_TRY(check_target(to, "copy", "target"));
    PF_TRY(check_alive(from, "copy", "source"));
    if (!pf_same_shape(to, from))
        return pf_fail(PF_ESHAPE, "copy: source %s does not have the target's shape %s",
                       pf_shape_of(from), pf_shape_of(to));
    if (to->dtype != from->dtype) PF_TRY(check_holds(from, pf_dtype_find(to->dtype), true));
    int status;
    if (to->storage == from->storage)
        status = copy_aside(to, from);
    else
        status = transfer_tensor(pf_engine_lent(), to, from);
    pf_tensor_touch_from(to, from, "copy_");
    return status;
}

int pf_tensor_assign(const pf_tensor *to, const pf_tensor *from) {
    if (to->dtype != from->dtype) PF_TRY(check_holds(from, pf_dtype_find(to->dtype), false));
    return to->storage == from->storage ? copy_aside(to, from)
                                        : transfer_tensor(pf_engine_lent(), to, from);
}

int pf_tensor_set_row(pf_tensor *t, int64_t row, const pf_tensor *from) {
    PF_NEED(t, from);
    PF_TRY(check_target(t, "set row", "tensor"));
    PF_TRY(check_alive(from, "set row", "source"));
    int64_t rows = t->rank > 0 ? t->shape[0] : 0;
    if (row < 0 || row >= rows)
        return pf_fail(PF_EINVAL, "set row: position %s is outside %s", pf_place(row),
                       pf_shape_of(t));
    if (pf_tensor_numel(from) != pf_tensor_numel(t) / rows)
        return pf_fail(PF_ESHAPE, "set row: a row of %s has not the %lld elements of the source %s",
                       pf_shape_of(t), (long long)pf_tensor_numel(from), pf_shape_of(from));
    if (t->dtype != from->dtype) PF_TRY(check_holds(from, pf_dtype_find(t->dtype), false));
    pf_tensor place = {.storage = t->storage,
                       .dtype = t->dtype,
                       .rank = t->rank - 1,
                       .offset = t->offset + row * t->stride[0]};
    memcpy(place.shape, t->shape + 1, (size_t)place.rank * sizeof *place.shape);
    memcpy(place.stride, t->stride + 1, (size_t)place.rank * sizeof *place.stride);
    int status = copy_aside(&place, from);
    pf_tensor_touch_from(&place, from, "an assignment");
    return status;
}

/* Contents of `t` into the new tensor *out; on failure *out is released. */
static int fill_copy(pf_tensor **out, pf_engine *engine, const pf_tensor *t) {
    int status = transfer_tensor(engine, *out, t);
    if (status < 0) pf_tensor_release(out);
    return status;
}

int pf_tensor_detach(pf_tensor **out, pf_engine *engine, const pf_tensor *t) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(t);
    PF_TRY(check_alive(t, "detach", "tensor"));
    PF_TRY(pf_charge(engine, PF_WORK_OP + pf_work_of(2 * (double)pf_tensor_numel(t), 0)));
    PF_TRY(pf_tensor_make_lasting(out, engine->heap, t->dtype, t->rank, t->shape));
    return fill_copy(out, engine, t);
}

/* On this thread, where nothing stops it half way. */
void pf_tensor_put(pf_tensor *to, const pf_tensor *from) { transfer_tensor(NULL, to, from); }

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
