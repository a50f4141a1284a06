/*
 * layer_graph.c - graph attention: a node's new row is the mean of W h over the nodes that its
 * edges come from, weighed by a softmax of scores of both ends (attention/edges/).
 *
 *     gat     z_ij = a_1 . W h_i + a_2 . W h_j   s_ij = LeakyReLU(z_ij)  (Velickovic et al. 2018)
 *     gatv2   z_ij = W_1 h_i + W h_j   s_ij = a . LeakyReLU(z_ij)         (Brody et al. 2022)
 *
 *     h'_i = sum_(j -> i) softmax_j(s_ij) W h_j + bias
 *
 * for each head; heads stand side by side or are averaged. What gat ranks highest is the same node
 * for all that see it, since i only adds a constant to z; gatv2 ranks anew for every i. The graph
 * is an input of the pass. A node that is to see itself has an edge to itself; one without edges
 * gets the bias alone.
 */
#include <math.h>
#include <string.h>

#include "attention_layer.h"
#include "edges.h"

static const pf_option_info graph_options[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 1 << 20,
     .required = true,
     .doc = "width of x"},
    {.name = "heads",
     .kind = PF_OPT_INT,
     .number = 8,
     .low = 1,
     .high = 4096,
     .doc = "attention heads H"},
    {.name = "head_dim",
     .kind = PF_OPT_INT,
     .low = 0,
     .high = 1 << 20,
     .doc = "numbers that a head gives; 0: dim / heads"},
    {.name = "score",
     .kind = PF_OPT_STRING,
     .string = "gat",
     .choices = "gat|gatv2",
     .doc = "what an edge weighs: gat, LeakyReLU of a sum of one number an end; gatv2, a vector "
            "times LeakyReLU of a sum of rows"},
    {.name = "slope",
     .kind = PF_OPT_NUMBER,
     .number = 0.2,
     .low = 0,
     .high = 1,
     .doc = "of LeakyReLU below 0"},
    {.name = "join",
     .kind = PF_OPT_STRING,
     .string = "concat",
     .choices = "concat|mean",
     .doc = "heads side by side, heads head_dim numbers, or their mean, head_dim"},
    {.name = "project",
     .kind = PF_OPT_BOOL,
     .number = 1,
     .doc =
         "off: x is W h already, heads head_dim wide, as when h is sparse and W h a sum of rows"},
    {.name = "share", .kind = PF_OPT_BOOL, .doc = "gatv2: one matrix for both ends, W_1 = W"},
    {.name = "bias", .kind = PF_OPT_BOOL, .number = 1, .doc = "adds a learned vector"},
    {.name = "residual",
     .kind = PF_OPT_BOOL,
     .doc = "adds x, through a matrix of its own where it has another width"},
    {.name = "input_dropout",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.99,
     .doc = "share of x dropped in training"},
    {.name = "value_dropout",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.99,
     .doc = "share dropped, in training, of W h where weights meet it, not of what scores are made "
            "of"},
    {.name = "attention_dropout",
     .kind = PF_OPT_NUMBER,
     .low = 0,
     .high = 0.99,
     .doc = "share of weights dropped in training"},
};

typedef struct graph_self {
    int64_t dim, heads, head_dim;
    bool gatv2, mean, bias, residual;
    int values, query, skip;   /* children; -1: none */
    pf_tensor *half[2], *last; /* (H, dh) a_1 and a_2, or a and NULL; bias; borrowed */
    double slope, drop_x, drop_v, drop_w;
} graph_self;

/* ---- building ---- */

static int64_t joined_width(const graph_self *self) {
    return self->mean ? self->head_dim : self->heads * self->head_dim;
}

/* Weights of a normal distribution with Glorot's deviation. */
static int add_matrix(pf_module *m, pf_engine *e, const char *name, int64_t to, bool bias,
                      int *child) {
    int64_t from = ((graph_self *)m->self)->dim;
    double init = sqrt(2.0 * (double)from / (double)(from + to));
    *child = m->n_child;
    return pf_module_inner(m, e, name, "linear", pf_linear_options(m, from, to, bias, init));
}

static int add_vectors(pf_module *m, pf_engine *e, graph_self *self) {
    int64_t shape[2] = {self->heads, self->head_dim};
    const char *names[2] = {self->gatv2 ? "score" : "score_to", "score_from"};
    for (int i = 0; i < (self->gatv2 ? 1 : 2); i++) {
        PF_TRY(pf_module_param(m, e, names[i], 2, shape, "xavier"));
        self->half[i] = pf_module_tensor(m, names[i]);
    }
    int64_t width = joined_width(self);
    if (!self->bias) return PF_OK;
    PF_TRY(pf_module_param(m, e, "bias", 1, &width, "zeros"));
    self->last = pf_module_tensor(m, "bias");
    return PF_OK;
}

static int resolve(pf_module *m, graph_self *self) {
    self->dim = pf_option_int(m, "dim");
    self->heads = pf_option_int(m, "heads");
    self->head_dim = pf_option_int(m, "head_dim");
    self->gatv2 = strcmp(pf_option_text(m, "score"), "gatv2") == 0;
    self->mean = strcmp(pf_option_text(m, "join"), "mean") == 0;
    self->bias = pf_option_int(m, "bias") != 0;
    self->residual = pf_option_int(m, "residual") != 0;
    self->slope = pf_option_number(m, "slope");
    self->drop_x = pf_option_number(m, "input_dropout");
    self->drop_v = pf_option_number(m, "value_dropout");
    self->drop_w = pf_option_number(m, "attention_dropout");
    if (self->head_dim == 0 && self->dim % self->heads == 0) {
        self->head_dim = self->dim / self->heads;
    }
    if (self->head_dim > 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "graph_attention: dim %lld is not a multiple of heads %lld; give head_dim",
                   (long long)self->dim, (long long)self->heads);
}

static int graph_build(pf_module *m, pf_engine *e) {
    graph_self *self = m->self;
    self->values = self->query = self->skip = -1;
    PF_TRY(resolve(m, self));
    int64_t inner = self->heads * self->head_dim, width = joined_width(self);
    bool project = pf_option_int(m, "project") != 0;
    if (!project && self->dim != inner) {
        return pf_fail(PF_EINVAL,
                       "graph_attention: without its matrix (project) x is as wide as all heads, "
                       "%lld, but dim is %lld",
                       (long long)inner, (long long)self->dim);
    }
    if (project) PF_TRY(add_matrix(m, e, "values", inner, false, &self->values));
    bool share = pf_option_int(m, "share") != 0;
    if (share && !(self->gatv2 && project)) {
        PF_TRY(pf_option_useless(m, e, "share", "score = \"gatv2\" with matrices (project)"));
    }
    if (self->gatv2 && project && !share)
        PF_TRY(add_matrix(m, e, "query", inner, self->bias, &self->query));
    if (self->residual && width != self->dim)
        PF_TRY(add_matrix(m, e, "skip", width, false, &self->skip));
    return add_vectors(m, e, self);
}

static int64_t graph_width(const pf_module *m, bool hidden) {
    (void)hidden;
    return joined_width(m->self);
}

/* ---- running ---- */

/* *y = child i of x; i < 0: x itself. */
static int through(pf_module *m, int i, pf_engine *e, const pf_run *run, pf_tensor *x,
                   pf_tensor **y) {
    if (i >= 0) return pf_run_part(m, i, e, run, x, y);
    *y = pf_tensor_retain(x);
    return PF_OK;
}

/* x (B, L, H dh) -> (B, H, L, dh), a view */
static int heads_of(const graph_self *self, pf_engine *e, pf_tensor *x, pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {x->shape[0], x->shape[1], self->heads, self->head_dim};
    pf_tensor *rows = NULL;
    PF_TRY(pf_reshape(&rows, e, x, 4, shape));
    int status = pf_permute(y, e, rows, 4, order);
    pf_tensor_release(&rows);
    return status;
}

/* x (B, L, H dh) -> (B, H, L, 1): of each head its row times a (H, dh) */
static int halves_of(const graph_self *self, pf_engine *e, pf_tensor *x, pf_tensor *a,
                     pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[4] = {x->shape[0], x->shape[1], self->heads, self->head_dim};
    pf_attr sum[2] = {{.i = -1}, {.i = 1}};
    pf_tensor *in[2] = {NULL, a}, *product = NULL, *half = NULL;
    int status = pf_reshape(&in[0], e, x, 4, shape);
    if (status >= 0) status = pf_apply(e, &pf_op_mul, in, 2, NULL, &product);
    if (status >= 0) status = pf_apply(e, &pf_op_sum, &product, 1, sum, &half);
    if (status >= 0) status = pf_permute(y, e, half, 4, order);
    pf_tensor_release(&half);
    pf_tensor_release(&product);
    pf_tensor_release(&in[0]);
    return status;
}

/* What scores are made of, of W h and W_1 h (B, L, H dh): side[PF_IN_Q], side[PF_IN_K] */
static int sides_of(const graph_self *self, pf_engine *e, pf_tensor *values, pf_tensor *queries,
                    pf_tensor **side) {
    if (self->gatv2) {
        PF_TRY(heads_of(self, e, queries, &side[PF_IN_Q]));
        return heads_of(self, e, values, &side[PF_IN_K]);
    }
    PF_TRY(halves_of(self, e, values, self->half[0], &side[PF_IN_Q]));
    return halves_of(self, e, values, self->half[1], &side[PF_IN_K]);
}

/* side: q, k, v (B, H, L, ...) -> (B, H, L, dh) */
static int attend(const pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *const *side,
                  pf_tensor **y) {
    const graph_self *self = m->self;
    pf_attention a = {.kind = &pf_kind_graph};
    pf_attr attr[PF_MAX_ATTR];
    uint64_t draw = 0;
    PF_TRY(pf_attention_read_edges(&a, m, run));
    if (run->pass->training && self->drop_w > 0) {
        PF_TRY(pf_run_draw(run, &draw));
        a.dropout = self->drop_w;
    }
    pf_tensor *in[PF_EDGE_INPUTS] = {[PF_IN_Q] = side[PF_IN_Q],
                                     [PF_IN_K] = side[PF_IN_K],
                                     [PF_IN_V] = side[PF_IN_V],
                                     [PF_IN_MASK] = run->pass->mask,
                                     [PF_IN_DOCUMENTS] = run->pass->documents,
                                     [PF_IN_EDGES] = a.edges,
                                     [PF_IN_EDGE_BIAS] = a.edge_bias,
                                     [PF_IN_EDGE_WEIGHT] = self->gatv2 ? self->half[0] : NULL};
    pf_op_fill_defaults(&pf_op_edge_attention, attr);
    attr[PF_EDGE_SCORE].i = self->gatv2 ? PF_SCORE_GATV2 : PF_SCORE_GAT;
    attr[PF_EDGE_SLOPE].f = self->slope;
    attr[PF_EDGE_DROPOUT].f = a.dropout;
    attr[PF_EDGE_DRAW].i = (int64_t)draw;
    return pf_apply(e, &pf_op_edge_attention, in, PF_EDGE_INPUTS, attr, y);
}

/* (B, H, L, dh) -> (B, L, H dh), a view, or the heads' mean (B, L, dh) */
static int join(const graph_self *self, pf_engine *e, pf_tensor *x, pf_tensor **y) {
    static const int order[4] = {0, 2, 1, 3};
    int64_t shape[3] = {x->shape[0], x->shape[2], joined_width(self)};
    pf_attr mean[2] = {{.i = 1}, {.i = 0}};
    pf_tensor *rows = NULL;
    if (self->mean) return pf_apply(e, &pf_op_mean, &x, 1, mean, y);
    PF_TRY(pf_permute(&rows, e, x, 4, order));
    int status = pf_reshape(y, e, rows, 3, shape);
    pf_tensor_release(&rows);
    return status;
}

/* h (B, L, dim), dropped, -> (B, L, H dh or dh) without what is added behind */
static int mix(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *h, pf_tensor **y) {
    const graph_self *self = m->self;
    pf_tensor *values = NULL, *queries = NULL, *side[3] = {NULL}, *out = NULL;
    int status = through(m, self->values, e, run, h, &values);
    if (status >= 0) {
        status = self->query >= 0 ? through(m, self->query, e, run, h, &queries)
                                  : through(m, -1, e, run, values, &queries);
    }
    if (status >= 0) status = sides_of(self, e, values, queries, side);
    if (status >= 0) status = pf_run_dropout(e, run, self->drop_v, &values);
    if (status >= 0) status = heads_of(self, e, values, &side[PF_IN_V]);
    if (status >= 0) status = attend(m, e, run, side, &out);
    if (status >= 0) status = join(self, e, out, y);
    for (int i = 0; i < 3; i++) pf_tensor_release(&side[i]);
    pf_tensor_release(&values);
    pf_tensor_release(&queries);
    pf_tensor_release(&out);
    return status;
}

/* *y += t; t NULL: nothing */
static int add(pf_engine *e, pf_tensor *t, pf_tensor **y) {
    pf_tensor *sum = NULL;
    if (!t) return PF_OK;
    PF_TRY(pf_add(&sum, e, *y, t));
    pf_replace(y, sum);
    return PF_OK;
}

/* x (B, L, dim) -> (B, L, H dh or dh) */
static int graph_run(pf_module *m, pf_engine *e, const pf_run *run, pf_tensor *x, pf_tensor **y) {
    const graph_self *self = m->self;
    if (x->rank != 3 || x->shape[2] != self->dim) {
        return pf_fail(PF_ESHAPE, "graph_attention: x is %s, must be (B, L, D) with D = %lld",
                       pf_shape_of(x), (long long)self->dim);
    }
    if (run->pass->prefix) {
        return pf_fail(PF_EINVAL, "graph_attention: a prefix is for causal attention, and here "
                                  "edges alone say who sees whom");
    }
    pf_tensor *h = pf_tensor_retain(x), *skip = NULL;
    int status = pf_run_dropout(e, run, self->drop_x, &h);
    if (status >= 0) status = mix(m, e, run, h, y);
    if (status >= 0) status = add(e, self->last, y);
    if (status >= 0 && self->residual) status = through(m, self->skip, e, run, h, &skip);
    if (status >= 0) status = add(e, skip, y);
    if (status < 0) pf_tensor_release(y);
    pf_tensor_release(&skip);
    pf_tensor_release(&h);
    return status;
}

static bool graph_whole(const pf_module *m) {
    (void)m;
    return true;
}

static int graph_state(const pf_module *m, pf_engine *e, int64_t batch, pf_state **state) {
    (void)m, (void)e, (void)batch, (void)state;
    return pf_fail(PF_EINVAL, "graph_attention: it can't stream%s", pf_kind_graph.no_stream);
}

const pf_layer pf_layer_graph_attention = {
    .name = "graph_attention",
    .doc = "Graph attention (GAT, GATv2): each node's row from those that its edges come from, x "
           "(B, L, D) -> (B, L, heads head_dim), or head_dim of their mean.",
    .options = graph_options,
    .n_options = PF_COUNT(graph_options),
    .width_of = graph_width,
    .inputs = pf_edge_inputs,
    .n_inputs = PF_EDGES_READ,
    .self_bytes = sizeof(graph_self),
    .build = graph_build,
    .run = graph_run,
    .whole = graph_whole,
    .state = graph_state,
};
