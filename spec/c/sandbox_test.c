/*
 * sandbox_test.c - Lua states within an engine's limits (bindings/bounded.h): every byte is paid
 * for, not one is given beyond the budget, what is over stays over until the host begins anew, and
 * every allocation may fail.
 */
#include <lauxlib.h>
#include <lualib.h>

#include "bounded.h"
#include "check.h"
#include "performer.h"
#include "scarce.h"

enum { MEGABYTE = 1 << 20 };

/* A bounded state on an engine whose allocator counts what is really held. */
typedef struct {
    scarce heap;
    pf_engine *engine;
    pf_meter *meter;
    bounded *b;
    lua_State *L;
} world;

static int libraries(lua_State *L) {
    luaL_openlibs(L);
    lua_pushcfunction(L, bounded_libraries);
    lua_call(L, 0, 0);
    return 0;
}

static int open_state(world *w, unsigned flags) {
    int status = bounded_open(&w->b, w->engine, w->meter, flags);
    if (status < 0) return status;
    w->L = lua_newstate(bounded_resize, w->b);
    if (!w->L) return PF_ENOMEM;
    status = bounded_watch(w->L, w->b);
    if (status < 0) return status;
    lua_pushcfunction(w->L, libraries);
    return lua_pcall(w->L, 0, 0, 0) == LUA_OK ? PF_OK : PF_ENOMEM;
}

static void close_state(world *w) {
    if (w->L) lua_close(w->L);
    w->L = NULL;
    bounded_close(&w->b);
}

static void begin(world *w, const pf_limits *limits) {
    memset(w, 0, sizeof *w);
    w->engine = scarce_engine(&w->heap);
    CHECK_OK(pf_meter_open(&w->meter, w->engine, limits));
    CHECK_OK(pf_meter_enter(w->meter));
}

static void end(world *w) {
    close_state(w);
    pf_usage usage = {.size = sizeof usage};
    CHECK_OK(pf_meter_usage(w->meter, &usage));
    CHECK(usage.bytes == 0); /* all that was paid for came back */
    pf_meter_close(&w->meter);
    pf_engine_close(&w->engine);
    CHECK(w->heap.live == 0);
}

static int run(world *w, const char *text) {
    bounded_begin(w->b);
    return luaL_loadstring(w->L, text) || lua_pcall(w->L, 0, 0, 0);
}

static size_t lua_bytes(lua_State *L) {
    return (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB);
}

/* ---- bytes -------------------------------------------------------------------- */

/* What the meter counts is what Lua counts, to the byte: of a new object Lua tells its kind where
 * the old length stands, and who takes that for a length counts too little. */
static void test_count(void) {
    world w;
    begin(&w, NULL);
    CHECK_OK(open_state(&w, 0));
    const char *const texts[] = {"kept = {} for i = 1, 1000 do kept[i] = {} end",
                                 "for i = 1, 1000 do kept[i] = 'text ' .. i end",
                                 "for i = 1, 100 do kept[i] = function() return i end end",
                                 "for i = 1, 100 do kept[i] = coroutine.create(print) end",
                                 "kept = ('x'):rep(100000)",
                                 "kept = nil collectgarbage()"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK(run(&w, texts[i]) == LUA_OK);
        pf_usage usage = {.size = sizeof usage};
        CHECK_OK(pf_meter_usage(w.meter, &usage));
        CHECK(usage.bytes == lua_bytes(w.L));
    }
    end(&w);
}

/* Not a byte more. */
static void test_budget(void) {
    static const char *const texts[] = {
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do pcall(function() t[#t + 1] = {} end) end",
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end"};
    const pf_limits limits = {.size = sizeof limits, .bytes = 2 * MEGABYTE};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        world w;
        begin(&w, &limits);
        CHECK_OK(open_state(&w, BOUNDED_FIRM));
        CHECK(run(&w, texts[i]) != LUA_OK);
        CHECK(bounded_over(w.b) == PF_ENOMEM && bounded_why(w.b)[0]);
        pf_usage usage = {.size = sizeof usage};
        CHECK_OK(pf_meter_usage(w.meter, &usage));
        CHECK(usage.peak <= limits.bytes && usage.peak > limits.bytes / 2);
        end(&w);
    }
}

/* Strangers have a bound of their own on a text, and on Lua's objects. */
static void test_stranger(void) {
    world w;
    begin(&w, NULL);
    CHECK_OK(open_state(&w, BOUNDED_STRANGER));
    CHECK(run(&w, "kept = ('x'):rep(4 * 1000 * 1000)") == LUA_OK);
    CHECK(run(&w, "kept = ('x'):rep(5 * 1024 * 1024)") != LUA_OK);
    CHECK(bounded_over(w.b) == PF_ENOMEM && strstr(bounded_why(w.b), "4 MB"));
    CHECK(run(&w, "kept = {} for i = 1, 18 do kept[i] = ('x'):rep(4000000) .. i end") != LUA_OK);
    CHECK(bounded_over(w.b) == PF_ENOMEM && strstr(bounded_why(w.b), "64 MB"));
    CHECK(run(&w, "kept = nil") == LUA_OK && bounded_over(w.b) == PF_OK);
    end(&w);
}

/* ---- over --------------------------------------------------------------------- */

static void test_sticky(void) {
    const pf_limits limits = {.size = sizeof limits, .work = 1000 * 1000};
    world w;
    begin(&w, NULL);
    CHECK_OK(open_state(&w, 0));
    CHECK_OK(pf_meter_limit(w.meter, &limits));
    CHECK(run(&w, "caught = 0 while true do pcall(function() while true do end end) "
                  "caught = caught + 1 end") != LUA_OK);
    CHECK(bounded_over(w.b) == PF_ELIMIT && strstr(bounded_why(w.b), "1000000"));
    lua_getglobal(w.L, "caught");
    CHECK(lua_tointeger(w.L, -1) == 0); /* not even the next instruction */
    lua_pop(w.L, 1);
    /* Until the host sets bounds anew, nothing goes on; then all of it does. */
    CHECK(run(&w, "for i = 1, 1000 do caught = i end") != LUA_OK);
    CHECK_OK(pf_meter_limit(w.meter, NULL));
    CHECK(run(&w, "for i = 1, 1000 do caught = i end") == LUA_OK);
    CHECK(bounded_over(w.b) == PF_OK);
    end(&w);
}

/* A pattern pays for its steps, whatever the lengths. */
static void test_work(void) {
    static const char *const texts[] = {
        "string.find(('a'):rep(1e5), ('.-'):rep(30) .. 'b')", "table.move({}, 1, 1 << 50, 2)",
        "table.concat(setmetatable({}, {__index = rawlen, __len = function() return 1 << 60 end}))",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.sort(t, math.ult) end"};
    const pf_limits limits = {.size = sizeof limits, .work = 3000 * 1000};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        world w;
        begin(&w, NULL);
        CHECK_OK(open_state(&w, 0));
        CHECK_OK(pf_meter_limit(w.meter, &limits));
        CHECK(run(&w, texts[i]) != LUA_OK);
        CHECK(bounded_over(w.b) == PF_ELIMIT);
        pf_usage usage = {.size = sizeof usage};
        CHECK_OK(pf_meter_usage(w.meter, &usage));
        CHECK(usage.work < limits.work + limits.work / 10);
        end(&w);
    }
}

/* What a text costs to read piece by piece is what it costs to read at once, about. */
static void test_pieces(void) {
    static const char *const texts[] = {
        "local at = 1 while at < #s do _, at = string.unpack('<i4', s, at) end",
        "local at = 1 while at < #s do _, at = string.unpack('z', s, at) end",
        "local at = 1 while at < #s do _, _, at = string.unpack('<I1c3', s, at) end",
        "for at = 1, #s, 4 do utf8.len(s, at, at + 3) end"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        uint64_t work[2];
        for (int long_one = 0; long_one < 2; long_one++) {
            world w;
            pf_usage usage = {.size = sizeof usage};
            begin(&w, NULL);
            CHECK_OK(open_state(&w, 0));
            CHECK(run(&w, long_one ? "s = ('abc\\0'):rep(40000)" : "s = ('abc\\0'):rep(10000)") ==
                  LUA_OK);
            CHECK_OK(pf_meter_limit(w.meter, NULL));
            CHECK(run(&w, texts[i]) == LUA_OK);
            CHECK_OK(pf_meter_usage(w.meter, &usage));
            work[long_one] = usage.work;
            end(&w);
        }
        CHECK(work[1] > 3 * work[0] && work[1] < 5 * work[0]);
    }
}

/* A text without the zero that is looked for is read to its end, and paid for. */
static void test_unfinished(void) {
    world w;
    pf_usage usage = {.size = sizeof usage};
    begin(&w, NULL);
    CHECK_OK(open_state(&w, 0));
    CHECK(run(&w, "s = ('x'):rep(1 << 20)") == LUA_OK);
    CHECK_OK(pf_meter_limit(w.meter, NULL));
    CHECK(run(&w, "for _ = 1, 10 do assert(not pcall(string.unpack, 'z', s)) end") == LUA_OK);
    CHECK_OK(pf_meter_usage(w.meter, &usage));
    CHECK(usage.work > 10 * (1 << 20) / BOUNDED_BYTES);
    end(&w);
}

/* ---- every allocation --------------------------------------------------------- */

static const char scenario[] =
    "local t = {} for i = 1, 20 do t[i] = ('%d'):format(i) .. i end\n"
    "assert(#table.concat(t, ',') > 20) table.sort(t)\n"
    "assert(('abc'):gsub('%w', '%0%0') == 'aabbcc' and ('x y'):match '(%w) (%w)' == 'x')\n"
    "for a in ('a b'):gmatch '%w' do assert(a) end\n"
    "local co = coroutine.wrap(function(...) local x <close> = setmetatable({}, {__close = "
    "function() end}) coroutine.yield(...) end) assert(co(5) == 5) co()\n"
    "assert(xpcall(function() return 1 end, print)) assert(load 'return 1'() == 1)\n"
    "assert(not xpcall(error, function(m) return {m} end))\n"
    "kept = t";

/* Out of memory at call `at` from here on: it is said, and nothing stays. true: it came through. */
static bool fail_at(int64_t at) {
    world w;
    begin(&w, NULL);
    scarce_begins(&w.heap, at);
    int status = open_state(&w, BOUNDED_STRANGER);
    if (status >= 0 && run(&w, scenario) != LUA_OK) status = PF_ENOMEM;
    CHECK(status == PF_OK || status == PF_ENOMEM);
    const bool failed = w.heap.calls > at;
    CHECK((status == PF_ENOMEM) <= failed);
    scarce_ends(&w.heap);
    if (status >= 0 && !bounded_over(w.b)) CHECK(run(&w, scenario) == LUA_OK);
    end(&w);
    return !failed;
}

static void test_scarcity(bool every) {
    int64_t at = 0;
    while (!fail_at(at)) at += every ? 1 : 1 + at / 25;
    CHECK(at > 300);
}

int main(int argc, char **argv) {
    test_count();
    test_budget();
    test_stranger();
    test_sticky();
    test_work();
    test_pieces();
    test_unfinished();
    test_scarcity((argc > 1 && strcmp(argv[1], "--long") == 0) || getenv("PF_LONG"));
    return CHECK_REPORT();
}
