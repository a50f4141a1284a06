/* row_set.c - see row_set.h. */
#include "row_set.h"

static size_t bytes_of(int64_t rows) {
    return (size_t)pf_ceil_div(rows, PF_ROW_SET_BITS) * sizeof(uint64_t);
}

int pf_row_set_open(pf_row_set *set, pf_heap *heap, int64_t rows) {
    *set = (pf_row_set){.heap = heap, .rows = rows};
    set->word = pf_heap_zalloc(heap, bytes_of(rows));
    return set->word ? PF_OK : PF_ENOMEM;
}

void pf_row_set_close(pf_row_set *set) {
    if (set->word) pf_heap_free(set->heap, set->word, bytes_of(set->rows));
    set->word = NULL;
}

void pf_row_set_add(pf_row_set *set, const int32_t *row, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        set->word[row[i] / PF_ROW_SET_BITS] |= (uint64_t)1 << (row[i] % PF_ROW_SET_BITS);
}

int pf_row_set_list(const pf_row_set *set, pf_tensor **list) {
    int64_t words = pf_ceil_div(set->rows, PF_ROW_SET_BITS), n = 0, at = 0;
    for (int64_t w = 0; w < words; w++) n += __builtin_popcountll(set->word[w]);
    PF_TRY(pf_tensor_make_lasting(list, set->heap, PF_I32, 1, &n));
    int32_t *row = pf_i32(*list);
    for (int64_t w = 0; w < words; w++)
        for (uint64_t bits = set->word[w]; bits; bits &= bits - 1)
            row[at++] = (int32_t)(w * PF_ROW_SET_BITS + __builtin_ctzll(bits));
    return PF_OK;
}
