/*
 * pattern_state.h - what streams of the kinds by a pattern remember, and windows in parts of a row.
 *
 * Most keep all keys and values (and the buckets of keys, of rules that ask for them): what a rule
 * lists may stand anywhere. A step reads only what is listed.
 *
 * A window looks back w - 1 keys (as many times further as it is dilated), so its state is of
 * fixed size: those, and the first tokens that all see. Rows go in runs of PF_TILE, counted from
 * the first key, and so do the first tokens' rows: then the tiles of a stream are those of the
 * whole row, and all bits are.
 */
#ifndef PF_PATTERN_STATE_H
#define PF_PATTERN_STATE_H

#include "attention.h"

/* ---- of any rule that is causal: keys, values, and maybe buckets ---- */
extern const pf_state_kind pf_state_pattern;
int pf_pattern_open(pf_state *s, pf_engine *e, const pf_attention *a, int64_t heads, int64_t d,
                    int64_t dv);
void pf_pattern_widths(const pf_attention *a, const pf_state *s, int64_t *d, int64_t *dv);
int pf_pattern_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                       pf_tensor *q, pf_tensor *k, pf_tensor *v);
int pf_pattern_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later);

/* ---- of windows (rule_sliding.c): keys and values that are in reach ---- */
extern const pf_state_kind pf_state_window;
int pf_window_prefill(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                      pf_tensor *q, pf_tensor *k, pf_tensor *v);
int pf_window_merge(pf_state *s, pf_engine *e, const pf_attention *a, pf_state *later);
/* How many places a window reaches over, the query's own among them; 0: it is none. */
int64_t pf_window_distances(const pf_attention *a);
/* A part of a row in training: the keys and values before it are tensors of the graph. */
int pf_window_part(pf_tensor **out, pf_engine *e, const pf_attention *a, pf_state *s,
                   pf_tensor *const *in);
const char *pf_window_no_part(const pf_attention *a); /* why these options have none, or NULL */

#endif
