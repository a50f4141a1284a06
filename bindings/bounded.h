/*
 * bounded.h - a Lua state that stays within an engine's limits: its memory is paid for with the
 * engine's bytes, its instructions with the engine's work, and where a limit is reached (or the
 * host cancels) the script ends, whatever it catches.
 *
 * How that holds. The allocator asks the meter before it gives a byte. A count hook pays for
 * instructions, in every coroutine; functions in C that may run long, for which Lua calls no hook,
 * are replaced by ones that pay as they go (bounded_libraries). Once over, the hook raises at every
 * instruction, so nothing that catches the error gets further than the next one; and since Lua
 * switches hooks off inside a hook, no code of the script's is called between there and the end:
 * no handler of xpcall, no __close of a coroutine that is closed.
 *
 * Lua's own collector is off: it calls finalizers wherever an allocation happens to be, and where
 * the C stack is nearly used up Lua refuses the call and forgets the object, whose tensors nobody
 * would ever give back. It steps from the hook instead, where the stack is shallow.
 */
#ifndef BOUNDED_H
#define BOUNDED_H

#include <stdbool.h>
#include <stdint.h>

#include <lauxlib.h>
#include <lua.h>

#include "performer.h"

typedef struct bounded bounded;

enum { BOUNDED_BYTES = 16 }; /* of a text that is read, a unit of work */

/* Running out of bytes ends it, as every limit does; any other may catch that, give something back
 * and go on. */
#define BOUNDED_FIRM     1u
/* A stranger's script, firm as well: Lua's own objects, a text and a chunk have bounds that keep
 * every single step short: the collector's, a comparison's, the parser's. */
#define BOUNDED_STRANGER 3u

enum {
    BOUNDED_LUA = 64 << 20,    /* bytes of Lua's own objects in a stranger's state */
    BOUNDED_TEXT = 4 << 20,    /* of one text */
    BOUNDED_CHUNK = 1 << 20,   /* of a text that is compiled */
    BOUNDED_DATE = 4 << 10,    /* of a format of os.date */
    BOUNDED_FORMAT = 64 << 10, /* of one of string.format, pack, packsize, unpack */
    BOUNDED_QUOTED = 1 << 20,  /* of all texts beside a format that has %q */
    /* Of all texts that one call of a function in C reads: each may be the same one again, and a
     * number by its digits. */
    BOUNDED_ARGUMENTS = 32 << 20,
    /* Values on the stack of one coroutine: a table that is called in place of a table, by __call,
     * moves all that stand there on by one, without a hook, until the stack is full. */
    BOUNDED_STACK = 20 << 10,
    BOUNDED_VALUES = 5000,   /* that one call puts there: few enough to be handed on */
    BOUNDED_JUMPS = 8 << 10, /* and, or, elseif, goto ... in it: the parser's lists are walked */
};

/* ---- one a state ---- */
/* meter: pays for its bytes. It and the engine outlive it. Before lua_newstate ... */
int bounded_open(bounded **out, pf_engine *engine, pf_meter *meter, unsigned flags);
void bounded_close(bounded **b); /* ... and after lua_close. NULL: nothing */
/* A lua_Alloc, of which the bounded is the ud. */
void *bounded_resize(void *ud, void *block, size_t old, size_t bytes);
/* Once, behind lua_newstate, before anything else. PF_OK or PF_ENOMEM. */
int bounded_watch(lua_State *L, bounded *b);
/* A lua_CFunction, behind luaL_openlibs: functions that pay for what they do, in Lua's places. */
int bounded_libraries(lua_State *L);

/* ---- in a state without limits ---- */
/* Functions in C, where no hook is called, tell how many units they have done as they go; it may
 * raise. The listener outlives the state. */
typedef struct {
    void (*heed)(lua_State *L, uint64_t units);
} bounded_listener;
void bounded_listen(lua_State *L, const bounded_listener *listener); /* raises */
/* Once, behind luaL_openlibs: those of the functions that may run long for short arguments, in
 * Lua's places. Raises. */
void bounded_long(lua_State *L);

/* ---- at a call ---- */
/* At every outermost one, by the thread that runs it: nothing is over any more. */
void bounded_begin(bounded *b);
void bounded_forget(bounded *b); /* the same at the end of one inside: it is over no more */
/* The C stack that functions of the host's take is not Lua's: around such a function, and around a
 * call that comes from it. Each gives what bounded_back puts back. */
typedef struct {
    uintptr_t began, host;
} bounded_stack;
bounded_stack bounded_to_host(bounded *b);
bounded_stack bounded_from_host(bounded *b);
void bounded_back(bounded *b, bounded_stack before);
int bounded_over(bounded *b);              /* PF_OK, or the status that ended the script */
const char *bounded_why(const bounded *b); /* and what was over, with file and line */
void bounded_end(bounded *b, int status);  /* over: with pf_last_error as its reason */

/* Where the binding's Lua files lie, borrowed: no place in them is a script's. NULL: nothing. */
void bounded_home(bounded *PF_NULLABLE b, const char *home);

/* From now on running out of bytes ends it, or not any more; as it was before. */
bool bounded_firm(bounded *b, bool firm);
bool bounded_is_stranger(const bounded *PF_NULLABLE b);

/* ---- for what runs in a state; where it is not a bounded one, they do nothing ---- */
bounded *bounded_of(lua_State *L);                 /* NULL: it is none */
void bounded_charge(lua_State *L, uint64_t units); /* raises when over; a listener hears it */
void bounded_look(lua_State *L);                   /* the same of nothing, at once */
/* Pays for the arguments, whose texts the running function reads whole; raises where they are more
 * than a stranger's call may read. */
void bounded_read(lua_State *L);
/* Pays for the format at 1, whose every letter may be a step; raises where it is longer than a
 * stranger's may be. */
void bounded_format(lua_State *L);
/* How many values a call may give that gives as many as it is asked for. */
int bounded_values(lua_State *L);
/* A whole collection, in bounded states where finalizers have room; else false, and nothing. */
bool bounded_collect(lua_State *L);
/* An engine's status that is about to be raised: a limit's, a cancel's end the script. true: the
 * state is a bounded one, whose host lowers its cancel flag itself. */
bool bounded_note(lua_State *L, int status);

/* ---- for coroutines ---- */
enum {
    BOUNDED_PACE = 256, /* instructions between two looks of the hook */
    BOUNDED_SHORT = 16  /* the same while something is large; of a stranger's long texts fewer, in
                           the longest's measure, down to one */
};
void bounded_run(bounded *b, lua_State *L);     /* the one that runs from now on */
bool bounded_close_begin(bounded *b, int most); /* false: as many are closing already */
void bounded_close_end(bounded *b);

#endif
