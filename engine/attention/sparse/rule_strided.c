/*
 * rule_strided.c - the two factorised attentions of the Sparse Transformer (Child 2019, section
 * 4.3), causal there. A query at place p sees of stride l
 *
 *     strided    near: p - l <= j <= p          far: (p - j) mod l = 0
 *     fixed      near: floor(j / l) = floor(p / l)      far: j mod l among the last c of a block
 *
 * or both merged, each key once; `part` takes one alone, as heads of their own do. In full
 * attention near goes to both sides, and far to all keys.
 *
 * Causal, the near part ends where the far part begins: two intervals. In full attention far keys
 * lie on both sides, and are cut by the near ones.
 */
#include "pattern_maker.h"

enum { STRIDE, PART, LAST };
enum { BOTH, NEAR, FAR };

#define STRIDE_OPTION(text)                                                                        \
    [STRIDE] = {.name = "stride",                                                                  \
                .kind = PF_OPT_INT,                                                                \
                .number = 128,                                                                     \
                .low = 1,                                                                          \
                .high = INT32_MAX,                                                                 \
                .doc = (text)}
#define PART_OPTION(text)                                                                          \
    [PART] = {.name = "part",                                                                      \
              .kind = PF_OPT_STRING,                                                               \
              .string = "both",                                                                    \
              .choices = "both|near|far",                                                          \
              .doc = (text)}

static bool has(const pf_ask *a, int part) {
    return a->option[PART] == BOTH || a->option[PART] == part;
}
static bool both(const pf_ask *a) { return a->option[PART] == BOTH; }

/* ---- strided ---- */

static const pf_option_info strided_options[] = {
    STRIDE_OPTION("a query sees itself and so many keys before it, and of those further back every "
                  "so many-th"),
    PART_OPTION("of the two: near, the window; far, every stride-th key; both, their union"),
};

static int build_strided(pf_maker *m, const pf_ask *a) {
    int64_t l = (int64_t)a->option[STRIDE];
    pf_span near = {.from = -l, .to = a->causal ? 0 : l};
    pf_span far = {.from = -PF_FAR, .to = a->causal ? 0 : PF_FAR};
    if (both(a)) {
        if (a->causal) far.to = -l - 1;
        far.cuts = !a->causal;
    }
    if (has(a, NEAR)) PF_TRY(pf_maker_add_window(m, a, &near));
    return has(a, FAR) ? pf_maker_add_residues(m, a, l, &far) : PF_OK;
}

static double keys_strided(const double *o, double length, bool causal) {
    double near = o[PART] == FAR ? 0 : 1 + o[STRIDE],
           far = o[PART] == NEAR ? 0 : length / o[STRIDE];
    return causal ? near + far / 2 : 2 * near + far;
}

const pf_pattern_rule pf_pattern_rule_strided = {
    .name = "strided",
    .doc = "A window, and every so many-th key before it (Sparse Transformer).",
    .options = strided_options,
    .n_options = PF_COUNT(strided_options),
    .keys = keys_strided,
    .build = build_strided,
};

/* ---- fixed ---- */

static const pf_option_info fixed_options[] = {
    STRIDE_OPTION("keys of a block; a query sees its own"),
    PART_OPTION("of the two: near, the query's own block; far, the last keys of every block; both, "
                "their union"),
    [LAST] = {.name = "last",
              .kind = PF_OPT_INT,
              .number = 32,
              .low = 1,
              .high = INT32_MAX,
              .doc = "so many keys at the end of each block are seen from everywhere"},
};

static int check_fixed(const double *option, const char *where) {
    if (option[LAST] <= option[STRIDE] || option[PART] == NEAR) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: last = %lld of a block, but stride = %lld is all that it has",
                   where, (long long)option[LAST], (long long)option[STRIDE]);
}

/* The query's own block, as far as it is in reach. */
static int add_blocks(pf_maker *m, const pf_ask *a, int64_t l) {
    int32_t *lo = pf_maker_numbers(m, a->Lq), *hi = pf_maker_numbers(m, a->Lq);
    if (!lo || !hi) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i), begin = place < 0 ? 0 : place / l * l;
        lo[i] = (int32_t)pf_ask_before(a, begin);
        hi[i] = (int32_t)pf_min(pf_ask_before(a, begin + l), pf_ask_limit(a, i));
    }
    return pf_maker_add_plain(m, a, lo, hi);
}

/* Places of the last c keys of each block; returns how many. */
static int64_t columns_of(const pf_ask *a, int64_t l, int64_t c, int32_t *column) {
    int64_t n = 0;
    for (int64_t j = 0; j < a->Lk; j++) {
        if (pf_ask_position(a, j) % l >= l - c) column[n++] = (int32_t)j;
    }
    return n;
}

/* They ascend, so what a query sees is their beginning: up to its own block, or its limit. */
static int add_lasts(pf_maker *m, const pf_ask *a, int64_t l) {
    int32_t *column = pf_maker_numbers(m, a->Lk), *hi = pf_maker_numbers(m, a->Lq);
    if (!column || !hi) return PF_ENOMEM;
    bool before = both(a) && a->causal;
    pf_order order = {.position = column};
    order.n = columns_of(a, l, (int64_t)a->option[LAST], column);
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i), end = pf_ask_limit(a, i);
        if (before) end = place < 0 ? 0 : pf_ask_before(a, place / l * l);
        hi[i] = (int32_t)pf_order_find(&order, 0, order.n, end);
    }
    return pf_maker_add_columns(m, a, column, order.n, hi, both(a) && !a->causal);
}

static int build_fixed(pf_maker *m, const pf_ask *a) {
    int64_t l = (int64_t)a->option[STRIDE];
    if (has(a, NEAR)) PF_TRY(add_blocks(m, a, l));
    return has(a, FAR) ? add_lasts(m, a, l) : PF_OK;
}

static double keys_fixed(const double *o, double length, bool causal) {
    double near = o[PART] == FAR ? 0 : o[STRIDE];
    double far = o[PART] == NEAR ? 0 : o[LAST] * length / o[STRIDE];
    return (near + far) * (causal ? 0.5 : 1);
}

const pf_pattern_rule pf_pattern_rule_fixed = {
    .name = "fixed",
    .doc = "The query's own block, and the last keys of every block (Sparse Transformer).",
    .options = fixed_options,
    .n_options = PF_COUNT(fixed_options),
    .check = check_fixed,
    .keys = keys_fixed,
    .build = build_fixed,
};
