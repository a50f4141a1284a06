/* bounded.c - see bounded.h: the allocator, the hook, and what ends a script. */
#include "bounded.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bounded_stack.h"

enum {
    PAY_AT = 1024,     /* units that are counted before the engine hears of them */
    BYTES_A_UNIT = 64, /* of memory that is asked for */
    LARGE = 1 << 20,   /* bytes of a block that an instruction may walk through */
    LONG = 16 << 10,   /* of a text whose instructions are counted in smaller numbers */
    STEP = 32 << 10,   /* new bytes that the collector steps for */
    SMALL = 1 << 20,   /* bytes that are not worth a collection */
    /* Bytes of the C stack at which finalizers still have room: Lua's 200 levels take 150 and more
     * each. */
    SHALLOW = 24 << 10
};

enum { LENGTHS = 10 };

struct bounded {
    pf_engine *engine;
    pf_meter *meter;
    unsigned flags;
    lua_State *running; /* the coroutine that runs: an allocation may have to stop it */
    uint64_t unpaid;    /* units */
    int over;           /* PF_OK, or what ended the script */
    char why[256];
    const char *home;   /* the folder of the binding's Lua files, borrowed; NULL: not known */
    size_t held;        /* bytes of Lua's objects */
    int large;          /* blocks among them that are LARGE */
    const void **texts; /* a stranger's that are longer than LONG */
    int n_texts, room;
    int longest[LENGTHS]; /* how many of them by their length: the next has twice that */
    wide_blocks wide;     /* a stranger's */
    int closing;          /* coroutines, one in the other */
    uintptr_t stack;   /* where the C stack stood when the host called, without what is its own */
    uintptr_t host;    /* where it stood when the host's function was called; 0: in none */
    size_t stepped;    /* bytes when the collector stepped last */
    size_t collect_at; /* bytes that the next collection waits for */
    bool collecting;
    struct {
        const void *block;
        size_t bytes;
    } refused; /* the last request, until it is granted: bytes 0 */
};

static const char key = 'b';      /* registry: the bounded of a state */
static const char over_key = 'o'; /* registry: what the script sees when it is over */
static const char ear_key = 'e';  /* registry: the listener of a state without limits */

/* ---- ends --------------------------------------------------------------------- */

int bounded_open(bounded **out, pf_engine *engine, pf_meter *meter, unsigned flags) {
    *out = calloc(1, sizeof **out);
    if (!*out) return pf_set_error(PF_ENOMEM, "script: out of memory");
    (*out)->engine = engine;
    (*out)->meter = meter;
    (*out)->flags = flags;
    return PF_OK;
}

void bounded_close(bounded **b) {
    if (*b) pf_meter_resize((*b)->meter, (*b)->texts, (size_t)(*b)->room * sizeof *(*b)->texts, 0);
    free(*b);
    *b = NULL;
}

static uintptr_t frame(void) { return (uintptr_t)__builtin_frame_address(0); }

static uintptr_t between(uintptr_t a, uintptr_t b) { return a < b ? b - a : a - b; }

void bounded_forget(bounded *b) {
    b->over = PF_OK;
    b->why[0] = 0;
    b->refused.bytes = 0;
}

void bounded_begin(bounded *b) {
    b->stack = frame();
    b->host = 0;
    bounded_forget(b);
}

bounded_stack bounded_to_host(bounded *b) {
    const bounded_stack before = {b->stack, b->host};
    b->host = frame();
    return before;
}

bounded_stack bounded_from_host(bounded *b) {
    const bounded_stack before = {b->stack, b->host};
    const uintptr_t here = frame(), hosts = b->host ? between(here, b->host) : 0;
    b->stack = here < b->stack ? b->stack - hosts : b->stack + hosts;
    b->host = 0;
    return before;
}

void bounded_back(bounded *b, bounded_stack before) {
    b->stack = before.began;
    b->host = before.host;
}

bool bounded_is_stranger(const bounded *b) {
    return b && (b->flags & BOUNDED_STRANGER) == BOUNDED_STRANGER;
}

bool bounded_firm(bounded *b, bool firm) {
    const bool was = (b->flags & BOUNDED_FIRM) != 0;
    b->flags = firm || bounded_is_stranger(b) ? b->flags | BOUNDED_FIRM : 0;
    return was;
}

const char *bounded_why(const bounded *b) { return b->why; }

/* ---- over --------------------------------------------------------------------- */

static void hook(lua_State *L, lua_Debug *ar);

/* Of a text of zeros a comparison goes byte by byte, some tens of nanoseconds each: as many
 * instructions as walk through 4 MB in all. */
static int pace_of_texts(const bounded *b) {
    int pace = BOUNDED_PACE;
    for (int i = LENGTHS - 1; i >= 0; i--)
        if (b->longest[i] > 0) return i < 8 ? pace >> (i + 1) : 1;
    return pace;
}

static int pace(const bounded *b) {
    if (b->over) return 1;
    const int most = b->large > 0 ? BOUNDED_SHORT : BOUNDED_PACE, texts = pace_of_texts(b);
    return texts < most ? texts : most;
}

/* Lua's count begins anew then: what it had counted is paid for in full. */
static void set_hook(bounded *b, lua_State *L, int wanted) {
    const int now = lua_gethookcount(L);
    if (now == wanted) return;
    b->unpaid += (uint64_t)now;
    lua_sethook(L, hook, LUA_MASKCOUNT, wanted);
}

static void set_pace(bounded *b, lua_State *L) { set_hook(b, L, pace(b)); }

void bounded_home(bounded *b, const char *home) {
    if (b) b->home = home;
}

/* "file:line: " of what runs, the nearest function in Lua that is not the binding's; "" where none
 * is. Asks for no memory, as nothing here may. */
static void where(const bounded *b, char *out, size_t bytes) {
    lua_Debug ar;
    const size_t home = b->home ? strlen(b->home) : 0;
    out[0] = 0;
    for (int level = 0; b->running && lua_getstack(b->running, level, &ar); level++) {
        lua_getinfo(b->running, "Sl", &ar);
        const bool ours = home > 0 && ar.source[0] == '@' && !strncmp(ar.source + 1, b->home, home);
        if (ar.currentline <= 0 || ours) continue;
        snprintf(out, bytes, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
}

/* Safe wherever Lua may be: an allocation may come from its depths. */
static void end_by(bounded *b, int status, const char *why) {
    char place[LUA_IDSIZE + 24];
    if (b->over) return;
    b->over = status;
    where(b, place, sizeof place);
    snprintf(b->why, sizeof b->why, "%s%s", place, why);
    if (b->running) set_pace(b, b->running);
}

void bounded_end(bounded *b, int status) { end_by(b, status, pf_last_error()); }

static void pay(bounded *b) {
    const uint64_t units = b->unpaid;
    b->unpaid = 0;
    if (b->over) return;
    const int status = pf_engine_charge(b->engine, units);
    if (status < 0) bounded_end(b, status);
}

/* A request that was refused and never granted: somebody has thrown that, or gone on without. */
static void look(bounded *b) {
    if (b->refused.bytes == 0 || !(b->flags & BOUNDED_FIRM)) return;
    b->refused.bytes = 0;
    char why[sizeof b->why];
    snprintf(why, sizeof why, "%s", b->why);
    end_by(b, PF_ENOMEM, why);
}

int bounded_over(bounded *b) {
    look(b);
    return b->over;
}

/* The text lies ready: nothing is allocated, for there may be nothing left. */
static void raise_over(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &over_key);
    lua_error(L);
}

/* ---- the collector ------------------------------------------------------------ */

static bool has_room(const bounded *b, lua_State *L) {
    return between(frame(), b->stack) < SHALLOW && lua_checkstack(L, 2 * LUA_MINSTACK);
}

bool bounded_collect(lua_State *L) {
    bounded *b = bounded_of(L);
    if (b && !has_room(b, L)) return false;
    lua_gc(L, LUA_GCCOLLECT);
    if (!b) return true;
    b->collecting = false;
    b->stepped = b->held;
    b->collect_at = b->held + b->held / 2;
    return true;
}

/* As far as what was made since the last step asks for. */
static void collect_some(bounded *b, lua_State *L) {
    if (b->held < b->stepped) b->stepped = b->held;
    if (b->held - b->stepped < STEP || b->held < SMALL) return;
    if (!b->collecting && b->held < b->collect_at) return;
    if (!has_room(b, L)) return;
    b->collecting = lua_gc(L, LUA_GCSTEP, 2 * (int)((b->held - b->stepped) >> 10)) == 0;
    b->stepped = b->held;
    if (!b->collecting) b->collect_at = b->held + b->held / 2;
}

/* ---- counting ----------------------------------------------------------------- */

static void hook(lua_State *L, lua_Debug *ar) {
    bounded *b = bounded_of(L);
    (void)ar;
    if (!b) return;
    b->running = L;
    b->unpaid += (uint64_t)lua_gethookcount(L);
    look(b);
    pay(b);
    if (!b->over) collect_some(b, L);
    if (lua_gethookcount(L) != pace(b)) lua_sethook(L, hook, LUA_MASKCOUNT, pace(b));
    if (b->over) raise_over(L);
}

static void tell(lua_State *L, uint64_t units) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ear_key);
    const bounded_listener *listener = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (listener) listener->heed(L, units);
}

void bounded_charge(lua_State *L, uint64_t units) {
    bounded *b = bounded_of(L);
    if (!b) {
        tell(L, units);
        return;
    }
    b->unpaid = units < UINT64_MAX - b->unpaid ? b->unpaid + units : UINT64_MAX;
    look(b);
    if (b->unpaid >= PAY_AT) pay(b);
    if (!b->over) collect_some(b, L);
    if (b->over) {
        luaL_checkstack(L, 1, "limit");
        raise_over(L);
    }
}

void bounded_look(lua_State *L) {
    bounded *b = bounded_of(L);
    if (!b) return;
    look(b);
    pay(b);
    if (b->over) raise_over(L);
}

void bounded_read(lua_State *L) {
    const int n = lua_gettop(L);
    uint64_t bytes = 0;
    for (int i = 1; i <= n; i++)
        if (lua_type(L, i) == LUA_TSTRING) bytes += lua_rawlen(L, i);
    bounded_charge(L, (uint64_t)n + bytes / BOUNDED_BYTES);
    if (bytes > BOUNDED_ARGUMENTS && bounded_is_stranger(bounded_of(L)))
        luaL_error(L, "more than 32 MB of texts in one call in a sandbox");
}

void bounded_format(lua_State *L) {
    size_t n = 0;
    luaL_checklstring(L, 1, &n);
    bounded_charge(L, n);
    if (n > BOUNDED_FORMAT && bounded_is_stranger(bounded_of(L)))
        luaL_error(L, "a format of more than 65536 bytes in a sandbox");
}

int bounded_values(lua_State *L) {
    return bounded_is_stranger(bounded_of(L)) ? BOUNDED_VALUES : INT_MAX - 1;
}

bool bounded_note(lua_State *L, int status) {
    bounded *b = bounded_of(L);
    if (!b) return false;
    const bool ends = status == PF_ELIMIT || status == PF_ECANCEL ||
                      (status == PF_ENOMEM && (b->flags & BOUNDED_FIRM));
    if (ends) bounded_end(b, status);
    return true;
}

/* ---- memory ------------------------------------------------------------------- */

static bool is_refused(const bounded *b, const void *block, size_t bytes) {
    return b->refused.bytes == bytes && b->refused.block == block;
}

/* NULL, which makes Lua collect and ask again: for the same a second time it is the end. A buffer
 * of lauxlib's doesn't ask again: then that is found at the next look (look). */
static void *refuse(bounded *b, const void *block, size_t bytes, const char *why) {
    /* Whatever runs before it asks again is looked at first: so a block that moves and is refused
     * twice in a row is none of Lua's stacks, in which nobody can tell where it is meanwhile. */
    if (block && b->running) set_hook(b, b->running, 1);
    if (is_refused(b, block, bytes) && (b->flags & BOUNDED_FIRM)) end_by(b, PF_ENOMEM, why);
    if (!b->over) snprintf(b->why, sizeof b->why, "%s", why);
    b->refused.block = block;
    b->refused.bytes = bytes;
    return NULL;
}

/* NULL where a stranger's state may hold `bytes` in place of `old`. */
static const char *too_large(const bounded *b, const void *block, size_t old, size_t bytes,
                             bool is_text) {
    if (!bounded_is_stranger(b)) return NULL;
    if (is_text && bytes > BOUNDED_TEXT + 64)
        return "out of memory: a text of more than 4 MB in a sandbox";
    if (!is_text && wide_stack(&b->wide, block, old, bytes))
        return "out of memory: a stack of more than 20480 values in a sandbox (does a function "
               "call itself for ever?)";
    if (b->held - old + bytes > BOUNDED_LUA)
        return "out of memory: more than 64 MB of Lua's own objects in a sandbox";
    return NULL;
}

static void count_block(bounded *b, size_t old, size_t bytes) {
    b->held += bytes;
    b->held -= old;
    b->large += (bytes >= LARGE) - (old >= LARGE);
}

/* ---- long texts ---- */

/* 0 of up to 32 KB, 1 of up to 64 ... */
static int *length_of(bounded *b, size_t bytes) {
    int at = 0;
    while (at < LENGTHS - 1 && bytes > (size_t)LONG << (at + 1)) at++;
    return &b->longest[at];
}

/* Room to note one text more; a text has its length from the first on, and nothing else is one. */
static bool room_for_text(bounded *b) {
    enum { LEAST = 32 };
    if (b->n_texts < b->room) return true;
    const size_t held = (size_t)b->room * sizeof *b->texts;
    const int room = b->room ? 2 * b->room : LEAST;
    const void **texts = pf_meter_resize(b->meter, b->texts, held, (size_t)room * sizeof *b->texts);
    if (!texts) return false;
    b->texts = texts;
    b->room = room;
    return true;
}

static void note_text(bounded *b, const void *block, size_t bytes) {
    b->texts[b->n_texts++] = block;
    ++*length_of(b, bytes);
}

static void forget_text(bounded *b, const void *block, size_t bytes) {
    for (int i = b->n_texts - 1; i >= 0; i--) {
        if (b->texts[i] != block) continue;
        b->texts[i] = b->texts[--b->n_texts];
        --*length_of(b, bytes);
        return;
    }
}

/* Fewer bytes always fit, as Lua relies on. */
void *bounded_resize(void *ud, void *block, size_t old, size_t bytes) {
    bounded *b = ud;
    const void *asked = block;
    const bool is_text = !block && old == LUA_TSTRING;
    if (!block) old = 0; /* then it is a kind of object, no length */
    const bool is_long = is_text && bytes > LONG && bounded_is_stranger(b);
    const char *why = bytes > old ? too_large(b, block, old, bytes, is_text) : NULL;
    if (why) return refuse(b, block, bytes, why);
    if (is_long && !room_for_text(b)) return refuse(b, block, bytes, pf_last_error());
    if (block && bytes == 0 && old > LONG) forget_text(b, block, old);
    void *moved = pf_meter_resize(b->meter, block, old, bytes);
    if (!moved && bytes > 0) return refuse(b, block, bytes, pf_last_error());
    const int before = pace(b);
    count_block(b, old, bytes);
    if (is_long) note_text(b, moved, bytes);
    if (!is_text && bounded_is_stranger(b)) wide_note(&b->wide, asked, old, moved, bytes);
    if (pace(b) != before && b->running) set_pace(b, b->running);
    if (bytes <= old) return moved;
    if (is_refused(b, asked, bytes)) b->refused.bytes = 0;
    b->unpaid += bytes / BYTES_A_UNIT;
    /* Not in the middle of a move: while a stack does, where its functions stand is not known (Lua
     * 5.4.5), which the end by a limit tells. */
    if (!asked && b->unpaid >= PAY_AT) pay(b);
    return moved;
}

/* ---- a state ------------------------------------------------------------------ */

bounded *bounded_of(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &key);
    bounded *b = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return b;
}

static int watch_body(lua_State *L) {
    bounded *b = lua_touserdata(L, 1);
    lua_pushlightuserdata(L, b);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
    lua_pushliteral(L, "the script is over one of its limits");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &over_key);
    return 0;
}

int bounded_watch(lua_State *L, bounded *b) {
    lua_pushcfunction(L, watch_body);
    lua_pushlightuserdata(L, b);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        lua_pop(L, 1);
        return pf_set_error(PF_ENOMEM, "script: out of memory");
    }
    b->running = L;
    lua_gc(L, LUA_GCSTOP);
    bounded_begin(b);
    lua_sethook(L, hook, LUA_MASKCOUNT, BOUNDED_PACE);
    return PF_OK;
}

void bounded_listen(lua_State *L, const bounded_listener *listener) {
    lua_pushlightuserdata(L, (void *)(uintptr_t)listener);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &ear_key);
}

/* ---- coroutines --------------------------------------------------------------- */

void bounded_run(bounded *b, lua_State *L) {
    if (!b) return;
    b->running = L;
    set_pace(b, L);
}

bool bounded_close_begin(bounded *b, int most) {
    if (!b) return true;
    if (b->closing >= most) return false;
    b->closing++;
    return true;
}

void bounded_close_end(bounded *b) {
    if (b) b->closing--;
}
