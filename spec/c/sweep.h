/*
 * sweep.h - how a test that strikes goes over the scenarios (scenarios.h). Each is run twice with
 * nobody striking, and then once for each point that it came by and each of two ways to strike
 * there. What must hold of a struck run: it says what struck it; if it failed, what stood before is
 * as it was; a second try gives what one gives that nobody struck.
 *
 * Points of a scenario that has more than the test looks at are spread over it, the same in each
 * run; with PF_LONG in the environment all are struck. A word on the command line chooses scenarios
 * whose names hold it.
 */
#ifndef PF_SWEEP_H
#define PF_SWEEP_H

#include "scenarios.h"

/* What one gives that nobody strikes. */
typedef struct {
    uint64_t before, after, result;
    long n; /* points */
} course;

typedef struct {
    const char *point, *ways[2]; /* their names */
    long most;                   /* points that are looked at */
    void (*begin)(world *w, const scenario *s);
    /* The work, struck at point `at` (0: nowhere) in one of the ways. */
    int (*run)(world *w, const scenario *s, long at, bool way);
    long (*seen)(void); /* points of the last run */
    /* The status of a run that was struck is what it has to be. */
    bool (*answers)(const scenario *s, const course *c, long at, bool way, int status);
    void (*end)(world *w);
    void (*alone)(const scenario *s); /* NULL, or told after a run that nobody struck */
} striker;

static inline course undisturbed(const striker *k, world *w, const scenario *s) {
    course c;
    k->begin(w, s);
    c.before = world_look(w);
    CHECK_OK(k->run(w, s, 0, false));
    c.after = world_look(w), c.result = w->result, c.n = k->seen();
    k->end(w);
    return c;
}

/* Only what fails is said: there are thousands. */
static inline void try_point(const striker *k, world *w, const scenario *s, const course *c,
                             long at, bool way) {
    const char *fault = NULL;
    k->begin(w, s);
    pf_set_error(PF_EHOST, "");
    int status = k->run(w, s, at, way);
    if (!k->answers(s, c, at, way, status))
        fault = "says something else";
    else if (status < 0 && world_look(w) != c->before)
        fault = "what stood before has changed";
    else if (status < 0 && s->run(w) < 0)
        fault = "the second try fails";
    else if (w->result != c->result)
        fault = "another result";
    else if (world_look(w) != c->after)
        fault = "another end";
    if (fault) {
        char text[512];
        snprintf(text, sizeof text, "%s, %s %ld, %s: %s (%s: %s)", s->name, k->point, at,
                 k->ways[way], fault, pf_status_name(status), pf_last_error());
        check_one(0, text, __FILE__, __LINE__);
    }
    k->end(w);
}

static inline void sweep(const striker *k, world *w, const scenario *s) {
    course c = undisturbed(k, w, s), same = undisturbed(k, w, s);
    CHECK(same.before == c.before && same.after == c.after && same.result == c.result);
    long all = 2 * same.n, points = getenv("PF_LONG") || all < k->most ? all : k->most;
    int failed = check_failed;
    if (getenv("PF_SHOW")) fprintf(stderr, "%-30s %6ld of %s\n", s->name, same.n, k->point);
    if (k->alone) k->alone(s);
    for (long i = 0; i < points && check_failed < failed + 8; i++) {
        long point = i * all / points;
        try_point(k, w, s, &same, point / 2 + 1, point % 2);
    }
    check_one(check_failed == failed, s->name, __FILE__, __LINE__);
}

/* The whole test: all scenarios, with files that `e` makes. */
static inline int sweep_all(const striker *k, pf_engine *e, const char *word) {
    world w = {.e = e};
    make_files(&w);
    pf_engine_close(&w.e);
    for (int i = 0; i < PF_COUNT(scenarios); i++) {
        if (!word || strstr(scenarios[i].name, word)) sweep(k, &w, &scenarios[i]);
    }
    scratch_remove(w.files);
    return CHECK_REPORT();
}

#endif
