/*
 * hash.c - checksums, XXH3 of 128 bits, as file.h says: of bytes, and of bytes as they come.
 */
#include <stdio.h>

#define XXH_STATIC_LINKING_ONLY /* the size of a state */
#include <xxhash.h>

#include "file.h"

static void put_hex(XXH128_hash_t value, char hash[PF_HASH_TEXT]) {
    snprintf(hash, PF_HASH_TEXT, "%016llx%016llx", (unsigned long long)value.high64,
             (unsigned long long)value.low64);
}

void pf_hash_bytes(const void *data, size_t bytes, char hash[PF_HASH_TEXT]) {
    put_hex(XXH3_128bits(data, bytes), hash);
}

int pf_hash_begin(pf_hash *hash, pf_heap *heap) {
    *hash = (pf_hash){heap, pf_heap_alloc(heap, sizeof(XXH3_state_t))};
    if (!hash->state) return PF_ENOMEM;
    XXH3_INITSTATE((XXH3_state_t *)hash->state);
    XXH3_128bits_reset(hash->state);
    return PF_OK;
}

void pf_hash_put(pf_hash *hash, const void *data, size_t bytes) {
    XXH3_128bits_update(hash->state, data, bytes);
}

void pf_hash_hex(const pf_hash *hash, char text[PF_HASH_TEXT]) {
    put_hex(XXH3_128bits_digest(hash->state), text);
}

void pf_hash_end(pf_hash *hash) {
    pf_heap_free(hash->heap, hash->state, sizeof(XXH3_state_t));
    hash->state = NULL;
}
