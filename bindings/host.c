/* host.c - see host.h. Nothing here prints or exits. */
#include "host.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <lauxlib.h>

#include "lpf.h"

/* ---- places ------------------------------------------------------------------- */

static bool fits(char out[LPF_PATH], const char *from, const char *rest) {
    const int n = snprintf(out, LPF_PATH, "%s/%s", from, rest);
    return n > 0 && n < LPF_PATH;
}

bool lpf_has_files(const char *lua_dir) {
    char probe[LPF_PATH];
    return fits(probe, lua_dir, "performer/init.lua") && access(probe, R_OK) == 0;
}

bool lpf_find_files(const char *from, char lua_dir[LPF_PATH], char scripts[LPF_PATH]) {
    static const char *const places[][2] = {
        {"../share/performer/lua", "../share/performer/scripts"}, /* installed */
        {"../lua", "../scripts"},                                 /* the build tree */
        {".", "../scripts"},                                      /* performer.so among them */
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (!fits(lua_dir, from, places[i][0]) || !fits(scripts, from, places[i][1])) continue;
        if (lpf_has_files(lua_dir)) return true;
    }
    lua_dir[0] = scripts[0] = 0;
    return false;
}

/* The folder of the library that holds this function, or of the program that it is linked into,
 * which dladdr knows by the word that it was called with alone. Never the one it is called in. */
static bool library_folder(char out[LPF_PATH]) {
    Dl_info info, program;
    /* A function pointer as an object pointer: what dladdr asks for. */
    union {
        bool (*function)(char *);
        void *object;
    } self = {.function = library_folder};
    if (!dladdr(self.object, &info) || !info.dli_fname) return false;
    const void *headers = (const void *)getauxval(AT_PHDR);
    ssize_t n;
    if (dladdr(headers, &program) && program.dli_fbase == info.dli_fbase) {
        n = readlink("/proc/self/exe", out, LPF_PATH - 1);
        if (n > 0) out[n] = 0;
    } else {
        n = snprintf(out, LPF_PATH, "%s", info.dli_fname);
    }
    if (n <= 0 || n >= LPF_PATH) return false;
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
    return slash != NULL;
}

bool lpf_find_own_files(char lua_dir[LPF_PATH], char scripts[LPF_PATH]) {
    char own[LPF_PATH];
    lua_dir[0] = scripts[0] = 0;
    return library_folder(own) && lpf_find_files(own, lua_dir, scripts);
}

/* ---- states ------------------------------------------------------------------- */

typedef struct {
    pf_engine *engine;
    const lpf_places *places;
} binding;

/* package.path at stack index -1 gets the places; the state's own path stays among them. */
static void extend_path(lua_State *L, const lpf_places *places) {
    const char *dir = places->lua_dir, *scripts = places->scripts;
    bool shared = scripts && *scripts;
    lua_getfield(L, -1, "path");
    const char *own = luaL_optstring(L, -1, "");
    lua_pushfstring(L, shared && places->command ? "%s/?.lua;" : "", scripts);
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", dir, dir, own);
    lua_pushfstring(L, shared && !places->command ? ";%s/?.lua" : "", scripts);
    lua_concat(L, 3);
    lua_setfield(L, -3, "path");
    lua_pop(L, 1);
}

/* Preloads the core and puts the Lua files on the path. */
static int bind_body(lua_State *L) {
    const binding *b = lua_touserdata(L, 1);
    if (b->engine) lpf_bind_engine(L, b->engine);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_performer_core);
    lua_setfield(L, -2, "performer.core");
    if (!b->places->lua_dir || !*b->places->lua_dir) return 0;
    if (lua_getglobal(L, "package") == LUA_TTABLE) extend_path(L, b->places);
    return 0;
}

int lpf_host_bind(lua_State *L, pf_engine *engine, const lpf_places *places) {
    binding b = {engine, places};
    lua_pushcfunction(L, bind_body);
    lua_pushlightuserdata(L, &b);
    return lua_pcall(L, 1, 0, 0);
}

void lpf_host_arguments(lua_State *L, const char *path, const char *program, int argc,
                        const char *const *argv) {
    lua_createtable(L, argc, 2);
    lua_pushstring(L, program);
    lua_rawseti(L, -2, -1);
    lua_pushstring(L, path);
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

/* In package[field], whose table is on top. */
static void replace_in(lua_State *L, const char *field, const char *path, const char *slash) {
    const int top = lua_gettop(L);
    lua_getfield(L, -1, field);
    lua_pushfstring(L, ";%s", luaL_optstring(L, -1, ""));
    lua_pushlstring(L, path, (size_t)(slash - path));
    const char *folder = lua_tostring(L, -1);
    if (strpbrk(folder, ";?")) folder = ""; /* no template can say it: the root, nobody's */
    lua_pushfstring(L, ";%s/", folder);
    luaL_gsub(L, lua_tostring(L, -3), ";./", lua_tostring(L, -1));
    lua_pushstring(L, lua_tostring(L, -1) + 1);
    lua_setfield(L, top, field);
    lua_settop(L, top);
}

void lpf_host_folder(lua_State *L, const char *path) {
    const char *slash = strrchr(path, '/');
    const bool packages = slash && lua_getglobal(L, "package") == LUA_TTABLE;
    if (packages) {
        replace_in(L, "path", path, slash);
        replace_in(L, "cpath", path, slash);
    }
    if (slash) lua_pop(L, 1);
}

/* ---- where it was thrown ------------------------------------------------------ */

/* Of a function in C that nobody knows the name of, a host's call or the program's, the line says
 * nothing. */
static bool tells(lua_State *L, int level, const char *line) {
    static const char nameless[] = "[C]: in ?";
    lua_Debug ar;
    if (strncmp(line, nameless, sizeof nameless - 1) == 0) return false;
    if (!lua_getstack(L, level, &ar)) return true;
    lua_getinfo(L, "S", &ar);
    return !lpf_is_ours(L, &ar);
}

/* Adds the lines that tell something; each is a level's, but for those that say what was left
 * out. */
static void add_lines(lua_State *L, luaL_Buffer *out, const char *line) {
    bool kept = true;
    int level = 1, skipped;
    for (const char *next; line; line = next) {
        const char *text = line + 2; /* behind "\n\t" */
        next = strstr(text, "\n\t");
        if (sscanf(text, "... (skipping %d levels)", &skipped) == 1)
            level += skipped, kept = true;
        else if (strncmp(text, "(...tail calls...)", 18) != 0)
            kept = tells(L, level++, text);
        if (kept) luaL_addlstring(out, line, next ? (size_t)(next - line) : strlen(line));
    }
}

void lpf_host_trace(lua_State *L) {
    luaL_Buffer out;
    luaL_traceback(L, L, NULL, 1);
    const char *text = lua_tostring(L, -1), *first = strstr(text, "\n\t");
    luaL_buffinit(L, &out);
    luaL_addlstring(&out, text, first ? (size_t)(first - text) : 0);
    const size_t head = luaL_bufflen(&out);
    add_lines(L, &out, first);
    if (luaL_bufflen(&out) == head) luaL_buffsub(&out, head);
    luaL_pushresult(&out);
    lua_remove(L, -2);
}

/* ---- what was thrown ---------------------------------------------------------- */

typedef struct {
    char *text;
    int code;
    bool chosen, told; /* the code is the script's; the text is */
} thrown;

/* A field by the value's own rules, so it may raise. */
static int get(lua_State *L, const char *key) {
    if (lua_istable(L, 1)) return lua_getfield(L, 1, key);
    if (luaL_getmetafield(L, 1, "__index") != LUA_TNIL) return lua_getfield(L, 1, key);
    lua_pushnil(L);
    return LUA_TNIL;
}

static int code_body(lua_State *L) {
    thrown *t = lua_touserdata(L, 2);
    if (get(L, "code") == LUA_TNIL) return 0;
    int whole;
    const lua_Integer code = lua_tointegerx(L, -1, &whole);
    t->chosen = whole && code >= 0 && code <= 255;
    if (t->chosen) t->code = (int)code;
    return 0;
}

static int message_body(lua_State *L) {
    thrown *t = lua_touserdata(L, 2);
    if (lua_isstring(L, 1) || get(L, "message") == LUA_TNIL) return 0;
    snprintf(t->text, LPF_THROWN, "%s", luaL_tolstring(L, -1, NULL));
    t->told = true;
    return 0;
}

static int text_body(lua_State *L) {
    thrown *t = lua_touserdata(L, 2);
    if (!lua_isstring(L, 1) && luaL_getmetafield(L, 1, "__tostring") == LUA_TNIL) return 0;
    snprintf(t->text, LPF_THROWN, "%s", luaL_tolstring(L, 1, NULL));
    t->told = true;
    return 0;
}

/* Runs one of these: the metatable of what was thrown may raise in turn. */
static void ask(lua_State *L, lua_CFunction body, thrown *t) {
    lua_pushcfunction(L, body);
    lua_pushvalue(L, -2);
    lua_pushlightuserdata(L, t);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) lua_pop(L, 1);
}

int lpf_host_thrown(lua_State *L, char text[LPF_THROWN], bool *chosen) {
    thrown t = {.text = text, .code = 1};
    text[0] = 0;
    if (lua_checkstack(L, 8)) {
        ask(L, code_body, &t);
        ask(L, message_body, &t);
        if (!t.told) ask(L, text_body, &t);
    }
    if (!t.told)
        snprintf(text, LPF_THROWN, "the script threw a %s that says nothing", luaL_typename(L, -1));
    else if (!text[0] && !t.chosen)
        snprintf(text, LPF_THROWN, "the script threw an empty text");
    lua_pop(L, 1);
    if (chosen) *chosen = t.chosen;
    return t.code;
}
