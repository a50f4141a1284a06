/*
 * script_enter.c - how a host enters the Lua state of a script, and leaves it as it was.
 *
 * A call may come while the script runs, from a function of the host's that it called: then it goes
 * on upon the Lua thread that runs now, a coroutine perhaps. The levels of a C stack count over all
 * scripts of a thread.
 */
#include <stdlib.h>

#include "script.h"

static _Thread_local int depth; /* of calls of scripts inside each other */

void lpf_script_drop(pf_script *s) {
    s->closing = true;
    if (s->inside > 0) return;
    if (s->L) lua_close(s->L); /* what is collected now may call the host */
    pf_engine_release(&s->engine);
    free(s);
}

static int may_enter(const pf_script *s, const char *where) {
    if (pf_engine_closed(s->engine))
        return lpf_script_refuse(PF_ESTATE, "%s: its engine has closed", where);
    if (s->closing) return lpf_script_refuse(PF_ESTATE, "%s: the script is closing", where);
    if (depth >= PF_SCRIPT_DEPTH)
        return lpf_script_refuse(PF_ESTATE, "%s: %d calls of scripts are inside each other", where,
                                 depth);
    return PF_OK;
}

static int run(lua_State *L, lua_CFunction body, void *job) {
    if (!lua_checkstack(L, 8)) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    lua_pushcfunction(L, lpf_script_handler);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, job);
    const int lua_status = lua_pcall(L, 1, 0, -3);
    const int status = lua_status == LUA_OK ? PF_OK : lpf_script_thrown(L, lua_status);
    lua_pop(L, 1);
    return status;
}

int lpf_script_enter(pf_script *s, const char *where, lua_CFunction body, void *job) {
    int status = may_enter(s, where);
    if (status < 0) return status;
    lua_State *L = s->inside > 0 ? s->context->L : s->L;
    const lpf_tape *tape = s->context->tape;
    lpf_context *asking = lpf_ask_layers(NULL);
    depth++, s->inside++;
    status = run(L, body, job);
    lpf_close_tapes(s->context, tape);
    s->context->L = L; /* no coroutine that is gone by the next call */
    depth--, s->inside--;
    lpf_ask_layers(asking);
    if (s->closing && s->inside == 0) lpf_script_drop(s);
    return status;
}
