/*
 * lpf_comm.c - ranks that train one model together (performer_comm.h): how they open, and verbs
 * over texts, tensors and whole numbers, of which performer/ranks.lua makes what scripts call.
 *
 * What must hold: a verb that fails raises on every rank; the program's end (core.comm_settle) then
 * asks nobody again.
 */
#include "host.h"
#include "lpf.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "performer_comm.h"
#include "performer_files.h"

/* ---- opening ------------------------------------------------------------------ */

/* comm_launched(): how many ranks a launcher has started (0: it has not), and which this one is. */
static int comm_launched(lua_State *L) {
    lua_pushinteger(L, pf_comm_launched());
    lua_pushinteger(L, pf_comm_launched_rank());
    return 2;
}

/* comm_launch{file =, timeout =}: true; nil, message, code. */
static int comm_launch(lua_State *L) {
    static const char *const allowed[] = {"file", "timeout", NULL};
    lpf_check_options(L, 1, allowed, "ranks.open");
    pf_comm_options options = PF_COMM_OPTIONS_DEFAULT;
    options.file = lpf_opt_string(L, 1, "file", NULL);
    options.timeout = lpf_opt_number(L, 1, "timeout", 0);
    if (!(options.timeout >= 0 && options.timeout <= 1e9))
        return lpf_raise(L, "ranks.open: timeout is %f s, must be from 0 to 1e9", options.timeout);
    const int status = pf_comm_launch(lpf_engine(L), &options);
    if (status == PF_EINVAL || status == PF_ENOTFOUND || status == PF_EFORMAT) {
        lua_pushnil(L); /* what stands on this machine, and how it was started */
        lua_pushstring(L, pf_last_error());
        lua_pushstring(L, pf_status_name(status));
        return 3;
    }
    const int failed = lpf_outside(L, status);
    if (failed) return failed;
    lua_pushboolean(L, true);
    return 1;
}

static int comm_close(lua_State *L) {
    pf_comm_close(lpf_engine(L));
    return 0;
}

/* comm_abort(code): ends every rank, this one by what the script does next. */
static int comm_abort(lua_State *L) {
    const int64_t code = lpf_check_whole(L, 1, "abort", "the exit code");
    if (code < 1 || code > 255) return lpf_raise(L, "abort: the code must be from 1 to 255");
    pf_comm_abort(lpf_engine(L), (int)code);
    return 0;
}

/* comm_about(): {rank, size, local_rank, local_size, row, transport, waited, warnings, lost,
 * hosts}. */
static int comm_about(lua_State *L) {
    const pf_engine *engine = lpf_engine(L);
    pf_comm_info info = {.size = sizeof info};
    lpf_result(L, pf_comm_about(engine, &info));
    const struct {
        const char *name;
        int value;
    } counts[] = {{"rank", info.rank},
                  {"size", info.ranks},
                  {"local_rank", info.local_rank},
                  {"local_size", info.local_ranks},
                  {"row", info.row_ranks}};
    lua_createtable(L, 0, 9);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        lua_pushinteger(L, counts[i].value);
        lua_setfield(L, -2, counts[i].name);
    }
    lua_pushstring(L, info.transport);
    lua_setfield(L, -2, "transport");
    lua_pushnumber(L, info.waited);
    lua_setfield(L, -2, "waited");
    lua_pushstring(L, info.warnings);
    lua_setfield(L, -2, "warnings");
    lua_pushboolean(L, info.lost);
    lua_setfield(L, -2, "lost");
    lua_createtable(L, info.ranks, 0);
    for (int r = 0; r < info.ranks; r++) {
        lua_pushstring(L, pf_comm_host(engine, r));
        lua_rawseti(L, -2, r + 1);
    }
    lua_setfield(L, -2, "hosts");
    return 1;
}

/* comm_patience(seconds): a wait lasts so long at least; 0: as opened. */
static int comm_patience(lua_State *L) {
    pf_comm_patience(lpf_engine(L), luaL_checknumber(L, 1));
    return 0;
}

/* comm_row_ranks(n): so many ranks share each row in segments. */
static int comm_row_ranks(lua_State *L) {
    const int64_t n = lpf_check_whole(L, 1, "row_ranks", "the number of ranks");
    lpf_result(L, pf_comm_row_ranks(lpf_engine(L), n < 0 || n > INT_MAX ? -1 : (int)n));
    return 0;
}

/* comm_at(step): what messages call the time. */
static int comm_at(lua_State *L) {
    pf_comm_at(lpf_engine(L), (uint64_t)lpf_check_whole(L, 1, "at", "the step"));
    return 0;
}

/* ---- verbs -------------------------------------------------------------------- */

/* comm_agree(flags, n1, n2, n3, n4, most): flags or-ed, the numbers added, and the largest `most`
 * with the rank whose it is. */
static int comm_agree(lua_State *L) {
    pf_comm_word word = {.size = sizeof word,
                         .flags = (uint64_t)luaL_optinteger(L, 1, 0),
                         .most = luaL_optnumber(L, 6, 0)};
    for (int i = 0; i < 4; i++) word.count[i] = luaL_optinteger(L, 2 + i, 0);
    lpf_result(L, pf_comm_agree_on(lpf_engine(L), PF_OK, &word));
    lua_pushinteger(L, (lua_Integer)word.flags);
    for (int i = 0; i < 4; i++) lua_pushinteger(L, word.count[i]);
    lua_pushnumber(L, word.most);
    lua_pushinteger(L, word.most_of);
    return 7;
}

/* ---- a failure ---------------------------------------------------------------- */

/* In the registry: the failure of this rank that all of them know, so that rank 0 says it for all,
 * and that by which the talk was lost. */
static const char TOLD[] = "performer.told", LOST[] = "performer.lost";

enum { EXIT_LOST = 75 };

/* A launcher ends all ranks when the first ends: rank 0 has so long to say it, and whoever is still
 * there then speaks. */
static const struct timespec TO_FIRST = {.tv_sec = 3};

static void note(lua_State *L, const char *key, const char *text) {
    lua_pushstring(L, text);
    lua_setfield(L, LUA_REGISTRYINDEX, key);
}

static bool is_noted(lua_State *L, const char *key, const char *text) {
    lua_getfield(L, LUA_REGISTRYINDEX, key);
    const char *noted = lua_tostring(L, -1); /* the registry holds it on */
    lua_pop(L, 1);
    return noted && strncmp(noted, text, LPF_THROWN - 1) == 0;
}

int lpf_end_of_ranks(lua_State *L, char *text, int code) {
    if (is_noted(L, LOST, text)) return EXIT_LOST;
    if (is_noted(L, TOLD, text) && nanosleep(&TO_FIRST, NULL) != 0) text[0] = 0;
    return code;
}

/* comm_settle(message): this rank has failed so, and comes to the others' next verb to say it.
 * Whether all know of one failure now, and its message. */
static int comm_settle(lua_State *L) {
    const char *text = lpf_check_text(L, 1, "settle", "the message");
    pf_engine *engine = lpf_engine(L);
    pf_comm_info info = {.size = sizeof info};
    if (pf_comm_about(engine, &info) < 0 || info.ranks == 1 || info.lost) {
        if (info.lost) note(L, LOST, text);
        lua_pushboolean(L, false);
        return 1;
    }
    const int status = pf_comm_settle(engine, pf_set_error(PF_EHOST, text));
    lua_pushstring(L, pf_last_error());
    pf_comm_about(engine, &info);
    const bool known = status < 0 && !info.lost;
    if (info.lost) note(L, LOST, text);
    if (known && info.rank != 0) note(L, TOLD, text);
    lua_pushboolean(L, known);
    lua_insert(L, -2);
    return 2;
}

/* comm_share(root, text): the text that rank `root` has. */
static int comm_share(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    const int root = (int)lpf_check_whole(L, 1, "share", "the rank");
    size_t bytes = 0;
    const char *text = lua_isnoneornil(L, 2) ? NULL : luaL_checklstring(L, 2, &bytes);
    uint64_t room = bytes;
    lpf_result(L, pf_comm_share(engine, PF_OK, root, &room, sizeof room));
    char *all = lua_newuserdatauv(L, (size_t)room + 1, 0);
    if (text && bytes == room) memcpy(all, text, bytes);
    lpf_result(L, pf_comm_share(engine, PF_OK, root, all, (size_t)room));
    lua_pushlstring(L, all, (size_t)room);
    return 1;
}

/* comm_share_tensor(root, tensor): its numbers become those of rank `root`, in place. */
static int comm_share_tensor(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    const int root = (int)lpf_check_whole(L, 1, "share", "the rank");
    pf_tensor *t = lpf_check_tensor(L, 2, "share", "what is shared");
    const size_t width = pf_tensor_dtype(t) == PF_I32 ? sizeof(int32_t) : sizeof(float);
    pf_comm_info info = {.size = sizeof info};
    int status = pf_comm_about(engine, &info);
    if (status >= 0 && !pf_tensor_contiguous(t))
        status = pf_set_error(PF_EINVAL, "share: the tensor's numbers don't lie one behind the "
                                         "other; share a copy of it");
    if (status >= 0 && info.rank != root && pf_tensor_read_only(t))
        status = pf_set_error(PF_ESTATE, "share: the tensor lies in memory that is only read; "
                                         "load it without mapping it");
    status =
        pf_comm_share(engine, status, root, pf_tensor_data(t), (size_t)pf_tensor_numel(t) * width);
    if (status >= 0 && info.ranks > 1) pf_tensor_changed(t); /* on all alike */
    lpf_result(L, status);
    return 0;
}

/* comm_collect(text): the texts of all ranks, in order. */
static int comm_collect(lua_State *L) {
    pf_engine *engine = lpf_engine(L);
    size_t bytes, total = 0;
    const char *text = luaL_checklstring(L, 1, &bytes);
    pf_comm_info info = {.size = sizeof info};
    lpf_result(L, pf_comm_about(engine, &info));
    uint64_t own = bytes;
    uint64_t *each = lua_newuserdatauv(L, (size_t)info.ranks * sizeof *each, 0);
    size_t *room = lua_newuserdatauv(L, (size_t)info.ranks * sizeof *room, 0);
    lpf_result(L, pf_comm_collect(engine, PF_OK, &own, sizeof own, each));
    for (int r = 0; r < info.ranks; r++) {
        room[r] = (size_t)each[r];
        total += room[r];
    }
    char *all = lua_newuserdatauv(L, total + 1, 0);
    lpf_result(L, pf_comm_collect_all(engine, PF_OK, text, room, all));
    lua_createtable(L, info.ranks, 0);
    for (int r = 0; r < info.ranks; all += room[r++]) {
        lua_pushlstring(L, all, room[r]);
        lua_rawseti(L, -2, r + 1);
    }
    return 1;
}

/* ---- files -------------------------------------------------------------------- */

enum { FILE_PIECE = 1 << 24 };

/* A file on its way from a rank that reads it piece by piece to the others, which write it. */
typedef struct {
    pf_engine *engine;
    const char *from, *to;
    int root;
    bool first; /* this rank is the root */
    int64_t bytes;
    char *data; /* a piece; of the others all of it */
} shared_file;

static int no_memory(int64_t bytes) {
    char text[64];
    snprintf(text, sizeof text, "share_file: no %lld bytes", (long long)bytes);
    return pf_set_error(PF_ENOMEM, text);
}

static int share_size(shared_file *f) {
    int status = f->first ? pf_file_size(f->engine, f->from, &f->bytes) : PF_OK;
    return pf_comm_share(f->engine, status, f->root, &f->bytes, sizeof f->bytes);
}

static int share_pieces(shared_file *f) {
    const int64_t room = f->first && f->bytes > FILE_PIECE ? FILE_PIECE : f->bytes;
    f->data = malloc((size_t)room + 1);
    int status = f->data ? PF_OK : no_memory(room);
    for (int64_t at = 0; at == 0 || at < f->bytes; at += FILE_PIECE) {
        const size_t n = (size_t)(f->bytes - at < FILE_PIECE ? f->bytes - at : FILE_PIECE);
        char *piece = f->first || !f->data ? f->data : f->data + at;
        if (status >= 0 && f->first) status = pf_file_read(f->engine, f->from, at, piece, n);
        status = pf_comm_share(f->engine, status, f->root, piece, n);
        if (status < 0) break; /* on all */
    }
    if (status >= 0 && !f->first)
        status = pf_file_write(f->engine, f->to, f->data, (size_t)f->bytes);
    free(f->data);
    return status;
}

/* comm_share_file(root, from, to): rank `root`'s file `from` is the others' file `to`. */
static int comm_share_file(lua_State *L) {
    shared_file f = {.engine = lpf_engine(L),
                     .root = (int)lpf_check_whole(L, 1, "share_file", "the rank"),
                     .from = lua_tostring(L, 2),
                     .to = lua_tostring(L, 3)};
    pf_comm_info info = {.size = sizeof info};
    int status = pf_comm_about(f.engine, &info);
    f.first = info.rank == f.root;
    if (status >= 0 && !(f.first ? f.from : f.to))
        status = pf_set_error(PF_EINVAL, "share_file: the path is missing");
    if (status < 0) status = pf_comm_agree(f.engine, status);
    if (status >= 0) status = share_size(&f);
    if (status >= 0) status = share_pieces(&f);
    lpf_result(L, pf_comm_settle(f.engine, status)); /* one may not be able to write it */
    return 0;
}

static const luaL_Reg functions[] = {{"comm_launched", comm_launched},
                                     {"comm_launch", comm_launch},
                                     {"comm_close", comm_close},
                                     {"comm_abort", comm_abort},
                                     {"comm_about", comm_about},
                                     {"comm_at", comm_at},
                                     {"comm_row_ranks", comm_row_ranks},
                                     {"comm_patience", comm_patience},
                                     {"comm_agree", comm_agree},
                                     {"comm_settle", comm_settle},
                                     {"comm_share", comm_share},
                                     {"comm_share_tensor", comm_share_tensor},
                                     {"comm_collect", comm_collect},
                                     {"comm_share_file", comm_share_file},
                                     {NULL, NULL}};

void lpf_open_comm(lua_State *L) { luaL_setfuncs(L, functions, 0); }
