/* named.c - see named.h. */
#include "named.h"

#include <string.h>

#include "index.h"
#include "status.h"

int pf_named_differ(const pf_named *tensors, int n, pf_heap *heap) {
    pf_index names = {.heap = heap};
    int status = PF_OK;
    for (int i = 0; status >= 0 && i < n; i++) {
        uint64_t hash = pf_hash_text(tensors[i].name);
        uint32_t probe = 0;
        for (int j; status >= 0 && (j = pf_index_next(&names, hash, &probe)) >= 0;) {
            if (strcmp(tensors[i].name, tensors[j].name) == 0)
                status = pf_fail(PF_EINVAL, "two tensors are named '%.64s'", tensors[i].name);
        }
        if (status >= 0) status = pf_index_put(&names, hash, i);
    }
    pf_index_close(&names);
    return status;
}
