/*
 * lpf_open.c - performer.core: every class and function of the binding in one table, which
 * performer/init.lua assembles into the module that users see.
 */
#include "bounded.h"
#include "lpf.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ---- the engine --------------------------------------------------------------- */

/* seed(number): random numbers begin anew from it; a stranger's are its own, also where its layer
 * runs in a model of the host's and draws the host's. */
static int core_seed(lua_State *L) {
    const uint64_t seed = (uint64_t)lpf_check_whole(L, 1, "seed", "the seed");
    pf_engine *engine = lpf_engine(L);
    pf_random *before = pf_engine_lend_random(engine, lpf_enter(L)->random);
    pf_seed(engine, seed);
    pf_engine_lend_random(engine, before);
    return 0;
}

/* "live 12.3 MB, peak 40.0 MB" */
static int memory_text(lua_State *L) {
    lua_getfield(L, 1, "live");
    lua_getfield(L, 1, "peak");
    char text[96];
    snprintf(text, sizeof text, "live %.1f MB, peak %.1f MB", lua_tonumber(L, -2) / 1048576,
             lua_tonumber(L, -1) / 1048576);
    lua_pushstring(L, text);
    return 1;
}

/* What the engine holds; a stranger sees what is its own, Lua's objects too. */
static void memory_of(lua_State *L, size_t *live, size_t *peak) {
    pf_engine *engine = lpf_engine(L);
    const lpf_context *ctx = lpf_enter(L);
    pf_usage own = {.size = sizeof own};
    pf_engine_memory(engine, live, peak);
    if (!ctx->stranger) return;
    lpf_result(L, pf_meter_usage(ctx->meter, &own));
    *live = own.bytes;
    *peak = own.peak;
}

/* memory(): {live, peak} in bytes. */
static int core_memory(lua_State *L) {
    size_t live, peak;
    memory_of(L, &live, &peak);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, (lua_Integer)live);
    lua_setfield(L, -2, "live");
    lua_pushinteger(L, (lua_Integer)peak);
    lua_setfield(L, -2, "peak");
    if (luaL_newmetatable(L, "performer.memory")) {
        lua_pushcfunction(L, memory_text);
        lua_setfield(L, -2, "__tostring");
    }
    lua_setmetatable(L, -2);
    return 1;
}

/* reset_peak(): the highest mark begins anew at what is held now. */
static int core_reset_peak(lua_State *L) {
    pf_engine_reset_peak(lpf_engine(L));
    return 0;
}

/* info(): {live, peak, threads, seed, cpu, cpu_name, blas, version}. */
static int core_info(lua_State *L) {
    pf_info info = {.size = sizeof info};
    size_t live, peak;
    pf_engine_info(lpf_engine(L), &info);
    memory_of(L, &live, &peak);
    lua_newtable(L);
    lua_pushinteger(L, (lua_Integer)live);
    lua_setfield(L, -2, "live");
    lua_pushinteger(L, (lua_Integer)peak);
    lua_setfield(L, -2, "peak");
    lua_pushinteger(L, info.threads);
    lua_setfield(L, -2, "threads");
    lua_pushinteger(L, (lua_Integer)info.seed);
    lua_setfield(L, -2, "seed");
    lua_pushstring(L, info.cpu_name);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "cpu_name");
    lua_setfield(L, -2, "cpu");
    lua_pushstring(L, info.blas);
    lua_setfield(L, -2, "blas");
    lua_pushstring(L, pf_version());
    lua_setfield(L, -2, "version");
    return 1;
}

static int core_clock(lua_State *L) {
    lua_pushnumber(L, pf_clock());
    return 1;
}

/* bench_gemm(m, n, k, ta, tb, repeats): median seconds of one product on one thread. */
static int core_bench_gemm(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    double seconds = 0;
    const int64_t m = lpf_check_whole(L, 1, "bench_gemm", "m"),
                  n = lpf_check_whole(L, 2, "bench_gemm", "n"),
                  k = lpf_check_whole(L, 3, "bench_gemm", "k"),
                  repeats = lpf_opt_whole(L, 6, "bench_gemm", "repeats", 5);
    lpf_result(L, pf_bench_gemm(engine, m, n, k, lua_toboolean(L, 4) != 0, lua_toboolean(L, 5) != 0,
                                (int)repeats, &seconds));
    lua_pushnumber(L, seconds);
    return 1;
}

/* True once the user has asked to stop; asking makes the first Ctrl-C the script's own. */
static int core_interrupted(lua_State *L) {
    atomic_store(&lpf_polled, 1);
    lua_pushboolean(L, atomic_load(&lpf_interrupts) > 0);
    return 1;
}

/* stopped(): the program was told to end the script, and no longer waits for it to ask. */
static int core_stopped(lua_State *L) {
    lua_pushboolean(L, atomic_load(&lpf_stopping) > 0);
    return 1;
}

/* careful(): the script looks at what comes of its writes; a reader that goes away doesn't end
 * it. */
static int core_careful(lua_State *L) {
    (void)L;
    atomic_store(&lpf_careful, 1);
    return 0;
}

/* ---- for the Lua files -------------------------------------------------------- */

/* raise(message): with the position of the caller outside the binding. */
static int core_raise(lua_State *L) {
    luaL_checkstring(L, 1);
    lua_settop(L, 1);
    return lpf_raise_message(L);
}

/* check_text(value, where, what): for paths that Lua opens. */
static int core_check_text(lua_State *L) {
    lpf_check_text(L, 1, luaL_checkstring(L, 2), luaL_checkstring(L, 3));
    return 0;
}

/* nearest(word, names) or nil */
static int core_nearest(lua_State *L) {
    const char *word = luaL_checkstring(L, 1), *names[256];
    int n = 0;
    luaL_checktype(L, 2, LUA_TTABLE);
    while (n < 256 && lua_rawgeti(L, 2, n + 1) == LUA_TSTRING)
        names[n++] = lua_tostring(L, -1), lua_pop(L, 1);
    lua_pushstring(L, pf_nearest(word, names, n));
    return 1;
}

/* home(directory): where the binding's own Lua files lie. */
static int core_home(lua_State *L) {
    const char *home = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "performer.home"); /* where it stays */
    bounded_home(bounded_of(L), home);
    return 0;
}

/* kind(value): "tensor", "module", "state", ... of this binding, else Lua's type. */
static int core_kind(lua_State *L) {
    luaL_checkany(L, 1);
    const char *kind = lpf_class_of(L, 1);
    lua_pushstring(L, strncmp(kind, "performer.", 10) == 0 ? kind + 10 : kind);
    return 1;
}

/* methods(class): the table of its methods, for those that are written in Lua. */
static int core_methods(lua_State *L) {
    luaL_getmetatable(L, luaL_checkstring(L, 1));
    luaL_checktype(L, -1, LUA_TTABLE);
    lua_getfield(L, -1, "methods");
    return 1;
}

/* set_words(class, {word = advice}): what lpf_find_method says of words of other libraries. */
static int core_set_words(lua_State *L) {
    luaL_getmetatable(L, luaL_checkstring(L, 1));
    luaL_checktype(L, -1, LUA_TTABLE);
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "words");
    return 0;
}

/* set_hint(function, function): what lpf_hint asks, and lpf_result of a wrong choice. */
static int core_set_hint(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, LPF_HINT_CHOICE);
    lua_setfield(L, LUA_REGISTRYINDEX, LPF_HINT);
    return 0;
}

/* set_tostring(class, function) */
static int core_set_tostring(lua_State *L) {
    luaL_getmetatable(L, luaL_checkstring(L, 1));
    luaL_checktype(L, -1, LUA_TTABLE);
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "__tostring");
    return 0;
}

/* ---- terminals ---------------------------------------------------------------- */

/* isatty([fd = 2]) */
static int term_isatty(lua_State *L) {
    lua_pushboolean(L, isatty((int)luaL_optinteger(L, 1, 2)));
    return 1;
}

/* width([fd = 2]): columns; COLUMNS, or 80, where there is no terminal. */
static int term_width(lua_State *L) {
    struct winsize size;
    int width = 0;
    if (ioctl((int)luaL_optinteger(L, 1, 2), TIOCGWINSZ, &size) == 0) width = size.ws_col;
    const char *columns = getenv("COLUMNS");
    if (width <= 0 && columns) width = atoi(columns);
    lua_pushinteger(L, width > 0 ? width : 80);
    return 1;
}

/* colour([fd = 2]): may escapes be written there? */
static int term_colour(lua_State *L) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    const bool dumb = !term || !*term || strcmp(term, "dumb") == 0;
    lua_pushboolean(L, isatty((int)luaL_optinteger(L, 1, 2)) && !(no && *no) && !dumb);
    return 1;
}

bool lpf_no_reader(int fd) {
    struct pollfd end = {.fd = fd};
    return poll(&end, 1, 0) > 0 && (end.revents & (POLLERR | POLLHUP)) != 0;
}

/* gone(fd): does nobody read there any more? */
static int term_gone(lua_State *L) {
    lua_pushboolean(L, lpf_no_reader((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* plain(text [, lines]): what can be shown of it (lpf_plain). */
static int term_plain(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    const bool lines = lua_toboolean(L, 2) != 0;
    char *copy = lua_newuserdatauv(L, n + 1, 0);
    for (size_t i = 0; i <= n; i++) copy[i] = text[i] || i == n ? text[i] : '?';
    lpf_plain(copy, lines);
    lua_pushlstring(L, copy, n);
    return 1;
}

static const luaL_Reg terminal[] = {{"isatty", term_isatty}, {"width", term_width},
                                    {"colour", term_colour}, {"gone", term_gone},
                                    {"plain", term_plain},   {NULL, NULL}};

static const luaL_Reg functions[] = {{"open", lpf_open_engine},
                                     {"limit", lpf_limit},
                                     {"seed", core_seed},
                                     {"memory", core_memory},
                                     {"reset_peak", core_reset_peak},
                                     {"info", core_info},
                                     {"clock", core_clock},
                                     {"bench_gemm", core_bench_gemm},
                                     {"interrupted", core_interrupted},
                                     {"stopped", core_stopped},
                                     {"careful", core_careful},
                                     {"raise", core_raise},
                                     {"check_text", core_check_text},
                                     {"nearest", core_nearest},
                                     {"home", core_home},
                                     {"kind", core_kind},
                                     {"methods", core_methods},
                                     {"set_tostring", core_set_tostring},
                                     {"set_words", core_set_words},
                                     {"set_hint", core_set_hint},
                                     {NULL, NULL}};

/* Classes come before what adds methods to them: tensors before ops and operators, modules before
 * states. */
int luaopen_performer_core(lua_State *L) {
    luaL_checkversion(L);
    lpf_enter(L);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    lua_pushstring(L, pf_version());
    lua_setfield(L, -2, "version");
    luaL_newlib(L, terminal);
    lua_setfield(L, -2, "term");
    lpf_open_tensor(L);
    lpf_open_make(L);
    lpf_open_create(L);
    lua_newtable(L); /* ops have names of their own: max, load ... */
    lpf_open_ops(L);
    lua_setfield(L, -2, "op");
    lpf_open_describe(L);
    lpf_open_arith(L);
    lpf_open_index(L);
    lpf_open_config(L);
    lpf_open_tape(L);
    lpf_open_recompute(L);
    lpf_open_kernel(L);
    lpf_open_attention(L);
    lpf_open_survey(L);
    lpf_open_nn(L);
    lpf_open_define(L);
    lpf_open_layer(L);
    lpf_open_state(L);
    lpf_open_stream(L);
    lpf_open_serving(L);
    lpf_open_items(L);
    lpf_open_train(L);
    lpf_open_io(L);
    lpf_open_file(L);
    lpf_open_data(L);
    lpf_open_comm(L);
    lpf_open_comm_files(L);
    return 1;
}

/* ---- performer.so by itself ---------------------------------------------------- */

/* Pushes the folder of the Lua files of a performer.so in the folder at the top: beside it, or
 * where an installation has them (lib/lua/5.4, or with the machine's name between). */
static const char *push_home(lua_State *L, const char *dir) {
    static const char *const places[] = {"", "/../../../share/lua/5.4",
                                         "/../../../../share/lua/5.4"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *init = lua_pushfstring(L, "%s%s/performer/init.lua", dir, places[i]);
        const bool there = access(init, R_OK) == 0;
        lua_pop(L, 1);
        if (there) return lua_pushfstring(L, "%s%s", dir, places[i]);
    }
    luaL_error(L,
               "performer: no performer/init.lua beside %s/performer.so, nor in "
               "share/lua/5.4 of its prefix; give it by LUA_PATH",
               dir);
    return NULL;
}

/* For a cpath that finds performer.so without a path for the Lua files (require passes the file's
 * name as the second argument). */
int luaopen_performer(lua_State *L) {
    const char *file = luaL_optstring(L, 2, ""), *slash = strrchr(file, '/');
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_performer_core);
    lua_setfield(L, -2, "performer.core");
    const char *dir = slash ? lua_pushlstring(L, file, (size_t)(slash - file)) : ".";
    const char *home = push_home(L, dir);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", home, home, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    const char *init = lua_pushfstring(L, "%s/performer/init.lua", home);
    if (luaL_loadfile(L, init) != LUA_OK) return lua_error(L);
    lua_pushliteral(L, "performer");
    lua_pushstring(L, init);
    lua_call(L, 2, 1);
    return 1;
}
