/*
 * folder.h - run folders and checkpoint folders, on named tensors and plain data alone (it
 * knows no models and no optimizers; api/ joins them).
 *
 *   run/LATEST, run/BEST      text "step-N"
 *   run/step-N/               config.json  model.safetensors  state.json  manifest.json
 *                             and maybe optimizer.safetensors  carried.safetensors
 *                             tokenizer.json
 *   run/step-N.aside          what stood as step-N and was not this run's
 *   run/.*.tmp-*              what a writer has not finished, or is taking away
 *   run/.step-N.old           a step-N that is being replaced, where the file system can't
 *                             swap two folders in one go
 *
 * A checkpoint is written under a temporary name, every file and the folder synced, renamed
 * in one step, the run folder synced; then LATEST is replaced. So a writer that dies at any
 * moment leaves either the previous checkpoint or the new one, whole. One writer at a time
 * works in a run folder: it has the folder's lock (folder_lock.h).
 */
#ifndef PF_FOLDER_H
#define PF_FOLDER_H

#include "manifest.h"
#include "safetensors.h"

typedef struct pf_parts {
    const pf_named *weights;
    int n_weights;
    bool has_moments; /* of an optimizer; there may be none of them all the same */
    const pf_named *moments;
    int n_moments;
    const pf_config *metadata;                   /* of model.safetensors; a map, or NULL */
    const pf_config *config, *state, *tokenizer; /* NULL: no such file */
    const pf_named *carried;                     /* of what rows go on from; NULL: no such file */
    int n_carried;
    const pf_config *carried_metadata;
} pf_parts;

/* Writes run/step-N, then LATEST; of the run's own checkpoints up to N it keeps the newest `keep`
 * and what BEST names (0: all). What is not its own (folder_own.h) is never removed: a step-N in
 * the way is renamed, with a warning. Step 0 over a run that has gone on is refused. On failure
 * nothing temporary is left, and what was there before is as it was. */
int pf_folder_save(pf_engine *engine, const char *run, uint64_t step, const pf_parts *parts,
                   int keep);
int pf_folder_mark(pf_engine *engine, const char *run, const char *mark, uint64_t step);
/* A checkpoint folder that stands alone: `folder` itself, which may be there if it is empty. */
int pf_folder_save_alone(pf_engine *engine, const char *folder, const pf_parts *parts);

/* What a checkpoint is looked for. Where it is a model alone, the files that training goes on from
 * may have been left out. */
typedef enum { PF_FOR_MODEL, PF_FOR_TRAINING } pf_purpose;

/* The verified checkpoint folder that `path` means: a checkpoint folder itself; the one a
 * mark file ("run/BEST") names; or of a run folder the one LATEST names, else, with a
 * warning that says what failed, the next older good one. contents: checksums too, not
 * only sizes. Free *folder with pf_path_free. */
int pf_folder_find(pf_engine *engine, char **folder, const char *path, bool contents,
                   pf_purpose purpose);

/* The same for whoever reads the checkpoint: `use` is called with its folder, whose files are all
 * verified but the weights, which it is to hold against `hash` when it has read them. PF_EFORMAT of
 * it is held against the weights' checksum: damage leads on to the next older checkpoint, as above,
 * anything else is final. */
typedef int (*pf_use_fn)(void *context, pf_engine *engine, const char *folder, const char *hash);
int pf_folder_use(pf_engine *engine, const char *path, pf_purpose purpose, pf_use_fn use,
                  void *context);

/* A file that names a step; leaves a message if not. */
bool pf_folder_is_mark(pf_engine *engine, const char *path);

/* A JSON file of a folder, as plain data in the engine's heap; a file that is not there gives NULL
 * and 0. */
int pf_folder_config(pf_config **config, pf_engine *engine, const char *folder, const char *name);

#endif
