/*
 * clip.c - the global norm of a set of gradients. Squares are summed in double over fixed
 * blocks and the blocks added in order, so the norm's bits don't depend on the threads.
 */
#include <math.h>

#include "clip.h"
#include "kern.h"

enum { BLOCK = 1 << 15 };

typedef struct norm_job {
    const pf_kern *kern;
    pf_tensor *const *grads;
    const int64_t *first; /* first block of each gradient, n + 1 of them */
    int n;
    double *sums; /* one a block */
} norm_job;

static void norm_task(void *context, int64_t task, void *scratch) {
    const norm_job *job = context;
    int g = 0;
    (void)scratch;
    while (job->first[g + 1] <= task) g++;
    int64_t start = (task - job->first[g]) * BLOCK;
    int64_t n = pf_min(BLOCK, pf_tensor_numel(job->grads[g]) - start);
    job->sums[task] = job->kern->sumsq_double(n, pf_f32(job->grads[g]) + start);
}

static int64_t blocks_of(const pf_tensor *t) { return pf_ceil_div(pf_tensor_numel(t), BLOCK); }

/* The sum over blocks first .. last-1, in their order. */
static double sum_of(const double *sums, int64_t first, int64_t last) {
    double sum = 0;
    for (int64_t i = first; i < last; i++) sum += sums[i];
    return sum;
}

int pf_grad_norm(pf_engine *e, pf_tensor *const *grads, int n, double more, double *norm,
                 int *bad) {
    size_t first_bytes = (size_t)(n + 1) * sizeof(int64_t);
    int64_t *first = pf_heap_alloc(e->heap, first_bytes);
    if (!first) return PF_ENOMEM;
    first[0] = 0;
    for (int i = 0; i < n; i++) first[i + 1] = first[i] + blocks_of(grads[i]);
    size_t bytes = (size_t)first[n] * sizeof(double);
    double *sums = pf_heap_alloc(e->heap, bytes);
    norm_job job = {e->kern, grads, first, n, sums};
    int status = sums ? pf_parallel(e, first[n], 0, norm_task, &job) : PF_ENOMEM;
    *bad = -1;
    for (int i = n - 1; status >= 0 && i >= 0; i--) {
        if (!isfinite(sum_of(sums, first[i], first[i + 1]))) *bad = i;
    }
    if (status >= 0) *norm = sqrt(sum_of(sums, 0, first[n]) + more);
    if (sums) pf_heap_free(e->heap, sums, bytes);
    pf_heap_free(e->heap, first, first_bytes);
    return status;
}
