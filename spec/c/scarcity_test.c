/*
 * scarcity_test.c - every allocation fails: in each scenario (scenarios.h) the n-th one, once, and
 * the n-th one and all that follow. The work answers PF_ENOMEM with a message, or does without;
 * what stood before is as it was; a second try gives what one gives that nobody struck ([ends.6]);
 * and when the engine has closed not a byte of its allocator's is held ([memory.2]).
 *
 * What the library asks of malloc past the engine's allocator (outside.h) is struck as well, and
 * nothing but the rows of past[] may ask for any ([memory.1]). Points of a scenario that has more
 * than POINTS are spread over it, the same in each run; with PF_LONG in the environment all are.
 */
#include "host.h"
#include "outside.h"
#include "scenarios.h"

enum { POINTS = 200 };

/* ---- what strikes ---- */

static struct {
    bool armed, forever;
    long n, at; /* allocations so far, from 1; which one fails, 0: none */
    long live;  /* bytes of the engine's allocator */
} strike;

static bool refuse(void) {
    if (!strike.armed || scenario_asleep > 0) return false;
    long n = ++strike.n;
    return strike.at && (strike.forever ? n >= strike.at : n == strike.at);
}

static void *resize(void *context, void *block, size_t old_bytes, size_t bytes) {
    (void)context;
    if (bytes > old_bytes && refuse()) return NULL;
    strike.live += (long)bytes - (long)old_bytes;
    return outside_resize(block, bytes);
}

static void arm(long at, bool forever) {
    strike.n = 0, strike.at = at, strike.forever = forever, strike.armed = true;
    outside_begin(refuse, &scenario_asleep);
}

static void disarm(void) {
    outside_end();
    strike.armed = false;
}

static pf_engine *open_engine(void) {
    const pf_allocator allocator = {sizeof allocator, resize, NULL};
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.threads = 1, options.seed = 3, options.no_cache = true;
    options.allocator = &allocator;
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

/* ---- a scenario ---- */

/* What one gives that nobody strikes. */
typedef struct {
    uint64_t before, after, result;
    long n, past; /* allocations, and those past the engine's allocator */
} course;

/* Who asks malloc, and why: it is freed where no engine is known. */
static const struct {
    const char *scenario, *why;
} past[] = {
    {"building and reading a config", "plain data of the host's"},
    {"saving a stream", "names for pf_named_free"},
    {"saving a state", "names for pf_named_free"},
    {"saving tensors", "names for pf_named_free"},
    {"loading a checkpoint", "names for pf_named_free"},
    {"restoring a checkpoint", "names for pf_named_free"},
};

static bool may_pass(const scenario *s) {
    for (int i = 0; i < PF_COUNT(past); i++) {
        if (strstr(s->name, past[i].scenario)) return true;
    }
    return false;
}

static void begin(world *w, const scenario *s) {
    world_begin(w, open_engine(), s->what);
    CHECK_OK(s->set(w));
}

static void end(world *w) {
    world_drop(w);
    pf_engine_close(&w->e);
    check_one(strike.live == 0, w->what, __FILE__, __LINE__);
    strike.live = 0;
}

static int struck(world *w, const scenario *s, long at, bool forever) {
    arm(at, forever);
    int status = s->run(w);
    disarm();
    return status;
}

static course undisturbed(world *w, const scenario *s) {
    course c;
    begin(w, s);
    c.before = world_look(w);
    CHECK_OK(struck(w, s, 0, false));
    c.after = world_look(w), c.result = w->result, c.n = strike.n;
    c.past = outside.n;
    end(w);
    return c;
}

static void fault(const scenario *s, long at, bool forever, int status, const char *what) {
    char text[512];
    snprintf(text, sizeof text, "%s, allocation %ld%s: %s (%s: %s)", s->name, at,
             forever ? " and all that follow" : "", what, pf_status_name(status), pf_last_error());
    check_one(0, text, __FILE__, __LINE__);
}

/* Only what fails is said: there are thousands. */
static void try_point(world *w, const scenario *s, const course *c, long at, bool forever) {
    begin(w, s);
    pf_set_error(PF_EHOST, "");
    int status = struck(w, s, at, forever);
    if (status < 0 && (status != PF_ENOMEM || !pf_last_error()[0]))
        fault(s, at, forever, status, "is called something else");
    if (status < 0 && world_look(w) != c->before)
        fault(s, at, forever, status, "what stood before has changed");
    if (status < 0 && s->run(w) < 0) fault(s, at, forever, status, "the second try fails");
    if (w->result != c->result) fault(s, at, forever, status, "another result");
    if (world_look(w) != c->after) fault(s, at, forever, status, "another end");
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
    if (getenv("PF_SHOW"))
        fprintf(stderr, "%-30s %6ld points, %ld past the allocator\n", s->name, same.n, same.past);
    CHECK(same.past == 0 || may_pass(s));
}

int main(int argc, char **argv) {
    world w = {0};
    w.e = open_engine();
    make_files(&w);
    pf_engine_close(&w.e);
    for (int i = 0; i < PF_COUNT(scenarios); i++) {
        if (argc < 2 || strstr(scenarios[i].name, argv[1])) sweep(&w, &scenarios[i]);
    }
    scratch_remove(w.files);
    return CHECK_REPORT();
}
