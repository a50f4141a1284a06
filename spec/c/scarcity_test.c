/*
 * scarcity_test.c - every allocation fails: in each scenario (scenarios.h) the n-th one, once, and
 * the n-th one and all that follow. The work answers PF_ENOMEM with a message, or does without;
 * what stood before is as it was; a second try gives what one gives that nobody struck ([ends.6]);
 * and when the engine has closed not a byte of its allocator's is held ([memory.2]).
 *
 * What the library asks of malloc past the engine's allocator (outside.h) is struck as well, and
 * nothing but the rows of past[] may ask for any ([memory.1]).
 */
#include "host.h"
#include "outside.h"
#include "sweep.h"

/* ---- what strikes ---- */

static struct {
    bool armed, forever;
    long n, at; /* allocations so far, from 1; which one fails, 0: none */
    long live;  /* bytes of the engine's allocator */
} strike;

static bool refuse(void) {
    if (!strike.armed || scenario_asleep > 0) return false;
    long n = ++strike.n;
    sweep_came_by(n);
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

/* Who asks malloc, and why: it is freed where no engine is known. */
static const struct {
    const char *scenario, *why;
} past[] = {
    {"building and reading a config", "plain data of the host's"},
    {"saving a stream", "names for pf_named_free"},
    {"saving a state", "names for pf_named_free"},
    {"saving tensors", "names for pf_named_free"},
    {"loading a checkpoint", "names for pf_named_free"},
    {"saving arrays", "names for pf_named_free"},
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

static bool end(world *w) {
    world_drop(w);
    pf_engine_close(&w->e);
    bool gone = strike.live == 0;
    strike.live = 0;
    return gone;
}

static int run(world *w, const scenario *s, long at, bool forever) {
    arm(at, forever);
    int status = s->run(w);
    disarm();
    return status;
}

static long seen(void) { return strike.n; }

/* Or it did without. */
static bool answers(const scenario *s, const course *c, long at, bool forever, int status) {
    (void)s, (void)c, (void)at, (void)forever;
    return status >= 0 || (status == PF_ENOMEM && pf_last_error()[0]);
}

static void check_past(const scenario *s) {
    if (getenv("PF_SHOW")) fprintf(stderr, "  %ld past the allocator\n", outside.n);
    CHECK(outside.n == 0 || may_pass(s));
}

static const striker allocations = {.point = "allocation",
                                    .ways = {"alone", "and all that follow"},
                                    .most = 200,
                                    .begin = begin,
                                    .run = run,
                                    .seen = seen,
                                    .answers = answers,
                                    .end = end,
                                    .alone = check_past};

int main(int argc, char **argv) {
    return sweep_all(&allocations, open_engine(), argc > 1 ? argv[1] : NULL);
}
