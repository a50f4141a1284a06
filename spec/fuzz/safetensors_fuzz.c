/* safetensors_fuzz.c - any bytes as a safetensors file: an error or tensors, nothing else. */
#include "fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_path(data, size);
    pf_named *tensors = NULL;
    pf_config *metadata = NULL, *info = NULL;
    int n = 0;
    if (!path) return 0;
    if (pf_safetensors_load(fuzz_engine(), path, &tensors, &n, &metadata) >= 0) {
        pf_named_free(tensors, n);
        pf_config_free(metadata);
    }
    if (pf_inspect(&info, fuzz_engine(), path) >= 0) pf_config_free(info);
    return 0;
}
