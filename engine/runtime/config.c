/*
 * config.c - the tree of plain data. What must
 * hold: a node has one parent or none, so freeing a root frees everything once; freeing needs
 * no stack, however deep a tree is. A node made by the host lives in plain C memory, a tree that
 * the engine reads from a file in its heap, whose budget counts it; they may stand in each other.
 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "pieces.h"
#include "status.h"

enum { COPY_DEPTH = 1000, INDEX_FROM = 16 };

/* A list and a map are an array of children; a map has a key beside each, in the order of their
 * coming. The keys of small maps are looked for one by one, those of large ones by their hash. */
struct pf_config {
    pf_config_kind kind;
    int n, room;   /* LIST and MAP */
    double number; /* NUMBER, and BOOL as 0 or 1 */
    char *string;  /* STRING */
    pf_config *parent;
    pf_config **child;
    char **key;      /* MAP */
    pf_index *index; /* of the keys; NULL: a small map */
};

/* ---- nodes ---- */

static char *copy_text(pf_pieces *store, const char *text) {
    size_t bytes = strlen(text) + 1;
    char *copy = pf_piece_take(store, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

static pf_config *node_new(pf_pieces *store, pf_config_kind kind) {
    pf_config *node = pf_piece_take(store, sizeof *node);
    if (node) *node = (pf_config){.kind = kind};
    return node;
}

static pf_config *number_new(pf_pieces *store, pf_config_kind kind, double value) {
    pf_config *node = node_new(store, kind);
    if (node) node->number = value;
    return node;
}

static pf_config *string_new(pf_pieces *store, const char *value) {
    pf_config *node = node_new(store, PF_STRING);
    if (!node) return NULL;
    node->string = copy_text(store, value ? value : "");
    if (node->string) return node;
    pf_piece_drop(node);
    return NULL;
}

pf_config *pf_config_new(pf_config_kind kind) {
    return kind == PF_STRING ? string_new(NULL, "") : node_new(NULL, kind);
}
pf_config *pf_config_new_number(double value) { return number_new(NULL, PF_NUMBER, value); }
pf_config *pf_config_new_bool(bool value) { return number_new(NULL, PF_BOOL, value); }
pf_config *pf_config_new_string(const char *value) { return string_new(NULL, value); }

pf_config *pf_config_new_in(pf_heap *heap, pf_config_kind kind) {
    pf_pieces *store;
    if (pf_pieces_open(&store, heap) < 0) return NULL;
    pf_config *node = node_new(store, kind);
    if (!node) pf_pieces_close(store);
    return node;
}

pf_config *pf_config_new_beside(const pf_config *near, pf_config_kind kind) {
    return node_new(pf_pieces_of(near), kind);
}

pf_config *pf_config_number_beside(const pf_config *near, double value) {
    return number_new(pf_pieces_of(near), PF_NUMBER, value);
}

pf_config *pf_config_string_beside(const pf_config *near, const char *value) {
    return string_new(pf_pieces_of(near), value);
}

int pf_config_become_string(pf_config *node, const char *text) {
    node->string = copy_text(pf_pieces_of(node), text);
    node->kind = PF_STRING;
    return node->string ? PF_OK : PF_ENOMEM;
}

void pf_config_become_number(pf_config *node, double value) {
    node->kind = PF_NUMBER;
    node->number = value;
}

void pf_config_become_bool(pf_config *node, bool value) {
    node->kind = PF_BOOL;
    node->number = value;
}

static void drop_index(pf_config *map) {
    if (map->index) pf_index_close(map->index);
    pf_piece_drop(map->index);
    map->index = NULL;
}

static void free_one(pf_config *node) {
    drop_index(node);
    pf_piece_drop(node->string);
    pf_piece_drop(node->child);
    pf_piece_drop(node->key);
    pf_piece_drop(node);
}

/* Goes down to a leaf, frees it, goes on from its parent, whose `n` says how many are left: a
 * tree of any depth needs no stack. A node that still stands in a parent is the parent's to
 * free. */
void pf_config_free(pf_config *root) {
    if (!root || root->parent) return;
    for (pf_config *node = root;;) {
        if (node->n > 0) {
            node->n--;
            if (node->key) pf_piece_drop(node->key[node->n]);
            node = node->child[node->n];
            continue;
        }
        pf_config *parent = node->parent;
        free_one(node);
        if (!parent) return;
        node = parent;
    }
}

/* ---- looking ---- */

pf_config_kind pf_config_kind_of(const pf_config *node) { return node ? node->kind : PF_NULL; }

int pf_config_size(const pf_config *node) { return node ? node->n : 0; }

const char *pf_config_key(const pf_config *map, int index) {
    return map && map->key && index >= 0 && index < map->n ? map->key[index] : NULL;
}

pf_config *pf_config_at(const pf_config *node, int index) {
    return node && index >= 0 && index < node->n ? node->child[index] : NULL;
}

static bool is_same(const char *a, const char *b) { return *a == *b && strcmp(a, b) == 0; }

static int find_key(const pf_config *map, const char *key) {
    int i = 0;
    uint32_t probe = 0;
    if (!map || map->kind != PF_MAP || !key) return -1;
    if (map->index) {
        uint64_t hash = pf_hash_text(key);
        while ((i = pf_index_next(map->index, hash, &probe)) >= 0 && !is_same(map->key[i], key)) {}
        return i;
    }
    while (i < map->n && !is_same(map->key[i], key)) i++;
    return i < map->n ? i : -1;
}

pf_config *pf_config_get(const pf_config *map, const char *key) {
    int i = find_key(map, key);
    return i < 0 ? NULL : map->child[i];
}

double pf_config_number(const pf_config *node) { return node ? node->number : 0.0; }

const char *pf_config_string(const pf_config *node) { return node ? node->string : NULL; }

/* ---- building ---- */

/* The array at *array of n pointers, with room for `room`. */
static int widen(void *array, int n, int room, pf_pieces *store) {
    void **old = *(void ***)array, **wider = pf_piece_take(store, (size_t)room * sizeof *wider);
    if (!wider) return PF_ENOMEM;
    if (n > 0) memcpy(wider, old, (size_t)n * sizeof *wider);
    pf_piece_drop(old);
    *(void ***)array = wider;
    return PF_OK;
}

/* Room for one more entry. */
static int grow(pf_config *node) {
    if (node->n < node->room) return PF_OK;
    if (node->room > (1 << 28)) return pf_fail(PF_ENOMEM, "config: a node with too many entries");
    int room = node->room ? 2 * node->room : 4;
    pf_pieces *store = pf_pieces_of(node);
    PF_TRY(widen(&node->child, node->n, room, store));
    if (node->kind == PF_MAP) PF_TRY(widen(&node->key, node->n, room, store));
    node->room = room;
    return PF_OK;
}

/* The index of a map that has become large, or that lost an entry. */
static int make_index(pf_config *map) {
    pf_pieces *store = pf_pieces_of(map);
    pf_index *index = pf_piece_take(store, sizeof *index);
    if (!index) return PF_ENOMEM;
    *index = (pf_index){.heap = pf_pieces_heap(store)};
    map->index = index;
    int status = PF_OK;
    for (int i = 0; status >= 0 && i < map->n; i++)
        status = pf_index_put(index, pf_hash_text(map->key[i]), i);
    if (status < 0) drop_index(map);
    return status;
}

/* One more entry of a map; the child has no parent yet. */
static int add_entry(pf_config *map, const char *key, pf_config *child) {
    PF_TRY(grow(map));
    if (map->n >= INDEX_FROM && !map->index) PF_TRY(make_index(map));
    char *name = copy_text(pf_pieces_of(map), key);
    if (!name) return PF_ENOMEM;
    if (map->index && pf_index_put(map->index, pf_hash_text(key), map->n) < 0) {
        pf_piece_drop(name);
        return PF_ENOMEM;
    }
    map->key[map->n] = name;
    map->child[map->n++] = child;
    child->parent = map;
    return PF_OK;
}

/* May `child` hang under `node`? It must be a root, and not the one that node hangs under. */
static int check_child(const pf_config *node, pf_config_kind kind, const pf_config *child) {
    if (!child) return PF_ENOMEM; /* its maker has left the message */
    if (child->parent) return pf_fail(PF_EINVAL, "config: the node already has a parent");
    for (const pf_config *up = node; up; up = up->parent)
        if (up == child) return pf_fail(PF_EINVAL, "config: a node cannot hold itself");
    if (!node || node->kind != kind)
        return pf_fail(PF_EINVAL, "config: this needs a %s", kind == PF_MAP ? "map" : "list");
    return PF_OK;
}

/* A child that a failure leaves without a parent is freed: it was handed over. One that
 * has a parent, or is above `node`, has an owner already and stays. */
static int refuse_child(const pf_config *node, pf_config *child, int status) {
    bool owned = !child || child->parent;
    for (const pf_config *up = node; up && !owned; up = up->parent) owned = up == child;
    if (!owned) pf_config_free(child);
    return status;
}

/* Not PF_NEED: the child is to be freed. */
static int no_argument(const char *where, const char *name) {
    return pf_fail(PF_EINVAL, "%s: %s is NULL", where, name);
}

int pf_config_push(pf_config *list, pf_config *child) {
    int status = list ? check_child(list, PF_LIST, child) : no_argument("pf_config_push", "list");
    if (status == PF_OK) status = grow(list);
    if (status < 0) return refuse_child(list, child, status);
    PF_HOLDS(list->child);
    child->parent = list;
    list->child[list->n++] = child;
    return PF_OK;
}

/* A key that is there keeps its place and gets the new child. */
int pf_config_set(pf_config *map, const char *key, pf_config *child) {
    int status = !map   ? no_argument("pf_config_set", "map")
                 : !key ? no_argument("pf_config_set", "key")
                        : check_child(map, PF_MAP, child);
    if (status < 0) return refuse_child(map, child, status);
    int i = find_key(map, key);
    if (i < 0) {
        status = add_entry(map, key, child);
        return status < 0 ? refuse_child(map, child, status) : PF_OK;
    }
    PF_HOLDS(map->child);
    map->child[i]->parent = NULL;
    pf_config_free(map->child[i]);
    child->parent = map;
    map->child[i] = child;
    return PF_OK;
}

void pf_config_remove(pf_config *map, const char *key) {
    int at = find_key(map, key);
    if (at < 0) return;
    drop_index(map); /* the places of what follows change */
    pf_piece_drop(map->key[at]);
    map->child[at]->parent = NULL;
    pf_config_free(map->child[at]);
    for (int i = at; i + 1 < map->n; i++) {
        map->key[i] = map->key[i + 1];
        map->child[i] = map->child[i + 1];
    }
    map->n--;
}

/* Where a map keeps what is set in it. */
static pf_pieces *store_of(const pf_config *map) { return map ? pf_pieces_of(map) : NULL; }

/* A number that is there takes the new value: counting up in a map asks for no memory. */
int pf_config_set_number(pf_config *map, const char *key, double value) {
    pf_config *old = pf_config_get(map, key);
    if (!old || old->kind != PF_NUMBER)
        return pf_config_set(map, key, number_new(store_of(map), PF_NUMBER, value));
    old->number = value;
    return PF_OK;
}

int pf_config_set_bool(pf_config *map, const char *key, bool value) {
    return pf_config_set(map, key, number_new(store_of(map), PF_BOOL, value));
}

int pf_config_set_string(pf_config *map, const char *key, const char *value) {
    return pf_config_set(map, key, string_new(store_of(map), value));
}

static int copy_children(pf_config *copy, const pf_config *node, int depth);

static pf_config *copy_node(pf_pieces *store, const pf_config *node, int depth) {
    if (depth > COPY_DEPTH) {
        pf_fail(PF_EINVAL, "config: nested deeper than %d", COPY_DEPTH);
        return NULL;
    }
    pf_config *copy = node->kind == PF_STRING ? string_new(store, node->string)
                                              : number_new(store, node->kind, node->number);
    if (!copy || copy_children(copy, node, depth) >= 0) return copy;
    pf_config_free(copy);
    return NULL;
}

static int copy_children(pf_config *copy, const pf_config *node, int depth) {
    for (int i = 0; i < node->n; i++) {
        pf_config *child = copy_node(pf_pieces_of(copy), node->child[i], depth + 1);
        PF_TRY(node->kind == PF_MAP ? pf_config_set(copy, node->key[i], child)
                                    : pf_config_push(copy, child));
    }
    return PF_OK;
}

pf_config *pf_config_copy(const pf_config *node) { return node ? copy_node(NULL, node, 1) : NULL; }

pf_config *pf_config_copy_beside(const pf_config *near, const pf_config *node) {
    return node ? copy_node(pf_pieces_of(near), node, 1) : NULL;
}

pf_config *pf_config_copy_in(pf_heap *heap, const pf_config *node) {
    pf_pieces *store;
    if (!node || pf_pieces_open(&store, heap) < 0) return NULL;
    pf_config *keeper = node_new(store, PF_NULL); /* a copy that fails must not end the store */
    pf_config *copy = keeper ? copy_node(store, node, 1) : NULL;
    if (keeper)
        pf_piece_drop(keeper);
    else
        pf_pieces_close(store);
    return copy;
}

pf_config *pf_config_copy_alike(const pf_config *node) {
    return node ? pf_config_copy_in(pf_pieces_heap(pf_pieces_of(node)), node) : NULL;
}

void pf_text_free(char *text) { free(text); }
