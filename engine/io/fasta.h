/*
 * fasta.h - reads protein sequences one at a time. A line that begins with '>' opens a record, and
 * its first word is the name; lines with '#' or ';' are comments; blanks, empty lines and byte
 * order marks (of files that were joined) are skipped; any line end. Letters become ids at once
 * (tokenizer.h). Errors name file and line.
 */
#ifndef PF_FASTA_H
#define PF_FASTA_H

#include "input.h"
#include "tokenizer.h"

#define PF_FASTA_NAME 256 /* longer names are cut */
#define PF_FASTA_WHY  96

typedef struct {
    pf_input *input;  /* borrowed, open */
    int16_t map[256]; /* letter to id */
    int64_t longest;  /* residues a record may have */
    bool skip_bad;    /* a bad record is read to its end; else it is an error at once */
    bool guessed;     /* nobody said that it is FASTA */
    int64_t line;     /* the line being read, from 1 */
    bool after_cr;    /* the last byte was CR: a LF belongs to it */
    bool holds;       /* `held` was read, and is to be read again */
    int held;
    bool header_waits; /* '>' of the next record has been read */
    int64_t sound;     /* good records so far */
    int failure;       /* status of the read that failed */
    /* the record that pf_fasta_next has read */
    char name[PF_FASTA_NAME];
    int64_t name_line, count;
    uint8_t *ids; /* (count), residues only */
    int64_t n, capacity;
    int64_t stop_line;      /* '*' seen there, 0: none */
    char bad[PF_FASTA_WHY]; /* what is wrong with it, "": nothing */
    int64_t bad_line;
} pf_fasta;

/* The first chunk of `input` has been read. */
void pf_fasta_begin(pf_fasta *fasta, pf_input *input, const pf_vocab *vocab);
/* 1: a record stands in name, ids, n (n may be 0), bad; 0: the end. */
int pf_fasta_next(pf_fasta *fasta);
void pf_fasta_end(pf_fasta *fasta);

#endif
