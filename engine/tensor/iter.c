/*
 * iter.c - walking strided memory as a number of runs. What must hold: runs stand in
 * row-major order of the walked shape and all have `inner` elements, so that run i of a
 * contiguous result begins at i * inner. Dimensions are merged, never reordered.
 */
#include "tensor.h"

/* The stride of dimension d of `shape` in an operand aligned at the right: 0 where it is
 * broadcast. */
static int64_t stride_of(const pf_tensor *t, int rank, int d) {
    int own = d - (rank - t->rank);
    return own < 0 || t->shape[own] == 1 ? 0 : t->stride[own];
}

/* May a dimension (stride `outer`) and the one inside it (stride `inner`, size n) be walked
 * as one by every operand? */
static bool mergeable(const pf_iter *it, const int64_t *outer, const int64_t *inner, int64_t n) {
    for (int k = 0; k < it->n; k++)
        if (outer[k] != inner[k] * n) return false;
    return true;
}

/* Collects the merged dimensions from the innermost outward, at 0 the inner run. */
void pf_iter_make(pf_iter *it, int rank, const int64_t *shape, int n,
                  const pf_tensor *const *operands) {
    int64_t size[PF_MAX_RANK + 1] = {1}, step[PF_MAX_RANK + 1][PF_ITER_MAX] = {{0}};
    int dims = 0;
    it->n = n;
    for (int d = rank - 1; d >= 0; d--) {
        int64_t here[PF_ITER_MAX] = {0};
        if (shape[d] == 1) continue;
        for (int k = 0; k < n; k++) here[k] = stride_of(operands[k], rank, d);
        if (dims > 0 && mergeable(it, here, step[dims - 1], size[dims - 1])) {
            size[dims - 1] *= shape[d];
            continue;
        }
        size[dims] = shape[d];
        for (int k = 0; k < n; k++) step[dims][k] = here[k];
        dims++;
    }
    it->inner = size[0];
    for (int k = 0; k < n; k++) it->inner_stride[k] = dims ? step[0][k] : 1;
    it->rank = dims > 1 ? dims - 1 : 0;
    it->outer = 1;
    for (int i = 0; i < it->rank; i++) {
        int from = dims - 1 - i; /* outermost first */
        it->shape[i] = size[from];
        it->outer *= size[from];
        for (int k = 0; k < n; k++) it->stride[k][i] = step[from][k];
    }
    if (it->inner == 0) it->outer = 0;
}

void pf_iter_at(const pf_iter *it, int64_t index, int64_t *offsets) {
    for (int k = 0; k < it->n; k++) offsets[k] = 0;
    for (int i = it->rank - 1; i >= 0; i--) {
        int64_t at = index % it->shape[i];
        index /= it->shape[i];
        for (int k = 0; k < it->n; k++) offsets[k] += at * it->stride[k][i];
    }
}
