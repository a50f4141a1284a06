/*
 * safetensors.h - reading and writing .safetensors: the header checked in full before
 * anything is trusted, tensors read one at a time into memory of our own (never mapped: a
 * mapped file can shrink under us).
 */
#ifndef PF_SAFETENSORS_H
#define PF_SAFETENSORS_H

#include "file.h"
#include "json.h"
#include "tensor.h"

#define PF_ST_HEADER  ((int64_t)16 << 20) /* bytes of header that are read or written */
#define PF_ST_TENSORS 65536

/* A dtype as files have it: ours, or one that is converted to ours. */
typedef struct pf_st_dtype {
    const char *name; /* "BF16" */
    size_t bytes;
    bool loads; /* F8 and complex are known, so that `inspect` can show them */
    pf_dtype as;
    /* Converts `n` elements; returns how many fitted. NULL: the bytes are ours already. */
    int64_t (*convert)(const void *in, int64_t n, void *out);
} pf_st_dtype;

typedef struct pf_st_entry {
    const char *name; /* borrowed from the document */
    pf_st_dtype dtype;
    int rank;
    int64_t shape[PF_MAX_RANK];
    int64_t begin, end; /* bytes, in the data */
} pf_st_entry;

/* An open file whose header has passed every check. Entries lie in order of offset. */
typedef struct pf_safetensors {
    pf_reader file;
    int64_t data; /* where the data begins in the file */
    int n;
    pf_st_entry *entry;
    pf_json *header;
    const pf_json *metadata; /* or NULL */
} pf_safetensors;

int pf_safetensors_open(pf_safetensors *s, const char *path);
void pf_safetensors_close(pf_safetensors *s);
/* Index of a name, looked for at `hint` first; -1: absent. */
int pf_safetensors_find(const pf_safetensors *s, const char *name, int hint);
int pf_st_dtype_loads_as(const pf_st_entry *entry, pf_dtype *dtype); /* fails by name */
/* Reads entry `index` into a contiguous tensor of its shape and the dtype it loads as. */
int pf_safetensors_read(pf_engine *engine, const pf_safetensors *s, int index, pf_tensor *to);
int pf_safetensors_metadata(pf_config **metadata, const pf_safetensors *s); /* a new map */

/* Puts header and tensors into an open writer. metadata: a map, or NULL. */
int pf_safetensors_write(pf_engine *engine, pf_writer *to, const pf_named *tensors, int n,
                         const pf_config *metadata);

#endif
