/*
 * rule_sliding.c - windows (Longformer, Beltagy 2020, 3.1). Query i at place p sees key j iff
 *
 *     -ahead <= (p - j) / s <= back   and   (p - j) mod s = 0        s: the dilation
 *
 * or j is one of the first `global` tokens, or p is. `window` counts keys that are seen, the
 * query's own among them, so back = window - 1 for causal attention; full attention has `window`
 * keys to each side, or `ahead` to the right.
 *
 * Parts: the window, of queries that are not global; the global columns before it; the global rows.
 * A window leaves of the columns what lies before it, an interval; only a dilated one has gaps, and
 * there the columns are cut.
 */
#include "pattern_maker.h"

enum { WINDOW, AHEAD, DILATION, GLOBAL, QUERIES, OPTIONS };
enum { ALL, LOCAL_ONES, GLOBAL_ONES };

static const pf_option_info options[OPTIONS] = {
    [WINDOW] = {.name = "window",
                .kind = PF_OPT_INT,
                .number = 256,
                .low = 1,
                .high = INT32_MAX,
                .doc =
                    "keys that a query sees, itself included; full attention: to each side of it"},
    [AHEAD] = {.name = "ahead",
               .kind = PF_OPT_INT,
               .number = -1,
               .low = -1,
               .high = INT32_MAX,
               .doc = "full attention: keys to the right of a query; -1: window, as to the left"},
    [DILATION] = {.name = "dilation",
                  .kind = PF_OPT_INT,
                  .number = 1,
                  .low = 1,
                  .high = INT32_MAX,
                  .doc = "the window takes one key in so many, and reaches so many times as far"},
    [GLOBAL] = {.name = "global",
                .kind = PF_OPT_INT,
                .low = 0,
                .high = INT32_MAX,
                .doc = "first tokens that see all, and that all see"},
    [QUERIES] = {.name = "queries",
                 .kind = PF_OPT_STRING,
                 .string = "all",
                 .choices = "all|local|global",
                 .doc = "local: those of global tokens see nothing; global: the others; two calls "
                        "so take weights of their own (global_weights)"},
};

/* The window in positions, and how far its steps go; global queries have none. */
static pf_span span_of(const pf_ask *a) {
    const double *o = a->option;
    int64_t step = (int64_t)o[DILATION], width = (int64_t)o[WINDOW];
    int64_t ahead = o[AHEAD] < 0 ? width : (int64_t)o[AHEAD];
    return (pf_span){.from = -step * (a->causal ? width - 1 : width),
                     .to = a->causal ? 0 : step * ahead,
                     .least = (int64_t)o[GLOBAL]};
}

/* The global keys, of queries that are not: those before a plain window, or all, cut. */
static int add_columns(pf_maker *m, const pf_ask *a, const pf_span *span, bool cuts) {
    int64_t g = pf_ask_before(a, span->least);
    int32_t *hi = pf_maker_numbers(m, a->Lq);
    if (!hi) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i), end = pf_min(g, pf_ask_limit(a, i));
        if (!cuts) end = pf_min(end, pf_ask_before(a, place + span->from));
        hi[i] = place >= span->least ? (int32_t)end : 0;
    }
    return pf_maker_add_columns(m, a, NULL, g, hi, cuts);
}

/* The global queries, which see all that is in reach. */
static int add_rows(pf_maker *m, const pf_ask *a, const pf_span *span) {
    int32_t *query = pf_maker_numbers(m, a->Lq);
    int64_t n = 0;
    if (!query) return PF_ENOMEM;
    for (int64_t i = 0; i < a->Lq; i++) {
        int64_t place = pf_ask_place(a, i);
        if (place >= 0 && place < span->least) query[n++] = (int32_t)i;
    }
    return pf_maker_add_rows(m, a, query, n);
}

static int build(pf_maker *m, const pf_ask *a) {
    pf_span span = span_of(a);
    int64_t step = (int64_t)a->option[DILATION];
    if (a->option[QUERIES] != GLOBAL_ONES) {
        PF_TRY(step > 1 ? pf_maker_add_residues(m, a, step, &span)
                        : pf_maker_add_window(m, a, &span));
        if (span.least > 0) PF_TRY(add_columns(m, a, &span, step > 1));
    }
    bool rows = span.least > 0 && a->option[QUERIES] != LOCAL_ONES;
    return rows ? add_rows(m, a, &span) : PF_OK;
}

/* Without global tokens `local` is all queries, and `global` none. */
static int check(const double *option, const char *where) {
    if (option[QUERIES] == ALL || option[GLOBAL] > 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: queries says which ones see beside global tokens, and there are none: give "
                   "global = 1 or more, or leave queries out",
                   where);
}

static int fits(const pf_ask *a) {
    int64_t global = (int64_t)a->option[GLOBAL];
    if (a->causal && a->option[AHEAD] > 0) {
        return pf_fail(PF_EINVAL,
                       "%s: ahead = %lld looks at later keys, which causal attention never does",
                       a->where, (long long)a->option[AHEAD]);
    }
    if (global <= a->Lk || a->Lk == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: global = %lld, but there are only %lld tokens", a->where,
                   (long long)global, (long long)a->Lk);
}

/* Of n keys to one side, `step` apart, those that are there, on average. */
static double side(double n, double step, double length) {
    return n * step < length ? n - n * n * step / (2 * length) : length / (2 * step);
}

static double keys(const double *o, double length, bool causal) {
    double step = o[DILATION], ahead = o[AHEAD] < 0 ? o[WINDOW] : o[AHEAD];
    double window = 1 + side(causal ? o[WINDOW] - 1 : o[WINDOW], step, length);
    if (!causal) window += side(ahead, step, length);
    return window + o[GLOBAL] * (causal ? 1.5 : 2);
}

const pf_pattern_rule pf_pattern_rule_sliding = {
    .name = "sliding",
    .doc = "A window around each query, dilated or not, and first tokens that see and are seen by "
           "all (Longformer).",
    .options = options,
    .n_options = OPTIONS,
    .check = check,
    .fits = fits,
    .keys = keys,
    .build = build,
};
