/*
 * many_ranks_test.c - sums of numbers that are dealt to 96 and 128 ranks, more than any machine has
 * cores: the bits are the tree's, and the messages are those that scripts/kit/ranks_model.lua plays
 * (spec/ranks_model_spec.lua): to each owner of a part one for each node, and one back to all.
 */
#include "deal.h"
#include "exchange.h"
#include "ranks.h"
#include "scatter.h"

enum { LEAST = 96 * 350 }; /* numbers: what a lane's are costs more than to add them */

typedef struct {
    int lanes, owners; /* the first so many ranks own a part each */
    int64_t n;
    int sent[RANKS_MOST], wrong[RANKS_MOST];
    float *expected;
} summing;

/* Of all sizes, so that the order of additions shows. */
static float lane_number(int lane, int64_t i) {
    uint32_t x = (uint32_t)(lane * 7919 + i * 104729 + 12345);
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return ((float)(x & 0xffff) - 32768) * (float)(1 << (x >> 16) % 20) / 1024;
}

static float node_sum(int first, int count, int64_t i) {
    int half = 1;
    if (count == 1) return lane_number(first, i);
    while (2 * half < count) half *= 2;
    return node_sum(first, half, i) + node_sum(first + half, count - half, i);
}

static int deal_out(pf_deal **d, pf_engine *e, const summing *s) {
    PF_TRY(pf_deal_open(d, e, 1));
    for (int r = 0; r < s->owners; r++) {
        int64_t first = s->n * r / s->owners, last = s->n * (r + 1) / s->owners;
        PF_TRY(pf_deal_add(*d, r, (pf_stretch){0, first, last - first}));
    }
    return PF_OK;
}

/* To whom each rank has sent its first message of a sum. */
static int first_to[RANKS_MOST];
static int note_first(void *self, int to, int tag, const void *data, size_t bytes, int *ticket) {
    int *first = &first_to[((ranks_end *)self)->rank];
    if (*first < 0) *first = to;
    return ranks_send(self, to, tag, data, bytes, ticket);
}

static int messages_so_far(const pf_engine *e) {
    const ranks_end *end = e->comm->transport->self;
    return end->sent;
}

/* own: this rank's nodes, of which the first becomes the sum. */
static int sum_and_spread(pf_engine *e, summing *s, pf_deal *d, float **own) {
    const int rank = pf_comm_rank(e);
    const pf_leaves leaves = {s->lanes, 1, 1};
    const char in = 1;
    pf_scatter *sum = NULL;
    int status = pf_scatter_open(&sum, e, &leaves, d, 1);
    if (status >= 0) status = pf_deal_ready(d, e);
    status = pf_comm_agree(e, status);
    s->sent[rank] = -messages_so_far(e);
    first_to[rank] = -1;
    e->comm->transport->send = note_first;
    if (status >= 0) status = pf_scatter_begin(sum, (const float *const *)own, own);
    if (status >= 0) status = pf_scatter_give(sum, &in);
    if (status >= 0) status = pf_scatter_end(sum);
    if (status >= 0) status = pf_deal_spread(d, e, NULL, own);
    s->sent[rank] += messages_so_far(e);
    pf_scatter_close(&sum);
    return status;
}

static int sum_once(pf_engine *e, int rank, void *context) {
    summing *s = context;
    float *own[PF_LANE_NODES];
    pf_lane_node nodes[PF_LANE_NODES];
    pf_deal *d = NULL;
    int first, last;
    pf_lanes_of(s->lanes, pf_comm_ranks(e), rank, &first, &last);
    const int n = pf_lane_nodes(first, last, nodes);
    for (int k = 0; k < n; k++) {
        own[k] = malloc((size_t)s->n * sizeof(float));
        for (int64_t i = 0; i < s->n; i++) own[k][i] = node_sum(nodes[k].first, nodes[k].count, i);
    }
    int status = deal_out(&d, e, s);
    if (status >= 0) status = sum_and_spread(e, s, d, own);
    for (int64_t i = 0; i < s->n; i++)
        s->wrong[rank] += memcmp(&s->expected[i], &own[0][i], sizeof(float)) != 0;
    pf_deal_close(&d);
    for (int k = 0; k < n; k++) free(own[k]);
    return status;
}

/* What a rank sends: its nodes to each owner, and its own part to all; each with a head. */
static int expected_messages(const summing *s, int ranks, int rank) {
    pf_lane_node nodes[PF_LANE_NODES];
    int first, last, owns = rank < s->owners;
    pf_lanes_of(s->lanes, ranks, rank, &first, &last);
    return 2 * (pf_lane_nodes(first, last, nodes) * (s->owners - owns) + owns * (ranks - 1));
}

static void check_sum(int lanes, int ranks, int owners) {
    summing s = {.lanes = lanes, .owners = owners, .n = LEAST + 1};
    ranks_world w = {.ranks = ranks, .timeout = 120};
    s.expected = malloc((size_t)s.n * sizeof(float));
    for (int64_t i = 0; i < s.n; i++) s.expected[i] = node_sum(0, lanes, i);
    ranks_run(&w, sum_once, &s);
    for (int r = 0; r < ranks; r++) {
        if (w.status[r] < 0) fprintf(stderr, "  rank %d: %s\n", r, w.text[r]);
        CHECK(w.status[r] == PF_OK && s.wrong[r] == 0);
        CHECK(s.sent[r] == expected_messages(&s, ranks, r));
        CHECK(first_to[r] == (r + 1 < owners ? r + 1 : 0)); /* not all to the same */
    }
    free(s.expected);
}

int main(void) {
    check_sum(96, 96, 96);
    check_sum(200, 96, 96);  /* ranks of several nodes */
    check_sum(128, 128, 31); /* a model of a million numbers: fewer blocks than ranks */
    return CHECK_REPORT();
}
