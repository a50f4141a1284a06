/*
 * fasta.h - reads protein sequences one at a time. '>' opens a record and its first word
 * is the name; ';' lines are comments; blanks and empty lines are skipped; any line end.
 * Letters become ids at once (tokenizer.h). Errors name file and line.
 */
#ifndef PF_FASTA_H
#define PF_FASTA_H

#include "input.h"
#include "tokenizer.h"

#define PF_FASTA_NAME 256 /* longer names are cut */

typedef struct {
    pf_input *input;   /* borrowed, open */
    int16_t map[256];  /* letter to id */
    int64_t longest;   /* residues a record may have */
    int64_t line;      /* the line being read, from 1 */
    bool after_cr;     /* the last byte was CR: a LF belongs to it */
    bool header_waits; /* '>' of the next record has been read */
    int failure;       /* status of the read that failed */
    /* the record that pf_fasta_next has read */
    char name[PF_FASTA_NAME];
    int64_t name_line, count;
    uint8_t *ids; /* (count), residues only */
    int64_t n, capacity;
    int64_t stop_line; /* '*' seen there, 0: none */
} pf_fasta;

/* The first chunk of `input` has been read. */
void pf_fasta_begin(pf_fasta *fasta, pf_input *input, const pf_vocab *vocab, int64_t longest);
/* 1: a record stands in name, ids, n (n may be 0); 0: the end. */
int pf_fasta_next(pf_fasta *fasta);
void pf_fasta_end(pf_fasta *fasta);
/* Does the first chunk look like FASTA: '>' first, or after ';' comments? */
bool pf_fasta_looks(const uint8_t *bytes, size_t n);

#endif
