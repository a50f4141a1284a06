/*
 * script_enter.c - how a host enters the Lua state of a script, within limits, and leaves it as it
 * was.
 *
 * A call may come while the script runs, from a function of the host's that it called: then it goes
 * on upon the Lua thread that runs now, a coroutine perhaps. The levels of a C stack count over all
 * scripts of a thread.
 *
 * The script's meter is entered by the outermost call, one of a call's own limits inside it; calls
 * inside that, which may come by way of another script, pay with its bytes again. Bytes of a call
 * are a bound on all that the script holds, for its time: that holds for Lua's objects, which
 * outlive the call, as for tensors.
 */
#include "script.h"

static _Thread_local int depth; /* of calls of scripts inside each other */

void lpf_script_drop(pf_script *s) {
    s->closing = true;
    if (s->held > 0 || (s->context && s->context->inside > 0)) return;
    if (s->L) lua_close(s->L); /* what is collected now may call the host */
    bounded_close(&s->bounded);
    pf_random_close(&s->random);
    pf_engine_release(&s->engine);
    pf_meter *meter = s->meter;
    pf_meter_resize(meter, s, sizeof *s, 0);
    pf_meter_close(&meter);
}

static int may_enter(const pf_script *s, const char *where) {
    if (pf_engine_closed(s->engine))
        return lpf_script_refuse(PF_ESTATE, "%s: its engine has closed", where);
    if (s->closing) return lpf_script_refuse(PF_ESTATE, "%s: the script is closing", where);
    if (depth >= PF_SCRIPT_DEPTH)
        return lpf_script_refuse(
            PF_ELIMIT,
            "%s: %d calls of scripts are inside each other, as many as may be: functions of the "
            "host's that call a script, which calls them, have to come to an end",
            where, depth);
    return PF_OK;
}

/* ---- limits ------------------------------------------------------------------- */

/* What a call puts back when it ends. */
typedef struct {
    pf_meter *own;   /* of the call's limits; NULL: none */
    pf_meter *payer; /* who paid before; where `inner` */
    bounded_stack stack;
    bool outermost, inner, nested;
    size_t bytes; /* the bound before */
    bool firm;
    unsigned set; /* in between the host may set another */
} span;

static void put_back(pf_script *s, const span *call) {
    s->bytes = call->bytes;
    bounded_firm(s->bounded, call->firm);
    pf_meter_bound(s->meter, s->bytes);
}

static void end_span(pf_script *s, span *call) {
    if (call->own) {
        pf_meter_close(&call->own);
        if (call->set == s->set) put_back(s, call);
    }
    if (call->nested) pf_engine_nest(s->engine, -1);
    if (call->inner) pf_engine_lend_meter(s->engine, call->payer);
    if (call->inner) bounded_back(s->bounded, call->stack);
    if (call->outermost) pf_meter_leave(s->meter);
}

/* No more than `most` bytes beside what is held, where the script's bound is no lower. */
static int bound_bytes(pf_script *s, size_t most) {
    pf_usage now = {.size = sizeof now};
    const int status = pf_meter_usage(s->meter, &now);
    if (status < 0 || most == 0) return status;
    const size_t bytes = most < SIZE_MAX - now.bytes ? now.bytes + most : SIZE_MAX;
    if (s->bytes == 0 || bytes < s->bytes) s->bytes = bytes;
    bounded_firm(s->bounded, true);
    return pf_meter_bound(s->meter, s->bytes);
}

static int own_limits(pf_script *s, span *call, const pf_limits *given, const char *where) {
    pf_limits limits = {.size = sizeof limits};
    int status = pf_options_take(&limits, sizeof limits, given, where);
    if (status < 0) return status;
    const size_t bytes = limits.bytes;
    limits.bytes = 0;
    status = pf_meter_open(&call->own, s->engine, &limits);
    if (status < 0) return status;
    call->bytes = s->bytes, call->set = s->set, call->firm = bounded_firm(s->bounded, false);
    bounded_firm(s->bounded, call->firm);
    status = pf_meter_enter(call->own);
    return status < 0 ? status : bound_bytes(s, bytes);
}

static int begin_span(pf_script *s, span *call, const pf_limits *limits, const char *where) {
    int status = PF_OK;
    if (s->context->inside == 0) {
        bounded_begin(s->bounded);
        status = pf_meter_enter(s->meter);
        call->outermost = status >= 0;
    } else {
        call->payer = pf_engine_lend_meter(s->engine, s->meter);
        call->stack = bounded_from_host(s->bounded);
        call->inner = true;
    }
    if (status >= 0) status = pf_engine_nest(s->engine, 1);
    call->nested = status >= 0;
    if (status >= 0 && limits) status = own_limits(s, call, limits, where);
    if (status >= 0) return PF_OK;
    end_span(s, call);
    return lpf_script_refuse(status, "%s", pf_last_error());
}

/* ---- entering ----------------------------------------------------------------- */

static int run(pf_script *s, lua_State *L, lua_CFunction body, void *job) {
    const bool watching = s->context->watching;
    if (!lua_checkstack(L, 8)) return lpf_script_refuse(PF_ENOMEM, "script: out of memory");
    lua_pushcfunction(L, lpf_script_handler);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, job);
    const int lua_status = lua_pcall(L, 1, 0, -3);
    lpf_end_watch(s->context, watching);
    int status = PF_OK;
    if (lua_status != LUA_OK && bounded_over(s->bounded))
        lua_pop(L, 1);
    else if (lua_status != LUA_OK)
        status = lpf_script_thrown(L, lua_status);
    lua_pop(L, 1);
    return lpf_script_ended(s->bounded, status);
}

int lpf_script_enter(pf_script *s, const char *where, lua_CFunction body, void *job,
                     const pf_limits *limits) {
    span call = {.own = NULL};
    int status = may_enter(s, where);
    if (status >= 0) status = begin_span(s, &call, limits, where);
    if (status < 0) return status;
    lpf_context *ctx = s->context, *asking = lpf_ask_layers(NULL);
    lua_State *L = ctx->inside > 0 ? ctx->L : s->L;
    const lpf_tape *tape = ctx->tape;
    const pf_file_access *files = pf_engine_lend_files(s->engine, ctx->files);
    pf_random *random = pf_engine_lend_random(s->engine, ctx->random);
    const locale_t locale = lpf_locale_enter(ctx);
    depth++, ctx->inside++;
    status = run(s, L, body, job);
    if (status < 0 && pf_engine_closed(s->engine)) /* by a function of the host's, under its feet */
        status = lpf_script_refuse(PF_ESTATE, "%s: its engine has closed", where);
    lpf_locale_leave(ctx, locale);
    pf_engine_lend_random(s->engine, random);
    pf_engine_lend_files(s->engine, files);
    lpf_close_tapes(ctx, tape);
    ctx->L = L; /* no coroutine that is gone by the next call */
    depth--, ctx->inside--;
    lpf_ask_layers(asking);
    end_span(s, &call);
    if (s->closing && ctx->inside == 0) lpf_script_drop(s);
    return status;
}
