/*
 * folder_own.h - which step-N of a run folder the run wrote itself. Its checkpoints carry the run's
 * name and their step in their manifests; only what carries both, and holds the manifest's files
 * and nothing else, may be removed or written over. A folder made by hand, a copy from elsewhere,
 * a link, a checkpoint that somebody put a file into: all stay as they are.
 */
#ifndef PF_FOLDER_OWN_H
#define PF_FOLDER_OWN_H

#include "manifest.h"

/* The name of the run in this folder: what the checkpoint says that LATEST names, or a new one. */
int pf_run_name(char name[PF_HASH_TEXT], pf_engine *engine, const char *run);

typedef enum {
    PF_STEP_ABSENT,
    PF_STEP_OTHER,  /* not the run's, or not known to be */
    PF_STEP_FILLED, /* the run's, with something of another's in it */
    PF_STEP_OWN
} pf_step_owner;

pf_step_owner pf_step_owner_of(pf_engine *engine, const char *run, uint64_t step, const char *name);

/* Gives what stands as step-N another name, step-N.aside or step-N.aside-2 ...: *aside, a path to
 * be freed, by which whoever fails later can give it back. */
int pf_step_set_aside(char **aside, pf_engine *engine, const char *run, uint64_t step);

#endif
