/*
 * format.h - what a file is, decided once, from the first chunk that its reader holds: FASTA when
 * its first record line begins with '>', with byte order marks, blank lines and comments before it;
 * else text. What is plainly neither (packed, UTF-16, a picture ...), and what seems to be FASTA
 * behind other lines, is refused by name, with what to do; the user's word, "fasta" or "text",
 * comes before all that the bytes say.
 */
#ifndef PF_FORMAT_H
#define PF_FORMAT_H

#include "input.h"

/* asked: "auto", "fasta" or "text". The first chunk of `input` has been read. */
int pf_format_decide(const pf_input *input, const char *asked, bool *fasta);

#endif
