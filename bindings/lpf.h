/*
 * lpf.h - what the files of the binding share: the context of one Lua state (its engine, its
 * open tapes), errors, options, and the userdata classes.
 *
 * Rules that hold everywhere. A userdata is made closed (zeroed) and filled by the call
 * that can fail, so nothing leaks when Lua raises in between. An engine's failure becomes
 * a Lua error in lpf_result only, or `nil, message, code` in lpf_outside only. Counting from
 * 1 is turned into counting from 0, and back, in lpf_place.c only. Nothing is global but what
 * signals say (below), and on a thread who asks for layers (lpf_context.c). No two files need each
 * other: lpf_open.c calls all, lpf_raise.c none.
 */
#ifndef LPF_H
#define LPF_H

#include <locale.h>
#include <stdatomic.h>

#include <lauxlib.h>
#include <lua.h>

#include "performer_attention.h"

#define LPF_TENSOR    "performer.tensor"
#define LPF_TAPE      "performer.tape"
#define LPF_MODULE    "performer.module"
#define LPF_OPTIMIZER "performer.optimizer"
#define LPF_STREAM    "performer.stream"
#define LPF_SERVING   "performer.serving"
#define LPF_STATE     "performer.state"
#define LPF_DATA      "performer.data"
#define LPF_ITEMS     "performer.items"
#define LPF_KERNEL    "performer.kernel"

enum { LPF_MAX_IN = 24, LPF_MAX_ATTR = 24, LPF_MAX_OUT = 8, LPF_NAME = 32 };

/* Bytes of tensors made before the collector is asked to look for dead ones. */
enum { LPF_MIN_TRIGGER = 64 << 20 };

/* One op of the table, its argument names cut apart. */
typedef struct lpf_op {
    pf_op_info info;
    int index;
    int n_args;
    char arg[LPF_MAX_IN][LPF_NAME];
} lpf_op;

typedef struct lpf_tape {
    pf_tape *tape; /* NULL: closed */
    struct lpf_tape *outer;
} lpf_tape;

typedef struct lpf_closer lpf_closer;

/* One a Lua state; reference-counted, because Lua layers in C modules point to it. */
typedef struct lpf_context {
    int refs;          /* touched by the thread of the Lua state alone */
    pf_engine *engine; /* NULL: not opened yet */
    bool owned;        /* false: the host's engine */
    lua_State *main;   /* NULL: the Lua state is gone */
    lua_State *L;      /* the thread that called last: callbacks run on it */
    lpf_tape *tape;    /* innermost open tape */
    int inside;        /* calls into Lua by a script's host and by the engine that run now */
    bool hosted;       /* a pf_script: nothing but these runs code in it ... */
    pf_meter *meter;   /* ... within this one's limits, */
    const pf_file_access *files; /* and this access to files; NULL: the engine's own */
    pf_random *random;           /* a stranger's own random numbers, or NULL: the engine's */
    bool stranger;               /* its layers are for its own models alone */
    locale_t plain, hosts; /* "C", which a stranger's code runs in, or 0; the thread's before */
    bool watching;         /* numbers that are not finite (check.finite), from here on */
    const pf_pass *pass;   /* of the innermost Lua layer or recompute that runs, or NULL */
    uint64_t streams;      /* opened so far: the default seed of each */
    uint64_t step;         /* training steps so far: keys dropout */
    size_t debt;           /* bytes of tensors made since the last full collection */
    size_t trigger;        /* debt that asks for the next one */
    int kept, kept_most; /* values that the engine's objects call; when dead ones are looked for */
    lpf_op *ops;
    int n_ops;
    int log_ref;             /* Lua function for messages, or LUA_NOREF: warnings to stderr */
    lpf_closer *closers;     /* run before the engine closes */
    pf_layer_resolver outer; /* who found layers by name before this state did; NULL: nobody */
    void *outer_context;
    struct lpf_context *outer_state; /* the same, retained, where it is another state's */
} lpf_context;

/* Between the program's signal handlers and scripts; a host or a stock lua leaves them alone. */
extern atomic_int lpf_interrupts; /* how often the user asked to stop */
extern atomic_int lpf_polled;     /* a script asks pf.interrupted() itself */
extern atomic_int lpf_cancel;     /* stops long engine calls */
extern atomic_int lpf_stopping;   /* the script was told to end: what it throws now is that end */
extern atomic_int lpf_careful;    /* a script looks itself whether what it writes arrives */

/* ---- context, engine, classes (lpf_context.c) ---- */
lpf_context *lpf_enter(lua_State *L); /* marks L as the calling thread */
pf_engine *lpf_engine(lua_State *L);  /* the engine, opened with defaults at first use */
void lpf_context_release(lpf_context *ctx);
/* `close` runs when the Lua state closes, before the engine does. */
void lpf_at_close(lua_State *L, void (*close)(lpf_context *));
/* Binds L to a host's engine before performer.core is loaded. */
void lpf_bind_engine(lua_State *L, pf_engine *engine);
/* From here on layers of a name are asked for by this state: other states' are not found. Gives who
 * asked before, to be put back; NULL: the host. */
lpf_context *lpf_ask_layers(lpf_context *ctx);
/* lpf_locale.c: around a stranger's code, else nothing. The leave gets what the enter gave. */
locale_t lpf_locale_enter(lpf_context *ctx);
void lpf_locale_leave(lpf_context *ctx, locale_t before);
/* The same around what is the host's inside that: true in front of it, false behind. */
void lpf_locale_hosts(lpf_context *ctx, bool hosts);
int lpf_open_engine(lua_State *L); /* pf.open{...} */
int lpf_limit(lua_State *L);       /* pf.limit{...} */
/* Bytes from a number or "512M", "4G"; raises for anything else. */
size_t lpf_check_bytes(lua_State *L, int index, const char *where, const char *what);
/* {bytes, work, seconds, depth}, with the nearest of these names where one is none (lpf_limits.c).
 */
void lpf_check_limits(lua_State *L, int index, const char *where, pf_limits *limits);
void lpf_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);
/* For an __index: the method of class `name` that the key at 2 names. There is none: raises with
 * what was meant, or the nearest; strict: in any case, else nil. */
int lpf_find_method(lua_State *L, const char *name, bool strict);
/* More methods of a class, from a file that stands above the class's own. */
void lpf_add_methods(lua_State *L, const char *name, const luaL_Reg *methods);
void *lpf_new(lua_State *L, const char *name, size_t bytes); /* zeroed, metatable set */

/* ---- errors (lpf_raise.c) ---- */
/* Raises with the position of the nearest caller outside the binding's own Lua files. */
int lpf_raise(lua_State *L, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Lua's errors don't come back, which functions that return an int can't say to clang-tidy. */
#ifdef __clang_analyzer__ /* NOLINTBEGIN(readability-redundant-declaration) */
int lpf_raise(lua_State *L, const char *format, ...) __attribute__((analyzer_noreturn));
int luaL_error(lua_State *L, const char *format, ...) __attribute__((analyzer_noreturn));
int lua_error(lua_State *L) __attribute__((analyzer_noreturn));
#endif /* NOLINTEND(readability-redundant-declaration) */

int lpf_raise_message(lua_State *L);        /* raises the string on top, with position */
int lpf_raise_as(lua_State *L, int status); /* the same, as the engine's failure `status` */
/* The text on top is raised as the failure `status`: nothing is popped. And which status an error
 * comes from, raised again by others too: PF_EHOST for what is no failure of the engine's. */
void lpf_remember(lua_State *L, int status);
int lpf_status_of(lua_State *L, int index);
/* Is a function, of which ar has the source, the binding's own (performer/nn.lua and friends)? */
bool lpf_is_ours(lua_State *L, const lua_Debug *ar);
int lpf_result(lua_State *L, int status); /* status >= 0, or raises */
/* status = a call that takes no engine, which stops when that of L has to. */
#define LPF_LENT(L, status, call)                                                                  \
    do {                                                                                           \
        pf_engine *before_ = pf_engine_lend(lpf_engine(L));                                        \
        (status) = (call);                                                                         \
        pf_engine_lend(before_);                                                                   \
    } while (0)
/* 0 for success; pushes nil, message, code (3) when the outside world failed; else raises. */
int lpf_outside(lua_State *L, int status);
int lpf_failure(lua_State *L, int status); /* pushes nil, message, code, whatever the status */
/* The same for what reads files, where what a file says is the outside world's, whichever check
 * it fails: only memory, a cancelled call and an error in Lua raise. */
int lpf_loaded(lua_State *L, int status);
/* Runs a callback's body protected; its error waits for lpf_result. PF_OK or PF_EHOST. */
int lpf_protect(lpf_context *ctx, lua_CFunction body, void *call);
/* Ends a watch of numbers (check.finite), unless it stood `before`. */
void lpf_end_watch(lpf_context *ctx, bool before);
/* Nothing waits any more. The first call makes the slots: keeping an error must not allocate. */
void lpf_forget_error(lua_State *L);
const char *lpf_class_of(lua_State *L, int index); /* "nil", "performer.tensor", ... */
/* For messages: "a closed performer.tape", too; that may push one value. */
const char *lpf_kind(lua_State *L, int index);

/* Makes '?' of what a terminal might obey: control characters, and bytes that are no UTF-8. lines:
 * the text may have several, and tabs. */
void lpf_plain(char *text, bool lines);
/* What ranks make of a failure that ends this one: its exit code, and no text where all know of it
 * and rank 0 has said it. May sleep for some seconds. */
int lpf_end_of_ranks(lua_State *L, char *text, int code);

/* ---- terminals and pipes (lpf_open.c); for signal handlers, too ---- */
bool lpf_no_reader(int fd); /* a pipe or socket that nobody reads any more */

/* ---- options and arguments (lpf_options.c) ---- */
/* Field `key` of the options at `index` (a table, nil or nothing); checked kinds. */
double lpf_opt_number(lua_State *L, int index, const char *key, double def);
int64_t lpf_opt_integer(lua_State *L, int index, const char *key, int64_t def);
/* The same from 0 on; def: a number below 2^63, as what it replaces. */
uint64_t lpf_opt_count(lua_State *L, int index, const char *key, uint64_t def);
bool lpf_opt_bool(lua_State *L, int index, const char *key, bool def);
const char *lpf_opt_string(lua_State *L, int index, const char *key, const char *def);
/* Refuses keys of the options table that are not in `allowed` (NULL-terminated). */
void lpf_check_options(lua_State *L, int index, const char *const *allowed, const char *where);
/* What a message says behind the unknown name `word` where there are `names`: what is meant by it,
 * as words.lua knows other libraries, or the nearest, or "". The text stands on the stack. */
const char *lpf_hint(lua_State *L, const char *word, const char *const *names, int n);
#define LPF_HINT_CHOICE "performer.hint_choice" /* in the registry: function(message) -> message */
#define LPF_HINT        "performer.hint"        /* in the registry: function(word, names) -> text */
/* No text of these holds a zero byte, where C would take its beginning for the whole. */
const char *lpf_check_text(lua_State *L, int index, const char *where, const char *what);
double lpf_check_number(lua_State *L, int index, const char *where, const char *what);
int64_t lpf_check_whole(lua_State *L, int index, const char *where, const char *what);
int64_t lpf_opt_whole(lua_State *L, int index, const char *where, const char *what, int64_t def);

/* ---- counting (lpf_place.c) ---- */
enum { LPF_NO_END = -1 }; /* nobody knows how many there are: none counts from the end */
/* The place of a position (1 .. n, or -1 .. -n from the end), -1 when there is none. */
int64_t lpf_place(int64_t position, int64_t n);
/* The place of a dimension; a negative one stays, the engine takes it from the end too. */
int64_t lpf_dim(int64_t dim);
/* Positions first .. last become the places from `first` to before `last`; false: not in n. */
bool lpf_range(int64_t *first, int64_t *last, int64_t n);
int64_t lpf_told(int64_t place); /* what Lua calls it; negative stays */
void lpf_push_place(lua_State *L, int64_t place);
void lpf_tell_places(lua_State *L, pf_tensor *t); /* places in t become positions */
/* Positions in t, contiguous, become places; those from the end stay. Where there is a 0, or -1. */
int64_t lpf_take_places(pf_tensor *t);

/* ---- tensors (lpf_tensor.c) ---- */
pf_tensor **lpf_new_tensor(lua_State *L);            /* pushes a closed one */
void lpf_made(lua_State *L, const pf_tensor *t);     /* after filling it: tells the collector */
void lpf_push_tensor(lua_State *L, pf_tensor *t);    /* retains; NULL pushes nil */
pf_tensor *lpf_test_tensor(lua_State *L, int index); /* NULL: no tensor */
pf_tensor *lpf_check_tensor(lua_State *L, int index, const char *where, const char *what);
/* Self at `index`, its tape open: its numbers may be read. */
pf_tensor *lpf_check_living(lua_State *L, int index, const char *where);
bool lpf_collect_for(lua_State *L, int status);  /* true: out of memory, collected, try again */
void lpf_charge(lua_State *L, int64_t elements); /* read or written by no op; before it is done */
/* ids as an i32 tensor or a list of integers: pushes a buffer that holds them. */
int32_t *lpf_ids(lua_State *L, int index, const char *where, size_t *n);
/* Likewise positions as their places; `names` is what they are, in the plural. */
int64_t *lpf_place_list(lua_State *L, int index, const char *where, const char *names, size_t *n);
int lpf_push_ids(lua_State *L, const int32_t *ids, size_t n); /* as an i32 tensor */
void lpf_open_tensor(lua_State *L);
void lpf_open_make(lua_State *L);   /* constructors into the table on top */
void lpf_open_create(lua_State *L); /* more of them, and t:tobytes */

/* ---- ops (lpf_ops.c; their table: lpf_op_table.c) ---- */
const lpf_op *lpf_find_op(lua_State *L, const char *name); /* raises when there is none */
int lpf_call_op(lua_State *L);
int lpf_call_in_place(lua_State *L); /* a Lua function; its upvalue is the lpf_op */
/* Runs an op on the C stack's inputs and attributes, pushes its outputs, returns how many. */
int lpf_run(lua_State *L, const lpf_op *op, pf_tensor *const *in, int n_in, const pf_attr *attr);
pf_tensor *lpf_scalar(lua_State *L, int index, pf_dtype dtype, const char *where); /* pushes it */
const char *lpf_attr_name(const pf_attr_info *info); /* Lua's name of an attribute */
/* For a question about tables, which are the same in every engine: the user's may still be opened
 * with other options. The caller closes it at once. */
pf_engine *lpf_small_engine(lua_State *L);
void lpf_open_arith(lua_State *L);
void lpf_open_index(lua_State *L);
void lpf_open_ops(lua_State *L); /* functions into the table on top, methods into tensors */

/* ---- plain data (lpf_config.c) ---- */
pf_config *lpf_to_config(lua_State *L, int index, const char *where); /* pushes its owner */
/* Option `key` of the table at `index`, a map; NULL for none. Pushes its owner. */
pf_config *lpf_opt_config(lua_State *L, int index, const char *key, const char *where);
pf_config *lpf_take_config(lua_State *L, pf_config *node);    /* pushes an owner of node */
pf_config *lpf_new_config(lua_State *L, pf_config_kind kind); /* pushes an owner */
pf_config **lpf_config_slot(lua_State *L);                    /* pushes an empty owner */
char **lpf_text_slot(lua_State *L); /* likewise, for a text of the engine's */
void lpf_push_config(lua_State *L, const pf_config *node);
void lpf_open_config(lua_State *L);

/* ---- Lua values that the engine's objects call (lpf_keep.c) ---- */

/* The box of such an object; the first member is what all boxes of its class begin with. */
typedef struct {
    void *thing;                  /* NULL: closed */
    bool (*shared)(const void *); /* whether others than the box hold it */
    int value;                    /* its place in the registry */
} lpf_kept;

lpf_kept *lpf_new_kept(lua_State *L, const char *name, bool (*shared)(const void *));
/* Keeps the value at `index` for the object of the box on top, until lpf_drop_kept; its place. */
int lpf_keep(lua_State *L, lpf_kept *box, int index);
void lpf_push_kept(lua_State *L, int value);
void lpf_drop_kept(const lpf_context *ctx, int value);
/* A full collection, also of what is kept by itself alone; false: there was no room for one. */
bool lpf_collect(lua_State *L);
/* Before a model is built from data, which names kernels: no garbage must have such a name. */
void lpf_drop_dead(lua_State *L);

/* ---- the rest: each adds its functions to the table on top ---- */
pf_module *lpf_check_module(lua_State *L, int index, const char *where);
void lpf_push_module(lua_State *L, pf_module *m); /* retains */
pf_module **lpf_new_module(lua_State *L);
pf_optimizer **lpf_new_optimizer(lua_State *L, int model_index);
pf_optimizer *lpf_check_optimizer(lua_State *L, int index, const char *where);
pf_kernel *lpf_test_kernel(lua_State *L, int index); /* NULL: none */
/* Closes the tapes that were opened since `tape` was the innermost, NULL: all. */
void lpf_close_tapes(lpf_context *ctx, const lpf_tape *tape);
/* NULL for nil; anything else that is none raises. */
pf_kernel *lpf_opt_kernel(lua_State *L, int index, const char *where);
/* Takes a stream, a state or a set of items out of its box for the time of a call: a map or layer
 * in Lua that closes or moves what calls it finds it closed. lpf_put_back: before lpf_result. */
void *lpf_take_out(lua_State *L, int index);
void lpf_put_back(lua_State *L, int index, void *thing);
/* lpf_stream.c: a closed stream that keeps alive what the value at `index` is or holds, the model;
 * {temperature, top_k, top_p, min_p, repetition_penalty, seed} there; and i32 ids there as what
 * pf_stream_allow takes of a vocabulary (in a buffer that is pushed), NULL for one that is none of
 * its. */
pf_stream **lpf_new_stream(lua_State *L, int index);
pf_sampling lpf_read_sampling(lua_State *L, int index);
uint8_t *lpf_allowed(lua_State *L, int index, const char *where, int64_t vocab, int32_t *wrong);
pf_state **lpf_new_stream_state(lua_State *L);
pf_state *lpf_check_stream_state(lua_State *L, int index, const char *where);
/* What a model's call begins with: the pass of the Lua code around it, or a tape's being open. */
static inline pf_pass lpf_pass_around(const lpf_context *ctx) {
    const pf_pass fresh = {.size = sizeof fresh, .training = ctx->tape != NULL, .step = ctx->step};
    return ctx->pass ? *ctx->pass : fresh;
}
/* lpf_pass.c: the pass of a call of m: what stands around it, then the batch at `batch` (0: none),
 * then the table at `index` (0: none). What it points to stays on the stack. */
pf_pass lpf_read_pass(lua_State *L, const pf_module *m, int batch, int index);
/* The inputs of m that the table at `index` has, beside `batch`. */
const pf_named *lpf_read_inputs(lua_State *L, const pf_module *m, int index, const char *where,
                                int *n);
void lpf_push_pass(lua_State *L, const pf_pass *pass);
void lpf_open_describe(lua_State *L);
void lpf_open_tape(lua_State *L);
void lpf_open_recompute(lua_State *L);
void lpf_open_kernel(lua_State *L);
void lpf_open_attention(lua_State *L);
void lpf_open_survey(lua_State *L);
void lpf_open_nn(lua_State *L);
void lpf_open_define(lua_State *L);
void lpf_open_layer(lua_State *L);
void lpf_open_state(lua_State *L);
void lpf_open_stream(lua_State *L);
void lpf_open_serving(lua_State *L);
void lpf_open_items(lua_State *L);
void lpf_open_train(lua_State *L);
void lpf_open_io(lua_State *L);
void lpf_open_file(lua_State *L);
void lpf_open_data(lua_State *L);
void lpf_open_comm(lua_State *L);
void lpf_open_comm_files(lua_State *L);

PF_API int luaopen_performer_core(lua_State *L);
PF_API int luaopen_performer(lua_State *L);

#endif
