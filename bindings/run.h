/*
 * run.h - `require "performer.run"`: a script within limits, for the command of that name. Only the
 * program has it.
 */
#ifndef LPF_RUN_H
#define LPF_RUN_H

#include <lua.h>

/* run { path, args = {...}, sandbox, bytes, work, seconds }: runs a file as a pf_script on this
 * state's engine, within limits (0 or nil: none). true; or nil, what it threw or what was over, and
 * the code: "PF_ELIMIT", "PF_ENOMEM", "PF_ECANCEL", or the number that the script ended itself
 * with, 1 for any other error, 2 for a file that is not there or doesn't compile. A last value:
 * {seconds, work, bytes, peak}, as they were counted. */
int luaopen_performer_run(lua_State *L);

#endif
