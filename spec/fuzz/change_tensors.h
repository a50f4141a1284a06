/* change_tensors.h - changes to a safetensors file that leave it one: of what it holds, and of its
 * header with the length before it put right. */
#ifndef PF_FUZZ_CHANGE_TENSORS_H
#define PF_FUZZ_CHANGE_TENSORS_H

#include <stdlib.h>

#include "fuzz_file.h"

#define CHANGED "memory:changed"

enum { CHANGED_MOST = 1 << 16 }; /* numbers of a tensor */

/* Changes one text of the metadata. */
static inline void change_text(pf_config *meta, unsigned seed) {
    char text[512];
    int n = pf_config_size(meta);
    if (n == 0) return;
    const char *key = pf_config_key(meta, (int)(seed % (unsigned)n));
    const char *old = pf_config_string(pf_config_get(meta, key));
    size_t length = old ? strlen(old) : 0;
    if (length > sizeof text / 2) return;
    memcpy(text, old ? old : "", length);
    text[LLVMFuzzerMutate((uint8_t *)text, length, sizeof text - 1)] = 0;
    pf_config_set_string(meta, key, text);
}

/* One tensor goes, or gets another size in one dimension: its numbers go with it. How many there
 * are then; -1: those of it would be more than `most` bytes. */
static inline int change_tensor(pf_named *list, int n, size_t most, unsigned seed) {
    static const int64_t sizes[] = {0, 0, 1, 3, 16, 65536};
    if (n == 0) return 0;
    pf_named *t = &list[seed % (unsigned)n];
    int64_t shape[PF_MAX_RANK], total = 1;
    int rank = pf_tensor_rank(t->tensor);
    unsigned pick = seed / 64;
    if (pick % 8 == 0 || rank == 0) {
        pf_named last = list[n - 1];
        list[n - 1] = *t, *t = last;
        return n - 1;
    }
    for (int d = 0; d < rank; d++) shape[d] = pf_tensor_size(t->tensor, d);
    shape[pick / 8 % (unsigned)rank] = sizes[pick / 64 % 6];
    for (int d = 0; d < rank; d++) total *= shape[d];
    pf_dtype dtype = pick / 512 % 8 == 0 ? PF_I32 : pf_tensor_dtype(t->tensor);
    pf_tensor *other = NULL;
    if (total > CHANGED_MOST || (size_t)total * pf_dtype_size(dtype) > most ||
        pf_tensor_full(&other, fuzz_engine(), dtype, rank, shape, 1) < 0)
        return -1;
    pf_tensor_release(&t->tensor);
    t->tensor = other;
    return n;
}

/* A whole file again after a change of what it holds; 0: the input is none. */
static inline size_t change_content(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    pf_engine *e = fuzz_engine();
    pf_named *list = NULL;
    pf_config *meta = NULL;
    int n = 0;
    if (pf_memory_lend(e, CHANGED, data, size) < 0) __builtin_trap();
    if (pf_safetensors_load(e, CHANGED, &list, &n, &meta) < 0) return 0;
    int kept = n;
    if (meta && seed % 2 == 0)
        change_text(meta, seed / 2);
    else
        kept = change_tensor(list, n, max_size, seed / 2);
    int status = meta && kept >= 0 ? pf_safetensors_save(e, CHANGED, list, kept, meta) : PF_EFORMAT;
    pf_named_free(list, n);
    pf_config_free(meta);
    return status >= 0 ? fuzz_bytes(CHANGED, data, max_size) : 0;
}

/* Changes the header or what follows it, and puts the header's length right. */
static inline size_t change_bytes(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint64_t header = 0;
    if (size >= 8) memcpy(&header, data, 8);
    if (size < 8 || header > size - 8 || seed % 16 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    size_t rest = size - 8 - (size_t)header;
    if (seed % 3 == 0) {
        uint8_t *from = data + 8 + header;
        return 8 + (size_t)header + LLVMFuzzerMutate(from, rest, max_size - 8 - (size_t)header);
    }
    uint8_t *kept = malloc(rest + 1);
    if (!kept || max_size < 16 + rest) return free(kept), size;
    memcpy(kept, data + 8 + header, rest);
    header = LLVMFuzzerMutate(data + 8, (size_t)header, max_size - 8 - rest);
    memcpy(data, &header, 8);
    memcpy(data + 8 + header, kept, rest);
    free(kept);
    return 8 + (size_t)header + rest;
}

static inline size_t change_tensors(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint8_t *kept = seed % 4 ? malloc(size + 1) : NULL;
    if (kept) memcpy(kept, data, size);
    size_t changed = kept ? change_content(data, size, max_size, seed / 4) : 0;
    if (kept && changed == 0) memcpy(data, kept, size);
    free(kept);
    return changed > 0 ? changed : change_bytes(data, size, max_size, seed / 4);
}

#endif
