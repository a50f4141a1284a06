/*
 * stopped_test.c - every look at the cancel flag and at the clock: in each scenario (scenarios.h)
 * the cancel comes at the n-th look, or the time is up there. The work stops with PF_ECANCEL or
 * PF_ELIMIT; what stood before is as it was; a second try gives what one gives that nobody stopped;
 * and when the engine has closed not a byte is held.
 *
 * In LIVING_IN_A_HOST.md: [limits.4], [limits.6].
 */
#include "host.h"
#include "sweep.h"

/* ---- what strikes ---- */

static struct {
    bool cancels;
    long n, at; /* looks so far, from 1; at which one, 0: never */
    atomic_int cancel;
    pf_meter *meter;
    host_memory memory;
} strike;

static void look(void *own) {
    (void)own;
    if (scenario_asleep > 0) return;
    sweep_came_by(++strike.n);
    if (strike.n != strike.at) return;
    if (strike.cancels)
        atomic_store(&strike.cancel, 1);
    else
        atomic_store(&strike.meter->over, PF_OVER_TIME);
}

static void begin(world *w, const scenario *s) {
    pf_options options = host_options(&strike.memory);
    pf_engine *e = NULL;
    options.threads = 1, options.seed = 3;
    options.cancel = &strike.cancel;
    CHECK_OK(pf_engine_open(&e, &options));
    world_begin(w, e, s->what);
    CHECK_OK(s->set(w));
}

static bool end(world *w) {
    world_drop(w);
    pf_engine_close(&w->e);
    return strike.memory.blocks == 0 && strike.memory.wrong == 0;
}

static int run(world *w, const scenario *s, long at, bool cancels) {
    CHECK_OK(pf_meter_open(&strike.meter, w->e, NULL));
    CHECK_OK(pf_meter_enter(strike.meter));
    strike.meter->looked = look;
    strike.n = 0, strike.at = at, strike.cancels = cancels;
    int status = s->run(w);
    atomic_store(&strike.cancel, 0);
    pf_meter_close(&strike.meter);
    return status;
}

static long seen(void) { return strike.n; }

/* Behind its commit a checkpoint is saved, and older ones may stay. */
static bool answers(const scenario *s, const course *c, long at, bool cancels, int status) {
    bool saved = status >= 0 && !strcmp(s->name, "saving a checkpoint") && at > c->n / 4;
    return saved || (status == (cancels ? PF_ECANCEL : PF_ELIMIT) && pf_last_error()[0]);
}

static const striker looks = {.point = "look",
                              .ways = {"time", "cancel"},
                              .most = 120,
                              .begin = begin,
                              .run = run,
                              .seen = seen,
                              .answers = answers,
                              .end = end};

int main(int argc, char **argv) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    CHECK_OK(pf_engine_open(&e, &options));
    return sweep_all(&looks, e, argc > 1 ? argv[1] : NULL);
}
