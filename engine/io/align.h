/*
 * align.h - two protein sequences beside each other, from a place where they have a few letters in
 * common: how well they go on without gaps, and the best local alignment in a band around there
 * (Smith and Waterman 1981 with Gotoh's gaps; BLOSUM62, 11 to open a gap and 1 to go on).
 * Sequences are ids of the protein vocabulary, residues only.
 */
#ifndef PF_ALIGN_H
#define PF_ALIGN_H

#include "runtime.h"

typedef struct {
    const uint8_t *ids;
    int64_t n;
} pf_residues;

typedef struct {
    int score;
    int matches; /* equal residues */
    int columns; /* of the alignment, gaps as well */
    int span;    /* residues of the shorter sequence from its first to its last column */
} pf_alignment;

typedef struct pf_aligner pf_aligner; /* the room that a band takes */

int pf_aligner_open(pf_aligner **aligner, const pf_engine *engine);
void pf_aligner_close(pf_aligner **aligner);
/* PF_ECANCEL or PF_ELIMIT once the work was stopped: what came of an alignment since the last time
 * is nothing then. */
int pf_aligner_status(pf_aligner *aligner);

int pf_align_pair(const pf_aligner *aligner, uint8_t a, uint8_t b); /* of two residues */

/* The best score of a stretch without gaps through a[at_a], b[at_b]. It ends where it has fallen
 * by PF_ALIGN_DROP. */
#define PF_ALIGN_DROP 20
int pf_align_extend(const pf_aligner *aligner, const pf_residues *a, const pf_residues *b,
                    int64_t at_a, int64_t at_b);

/* The best alignment within PF_ALIGN_BAND diagonals to each side of the one through a[at_a],
 * b[at_b], a being the shorter sequence; of one whose score is less than `least`, that alone. */
#define PF_ALIGN_BAND 24
void pf_align_banded(pf_alignment *best, pf_aligner *aligner, const pf_residues *a,
                     const pf_residues *b, int64_t at_a, int64_t at_b, double least);

/* The score that comes by chance once in `rare` searches of n residues with m (Karlin and Altschul
 * 1990, with the constants of BLAST for these scores). */
double pf_align_score_by_chance(double m, double n, double rare);

#endif
