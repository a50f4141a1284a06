/*
 * refused_test.c - the host's threads fail: in each scenario (scenarios.h) at the n-th time that
 * they are asked to work, before they have done any of it, with a text, or behind all of it with a
 * code of the host's own and no text. The call answers that code; what stood before is as it was; a
 * second try gives what one gives where they did not fail; and when the engine has closed no byte
 * is held. What can't be undone (an optimizer's step) goes on to its end.
 * In LIVING_IN_A_HOST.md: [threads.9], [callbacks.1], [limits.6], [ends.4].
 */
#include "host.h"
#include "sweep.h"

enum { OWN = -77 }; /* a code of the host's */

/* ---- what strikes ---- */

static struct {
    bool armed, behind;
    long n, at; /* times so far, from 1; which one fails, 0: none */
    host_memory memory;
} strike;

/* All of it on the thread that asks, so that what is allocated has an order. */
static int work_here(void *context, int n, void (*work)(void *), void *argument) {
    (void)context;
    bool hit = false;
    if (strike.armed && scenario_asleep == 0) {
        sweep_came_by(++strike.n);
        hit = strike.n == strike.at;
    }
    if (hit && !strike.behind) return pf_set_error(PF_EHOST, "the pool is full");
    for (int i = 0; i < n; i++) work(argument);
    return hit ? OWN : PF_OK;
}

static void begin(world *w, const scenario *s) {
    const pf_workers workers = {.size = sizeof workers, .run = work_here};
    pf_options options = host_options(&strike.memory);
    pf_engine *e = NULL;
    options.threads = 3, options.seed = 3;
    options.workers = &workers;
    CHECK_OK(pf_engine_open(&e, &options));
    world_begin(w, e, s->what);
    CHECK_OK(s->set(w));
}

static bool end(world *w) {
    world_drop(w);
    pf_engine_close(&w->e);
    return strike.memory.blocks == 0 && strike.memory.wrong == 0;
}

static int run(world *w, const scenario *s, long at, bool behind) {
    strike.n = 0, strike.at = at, strike.behind = behind, strike.armed = true;
    int status = s->run(w);
    strike.armed = false;
    return status;
}

static long seen(void) { return strike.n; }

static bool answers(const scenario *s, const course *c, long at, bool behind, int status) {
    (void)c, (void)at;
    if (status >= 0) return strncmp(s->name, "training", 8) == 0;
    const char *text = behind ? "the host's threads failed" : "the pool is full";
    return status == (behind ? OWN : PF_EHOST) && strstr(pf_last_error(), text) != NULL;
}

static const striker refusals = {.point = "job",
                                 .ways = {"before the work", "behind it"},
                                 .most = 60,
                                 .begin = begin,
                                 .run = run,
                                 .seen = seen,
                                 .answers = answers,
                                 .end = end};

int main(int argc, char **argv) {
    pf_engine *e = engine_of(1, 3);
    return sweep_all(&refusals, e, argc > 1 ? argv[1] : NULL);
}
