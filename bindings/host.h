/*
 * host.h - running scripts, for the executable and for performer_lua.h: a Lua state with
 * performer loaded on demand, a script with arguments and traceback, and the places where
 * the Lua files and the scripts lie.
 */
#ifndef LPF_HOST_H
#define LPF_HOST_H

#include <stddef.h>

#include <lua.h>

#include "performer.h"

enum { LPF_PATH = 4096 };

/* Finds, relative to the folder `from` of the program or library, the folder that holds
 * performer/init.lua (the build tree's ../lua, an installation's ../share/performer/lua)
 * and the scripts beside it. false: nothing there, both empty. */
bool lpf_find_files(const char *from, char lua_dir[LPF_PATH], char scripts[LPF_PATH]);

/* A state with the standard libraries; `require "performer"` finds its core built in and
 * its Lua files in lua_dir. engine NULL: opened at first use. NULL: out of memory. */
lua_State *lpf_host_open(pf_engine *engine, const char *lua_dir);

/* Runs a file. LUA_OK, or the status with the error on top: a text with traceback, or the
 * table that was thrown. */
int lpf_host_run(lua_State *L, const char *path, const char *program, int argc,
                 const char *const *argv);

#endif
