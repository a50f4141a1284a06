/*
 * schedule.c - the learning rate by step, a row a schedule: each a function of the step alone, so
 * that a resumed run continues where it was, and each with a linear warm-up.
 */
#include <math.h>
#include <string.h>

#include "optim.h"

static const double pi = 3.14159265358979323846;

#define WHOLE(option, value, words)                                                                \
    {                                                                                              \
        .name = (option), .kind = PF_OPT_INT, .number = (value), .low = 0, .high = 0x1p53,         \
        .doc = (words)                                                                             \
    }
#define PEAK                                                                                       \
    {                                                                                              \
        .name = "peak", .kind = PF_OPT_NUMBER, .low = 0, .high = 1e6, .required = true,            \
        .doc = "the highest rate, which the warm-up ends at"                                       \
    }
#define WARMUP WHOLE("warmup", 0, "steps in which the rate rises from 0, evenly")
#define STEPS                                                                                      \
    {                                                                                              \
        .name = "steps", .kind = PF_OPT_INT, .low = 0, .high = 0x1p53, .required = true,           \
        .doc = "the step from which on the rate is the floor"                                      \
    }
#define FLOOR                                                                                      \
    { .name = "floor", .kind = PF_OPT_NUMBER, .low = 0, .high = 1e6, .doc = "the lowest rate" }

typedef struct {
    const char *name, *doc;
    const pf_option_info *options; /* peak and warmup among them */
    int n_options;
    /* The rate from the end of the warm-up on. */
    double (*rate)(const pf_config *options, uint64_t step);
} schedule;

static double number(const schedule *row, const pf_config *options, const char *name) {
    return pf_config_number_of(options, row->options, row->n_options, name);
}

/* ---- rows ---- */

static double cosine_share(double done) { return 0.5 * (1 + cos(pi * done)); }

double pf_schedule_cosine(uint64_t step, uint64_t warmup, uint64_t steps, double peak,
                          double floor) {
    if (step < warmup) return peak * (double)step / (double)warmup;
    if (step >= steps) return floor;
    double done = (double)(step - warmup) / (double)(steps - warmup);
    return floor + (peak - floor) * cosine_share(done);
}

static const pf_option_info falling_options[] = {PEAK, WARMUP, STEPS, FLOOR};
static const pf_option_info constant_options[] = {PEAK, WARMUP};
static const pf_option_info step_options[] = {
    PEAK,
    WARMUP,
    FLOOR,
    {.name = "every",
     .kind = PF_OPT_INT,
     .low = 1,
     .high = 0x1p53,
     .required = true,
     .doc = "steps at one rate, the warm-up not counted"},
    {.name = "factor",
     .kind = PF_OPT_NUMBER,
     .number = 0.1,
     .low = 0,
     .high = 1,
     .doc = "of each rate to the one before"},
};
static const pf_option_info wsd_options[] = {
    PEAK,
    WARMUP,
    STEPS,
    FLOOR,
    WHOLE("cooldown", 0, "steps of the fall at the end; 0: a fifth of `steps`"),
    {.name = "shape",
     .kind = PF_OPT_STRING,
     .string = "sqrt",
     .choices = "sqrt|linear|cosine",
     .doc = "of the fall, done from 0 to 1: by 1 - sqrt(done), by 1 - done, or by half a cosine"},
};

static double cosine_rate(const pf_config *options, uint64_t step);
static double linear_rate(const pf_config *options, uint64_t step);
static double constant_rate(const pf_config *options, uint64_t step);
static double step_rate(const pf_config *options, uint64_t step);
static double wsd_rate(const pf_config *options, uint64_t step);

enum { COSINE, LINEAR, CONSTANT, STEP, WSD };
static const schedule rows[] = {
    [COSINE] = {"cosine", "Half a cosine from the peak down to the floor. arXiv 1608.03983.",
                falling_options, PF_COUNT(falling_options), cosine_rate},
    [LINEAR] = {"linear", "Evenly from the peak down to the floor.", falling_options,
                PF_COUNT(falling_options), linear_rate},
    [CONSTANT] = {"constant", "Always the peak.", constant_options, PF_COUNT(constant_options),
                  constant_rate},
    [STEP] = {"step", "The peak, times a factor every so many steps.", step_options,
              PF_COUNT(step_options), step_rate},
    [WSD] = {"wsd",
             "Warm-up, stable, decay: the peak up to a fall at the end, so that a run can be "
             "lengthened from before the fall. arXiv 2404.06395, 2405.18392.",
             wsd_options, PF_COUNT(wsd_options), wsd_rate},
};

static double cosine_rate(const pf_config *o, uint64_t step) {
    const schedule *row = &rows[COSINE];
    return pf_schedule_cosine(step, (uint64_t)number(row, o, "warmup"),
                              (uint64_t)number(row, o, "steps"), number(row, o, "peak"),
                              number(row, o, "floor"));
}

/* How much of the way from `first` to `last` is behind `step`: 0 to 1. */
static double done_of(double step, double first, double last) {
    if (step >= last) return 1;
    return step <= first ? 0 : (step - first) / (last - first);
}

/* The rate of which `share` is left above the floor. */
static double above_floor(const schedule *row, const pf_config *o, double share) {
    double peak = number(row, o, "peak"), floor = number(row, o, "floor");
    return floor + (peak - floor) * share;
}

static double linear_rate(const pf_config *o, uint64_t step) {
    const schedule *row = &rows[LINEAR];
    double done = done_of((double)step, number(row, o, "warmup"), number(row, o, "steps"));
    return above_floor(row, o, 1 - done);
}

static double constant_rate(const pf_config *o, uint64_t step) {
    (void)step;
    return number(&rows[CONSTANT], o, "peak");
}

static double step_rate(const pf_config *o, uint64_t step) {
    const schedule *row = &rows[STEP];
    double after = (double)step - number(row, o, "warmup") - 1;
    double falls = floor(fmax(after, 0) / number(row, o, "every"));
    double rate = number(row, o, "peak") * pow(number(row, o, "factor"), falls);
    return fmax(rate, number(row, o, "floor"));
}

static double wsd_rate(const pf_config *o, uint64_t step) {
    const schedule *row = &rows[WSD];
    double steps = number(row, o, "steps"), cooldown = number(row, o, "cooldown");
    const char *shape = pf_config_string_of(o, row->options, row->n_options, "shape");
    double first = steps - (cooldown > 0 ? cooldown : floor(steps / 5));
    double done = done_of((double)step, fmax(first, number(row, o, "warmup")), steps);
    if (strcmp(shape, "linear") == 0) return above_floor(row, o, 1 - done);
    return above_floor(row, o, *shape == 's' ? 1 - sqrt(done) : cosine_share(done));
}

/* ---- the table ---- */

static int unknown(const char *type) {
    const char *names[PF_COUNT(rows)];
    for (int i = 0; i < PF_COUNT(rows); i++) names[i] = rows[i].name;
    char told[PF_NAMES_TOLD];
    return pf_fail(PF_EINVAL, "schedule: there is no '%s'%s", type ? type : "?",
                   pf_names_told(told, sizeof told, type, names, PF_COUNT(rows)));
}

/* Falling to what is more would rise. */
static int check_floor(const schedule *row, const pf_config *options) {
    double peak = number(row, options, "peak"), floor = peak;
    if (pf_config_get(options, "floor")) floor = number(row, options, "floor");
    if (floor <= peak) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "schedule.%s: 'floor' is %g, above 'peak', %g; it is the lowest rate, so "
                   "give at most the peak",
                   row->name, floor, peak);
}

/* Against the row's options and the type. */
static int check(const schedule *row, const pf_config *options) {
    pf_option_info table[8] = {{.name = "type", .kind = PF_OPT_STRING}};
    char where[32] = "schedule.";
    memcpy(table + 1, row->options, (size_t)row->n_options * sizeof *table);
    strncat(where, row->name, sizeof where - strlen(where) - 1);
    PF_TRY(pf_config_check(options, table, row->n_options + 1, where));
    return check_floor(row, options);
}

int pf_schedule_rate(double *rate, const pf_config *options, uint64_t step) {
    PF_OUT(rate);
    PF_NEED(options);
    const char *type = pf_config_string(pf_config_get(options, "type"));
    for (int i = 0; type && i < PF_COUNT(rows); i++) {
        const schedule *row = &rows[i];
        if (strcmp(row->name, type) != 0) continue;
        PF_TRY(check(row, options));
        double warmup = number(row, options, "warmup"), peak = number(row, options, "peak");
        bool rises = (double)step < warmup;
        *rate = rises ? peak * (double)step / warmup : row->rate(options, step);
        return PF_OK;
    }
    return unknown(type);
}

int pf_schedules_describe(pf_config *to) {
    pf_config *list, *map;
    PF_TRY(pf_describe_list(&list, to, "schedules"));
    for (int i = 0; i < PF_COUNT(rows); i++) {
        PF_TRY(pf_describe_map(&map, list, NULL));
        PF_TRY(pf_config_set_string(map, "name", rows[i].name));
        PF_TRY(pf_config_set_string(map, "doc", rows[i].doc));
        PF_TRY(pf_describe_options(map, rows[i].options, rows[i].n_options));
    }
    return PF_OK;
}
