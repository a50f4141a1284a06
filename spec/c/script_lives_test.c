/*
 * script_lives_test.c - scripts come and go, a host's own and strangers', by hundreds (with PF_LONG
 * ten thousand), also such that fail, and the process has no more memory and no more open files at
 * the end than when it had warmed up. lives_test has engines, models, streams and loads.
 */
#include "lives.h"
#include "performer_lua.h"

enum { LIVES = 200, LONG = 10000, WARM = 50 };

static pf_engine *engine;

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
    lives_of(what, one, WARM, getenv("PF_LONG") ? LONG : LIVES);
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
