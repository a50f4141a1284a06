/*
 * manifest.h - what a checkpoint folder holds: name, size and XXH3-128 of every file, and of
 * which run and step it is, in manifest.json, which ends with the checksum of its own text. So
 * a flipped byte anywhere in the folder, the manifest included, is found before anything is
 * parsed.
 */
#ifndef PF_MANIFEST_H
#define PF_MANIFEST_H

#include "file.h"

#define PF_MANIFEST_FILE  "manifest.json"
#define PF_MANIFEST_FILES 16
#define PF_MANIFEST_NAME  64

typedef struct pf_manifest {
    char run[PF_HASH_TEXT]; /* the run's name; "": of an older version, which gave none */
    uint64_t step;
    int n;
    struct {
        char name[PF_MANIFEST_NAME];
        int64_t size;
        char hash[PF_HASH_TEXT];
    } file[PF_MANIFEST_FILES];
} pf_manifest;

int pf_manifest_add(pf_manifest *m, const char *name, int64_t size, const char *hash);
const char *pf_manifest_hash(const pf_manifest *m, const char *name); /* NULL: no such file */
bool pf_manifest_has(const pf_manifest *m, const char *name);
/* Into the folder `folder`, which messages call `shown`. */
int pf_manifest_write(const pf_manifest *m, pf_engine *engine, const char *folder,
                      const char *shown);
/* Reads folder/manifest.json and checks it against its own checksum. PF_ENOTFOUND: none. */
int pf_manifest_read(pf_manifest *m, pf_engine *engine, const char *folder);
/* Checks that every file is there with its size and, if `contents`, its checksum; of the file
 * `unread` (may be NULL) the size alone: whoever reads it sums it up. The files that `spared`
 * names, up to a NULL, may be missing: the first one that is comes back as *missing, else NULL. */
int pf_manifest_verify(const pf_manifest *m, pf_engine *engine, const char *folder, bool contents,
                       const char *unread, const char *const *spared, const char **missing);

#endif
