/* seal.h - files of states that were changed, with a checksum that is right again: what stands
 * behind the checksum is tested with them (state_file_test.c, state_fuzz.c). */
#ifndef PF_SEAL_H
#define PF_SEAL_H

#include "state_file.h"

/* Writes tensors and metadata as a file of a state; of `module`, when one is given. */
static inline int seal(pf_engine *e, const pf_module *module, const pf_named *tensors, int n,
                       pf_config *metadata, const char *path) {
    pf_state_file f = {.engine = e, .list = (pf_named *)tensors, .n = n, .meta = metadata};
    char hash[PF_HASH_TEXT];
    if (module) {
        PF_TRY(pf_module_digest(e, module, hash));
        PF_TRY(pf_config_set_string(metadata, "kind", "model"));
        PF_TRY(pf_config_set_string(metadata, "model", hash));
    }
    PF_TRY(pf_state_digest(&f, hash));
    PF_TRY(pf_config_set_string(metadata, "checksum", hash));
    return pf_safetensors_save(e, path, tensors, n, metadata);
}

#endif
