/*
 * script.h - what the files behind performer_lua.h share: a script, how the host enters its Lua
 * state, and how what happens there becomes a status and a text.
 *
 * Nothing of Lua's is called by the host unprotected: whatever may raise is a body that
 * lpf_script_enter runs. Nothing that a body has made is left to the stack when it raises: objects
 * lie in userdata, or in places that the host's side clears.
 */
#ifndef LPF_SCRIPT_H
#define LPF_SCRIPT_H

#include <lua.h>

#include "bounded.h"
#include "lpf.h"
#include "performer_lua.h"

enum { LPF_SCRIPT_NAME = 64 };

struct pf_script {
    pf_engine *engine; /* retained: its husk says that it has closed */
    pf_meter *meter;   /* pays for all that it holds, and for this struct */
    bounded *bounded;
    lua_State *L; /* its main thread */
    lpf_context *context;
    pf_random *random; /* a stranger's own; NULL: it draws the engine's */
    int environment;   /* registry: the globals of its chunks */
    bool sandbox;
    bool closing; /* no call begins any more */
    int held;     /* files that are being run, whose text it pays for */
    bool placed;  /* the first chunk has said where `require` looks */
    size_t bytes; /* the bound of what it holds now; 0: none */
    unsigned set; /* how often the host has set its limits */
    pf_script_print print;
    void *print_context;
    char name[LPF_SCRIPT_NAME];
};

/* ---- script_error.c ---- */

/* Says it where hosts look for a script's error, and where they look for any. Gives `status`. */
int lpf_script_refuse(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same of an error on top of the stack, which it takes off: `lua_status` is what lua_pcall
 * gave. PF_OK where the script ended itself well. */
int lpf_script_thrown(lua_State *L, int lua_status);
/* Did the thread's last error end a script by its own wish (pf.exit, os.exit)? The exit code that
 * it asks for, with its own words in *text, "" for none; -1: no, and *text stays as it is. */
int lpf_script_exit(const char **text);
/* A message handler, which keeps where it happened for lpf_script_thrown. */
int lpf_script_handler(lua_State *L);
/* What a call comes to that gave `status`: not its own end where a limit had been reached. */
int lpf_script_ended(bounded *b, int status);
void lpf_script_quiet(void); /* there is no error any more */

/* PF_EINVAL, naming the first of the pointers that is NULL. */
#define LPF_NEED(pointer)                                                                          \
    do {                                                                                           \
        if (!(pointer)) return lpf_script_refuse(PF_EINVAL, "%s: " #pointer " is NULL", __func__); \
    } while (0)

/* ---- script_enter.c ---- */

/* Runs body(L) with `job`, a light userdata, as its argument, on the Lua thread that runs now,
 * within `limits` of its own (or NULL). A status, told by `where`; what was open before (tapes) is
 * what is open after. */
int lpf_script_enter(pf_script *script, const char *where, lua_CFunction body, void *job,
                     const pf_limits *limits);
/* Closes it, or says that it is to be closed when nothing of it runs any more. */
void lpf_script_drop(pf_script *script);

/* ---- script.c ---- */

/* A lua_CFunction for states that were given no place of the Lua files: raises where they are on no
 * path of Lua's either. */
int lpf_script_find_files(lua_State *L);
/* Refuses a lua_dir that a host gave and that has no Lua files of the binding's; NULL passes. */
int lpf_script_check_dir(const char *where, const char *lua_dir);

/* pf_script_load_file with arguments: its `arg` and `...`. *ran: it could be read and compiled, and
 * what failed is its own; NULL: who asks does not mind. */
int lpf_script_run_file(pf_script *script, const char *path, const char *program, int argc,
                        const char *const *argv, bool *PF_NULLABLE ran);

/* ---- script_value.c ---- */

/* PF_EINVAL, naming the first that can't be one: no kind, or a NULL. */
int lpf_values_check(const char *where, const char *what, const pf_value *values, int n);
void lpf_push_value(lua_State *L, const pf_value *value); /* raises for want of memory alone */
/* The value at `index`, borrowed from it: good while it is on the stack. What has no such form
 * (plain data) is pushed, and so what is pushed has to stay, too. Raises: `what` is no value. */
void lpf_borrow_value(lua_State *L, int index, pf_value *value, const char *what);
/* The same, owned. */
void lpf_take_value(lua_State *L, int index, pf_value *value, const char *what);
/* A block of n nil values that is on the stack, and clears what they own when it is collected. */
pf_value *lpf_new_values(lua_State *L, int n);

#endif
