/*
 * script_latency_test.c - how often a stranger's script is looked at by a deadline, or a cancel:
 * the looks of single instructions and single calls of library functions on what is as large as a
 * sandbox lets it be. Between two looks lies a tenth of a second at most, so that what a row does
 * once takes a number of them, which its line says: a stretch that goes on without a look is
 * missing from the count, on any machine. PF_SHOW in the environment tells the looks and the
 * longest stretch of processor time, an argument chooses rows by a part of their names.
 *
 * In LIVING_IN_A_HOST.md: [limits.5].
 */
#include <time.h>

#include "meter.h"
#include "script_latency_rows.h"
#include "script_support.h"

enum { ENOUGH = 100 }; /* looks, after which a row ends */

static struct {
    double last, gap;
    long looks;
    pf_meter *meter;
} seen;

static double cpu(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void look(void *own) {
    (void)own;
    if (++seen.looks == ENOUGH) atomic_store(&seen.meter->over, PF_OVER_TIME);
    if (!getenv("PF_SHOW")) return;
    const double now = cpu();
    if (now - seen.last > seen.gap) seen.gap = now - seen.last;
    seen.last = now;
}

static int watched(pf_engine *engine, pf_script *script, const char *text) {
    CHECK_OK(pf_meter_open(&seen.meter, engine, NULL));
    CHECK_OK(pf_meter_enter(seen.meter));
    seen.meter->looked = look;
    seen.looks = 0, seen.gap = 0, seen.last = cpu();
    const int status = load(script, text);
    const double rest = cpu() - seen.last;
    if (rest > seen.gap) seen.gap = rest;
    pf_meter_close(&seen.meter);
    return status;
}

/* A row that a limit of its own stops goes on behind it. */
static int run_row(pf_engine *engine, pf_script *script, const char *text) {
    char loop[1024];
    snprintf(loop, sizeof loop,
             "done = 0 local function go() %s end while true do pcall(go) done = done + 1 end",
             text);
    return watched(engine, script, loop);
}

static long done_of(pf_script *script) {
    pf_value done = {0};
    CHECK_OK(pf_script_get(script, "done", &done));
    const long n = done.kind == PF_VALUE_INTEGER ? (long)done.as.integer : 0;
    pf_value_clear(&done);
    return n;
}

static void count(pf_engine *engine, size_t i) {
    const pf_script_options options = {.size = sizeof options, .sandbox = true};
    pf_script *s = NULL;
    CHECK_OK(pf_script_open(&s, engine, &options));
    CHECK_OK(load(s, "pf = require 'performer'"));
    if (rows[i].make) CHECK_OK(load(s, rows[i].make));
    const int status = run_row(engine, s, rows[i].text);
    const long looks = seen.looks, done = done_of(s);
    if (getenv("PF_SHOW"))
        fprintf(stderr, "%-32s %7.1f ms %5ld looks at %ld\n", rows[i].name, 1e3 * seen.gap, looks,
                done);
    if (status != PF_ELIMIT && status != PF_ENOMEM)
        fprintf(stderr, "  %s: %s\n", pf_status_name(status), pf_script_error());
    check_one(status == PF_ELIMIT || status == PF_ENOMEM, rows[i].name, __FILE__, __LINE__);
    check_one(looks >= rows[i].looks * done, rows[i].name, __FILE__, __LINE__);
    pf_script_close(&s);
}

int main(int argc, char **argv) {
    pf_engine *engine = new_engine();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (argc < 2 || strstr(rows[i].name, argv[1])) count(engine, i);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
