/*
 * lpf_keep.c - Lua values that the engine's objects call: a kernel's map, a layer's table.
 *
 * The registry keeps such a value as long as its object lives, for models go on when a script has
 * dropped its own names. But then a map that has its kernel in a variable, or a layer that holds
 * itself, would never die: the collector doesn't see that it is the value alone that keeps the
 * object. So the object's box has the value too, and while lpf_collect runs the registry lets go of
 * those whose object nobody but its box holds. Boxes that are there afterwards were reached from
 * elsewhere, and their values are kept again.
 */
#include "bounded.h"
#include "lpf.h"

/* Boxes with values, as weak keys: one is there until its finalizer has run. */
static const char boxes_key = 'b';

/* So many new ones, and as many as there were, before dead ones are looked for. */
enum { FEW = 256 };

static void push_boxes(lua_State *L) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &boxes_key) == LUA_TTABLE) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &boxes_key);
}

lpf_kept *lpf_new_kept(lua_State *L, const char *name, bool (*shared)(const void *)) {
    lpf_context *ctx = lpf_enter(L);
    if (++ctx->kept >= ctx->kept_most) {
        lpf_collect(L);
        ctx->kept_most = ctx->kept + (ctx->kept > FEW ? ctx->kept : FEW);
    }
    lpf_kept *box = lpf_new(L, name, sizeof *box);
    box->shared = shared;
    box->value = LUA_NOREF;
    push_boxes(L);
    lua_pushvalue(L, -2);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    return box;
}

int lpf_keep(lua_State *L, lpf_kept *box, int index) {
    lua_pushvalue(L, index);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, index);
    return box->value = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Finalizers run while the registry has let go: the box, which they reached, has the value then. */
void lpf_push_kept(lua_State *L, int value) {
    if (lua_rawgeti(L, LUA_REGISTRYINDEX, value) != LUA_TBOOLEAN) return;
    push_boxes(L);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const lpf_kept *box = lua_touserdata(L, -2);
        if (!box->thing || box->value != value) continue;
        lua_getiuservalue(L, -2, 1);
        lua_replace(L, -5);
        lua_pop(L, 3);
        return;
    }
    lua_pop(L, 1);
    lpf_raise(L, "what is called here has been collected: a finalizer can't use it any more");
}

void lpf_drop_kept(const lpf_context *ctx, int value) {
    if (ctx->main) luaL_unref(ctx->main, LUA_REGISTRYINDEX, value);
}

/* The slots stay taken, so that keeping again asks for no memory. */
static void let_go(lua_State *L) {
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const lpf_kept *box = lua_touserdata(L, -2);
        if (!box->thing || box->shared(box->thing)) continue;
        lua_pushboolean(L, 0);
        lua_rawseti(L, LUA_REGISTRYINDEX, box->value);
    }
}

static int keep_again(lua_State *L) {
    int n = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const lpf_kept *box = lua_touserdata(L, -2);
        if (!box->thing) continue;
        n++;
        lua_getiuservalue(L, -2, 1);
        lua_rawseti(L, LUA_REGISTRYINDEX, box->value);
    }
    return n;
}

bool lpf_collect(lua_State *L) {
    lpf_context *ctx = lpf_enter(L);
    if (!lua_checkstack(L, LUA_MINSTACK)) return false;
    push_boxes(L);
    let_go(L);
    const bool done = bounded_collect(L);
    ctx->kept = keep_again(L);
    lua_pop(L, 1);
    return done;
}

/* A module and the kernel in a table of its map's are dead one after the other. */
void lpf_drop_dead(lua_State *L) {
    lpf_collect(L);
    lpf_collect(L);
}
