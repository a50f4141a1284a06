/* clip.c - see clip.h. */
#include "clip.h"

#include <math.h>

#include "kern.h"

int pf_norm_open(pf_norm *m, pf_engine *e, pf_tensor *const *grads, int n) {
    int64_t blocks = 0;
    for (int i = 0; i < n; i++) blocks += pf_ceil_div(pf_tensor_numel(grads[i]), PF_NORM_BLOCK);
    *m = (pf_norm){.grads = grads, .n = n};
    m->bytes = (size_t)(n + 1) * sizeof *m->first + (size_t)blocks * sizeof *m->sums;
    m->first = pf_heap_alloc(e->heap, m->bytes);
    if (!m->first) return PF_ENOMEM;
    m->sums = (double *)(m->first + n + 1);
    m->first[0] = 0;
    for (int i = 0; i < n; i++)
        m->first[i + 1] = m->first[i] + pf_ceil_div(pf_tensor_numel(grads[i]), PF_NORM_BLOCK);
    return PF_OK;
}

typedef struct {
    const pf_kern *kern;
    const pf_norm *norm;
    const int64_t *list;
} job;

static void sum_block(void *context, int64_t task, void *scratch) {
    const job *j = context;
    const pf_norm *m = j->norm;
    int64_t block = j->list ? j->list[task] : task;
    int g = 0;
    (void)scratch;
    while (m->first[g + 1] <= block) g++;
    int64_t start = (block - m->first[g]) * PF_NORM_BLOCK;
    int64_t n = pf_min(PF_NORM_BLOCK, pf_tensor_numel(m->grads[g]) - start);
    m->sums[block] = j->kern->sumsq_double(n, pf_f32(m->grads[g]) + start);
}

int pf_norm_sum(const pf_norm *m, pf_engine *e, const int64_t *list, int64_t count) {
    job j = {e->kern, m, list};
    return pf_parallel(e, count, 0, sum_block, &j);
}

/* The sum over blocks first .. last-1, in their order. */
static double sum_of(const double *sums, int64_t first, int64_t last) {
    double sum = 0;
    for (int64_t i = first; i < last; i++) sum += sums[i];
    return sum;
}

double pf_norm_tell(const pf_norm *m, double more, int *bad) {
    *bad = -1;
    for (int i = m->n - 1; i >= 0; i--)
        if (!isfinite(sum_of(m->sums, m->first[i], m->first[i + 1]))) *bad = i;
    return sqrt(sum_of(m->sums, 0, m->first[m->n]) + more);
}

void pf_norm_close(pf_norm *m, pf_engine *e) {
    if (m->first) pf_heap_free(e->heap, m->first, m->bytes);
    m->first = NULL;
}

int pf_grad_norm(pf_engine *e, pf_tensor *const *grads, int n, double more, double *norm,
                 int *bad) {
    pf_norm m;
    *bad = -1;
    PF_TRY(pf_norm_open(&m, e, grads, n));
    int status = pf_norm_sum(&m, e, NULL, m.first[n]);
    if (status >= 0) *norm = pf_norm_tell(&m, more, bad);
    pf_norm_close(&m, e);
    return status;
}
