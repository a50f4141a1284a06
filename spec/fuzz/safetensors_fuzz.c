/* safetensors_fuzz.c - any bytes as a safetensors file: an error, or tensors that are the same
 * when they are saved and loaded again. */
#include "fuzz_file.h"
#include "change_tensors.h"

#define AGAIN "memory:again"

const char *const fuzz_words[] = {
    "\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"F32\"", "\"I32\"", "\"BF16\"", "\"F16\"",
    "\"F64\"",   "\"BOOL\"",  "\"__metadata__\"", "[]",      "[0,0]",   "null",     "\\u0000",
    "\"I64\"",   NULL};

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const texts[] = {
        "{}",
        "{\"__metadata__\":{\"a\":\"b\"},\"t\":{\"dtype\":\"F32\",\"shape\":[2],"
        "\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[4,12]},"
        "\"c\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[12,12]}}",
        "{\"h\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]},"
        "\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]},"
        "\"o\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[16,19]}}",
    };
    static const size_t data[] = {0, 8, 12, 19};
    uint8_t bytes[512];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint64_t n = strlen(texts[i]);
        memset(bytes, 1, sizeof bytes);
        memcpy(bytes, &n, 8);
        memcpy(bytes + 8, texts[i], n);
        give(bytes, 8 + n + data[i]);
    }
}

/* A file may have a tensor without a name, which is not written. */
static bool is_nameless(const pf_named *tensors, int n) {
    for (int i = 0; i < n; i++)
        if (!tensors[i].name[0]) return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pf_engine *e = fuzz_engine();
    const char *path = fuzz_path(data, size);
    pf_named *tensors = NULL, *same = NULL;
    pf_config *metadata = NULL, *info = NULL;
    int n = 0, again = 0;
    if (pf_safetensors_load(e, path, &tensors, &n, &metadata) >= 0) {
        int status = pf_safetensors_save(e, AGAIN, tensors, n, metadata);
        if (status != (is_nameless(tensors, n) ? PF_EINVAL : PF_OK)) __builtin_trap();
        if (status < 0)
            again = n;
        else if (pf_safetensors_load(e, AGAIN, &same, &again, NULL) < 0 || again != n)
            __builtin_trap();
        pf_named_free(same, again);
        pf_named_free(tensors, n);
        pf_config_free(metadata);
        fuzz_good++;
    }
    if (pf_inspect(&info, e, path) >= 0) pf_config_free(info);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return change_tensors(data, size, max_size, seed);
}
