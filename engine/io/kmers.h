/*
 * kmers.h - which sequences have short words in common: every word of k residues of every sequence,
 * by kinds of residue (A with S and T, I with V ...), sorted into groups of equal words. Groups
 * come a share of the words at a time, so that what is held is bounded; and the time is linear in
 * the residues, the words being so long that few are equal by chance.
 */
#ifndef PF_KMERS_H
#define PF_KMERS_H

#include "data.h"

/* A word's place: number of its sequence in the order that was given, and position. */
typedef struct {
    uint32_t sequence, at;
} pf_kmer;

/* n words that are equal, but for collisions of their hashes, in the order of the sequences. */
typedef int (*pf_kmers_fn)(void *context, const pf_kmer *words, int64_t n);

/* Calls `f` for all groups of two words and more of data's documents order[0 .. n-1]. */
int pf_kmers_each(const pf_data *data, const pf_engine *engine, const int64_t *order, int64_t n,
                  pf_kmers_fn f, void *context);

#endif
