/*
 * stopped_test.c - every look at the cancel flag and at the clock: in each scenario (scenarios.h)
 * the cancel comes at the n-th look, or the time is up there. The work stops with PF_ECANCEL or
 * PF_ELIMIT; what stood before is as it was; a second try gives what one gives that nobody stopped;
 * and when the engine has closed not a byte is held.
 *
 * In LIVING_IN_A_HOST.md: [limits.4], [limits.6].
 *
 * Looks of a scenario that has more than POINTS are spread over it, the same in each run; with
 * PF_LONG in the environment all are struck.
 */
#include "host.h"
#include "scenarios.h"

enum { POINTS = 120 };

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
    if (scenario_asleep > 0 || ++strike.n != strike.at) return;
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

static void end(world *w) {
    world_drop(w);
    pf_engine_close(&w->e);
    bool gone = strike.memory.blocks == 0 && strike.memory.wrong == 0;
    check_one(gone, w->what ? w->what : "bytes are held", __FILE__, __LINE__);
}

static int struck(world *w, const scenario *s, long at, bool cancels) {
    CHECK_OK(pf_meter_open(&strike.meter, w->e, NULL));
    CHECK_OK(pf_meter_enter(strike.meter));
    strike.meter->looked = look;
    strike.n = 0, strike.at = at, strike.cancels = cancels;
    int status = s->run(w);
    atomic_store(&strike.cancel, 0);
    pf_meter_close(&strike.meter);
    return status;
}

/* ---- a scenario ---- */

/* What one gives that nobody stops. */
typedef struct {
    uint64_t before, after, result;
    long n;
} course;

static course undisturbed(world *w, const scenario *s) {
    course c;
    begin(w, s);
    c.before = world_look(w);
    CHECK_OK(struck(w, s, 0, false));
    c.after = world_look(w), c.result = w->result, c.n = strike.n;
    end(w);
    return c;
}

static void fault(const scenario *s, long at, bool cancels, int status, const char *what) {
    char text[512];
    snprintf(text, sizeof text, "%s, look %ld, %s: %s (%s: %s)", s->name, at,
             cancels ? "cancel" : "time", what, pf_status_name(status), pf_last_error());
    check_one(0, text, __FILE__, __LINE__);
}

/* Only what fails is said: there are thousands. */
static void try_point(world *w, const scenario *s, const course *c, long at, bool cancels) {
    begin(w, s);
    pf_set_error(PF_EHOST, "");
    int status = struck(w, s, at, cancels);
    /* Behind its commit a checkpoint is saved, and older ones may stay. */
    bool saved = status >= 0 && !strcmp(s->name, "saving a checkpoint") && at > c->n / 4;
    if (!saved && (status != (cancels ? PF_ECANCEL : PF_ELIMIT) || !pf_last_error()[0]))
        fault(s, at, cancels, status, "does not stop");
    if (status < 0 && world_look(w) != c->before)
        fault(s, at, cancels, status, "what stood before has changed");
    if (status < 0 && s->run(w) < 0) fault(s, at, cancels, status, "the second try fails");
    if (w->result != c->result) fault(s, at, cancels, status, "another result");
    if (world_look(w) != c->after) fault(s, at, cancels, status, "another end");
    end(w);
}

static void sweep(world *w, const scenario *s) {
    course c = undisturbed(w, s), same = undisturbed(w, s);
    CHECK(same.before == c.before && same.after == c.after && same.result == c.result);
    long all = 2 * same.n, points = getenv("PF_LONG") || all < POINTS ? all : POINTS;
    int failed = check_failed;
    for (long i = 0; i < points && check_failed < failed + 8; i++) {
        long point = i * all / points;
        try_point(w, s, &same, point / 2 + 1, point % 2);
    }
    check_one(check_failed == failed, s->name, __FILE__, __LINE__);
    if (getenv("PF_SHOW")) fprintf(stderr, "%-30s %6ld looks\n", s->name, same.n);
}

int main(int argc, char **argv) {
    world w = {0};
    pf_options options = PF_OPTIONS_DEFAULT;
    CHECK_OK(pf_engine_open(&w.e, &options));
    make_files(&w);
    pf_engine_close(&w.e);
    for (int i = 0; i < PF_COUNT(scenarios); i++) {
        if (argc < 2 || strstr(scenarios[i].name, argv[1])) sweep(&w, &scenarios[i]);
    }
    scratch_remove(w.files);
    return CHECK_REPORT();
}
