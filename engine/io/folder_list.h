/* folder_list.h - what lies in a run folder, for those who find and those who write. */
#ifndef PF_FOLDER_LIST_H
#define PF_FOLDER_LIST_H

#include "file.h"

#define PF_MARK_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"

typedef struct pf_listing {
    pf_engine *engine;
    uint64_t *step; /* every step-N or .step-N.old, newest first */
    int n;
    int64_t room;
    char **temp; /* names of what writers have not finished */
    int n_temp;
    int64_t room_temp;
    bool blind; /* the disk lists no folders: nothing is known to be there */
} pf_listing;

int pf_listing_read(pf_listing *l, pf_engine *engine, const char *run);
int pf_listing_add(pf_listing *l, uint64_t step);
void pf_listing_free(pf_listing *l);

/* Reads "step-N" at the start of a name and returns what follows, or NULL. */
const char *pf_step_parse(const char *name, uint64_t *step);
int pf_step_path(char **path, const pf_engine *engine, const char *run,
                 uint64_t step); /* "run/step-N" */

/* Is a name with ".tmp-PID" in it of a process that has ended? Without a lock on what it wrote, of
 * one that lives it may be wanted yet. */
bool pf_temp_is_dead(const char *name);

/* The step that a mark file names. PF_ENOTFOUND: no such file; PF_EFORMAT: nonsense in it. */
int pf_mark_read(pf_engine *engine, const char *path, uint64_t *step);
int pf_mark_read_in(pf_engine *engine, const char *run, const char *mark, uint64_t *step);

#endif
