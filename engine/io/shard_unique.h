/*
 * shard_unique.h - which sequences of shards that are being made are kept, and on which side. Their
 * hashes wait in a file, since they may be too many for memory: they are gone through a share at a
 * time, of those whose hash falls in it.
 */
#ifndef PF_SHARD_UNIQUE_H
#define PF_SHARD_UNIQUE_H

#include "shards.h"

/* What is kept of a sequence, in the file. */
typedef struct {
    uint64_t hash[2]; /* XXH3-128 of its tokens: equal hashes are equal sequences here */
    int64_t n;        /* residues */
} pf_shard_record;

/* What is asked, and what comes of it. */
typedef struct {
    pf_engine *engine;
    const char *path;   /* of the file of records */
    int64_t n, n_valid; /* records; the first so many come from files of the validation part */
    bool unique, apart; /* as in memory */
    double fraction;    /* held back by hash */
    int64_t copies[2], shared, documents[2], targets[2];
    uint64_t checksum; /* as of the same data in memory */
} pf_shard_choice;

/* Writes a byte a record into `sides`, and its sum into each of the blocks. */
int pf_shard_choose(pf_shard_choice *choice, pf_writer *sides, pf_block *blocks, int64_t n_blocks);

#endif
