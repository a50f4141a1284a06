/*
 * closed_test.c - what outlives its engine (performer.h): with one object of every type held, the
 * engine closes. Every public function is called with them: what needs the engine answers
 * PF_ESTATE, in another engine they do no harm, and all can be released, with no byte left.
 * In LIVING_IN_A_HOST.md: [lifetimes.1] [lifetimes.2].
 */
#include "border.h"

#include "border_calls.h"

/* Does the function need the engine that made what it is called with? */
static bool needs_engine(const border_row *row) {
    for (int i = 0; i < row->n; i++) {
        const char *type = row->parameter[i].type;
        if (strstr(type, "pf_engine *") && !strstr(type, "**")) return true;
        if (strstr(type, "pf_stream *") && !strstr(type, "**")) return true;
        if (strstr(type, "pf_tape *") && !strstr(type, "**")) return true;
        if (strstr(type, "pf_script *") && !strstr(type, "**")) return true;
    }
    return false;
}

static bool is_refused(const border_row *row) {
    return row->kind == BORDER_STATUS && needs_engine(row) && !border_frees(row);
}

static int call_refused(const border_row *row) {
    if (!is_refused(row)) return 0;
    border_answer answer = row->call(-1);
    if (answer.status == PF_ESTATE && strstr(pf_last_error(), "has closed")) return 0;
    border_fail(pf_status_name(answer.status));
    border_fail(pf_last_error());
    return 1;
}

static int call_closed(const border_row *row) {
    if (!border_frees(row) && !is_refused(row)) row->call(-1);
    return 0;
}

static int call_elsewhere(const border_row *row) {
    if (!border_frees(row)) row->call(-1);
    return 0;
}

static void call_all(int (*test)(const border_row *row)) {
    for (size_t i = 0; i < sizeof border_rows / sizeof *border_rows; i++) {
        border_run(&border_rows[i], test);
    }
}

/* A bound Lua state has no object of the engine's, and keeps its husk. */
static void test_bound_state(void) {
    pf_engine *e = border_engine();
    lua_State *lua = luaL_newstate();
    luaL_openlibs(lua);
    CHECK(pf_script_bind(lua, e, NULL) == PF_OK);
    lua_setglobal(lua, "pf");
    CHECK(luaL_dostring(lua, "t = pf.ones(3)  return (t + t):sum():item()") == LUA_OK);
    pf_engine_close(&e);
    const char *calls[] = {"return pf.ones(3)",   "return t + t",
                           "return pf.tape()",    "return pf.memory()",
                           "pf.seed(1)",          "return tostring(t)",
                           "return pf.info()",    "return pf.nn.linear { from = 1, to = 2 }",
                           "return pf.describe()"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        bool failed = luaL_dostring(lua, calls[i]) != LUA_OK;
        if (i < 3) CHECK(failed && strstr(lua_tostring(lua, -1), "its engine has closed"));
    }
    lua_close(lua);
}

int main(void) {
    border_open();
    pf_engine *engine = B.engine, *kept = pf_engine_retain(B.engine);
    CHECK(!pf_engine_closed(kept));
    pf_engine_close(&engine);
    pf_engine_close(&kept); /* a second time, through another pointer */
    kept = B.engine;
    CHECK(pf_engine_closed(kept));
    border_run_all(border_rows, sizeof border_rows / sizeof *border_rows, call_refused);
    call_all(call_closed);
    B.engine = border_engine();
    call_all(call_elsewhere);
    pf_engine_close(&B.engine);
    border_close();
    CHECK_FAILS(PF_ESTATE, pf_tape_open(&B.tape, kept)); /* of which nothing else is left */
    pf_engine_release(&kept);
    CHECK(!kept);
    test_bound_state();
    return CHECK_REPORT();
}
