/*
 * coroutines.h - coroutines of the program's own scripts: a signal stops the one that runs, and
 * then who resumed it. Lua's hooks, which do that, belong to one coroutine each.
 */
#ifndef LPF_COROUTINES_H
#define LPF_COROUTINES_H

#include <lua.h>

/* coroutine.resume and coroutine.wrap that tell process.c what runs. Raises. */
void lpf_open_coroutines(lua_State *L);

#endif
