/*
 * edges_make.c - the op `edges`: a graph (edges.h) of two lists of its edges' ends.
 *
 * Nothing is left out and nothing counted twice in silence: an end that there is no node for and an
 * edge that is listed twice are errors, which name the edge by its number. What is added (`both`,
 * `loops`) is what is missing, numbered behind what was given.
 */
#include <string.h>

#include "edges.h"

enum { FROM, TO };
enum { A_NODES, A_KEYS, A_FIRST, A_LOOPS, A_BOTH, A_MULTI };

static const pf_attr_info edges_attrs[] = {
    {"nodes", PF_ATTR_INT, 0, true, NULL,
     "how many there are; of a graph between two sets, those "
     "that edges go to"},
    {"keys", PF_ATTR_INT, 0, false, NULL, "how many there are for edges to come from; 0: nodes"},
    {"first", PF_ATTR_INT, 0, false, NULL, "what the first node is called: 0 or 1"},
    {"loops", PF_ATTR_BOOL, 0, false, NULL, "adds an edge from every node to itself that has none"},
    {"both", PF_ATTR_BOOL, 0, false, NULL, "adds the reverse of every edge that has none"},
    {"multi", PF_ATTR_BOOL, 0, false, NULL, "an edge may be listed twice, and then counts twice"},
};

/* Edges from[e] -> to[e], counted from 0, in the order of their numbers. */
typedef struct {
    pf_call *c;
    int64_t n, room, nodes, keys;
    int32_t *from, *to; /* (room) */
    int32_t *order;     /* (room): numbers by (to, from, number) */
    int32_t *half;      /* (room): work space of sort */
    int64_t *begin;     /* (most nodes + 1): work space of sort */
} edge_list;

/* from and to (n) i32 */
static int edges_shape(pf_call *c) {
    const pf_tensor *from = c->in[FROM], *to = c->in[TO];
    int64_t nodes = c->attr[A_NODES].i, keys = c->attr[A_KEYS].i, first = c->attr[A_FIRST].i;
    PF_TRY(pf_want(c, FROM, PF_I32));
    PF_TRY(pf_want(c, TO, PF_I32));
    if (from->rank != 1 || to->rank != 1 || from->shape[0] != to->shape[0]) {
        return pf_shape_fail(c, "they must be (edges), the two ends of each");
    }
    if (nodes < 0 || keys < 0 || nodes >= INT32_MAX || keys >= INT32_MAX) {
        return pf_fail(PF_EINVAL, "edges: nodes is %lld and keys %lld, must be 0 to %d",
                       (long long)nodes, (long long)keys, INT32_MAX - 1);
    }
    if (first != 0 && first != 1) {
        return pf_fail(PF_EINVAL, "edges: first is %lld, but nodes are counted from 0 or from 1",
                       (long long)first);
    }
    bool adds = c->attr[A_LOOPS].i || c->attr[A_BOTH].i;
    if (keys == 0 || keys == nodes || !adds) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "edges: loops and both are for one set of nodes, but edges come from %lld and "
                   "go to %lld",
                   (long long)keys, (long long)nodes);
}

/* One end of every edge, in 0 .. n - 1. */
static int read_ends(pf_call *c, int which, int64_t n, int32_t *to) {
    const pf_tensor *t = c->in[which];
    int64_t first = c->attr[A_FIRST].i;
    for (int64_t e = 0; e < t->shape[0]; e++) {
        int64_t end = pf_i32(t)[e * t->stride[0]];
        to[e] = (int32_t)(end - first);
        if (end >= first && end < first + n) continue;
        return pf_fail(PF_EINVAL, "edges: edge %s %s %lld, but nodes are %lld to %lld", pf_place(e),
                       which == FROM ? "comes from" : "goes to", (long long)end, (long long)first,
                       (long long)(first + n - 1));
    }
    return PF_OK;
}

static int open_list(edge_list *l, pf_call *c) {
    int64_t n = c->in[FROM]->shape[0], nodes = c->attr[A_NODES].i, keys = c->attr[A_KEYS].i;
    *l = (edge_list){.c = c, .n = n, .nodes = nodes, .keys = keys > 0 ? keys : nodes};
    l->room = n * (c->attr[A_BOTH].i ? 2 : 1) + (c->attr[A_LOOPS].i ? nodes : 0);
    if (l->room >= INT32_MAX) {
        return pf_fail(PF_EINVAL, "edges: %lld edges, at most %d are possible", (long long)l->room,
                       INT32_MAX - 1);
    }
    size_t bytes = (size_t)pf_max(l->room, 1) * sizeof(int32_t);
    l->from = pf_call_alloc(c, bytes), l->to = pf_call_alloc(c, bytes);
    l->order = pf_call_alloc(c, bytes), l->half = pf_call_alloc(c, bytes);
    l->begin = pf_call_alloc(c, (size_t)(pf_max(l->nodes, l->keys) + 1) * sizeof *l->begin);
    if (!l->from || !l->to || !l->order || !l->half || !l->begin) return PF_ENOMEM;
    PF_TRY(read_ends(c, FROM, l->keys, l->from));
    return read_ends(c, TO, l->nodes, l->to);
}

/* sorted <- `order` (NULL: 0 .. n - 1) by the ends `key`, all below `ends`; equal ones stay. */
static void sort_by(edge_list *l, const int32_t *key, int64_t ends, const int32_t *order,
                    int32_t *sorted) {
    memset(l->begin, 0, (size_t)(ends + 1) * sizeof *l->begin);
    for (int64_t e = 0; e < l->n; e++) l->begin[key[e] + 1]++;
    for (int64_t i = 0; i < ends; i++) l->begin[i + 1] += l->begin[i];
    for (int64_t e = 0; e < l->n; e++) {
        int32_t number = order ? order[e] : (int32_t)e;
        sorted[l->begin[key[number]]++] = number;
    }
}

static void sort(edge_list *l) {
    sort_by(l, l->from, l->keys, NULL, l->half);
    sort_by(l, l->to, l->nodes, l->half, l->order);
}

static int check_single(const edge_list *l) {
    int64_t first = l->c->attr[A_FIRST].i;
    for (int64_t e = 1; e < l->n; e++) {
        int32_t a = l->order[e - 1], b = l->order[e];
        if (l->to[a] != l->to[b] || l->from[a] != l->from[b]) continue;
        return pf_fail(PF_EINVAL,
                       "edges: edge %s is edge %s once more, from %lld to %lld; multi = true "
                       "counts both",
                       pf_place(b), pf_place(a), (long long)(l->from[a] + first),
                       (long long)(l->to[a] + first));
    }
    return PF_OK;
}

/* Is there an edge from -> to among the n that are sorted? */
static bool has(const edge_list *l, int64_t n, int32_t from, int32_t to) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t at = (low + high) / 2;
        int32_t e = l->order[at];
        if (l->to[e] == to && l->from[e] == from) return true;
        if (l->to[e] < to || (l->to[e] == to && l->from[e] < from))
            low = at + 1;
        else
            high = at;
    }
    return false;
}

static void add(edge_list *l, int32_t from, int32_t to) {
    l->from[l->n] = from;
    l->to[l->n++] = to;
}

/* Reverse edges in the order of those given, then loops in the order of nodes. */
static void add_missing(edge_list *l) {
    int64_t given = l->n;
    for (int64_t e = 0; l->c->attr[A_BOTH].i && e < given; e++) {
        if (!has(l, given, l->to[e], l->from[e])) add(l, l->to[e], l->from[e]);
    }
    for (int64_t i = 0; l->c->attr[A_LOOPS].i && i < l->nodes; i++) {
        if (!has(l, given, (int32_t)i, (int32_t)i)) add(l, (int32_t)i, (int32_t)i);
    }
    if (l->n > given) sort(l);
}

static int edges_forward(pf_call *c) {
    edge_list l;
    PF_TRY(open_list(&l, c));
    sort(&l);
    if (!c->attr[A_MULTI].i) PF_TRY(check_single(&l));
    add_missing(&l);
    int64_t shape[2] = {l.n, PF_EDGE_COLUMNS};
    PF_TRY(pf_shape_valid(2, shape, PF_I32, "edges"));
    PF_TRY(pf_tensor_make(&c->out[0], c->engine, PF_I32, 2, shape));
    int32_t *row = pf_i32(c->out[0]);
    for (int64_t e = 0; e < l.n; e++, row += PF_EDGE_COLUMNS) {
        row[PF_EDGE_TO] = l.to[l.order[e]];
        row[PF_EDGE_FROM] = l.from[l.order[e]];
        row[PF_EDGE_NUMBER] = l.order[e];
    }
    return PF_OK;
}

const pf_op pf_op_edges = {
    .name = "edges",
    .args = "from, to",
    .results = "edges",
    .doc = "A graph of the ends of its edges, from and to (n) i32, for edge_attention: edges (E, "
           "3) i32 of each edge's to, from (both from 0) and its number (from 0) in the list, "
           "sorted in this order. Reverse edges and loops that are added have the numbers behind "
           "the given ones.",
    .min_in = 2,
    .max_in = 2,
    .n_out = 1,
    .flags = PF_OP_OWN_OUTPUTS | PF_OP_NO_GRAD,
    .attrs = edges_attrs,
    .n_attrs = PF_COUNT(edges_attrs),
    .shape = edges_shape,
    .forward = edges_forward,
};
