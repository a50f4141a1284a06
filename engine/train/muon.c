/*
 * muon.c - Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"),
 * scaled as by Liu et al. 2025, "Muon is scalable for LLM training", arXiv 2502.16982. Of a matrix
 * (rows, cols) among the weights of linear layers:
 *   m = momentum m + (1 - momentum) g
 *   u = momentum m + (1 - momentum) g       with nesterov, else m
 *   X = u / |u|;  `iterations` times: A = X X^T, X = (a + b A + c A^2) X
 *   p = p - lr (0.2 sqrt(max(rows, cols)) X + decay p)
 * The iteration (Newton and Schulz's, with coefficients that are quick rather than exact) takes the
 * singular values of u to about 1, between 0.7 and 1.2. The factor gives a step the root mean
 * square of AdamW's, so that one rate and one decay serve both: everything else (tables,
 * the head, convolutions, vectors) goes by AdamW.
 *
 * The products are tiles of fixed shapes, and |u| is added up over fixed blocks in order: no bit
 * depends on the threads.
 */
#include <math.h>
#include <string.h>

#include "adam.h"
#include "tiles.h"

enum { GRAIN = 1 << 14, BLOCK = 1 << 15 };
static const double LEAST = 1e-30; /* norm of a mean gradient below which it is none */

static const pf_option_info muon_options[] = {
    PF_RULE_LR(4e-3),
    PF_RULE_DECAY(0.1),
    {.name = "momentum",
     .kind = PF_OPT_NUMBER,
     .number = 0.95,
     .low = 0,
     .high = 0.999999,
     .doc = "memory of the gradient of an orthogonalised matrix"},
    {.name = "nesterov",
     .kind = PF_OPT_BOOL,
     .number = 1,
     .doc = "this step's gradient counts once more"},
    {.name = "orthogonal",
     .kind = PF_OPT_STRING,
     .string = "linear",
     .choices = "linear|all|none",
     .doc = "which matrices are orthogonalised: weights of linear layers but that of `head`, all, "
            "or none; the others go by AdamW"},
    {.name = "iterations",
     .kind = PF_OPT_INT,
     .number = 5,
     .low = 1,
     .high = 20,
     .doc = "of Newton and Schulz's method, each three products of matrices"},
    PF_ADAM_OPTIONS(0.9, 0.98, 1e-9),
};

enum { MOMENTUM = PF_ADAM_CONSTANTS, NESTEROV, ITERATIONS };

static void muon_begin(const pf_config *options, uint64_t step, float *c) {
    pf_adam_begin(&pf_optimizer_muon, options, step, c);
    c[MOMENTUM] = (float)pf_rule_option(&pf_optimizer_muon, options, "momentum");
    c[NESTEROV] = (float)pf_rule_option(&pf_optimizer_muon, options, "nesterov");
    c[ITERATIONS] = (float)pf_rule_option(&pf_optimizer_muon, options, "iterations");
}

static bool muon_takes(const pf_config *options, bool linear) {
    const char *which = pf_rule_text(&pf_optimizer_muon, options, "orthogonal");
    return strcmp(which, "all") == 0 || (linear && strcmp(which, "linear") == 0);
}

/* ---- ranges: numbers by themselves ---- */

typedef struct {
    const pf_update *u;
    float *x;
    float factor;
} range_job;

/* m, and x = u. */
static void gather_range(void *context, int64_t first, int64_t last) {
    const range_job *j = context;
    const pf_update *u = j->u;
    float *restrict m = u->moment[0], *restrict x = j->x;
    const float *restrict g = u->g;
    float momentum = u->c[MOMENTUM], rest = 1 - momentum;
    for (int64_t i = first; i < last; i++) {
        float fresh = rest * (u->gscale * g[i]);
        m[i] = momentum * m[i] + fresh;
        x[i] = u->c[NESTEROV] != 0 ? momentum * m[i] + fresh : m[i];
    }
}

static void scale_range(void *context, int64_t first, int64_t last) {
    const range_job *j = context;
    j->u->kern->scale(last - first, j->factor, j->x + first, j->x + first);
}

static void move_range(void *context, int64_t first, int64_t last) {
    const range_job *j = context;
    const pf_update *u = j->u;
    u->kern->scale(last - first, 1 - u->lr * u->decay, u->p + first, u->p + first);
    u->kern->axpy(last - first, -u->lr * j->factor, j->x + first, u->p + first);
}

static int over(const pf_update *u, pf_engine *e, pf_range_fn f, float *x, float factor) {
    range_job j = {u, x, factor};
    return pf_parallel_range(e, u->n, GRAIN, f, &j);
}

static double norm_of(const pf_update *u, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < u->n; i += BLOCK)
        sum += u->kern->sumsq_double(pf_min(BLOCK, u->n - i), x + i);
    return sqrt(sum);
}

/* ---- Newton and Schulz ---- */

static pf_matrix matrix(float *data, int64_t rows, int64_t cols) {
    return (pf_matrix){.data = data, .rows = rows, .cols = cols, .ld = cols};
}

/* c = a b, or added to it. */
static pf_tiles tiles_of(pf_engine *e, const pf_matrix *a, const pf_matrix *b, const pf_matrix *c,
                         bool overwrite) {
    return (pf_tiles){.engine = e,
                      .a = a,
                      .b = b,
                      .c = c,
                      .rows = PF_ROW_TILE,
                      .cols = PF_COL_TILE,
                      .pad = true,
                      .overwrite = overwrite};
}

static int product(pf_engine *e, const pf_matrix *a, const pf_matrix *b, const pf_matrix *c,
                   bool overwrite) {
    const pf_tiles tiles = tiles_of(e, a, b, c, overwrite);
    return pf_tiles_run(&tiles);
}

/* The matrices of an iteration, in the work space: x and next (rows, cols), and two squares as wide
 * as the shorter side. */
typedef struct {
    pf_matrix x, next, square, mix;
} space;

static int64_t muon_room(int64_t rows, int64_t cols) {
    int64_t side = pf_min(rows, cols);
    return 2 * rows * cols + 2 * side * side;
}

static double muon_products(const pf_config *options, int64_t rows, int64_t cols) {
    const double side = (double)pf_min(rows, cols), n = (double)rows * (double)cols;
    return pf_rule_option(&pf_optimizer_muon, options, "iterations") * side * (2 * n + side * side);
}

static space carve(float *room, int64_t rows, int64_t cols) {
    int64_t n = rows * cols, side = pf_min(rows, cols);
    return (space){matrix(room, rows, cols), matrix(room + n, rows, cols),
                   matrix(room + 2 * n, side, side),
                   matrix(room + 2 * n + side * side, side, side)};
}

/* mix = b A + c A^2 and next = a X + mix X, or X mix where X is tall, from the shorter side. */
static int iterate(pf_engine *e, space *s, const pf_update *u) {
    static const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    const bool tall = s->x.rows > s->x.cols;
    const pf_matrix flipped = pf_matrix_flip(&s->x), scaled = s->next;
    const int64_t squares = s->square.rows * s->square.rows;
    PF_TRY(tall ? product(e, &flipped, &s->x, &s->square, true)
                : product(e, &s->x, &flipped, &s->square, true));
    /* c A beside A, where the next X will be: A is no larger than X. */
    pf_matrix weighed = matrix(scaled.data, s->square.rows, s->square.cols);
    u->kern->scale(squares, c, s->square.data, weighed.data);
    u->kern->scale(squares, b, s->square.data, s->mix.data);
    PF_TRY(product(e, &weighed, &s->square, &s->mix, false));
    u->kern->scale(u->n, a, s->x.data, s->next.data);
    PF_TRY(tall ? product(e, &s->x, &s->mix, &s->next, false)
                : product(e, &s->mix, &s->x, &s->next, false));
    const pf_matrix last = s->x;
    s->x = s->next, s->next = last;
    return PF_OK;
}

/* Room for each of an iteration's products. */
static int muon_ready(pf_engine *e, int64_t rows, int64_t cols) {
    const int64_t side = pf_min(rows, cols);
    const pf_matrix x = matrix(NULL, rows, cols), square = matrix(NULL, side, side);
    const pf_matrix flipped = pf_matrix_flip(&x), *left = rows > cols ? &flipped : &x;
    const pf_matrix *right = rows > cols ? &x : &flipped;
    const pf_tiles products[] = {
        tiles_of(e, left, right, &square, true),
        tiles_of(e, &square, &square, &square, false),
        rows > cols ? tiles_of(e, &x, &square, &x, false) : tiles_of(e, &square, &x, &x, false),
    };
    for (int i = 0; i < PF_COUNT(products); i++) PF_TRY(pf_tiles_ready(&products[i]));
    return PF_OK;
}

static int muon_whole(const pf_update *u, pf_engine *e, int64_t rows, int64_t cols) {
    space s = carve(u->room, rows, cols);
    PF_TRY(over(u, e, gather_range, s.x.data, 0));
    double norm = norm_of(u, s.x.data);
    PF_TRY(over(u, e, scale_range, s.x.data, norm > LEAST ? (float)(1 / norm) : 0));
    for (int i = 0; i < (int)u->c[ITERATIONS]; i++) PF_TRY(iterate(e, &s, u));
    return over(u, e, move_range, s.x.data, 0.2f * sqrtf((float)pf_max(rows, cols)));
}

const pf_optimizer_rule pf_optimizer_muon = {
    .name = "muon",
    .doc = "Muon: linear layers' matrices move by their mean gradient made orthogonal, the rest as "
           "with AdamW, whose lr and decay fit. A step costs as much more as 4 to 5 tokens for "
           "each of `dim`. arXiv 2502.16982.",
    .options = muon_options,
    .n_options = PF_COUNT(muon_options),
    .mean = "beta1",
    .squares = true,
    .n_moments = 2,
    .moment = {"m", "v"},
    .begin = muon_begin,
    .range = pf_adam_range,
    .takes_whole = muon_takes,
    .whole_moments = 1,
    .whole_room = muon_room,
    .whole_products = muon_products,
    .whole_ready = muon_ready,
    .whole = muon_whole,
};
