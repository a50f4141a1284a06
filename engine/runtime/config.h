/*
 * config.h - plain data as a tree: null, boolean, number, string, list, map. Layer options,
 * config.json and state.json all pass through it, so only io/ knows JSON and only
 * bindings/ knows Lua tables. Maps keep insertion order. The type is public (performer.h).
 */
#ifndef PF_CONFIG_H
#define PF_CONFIG_H

#include <math.h>

#include "heap.h"

/* One line of an options table: the single source for defaults, checks, help and docs. */
typedef enum {
    PF_OPT_INT,
    PF_OPT_NUMBER,
    PF_OPT_BOOL,
    PF_OPT_STRING,
    PF_OPT_TEXTS, /* a string, or a list of at least one */
    PF_OPT_TREE
} pf_opt_kind;

/* No default: what comes of a BOOL that is not given the doc says. Such a row is `later`. */
#define PF_OPT_NONE ((double)NAN)

typedef struct {
    const char *name;
    pf_opt_kind kind;
    double number;       /* default of INT, NUMBER, BOOL (PF_OPT_NONE: none) */
    double low, high;    /* allowed range of INT and NUMBER (low == high == 0: any) */
    const char *string;  /* default of STRING; NULL: none */
    const char *choices; /* STRING: "a|b|c", NULL: any text */
    bool required;
    bool later; /* of a layer: files were written before it came. A tree has it only where it is
                   not the default, so that the digests of models in those files hold */
    const char *needs; /* has no effect without this fact, a word of pf_describe's; NULL: always */
    const char *doc;
} pf_option_info;

enum { PF_NAMES_TOLD = 1024 };
/* What a message says behind a `word` (NULL: none was given) that is none of the `names`, in
 * `text`: " (did you mean 'x'?)", or where none is near all of them, as far as they fit. */
const char *pf_names_told(char *text, size_t bytes, const char *word, const char *const *names,
                          int n);

/* Fails with PF_EINVAL when `options` (a map, or NULL) holds a key that is not in the
 * table (names the nearest, or all), a value of the wrong kind or out of range, or lacks a
 * required one. `where` begins the message ("linear"). */
int pf_config_check(const pf_config *options, const pf_option_info *table, int n,
                    const char *where);

/* Nodes in a heap: a root (what is set in it by pf_config_set_* lies beside it), a node for the
 * tree of `near`, and copies so. NULL with PF_ENOMEM's message. */
pf_config *pf_config_new_in(pf_heap *heap, pf_config_kind kind);
pf_config *pf_config_new_beside(const pf_config *near, pf_config_kind kind);
pf_config *pf_config_copy_in(pf_heap *heap, const pf_config *node);
pf_config *pf_config_copy_beside(const pf_config *near, const pf_config *node);
/* A copy where the node itself lies: in its heap, or in plain C memory. */
pf_config *pf_config_copy_alike(const pf_config *node);
/* A number, a text for the tree of `near`. */
pf_config *pf_config_number_beside(const pf_config *near, double value);
pf_config *pf_config_string_beside(const pf_config *near, const char *value);
/* A fresh node of kind PF_NULL becomes a value. */
void pf_config_become_number(pf_config *node, double value);
void pf_config_become_bool(pf_config *node, bool value);
int pf_config_become_string(pf_config *node, const char *text);

/* Takes an entry out of a map; nothing when it is not there. */
void pf_config_remove(pf_config *map, const char *key);

/* The value of `name`, else the table's default. The name must be in the table. */
double pf_config_number_of(const pf_config *options, const pf_option_info *table, int n,
                           const char *name);
const char *pf_config_string_of(const pf_config *options, const pf_option_info *table, int n,
                                const char *name);
/* Of a PF_OPT_TEXTS value (NULL: not given): how many there are, and the i-th. */
int pf_config_texts(const pf_config *options, const char *name);
const char *pf_config_text_at(const pf_config *options, const char *name, int i);

/* ---- describe.c: tables as plain data, for help and docs ---- */

/* A new list under `key`; a new map under `key`, or at the end of a list (key NULL). Both belong
 * to their parent. */
int pf_describe_list(pf_config **list, pf_config *map, const char *key);
int pf_describe_map(pf_config **map, pf_config *parent, const char *key);
int pf_describe_text(pf_config *map, const char *key, const char *text); /* NULL: left out */
/* Sets `options` of a map to [{name, kind, default, required, choices, needs, doc}]. kind: int,
 * number, bool, string, texts or tree; default: a text, "" for none; choices and needs only where
 * there are some. */
int pf_describe_options(pf_config *to, const pf_option_info *table, int n);

#endif
