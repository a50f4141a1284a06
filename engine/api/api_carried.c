/*
 * api_carried.c - what the rows of a run go on from (nn/carry.c), out of its checkpoint: the file
 * is a state's (state_file.h), which belongs to the weights beside it.
 */
#include <stdlib.h>

#include "folder.h"
#include "state_file.h"

int pf_checkpoint_carried(pf_state **state, pf_engine *engine, const char *dir, pf_module *module) {
    PF_OUT(state);
    PF_OPEN(engine);
    PF_NEED(dir, module);
    char *folder, *path = NULL;
    bool there = false;
    PF_TRY(pf_folder_find(engine, &folder, dir, true, PF_FOR_TRAINING));
    int status = pf_path(&path, engine, "%s/carried.safetensors", folder);
    if (status >= 0) status = pf_look_for(engine, path, &there, NULL);
    if (status >= 0 && there) {
        status = pf_module_state_read(state, engine, module, NULL, path);
    }
    pf_path_free(path);
    pf_path_free(folder);
    return status;
}
