/*
 * tokenizer_fuzz.c - any bytes as text and as ids of the fixed vocabularies: an error or ids of the
 * vocabulary, as many as were told beforehand; ids that come of a text give a text of the same ids.
 */
#include <stdlib.h>

#include "fuzz_file.h"

static const char *const types[] = {"byte", "protein", "proteins", ""};

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const texts[] = {"1MKVLAAGIVGBZXUOJ", "0any bytes", "1mkv la\n", "2A", "3A"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        give((const uint8_t *)texts[i], strlen(texts[i]));
}

/* NULL: refused. Exactly as much memory as was said. */
static int32_t *encode(const char *type, const char *text, size_t bytes, size_t *n) {
    size_t told = 0;
    if (pf_tokenizer_encode(type, text, bytes, NULL, &told) < 0) return NULL;
    int32_t *ids = malloc((told ? told : 1) * sizeof *ids);
    *n = told;
    if (!ids || pf_tokenizer_encode(type, text, bytes, ids, n) < 0 || *n != told) __builtin_trap();
    for (size_t i = 0; i < told; i++) {
        if (ids[i] < 0 || ids[i] >= pf_tokenizer_size(type)) __builtin_trap();
    }
    return ids;
}

static char *decode(const char *type, const int32_t *ids, size_t n, size_t *bytes) {
    size_t told = 0;
    if (pf_tokenizer_decode(type, ids, n, NULL, &told) < 0) return NULL;
    char *text = malloc(told ? told : 1);
    *bytes = told;
    if (!text || pf_tokenizer_decode(type, ids, n, text, bytes) < 0 || *bytes != told)
        __builtin_trap();
    return text;
}

static void there_and_back(const char *type, const char *text, size_t size) {
    size_t n = 0, bytes = 0, again = 0;
    int32_t *ids = encode(type, text, size, &n);
    char *back = ids ? decode(type, ids, n, &bytes) : NULL;
    int32_t *same = back ? encode(type, back, bytes, &again) : NULL;
    if (ids && (!same || again != n || memcmp(ids, same, n * sizeof *ids))) __builtin_trap();
    fuzz_good += ids && n > 0;
    free(ids), free(back), free(same);
}

/* The bytes are ids as they stand, most of them of no vocabulary. */
static void any_ids(const char *type, const uint8_t *data, size_t size) {
    size_t n = size / sizeof(int32_t), bytes = 0;
    int32_t *ids = malloc(size + 1);
    if (!ids) return;
    memcpy(ids, data, n * sizeof *ids);
    free(decode(type, ids, n, &bytes));
    for (size_t i = 0; i < n; i++) ids[i] = data[i] % 64;
    free(decode(type, ids, n, &bytes));
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const char *type = types[data[0] % 4];
    there_and_back(type, (const char *)data + 1, size - 1);
    any_ids(type, data + 1, size - 1);
    return 0;
}
