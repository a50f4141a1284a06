/* data_fuzz.c - any bytes as FASTA or text, plain or gzip: an error or a data set whose first
 * batch can be asked for. */
#include "fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_path(data, size);
    pf_config *options = pf_config_new(PF_MAP);
    pf_data *set = NULL;
    pf_batch batch = {.size = sizeof batch};
    if (!path || !options) return 0;
    pf_config_set_string(options, "path", path);
    pf_config_set_number(options, "length", 16);
    pf_config_set_bool(options, "skip_bad", size % 2 == 0);
    if (pf_data_open(&set, fuzz_engine(), options) >= 0 && pf_data_lay(set, 5) >= 0) {
        if (pf_data_batch(&batch, fuzz_engine(), set, PF_TRAIN, 0, 2, false, 1) >= 0) {
            pf_batch_release(&batch);
        }
    }
    pf_data_close(&set);
    pf_config_free(options);
    return 0;
}
