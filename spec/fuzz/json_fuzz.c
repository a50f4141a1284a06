/* json_fuzz.c - any bytes as JSON; what is read must write and read again. */
#include "fuzz_file.h"

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
    }
    pf_config_free(node);
    return 0;
}
