/* align.c - see align.h. */
#include "align.h"

#include <math.h>
#include <string.h>

#include "tokenizer.h"

enum { LOOK = 1 << 12 /* rows */ };
enum { RESIDUES = 20, IDS = 32, OPEN = 11, EXTEND = 1, CELLS = 2 * PF_ALIGN_BAND + 1 };

/* BLOSUM62 (Henikoff and Henikoff 1992) in the order of the vocabulary. */
static const char ORDER[] = "ACDEFGHIKLMNPQRSTVWY";
static const int8_t BLOSUM62[RESIDUES][RESIDUES] = {
    {4, 0, -2, -1, -2, 0, -2, -1, -1, -1, -1, -2, -1, -1, -1, 1, 0, 0, -3, -2},
    {0, 9, -3, -4, -2, -3, -3, -1, -3, -1, -1, -3, -3, -3, -3, -1, -1, -1, -2, -2},
    {-2, -3, 6, 2, -3, -1, -1, -3, -1, -4, -3, 1, -1, 0, -2, 0, -1, -3, -4, -3},
    {-1, -4, 2, 5, -3, -2, 0, -3, 1, -3, -2, 0, -1, 2, 0, 0, -1, -2, -3, -2},
    {-2, -2, -3, -3, 6, -3, -1, 0, -3, 0, 0, -3, -4, -3, -3, -2, -2, -1, 1, 3},
    {0, -3, -1, -2, -3, 6, -2, -4, -2, -4, -3, 0, -2, -2, -2, 0, -2, -3, -2, -3},
    {-2, -3, -1, 0, -1, -2, 8, -3, -1, -3, -2, 1, -2, 0, 0, -1, -2, -3, -2, 2},
    {-1, -1, -3, -3, 0, -4, -3, 4, -3, 2, 1, -3, -3, -3, -3, -2, -1, 3, -3, -1},
    {-1, -3, -1, 1, -3, -2, -1, -3, 5, -2, -1, 0, -1, 1, 2, 0, -1, -2, -3, -2},
    {-1, -1, -4, -3, 0, -4, -3, 2, -2, 4, 2, -3, -3, -2, -2, -2, -1, 1, -2, -1},
    {-1, -1, -3, -2, 0, -3, -2, 1, -1, 2, 5, -2, -2, 0, -1, -1, -1, 1, -1, -1},
    {-2, -3, 1, 0, -3, 0, 1, -3, 0, -3, -2, 6, -2, 0, 0, 1, 0, -3, -4, -2},
    {-1, -3, -1, -1, -4, -2, -2, -3, -1, -3, -2, -2, 7, -1, -2, -1, -1, -2, -4, -3},
    {-1, -3, 0, 2, -3, -2, 0, -3, 1, -2, 0, 0, -1, 5, 1, 0, -1, -2, -2, -1},
    {-1, -3, -2, 0, -3, -2, 0, -3, 2, -2, -1, 0, -2, 1, 5, -1, -1, -3, -3, -2},
    {1, -1, 0, 0, -2, 0, -1, -2, 0, -2, -1, 1, -1, 0, -1, 4, 1, -2, -3, -2},
    {0, -1, -1, -1, -2, -2, -2, -1, -1, -1, -1, 0, -1, -1, -1, 1, 5, 0, -2, -2},
    {0, -1, -3, -2, -1, -3, -3, 3, -2, 1, 1, -3, -2, -2, -3, -2, 0, 4, -3, -1},
    {-3, -2, -4, -3, 1, -2, -2, -3, -3, -2, -1, -4, -4, -2, -3, -3, -2, -3, 11, 2},
    {-2, -2, -3, -2, 3, -3, 2, -1, -2, -1, -1, -2, -3, -1, -2, -2, -2, -1, 2, 7},
};

/* A cell: the best alignment that ends there, and how it came about. */
typedef struct {
    int score, matches, columns;
    int from; /* where it begins in a */
} cell;

struct pf_aligner {
    const pf_engine *engine;
    int stopped;             /* why, or 0 */
    int8_t scores[IDS][IDS]; /* of ids; what is none of the twenty is like nothing: -1 */
    cell best[CELLS + 2];    /* from 1: of the row before, and then of this one */
    cell down[CELLS + 2];    /* those that end in a gap in b */
};

int pf_aligner_open(pf_aligner **out, const pf_engine *engine) {
    pf_aligner *aligner = *out = pf_heap_alloc(engine->heap, sizeof *aligner);
    if (!aligner) return PF_ENOMEM;
    int16_t map[256];
    pf_vocab_map(pf_vocab_find("protein"), map);
    aligner->engine = engine;
    aligner->stopped = PF_OK;
    memset(aligner->scores, -1, sizeof aligner->scores);
    for (int a = 0; a < RESIDUES; a++)
        for (int b = 0; b < RESIDUES; b++)
            aligner->scores[map[(int)ORDER[a]]][map[(int)ORDER[b]]] = BLOSUM62[a][b];
    return PF_OK;
}

void pf_aligner_close(pf_aligner **aligner) {
    if (*aligner) pf_heap_free((*aligner)->engine->heap, *aligner, sizeof **aligner);
    *aligner = NULL;
}

/* Remembered: the host may have lowered its flag before anybody asks. */
static bool is_stopped(pf_aligner *aligner) {
    if (aligner->stopped >= 0) aligner->stopped = pf_stopped(aligner->engine);
    return aligner->stopped < 0;
}

int pf_aligner_status(pf_aligner *aligner) {
    is_stopped(aligner);
    return pf_stopped_fail(aligner->engine, aligner->stopped);
}

int pf_align_pair(const pf_aligner *aligner, uint8_t a, uint8_t b) { return aligner->scores[a][b]; }

/* ---- without gaps ---- */

/* The most that is gained from one end on, `step` by `step`, `n` residues at most. */
static int extend(const pf_aligner *aligner, const uint8_t *a, const uint8_t *b, int64_t n,
                  int step) {
    int score = 0, best = 0;
    for (int64_t i = 0; i < n && score > best - PF_ALIGN_DROP; i++, a += step, b += step) {
        score += aligner->scores[*a][*b];
        if (score > best) best = score;
    }
    return best;
}

int pf_align_extend(const pf_aligner *aligner, const pf_residues *a, const pf_residues *b,
                    int64_t at_a, int64_t at_b) {
    int right = extend(aligner, a->ids + at_a, b->ids + at_b, pf_min(a->n - at_a, b->n - at_b), 1);
    int64_t before = pf_min(at_a, at_b);
    if (before == 0) return right;
    return right + extend(aligner, a->ids + at_a - 1, b->ids + at_b - 1, before, -1);
}

/* ---- with gaps ---- */

/* `to` goes on as a gap: a new one behind `best`, or one residue more of it. */
static void open_or_extend(cell *to, const cell *best, const cell *gap) {
    int opened = best->score - OPEN - EXTEND, longer = gap->score - EXTEND;
    *to = opened >= longer ? *best : *gap;
    to->score = opened >= longer ? opened : longer;
    to->columns++;
}

/* Cell (i, j) from its neighbours: *here is the one at (i-1, j-1), and becomes it. */
static void advance(cell *here, const cell *right, const cell *down, int score, bool equal, int i) {
    if (here->score <= 0) *here = (cell){.from = i};
    here->score += score;
    here->matches += equal;
    here->columns++;
    if (right->score > here->score) *here = *right;
    if (down->score > here->score) *here = *down;
    if (here->score < 0) here->score = 0;
}

static void keep_best(pf_alignment *best, const cell *here, int i) {
    if (here->score <= best->score) return;
    *best = (pf_alignment){here->score, here->matches, here->columns, i + 1 - here->from};
}

/* Rows of a, and cells of the band (from 1), that lie within b. */
typedef struct {
    int64_t row, end; /* of a */
    int64_t middle;   /* b's place beside a[0], in the middle of the band */
    int64_t n;        /* of b */
} band;

static band lay_band(const pf_residues *a, const pf_residues *b, int64_t at_a, int64_t at_b) {
    int64_t middle = at_b - at_a;
    return (band){.row = pf_max(0, -middle - PF_ALIGN_BAND),
                  .end = pf_min(a->n, b->n - middle + PF_ALIGN_BAND),
                  .middle = middle,
                  .n = b->n};
}

/* The column of b that cell 1 of row i is in; cells *low .. *high are in b. */
static int64_t band_row(const band *w, int64_t i, int64_t *low, int64_t *high) {
    int64_t first = i + w->middle - PF_ALIGN_BAND;
    *low = pf_max(1, 1 - first);
    *high = pf_min(CELLS, w->n - first);
    return first;
}

/* The best score alone: most pairs are none. */
static int banded_score(pf_aligner *aligner, const pf_residues *a, const pf_residues *b,
                        const band *w) {
    int row[CELLS + 2] = {0}, down[CELLS + 2] = {0}, best = 0;
    for (int64_t i = w->row, low, high; i < w->end; i++) {
        if (i % LOOK == LOOK - 1 && is_stopped(aligner)) return 0;
        int64_t first = band_row(w, i, &low, &high);
        const int8_t *scores = aligner->scores[a->ids[i]];
        const uint8_t *ids = b->ids + first - 1;
        int right = 0, left = 0; /* a gap that ends here; the score of the cell before */
        for (int64_t c = low; c <= high; c++) {
            int score = row[c] + scores[ids[c]], opened = row[c + 1] - OPEN - EXTEND;
            int below = down[c + 1] - EXTEND;
            if (opened > below) below = opened;
            right -= EXTEND;
            if (left - OPEN - EXTEND > right) right = left - OPEN - EXTEND;
            if (below > score) score = below;
            if (right > score) score = right;
            if (score < 0) score = 0;
            down[c] = below;
            row[c] = left = score;
            if (score > best) best = score;
        }
        if (high < CELLS) row[high + 1] = down[high + 1] = 0;
    }
    return best;
}

void pf_align_banded(pf_alignment *best, pf_aligner *aligner, const pf_residues *a,
                     const pf_residues *b, int64_t at_a, int64_t at_b, double least) {
    cell *row = aligner->best, *down = aligner->down;
    band w = lay_band(a, b, at_a, at_b);
    int score = banded_score(aligner, a, b, &w);
    *best = (pf_alignment){.score = score < least ? score : 0};
    if (score < least) return;
    memset(row, 0, sizeof aligner->best);
    memset(down, 0, sizeof aligner->down);
    for (int64_t i = w.row, low, high; i < w.end; i++) {
        if (i % LOOK == LOOK - 1 && is_stopped(aligner)) return;
        int64_t first = band_row(&w, i, &low, &high);
        cell right = {0}, next;
        for (int64_t c = low; c <= high; c++) {
            uint8_t x = a->ids[i], y = b->ids[first + c - 1];
            open_or_extend(&next, &row[c + 1], &down[c + 1]);
            down[c] = next;
            open_or_extend(&next, c > low ? &row[c - 1] : &(cell){0}, &right);
            right = next;
            advance(&row[c], &right, &down[c], aligner->scores[x][y], x == y, (int)i);
            keep_best(best, &row[c], (int)i);
        }
        if (high < CELLS) row[high + 1] = down[high + 1] = (cell){0};
    }
}

double pf_align_score_by_chance(double m, double n, double rare) {
    static const double lambda = 0.267, k = 0.041;
    return log(k * m * n * rare) / lambda;
}
