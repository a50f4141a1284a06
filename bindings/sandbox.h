/*
 * sandbox.h - the environment of a stranger's script: what it may name, and what it can do with
 * that. What is refused here keeps promises of bounded.h and of the host: no finalizers (hooks are
 * off in them), no weak keys (the collector walks them over and over), no bytecode, no functions of
 * the system's, no files but those that the host hands in.
 */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <lua.h>

#include "performer.h"

/* A lua_CFunction for a state of BOUNDED_STRANGER in which performer is loaded. At 1 the performer
 * table, at 2 which libraries ("string, table"; nil: all that there are for strangers). Gives one
 * table: the _ENV of every chunk of the script's. The state's own globals are the binding's from
 * here on, and lose what it does not need. */
int sandbox_environment(lua_State *L);

/* luaL_loadbufferx of a text; in a stranger's state of none that the parser takes long for. */
int sandbox_compile(lua_State *L, const char *text, size_t n, const char *name);

/* Refuses whatever is asked of it: for pf_engine_lend_files, while a stranger's script runs that is
 * given no files. */
const pf_file_access *sandbox_files(void);

/* Puts behind the error on top of a stranger's state, where it is of a library or a function that
 * strangers don't have, what there is in its place. */
void sandbox_advise(lua_State *L);

/* For performer/sandbox.lua: the functions that strangers have in the places of Lua's, in the table
 * on top (sandbox_metatable.c, sandbox_load.c). */
void sandbox_add_metatables(lua_State *L);
void sandbox_add_load(lua_State *L);

#endif
