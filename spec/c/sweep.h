/*
 * sweep.h - how a test that strikes goes over the scenarios (scenarios.h). Each is run twice with
 * nobody striking, and then once for each point that it came by and each of two ways to strike
 * there. What must hold of a struck run: it says what struck it; if it failed, what stood before is
 * as it was; a second try gives what one gives that nobody struck.
 *
 * Struck are the points that a call leads to which led to none before, in this scenario or another:
 * so each call that can fail does. And others, spread over a scenario that has more than the test
 * looks at; with PF_LONG in the environment all are struck. A word on the command line chooses
 * scenarios whose names hold it.
 */
#ifndef PF_SWEEP_H
#define PF_SWEEP_H

#include <execinfo.h>

#include "scenarios.h"

/* ---- points that new calls lead to ---- */

enum { SWEEP_CALLS = 1 << 16, SWEEP_DEPTH = 48, SWEEP_POINTS = 4096 };

static struct {
    bool on;
    void *calls[SWEEP_CALLS]; /* where they return to: a hash table, never near full */
    int n_calls;
    long points[SWEEP_POINTS]; /* of the scenario */
    int n;
} fresh;

static inline bool fresh_call(void *call) {
    size_t at = (size_t)((uintptr_t)call * 0x9e3779b97f4a7c15u >> 48) % SWEEP_CALLS;
    while (fresh.calls[at] && fresh.calls[at] != call) at = (at + 1) % SWEEP_CALLS;
    if (fresh.calls[at] || fresh.n_calls >= SWEEP_CALLS / 2) return false;
    fresh.calls[at] = call, fresh.n_calls++;
    return true;
}

/* A striker tells of each point of a run that nobody strikes. */
static inline void sweep_came_by(long point) {
    void *calls[SWEEP_DEPTH];
    bool any = false;
    if (!fresh.on || fresh.n == SWEEP_POINTS) return;
    int n = backtrace(calls, SWEEP_DEPTH);
    for (int i = 0; i < n; i++) any = fresh_call(calls[i]) || any;
    if (any) fresh.points[fresh.n++] = point;
}

/* ---- scenarios, struck ---- */

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
    bool (*end)(world *w);            /* drops it all: is no byte held? */
    void (*alone)(const scenario *s); /* NULL, or told after a run that nobody struck */
} striker;

static inline course undisturbed(const striker *k, world *w, const scenario *s) {
    course c;
    k->begin(w, s);
    c.before = world_look(w);
    CHECK_OK(k->run(w, s, 0, false));
    c.after = world_look(w), c.result = w->result, c.n = k->seen();
    CHECK(k->end(w));
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
    char why[256];
    snprintf(why, sizeof why, "%s: %s", pf_status_name(status), pf_last_error());
    if (!k->end(w) && !fault) fault = "bytes are held";
    if (fault) {
        char text[1024];
        snprintf(text, sizeof text, "%s, %s %ld, %s: %s (%s)", s->name, k->point, at, k->ways[way],
                 fault, why);
        check_one(0, text, __FILE__, __LINE__);
    }
}

static inline void sweep(const striker *k, world *w, const scenario *s) {
    course c = undisturbed(k, w, s);
    fresh.n = 0, fresh.on = true;
    course same = undisturbed(k, w, s);
    fresh.on = false;
    CHECK(same.before == c.before && same.after == c.after && same.result == c.result);
    long all = 2 * same.n, points = getenv("PF_LONG") || all < k->most ? all : k->most;
    int failed = check_failed;
    if (getenv("PF_SHOW"))
        fprintf(stderr, "%-30s %6ld of %s, %d new\n", s->name, same.n, k->point, fresh.n);
    if (k->alone) k->alone(s);
    for (int i = 0; points < all && i < 2 * fresh.n && check_failed < failed + 8; i++)
        try_point(k, w, s, &same, fresh.points[i / 2], i % 2);
    for (long i = 0; i < points && check_failed < failed + 8; i++) {
        long point = i * all / points;
        try_point(k, w, s, &same, point / 2 + 1, point % 2);
    }
    check_one(check_failed == failed, s->name, __FILE__, __LINE__);
}

/* The whole test: all scenarios, with files that `e` makes. */
static inline int sweep_all(const striker *k, pf_engine *e, const char *word) {
    world w = {.e = e};
    backtrace((void *[1]){NULL}, 1); /* its first call loads a library */
    make_files(&w);
    pf_engine_close(&w.e);
    for (int i = 0; i < PF_COUNT(scenarios); i++) {
        if (!word || strstr(scenarios[i].name, word)) sweep(k, &w, &scenarios[i]);
    }
    scratch_remove(w.files);
    return CHECK_REPORT();
}

#endif
