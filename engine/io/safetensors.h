/*
 * safetensors.h - reading and writing .safetensors: the header checked in full before
 * anything is trusted, tensors read one at a time into memory of our own, or left where they lie
 * for those who ask for it and take care of the file (mapping.h: one that is mapped can shrink
 * under us).
 */
#ifndef PF_SAFETENSORS_H
#define PF_SAFETENSORS_H

#include "bytes.h"
#include "file.h"
#include "json.h"
#include "mapping.h"
#include "tensor.h"

#define PF_ST_HEADER  ((int64_t)16 << 20) /* bytes of header that are read or written */
#define PF_ST_TENSORS 65536

/* A dtype as files have it: ours, or one that is converted to ours. */
typedef struct pf_st_dtype {
    const char *name; /* "BF16" */
    size_t bytes;
    bool loads; /* F8 and complex are known, so that `inspect` can show them */
    pf_dtype as;
    const pf_byte_type *from; /* that is converted; NULL: the bytes are ours already */
} pf_st_dtype;

typedef struct pf_st_entry {
    const char *name; /* in the header's text */
    pf_st_dtype dtype;
    int rank;
    int64_t shape[PF_MAX_RANK];
    int64_t begin, end; /* bytes, in the data */
    bool lent;          /* its numbers stay where they lie */
} pf_st_entry;

/* An open file whose header has passed every check. Entries lie in order of offset. */
typedef struct pf_safetensors {
    pf_reader file;
    pf_heap *heap;
    int64_t data; /* where the data begins in the file */
    int n;
    int64_t room;
    pf_st_entry *entry;
    char *text; /* the header's; names stand in it */
    size_t text_bytes;
    pf_index names;
    pf_config *metadata; /* a map of strings, or NULL */
    pf_mapping *mapping; /* of the whole file, or NULL */
    pf_hash hash;        /* of what was read, where a checksum is expected */
    char expected[PF_HASH_TEXT];
} pf_safetensors;

/* hash: the checksum that the file must have once it is read, or NULL. */
int pf_safetensors_open(pf_safetensors *s, pf_engine *engine, const char *path, const char *hash);
void pf_safetensors_close(pf_safetensors *s);
int pf_safetensors_find(const pf_safetensors *s, const char *name); /* -1: absent */
bool pf_st_dtype_find(const char *name, pf_st_dtype *type); /* false: files know no such dtype */
int pf_st_dtype_loads_as(const pf_st_entry *entry, pf_dtype *dtype); /* fails by name */
/* Maps the file, where that can be done; then entries that lie as tensors do may be `lent`. */
int pf_safetensors_map(pf_safetensors *s);
bool pf_safetensors_lies(const pf_safetensors *s, const pf_st_entry *entry);
/* Reads every entry i, in one pass over the file, into to[i]: contiguous, of its shape and of the
 * dtype that it loads as, of those that are lent without storage yet; then holds the checksum
 * against what is expected. */
int pf_safetensors_read(pf_engine *engine, pf_safetensors *s, pf_tensor *const *to);
/* Numbers first .. first + n - 1 of entry i, which it must have, into `out`, of the dtype that it
 * loads as. */
int pf_safetensors_read_part(pf_engine *engine, pf_safetensors *s, int i, int64_t first, int64_t n,
                             void *out);

/* Puts header and tensors into an open writer. metadata: a map, or NULL. */
int pf_safetensors_write(pf_engine *engine, pf_writer *to, const pf_named *tensors, int n,
                         const pf_config *metadata);

#endif
