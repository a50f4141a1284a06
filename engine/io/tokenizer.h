/*
 * tokenizer.h - the fixed vocabularies. A vocabulary is `specials`, then one id a letter;
 * the table in tokenizer.c is the single source of ids and names.
 */
#ifndef PF_TOKENIZER_H
#define PF_TOKENIZER_H

#include "runtime.h"

typedef struct {
    const char *name; /* "mask" */
    int id;           /* may be a letter's id ("unknown" is X) */
} pf_special;

typedef struct {
    const char *type;    /* "protein" */
    int size;            /* ids are 0 .. size-1, at most 256: a token fits a byte */
    const char *letters; /* letter i has id first_letter + i; NULL: bytes are their own ids */
    int first_letter;
    const pf_special *specials;
    int n_specials;
} pf_vocab;

const pf_vocab *pf_vocab_find(const char *type); /* NULL with a message: no such type */
int pf_vocab_special(const pf_vocab *vocab, const char *name); /* id, or -1; no message */
/* map[byte] = id, or -1 where no letter; lower case as upper, J (Leu or Ile) as X. */
void pf_vocab_map(const pf_vocab *vocab, int16_t map[256]);
/* "'1'" or "byte 0x07", for messages: at most 16 bytes with the end. */
void pf_byte_text(int byte, char text[16]);

#endif
