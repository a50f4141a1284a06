/*
 * data.h - a data set in memory: tokens of all documents in one array of bytes, and for
 * each split a plan of rows. FASTA: a document is a sequence, read as begin, residues,
 * end. Text: three documents a file, its training part, its valid part and the whole, with no
 * begin or end. pf_data_token sees a document with its begin and end in place.
 */
#ifndef PF_DATA_H
#define PF_DATA_H

#include "reading.h"

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
 * rows[r+1]-1. Text has no lists: its row r is the r-th stretch of `length` targets, of one
 * document after the other. */
typedef struct {
    int64_t *documents; /* (n_documents), in file order */
    int64_t *starts;    /* (n_documents + 1): targets of the documents before */
    int64_t n_documents;
    pf_piece *pieces; /* (n_pieces) */
    int64_t n_pieces, pieces_capacity;
    int64_t *rows; /* (n_rows + 1) */
    int64_t n_rows, rows_capacity;
    int64_t slack;   /* text, training: a pass shifts its rows by 0 .. slack */
    int64_t targets; /* tokens that have a token before them: what a model predicts */
} pf_plan;

/* Open addressing over document numbers + 1 (0: free); at most half full. */
typedef struct {
    int64_t *slots;
    int64_t size; /* a power of two */
} pf_sequence_set;

/* A data set that is being read into memory. */
typedef struct {
    pf_data *data;
    bool unique; /* exact duplicates are dropped */
    pf_sequence_set set;
} pf_filling;

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
    bool once;           /* a path can't be opened again to read the same */
    int64_t files;       /* that were read */
    bool apart;          /* the valid part comes from files of its own */
    int64_t shared;      /* training sequences left out, since they stand in these; texts: told */
    int64_t skipped;     /* records left out */
    char skips[640];     /* the first of them, and why; as long as a reading's */
    int64_t clusters;    /* of a split by homology */
    uint64_t checksum;   /* XXH3 of all documents, one after the other */
    uint8_t *tokens;
    int64_t n_tokens, tokens_capacity;
    pf_document *documents;
    int64_t n_documents, documents_capacity;
    char *names; /* zero-terminated, one after the other; first what messages call the data */
    int64_t n_names, names_capacity;
    pf_plan plans[PF_SPLITS];
    /* The order of training rows, kept while a pass lasts. */
    int64_t *order, n_order; /* (n_order), the rows of plans[PF_TRAIN] */
    uint64_t order_seed;
    int64_t order_pass; /* -1: none yet */
    /* Data that lie in shards (shards.h). FASTA: tokens, documents and rows are those of blocks,
     * each a data set; text: `tokens` are those from `base` on that are asked for. */
    struct pf_shards *shards; /* NULL: all is in memory */
    int64_t base;
    int64_t block; /* of a block: its number */
};

static inline const char *pf_data_path(const pf_data *data) { return data->names; }

/* Tokens of a document, begin and end included. */
static inline int64_t pf_document_size(const pf_data *data, const pf_document *document) {
    return document->n + (data->begin >= 0) + (data->end >= 0);
}

static inline int pf_data_token(const pf_data *data, const pf_document *document, int64_t at) {
    at -= data->begin >= 0;
    if (at < 0) return data->begin;
    return at < document->n ? data->tokens[document->first - data->base + at] : data->end;
}

/* ---- documents.c ---- */

void pf_data_choose_vocab(pf_data *data); /* by data->fasta */
/* What it takes of the heap, its rows not counted. */
size_t pf_data_bytes(const pf_data *data);
void pf_data_forget_rows(pf_data *data);
void pf_data_free(pf_data *data); /* without its shards, and without a hold on its heap */

/* Keeps a string; *at is its offset, since the array moves as it grows. */
int pf_data_keep_name(pf_data *data, const char *name, int64_t *at);
int pf_data_add_document(pf_data *data, const pf_document *document);
/* Fills in which documents plans[split] has, and its targets. */
int pf_data_list_documents(pf_data *data, pf_split split);
/* One number for all documents in their order. */
uint64_t pf_data_checksum(const pf_data *data);

/* sequences.c: the sequences of FASTA files, as a reading hands them on to a filling. */
int pf_data_add_sequence(pf_reading *reading, const pf_fasta *fasta);
/* All have been read: each on the side of its hash, where there are no files for that. */
int pf_data_end_sequences(pf_data *data, pf_engine *engine);
void pf_filling_close(pf_filling *filling);

/* text.c: the same of text files. */
int pf_data_add_text(pf_reading *reading, pf_input *input);
void pf_data_end_text(pf_data *data, pf_engine *engine);
/* Warns of a text that is trained on and held out. */
void pf_text_shared(pf_engine *engine, const char *name);

/* pack.c: lays the rows of plans[split], whose documents are known. */
int pf_plan_pack(pf_data *data, pf_split split);
/* Piece i of a row whose pieces before it fill `at` positions; false: there are no more. shift: of
 * the pass (text). */
bool pf_plan_piece(const pf_data *data, const pf_plan *plan, int64_t row, int64_t shift, int64_t i,
                   int64_t at, pf_piece *piece);
/* Forgets rows and pieces; the documents stay. */
void pf_plan_clear(pf_heap *heap, pf_plan *plan);

/* order.c: are training rows laid or ordered otherwise than those of the same data in memory? */
bool pf_data_own_order(const pf_data *data);
/* The training row that stands at `place` of a pass. */
int pf_data_order(int64_t *row, pf_data *data, const pf_engine *engine, uint64_t seed, int64_t pass,
                  int64_t place);

/* ask.c: fails when there is no such split; lays rows of shards that were not asked for yet. */
int pf_data_check_split(const pf_data *data, pf_split split);

#endif
