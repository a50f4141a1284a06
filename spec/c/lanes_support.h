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
    return hash_bytes(bits, pf_tensor_data(t), (size_t)pf_tensor_numel(t) * 4);
}

static inline int hash_weights(uint64_t *bits, pf_module *m) {
    for (int i = 0; i < pf_module_tensor_count(m); i++) {
        pf_tensor *w;
        PF_TRY(pf_module_tensor_at(m, i, NULL, &w, NULL));
        *bits = hash_tensor(*bits, w);
    }
    return PF_OK;
}

#endif
