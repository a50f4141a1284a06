/*
 * dropout.c - dropout by counter: whether element i (in row-major order) stays is a function
 * of (seed, draw, i) alone. The backward draws the same mask again; all that is kept is the
 * seed, which the host may change between forward and backward.
 */
#include "dropout.h"

enum { PIECE = 1024, GRAIN = 16384 };

static const pf_attr_info dropout_attrs[] = {
    {.name = "p",
     .kind = PF_ATTR_FLOAT,
     .def = 0.1,
     .doc = "share of elements set to 0, 0 <= p < 1"},
};

typedef struct {
    pf_drops drops;
    bool overwrite;
    const float *x;
    float *y;
} dropout_job;

/* x of any shape */
static int dropout_shape(pf_call *c) {
    PF_TRY(pf_want(c, 0, PF_F32));
    double p = c->attr[0].f;
    if (!(p >= 0 && p < 1)) return pf_fail(PF_EINVAL, "dropout: p is %g, not in 0 <= p < 1", p);
    return pf_same_as(c, 0, 0);
}

pf_drops pf_drops_of(const pf_kern *kern, double p, uint64_t seed, uint64_t draw) {
    return (pf_drops){.kern = kern,
                      .rng = pf_rng_make(seed, PF_DRAW_DROPOUT, draw, 0),
                      .cut = (uint32_t)(p * 0x1p32),
                      .scale = (float)(1 / (1 - p))};
}

/* Words first .. first+n-1 of the stream, as pf_rng_u32 numbers them; `words` has room for n
 * rounded up to a multiple of 4. */
static void draw_words(const pf_rng *rng, int64_t first, int64_t n, uint32_t *words) {
    uint64_t block = (uint64_t)first / 4;
    for (int64_t i = 0; i < n; i += 4, block++) {
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), rng->base[0],
                                     rng->base[1]};
        pf_philox(counter, rng->key, words + i);
    }
}

void pf_drops_apply(const pf_drops *drops, int64_t first, int64_t n, const float *x, float *y) {
    uint32_t words[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t piece = pf_min(PIECE, n - i);
        draw_words(&drops->rng, first + i, piece, words);
        drops->kern->dropout(piece, words, drops->cut, drops->scale, x + i, y + i);
    }
}

/* y (+)= x / (1 - p) where the element stays, else 0: a dropped NaN is gone. */
static void drop_range(void *context, int64_t first, int64_t last) {
    const dropout_job *job = context;
    float kept[PIECE];
    for (int64_t i = first; i < last; i += PIECE) {
        int64_t n = pf_min(PIECE, last - i);
        float *to = job->overwrite ? job->y + i : kept;
        pf_drops_apply(&job->drops, i, n, job->x + i, to);
        if (!job->overwrite) job->drops.kern->axpy(n, 1.0f, kept, job->y + i);
    }
}

static int run(pf_call *c, uint64_t seed, pf_tensor *from, pf_tensor *to, bool overwrite) {
    pf_tensor *x;
    PF_TRY(pf_call_compact(c, from, &x));
    dropout_job job = {.drops = pf_drops_of(c->engine->kern, c->attr[0].f, seed, c->draw),
                       .overwrite = overwrite,
                       .x = pf_f32(x),
                       .y = pf_f32(to)};
    return pf_parallel_range(c->engine, pf_tensor_numel(x), GRAIN, drop_range, &job);
}

int pf_drops_save(pf_call *c, int slot) {
    int64_t two = 2;
    PF_TRY(pf_tensor_make(&c->saved[slot], c->engine, PF_I32, 1, &two));
    int32_t *word = pf_i32(c->saved[slot]);
    word[0] = (int32_t)(uint32_t)c->engine->seed;
    word[1] = (int32_t)(uint32_t)(c->engine->seed >> 32);
    return PF_OK;
}

uint64_t pf_drops_seed(const pf_call *c, int slot) {
    const int32_t *word = pf_i32(c->saved[slot]);
    return (uint64_t)(uint32_t)word[1] << 32 | (uint32_t)word[0];
}

static int dropout_forward(pf_call *c) {
    if (c->attr[0].f == 0) return pf_tensor_view(&c->out[0], c->in[0]);
    if (c->record) PF_TRY(pf_drops_save(c, 0));
    PF_TRY(pf_tensor_make(&c->out[0], c->engine, PF_F32, c->shape[0].rank, c->shape[0].dim));
    return run(c, c->engine->seed, c->in[0], c->out[0], true);
}

static int dropout_backward(pf_call *c) {
    if (!c->need[0]) return PF_OK;
    if (c->attr[0].f == 0) return pf_grad_give(c, 0, c->dout[0]);
    bool fresh;
    pf_tensor *dx;
    PF_TRY(pf_grad_fresh(c, 0, &fresh, &dx));
    return run(c, pf_drops_seed(c, 0), c->dout[0], dx, fresh);
}

const pf_op pf_op_dropout = {
    .name = "dropout",
    .args = "x",
    .results = "y",
    .doc = "Sets each element to 0 with probability p and scales the others by 1 / (1 - p). The "
           "mask is drawn by counter from (seed, call, element), the same for any number of "
           "threads; p = 0 returns x.",
    .min_in = 1,
    .max_in = 1,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_RANDOM,
    .attrs = dropout_attrs,
    .n_attrs = PF_COUNT(dropout_attrs),
    .shape = dropout_shape,
    .forward = dropout_forward,
    .backward = dropout_backward,
};
