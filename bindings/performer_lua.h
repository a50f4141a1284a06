/*
 * performer_lua.h - Lua scripts inside a host program: a second library (performer_lua), so
 * that the engine itself never links Lua. The manners are those of performer.h.
 *
 * A pf_script is a Lua state of its own on an engine of the host's: what it makes, Lua's own
 * objects too, lives in that engine's memory and obeys its budget, its limits, seed, logger and
 * cancel flag. The host loads chunks into it, calls their functions by name and gives it functions
 * to call; tensors and models go both ways as the same objects, without a copy.
 *
 *     static int now(void *context, pf_script *script, const pf_value *args, int n_args,
 *                    pf_value *results) {
 *         results[0] = pf_value_number(*(const double *)context);
 *         return 1;
 *     }
 *
 *     pf_script *script = NULL;
 *     int status = pf_script_open(&script, engine, NULL);
 *     if (status >= 0) status = pf_script_set_function(script, "host.now", now, &seconds);
 *     if (status >= 0) status = pf_script_load_file(script, "game.lua");
 *     if (status >= 0) {
 *         pf_value args[] = {pf_value_tensor(board), pf_value_number(0.5)}, move;
 *         status = pf_script_call(script, "game.move", args, 2, &move, 1, NULL);
 *         if (status >= 0) play(move.as.tensor);
 *         pf_value_clear(&move);
 *     }
 *     if (status < 0) fprintf(stderr, "%s\n", pf_script_error());
 *     pf_script_close(&script);
 *
 * Scripts don't see each other: globals, libraries and nn.define'd layers are each one's own; of
 * what the host gave (pf_engine_resolve_layers) all have the use. A script is used by the thread
 * that uses its engine.
 */
#ifndef PERFORMER_LUA_H
#define PERFORMER_LUA_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pf_script pf_script;

/* ---- values ----------------------------------------------------------------------------
 * What crosses between host and script. A value borrows what it points to, or owns it (`owned`):
 * pf_value_clear then lets go of it, and of a borrowed one does nothing.
 *
 * Plain data are nested tables: null, booleans, numbers, texts, lists and maps (pf_config). Lua's
 * functions, coroutines and objects of other libraries are no values. */

typedef enum {
    PF_VALUE_NIL,
    PF_VALUE_BOOL,
    PF_VALUE_INTEGER,
    PF_VALUE_NUMBER,
    PF_VALUE_TEXT, /* bytes with their length, zeros among them; a 0 stands behind the last */
    PF_VALUE_TENSOR,
    PF_VALUE_MODULE,
    PF_VALUE_DATA
} pf_value_kind;

typedef struct {
    pf_value_kind kind;
    bool owned;
    size_t bytes; /* of a text */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const char *text;
        pf_tensor *tensor;
        pf_module *module;
        pf_config *data;
    } as;
} pf_value;

/* Values that borrow; `owned = true` gives what they point to over to whoever gets the value. */
static inline pf_value pf_value_of(pf_value_kind kind) {
    pf_value value;
    value.kind = kind, value.owned = false, value.bytes = 0, value.as.integer = 0;
    return value;
}
static inline pf_value pf_value_nil(void) { return pf_value_of(PF_VALUE_NIL); }
static inline pf_value pf_value_bool(bool boolean) {
    pf_value value = pf_value_of(PF_VALUE_BOOL);
    value.as.boolean = boolean;
    return value;
}
static inline pf_value pf_value_integer(int64_t integer) {
    pf_value value = pf_value_of(PF_VALUE_INTEGER);
    value.as.integer = integer;
    return value;
}
static inline pf_value pf_value_number(double number) {
    pf_value value = pf_value_of(PF_VALUE_NUMBER);
    value.as.number = number;
    return value;
}
static inline pf_value pf_value_text(const char *text, size_t bytes) {
    pf_value value = pf_value_of(PF_VALUE_TEXT);
    value.as.text = text, value.bytes = bytes;
    return value;
}
static inline pf_value pf_value_tensor(pf_tensor *tensor) {
    pf_value value = pf_value_of(PF_VALUE_TENSOR);
    value.as.tensor = tensor;
    return value;
}
static inline pf_value pf_value_module(pf_module *module) {
    pf_value value = pf_value_of(PF_VALUE_MODULE);
    value.as.module = module;
    return value;
}
static inline pf_value pf_value_data(pf_config *data) {
    pf_value value = pf_value_of(PF_VALUE_DATA);
    value.as.data = data;
    return value;
}
/* Lets go of what it owns, and makes it nil. */
PF_API void pf_value_clear(pf_value *value);
/* An owned one: of a tensor or a module one more reference, of texts and plain data a copy. nil
 * after a failure; what was in *copy is not looked at. */
PF_API int pf_value_copy(pf_value *copy, const pf_value *value);

/* ---- scripts ---------------------------------------------------------------------------
 * Errors. What a script raises comes out of the call as a status: that of the engine's refusal
 * which it did not catch (PF_ESHAPE, PF_ENOMEM, PF_ECANCEL ...), a host function's own, PF_ENOMEM
 * where Lua's memory ran out, else PF_EHOST; pf_script_error says what and where, with a traceback.
 * After it the script goes on as any Lua state after a caught error.
 *
 * Limits stand on the engine, the script and a call, and all hold. Over work or time, or cancelled,
 * a call ends with PF_ELIMIT or PF_ECANCEL, whatever the script catches; over the bytes of a script
 * or a call with PF_ENOMEM in the same way, while of the engine's budget a script may catch that
 * and go on with less. Finalizers (__gc) of scripts outside a sandbox run without bounds of work.
 *
 * A script that ends itself (pf.exit, os.exit) ends the call: code 0 is PF_OK, another PF_EHOST.
 * A tape that is still open when the host's call ends is closed then. */

/* A line that the script prints, without its end; `text` has a 0 behind its bytes. */
typedef void (*pf_script_print)(void *context, const char *text, size_t bytes);

typedef struct {
    size_t size;
    const char *name; /* in messages; NULL: "script" */
    /* For strangers' scripts: only what can neither reach out of it nor end it, no files, no
     * bytecode, no finalizers; random numbers of its own, from the engine's seed on, layers by
     * name that its own models alone find, and the "C" locale but in functions of the host's.
     * Without it a script may do what the process may do. */
    bool sandbox;
    /* Which libraries a sandbox has beside the basic functions, names with commas: "string, table".
     * NULL: all that it may. */
    const char *libraries;
    /* Copied; NULL: none but the engine's. Lua with performer, which a sandbox loads as it opens,
     * takes about 900 KB of its bytes. */
    const pf_limits *limits;
    /* What it opens goes there, "memory:" too; borrowed while it is open. NULL: to the engine's own
     * access, of a sandbox nowhere. */
    const pf_file_access *files;
    /* What `print` writes. NULL: to the standard output, as stock Lua, where io.write writes in any
     * case; in a sandbox nowhere. */
    pf_script_print print;
    void *print_context;
    /* The folder that holds performer/init.lua (PREFIX/share/performer/lua); NULL: where it lies
     * beside the library, or beside a program that this is a part of: who links statically into
     * another folder has to say it. PF_ENOTFOUND: the file is not there. */
    const char *lua_dir;
} pf_script_options;

/* The options' limits count from its end. */
PF_API int pf_script_open(pf_script **script, pf_engine *engine,
                          const pf_script_options *PF_NULLABLE options);
/* What the host got from it stays good, but a model's layers in Lua fail from then on (until then
 * they run within its limits and with its files, also for the host). In any order with its engine
 * and with other scripts; in the middle of one of its calls it closes when the outermost of them
 * ends. Finalizers run then, if the engine is open. */
PF_API void pf_script_close(pf_script **script);
/* The engine that it is on, borrowed; NULL of NULL. */
PF_API pf_engine *pf_script_engine(const pf_script *script);
/* Other limits from now on, all counts at 0 and nothing over; NULL: none but the engine's. Once its
 * work or time is over, every call answers PF_ELIMIT until then. */
PF_API int pf_script_limit(pf_script *script, const pf_limits *PF_NULLABLE limits);
/* What it holds, Lua's objects and tensors, and what it has done since its limits were set. */
PF_API int pf_script_usage(const pf_script *script, pf_usage *usage);

/* Compiles the text (no bytecode) and runs it; `name` stands in messages before the line.
 * PF_EFORMAT: it doesn't compile. */
PF_API int pf_script_load(pf_script *script, const char *name, const char *text, size_t bytes);
/* The same with a file; PF_ENOTFOUND, PF_EIO: it can't be read. `require` looks beside the first
 * file that was loaded, and never in the current folder. */
PF_API int pf_script_load_file(pf_script *script, const char *path);

/* Names are global ones, or fields below them: "update", "game.update". */

/* Calls a function with args[0 .. n_args-1], which it borrows. How many results it gave, at most
 * max_results: those are the caller's to clear, the others nil, as are all after a failure. limits:
 * of this call; its bytes are those that are held more than before. PF_ENOTFOUND: there is no such
 * function. PF_EINVAL: a result is no value. At most PF_SCRIPT_DEPTH calls of scripts may be inside
 * each other, by functions of the host's, on a thread: PF_ELIMIT. */
#define PF_SCRIPT_DEPTH 32
PF_API int pf_script_call(pf_script *script, const char *function, const pf_value *args, int n_args,
                          pf_value *results, int max_results, const pf_limits *PF_NULLABLE limits);

/* A function of the host's: arguments are borrowed for the call. Writes up to PF_SCRIPT_RESULTS
 * results, which are nil before, and returns how many; what they own the library clears. Or returns
 * a negative status with a text (pf_set_error), which is raised in the script with its file and
 * line. It may call the script in turn. */
#define PF_SCRIPT_RESULTS 16
typedef int (*pf_script_fn)(void *context, pf_script *script, const pf_value *args, int n_args,
                            pf_value *results);
/* `context` lives as long as the script. Tables that the name goes through are made. */
PF_API int pf_script_set_function(pf_script *script, const char *name, pf_script_fn function,
                                  void *PF_NULLABLE context);
PF_API int pf_script_set(pf_script *script, const char *name, const pf_value *value);
/* *value is the caller's to clear; nil where there is none. */
PF_API int pf_script_get(pf_script *script, const char *name, pf_value *value);

/* This thread's last script error, "" if none. Stands until the thread's next use of a script; of a
 * call that failed pf_last_error says it, too, cut at 2 KB. */
PF_API const char *pf_script_error(void);

/* ---- a script in one call --------------------------------------------------------------
 * Opens a script with default options, runs the file `path` with arguments argv[0 .. argc-1] (its
 * `arg` and `...`), and closes it: everything that it made is freed. Statuses are those of
 * pf_script_load_file. */
PF_API int pf_script_run(pf_engine *engine, const char *path, int argc, const char *const *argv);

/* ---- a Lua state of the host's own -----------------------------------------------------
 * Loads `performer` into it, bound to `engine` (NULL: it opens one at first use); leaves the module
 * on the stack. `lua_state` is a lua_State *, version 5.4. Bound to another engine already:
 * PF_ESTATE. lua_dir: as in pf_script_options. */
PF_API int pf_script_bind(void *lua_state, pf_engine *PF_NULLABLE engine,
                          const char *PF_NULLABLE lua_dir);
/* Pushes a value onto the stack of a state that is bound, and reads the one at `index`, which is
 * the caller's to clear. */
PF_API int pf_script_push(void *lua_state, const pf_value *value);
PF_API int pf_script_read(void *lua_state, int index, pf_value *value);

#ifdef __cplusplus
}
#endif

#endif
