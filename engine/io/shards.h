/*
 * shards.h - data on disk in a form that is made once (shard_write.c) and read a block at a time,
 * so that they may be larger than memory. A folder of
 *
 *   manifest.json     sizes and checksums of the three files below
 *   shards.json       what the data are, and the sizes of the shards
 *   blocks.bin        a pf_block for each block (little endian, as all numbers here)
 *   sides.bin         FASTA: a byte a sequence, the split it is in, or PF_SPLITS: left out
 *   shard-00000.bin   blocks, one after the other; so many of these as it takes
 *
 * A block of FASTA holds whole sequences: their lengths (u32 each), names (each with its 0) and
 * tokens (a byte each); it is a small data set, whose rows are laid by itself. A block of text is
 * so many tokens of all texts in a row. What must hold: nothing of a file is believed before its
 * checksum, and nothing is used before it is checked: a folder that was made to do harm is refused.
 * A file that is not what it was when the shards were made ends in a sentence, at any time.
 */
#ifndef PF_SHARDS_H
#define PF_SHARDS_H

#include "data.h"
#include "file.h"

#define PF_SHARDS_FILE    "shards.json"
#define PF_SHARDS_BLOCKS  "blocks.bin"
#define PF_SHARDS_SIDES   "sides.bin"
#define PF_SHARDS_FORMAT  "performer shards"
#define PF_SHARDS_VERSION 1
#define PF_SHARDS_SLOTS   64

typedef struct {
    uint32_t file;      /* number of its shard */
    uint32_t documents; /* FASTA: sequences, those left out as well; text: 0 */
    int64_t offset;     /* in the shard */
    int64_t names;      /* bytes */
    int64_t tokens;
    uint64_t sum[4]; /* XXH3 of lengths, names, tokens, and of its part of sides.bin */
} pf_block;

/* What is kept in memory of an open folder: the table, and the blocks that were used last. */
typedef struct pf_shards {
    pf_heap *heap;     /* of the data set */
    pf_engine *engine; /* that opened it: good as long as the heap is held */
    pf_file_access io; /* that it was opened by; of shards in memory the engine's, as it is */
    char *folder;
    int64_t n_files, *sizes;
    int64_t n_blocks;
    pf_block *blocks;
    int64_t *first;                /* (n_blocks + 1): documents, or of text tokens, before */
    int64_t *documents[PF_SPLITS]; /* FASTA, (n_blocks + 1): of the split, before */
    int64_t *rows[PF_SPLITS];      /* the same of rows; NULL: not laid yet */
    int64_t copies[PF_SPLITS];     /* duplicates that were left out */
    int64_t block;                 /* tokens that a block was to have */
    size_t window, held;           /* bytes that blocks may take, and do */
    uint64_t clock;
    int n_slots;
    struct {
        pf_data *part;
        int64_t block;
        size_t bytes;
        uint64_t used;
    } slot[PF_SHARDS_SLOTS];
} pf_shards;

/* Is this a folder of shards? 1, 0, or PF_ENOMEM; what can't be looked at is none. */
int pf_shards_at(pf_engine *engine, const char *path);
/* "fasta" or "text", as the folder says. */
int pf_shards_kind(const char **kind, pf_engine *engine, const char *folder);
/* Opens a folder as `data`, all but its rows. window: bytes of blocks; 0: as fits the budget. */
int pf_shards_open(pf_data *data, pf_engine *engine, const char *folder, size_t window);
void pf_shards_close(pf_data *data);

/* ---- shards_part.c ---- */

/* The bytes of sides.bin of a block, as many as it has documents. */
int pf_shards_sides(const pf_shards *shards, int64_t number, uint8_t *sides);
/* Block `number` as a small data set, which stands until the next call. */
int pf_shards_part(pf_data **part, pf_data *data, int64_t number);
/* Counts the rows of a split, which have `data->length` positions. FASTA. */
int pf_shards_lay(pf_data *data, pf_split split);
/* Forgets rows, and all blocks that are held. */
void pf_shards_forget(pf_data *data);
/* The block that row `at` of a split is in; *row: its number there. FASTA. */
int pf_shards_row(pf_data **part, int64_t *row, pf_data *data, pf_split split, int64_t at);
/* The same of document `at` of a split. */
int pf_shards_document(pf_data **part, int64_t *index, pf_data *data, pf_split split, int64_t at);
/* Text: sees to it that tokens first .. first+n-1 are in data->tokens. */
int pf_shards_hold(pf_data *data, int64_t first, int64_t n);

#endif
