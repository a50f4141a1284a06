/*
 * state_file.h - files of streaming states: what api_state.c writes, api_state_load.c reads
 * and api_stream.c uses for whole streams.
 *
 * A safetensors file. Tensors are named by their place in the tree of nodes and by what they
 * are ("2.1.s"); the metadata says whose state it is and where every node stands, and ends
 * with a checksum over all of it, metadata and tensors.
 */
#ifndef PF_STATE_FILE_H
#define PF_STATE_FILE_H

#include "file.h"
#include "module.h"

#define PF_STATE_FORMAT  "performer state"
#define PF_STATE_VERSION "1"
enum { PF_STATE_PATH = 256, PF_STATE_NUMBER = 24 };

/* A file in memory: tensors (names and list are malloc's, tensors retained) and metadata,
 * from text to text. */
typedef struct pf_state_file {
    pf_engine *engine;
    pf_named *list;
    int n, capacity;
    pf_config *meta;
    pf_config *positions, *recent, *hosts; /* of the nodes, in order; by place */
    int node;                              /* reading: how many nodes have been filled */
    int used;                              /* ... and tensors */
} pf_state_file;

void pf_state_file_free(pf_state_file *f);
/* The checksum of the file's content, all but the checksum itself. */
int pf_state_digest(const pf_state_file *f, char hash[PF_HASH_TEXT]);
/* By name: the checksum of a packed state must not depend on who kept its tensors in what order. */
void pf_state_sort(pf_named *list, int n);
/* What tells a model from all others: its tree and the bits of its tensors. */
int pf_module_digest(pf_engine *e, const pf_module *module, char hash[PF_HASH_TEXT]);
/* "2.1.": the place of child i (from 0) of the node at `path`. Fails when too deep. */
int pf_state_place(char below[PF_STATE_PATH], const char *path, int i);

/* What a stream picks its next token by, both (batch, vocab) or NULL: the logits that stand, and
 * i32, 1 where a token was fed. */
typedef struct pf_picked {
    pf_tensor *logits, *seen;
} pf_picked;

/* Fills a fresh file; f->engine is set; picked may be NULL. */
int pf_state_fill(pf_state_file *f, const pf_module *module, const pf_state *state,
                  const pf_picked *picked);
/* The state of `module` (NULL: of attention alone), with what a stream picks by (or NULL). */
int pf_state_write(pf_engine *e, const pf_module *module, const pf_state *state,
                   const pf_picked *picked, const char *path);
/* The same back, where the file has it and it is wanted (picked not NULL): *picked begins as
 * NULLs. */
int pf_module_state_read(pf_state **state, pf_engine *e, const pf_module *module, pf_picked *picked,
                         const char *path);

#endif
