/*
 * assign.c - a part of a tensor written over: a box of positions, or the rows that a mask keeps.
 * What must hold: nothing is written before all has been checked; what is given is stretched as
 * operators stretch it (aligned from the right, sizes of 1), read before it is written over, and
 * changed to the tensor's dtype only where it holds every number.
 */
#include <string.h>

#include "tensor.h"

enum { LOOK = 1 << 16 }; /* elements between two looks at whether to stop */

typedef uint32_t __attribute__((may_alias)) word;

/* *out = the header of `from` stretched to the shape. */
static int stretch(pf_tensor *out, const pf_tensor *from, int rank, const int64_t *shape) {
    int more = rank - from->rank;
    bool fits = more >= 0;
    *out = pf_tensor_place(from);
    out->rank = rank;
    for (int d = 0; d < rank && fits; d++) {
        int64_t own = d < more ? 1 : from->shape[d - more];
        fits = own == shape[d] || own == 1;
        out->shape[d] = shape[d];
        out->stride[d] = own == shape[d] && d >= more ? from->stride[d - more] : 0;
    }
    if (fits) return PF_OK;
    return pf_fail(PF_ESHAPE, "assignment: %s does not fill the part %s", pf_shape_of(from),
                   pf_shape_text(rank, shape));
}

static int check(const pf_tensor *t, const pf_tensor *from) {
    PF_TRY(pf_tensor_check(t, t->dtype, "assignment", "tensor"));
    PF_TRY(pf_tensor_check_writable(t, "assignment"));
    return pf_tensor_check(from, from->dtype, "assignment", "source");
}

/* `to`, a header, := `from` stretched to its shape. */
static int fill_part(const pf_tensor *to, const pf_tensor *from) {
    pf_tensor whole;
    PF_TRY(stretch(&whole, from, to->rank, to->shape));
    return pf_tensor_assign(to, &whole);
}

/* ---- a box -------------------------------------------------------------------- */

int pf_tensor_set_part(pf_tensor *t, const int64_t *first, const int64_t *end, int n,
                       const pf_tensor *from) {
    PF_NEED(t, from);
    PF_NEED_ARRAY(first, n);
    PF_NEED_ARRAY(end, n);
    PF_TRY(check(t, from));
    if (n < 0 || n > t->rank)
        return pf_fail(PF_ESHAPE, "assignment: %d ranges, but %s has %d dimensions", n,
                       pf_shape_of(t), t->rank);
    pf_tensor part = pf_tensor_place(t);
    part.rank = 0;
    for (int d = 0; d < t->rank; d++) {
        bool one = d < n && end[d] == PF_PART_ONE;
        int64_t begin = d < n ? first[d] : 0;
        int64_t after = one ? begin + 1 : d < n ? end[d] : t->shape[d];
        if (begin < 0 || after < begin || after > t->shape[d])
            return pf_fail(PF_EINVAL,
                           "assignment: the range [%lld, %lld) (from 0, end excluded) does not lie "
                           "in dimension %s of %s",
                           (long long)begin, (long long)after, pf_place_dim(d), pf_shape_of(t));
        if (after > begin) part.offset += begin * t->stride[d];
        if (one) continue;
        part.shape[part.rank] = after - begin;
        part.stride[part.rank++] = t->stride[d];
    }
    int status = fill_part(&part, from);
    pf_tensor_touch_from(&part, from, "an assignment");
    return status;
}

/* ---- rows of a mask ------------------------------------------------------------ */

/* The offset of row-major element i of the first `rank` dimensions. */
static int64_t offset_of(const pf_tensor *t, int rank, int64_t i) {
    int64_t offset = 0;
    for (int d = rank - 1; d >= 0; d--) {
        offset += i % t->shape[d] * t->stride[d];
        i /= t->shape[d];
    }
    return offset;
}

/* *kept = how many elements of a mask of 1 and 0 are 1. */
static int count_kept(const pf_tensor *mask, int64_t *kept) {
    *kept = 0;
    for (int64_t i = 0, n = pf_tensor_numel(mask); i < n; i++) {
        if (i % LOOK == 0) PF_TRY(pf_check_lent());
        int32_t keep = pf_i32(mask)[offset_of(mask, mask->rank, i)];
        if (keep != 0 && keep != 1)
            return pf_fail(PF_EINVAL,
                           "assignment: a mask is of 1 and 0, element %s of mask %s is %d",
                           pf_place(i), pf_shape_of(mask), keep);
        *kept += keep;
    }
    return PF_OK;
}

/* Rows of `from`, contiguous, go to where the mask is 1; a row is a box of t's last dimensions. */
static int put_rows(const pf_tensor *t, const pf_tensor *mask, const pf_tensor *from) {
    pf_tensor row = pf_tensor_place(t);
    const word *source = (const word *)pf_f32(from);
    row.rank = t->rank - mask->rank;
    memmove(row.shape, row.shape + mask->rank, (size_t)row.rank * sizeof *row.shape);
    memmove(row.stride, row.stride + mask->rank, (size_t)row.rank * sizeof *row.stride);
    int64_t width = pf_tensor_numel(&row), contiguous = pf_tensor_contiguous(&row);
    for (int64_t i = 0, put = 0, n = pf_tensor_numel(mask); i < n; i++) {
        if (i % LOOK == 0 || put > LOOK) {
            PF_TRY(pf_check_lent());
            put = 0;
        }
        if (!pf_i32(mask)[offset_of(mask, mask->rank, i)]) continue;
        word *to = (word *)pf_f32(t) + offset_of(t, mask->rank, i);
        if (contiguous)
            memcpy(to, source, (size_t)width * sizeof *to);
        else
            for (int64_t k = 0; k < width; k++) to[offset_of(&row, row.rank, k)] = source[k];
        source += width, put += width;
    }
    return PF_OK;
}

/* By a mask that no write changes. */
static int fill_masked(pf_tensor *t, const pf_tensor *mask, const pf_tensor *from) {
    int64_t shape[PF_MAX_RANK];
    PF_TRY(count_kept(mask, &shape[0]));
    int rank = t->rank - mask->rank + 1;
    for (int d = 1; d < rank; d++) shape[d] = t->shape[mask->rank + d - 1];
    pf_tensor *rows;
    PF_TRY(pf_tensor_make_lasting(&rows, t->heap, t->dtype, rank, shape));
    int status = fill_part(rows, from);
    if (status >= 0) status = put_rows(t, mask, rows);
    pf_tensor_release(&rows);
    return status;
}

int pf_tensor_set_masked(pf_tensor *t, const pf_tensor *mask, const pf_tensor *from) {
    PF_NEED(t, mask, from);
    pf_tensor *own;
    PF_TRY(check(t, from));
    PF_TRY(pf_tensor_check(mask, PF_I32, "assignment", "mask"));
    bool leads = mask->rank > 0 && mask->rank <= t->rank;
    for (int d = 0; leads && d < mask->rank; d++) leads = mask->shape[d] == t->shape[d];
    if (!leads)
        return pf_fail(PF_ESHAPE,
                       "assignment: the mask %s must have the shape of the tensor %s, or its first "
                       "sizes",
                       pf_shape_of(mask), pf_shape_of(t));
    /* It may lie where t does, in another order. */
    PF_TRY(pf_tensor_make_lasting(&own, t->heap, PF_I32, mask->rank, mask->shape));
    int status = pf_tensor_copy(own, mask);
    if (status >= 0) status = fill_masked(t, own, from);
    pf_tensor_release(&own);
    pf_tensor_touch_from(t, from, "an assignment");
    return status;
}
