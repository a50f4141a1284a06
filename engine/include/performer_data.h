/*
 * performer_data.h - the page of Performer's public interface for data: plain data, of which
 * options and descriptions are made, and what training reads from, tokenizers, data sets and
 * their batches. performer.h includes it; its manners hold here.
 */
#ifndef PERFORMER_DATA_H
#define PERFORMER_DATA_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- plain data ------------------------------------------------------------------------
 * Options, descriptions, reports and config.json are trees of null, booleans, numbers, texts,
 * lists and maps. A node owns its children; pf_config_free frees the tree. Setters copy keys and
 * strings, and take ownership of child nodes (also on failure). A maker's NULL is out of memory,
 * and as a child NULL is just that, PF_ENOMEM, so that one check behind the last call will do. A
 * text that is NULL is an empty one. */

typedef enum { PF_NULL, PF_BOOL, PF_NUMBER, PF_STRING, PF_LIST, PF_MAP } pf_config_kind;

PF_API pf_config *pf_config_new(pf_config_kind kind);
PF_API pf_config *pf_config_new_number(double value);
PF_API pf_config *pf_config_new_bool(bool value);
PF_API pf_config *pf_config_new_string(const char *PF_NULLABLE value);
PF_API pf_config *pf_config_copy(const pf_config *node);
PF_API void pf_config_free(pf_config *node);
PF_API pf_config_kind pf_config_kind_of(const pf_config *node);
PF_API double pf_config_number(const pf_config *node);      /* number or bool, else 0 */
PF_API const char *pf_config_string(const pf_config *node); /* string, else NULL */
PF_API int pf_config_size(const pf_config *node);           /* entries of a list or map */
PF_API pf_config *pf_config_at(const pf_config *node, int index);
PF_API const char *pf_config_key(const pf_config *map, int index);
PF_API pf_config *pf_config_get(const pf_config *map, const char *key); /* NULL: absent */
PF_API int pf_config_push(pf_config *list, pf_config *PF_NULLABLE child);
PF_API int pf_config_set(pf_config *map, const char *key, pf_config *PF_NULLABLE child);
PF_API int pf_config_set_number(pf_config *map, const char *key, double value);
PF_API int pf_config_set_bool(pf_config *map, const char *key, bool value);
PF_API int pf_config_set_string(pf_config *map, const char *key, const char *PF_NULLABLE value);
/* JSON text, both ways. The text is the caller's: free it with pf_text_free. */
PF_API int pf_json_parse(pf_config **node, const char *text, size_t bytes);
PF_API int pf_json_write(char **text, const pf_config *PF_NULLABLE node, bool indent);
/* The same within the limits of an engine, where a tree that is read lies in its memory. */
PF_API int pf_json_parse_in(pf_config **node, pf_engine *engine, const char *text, size_t bytes);
PF_API int pf_json_write_in(char **text, pf_engine *engine, const pf_config *PF_NULLABLE node,
                            bool indent);
PF_API void pf_text_free(char *text);
/* The one of n names that a mistyped word is, or NULL: a letter away (two from eight letters on; a
 * swap counts once, case not at all), begun alike, and up to four letters of the same letters. */
PF_API const char *pf_nearest(const char *word, const char *const *names, int n);

/* ---- data ------------------------------------------------------------------------------
 * Texts and sequences as token ids: a tokenizer of a fixed vocabulary, and a data set, a FASTA or
 * text file that is read, deduplicated, split, tokenized and cut into batches. */

/* type: "byte" or "protein". < 0: no such tokenizer. */
PF_API int pf_tokenizer_size(const char *type);
/* name: "begin", "end", "mask", "pad", "unknown". < 0: has none. */
PF_API int pf_tokenizer_special(const char *type, const char *name);
/* The ids of a text, and the text of ids, without a 0 behind it. *n, *bytes: how many there is room
 * for, and on return how many there are; with NULL for the room they are counted alone. PF_EINVAL:
 * it is too little. PF_EFORMAT: a letter that the tokenizer doesn't know, with its place. */
PF_API int pf_tokenizer_encode(const char *type, const char *text, size_t bytes,
                               int32_t *PF_NULLABLE ids, size_t *n);
PF_API int pf_tokenizer_decode(const char *type, const int32_t *ids, size_t n,
                               char *PF_NULLABLE text, size_t *bytes);

typedef enum { PF_TRAIN, PF_VALID, PF_ALL } pf_split;
typedef struct {
    size_t size;
    int64_t documents, duplicates, tokens, rows; /* of the split */
    const char *format, *tokenizer;
    uint64_t checksum; /* of what was read, of all splits: equal tokens in equal documents in equal
                          order, however the file is packed, wrapped or named */
    int64_t skipped;   /* records of the file that were left out */
    const char *skips; /* the first of them and what is wrong with each; borrowed */
    bool once;         /* read from a pipe or the standard input: can't be opened again */
    int64_t files;     /* that were read */
    int64_t shared;    /* sequences of `path` that stand in `valid` as well, and are left out of
                          training; of texts: files, which are not */
    bool shards;       /* read from a folder of shards */
    int64_t clusters;  /* of a split by homology; else 0 */
    int64_t block;     /* of shards whose rows are others than those of the same data in memory, or
                          stand in another order: the tokens of a block, which decide; else 0 */
} pf_data_info;
/* Reads files, pipes, or for the path "-" the standard input: once, to the end, within the
 * engine's budget or, where it has none, half of the machine's memory. A wait for a pipe's writer
 * is logged, and ends when the host cancels. options: path (a string or a list of them: several
 * files are one data set; of texts each is a document of its own), valid (the same: files that
 * are the validation part, all of path being for training), format "auto|fasta|text" (what the
 * user says has the last word), length (row), skip_bad (bad records are left out and counted),
 * unique (duplicates are dropped; true), longest (residues of a sequence), split
 * "auto|none|homology" (of sequences: clusters of those that are alike are on one side), identity
 * (from which two are alike), valid_fraction (of texts: of each), min_tokens, seed. */
PF_API int pf_data_open(pf_data **data, pf_engine *engine, const pf_config *options);
/* Makes shards of files of any size: the folder `dir`, which must not hold anything yet, and which
 * pf_data_open takes for its path (format "auto" or "shards"), holding a window of it in memory
 * (option window, bytes) where a file would be held whole. The same sequences, splits and checksum
 * as in memory; rows of texts are the same, those of sequences are packed within a block. A shard
 * that is no more what it was made as is PF_EFORMAT of the call that reads from it. options: path,
 * valid, format, skip_bad, unique, longest, split, valid_fraction, block (tokens that are read in
 * one go; no row is longer). All or nothing. */
PF_API int pf_data_shard(pf_engine *engine, const pf_config *options, const char *dir);
PF_API void pf_data_close(pf_data **data);
/* *format: "fasta" or "text", as pf_data_open would read the file at `path`. What can be read only
 * once (a pipe) is refused: open it, and ask pf_data_info_of. */
PF_API int pf_data_kind(const char **format, pf_engine *engine, const char *path);
/* Lays all splits anew, into rows of `length`: for who chooses the length by what was read. Rows
 * longer than a split's tokens are filled up with what is not there. */
PF_API int pf_data_lay(pf_data *data, int64_t length);
PF_API int pf_data_info_of(const pf_data *data, pf_split split, pf_data_info *info);
/* A batch: input, target (-1: not counted), documents and mask (B, L) i32, of B = rows rows; at the
 * end of a split they may be fewer than were asked for. L is that of the longest row, rounded up
 * to a sixteenth of the data's length. */
typedef struct {
    size_t size;
    pf_tensor *input, *target, *documents, *mask;
    int64_t rows, tokens;
} pf_batch;
/* Batch `index` of so many rows; what the batch held before is not released. Training batches go
 * through the rows in an order keyed by (seed, pass), others in file order. masked: BERT's 15 %
 * with 80/10/10; else the target is the next token. */
PF_API int pf_data_batch(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                         uint64_t index, int64_t rows, bool masked, uint64_t seed);
/* The same of rows that go on: row b of batch `index` begins where row b of the one before ended,
 * in `rows` streams through the split, each an equal share, pass after pass in training. There
 * the last rows, too few for a batch, are left out; of other splits the last batches have rows of
 * which nothing is there. `documents` has one number for a document in all batches of a pass, so
 * that what is carried knows where one ends. */
PF_API int pf_data_stream_batch(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                                uint64_t index, int64_t rows, uint64_t seed);
/* Of such a batch of `rows` the rows `first` to first + n - 1 alone, a lane's, as long as the
 * longest of all. */
PF_API int pf_data_stream_rows(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                               uint64_t index, int64_t rows, int64_t first, int64_t n,
                               uint64_t seed);
PF_API void pf_batch_release(pf_batch *batch);
/* One document of a split: name (borrowed, of shards until the next call) and ids with begin and
 * end. */
PF_API int pf_data_document(pf_tensor **ids, const char **PF_NULLABLE name, pf_engine *engine,
                            pf_data *data, pf_split split, int64_t index);
/* How near the validation part is to the training part, of proteins in memory: for `sample` of the
 * sequences held out (all, where there are fewer), the identity to the nearest training sequence:
 * equal residues of the best local alignment, over the length of the shorter of the two; 0 where
 * no alignment is better than by chance. Candidates have a word in common (kmers), so that a
 * distant relation may be missed. */
typedef struct {
    size_t size;
    int64_t sequences, unrelated; /* looked at; those without any relation */
    double mean, median;
    int64_t histogram[10]; /* identity from 0, 0.1 ... 0.9 on */
} pf_identity_info;
PF_API int pf_data_identity(const pf_data *data, pf_engine *engine, int64_t sample,
                            pf_identity_info *info);
/* Counts of each token, and of each token after each token (vocab x vocab), on a split. */
PF_API int pf_data_counts(const pf_data *data, pf_split split, double *PF_NULLABLE unigram,
                          double *PF_NULLABLE bigram);

#ifdef __cplusplus
}
#endif

#endif
