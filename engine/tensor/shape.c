/*
 * shape.c - shapes as pure arithmetic: counting, strides, broadcasting, text. What must
 * hold: a shape that passed pf_shape_valid can be counted, strided and sized in bytes
 * without overflow.
 */
#include <stdio.h>

#include "tensor.h"

enum { TEXTS = 8, TEXT_BYTES = PF_MAX_RANK * 22 + 4 };

int64_t pf_shape_numel(int rank, const int64_t *shape) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
}

/* A dimension of 0 must not hide the others: strides multiply them all the same. */
int pf_shape_valid(int rank, const int64_t *shape, pf_dtype dtype, const char *where) {
    if (rank < 0 || rank > PF_MAX_RANK)
        return pf_fail(PF_ESHAPE, "%s: a tensor has 0 to %d dimensions, not %d", where, PF_MAX_RANK,
                       rank);
    if (rank > 0 && !shape) return pf_fail(PF_EINVAL, "%s: the shape is missing", where);
    int64_t most = PTRDIFF_MAX / 2 / (int64_t)pf_dtype_size(dtype), n = 1;
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0)
            return pf_fail(PF_ESHAPE, "%s: %s has a negative size in dimension %s", where,
                           pf_shape_text(rank, shape), pf_place_dim(i));
        if (shape[i] > most / n)
            return pf_fail(PF_ESHAPE, "%s: %s has more elements than memory can address", where,
                           pf_shape_text(rank, shape));
        n *= pf_max(shape[i], 1);
    }
    return PF_OK;
}

void pf_shape_strides(int rank, const int64_t *shape, int64_t *stride) {
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
        stride[i] = step;
        step *= pf_max(shape[i], 1);
    }
}

/* Aligned at the last dimension; sizes agree or one is 1. */
int pf_shape_broadcast(int ra, const int64_t *a, int rb, const int64_t *b, int *rank,
                       int64_t *shape, int *axis) {
    int r = ra > rb ? ra : rb;
    *rank = r;
    for (int i = 0; i < r; i++) {
        int64_t na = i < r - ra ? 1 : a[i - (r - ra)], nb = i < r - rb ? 1 : b[i - (r - rb)];
        if (na != nb && na != 1 && nb != 1) {
            if (axis) *axis = i;
            return PF_ESHAPE;
        }
        shape[i] = na == 1 ? nb : na;
    }
    return PF_OK;
}

int pf_dim(int dim, int rank, const char *op, int *out) {
    int d = dim < 0 ? dim + rank : dim;
    if (rank == 0)
        return pf_fail(PF_ESHAPE, "%s: a scalar has no dimension %s", op, pf_place_dim(dim));
    if (d < 0 || d >= rank)
        return pf_fail(PF_ESHAPE, "%s: no dimension %s in a tensor of rank %d (%s to %s)", op,
                       pf_place_dim(dim), rank, pf_place_dim(-rank), pf_place_dim(rank - 1));
    *out = d;
    return PF_OK;
}

const char *pf_shape_text(int rank, const int64_t *shape) {
    static _Thread_local char texts[TEXTS][TEXT_BYTES];
    static _Thread_local unsigned turn;
    char *text = texts[turn++ % TEXTS];
    size_t used = 0;
    text[used++] = '[';
    for (int i = 0; i < rank && i < PF_MAX_RANK; i++)
        used += (size_t)snprintf(text + used, TEXT_BYTES - used, "%s%lld", i ? ", " : "",
                                 (long long)shape[i]);
    text[used++] = ']';
    text[used] = '\0';
    return text;
}

const char *pf_shape_of(const pf_tensor *t) {
    return t ? pf_shape_text(t->rank, t->shape) : "none";
}

bool pf_same_shape(const pf_tensor *a, const pf_tensor *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}
