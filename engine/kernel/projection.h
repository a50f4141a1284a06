/*
 * projection.h - what the projection files share: how a draw is keyed, the kinds of rows and
 * of norms, and the Hadamard product in its factors.
 *
 * A projection W (m, d) is cut into blocks of d rows, the last one shorter. A block is first
 * a set of unit rows, the directions; then every row gets a length. Whatever the kind, a
 * direction is uniform on the sphere and independent of its length, so that with chi lengths
 * each row is marginally N(0, I) and exp(w.x - |x|^2/2) estimates without bias for +z and -z
 * (hadamard: up to O(1/d^2), see hadamard.c).
 */
#ifndef PF_PROJECTION_H
#define PF_PROJECTION_H

#include "calls.h"
#include "performer_attention.h"

/* In the order of the choices; a spec holds every name against what it draws. */
#define PF_ROWS_DRAWN   "orthogonal|iid|hadamard|simplex"
#define PF_ROWS_CHOICES PF_ROWS_DRAWN "|given"
typedef enum {
    PF_ROWS_ORTHOGONAL,
    PF_ROWS_IID,
    PF_ROWS_HADAMARD,
    PF_ROWS_SIMPLEX,
    PF_ROWS_GIVEN
} pf_row_kind;
#define PF_NORMS_CHOICES "chi|sqrt_d"
typedef enum { PF_NORMS_CHI, PF_NORMS_SQRT_D } pf_norm_kind;

/* The place of `name` in "a|b|c", or -1. */
int pf_choice_place(const char *choices, const char *name);

/* One draw: the same key and sizes give the same bits. */
typedef struct pf_drawing {
    int64_t features, head_dim, heads; /* m, d, H; heads 0: one (m, d) for all */
    uint64_t seed, layer, epoch;
    pf_row_kind rows;
    pf_norm_kind norms;
} pf_drawing;

/* Makes `projection`, (m, d) or (H, m, d), or fills one that is there. Given rows are drawn as
 * orthogonal ones: what a model holds until the given matrix is copied in. */
int pf_projection_make(pf_tensor **projection, pf_engine *engine, const pf_drawing *drawing);
int pf_projection_fill(pf_tensor *projection, pf_engine *engine, const pf_drawing *drawing);
/* The same draw of rows `hadamard` in its factors, (blocks, rounds + 1, d) or (H, ...). */
int pf_factors_make(pf_tensor **factors, pf_engine *engine, const pf_drawing *drawing);
int pf_factors_fill(pf_tensor *factors, pf_engine *engine, const pf_drawing *drawing);

/* ---- the Hadamard product (hadamard.c) ---- */

/*
 * A block (d, d) is a product of rounds. Row t of `rounds` (rounds, d) holds round t + 1: its
 * transform's input i is +-x_j where the entry is +-(1 + j). The factors of a head are
 * (blocks, rounds + 1, d): a block's rounds and the lengths of its rows, 0 for those beyond m.
 */
enum { PF_HADAMARD_ROUNDS = 6 }; /* at most */
static inline int64_t pf_hadamard_blocks(int64_t m, int64_t d) { return (m + d - 1) / d; }
int pf_hadamard_rounds(int64_t d);
/* Size and first entry of the window that round t transforms. */
int64_t pf_hadamard_window(int64_t d, int round, int64_t *first);
/* Draws a block's rounds from `rng`, at word *word, which moves on. */
void pf_hadamard_draw(const pf_rng *rng, uint64_t *word, int64_t d, float *rounds);
/* row (d) <- row a of the block, a unit vector; spare (d) is work space. */
void pf_hadamard_row(const float *rounds, int64_t d, int64_t a, double *row, double *spare);

#endif
