/*
 * script_lives_test.c - scripts come and go, a host's own and strangers', by hundreds (with PF_LONG
 * ten thousand), also such that fail, and the process has no more memory and no more open files at
 * the end than when it had warmed up. lives_test has engines, models, streams and loads.
 */
#include <fcntl.h>
#include <unistd.h>

#include "check.h"
#include "performer_lua.h"

enum { LIVES = 200, LONG = 10000, WARM = 50, SPARE = 1 << 20 };

static pf_engine *engine;

static long resident(void) {
    long pages = 0, all = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%ld %ld", &all, &pages) == 2);
    if (f) fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static int descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 64; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Loads a text that calls into tensors, and calls a function of it. */
static void live_with(const pf_script_options *options, const char *text, int expected) {
    pf_script *s = NULL;
    pf_value result = {0};
    CHECK_OK(pf_script_open(&s, engine, options));
    int status = pf_script_load(s, "life", text, strlen(text));
    if (status >= 0) status = pf_script_call(s, "f", NULL, 0, &result, 1, NULL);
    CHECK(expected < 0 ? status < 0 : status >= 0);
    pf_value_clear(&result);
    pf_script_close(&s);
}

static const char good[] = "local pf = require and require 'performer' or pf\n"
                           "function f() return pf.ones(8):sum() end";
static const char bad[] = "local t = {} for i = 1, 100 do t[i] = ('x'):rep(i) end error('no')";

static void live_script(void) { live_with(NULL, good, 1); }
static void live_failed(void) { live_with(NULL, bad, -1); }

static void live_stranger(void) {
    pf_script_options options = {.size = sizeof options, .sandbox = true};
    live_with(&options, bad, -1);
}

static void live(const char *what, void (*one)(void)) {
    int lives = getenv("PF_LONG") ? LONG : LIVES;
    for (int i = 0; i < WARM; i++) one();
    long before = resident();
    int files = descriptors();
    for (int i = 0; i < lives; i++) one();
    long grown = resident() - before;
    if (grown > SPARE) fprintf(stderr, "  %s: %ld bytes more\n", what, grown);
    CHECK(grown <= SPARE && descriptors() == files);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    live("scripts", live_script);
    live("scripts that fail", live_failed);
    live("strangers' scripts", live_stranger);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
