/*
 * lpf_data.c - data sets: FASTA or text files, deduplicated, split, tokenized and cut into
 * rows by the engine; batches by number, so that a run can resume at any step.
 */
#include "lpf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pf_data *check_data(lua_State *L, const char *where) {
    pf_data **box = luaL_testudata(L, 1, LPF_DATA);
    lpf_enter(L);
    if (!box) return lpf_raise(L, "%s: a data set is needed, got %s", where, lpf_kind(L, 1)), NULL;
    if (!*box) lpf_raise(L, "%s: the data set has been closed", where);
    return *box;
}

static pf_split check_split(lua_State *L, const char *name, const char *where) {
    static const char *const names[] = {"train", "valid", "all"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) return (pf_split)i;
    lpf_raise(L, "%s: split must be train, valid or all, got '%s'", where, name);
    return PF_TRAIN;
}

static const char *opt_split(lua_State *L, int index) {
    return lua_isnoneornil(L, index) ? "train" : lpf_check_text(L, index, "data", "split");
}

/* open_data{path =, format =, length =, ...}; nil, message, code for an unusable file. */
static int data_open(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    if (!lua_istable(L, 1))
        return lpf_raise(L, "data: options are needed, as {path = ...}, got %s", lpf_kind(L, 1));
    const pf_config *options = lpf_to_config(L, 1, "data");
    pf_data **box = lpf_new(L, LPF_DATA, sizeof *box);
    int failed = lpf_outside(L, pf_data_open(box, engine, options));
    return failed ? failed : 1;
}

/* shard_data(options, folder): true; nil, message, code. */
static int data_shard(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    if (!lua_istable(L, 1))
        return lpf_raise(L, "shard: options are needed, as {path = ..., out = ...}, got %s",
                         lpf_kind(L, 1));
    const pf_config *options = lpf_to_config(L, 1, "shard");
    const char *folder = lpf_check_text(L, 2, "shard", "out");
    int failed = lpf_outside(L, pf_data_shard(engine, options, folder));
    if (!failed) lua_pushboolean(L, true);
    return failed ? failed : 1;
}

/* data_kind(path): "fasta" or "text"; nil, message, code. */
static int data_kind(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    const char *format;
    int failed =
        lpf_outside(L, pf_data_kind(&format, engine, lpf_check_text(L, 1, "kind", "path")));
    if (!failed) lua_pushstring(L, format);
    return failed ? failed : 1;
}

/* data:lay(length): the data set, in rows of that length from now on. */
static int data_lay(lua_State *L) {
    pf_data *data = check_data(L, "lay");
    lpf_result(L, pf_data_lay(data, lpf_check_whole(L, 2, "lay", "the length")));
    lua_settop(L, 1);
    return 1;
}

static int data_close(lua_State *L) {
    pf_data **box = luaL_checkudata(L, 1, LPF_DATA);
    lpf_enter(L);
    pf_data_close(box);
    return 0;
}

static void set_count(lua_State *L, const char *key, int64_t value) {
    lua_pushinteger(L, value);
    lua_setfield(L, -2, key);
}

/* data:info([split = "train"]) */
static int data_info(lua_State *L) {
    const pf_data *data = check_data(L, "info");
    pf_data_info info = {.size = sizeof info};
    lpf_result(L, pf_data_info_of(data, check_split(L, opt_split(L, 2), "info"), &info));
    lua_newtable(L);
    set_count(L, "documents", info.documents);
    set_count(L, "duplicates", info.duplicates);
    set_count(L, "tokens", info.tokens);
    set_count(L, "rows", info.rows);
    lua_pushstring(L, info.format);
    lua_setfield(L, -2, "format");
    lua_pushstring(L, info.tokenizer);
    lua_setfield(L, -2, "tokenizer");
    char sum[17]; /* a text: JSON has no whole numbers of 64 bits */
    snprintf(sum, sizeof sum, "%016" PRIx64, info.checksum);
    lua_pushstring(L, sum);
    lua_setfield(L, -2, "checksum");
    set_count(L, "skipped", info.skipped);
    if (info.skipped > 0) {
        lua_pushstring(L, info.skips);
        lua_setfield(L, -2, "skips");
    }
    lua_pushboolean(L, info.once);
    lua_setfield(L, -2, "once");
    set_count(L, "files", info.files);
    set_count(L, "shared", info.shared);
    set_count(L, "clusters", info.clusters);
    set_count(L, "block", info.block);
    lua_pushboolean(L, info.shards);
    lua_setfield(L, -2, "shards");
    return 1;
}

/* Hands a batch's tensors to the table on top, which owns them from then on. */
static void set_tensor(lua_State *L, const char *key, pf_tensor *t) {
    if (!t) return;
    lpf_push_tensor(L, t);
    lpf_made(L, t);
    lua_setfield(L, -2, key);
}

/* A batch is a userdata while its tensors go over to Lua, so that an error loses none. */
static int batch_gc(lua_State *L) {
    pf_batch_release(luaL_checkudata(L, 1, "performer.batch"));
    return 0;
}

/* Option rows = {first, last} of a batch of `size` rows, from 1, as a place and how many; false:
 * not given. */
static bool opt_rows(lua_State *L, int64_t size, int64_t *first, int64_t *n) {
    size_t count = 0;
    *first = 0, *n = size;
    if (lua_getfield(L, 2, "rows") == LUA_TNIL) return lua_pop(L, 1), false;
    const int64_t *row = lpf_place_list(L, lua_gettop(L), "batch", "rows", &count);
    if (count != 2 || row[1] < row[0] || row[1] >= size)
        lpf_raise(L, "batch: rows = {first, last} are of the %lld of the batch", (long long)size);
    *first = row[0], *n = row[1] - row[0] + 1;
    return true;
}

/* data:batch{index =, size =, split =, masked =, seed =, stream =, rows =}: index from 1. */
static int data_batch(lua_State *L) {
    static const char *const allowed[] = {"index", "size",   "split", "masked",
                                          "seed",  "stream", "rows",  NULL};
    int64_t first, n;
    check_data(L, "batch");
    lpf_check_options(L, 2, allowed, "batch");
    int64_t index = lpf_opt_integer(L, 2, "index", 1), size = lpf_opt_integer(L, 2, "size", 1);
    pf_split split = check_split(L, lpf_opt_string(L, 2, "split", "train"), "batch");
    int64_t place = lpf_place(index, LPF_NO_END);
    if (place < 0)
        return lpf_raise(L, "batch: index is %lld; batches count from 1", (long long)index);
    if (size < 1) return lpf_raise(L, "batch: size must be at least 1");
    pf_engine *engine = lpf_engine(L);
    pf_batch *batch = lpf_new(L, "performer.batch", sizeof *batch);
    batch->size = sizeof *batch;
    bool masked = lpf_opt_bool(L, 2, "masked", false), stream = lpf_opt_bool(L, 2, "stream", false);
    uint64_t seed = (uint64_t)lpf_opt_integer(L, 2, "seed", 0);
    if (masked && stream) return lpf_raise(L, "batch: rows that go on (stream) are not masked");
    if (opt_rows(L, size, &first, &n) && !stream)
        return lpf_raise(L, "batch: rows are of a batch of rows that go on (stream = true)");
    pf_data *data = check_data(L, "batch"); /* what was made may have collected what closes it */
    lpf_result(
        L, stream ? pf_data_stream_rows(batch, engine, data, split, (uint64_t)place, size, first, n,
                                        seed)
                  : pf_data_batch(batch, engine, data, split, (uint64_t)place, size, masked, seed));
    lua_createtable(L, 0, 6);
    set_tensor(L, "input", batch->input);
    set_tensor(L, "target", batch->target);
    set_tensor(L, "documents", batch->documents);
    set_tensor(L, "mask", batch->mask);
    set_count(L, "rows", batch->rows);
    set_count(L, "tokens", batch->tokens);
    pf_batch_release(batch);
    return 1;
}

/* data:document(i [, split]): ids with begin and end, and the name. */
static int data_document(lua_State *L) {
    pf_data *data = check_data(L, "document");
    int64_t index = lpf_check_whole(L, 2, "document", "the position");
    pf_split split = check_split(L, opt_split(L, 3), "document");
    pf_data_info info = {.size = sizeof info};
    lpf_result(L, pf_data_info_of(data, split, &info));
    int64_t place = lpf_place(index, info.documents);
    if (place < 0)
        return lpf_raise(L, "document: position %lld of %lld (they count from 1)", (long long)index,
                         (long long)info.documents);
    pf_engine *engine = lpf_engine(L);
    pf_tensor **ids = lpf_new_tensor(L);
    const char *name = NULL;
    data = check_data(L, "document"); /* as for a batch */
    lpf_result(L, pf_data_document(ids, &name, engine, data, split, place));
    lua_pushstring(L, name); /* borrowed from the data set */
    lpf_made(L, *ids);
    return 2;
}

/* The n values at `from` as a list. */
static void push_counts(lua_State *L, const double *from, int n) {
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        lua_pushinteger(L, (lua_Integer)from[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

/* data:counts([split = "train"]): {unigram = {...}, bigram = {{...}}}. The count of token id
 * stands at position id + 1; bigram[a + 1][b + 1] counts b after a. */
static int data_counts(lua_State *L) {
    const pf_data *data = check_data(L, "counts");
    pf_split split = check_split(L, opt_split(L, 2), "counts");
    pf_data_info info = {.size = sizeof info};
    lpf_result(L, pf_data_info_of(data, split, &info));
    int n = lpf_result(L, pf_tokenizer_size(info.tokenizer));
    double *one = lua_newuserdatauv(L, (size_t)n * sizeof *one, 0);
    double *two = lua_newuserdatauv(L, (size_t)n * (size_t)n * sizeof *two, 0);
    lpf_result(L, pf_data_counts(check_data(L, "counts"), split, one, two));
    lua_createtable(L, 0, 2);
    push_counts(L, one, n);
    lua_setfield(L, -2, "unigram");
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        push_counts(L, two + (size_t)i * (size_t)n, n);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "bigram");
    return 1;
}

/* data:identity{sample = 1000}: {sequences, unrelated, mean, median, histogram}. */
static int data_identity(lua_State *L) {
    static const char *const allowed[] = {"sample", NULL};
    check_data(L, "identity");
    lpf_check_options(L, 2, allowed, "identity");
    int64_t sample = lpf_opt_integer(L, 2, "sample", 1000);
    pf_identity_info info = {.size = sizeof info};
    lpf_result(L, pf_data_identity(check_data(L, "identity"), lpf_engine(L), sample, &info));
    lua_newtable(L);
    set_count(L, "sequences", info.sequences);
    set_count(L, "unrelated", info.unrelated);
    lua_pushnumber(L, info.mean);
    lua_setfield(L, -2, "mean");
    lua_pushnumber(L, info.median);
    lua_setfield(L, -2, "median");
    lua_createtable(L, 10, 0);
    for (int i = 0; i < 10; i++) {
        lua_pushinteger(L, info.histogram[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "histogram");
    return 1;
}

static int data_tostring(lua_State *L) {
    pf_data **box = luaL_checkudata(L, 1, LPF_DATA);
    pf_data_info info = {.size = sizeof info};
    if (*box && pf_data_info_of(*box, PF_ALL, &info) >= 0)
        lua_pushfstring(L, "data, %s: %I documents, %I tokens, %s tokenizer", info.format,
                        (lua_Integer)info.documents, (lua_Integer)info.tokens, info.tokenizer);
    else
        lua_pushliteral(L, "data, closed");
    return 1;
}

static const luaL_Reg methods[] = {{"info", data_info},     {"lay", data_lay},
                                   {"batch", data_batch},   {"document", data_document},
                                   {"counts", data_counts}, {"identity", data_identity},
                                   {"close", data_close},   {NULL, NULL}};
static const luaL_Reg meta[] = {
    {"__gc", data_close}, {"__close", data_close}, {"__tostring", data_tostring}, {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"open_data", data_open}, {"shard_data", data_shard}, {"data_kind", data_kind}, {NULL, NULL}};

void lpf_open_data(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg batch_meta[] = {{"__gc", batch_gc}, {NULL, NULL}};
    lpf_class(L, LPF_DATA, methods, meta);
    lpf_class(L, "performer.batch", none, batch_meta);
    luaL_setfuncs(L, functions, 0);
}
