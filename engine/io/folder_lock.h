/*
 * folder_lock.h - one writer at a time in a run folder. It has the kernel's lock on the folder,
 * which ends with its process, however that ends. A save takes it for as long as it writes; an
 * engine may hold it from its first step to its last.
 */
#ifndef PF_FOLDER_LOCK_H
#define PF_FOLDER_LOCK_H

#include "disk.h"

typedef struct pf_folder_lock {
    pf_file file; /* not open: held by the engine anyway, or a disk without locks */
    bool alone;   /* no other process writes there */
} pf_folder_lock;

/* PF_ESTATE: another writer is at work. */
int pf_folder_lock_take(pf_folder_lock *lock, pf_engine *engine, const char *run);
void pf_folder_lock_drop(pf_folder_lock *lock);

/* Makes the folder and takes its lock until the engine closes. */
int pf_folder_hold(pf_engine *engine, const char *run);

#endif
