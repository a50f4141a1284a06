/*
 * leaves.c - leaves of a tape: lists of them, and who hears of it when a leaf's gradient is whole,
 * while backward still runs for others.
 *
 * What must hold: nothing is added to a leaf's gradient behind its call. A leaf has as many
 * contributions as nodes have it as an input, or as one that their second run reads (recompute.c,
 * reversible.c), which is what the first one read. Where a node is linked to something outside
 * (pf_record_linked), nobody knows, and no leaf is whole before it has been walked.
 */
#include "node.h"

/* ---- lists ---- */

int pf_leaf_list_add(pf_leaf_list *list, pf_heap *heap, pf_tensor *leaf) {
    for (int64_t i = list->n - 1; i >= 0; i--)
        if (list->leaf[i] == leaf) return PF_OK;
    void *room = list->leaf;
    int status = pf_heap_grow(heap, &room, &list->capacity, list->n + 1, sizeof(pf_tensor *));
    list->leaf = room;
    PF_TRY(status);
    list->leaf[list->n++] = pf_tensor_retain(leaf);
    return PF_OK;
}

void pf_leaf_list_drop(pf_leaf_list *list, pf_heap *heap) {
    for (int64_t i = 0; i < list->n; i++) pf_tensor_release(&list->leaf[i]);
    pf_heap_free(heap, list->leaf, (size_t)list->capacity * sizeof *list->leaf);
    *list = (pf_leaf_list){0};
}

/* ---- who hears of them ---- */

void pf_leaves_watch(pf_engine *engine, const pf_leaf_watch *watch) {
    pf_engine_own(engine, PF_OWN_LEAVES, (void *)(uintptr_t)watch, NULL);
}

bool pf_leaves_walks(const pf_engine *engine, const pf_leaf_watch *watch) {
    for (const pf_tape *t = engine->tape; t; t = t->outer)
        if (t->watch == watch) return true;
    return false;
}

void pf_leaves_unwatch(pf_engine *engine, const pf_leaf_watch *watch) {
    if (engine->own[PF_OWN_LEAVES].thing == watch) pf_leaves_watch(engine, NULL);
    for (pf_tape *t = engine->tape; t; t = t->outer)
        if (t->watch == watch) t->watch = NULL;
}

static bool is_linked(const pf_node *node) {
    const pf_recomputation *r = &node->recompute;
    return r->f.release && !r->f.run && !r->branch;
}

/* The i-th leaf that a node gives to, or NULL: of its inputs, and then of what it reads again. */
static pf_tensor *leaf_of(const pf_node *node, int64_t i) {
    return i < node->n_in ? node->edge[i].to.leaf : node->recompute.read.leaf[i - node->n_in];
}
static int64_t leaves_of(const pf_node *node) { return node->n_in + node->recompute.read.n; }

void pf_leaves_begin(pf_tape *tape) {
    pf_engine *e = tape->engine;
    if (tape->host || !e->own[PF_OWN_LEAVES].thing) return;
    tape->watch = e->own[PF_OWN_LEAVES].thing;
    pf_leaves_watch(e, NULL);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t n = 0; n < tape->n; n++) {
            const pf_node *node = &tape->nodes[n];
            for (int64_t i = 0; i < leaves_of(node); i++) {
                pf_tensor *leaf = leaf_of(node, i);
                if (leaf) leaf->awaited = pass ? leaf->awaited + 1 : 0;
            }
            tape->unknown += pass && is_linked(node);
        }
    }
}

/* Leaves of node n, of which nothing is awaited. */
static int tell(const pf_tape *tape, int64_t n) {
    const pf_node *node = &tape->nodes[n];
    for (int64_t i = 0; i < leaves_of(node); i++) {
        pf_tensor *leaf = leaf_of(node, i);
        if (leaf && leaf->awaited == 0) PF_TRY(tape->watch->whole(tape->watch->context, leaf));
    }
    return PF_OK;
}

int pf_leaves_after(pf_tape *tape, int64_t n) {
    const pf_node *node = &tape->nodes[n];
    if (!tape->watch) return PF_OK;
    for (int64_t i = 0; i < leaves_of(node); i++)
        if (leaf_of(node, i)) leaf_of(node, i)->awaited--;
    if (!is_linked(node)) return tape->unknown ? PF_OK : tell(tape, n);
    if (--tape->unknown) return PF_OK;
    for (int64_t k = n; k < tape->n; k++) PF_TRY(tell(tape, k));
    return PF_OK;
}

int pf_leaves_look(const pf_tape *tape) {
    const pf_tape *outermost = tape->host ? tape->host : tape;
    const pf_leaf_watch *watch = outermost->watch;
    return watch ? watch->between(watch->context) : PF_OK;
}

void pf_leaves_end(pf_tape *tape, int status) {
    if (tape->watch) tape->watch->end(tape->watch->context, status);
    tape->watch = NULL;
}
