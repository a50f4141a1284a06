/*
 * projection.c - drawing the random projections of FAVOR+ (paper, section 2.4 and B.2).
 *
 * Everything is drawn in double from (seed, layer, head, epoch), a head at a time. Each row
 * starts as a Gaussian vector: its length is one of chi norms, independent of the directions
 * that the vectors of a block are then turned into (projection_rows.c), or gives way to
 * sqrt(d) (SMREG).
 */
#include <math.h>
#include <string.h>

#include "projection_rows.h"

int pf_choice_place(const char *choices, const char *name) {
    size_t length = strlen(name);
    int place = 0;
    for (const char *at = choices; at; place++) {
        const char *end = strchr(at, '|');
        size_t n = end ? (size_t)(end - at) : strlen(at);
        if (n == length && memcmp(at, name, n) == 0) return place;
        at = end ? end + 1 : NULL;
    }
    return -1;
}

/* Gaussian rows first .. first+n-1 of a head -> block (n, d), and the lengths of its rows. */
static void start_block(const pf_drawing *o, const pf_rng *rng, int64_t first, int64_t n,
                        double *block, double *lengths) {
    int64_t d = o->head_dim;
    pf_rng_fill_normal_double(rng, (uint64_t)(first * d), n * d, block);
    for (int64_t a = 0; a < n; a++) {
        double own = sqrt(pf_dot_double(d, block + a * d, block + a * d));
        lengths[a] = o->norms == PF_NORMS_CHI ? own : sqrt((double)d);
    }
}

static pf_rng stream_of(const pf_drawing *o, int64_t head) {
    return pf_rng_make(o->seed, PF_DRAW_PROJECTION, o->layer << 32 | (uint64_t)head, o->epoch);
}

/* The signs come after the normals. */
static uint64_t first_word(const pf_drawing *o) { return (uint64_t)(o->features * o->head_dim); }

typedef struct {
    const pf_drawing *drawing;
    float *to;
} draw_context;

/* One head: w (m, d). Blocks follow each other in one stream of random numbers, so a head's draw is
 * one task. scratch: a block (d, d), lengths (d), and what pf_rows_turn takes. */
static void draw_head(void *context, int64_t head, void *scratch) {
    const draw_context *c = context;
    const pf_drawing *o = c->drawing;
    int64_t m = o->features, d = o->head_dim;
    double *block = scratch, *lengths = block + d * d, *work = lengths + d;
    float *w = c->to + head * m * d;
    pf_rng rng = stream_of(o, head);
    uint64_t word = first_word(o);
    for (int64_t first = 0; first < m; first += d) {
        int64_t n = pf_min(d, m - first);
        start_block(o, &rng, first, n, block, lengths);
        pf_rows_turn(o->rows, &rng, &word, n, d, block, work);
        for (int64_t a = 0; a < n; a++) {
            float *row = w + (first + a) * d;
            for (int64_t i = 0; i < d; i++) row[i] = (float)(lengths[a] * block[a * d + i]);
        }
    }
}

/* One head's factors (blocks, rounds + 1, d). */
static void draw_factors(void *context, int64_t head, void *scratch) {
    const draw_context *c = context;
    const pf_drawing *o = c->drawing;
    int64_t m = o->features, d = o->head_dim, rounds = pf_hadamard_rounds(d);
    double *block = scratch, *lengths = block + d * d;
    float *to = c->to + head * pf_hadamard_blocks(m, d) * (rounds + 1) * d;
    pf_rng rng = stream_of(o, head);
    uint64_t word = first_word(o);
    for (int64_t first = 0; first < m; first += d, to += (rounds + 1) * d) {
        int64_t n = pf_min(d, m - first);
        start_block(o, &rng, first, n, block, lengths);
        pf_hadamard_draw(&rng, &word, d, to);
        for (int64_t a = 0; a < d; a++) to[rounds * d + a] = a < n ? (float)lengths[a] : 0;
    }
}

/* Heads are drawn side by side, each from a stream of its own. */
static int draw(pf_tensor *to, pf_engine *engine, const pf_drawing *o, pf_task_fn task) {
    draw_context context = {o, pf_f32(to)};
    int64_t d = o->head_dim;
    size_t bytes = (size_t)((d + 1 + PF_ROWS_WORK) * d) * sizeof(double);
    int status = pf_parallel(engine, pf_max(o->heads, 1), bytes, task, &context);
    pf_tensor_touch(to, "a redraw");
    return status;
}

int pf_projection_fill(pf_tensor *projection, pf_engine *engine, const pf_drawing *drawing) {
    return draw(projection, engine, drawing, draw_head);
}

int pf_factors_fill(pf_tensor *factors, pf_engine *engine, const pf_drawing *drawing) {
    return draw(factors, engine, drawing, draw_factors);
}

/* A tensor of `rank` dimensions, the heads first where there are any, filled. */
static int make(pf_tensor **t, pf_engine *engine, const pf_drawing *o, int rank,
                const int64_t *shape, pf_task_fn task) {
    int shared = o->heads == 0;
    PF_TRY(pf_tensor_make_parameter(t, engine, PF_F32, rank - shared, shape + shared));
    int status = (*t)->storage ? draw(*t, engine, o, task) : PF_OK;
    if (status < 0) pf_tensor_release(t);
    return status;
}

int pf_projection_make(pf_tensor **projection, pf_engine *engine, const pf_drawing *o) {
    int64_t shape[3] = {o->heads, o->features, o->head_dim};
    return make(projection, engine, o, 3, shape, draw_head);
}

int pf_factors_make(pf_tensor **factors, pf_engine *engine, const pf_drawing *o) {
    int64_t d = o->head_dim;
    int64_t shape[4] = {o->heads, pf_hadamard_blocks(o->features, d), pf_hadamard_rounds(d) + 1, d};
    return make(factors, engine, o, 4, shape, draw_factors);
}

/* ---- public ---- */

static int check_sizes(const pf_projection_options *o) {
    if (o->features < 1 || o->head_dim < 1 || o->heads < 0) {
        return pf_fail(PF_EINVAL,
                       "projection: features (%lld) and head_dim (%lld) must be at least 1, "
                       "heads (%lld) at least 0",
                       (long long)o->features, (long long)o->head_dim, (long long)o->heads);
    }
    if (o->head_dim > 4096 || o->features > 1 << 20) {
        return pf_fail(PF_EINVAL,
                       "projection: head_dim %lld (at most 4096) or features %lld "
                       "(at most 1048576) is too large",
                       (long long)o->head_dim, (long long)o->features);
    }
    return PF_OK;
}

/* The place of a choice; NULL stands for the first. */
static int choose(const char *option, const char *choices, const char *name) {
    int place = name ? pf_choice_place(choices, name) : 0;
    if (place >= 0) return place;
    return pf_fail(PF_EINVAL, "projection: %s must be one of %s, got '%.48s'", option, choices,
                   name);
}

/* The options, checked, as a drawing. */
static int read_options(pf_drawing *drawing, const pf_projection_options *options) {
    pf_projection_options o = {0};
    PF_TRY(pf_options_take(&o, sizeof o, options, "projection"));
    PF_TRY(check_sizes(&o));
    int rows = choose("rows", PF_ROWS_DRAWN, o.rows);
    PF_TRY(rows);
    int norms = choose("norms", PF_NORMS_CHOICES, o.norms);
    PF_TRY(norms);
    *drawing = (pf_drawing){o.features, o.head_dim, o.heads,           o.seed,
                            o.layer,    o.epoch,    (pf_row_kind)rows, (pf_norm_kind)norms};
    return PF_OK;
}

int pf_projection_draw(pf_tensor **projection, pf_engine *engine,
                       const pf_projection_options *options) {
    PF_OUT(projection);
    PF_OPEN(engine);
    PF_NEED(options);
    pf_drawing drawing;
    PF_TRY(read_options(&drawing, options));
    return pf_projection_make(projection, engine, &drawing);
}

int pf_projection_factors(pf_tensor **factors, pf_engine *engine,
                          const pf_projection_options *options) {
    PF_OUT(factors);
    PF_OPEN(engine);
    PF_NEED(options);
    pf_drawing drawing;
    PF_TRY(read_options(&drawing, options));
    if (drawing.rows == PF_ROWS_HADAMARD) return pf_factors_make(factors, engine, &drawing);
    return pf_fail(PF_EINVAL, "projection: only rows = hadamard has factors");
}
