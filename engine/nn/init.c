/*
 * init.c - parameters and the numbers they start with. A parameter's stream is keyed by
 * the engine's seed and a count of what was drawn since the seed was set, so the same
 * script gives the same weights on any number of threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

/* The number after "name:", when `init` is of that form. */
static bool init_value(const char *init, const char *name, double *value) {
    size_t n = strlen(name);
    if (strncmp(init, name, n) != 0 || init[n] != ':') return false;
    char *end;
    *value = strtod(init + n + 1, &end);
    return end != init + n + 1 && *end == '\0' && isfinite(*value);
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

int pf_init_fill(pf_tensor *t, pf_engine *e, const char *init) {
    double value = 0;
    if (strcmp(init, "zeros") == 0) return pf_tensor_fill(t, 0);
    if (strcmp(init, "ones") == 0) return pf_tensor_fill(t, 1);
    if (init_value(init, "value", &value)) return pf_tensor_fill(t, value);
    if (!init_deviation(t, init, &value)) {
        return pf_fail(PF_EINVAL,
                       "init: '%s' is none of zeros, ones, value:X, normal:X, "
                       "xavier, fan_in",
                       init);
    }
    float *data = pf_tensor_data(t);
    if (!data) return pf_fail(PF_ESTATE, "init: the tensor is not contiguous or not alive");
    int64_t n = pf_tensor_numel(t);
    pf_rng rng = pf_rng_make(e->seed, PF_DRAW_INIT, e->draws++, 0);
    pf_rng_fill_normal(&rng, 0, n, data);
    for (int64_t i = 0; i < n; i++) data[i] = (float)value * data[i];
    return PF_OK;
}
