/*
 * lpf_file.c - single files by the engine's access (performer_files.h), so that scripts reach what
 * the host lets them reach, and files in memory ("memory:NAME") like any others.
 */
#include "lpf.h"

#include <string.h>

/* file_size(path): its bytes; nil, message, code. */
static int file_size(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.size", "the path");
    int64_t bytes = 0;
    int failed = lpf_outside(L, pf_file_size(lpf_engine(L), path, &bytes));
    if (failed) return failed;
    lua_pushinteger(L, bytes);
    return 1;
}

/* file_read(path): all of it as a string; nil, message, code. */
static int file_read(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.read", "the path");
    pf_engine *engine = lpf_engine(L);
    int64_t bytes = 0;
    luaL_Buffer b;
    int failed = lpf_outside(L, pf_file_size(engine, path, &bytes));
    if (failed) return failed;
    char *text = luaL_buffinitsize(L, &b, (size_t)bytes + 1);
    failed = lpf_outside(L, pf_file_read(engine, path, 0, text, (size_t)bytes));
    if (failed) return failed;
    luaL_pushresultsize(&b, (size_t)bytes);
    return 1;
}

/* file_write(path, text): true; nil, message, code. */
static int file_write(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.write", "the path");
    size_t bytes;
    if (lua_type(L, 2) != LUA_TSTRING)
        return lpf_raise(L, "file.write: a string is needed, got %s", lpf_kind(L, 2));
    const char *text = lua_tolstring(L, 2, &bytes);
    int failed = lpf_outside(L, pf_file_write(lpf_engine(L), path, text, bytes));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* file_remove(path): true; nil, message, code. */
static int file_remove(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.remove", "the path");
    int failed = lpf_outside(L, pf_file_remove(lpf_engine(L), path));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* file_make_folder(path): true; nil, message, code. */
static int file_make_folder(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.make_folder", "the path");
    int failed = lpf_outside(L, pf_file_make_folder(lpf_engine(L), path));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* Lua may raise, which no callback may: names are kept as plain data first. */
static int keep_name(void *to, const char *name) {
    return pf_config_push(to, pf_config_new_string(name));
}

/* file_list(path): {name, ...}; nil, message, code. */
static int file_list(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "file.list", "the path");
    pf_engine *engine = lpf_engine(L);
    pf_config **names = lpf_config_slot(L);
    *names = pf_config_new(PF_LIST);
    if (!*names) return lpf_result(L, PF_ENOMEM);
    int failed = lpf_outside(L, pf_file_list(engine, path, keep_name, *names));
    if (failed) return failed;
    lpf_push_config(L, *names);
    return 1;
}

/* ---- bytes in the place of a file ---- */

#define PLACE "memory:bytes"

/* A disk that holds them, while it is lent: scripts whose files are a host's, or none, have it for
 * what lies in memory anyhow. */
typedef struct {
    pf_engine *engine;
    pf_memory_files *files;
    const pf_file_access *before;
} bytes_disk;

static int bytes_close(lua_State *L) {
    bytes_disk *d = luaL_checkudata(L, 1, "performer.bytes");
    if (d->files) pf_engine_lend_files(d->engine, d->before);
    pf_memory_files_close(&d->files);
    return 0;
}

/* Without a disk of its own in the engine's memory, out of which they are taken in the end. */
static int bytes_remove(lua_State *L) {
    bytes_disk *d = luaL_checkudata(L, 1, "performer.bytes");
    if (!d->files) pf_file_remove(d->engine, PLACE);
    return bytes_close(L);
}

/* file_bytes(bytes): a path at which they are a file, and what is to be closed behind its use. */
static int file_bytes(lua_State *L) {
    size_t n;
    const char *bytes = luaL_checklstring(L, 1, &n);
    const lpf_context *ctx = lpf_enter(L);
    pf_engine *engine = lpf_engine(L);
    lua_pushliteral(L, PLACE);
    bytes_disk *d = lpf_new(L, "performer.bytes", sizeof *d);
    d->engine = engine;
    if (ctx->files) {
        lpf_result(L, pf_memory_files_open(&d->files, engine));
        d->before = pf_engine_lend_files(engine, pf_memory_files_access(d->files));
    }
    const int status = pf_file_write(engine, PLACE, bytes, n);
    if (status < 0) {
        lua_pushcfunction(L, bytes_close);
        lua_pushvalue(L, -2);
        lua_call(L, 1, 0);
        lpf_result(L, status);
    }
    return 2;
}

static const luaL_Reg functions[] = {
    {"file_bytes", file_bytes},   {"file_size", file_size},
    {"file_read", file_read},     {"file_write", file_write},
    {"file_remove", file_remove}, {"file_make_folder", file_make_folder},
    {"file_list", file_list},     {NULL, NULL}};

void lpf_open_file(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", bytes_close}, {"__close", bytes_remove}, {NULL, NULL}};
    lpf_class(L, "performer.bytes", none, meta);
    luaL_setfuncs(L, functions, 0);
}
