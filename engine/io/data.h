/*
 * data.h - a data set in memory: tokens of all documents in one array of bytes, and for
 * each split a plan of rows. FASTA: a document is a sequence, read as begin, residues,
 * end. Text: three documents, the training part, the valid part and the whole, with no
 * begin or end. pf_data_token sees a document with its begin and end in place.
 */
#ifndef PF_DATA_H
#define PF_DATA_H

#include "input.h"
#include "tokenizer.h"

#define PF_SPLITS 3

typedef struct {
    int64_t first, n; /* its tokens in data->tokens, without begin and end */
    int64_t name;     /* offset in data->names */
    uint64_t hash[2]; /* XXH3-128 of the tokens */
    int64_t copies;   /* exact duplicates that were dropped */
    pf_split split;   /* PF_TRAIN or PF_VALID; text: the split it stands for */
} pf_document;

/* A run of one document's tokens in a row: positions start .. start+count-1 of it. */
typedef struct {
    int64_t document, start, count;
} pf_piece;

/* How a split lies in rows of `length` positions. Sequences: row r holds pieces rows[r] ..
 * rows[r+1]-1. Text has no lists: its row r is the r-th stretch of `length` (pf_plan_row). */
typedef struct {
    int64_t *documents; /* (n_documents), in file order */
    int64_t n_documents;
    pf_piece *pieces; /* (n_pieces) */
    int64_t n_pieces, pieces_capacity;
    int64_t *rows; /* (n_rows + 1) */
    int64_t n_rows, rows_capacity;
    int64_t slack;   /* text, training: a pass shifts its rows by 0 .. slack */
    int64_t targets; /* tokens that have a token before them: what a model predicts */
} pf_plan;

/* How records are read. */
typedef struct {
    int64_t longest; /* residues of a sequence */
    bool unique;     /* exact duplicates are dropped */
    bool skip_bad;   /* bad records are left out */
    bool guessed;    /* that it is FASTA is what the bytes say, not the user */
} pf_reading;

struct pf_data {
    pf_heap *heap; /* retained */
    const pf_vocab *vocab;
    bool fasta;
    int64_t length; /* positions in a row */
    double valid_fraction;
    uint64_t seed;
    int64_t min_tokens;
    int begin, end, pad; /* ids; begin and end -1 for text */
    int64_t first_nul;   /* text: place of its first byte 0, or -1 */
    bool once;           /* the path can't be opened again to read the same */
    int64_t skipped;     /* records left out */
    char skips[640];     /* the first of them, and why */
    uint64_t checksum;   /* XXH3 of all documents, one after the other */
    uint8_t *tokens;
    int64_t n_tokens, tokens_capacity;
    pf_document *documents;
    int64_t n_documents, documents_capacity;
    char *names; /* zero-terminated, one after the other; the path stands first */
    int64_t n_names, names_capacity;
    pf_plan plans[PF_SPLITS];
    /* The order of training rows, kept while a pass lasts. */
    int64_t *order; /* (plans[PF_TRAIN].n_rows) */
    uint64_t order_seed;
    int64_t order_pass; /* -1: none yet */
};

static inline const char *pf_data_path(const pf_data *data) { return data->names; }

/* Tokens of a document, begin and end included. */
static inline int64_t pf_document_size(const pf_data *data, const pf_document *document) {
    return document->n + (data->begin >= 0) + (data->end >= 0);
}

static inline int pf_data_token(const pf_data *data, const pf_document *document, int64_t at) {
    at -= data->begin >= 0;
    if (at < 0) return data->begin;
    return at < document->n ? data->tokens[document->first + at] : data->end;
}

/* ---- documents.c ---- */

/* Keeps a string; *at is its offset, since the array moves as it grows. */
int pf_data_keep_name(pf_data *data, const char *name, int64_t *at);
int pf_data_add_document(pf_data *data, const pf_document *document);
/* Fills in which documents plans[split] has, and its targets. */
int pf_data_list_documents(pf_data *data, pf_split split);
/* One number for all documents in their order. */
uint64_t pf_data_checksum(const pf_data *data);

/* sequences.c: all documents of a FASTA file, on their sides. Its first chunk has been read. */
int pf_data_read_sequences(pf_data *data, pf_input *input, const pf_reading *how);

/* pack.c: lays the rows of plans[split], whose documents are known. */
int pf_plan_pack(pf_data *data, pf_split split);
/* The pieces of a row, *n of them; `own` is room for the one that a row of text has. */
const pf_piece *pf_plan_row(const pf_data *data, const pf_plan *plan, int64_t row, pf_piece *own,
                            int64_t *n);
/* Forgets rows and pieces; the documents stay. */
void pf_plan_clear(pf_heap *heap, pf_plan *plan);

#endif
