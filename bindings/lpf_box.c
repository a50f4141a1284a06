/*
 * lpf_box.c - boxes of streaming states, which more than one file asks for, and how a thing is
 * taken out of its box while it is at work.
 */
#include "lpf.h"

pf_state **lpf_new_stream_state(lua_State *L) { return lpf_new(L, LPF_STATE, sizeof(pf_state *)); }

pf_state *lpf_check_stream_state(lua_State *L, int index, const char *where) {
    pf_state **box = luaL_testudata(L, index, LPF_STATE);
    lpf_enter(L);
    if (!box) return lpf_raise(L, "%s: a state is needed, got %s", where, lpf_kind(L, index)), NULL;
    if (!*box) lpf_raise(L, "%s: the state has been closed, or is at work", where);
    return *box;
}

void *lpf_take_out(lua_State *L, int index) {
    void **box = lua_touserdata(L, index), *thing = *box;
    *box = NULL;
    return thing;
}

void lpf_put_back(lua_State *L, int index, void *thing) {
    *(void **)lua_touserdata(L, index) = thing;
}
