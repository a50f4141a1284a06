/* json_fuzz.c - any bytes as JSON; what is read must write and read again. */
#include "change_json.h"

const char *const fuzz_words[] = {"null",    "true",  "false", "[",   "]",        "{",
                                  "}",       ":",     ",",     "\"",  "\\u0000",  "\\ud800",
                                  "\\udc00", "1e309", "-0",    "\\n", "\xc3\xa9", "\xed\xa0\x80",
                                  "\"a\":",  NULL};

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const texts[] = {
        "null",
        "[]",
        "{\"a\": [1, -2.5e3, true, null], \"b\": {\"c\": \"d\\n\\u00e9\"}}",
        "[[[[[[0.1]]]]], \"\\ud83d\\ude00\", {}]",
        "\"text\"",
        "-1e-7"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        give((const uint8_t *)texts[i], strlen(texts[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_config *node = NULL, *again = NULL;
    char *text = NULL;
    if (pf_json_parse(&node, (const char *)data, size) < 0) return 0;
    if (pf_json_write(&text, node, false) >= 0) {
        size_t bytes = 0;
        while (text[bytes]) bytes++;
        if (pf_json_parse(&again, text, bytes) < 0) __builtin_trap();
        pf_config_free(again);
        pf_text_free(text);
        fuzz_good++;
    }
    pf_config_free(node);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return change_json(data, size, max_size, seed);
}
