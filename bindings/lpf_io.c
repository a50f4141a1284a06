/*
 * lpf_io.c - files: safetensors, checkpoints, inspection, what a state's file holds, and the
 * tokenizers. What the outside world refuses comes back as nil, message, code; misuse raises.
 */
#include "lpf.h"

#include <stdlib.h>
#include <string.h>

/* ---- safetensors -------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const pf_named *)a)->name, ((const pf_named *)b)->name);
}

/* The table {name = tensor} at `index` in the order of the names; what holds them
 * stays on the stack. */
static pf_named *named_of(lua_State *L, int index, const char *where, int *count) {
    if (!lua_istable(L, index))
        lpf_raise(L, "%s: {name = tensor} is needed, got %s", where, lpf_kind(L, index));
    size_t n = 0, i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) lpf_raise(L, "%s: the tensors need names", where);
        lpf_check_tensor(L, -1, where, lpf_check_text(L, -2, where, "a tensor's name"));
        n++;
    }
    pf_named *list = lua_newuserdatauv(L, (n + 1) * sizeof *list, 0);
    for (lua_pushnil(L); i < n && lua_next(L, index); lua_pop(L, 1))
        list[i++] = (pf_named){lua_tostring(L, -2), lpf_test_tensor(L, -1)};
    qsort(list, n, sizeof *list, by_name);
    *count = (int)n;
    return list;
}

/* save(path, {name = tensor} [, metadata]): in the order of the names. */
static int file_save(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "save", "the path");
    pf_engine *engine = lpf_engine(L);
    int n;
    lua_settop(L, 3);
    const pf_named *list = named_of(L, 2, "save", &n);
    const pf_config *metadata = lua_isnoneornil(L, 3) ? NULL : lpf_to_config(L, 3, "save");
    int failed = lpf_outside(L, pf_safetensors_save(engine, path, list, n, metadata));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* What a load gave, until it has become Lua's. */
typedef struct {
    pf_named *list;
    int n;
    pf_config *metadata;
} loaded;

/* The collector calls it, so nothing is lost when push_loaded raises. */
static int loaded_gc(lua_State *L) {
    loaded *l = luaL_checkudata(L, 1, "performer.loaded");
    if (l->list) pf_named_free(l->list, l->n);
    pf_config_free(l->metadata);
    *l = (loaded){0};
    return 0;
}

/* Pushes {name = tensor} and the metadata. */
static int push_loaded(lua_State *L, const loaded *l) {
    lua_createtable(L, 0, l->n);
    for (int i = 0; i < l->n; i++) {
        lpf_push_tensor(L, l->list[i].tensor);
        lpf_made(L, l->list[i].tensor);
        lua_setfield(L, -2, l->list[i].name);
    }
    if (l->metadata)
        lpf_push_config(L, l->metadata);
    else
        lua_newtable(L);
    return 2;
}

/* load(path): {name = tensor}, metadata. */
static int file_load(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "load", "the path");
    pf_engine *engine = lpf_engine(L);
    loaded *l = lpf_new(L, "performer.loaded", sizeof *l);
    int failed = lpf_loaded(L, pf_safetensors_load(engine, path, &l->list, &l->n, &l->metadata));
    return failed ? failed : push_loaded(L, l);
}

/* npy_save(path, tensor or {name = tensor} [, type [, deflated]]) */
static int npy_save(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "npy.save", "the path"), *type = NULL;
    pf_engine *engine = lpf_engine(L);
    const pf_tensor *t = lpf_test_tensor(L, 2);
    lua_settop(L, 4);
    if (!lua_isnil(L, 3)) type = lpf_check_text(L, 3, "npy.save", "dtype");
    int status, n;
    if (t) {
        status = pf_npy_save(engine, path, t, type);
    } else {
        const pf_named *list = named_of(L, 2, "npy.save", &n);
        status = pf_npz_save(engine, path, list, n, type, lua_toboolean(L, 4));
    }
    int failed = lpf_outside(L, status);
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* Zip files begin with these, empty ones with those at their end. */
static bool is_zip(pf_engine *engine, const char *path) {
    char front[2] = {0};
    int64_t bytes = 0;
    return pf_file_size(engine, path, &bytes) >= 0 && bytes >= 2 &&
           pf_file_read(engine, path, 0, front, sizeof front) >= 0 && memcmp(front, "PK", 2) == 0;
}

/* npy_load(path): the tensor, or of a zip file of several {name = tensor}. */
static int npy_load(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "npy.load", "the path");
    pf_engine *engine = lpf_engine(L);
    if (is_zip(engine, path)) {
        loaded *l = lpf_new(L, "performer.loaded", sizeof *l);
        int status = pf_npz_load(engine, path, &l->list, &l->n);
        if (lpf_collect_for(L, status)) status = pf_npz_load(engine, path, &l->list, &l->n);
        int failed = lpf_loaded(L, status);
        if (failed) return failed;
        push_loaded(L, l);
        lua_pop(L, 1);
        return 1;
    }
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_npy_load(t, engine, path);
    if (lpf_collect_for(L, status)) status = pf_npy_load(t, engine, path);
    int failed = lpf_loaded(L, status);
    if (failed) return failed;
    lpf_made(L, *t);
    return 1;
}

/* pack_state(state): {name = tensor}, metadata, as a file of it would hold. */
static int state_pack(lua_State *L) {
    const pf_state *state = lpf_check_stream_state(L, 1, "save");
    pf_engine *engine = lpf_engine(L);
    loaded *l = lpf_new(L, "performer.loaded", sizeof *l);
    lpf_result(L, pf_state_pack(engine, state, &l->list, &l->n, &l->metadata));
    return push_loaded(L, l);
}

/* unpack_state({name = tensor}, metadata): the state. */
static int state_unpack(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    int n;
    const pf_named *list = named_of(L, 1, "load", &n);
    const pf_config *metadata = lpf_to_config(L, 2, "load");
    pf_state **box = lpf_new_stream_state(L);
    lpf_result(L, pf_state_unpack(box, engine, list, n, metadata));
    return 1;
}

/* inspect(path): what a file or a folder of checkpoints holds, without reading the numbers. */
static int file_inspect(lua_State *L) {
    const char *path = lpf_check_text(L, 1, "inspect", "the path");
    pf_engine *engine = lpf_engine(L);
    pf_config **slot = lpf_config_slot(L);
    int failed = lpf_loaded(L, pf_inspect(slot, engine, path));
    if (failed) return failed;
    lpf_push_config(L, *slot);
    return 1;
}

/* ---- checkpoints -------------------------------------------------------------- */

/* Field `key` of table 2 as plain data, or NULL; its owner stays on the stack. */
static pf_config *config_field(lua_State *L, const char *key, const char *where) {
    if (lua_getfield(L, 2, key) == LUA_TNIL) return NULL;
    return lpf_to_config(L, -1, where);
}

/* What stands in a folder, or is at work there, may bar a call: that is the outside world's. */
static int outside_or_barred(lua_State *L, int status) {
    return status == PF_ESTATE ? lpf_failure(L, status) : lpf_outside(L, status);
}

/* checkpoint.save(dir, {model, optimizer, carried, state, tokenizer, step, keep}) */
static int checkpoint_save(lua_State *L) {
    static const char *const allowed[] = {"model",     "optimizer", "carried", "state",
                                          "tokenizer", "step",      "keep",    NULL};
    const char *dir = lpf_check_text(L, 1, "checkpoint.save", "the folder");
    if (!lua_istable(L, 2))
        return lpf_raise(L, "checkpoint.save: {model = ...} is needed, got %s", lpf_kind(L, 2));
    lpf_check_options(L, 2, allowed, "checkpoint.save");
    pf_engine *engine = lpf_engine(L);
    lua_getfield(L, 2, "model");
    pf_module *model = lpf_check_module(L, -1, "checkpoint.save");
    const pf_optimizer *optimizer = NULL;
    if (lua_getfield(L, 2, "optimizer") != LUA_TNIL)
        optimizer = lpf_check_optimizer(L, -1, "checkpoint.save");
    const pf_state *carried = NULL;
    if (lua_getfield(L, 2, "carried") != LUA_TNIL)
        carried = lpf_check_stream_state(L, -1, "checkpoint.save");
    int64_t steps = optimizer ? (int64_t)pf_optimizer_steps(optimizer) : 0;
    int64_t step = lpf_opt_integer(L, 2, "step", steps);
    int64_t keep = lpf_opt_integer(L, 2, "keep", 0);
    const pf_config *state = config_field(L, "state", "checkpoint.save");
    const pf_config *tokenizer = config_field(L, "tokenizer", "checkpoint.save");
    if (step < 0 || keep < 0 || keep > INT32_MAX)
        return lpf_raise(L, "checkpoint.save: step and keep must be at least 0");
    int failed = outside_or_barred(L, pf_checkpoint_save_carried(engine, dir, (uint64_t)step, model,
                                                                 optimizer, carried, state,
                                                                 tokenizer, (int)keep));
    if (failed) return failed;
    lua_pushfstring(L, "%s/step-%I", dir, (lua_Integer)step);
    return 1;
}

/* checkpoint.save_model(dir, {model, tokenizer}): true. */
static int model_save(lua_State *L) {
    static const char *const allowed[] = {"model", "tokenizer", NULL};
    const char *where = "checkpoint.save_model", *dir = lpf_check_text(L, 1, where, "the folder");
    if (!lua_istable(L, 2))
        return lpf_raise(L, "%s: {model = ...} is needed, got %s", where, lpf_kind(L, 2));
    lpf_check_options(L, 2, allowed, where);
    pf_engine *engine = lpf_engine(L);
    lua_getfield(L, 2, "model");
    pf_module *model = lpf_check_module(L, -1, where);
    const pf_config *tokenizer = config_field(L, "tokenizer", where);
    int failed = outside_or_barred(L, pf_model_save(engine, dir, model, tokenizer));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* Sets the plain data of a checkpoint in the table on top, where there is any. */
static void set_loaded(lua_State *L, const pf_config *state, const pf_config *tokenizer) {
    if (state) {
        lpf_push_config(L, state);
        lua_setfield(L, -2, "state");
    }
    if (tokenizer) {
        lpf_push_config(L, tokenizer);
        lua_setfield(L, -2, "tokenizer");
    }
}

/* checkpoint_load(dir [, without_optimizer]): {model, optimizer, state, tokenizer} */
static int checkpoint_load(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.load", "the folder");
    bool without = lua_toboolean(L, 2);
    lua_settop(L, 1);
    pf_engine *engine = lpf_engine(L);
    pf_module **model = lpf_new_module(L);              /* 2 */
    pf_optimizer **optimizer = lpf_new_optimizer(L, 2); /* 3 */
    pf_config **state = lpf_config_slot(L), **tokenizer = lpf_config_slot(L);
    lpf_drop_dead(L);
    lpf_context *before = lpf_ask_layers(lpf_enter(L));
    const int status =
        pf_checkpoint_load(engine, dir, model, without ? NULL : optimizer, state, tokenizer);
    lpf_ask_layers(before);
    int failed = lpf_loaded(L, status);
    if (failed) return failed;
    lua_newtable(L);
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "model");
    if (*optimizer) {
        lua_pushvalue(L, 3);
        lua_setfield(L, -2, "optimizer");
        lpf_enter(L)->step = pf_optimizer_steps(*optimizer);
    }
    set_loaded(L, *state, *tokenizer);
    return 1;
}

/* checkpoint_restore(dir, model [, optimizer]): into what is there; {state, tokenizer}. */
static int checkpoint_restore(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.load", "the folder");
    pf_module *model = lpf_check_module(L, 2, "checkpoint.load");
    pf_optimizer *optimizer = NULL;
    if (!lua_isnoneornil(L, 3)) optimizer = lpf_check_optimizer(L, 3, "checkpoint.load");
    pf_engine *engine = lpf_engine(L);
    pf_config **state = lpf_config_slot(L), **tokenizer = lpf_config_slot(L);
    int failed =
        lpf_loaded(L, pf_checkpoint_restore(engine, dir, model, optimizer, state, tokenizer));
    if (failed) return failed;
    if (optimizer) lpf_enter(L)->step = pf_optimizer_steps(optimizer);
    lua_newtable(L);
    set_loaded(L, *state, *tokenizer);
    return 1;
}

/* checkpoint.carried(dir, model): what the rows of a run go on from; nil: its checkpoint has none;
 * nil, message, code. */
static int checkpoint_carried(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.carried", "the folder");
    pf_module *model = lpf_check_module(L, 2, "checkpoint.carried");
    pf_engine *engine = lpf_engine(L);
    pf_state **box = lpf_new_stream_state(L);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    int failed = lpf_loaded(L, pf_checkpoint_carried(box, engine, dir, model));
    if (failed) return failed;
    if (!*box) lua_pushnil(L);
    return 1;
}

/* checkpoint.hold(dir) */
static int checkpoint_hold(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.hold", "the folder");
    int failed = outside_or_barred(L, pf_checkpoint_hold(lpf_engine(L), dir));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* checkpoint.mark(dir, "BEST", step) */
static int checkpoint_mark(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.mark", "the folder"),
               *mark = lpf_check_text(L, 2, "checkpoint.mark", "the mark");
    int64_t step = lpf_check_whole(L, 3, "checkpoint.mark", "step");
    pf_engine *engine = lpf_engine(L);
    int failed = outside_or_barred(L, pf_checkpoint_mark(engine, dir, mark, (uint64_t)step));
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

/* model_load(dir [, mapped]): the model alone. */
static int model_load(lua_State *L) {
    const char *dir = lpf_check_text(L, 1, "checkpoint.model", "the folder");
    const bool mapped = lua_toboolean(L, 2);
    pf_engine *engine = lpf_engine(L);
    pf_module **model = lpf_new_module(L);
    lpf_drop_dead(L);
    lpf_context *before = lpf_ask_layers(lpf_enter(L));
    const int status = (mapped ? pf_model_load_mapped : pf_model_load)(model, engine, dir);
    lpf_ask_layers(before);
    const int failed = lpf_loaded(L, status);
    return failed ? failed : 1;
}

/* ---- tokenizers --------------------------------------------------------------- */

/* The type at 1. A tokenizer has no state: its type is all that is handed on. */
static const char *check_tokenizer(lua_State *L) {
    const char *type = lpf_check_text(L, 1, "tokenizer", "its type");
    lpf_enter(L);
    lpf_result(L, pf_tokenizer_size(type));
    return type;
}

static int tokenizer_size(lua_State *L) {
    lua_pushinteger(L, pf_tokenizer_size(check_tokenizer(L)));
    return 1;
}

/* The id of "begin", "end", "mask", "pad", "unknown", or nil. */
static int tokenizer_special(lua_State *L) {
    int id = pf_tokenizer_special(check_tokenizer(L), lpf_check_text(L, 2, "special", "the name"));
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

/* The text's ids as an i32 tensor; nil, message, code for a text outside the alphabet. */
static int tokenizer_encode(lua_State *L) {
    const char *type = check_tokenizer(L);
    if (lua_type(L, 2) != LUA_TSTRING)
        return lpf_raise(L, "encode: a text is needed, got %s", lpf_kind(L, 2));
    size_t bytes, n = 0;
    const char *text = lua_tolstring(L, 2, &bytes);
    int status;
    lpf_charge(L, (int64_t)bytes);
    LPF_LENT(L, status, pf_tokenizer_encode(type, text, bytes, NULL, &n));
    int failed = lpf_outside(L, status);
    if (failed) return failed;
    int32_t *ids = lua_newuserdatauv(L, (n + 1) * sizeof *ids, 0);
    LPF_LENT(L, status, pf_tokenizer_encode(type, text, bytes, ids, &n));
    failed = lpf_outside(L, status);
    return failed ? failed : lpf_push_ids(L, ids, n);
}

/* The text of ids; twice, for its length is known when they have been read. */
static int tokenizer_decode(lua_State *L) {
    const char *type = check_tokenizer(L);
    size_t n, bytes = 0;
    const int32_t *ids = lpf_ids(L, 2, "decode", &n);
    int status;
    lpf_charge(L, (int64_t)n);
    LPF_LENT(L, status, pf_tokenizer_decode(type, ids, n, NULL, &bytes));
    lpf_result(L, status);
    luaL_Buffer b;
    char *text = luaL_buffinitsize(L, &b, bytes + 1);
    LPF_LENT(L, status, pf_tokenizer_decode(type, ids, n, text, &bytes));
    lpf_result(L, status);
    luaL_pushresultsize(&b, bytes);
    return 1;
}

static const luaL_Reg functions[] = {{"save", file_save},
                                     {"load", file_load},
                                     {"npy_save", npy_save},
                                     {"npy_load", npy_load},
                                     {"inspect", file_inspect},
                                     {"pack_state", state_pack},
                                     {"unpack_state", state_unpack},
                                     {"checkpoint_save", checkpoint_save},
                                     {"checkpoint_load", checkpoint_load},
                                     {"checkpoint_restore", checkpoint_restore},
                                     {"checkpoint_carried", checkpoint_carried},
                                     {"checkpoint_hold", checkpoint_hold},
                                     {"checkpoint_mark", checkpoint_mark},
                                     {"model_load", model_load},
                                     {"model_save", model_save},
                                     {"tokenizer_size", tokenizer_size},
                                     {"tokenizer_special", tokenizer_special},
                                     {"tokenizer_encode", tokenizer_encode},
                                     {"tokenizer_decode", tokenizer_decode},
                                     {NULL, NULL}};

void lpf_open_io(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", loaded_gc}, {NULL, NULL}};
    lpf_class(L, "performer.loaded", none, meta);
    luaL_setfuncs(L, functions, 0);
}
