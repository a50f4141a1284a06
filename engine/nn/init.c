/*
 * init.c - parameters and the numbers they start with. A parameter's stream is keyed by
 * the engine's seed and a count of what was drawn since the seed was set, so the same
 * script gives the same weights on any number of threads.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "module.h"

/* The number after "name:", when `init` is of that form. */
static bool init_value(const char *init, const char *name, double *value) {
    size_t n = strlen(name);
    if (strncmp(init, name, n) != 0 || init[n] != ':') return false;
    char *end;
    *value = pf_number_read(init + n + 1, &end);
    return end != init + n + 1 && *end == '\0' && isfinite(*value);
}

void pf_init_text(char out[PF_INIT_TEXT], const char *name, double value) {
    char number[PF_NUMBER_TEXT];
    pf_number_text(number, value);
    snprintf(out, PF_INIT_TEXT, "%s:%s", name, number);
}

/* Standard deviation of a random init; a weight is (to, from), or a single vector. */
static bool init_deviation(const pf_tensor *t, const char *init, double *deviation) {
    double from = (double)pf_max(t->rank > 0 ? t->shape[t->rank - 1] : 1, 1);
    double to = (double)pf_max(t->rank > 1 ? t->shape[0] : 1, 1);
    if (init_value(init, "normal", deviation)) return true;
    if (strcmp(init, "xavier") == 0) return *deviation = sqrt(2 / (from + to)), true;
    if (strcmp(init, "fan_in") == 0) return *deviation = 1 / sqrt(from), true;
    return false;
}

/* The same number everywhere; false: it is none of that kind. */
static bool init_constant(const char *init, double *value) {
    if (strcmp(init, "zeros") == 0) return *value = 0, true;
    if (strcmp(init, "ones") == 0) return *value = 1, true;
    return init_value(init, "value", value);
}

/* A megabyte at a time, so that a cancel is seen. rng NULL: `value` everywhere, else normal numbers
 * of that deviation. */
static int fill(float *data, int64_t n, const pf_engine *e, const pf_rng *rng, float value) {
    enum { PIECE = 1 << 18 };
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t count = pf_min(PIECE, n - at);
        PF_TRY(pf_progress_at(e, "drawing weights", at, n));
        if (rng) pf_rng_fill_normal(rng, (uint64_t)at, count, data + at);
        for (int64_t i = at; i < at + count; i++) data[i] = rng ? value * data[i] : value;
    }
    return PF_OK;
}

/* A parameter whose numbers come from a file counts its draw all the same, so that what a script
 * draws afterwards does not depend on where its model came from. */
int pf_init_fill(pf_tensor *t, pf_engine *e, const char *init) {
    double value = 0;
    bool constant = init_constant(init, &value);
    if (!constant && !init_deviation(t, init, &value)) {
        return pf_fail(PF_EINVAL,
                       "init: '%s' is none of zeros, ones, value:X, normal:X, "
                       "xavier, fan_in",
                       init);
    }
    pf_rng rng = pf_rng_make(e->seed, PF_DRAW_INIT, e->draws, 0);
    if (!constant) e->draws++;
    if (!t->storage) return PF_OK;
    float *data = pf_tensor_data(t);
    if (!data) return pf_fail(PF_ESTATE, "init: the tensor is not contiguous or not alive");
    return fill(data, pf_tensor_numel(t), e, constant ? NULL : &rng, (float)value);
}
