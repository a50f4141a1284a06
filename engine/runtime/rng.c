/*
 * rng.c - Philox 4x32-10 and what is drawn from it. What must hold: a value is a function of
 * (stream, index) alone, so that filling a range in any pieces, on any thread, gives the same
 * bits. One stream is read through one kind of function: u32, uniform and normal share the
 * same words, below takes two words a value.
 */
#include "rng.h"

#include <math.h>

/* Round constants of the paper: multipliers, and Weyl steps of the key. */
static const uint32_t M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
static const uint32_t W0 = 0x9E3779B9u, W1 = 0xBB67AE85u;
static const double two_pi = 6.283185307179586476925286766559;

void pf_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)M0 * c0, p1 = (uint64_t)M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += W0;
        k1 += W1;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* (seed, purpose) choose a key; under it Philox is a bijection of 128 bits, so that two
 * different (a, b) never get the same stream. */
pf_rng pf_rng_make(uint64_t seed, pf_draw purpose, uint64_t a, uint64_t b) {
    const uint32_t plain[2] = {0x50455246u, 0x4F524D52u}; /* "PERFORMR" */
    const uint32_t who[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)purpose, 0};
    const uint32_t what[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)};
    uint32_t key[4], out[4];
    pf_philox(who, plain, key);
    pf_philox(what, key, out);
    return (pf_rng){{out[0], out[1]}, {out[2], out[3]}};
}

/* Words 4 * index .. 4 * index + 3 of the stream. */
static void rng_block(const pf_rng *rng, uint64_t index, uint32_t out[4]) {
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), rng->base[0],
                                 rng->base[1]};
    pf_philox(counter, rng->key, out);
}

uint32_t pf_rng_u32(const pf_rng *rng, uint64_t index) {
    uint32_t words[4];
    rng_block(rng, index / 4, words);
    return words[index % 4];
}

/* The middle of one of 2^32 cells: never 0, never 1. */
static double uniform_of(uint32_t word) { return ((double)word + 0.5) * 0x1p-32; }

double pf_rng_uniform(const pf_rng *rng, uint64_t index) {
    return uniform_of(pf_rng_u32(rng, index));
}

/* High half of the 128-bit product x * n, x 64 random bits: uneven by n / 2^64 at most. */
uint64_t pf_rng_below(const pf_rng *rng, uint64_t index, uint64_t n) {
    uint32_t words[4];
    rng_block(rng, index / 2, words);
    const uint32_t *two = words + 2 * (index % 2);
    uint64_t x0 = two[0], x1 = two[1], n0 = (uint32_t)n, n1 = n >> 32;
    uint64_t low = x0 * n0, mid = x1 * n0 + (low >> 32), cross = x0 * n1 + (uint32_t)mid;
    return x1 * n1 + (mid >> 32) + (cross >> 32);
}

/* The largest cells round to 1 in float; they become the largest float below it. */
void pf_rng_fill_uniform(const pf_rng *rng, uint64_t first, int64_t n, float *out) {
    const float top = 0x1.fffffep-1f;
    uint32_t words[4];
    for (int64_t i = 0; i < n; i++) {
        uint64_t index = first + (uint64_t)i;
        if (i == 0 || index % 4 == 0) rng_block(rng, index / 4, words);
        float value = (float)uniform_of(words[index % 4]);
        out[i] = value < top ? value : top;
    }
}

/* Values 2j and 2j + 1 are the two of a Box-Muller pair, from words 2j and 2j + 1. */
static void normal_pair(const uint32_t *two, double out[2]) {
    double radius = sqrt(-2.0 * log(uniform_of(two[0])));
    double angle = two_pi * uniform_of(two[1]);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

void pf_rng_fill_normal_double(const pf_rng *rng, uint64_t first, int64_t n, double *out) {
    uint32_t words[4];
    double pair[2];
    for (int64_t i = 0; i < n; i++) {
        uint64_t index = first + (uint64_t)i;
        if (i == 0 || index % 4 == 0) rng_block(rng, index / 4, words);
        if (i == 0 || index % 2 == 0) normal_pair(words + index % 4 / 2 * 2, pair);
        out[i] = pair[index % 2];
    }
}

void pf_rng_fill_normal(const pf_rng *rng, uint64_t first, int64_t n, float *out) {
    enum { PIECE = 256 };
    double piece[PIECE];
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t count = pf_min(PIECE, n - done);
        pf_rng_fill_normal_double(rng, first + (uint64_t)done, count, piece);
        for (int64_t i = 0; i < count; i++) out[done + i] = (float)piece[i];
    }
}
