/*
 * crossover.c - exact or linear attention: the length from which on the linear one is faster.
 *
 * Exact attention costs L d a token, linear attention r d: they cross at a length L* that grows
 * with r and depends little on d. L* is measured on a grid of (d, r), for causal attention and
 * not: crossover.def, or a table of the user's machine. Inside the grid log L* is bilinear in
 * log d and log r; beyond it L* is proportional to r, and d counts as the nearest one.
 */
#include <math.h>

#include "attention.h"

/* A row of a table: head_dim d, feature columns r. */
typedef struct {
    int64_t head_dim, features;
    bool causal;
    double length;
} crossover_row;

static const crossover_row built_in[] = {
#define PF_CROSSOVER(head_dim, features, causal, length) {head_dim, features, causal, length},
#include "crossover.def"
#undef PF_CROSSOVER
};

enum { MOST_ROWS = 512 };

/* ---- tables ---- */

static double number_of(const pf_config *row, const char *key) {
    const pf_config *value = pf_config_get(row, key);
    return value ? pf_config_number(value) : NAN;
}

static crossover_row row_of(const pf_config *row) {
    return (crossover_row){(int64_t)number_of(row, "head_dim"), (int64_t)number_of(row, "features"),
                           number_of(row, "causal") != 0, number_of(row, "length")};
}

static bool in_range(double value, double most) { return value >= 1 && value <= most; }

static int check_row(const pf_config *row, int index) {
    if (pf_config_kind_of(row) == PF_MAP && in_range(number_of(row, "head_dim"), 1 << 16) &&
        in_range(number_of(row, "features"), 1 << 24) && in_range(number_of(row, "length"), 1e12) &&
        number_of(row, "causal") >= 0) {
        return PF_OK;
    }
    return pf_fail(PF_EFORMAT,
                   "crossover: row %s must have numbers head_dim, features and length "
                   "from 1 on, and causal",
                   pf_place(index));
}

static const pf_config *given_rows(const pf_engine *engine) {
    const pf_config *table = engine->own[PF_OWN_CROSSOVER].thing;
    return table ? pf_config_get(table, "rows") : NULL;
}

/* Row `index` of the table that is in force; false past the last. */
static bool row_at(const pf_engine *engine, int index, crossover_row *row) {
    const pf_config *rows = given_rows(engine);
    int n = rows ? pf_config_size(rows) : PF_COUNT(built_in);
    if (index >= n) return false;
    *row = rows ? row_of(pf_config_at(rows, index)) : built_in[index];
    return true;
}

static int push_row(pf_config *rows, const crossover_row *row) {
    pf_config *map = pf_config_new_beside(rows, PF_MAP);
    if (!map) return PF_ENOMEM;
    int status = pf_config_set_number(map, "head_dim", (double)row->head_dim);
    if (status >= 0) status = pf_config_set_number(map, "features", (double)row->features);
    if (status >= 0) status = pf_config_set_bool(map, "causal", row->causal);
    if (status >= 0) status = pf_config_set_number(map, "length", row->length);
    if (status >= 0) return pf_config_push(rows, map);
    pf_config_free(map);
    return status;
}

int pf_crossover_table(pf_config **table, const pf_engine *engine) {
    PF_OUT(table);
    PF_OPEN(engine);
    crossover_row row;
    pf_config *rows = pf_config_new_in(engine->heap, PF_LIST);
    *table = pf_config_new_in(engine->heap, PF_MAP);
    int status = rows && *table ? PF_OK : pf_fail(PF_ENOMEM, "crossover: no memory for the table");
    for (int i = 0; status >= 0 && row_at(engine, i, &row); i++) status = push_row(rows, &row);
    if (status >= 0) return pf_config_set(*table, "rows", rows);
    pf_config_free(rows);
    pf_config_free(*table);
    *table = NULL;
    return status;
}

/* ---- between the rows ---- */

/* The nearest grid values around `value` along one axis: low <= value <= high where there are
 * such, else both the nearest. */
static void bracket(const pf_engine *e, bool causal, bool of_d, int64_t value, int64_t *low,
                    int64_t *high) {
    crossover_row row;
    *low = 0, *high = INT64_MAX;
    for (int i = 0; i < MOST_ROWS && row_at(e, i, &row); i++) {
        int64_t at = of_d ? row.head_dim : row.features;
        if (row.causal != causal) continue;
        if (at <= value) *low = pf_max(*low, at);
        if (at >= value) *high = pf_min(*high, at);
    }
    if (*low == 0) *low = *high;
    if (*high == INT64_MAX) *high = *low;
}

/* log L* of a row of the grid; NAN where the table lacks it. */
static double log_length(const pf_engine *e, bool causal, int64_t d, int64_t r) {
    crossover_row row;
    for (int i = 0; i < MOST_ROWS && row_at(e, i, &row); i++) {
        if (row.causal == causal && row.head_dim == d && row.features == r) return log(row.length);
    }
    return NAN;
}

/* Where `value` lies between low and high, by logarithms, 0 to 1. */
static double place(int64_t value, int64_t low, int64_t high) {
    if (low == high) return 0;
    return log((double)value / (double)low) / log((double)high / (double)low);
}

/* The corners of a grid cell have weights that add up to 1; where value and corner coincide one is
 * 1, and what the table lacks at weight 0 is not asked for. */
int pf_crossover_length(double *length, const pf_engine *engine, int64_t head_dim, int64_t features,
                        bool causal) {
    PF_OPEN(engine);
    PF_NEED(length);
    int64_t d[2], r[2];
    if (head_dim < 1 || features < 1) {
        return pf_fail(PF_EINVAL,
                       "crossover: head_dim (%lld) and features (%lld) must be at "
                       "least 1",
                       (long long)head_dim, (long long)features);
    }
    bracket(engine, causal, true, head_dim, &d[0], &d[1]);
    bracket(engine, causal, false, features, &r[0], &r[1]);
    double across = place(pf_max(pf_min(head_dim, d[1]), d[0]), d[0], d[1]);
    double along = place(pf_max(pf_min(features, r[1]), r[0]), r[0], r[1]), sum = 0;
    for (int i = 0; i < 4; i++) {
        double weight = (i & 1 ? across : 1 - across) * (i & 2 ? along : 1 - along);
        if (weight > 0) sum += weight * log_length(engine, causal, d[i & 1], r[i >> 1]);
    }
    if (features < r[0] || features > r[1]) sum += log((double)features / (double)r[0]);
    *length = exp(sum);
    if (*length > 0) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "crossover: the table has no rows for %s attention around head_dim "
                   "%lld and %lld features; measure it again with performer bench "
                   "crossover",
                   causal ? "causal" : "full", (long long)head_dim, (long long)features);
}

static void close_table(pf_engine *engine, void *table) {
    (void)engine;
    pf_config_free(table);
}

/* The engine keeps a copy, checked row by row first; NULL: the built-in table again. */
int pf_crossover_use(pf_engine *engine, const pf_config *table) {
    PF_OPEN(engine);
    pf_config *copy = NULL;
    if (table) {
        const pf_config *rows = pf_config_get(table, "rows");
        int n = rows && pf_config_kind_of(rows) == PF_LIST ? pf_config_size(rows) : 0;
        if (n < 1 || n > MOST_ROWS) {
            return pf_fail(PF_EFORMAT, "crossover: a table has 1 to %d rows", MOST_ROWS);
        }
        for (int i = 0; i < n; i++) PF_TRY(check_row(pf_config_at(rows, i), i));
        copy = pf_config_copy_in(engine->heap, table);
        if (!copy) return pf_fail(PF_ENOMEM, "crossover: no memory for the table");
    }
    pf_engine_own(engine, PF_OWN_CROSSOVER, copy, close_table);
    return PF_OK;
}
