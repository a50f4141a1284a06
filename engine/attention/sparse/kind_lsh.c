/*
 * kind_lsh.c - the kind lsh: LSH attention (Reformer, Kitaev et al. 2020, arXiv 2001.04451) in
 * rooms (rooms.h, rule_lsh.c). Keys are queries at length 1, hashed before positions turn them,
 * so that a bucket depends on the token alone; the rotations are a buffer of the layer.
 *
 * Published codes differ in what they multiply the scores q . k by: 1 (Trax, Transformers), 1 /
 * sqrt(d) (reformer-pytorch, flatter by 8 at d = 64), and sqrt(d) with keys of any length (Long
 * Range Arena). Here it is the option scale, 1.
 */
#include <math.h>

#include "pattern_kinds.h"
#include "pattern_state.h"
#include "rng.h"
#include "rooms.h"

enum { WINDOW, PAIRS, SCALE, ROUNDS, BUCKETS, OPTIONS };

static const pf_option_info options[OPTIONS] = {
    PF_LSH_RULE_OPTIONS,
    [SCALE] = {.name = "scale",
               .kind = PF_OPT_NUMBER,
               .number = 1,
               .doc = "of the scores q . k, where keys have length 1: 1 as Trax and Transformers, "
                      "d^(-1/2) as reformer-pytorch"},
    [ROUNDS] = {.name = "rounds",
                .kind = PF_OPT_INT,
                .number = 4,
                .low = 1,
                .high = PF_PARTS,
                .doc = "of hashing, each with rotations of its own: more of them miss fewer keys"},
    [BUCKETS] = {.name = "buckets",
                 .kind = PF_OPT_INT,
                 .number = 32,
                 .low = 2,
                 .high = 1 << 30,
                 .doc = "of each round, an even number that stays whatever the length; above 128, "
                        "where it is a multiple of 4, a hash is made of two"},
};

/* Above so many buckets a hash is made of two. */
enum { ONE_FACTOR = 128 };

static bool lsh_shared(const pf_attention *a) {
    (void)a;
    return true;
}

/* Buckets of the first factor b1, of b = b1 b2, both even and near each other; 0: one factor. */
static int64_t first_factor(int64_t buckets) {
    int64_t n = buckets / 4, first = 1;
    if (buckets <= ONE_FACTOR || buckets % 4 != 0) return 0;
    for (int64_t i = 2; i * i <= n; i++) {
        if (n % i == 0) first = i;
    }
    return first > 1 ? 2 * first : 0;
}

/* Of the rotations that tell so many. */
static int64_t columns_of(int64_t buckets) {
    int64_t first = first_factor(buckets);
    return first > 0 ? (first + buckets / first) / 2 : buckets / 2;
}

/* rotations (heads, rounds, d, columns): a head's draws go on from round to round, so that more
 * rounds begin with those of fewer. */
static int make_rotations(pf_tensor **table, pf_engine *e, const pf_attention *a, int64_t heads,
                          int64_t d, uint64_t place) {
    int64_t columns = columns_of((int64_t)a->option[BUCKETS]);
    int64_t shape[4] = {heads, (int64_t)a->option[ROUNDS], d, columns};
    int64_t size = shape[1] * d * columns;
    PF_TRY(pf_tensor_make_parameter(table, e, PF_F32, 4, shape));
    for (int64_t h = 0; (*table)->storage && h < heads; h++) {
        pf_rng rng = pf_rng_make(e->seed, PF_DRAW_ROOMS, place << 32 | (uint64_t)h, 0);
        pf_rng_fill_normal(&rng, 0, size, pf_f32(*table) + h * size);
    }
    return PF_OK;
}

/* Of keys: queries look where their own key is. */
static int tell_buckets(pf_tensor **numbers, pf_engine *e, const pf_attention *a, pf_tensor *q,
                        pf_tensor *k, pf_tensor *mask) {
    pf_tensor *in[3] = {k, a->table, mask};
    pf_attr attr[PF_MAX_ATTR];
    (void)q;
    pf_op_fill_defaults(&pf_op_lsh_buckets, attr);
    attr[0].i = first_factor((int64_t)a->option[BUCKETS]);
    return pf_apply(e, &pf_op_lsh_buckets, in, 3, attr, numbers);
}

static int64_t lsh_rounds(const pf_attention *a) { return (int64_t)a->option[ROUNDS]; }

static double lsh_scale(const pf_attention *a) { return a->option[SCALE]; }

/* Rounds are as many as there are rotations, or rows of numbers. */
static int settle_rounds(pf_attention *a, const pf_config *given, const char *what, int64_t has) {
    int64_t asked = (int64_t)a->option[ROUNDS];
    if (asked != has && pf_attention_given(given, "rounds")) {
        return pf_fail(PF_EINVAL,
                       "lsh attention: rounds is %lld, but the %s are of %lld; leave rounds out, "
                       "or give others",
                       (long long)asked, what, (long long)has);
    }
    a->option[ROUNDS] = (double)has;
    return PF_OK;
}

static int lsh_settle(pf_attention *a, const pf_config *given, const pf_tensor *table,
                      const pf_tensor *numbers) {
    int64_t buckets = (int64_t)a->option[BUCKETS];
    bool set = pf_attention_given(given, "buckets");
    if (numbers && set) {
        return pf_fail(PF_EINVAL,
                       "lsh attention: rooms say the bucket of each key, so buckets = %lld has no "
                       "effect; leave it out",
                       (long long)buckets);
    }
    if (numbers && numbers->rank == 4) return settle_rounds(a, given, "rooms", numbers->shape[2]);
    if (!table || table->rank != 4) return PF_OK;
    PF_TRY(settle_rounds(a, given, "rotations", table->shape[1]));
    if (set && columns_of(buckets) != table->shape[3]) {
        return pf_fail(PF_EINVAL,
                       "lsh attention: buckets is %lld, which rotations of %lld columns tell, but "
                       "these have %lld; leave buckets out, or give others",
                       (long long)buckets, (long long)columns_of(buckets),
                       (long long)table->shape[3]);
    }
    return PF_OK;
}

static const pf_rooms rooms = {
    .table = "rotations",
    .shared = lsh_shared,
    .rounds = lsh_rounds,
    .scale = lsh_scale,
    .settle = lsh_settle,
    .make = make_rotations,
    .tell = tell_buckets,
};

static int lsh_check(const pf_attention *a, const char *where) {
    int64_t buckets = (int64_t)a->option[BUCKETS];
    if (buckets % 2 == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: buckets is %lld, but a hash has two sides: give an even number",
                   where, (long long)buckets);
}

/* Buckets of one size, and the products that tell them. */
static void lsh_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                      double *backward) {
    double buckets = a->option[BUCKETS], rounds = a->option[ROUNDS];
    double columns = (double)columns_of((int64_t)buckets), room = (double)shape->length / buckets;
    if (shape->causal) room = (room + 1) / 2;
    pf_pattern_kind_work(shape, rounds * fmin(a->option[WINDOW], room), forward, backward);
    *forward += 2 * rounds * columns * (double)shape->head_dim;
}

const pf_attention_kind pf_kind_lsh = {
    .name = "lsh",
    .doc = "LSH attention (Reformer): softmax over the last keys of a position's own bucket, in "
           "each of some rounds of hashing; keys are the queries, at length 1.",
    .takes = PF_TAKES_ALL,
    .drops = true,
    .options = options,
    .n_options = OPTIONS,
    .check = lsh_check,
    .rule = &pf_pattern_rule_lsh,
    .rooms = &rooms,
    .state = &pf_state_pattern,
    .call = pf_pattern_kind_call,
    .widths = pf_pattern_widths,
    .open = pf_pattern_open,
    .prefill = pf_pattern_prefill,
    .merge = pf_pattern_merge,
    .no_part =
        "looks back as far as its buckets reach, and has no state of fixed size to hand from "
        "slice to slice",
    .flops = lsh_flops,
};
