/*
 * kind_routing.c - the kind routing: attention inside clusters (Routing Transformer, Roy et al.
 * 2020, arXiv 2003.05997) in rooms (rooms.h, rule_routing.c). A position is in the cluster of its
 * nearest centroid; centroids are unit vectors, a buffer of the layer, first drawn from the seed.
 *
 * Training moves them as its optimizer's step is over: with s the sum of a cluster's rows at length
 * 1, of all forwards of the step,
 *
 *     mu <- unit(mu + rate (unit(s) - mu)),      a cluster without rows stays.
 *
 * So no row sees a centroid that came of a later one, and evaluation never moves them. (Of the
 * published codes one starts its counts at 0, which throws centroids far at the first step; the
 * other begins with k-means on the first batch, also in evaluation.)
 */
#include <math.h>
#include <string.h>

#include "parallel.h"
#include "rng.h"
#include "pattern_kinds.h"
#include "pattern_state.h"
#include "rooms.h"

enum { WINDOW, SCALE, CLUSTERS, TIED, RATE, OPTIONS };

static const pf_option_info options[OPTIONS] = {
    PF_ROUTING_RULE_OPTIONS,
    [SCALE] = {.name = "scale",
               .kind = PF_OPT_NUMBER,
               .doc =
                   "of the scores q . k; 0: 1 where keys have length 1 (tied), else 1 / sqrt(d)"},
    [CLUSTERS] = {.name = "clusters",
                  .kind = PF_OPT_INT,
                  .number = 16,
                  .low = 1,
                  .high = 1 << 20,
                  .doc = "centroids of a head; the paper has about the root of the length"},
    [TIED] = {.name = "tied",
              .kind = PF_OPT_BOOL,
              .number = 1,
              .doc =
                  "keys are the queries, at length 1, and one sees itself only where it sees "
                  "nothing else; false: the layer makes keys of their own, routed by themselves"},
    [RATE] = {.name = "rate",
              .kind = PF_OPT_NUMBER,
              .number = 0.001,
              .low = 0,
              .high = 1,
              .needs = PF_NEEDS_TRAINING,
              .doc =
                  "part of the way to the mean of its rows that a centroid goes after a training "
                  "step; 0: it stays where it was drawn"},
};

static bool routing_shared(const pf_attention *a) { return a->option[TIED] != 0; }

/* x (n) at length 1; false, and as it was, where that is no vector. */
static bool make_unit(int64_t n, double *x) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += x[i] * x[i];
    if (!isfinite(square) || square == 0) return false;
    for (int64_t i = 0; i < n; i++) x[i] /= sqrt(square);
    return true;
}

/* centroids (heads, clusters, d): evenly over the sphere. */
static int make_centroids(pf_tensor **table, pf_engine *e, const pf_attention *a, int64_t heads,
                          int64_t d, uint64_t place) {
    int64_t shape[3] = {heads, (int64_t)a->option[CLUSTERS], d};
    PF_TRY(pf_tensor_make_parameter(table, e, PF_F32, 3, shape));
    if (!(*table)->storage) return PF_OK;
    double *row = pf_heap_alloc(e->heap, (size_t)d * sizeof *row);
    if (!row) {
        pf_tensor_release(table);
        return PF_ENOMEM;
    }
    for (int64_t n = 0; n < heads * shape[1]; n++) {
        uint64_t head = (uint64_t)(n / shape[1]);
        pf_rng rng = pf_rng_make(e->seed, PF_DRAW_ROOMS, place << 32 | head, 0);
        pf_rng_fill_normal_double(&rng, (uint64_t)(n % shape[1] * d), d, row);
        make_unit(d, row);
        for (int64_t i = 0; i < d; i++) pf_f32(*table)[n * d + i] = (float)row[i];
    }
    pf_heap_free(e->heap, row, (size_t)d * sizeof *row);
    return PF_OK;
}

/* ---- numbers ---- */

static int nearest(pf_tensor **numbers, pf_engine *e, const pf_attention *a, pf_tensor *x,
                   pf_tensor *mask) {
    pf_tensor *in[3] = {x, a->table, mask};
    return pf_apply(e, &pf_op_nearest_cluster, in, 3, NULL, numbers);
}

/* (B, H, 1, L) of keys, or (B, H, 2, L) of keys and queries that are routed apart. */
static int tell_clusters(pf_tensor **numbers, pf_engine *e, const pf_attention *a, pf_tensor *q,
                         pf_tensor *k, pf_tensor *mask) {
    pf_tensor *part[2] = {NULL, NULL};
    const pf_attr dim = {.i = 2};
    if (routing_shared(a)) return nearest(numbers, e, a, k, mask);
    int status = nearest(&part[0], e, a, k, mask);
    if (status >= 0) status = nearest(&part[1], e, a, q, mask);
    if (status >= 0) status = pf_apply(e, &pf_op_concat, part, 2, &dim, numbers);
    for (int i = 0; i < 2; i++) pf_tensor_release(&part[i]);
    return status;
}

/* ---- moving ---- */

/* Rows x (B, H, L, d) into the sums of their clusters, row `round` of numbers (B, H, rounds, L). */
typedef struct {
    const pf_kern *kern;
    pf_heads x;
    int64_t B, H, L, rounds, clusters;
    const int32_t *number;
    float *sums; /* (H, clusters, d + 1): rows, and how many */
    int round;
} noting;

/* Task: one head. Masked rows have a number below 0. */
static void note_head(void *context, int64_t head, void *scratch) {
    const noting *n = context;
    int64_t d = n->x.width;
    (void)scratch;
    for (int64_t at = 0; at < n->B * n->L; at++) {
        int64_t item = at / n->L, l = at % n->L;
        int32_t number = n->number[((item * n->H + head) * n->rounds + n->round) * n->L + l];
        const float *row = pf_heads_row(&n->x, item, head, l);
        float square = n->kern->sumsq(d, row);
        if (number < 0 || !isfinite(square) || square == 0) continue;
        float *sum = n->sums + (head * n->clusters + number) * (d + 1);
        n->kern->axpy(d, 1 / sqrtf(square), row, sum);
        sum[d] += 1;
    }
}

static int note_rows(noting *n, pf_engine *e, pf_tensor *x, int round) {
    pf_tensor *rows = NULL;
    PF_TRY(pf_heads_ready(e, x, &rows, &n->x));
    n->round = round;
    int status = pf_parallel(e, n->H, 0, note_head, n);
    pf_tensor_release(&rows);
    return status;
}

static int note_clusters(const pf_attention *a, pf_tensor *sums, pf_engine *e, pf_tensor *q,
                         pf_tensor *k, pf_tensor *numbers) {
    if (a->option[RATE] == 0) return PF_OK;
    noting n = {.kern = e->kern,
                .B = k->shape[0],
                .H = k->shape[1],
                .L = k->shape[2],
                .rounds = numbers->shape[2],
                .clusters = sums->shape[1],
                .number = pf_i32(numbers),
                .sums = pf_f32(sums)};
    PF_TRY(note_rows(&n, e, k, 0));
    return n.rounds > 1 ? note_rows(&n, e, q, 1) : PF_OK;
}

/* One centroid towards its rows; room for 2 d doubles. */
static void move_one(float *mu, const float *sum, int64_t d, double rate, double *room) {
    double *to = room, *next = room + d;
    for (int64_t i = 0; i < d; i++) to[i] = (double)sum[i];
    if (sum[d] == 0 || !make_unit(d, to)) return;
    for (int64_t i = 0; i < d; i++) next[i] = (double)mu[i] + rate * (to[i] - (double)mu[i]);
    if (!make_unit(d, next)) return;
    for (int64_t i = 0; i < d; i++) mu[i] = (float)next[i];
}

static int move_centroids(const pf_attention *a, pf_tensor *sums, pf_engine *e) {
    int64_t d = a->table->shape[2], n = a->table->shape[0] * a->table->shape[1];
    if (a->option[RATE] == 0) return PF_OK;
    double *room = pf_heap_alloc(e->heap, 2 * (size_t)d * sizeof *room);
    if (!room) return PF_ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        const float *sum = pf_f32(sums) + i * (d + 1);
        move_one(pf_f32(a->table) + i * d, sum, d, a->option[RATE], room);
    }
    pf_heap_free(e->heap, room, 2 * (size_t)d * sizeof *room);
    pf_tensor_touch(a->table, "a training step");
    return pf_tensor_fill(sums, 0);
}

static int64_t routing_rounds(const pf_attention *a) { return routing_shared(a) ? 1 : 2; }

static double routing_scale(const pf_attention *a) {
    double scale = a->option[SCALE];
    return scale == 0 && routing_shared(a) ? 1 : scale;
}

static int differs(const char *what, int64_t asked, const char *of, int64_t has) {
    return pf_fail(PF_EINVAL,
                   "routing attention: %s is %lld, but %s %lld; leave %s out, or give others", what,
                   (long long)asked, of, (long long)has, what);
}

static int routing_settle(pf_attention *a, const pf_config *given, const pf_tensor *table,
                          const pf_tensor *numbers) {
    int64_t clusters = (int64_t)a->option[CLUSTERS],
            rows = numbers && numbers->rank == 4 ? numbers->shape[2] : 0;
    bool set = pf_attention_given(given, "clusters");
    if (table && table->rank == 3) {
        if (set && table->shape[1] != clusters) {
            return differs("clusters", clusters, "the centroids are", table->shape[1]);
        }
        a->option[CLUSTERS] = (double)table->shape[1];
    }
    if (numbers && set) {
        return pf_fail(PF_EINVAL,
                       "routing attention: rooms say the cluster of each key, so clusters = %lld "
                       "has no effect; leave it out",
                       (long long)clusters);
    }
    if (rows == 0 || rows == routing_rounds(a)) return PF_OK;
    if (!pf_attention_given(given, "tied") && rows == 2) {
        a->option[TIED] = 0;
        return PF_OK;
    }
    return pf_fail(PF_EINVAL,
                   "routing attention: rooms have %lld rows of numbers, and tied = %s takes %lld: "
                   "of keys, and of queries where these are routed apart",
                   (long long)rows, routing_shared(a) ? "true" : "false",
                   (long long)routing_rounds(a));
}

static const pf_rooms rooms = {
    .table = "centroids",
    .shared = routing_shared,
    .rounds = routing_rounds,
    .scale = routing_scale,
    .settle = routing_settle,
    .make = make_centroids,
    .tell = tell_clusters,
    .note = note_clusters,
    .move = move_centroids,
};

/* Clusters of one size, and the products that tell them. */
static void routing_flops(const pf_attention *a, const pf_attention_shape *shape, double *forward,
                          double *backward) {
    double clusters = a->option[CLUSTERS], room = (double)shape->length / clusters;
    if (shape->causal) room = (room + 1) / 2;
    pf_pattern_kind_work(shape, fmin(a->option[WINDOW], room), forward, backward);
    *forward += 2 * (routing_shared(a) ? 1 : 2) * clusters * (double)shape->head_dim;
}

const pf_attention_kind pf_kind_routing = {
    .name = "routing",
    .doc = "Attention inside clusters (Routing Transformer): softmax over the last keys whose "
           "nearest centroid is a position's own; training moves the centroids to their rows.",
    .takes = PF_TAKES_ALL,
    .drops = true,
    .options = options,
    .n_options = OPTIONS,
    .rule = &pf_pattern_rule_routing,
    .rooms = &rooms,
    .state = &pf_state_pattern,
    .call = pf_pattern_kind_call,
    .widths = pf_pattern_widths,
    .open = pf_pattern_open,
    .prefill = pf_pattern_prefill,
    .merge = pf_pattern_merge,
    .no_part =
        "looks back as far as its clusters reach, and has no state of fixed size to hand from "
        "slice to slice",
    .flops = routing_flops,
};
