/* lanes_support.h - what tests of steps in lanes share: hashes of weights and of what an optimizer
 * keeps, the same on all ranks. */
#ifndef PF_LANES_SUPPORT_H
#define PF_LANES_SUPPORT_H

#include "nn_support.h"
#include "ranks.h"

static const uint64_t HASH_START = 14695981039346656037u;

static inline uint64_t hash_bytes(uint64_t bits, const void *data, size_t n) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) bits = (bits ^ bytes[i]) * 1099511628211u;
    return bits;
}

static inline uint64_t hash_tensor(uint64_t bits, pf_tensor *t) {
    const uint32_t *words = pf_tensor_data(t);
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) bits = (bits ^ words[i]) * 1099511628211u;
    return bits;
}

static inline int hash_weights(uint64_t *bits, pf_module *m) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *w;
        PF_TRY(pf_module_tensor_at(m, i, NULL, &w, NULL));
        *bits = hash_tensor(*bits, w);
    }
    return PF_OK;
}

/* Of the whole that rank 0 gathers, in the order of a file; a verb. */
static inline int hash_kept(uint64_t *bits, pf_engine *e, pf_optimizer *o) {
    pf_named *kept = NULL;
    uint64_t sum = *bits;
    int n = 0, status = pf_optimizer_gather(o, e);
    PF_TRY(status);
    if (pf_comm_rank(e) == 0) status = pf_optimizer_tensors(o, &kept, &n);
    for (int i = 0; i < n; i++) sum = hash_tensor(sum, kept[i].tensor);
    if (kept) pf_heap_free(e->heap, kept, (size_t)n * sizeof *kept);
    pf_optimizer_let_go(o);
    PF_TRY(pf_comm_share(e, status, 0, &sum, sizeof sum));
    *bits = hash_bytes(*bits, &sum, sizeof sum);
    return PF_OK;
}

/* The bits of a training on so many ranks, which it leaves in bits[rank]: of all the same. */
static inline uint64_t bits_on(int ranks, int threads,
                               int (*train)(pf_engine *engine, int rank, void *context),
                               void *context, const uint64_t *bits) {
    ranks_world w = {.ranks = ranks, .threads = threads, .whole = true};
    int same = 0;
    ranks_run(&w, train, context);
    for (int r = 0; r < ranks; r++) {
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
        same += w.status[r] == PF_OK && bits[r] == bits[0];
    }
    CHECK(same == ranks);
    return bits[0];
}

#endif
