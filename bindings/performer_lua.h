/*
 * performer_lua.h - Lua scripts inside a host program: a second library (performer_lua), so
 * that the engine itself never links Lua. The manners are those of performer.h.
 *
 * A script runs in a fresh Lua state with the standard libraries and `require "performer"`
 * bound to the host's engine: tensors, seed, byte budget, logger and cancel flag are the
 * host's own. It may do what the process may do; give it to trusted scripts only.
 */
#ifndef PERFORMER_LUA_H
#define PERFORMER_LUA_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Loads `performer` into a Lua state of the host's own, bound to `engine` (NULL: it opens
 * one at first use); leaves the module on the stack. `lua_state` is a lua_State *, version
 * 5.4. lua_dir: the folder that holds performer/init.lua; NULL: beside the library. */
PF_API int pf_script_bind(void *lua_state, pf_engine *PF_NULLABLE engine,
                          const char *PF_NULLABLE lua_dir);

/* Runs the file `path` with arguments argv[0 .. argc-1] (its `arg` and `...`). PF_OK,
 * PF_ENOTFOUND when it can't be read, PF_EFORMAT when it doesn't compile, PF_EHOST when it
 * raised; then pf_script_error says what, with a traceback. `engine` outlives the call, and
 * everything the script made is freed. */
PF_API int pf_script_run(pf_engine *engine, const char *path, int argc, const char *const *argv);

/* This thread's last script error, "" if none. Stands until the thread's next script; of a call
 * that failed pf_last_error says it, too, cut at 2 KB. */
PF_API const char *pf_script_error(void);

#ifdef __cplusplus
}
#endif

#endif
