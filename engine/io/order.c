/*
 * order.c - which row stands where in a pass over the training rows: a permutation keyed by (seed,
 * pass). It is shuffled in an array that lasts a pass; but rows of shards may be too many for that,
 * and then it is a Feistel network over the row's number, which needs no memory: four rounds on
 * two halves of the bits, walked on while what comes out is no row.
 */
#include "data.h"
#include "shards.h"

/* Rows of shards up to which the order is an array, so that it is the one of data in memory. */
#define MANY_ROWS ((int64_t)1 << 20)
#define ROUNDS    4
#define LOOK      (1 << 16) /* rows between two looks at the cancel flag */

/* Fills data->order. */
static int shuffle(pf_data *data, const pf_engine *engine, uint64_t seed, int64_t pass) {
    int64_t n = data->plans[PF_TRAIN].n_rows;
    if (data->order && data->order_seed == seed && data->order_pass == pass) return PF_OK;
    if (!data->order) data->order = pf_heap_alloc(data->heap, (size_t)n * sizeof *data->order);
    if (!data->order) return PF_ENOMEM;
    data->n_order = n;
    data->order_pass = -1; /* it is none until it is whole */
    pf_rng rng = pf_rng_make(seed, PF_DRAW_DATA, (uint64_t)pass, 0);
    for (int64_t i = 0; i < n; i++) {
        if (i % LOOK == 0) PF_TRY(pf_check_cancel(engine));
        int64_t j = (int64_t)pf_rng_below(&rng, (uint64_t)i, (uint64_t)i + 1);
        data->order[i] = data->order[j]; /* inside-out shuffle */
        data->order[j] = i;
    }
    data->order_seed = seed;
    data->order_pass = pass;
    return PF_OK;
}

/* One turn of the network over numbers of 2 `half` bits. */
static uint64_t turn(uint64_t x, int half, uint64_t seed, int64_t pass) {
    uint64_t mask = ((uint64_t)1 << half) - 1, left = x >> half, right = x & mask;
    for (int round = 0; round < ROUNDS; round++) {
        pf_rng rng = pf_rng_make(seed, PF_DRAW_DATA, (uint64_t)pass, 2 + (uint64_t)round);
        uint64_t next = left ^ (pf_rng_u32(&rng, right) & mask);
        left = right;
        right = next;
    }
    return left << half | right;
}

static int64_t permuted(int64_t place, int64_t n, uint64_t seed, int64_t pass) {
    int half = 1;
    while (half < 31 && (int64_t)1 << 2 * half < n) half++;
    uint64_t x = (uint64_t)place;
    do x = turn(x, half, seed, pass);
    while (x >= (uint64_t)n);
    return (int64_t)x;
}

static bool is_many(const pf_data *data) {
    return data->shards && data->plans[PF_TRAIN].n_rows > MANY_ROWS;
}

bool pf_data_own_order(const pf_data *data) {
    return is_many(data) || (data->shards && data->fasta && data->shards->n_blocks > 1);
}

int pf_data_order(int64_t *row, pf_data *data, const pf_engine *engine, uint64_t seed, int64_t pass,
                  int64_t place) {
    int64_t n = data->plans[PF_TRAIN].n_rows;
    if (is_many(data)) {
        *row = permuted(place, n, seed, pass);
        return PF_OK;
    }
    PF_TRY(shuffle(data, engine, seed, pass));
    *row = data->order[place];
    return PF_OK;
}
