/*
 * reading.h - goes through the files of a data set, those of its validation part first, and hands
 * on what they hold, a sequence or a text at a time. What must hold: a path is opened once, its
 * format is decided once, and all of them are of one; a record that is left out is counted and
 * named.
 */
#ifndef PF_READING_H
#define PF_READING_H

#include "fasta.h"

typedef struct pf_reading pf_reading;

struct pf_reading {
    /* Where it all goes. begin: when it is known what the files are. */
    void *to;
    int (*begin)(pf_reading *reading);
    int (*sequence)(pf_reading *reading, const pf_fasta *fasta);
    int (*text)(pf_reading *reading, pf_input *input); /* its first chunk has been read */
    /* What is asked for. */
    const pf_config *options; /* path and valid */
    const char *format;       /* auto, fasta, text */
    int64_t longest;          /* residues of a sequence */
    bool skip_bad;            /* bad records are left out; else the first is an error */
    /* What is known so far. */
    const pf_vocab *vocab;
    bool fasta;
    bool apart; /* the validation part has files of its own */
    bool valid; /* the file that is being read is one of these */
    bool once;  /* a path can't be opened again to read the same */
    int64_t files, records, bytes;
    int64_t tokens, bases; /* of sequences: how many residues could be bases of DNA */
    uint8_t is_base[256];
    int64_t skipped; /* records that were left out */
    char skips[640]; /* the first of them, and why */
    char name[512];  /* of the file that is being read */
    char label[544]; /* what messages call all of them */
};

/* Reads all files of the options, which were checked. */
int pf_reading_run(pf_reading *reading, pf_engine *engine);

#endif
