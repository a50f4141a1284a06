/*
 * host.h - what the executable and performer_lua.h have in common: the places where the Lua files
 * and the scripts lie, a Lua state with performer loaded on demand, a script's arguments, and the
 * telling of what was thrown.
 */
#ifndef LPF_HOST_H
#define LPF_HOST_H

#include <stddef.h>

#include <lua.h>

#include "performer.h"

enum { LPF_PATH = 4096, LPF_THROWN = 8192 };

/* Finds, relative to the folder `from` of the program or library, the folder that holds
 * performer/init.lua (the build tree's ../lua, an installation's ../share/performer/lua)
 * and the scripts beside it. false: nothing there, both empty. */
bool lpf_find_files(const char *from, char lua_dir[LPF_PATH], char scripts[LPF_PATH]);

/* Does the folder hold performer/init.lua? */
bool lpf_has_files(const char *lua_dir);

/* The same for the library, or program, that holds this function. */
bool lpf_find_own_files(char lua_dir[LPF_PATH], char scripts[LPF_PATH]);

/* Where a state finds Lua files: the binding's own in lua_dir; kit/, which the commands share,
 * in scripts. A command's folder is searched first (command true), so that no file of the user's
 * folder stands in for a part of it; for any other script last, so that its own files win. */
typedef struct {
    const char *lua_dir, *scripts;
    bool command;
} lpf_places;

/* In a state that has its libraries `require "performer"` finds its core built in, and its Lua
 * files and kit/ in these places. engine NULL: opened at first use. LUA_OK, or an error's status
 * with it on top. */
int lpf_host_bind(lua_State *L, pf_engine *engine, const lpf_places *places);

/* Pushes what is to be the global `arg`. These two raise. */
void lpf_host_arguments(lua_State *L, const char *path, const char *program, int argc,
                        const char *const *argv);
/* `require` looks in the folder of the file `path` where Lua would in the current one: what lies in
 * the folder that a program happens to be called in is not run. Of "/" nowhere. */
void lpf_host_folder(lua_State *L, const char *path);

/* In a message handler: pushes the calls that led there, as luaL_traceback tells them, without
 * those of the binding's own files and of whoever called the script; "" where none is left. */
void lpf_host_trace(lua_State *L);

/* Takes the thrown value off the stack: a text that tells it, and the exit code that it asks for,
 * 1 where it asks for none. {code = n, message = text} (pf.exit) chooses both, and "" says
 * nothing; anything else comes to some word, whatever its metatable does. Never raises. */
int lpf_host_thrown(lua_State *L, char text[LPF_THROWN], bool *PF_NULLABLE chosen);

#endif
