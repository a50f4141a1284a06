/*
 * edges.h - attention over edges: a query sees the keys that its edges come from, and no other.
 *
 *     out_i = sum_(j -> i) softmax_j(s_ij + bias_ij) v_j
 *
 * with the score s one of a table (edge_scores.c): scale q_i . k_j, or of graph attention networks
 * (Velickovic et al. 2018; Brody et al. 2022) LeakyReLU(q_i + k_j) and a . LeakyReLU(q_i + k_j).
 *
 * A graph is one tensor (E, 3) i32: of each edge the query that it goes to, the key that it comes
 * from, and its number in the list that the graph was made of, by which it has its bias. Rows
 * ascend by (to, from, number): so bits do not depend on the order in which edges were listed, the
 * edges of a query are rows in a row, and those that a limit or a document leaves are a part of it.
 * The op `edges` makes it (edges_make.c); whoever reads it checks it (edges_read.c), as it is a
 * tensor like any other.
 *
 * Edges say whom a query may see, and reach (reach.h) takes from it what it always takes: causal,
 * limits, prefix, documents, the key mask. All items of a batch have the same graph; a batch of
 * graphs is one graph, of all their nodes in a row.
 */
#ifndef PF_EDGES_H
#define PF_EDGES_H

#include "attention.h"
#include "dropout.h"

enum {
    PF_IN_EDGES = PF_REACH_INPUTS, /* (E, 3) i32 */
    PF_IN_EDGE_BIAS,               /* (E) or (E, H) */
    PF_IN_EDGE_WEIGHT,             /* (H, d): a of gatv2 */
    PF_EDGE_INPUTS
};
enum {
    PF_EDGE_CAUSAL,
    PF_EDGE_SCORE,
    PF_EDGE_SCALE,
    PF_EDGE_SLOPE,
    PF_EDGE_DROPOUT,
    PF_EDGE_DRAW,
    PF_EDGE_ATTRS
};

enum { PF_EDGE_COLUMNS = 3 };
enum { PF_EDGE_TO, PF_EDGE_FROM, PF_EDGE_NUMBER }; /* of a row */

/* A list of edges cut by one end: those of node i stand at places first[i] .. first[i + 1] - 1.
 * A task has nodes in a row that have about 4,096 edges. */
typedef struct pf_edge_ends {
    int64_t n;      /* nodes */
    int64_t *first; /* (n + 1) */
    int64_t *task;  /* (tasks + 1): first nodes */
    int64_t tasks;
} pf_edge_ends;

typedef struct pf_graph {
    int64_t n;           /* edges */
    const int32_t *edge; /* (n, 3) */
    pf_edge_ends to;     /* queries: a place is a row */
    pf_edge_ends from;   /* keys, once turned: places are of `back` */
    int32_t *back;       /* (n): rows by key, ascending for each */
    int64_t widest;      /* edges of one query */
} pf_graph;

static inline int32_t pf_edge_to(const pf_graph *g, int64_t e) {
    return g->edge[e * PF_EDGE_COLUMNS + PF_EDGE_TO];
}
static inline int32_t pf_edge_from(const pf_graph *g, int64_t e) {
    return g->edge[e * PF_EDGE_COLUMNS + PF_EDGE_FROM];
}
static inline int32_t pf_edge_number(const pf_graph *g, int64_t e) {
    return g->edge[e * PF_EDGE_COLUMNS + PF_EDGE_NUMBER];
}

struct pf_edge_score;

/* A call of the op as its loops see it. */
typedef struct pf_edge_op {
    const pf_kern *kern;
    int64_t B, H, Hk, group, Lq, Lk, d, dv;
    const struct pf_edge_score *score;
    float scale, slope;
    pf_graph graph;
    pf_heads q, k, v, out, dout, dq, dk, dvalue;
    bool need_q, need_k, need_v, need_score; /* need_score: of anything that scores are made of */
    const pf_tensor *mask;
    const int32_t *low, *high; /* (B, Lq): query i sees of its edges those from low .. high - 1;
                                * NULL: all */
    const float *decay;        /* (Hk); NULL: none */
    const float *bias;         /* (E, bias_heads); NULL: none */
    int64_t bias_heads;        /* 1 or H */
    const float *weight;       /* (H, d); NULL: ones */
    bool dropped;              /* weights are, by `drops` */
    pf_drops drops;
    float *lse;      /* (B, H, Lq): log-sum-exp of a query's scores */
    float *p, *ds;   /* (B, H, E), on the way back: weights as v meets them, and dLoss/dscore */
    float *dweights; /* (B, H, tasks, d): parts of the gradient of `weight` */
} pf_edge_op;

/* One query, or one key, of one head. */
typedef struct pf_edge_work {
    const pf_edge_op *op;
    const pf_kern *kern;
    int64_t item, head, kv;
    int64_t i, n;  /* the query, and how many of its edges it sees */
    int32_t *seen; /* (widest): their rows in the graph */
    float *p, *dp; /* (widest) */
    float *keep;   /* (widest + 3): factors of dropout, from row `kept` on */
    int64_t kept;
    float *q, *z, *row, *da; /* (d), (d), (d or dv), (d) */
} pf_edge_work;

/* A score: what an edge weighs before the softmax, and the way back. */
typedef struct pf_edge_score {
    const char *name;
    /* p[n] <- the score of each edge that the query sees. */
    void (*weigh)(pf_edge_work *w);
    /* dq (d) += and da (d) +=, from dp[n] = dLoss/dscore. */
    void (*pull_query)(pf_edge_work *w, float *dq);
    /* dk (d) += of one edge, from query i to the key at row k. */
    void (*pull_key)(pf_edge_work *w, float ds, const float *q, const float *k, float *dk);
} pf_edge_score;

/* ---- edge_scores.c ---- */
#define PF_EDGE_SCORES "dot|gat|gatv2"
enum { PF_SCORE_DOT, PF_SCORE_GAT, PF_SCORE_GATV2 };
extern const pf_edge_score pf_edge_scores[];

/* ---- edges_read.c ---- */
/* graph: the rows of `edges`, once they fit Lq queries and Lk keys; memory is the call's. */
int pf_graph_read(pf_graph *graph, pf_call *c, const pf_tensor *edges, int64_t Lq, int64_t Lk);
/* graph->from and back. */
int pf_graph_turn(pf_graph *graph, pf_call *c, int64_t Lk);

/* ---- edges_open.c: what forward and backward share ---- */
int pf_edge_fill(pf_edge_op *op, pf_call *c, uint64_t seed);
size_t pf_edge_work_bytes(const pf_edge_op *op);
void pf_edge_open(pf_edge_work *w, const pf_edge_op *op, int64_t item, int64_t head, void *scratch);
/* seen, n and p, the scores, of query i; keep where weights are dropped. */
void pf_edge_look(pf_edge_work *w, int64_t i);
/* Factor of the n-th seen edge's weight. */
static inline float pf_edge_keep(const pf_edge_work *w, int64_t n) {
    return w->op->dropped ? w->keep[w->seen[n] - w->kept] : 1;
}
/* Place of row 0 of this item and head in an array (B, H, E). */
static inline int64_t pf_edge_plane(const pf_edge_work *w) {
    return (w->item * w->op->H + w->head) * w->op->graph.n;
}

/* ---- edges_back.c ---- */
int pf_edge_backward(pf_call *c);

#endif
