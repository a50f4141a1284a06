/*
 * lpf_comm_files.c - ranks that read a folder that rank 0 alone has: what their engines open and
 * read there rank 0 does for them, so that no other rank holds a file. It goes round by round. Each
 * rank says what it wants, which may be another thing on each; rank 0 answers every different
 * question once, to all, and who has asked keeps the answer.
 *
 * What must hold: every rank comes to every round until all say that they are done. What one fails
 * at ends the rounds of all, and is raised on all.
 */
#include "host.h"
#include "lpf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "performer_comm.h"
#include "performer_files.h"

enum { PIECE = 1 << 20, NAME = 128, WORDS = 512 };

typedef enum { ASK_NOTHING, ASK_DONE, ASK_FILE, ASK_FOLDER, ASK_BYTES } ask;

typedef struct {
    int64_t what, offset, bytes;
    char name[NAME]; /* in the folder; "": the folder itself */
} question;

/* Before the bytes that were read. */
typedef struct {
    int64_t result; /* 0, how many bytes a file has or were read, or a negative errno */
    char words[WORDS];
} answer;

typedef struct {
    pf_engine *engine;
    const char *folder; /* as rank 0 calls it */
    int rank, ranks;
    question *all; /* one a rank */
    char *room;    /* an answer and a piece */
    bool done;     /* all ranks are */
    int status;    /* of the first round that failed; no other is begun */
    char why[1024];
} rounds;

static void open_rounds(rounds *r, pf_engine *engine, const char *folder) {
    pf_comm_info info = {.size = sizeof info};
    *r = (rounds){.engine = engine, .folder = folder};
    r->status = pf_comm_about(engine, &info);
    r->rank = info.rank, r->ranks = info.ranks;
    r->all = malloc((size_t)r->ranks * sizeof *r->all);
    r->room = malloc(sizeof(answer) + PIECE);
}

static void close_rounds(rounds *r) {
    free(r->all);
    free(r->room);
}

/* ---- rank 0 answers ---------------------------------------------------------------- */

static int see_name(void *to, const char *name) {
    (void)to, (void)name;
    return PF_OK;
}

static int look_up(rounds *r, const question *q, const char *path, answer *a) {
    if (q->what == ASK_FILE) return pf_file_size(r->engine, path, &a->result);
    if (q->what == ASK_FOLDER) return pf_file_list(r->engine, path, see_name, NULL);
    int status = pf_file_read(r->engine, path, q->offset, r->room + sizeof *a, (size_t)q->bytes);
    if (status >= 0) a->result = q->bytes;
    return status == PF_EFORMAT ? PF_OK : status; /* it ends before: so many bytes, none */
}

/* What stands behind the path in a message: whoever gets it says the path again. */
static void take_words(answer *a, const char *path) {
    const char *words = pf_last_error(), *behind = strstr(words, path);
    if (behind && strncmp(behind + strlen(path), ": ", 2) == 0) words = behind + strlen(path) + 2;
    snprintf(a->words, sizeof a->words, "%s", words);
}

static int answer_one(rounds *r, const question *q) {
    answer a = {0};
    const size_t bytes = strlen(r->folder) + NAME + 2;
    char *path = malloc(bytes);
    if (!path) return pf_set_error(PF_ENOMEM, "share files: no memory for a path");
    snprintf(path, bytes, "%s%s%s", r->folder, q->name[0] ? "/" : "", q->name);
    int status = look_up(r, q, path, &a);
    if (status < 0) {
        a.result = status == PF_ENOTFOUND ? -ENOENT : status == PF_ENOMEM ? -ENOMEM : -EIO;
        if (status != PF_ENOTFOUND) take_words(&a, path);
    }
    memcpy(r->room, &a, sizeof a);
    free(path);
    return PF_OK;
}

/* ---- a round ----------------------------------------------------------------------- */

/* Has nobody asked this before? */
static bool is_new(const rounds *r, int who) {
    for (int i = 1; i < who; i++)
        if (memcmp(&r->all[i], &r->all[who], sizeof *r->all) == 0) return false;
    return r->all[who].what > ASK_DONE;
}

static int answer_all(rounds *r, const question *own, answer *mine, void *out) {
    int status = PF_OK;
    for (int i = 1; i < r->ranks && status >= 0; i++) {
        const question *q = &r->all[i];
        const size_t bytes = q->what == ASK_BYTES ? (size_t)q->bytes : 0;
        if (!is_new(r, i)) continue;
        if (r->rank == 0) status = answer_one(r, q);
        status = pf_comm_share(r->engine, status, 0, r->room, sizeof(answer) + bytes);
        if (status < 0 || r->rank == 0 || memcmp(q, own, sizeof *q) != 0) continue;
        memcpy(mine, r->room, sizeof *mine);
        if (mine->result > 0 && bytes) memcpy(out, r->room + sizeof *mine, bytes);
    }
    return status;
}

/* mine, out: what this rank has asked for. */
static int play_round(rounds *r, const question *own, answer *mine, void *out) {
    if (r->status < 0) return r->status;
    int status = r->all && r->room ? PF_OK : pf_set_error(PF_ENOMEM, "share files: no memory");
    status = pf_comm_collect(r->engine, status, own, sizeof *own, r->all);
    if (status >= 0) status = answer_all(r, own, mine, out);
    r->done = true;
    for (int i = 1; i < r->ranks && status >= 0; i++)
        r->done = r->done && r->all[i].what == ASK_DONE;
    r->status = status < 0 ? status : PF_OK;
    if (status < 0) snprintf(r->why, sizeof r->why, "%s", pf_last_error());
    return r->status;
}

/* ---- the other ranks' files -------------------------------------------------------- */

/* A round costs the ranks far more than a copy, so that a piece is asked for at a time. */
typedef struct {
    question asked;
    int64_t bytes;
    pf_entry_kind kind;
    char *ahead;      /* the last piece */
    int64_t first, n; /* where it begins, and how much there is of it */
} far_file;

/* What rank 0 answers, as an access does. */
static int64_t ask_first(rounds *r, const question *q, void *out) {
    answer a = {0};
    if (play_round(r, q, &a, out) < 0) {
        pf_set_error(r->status, r->why);
        return -EIO;
    }
    if (a.words[0]) pf_set_error(PF_EIO, a.words);
    return a.result;
}

/* Its name in the folder, or NULL: there is nothing else. */
static const char *name_in(const rounds *r, const char *path) {
    const size_t n = strlen(r->folder);
    if (strncmp(path, r->folder, n) != 0 || (path[n] && path[n] != '/')) return NULL;
    path += n + (path[n] == '/');
    return strlen(path) < NAME ? path : NULL;
}

static int far_open(void *context, const char *path, pf_open_how how, unsigned mode, void **file) {
    rounds *r = context;
    const char *name = name_in(r, path);
    (void)mode;
    if (how == PF_OPEN_NEW) return -EROFS;
    if (!name) return -ENOENT;
    far_file *f = calloc(1, sizeof *f);
    if (!f) return -ENOMEM;
    f->asked.what = how == PF_OPEN_FOLDER ? ASK_FOLDER : ASK_FILE;
    f->kind = how == PF_OPEN_FOLDER ? PF_ENTRY_FOLDER : PF_ENTRY_FILE;
    snprintf(f->asked.name, sizeof f->asked.name, "%s", name);
    f->bytes = ask_first(r, &f->asked, NULL);
    if (f->bytes >= 0) {
        *file = f;
        return 0;
    }
    int result = (int)f->bytes;
    free(f);
    return result;
}

static int far_about(void *context, void *file, pf_file_info *info) {
    const far_file *f = file;
    (void)context;
    info->kind = f->kind;
    info->bytes = f->bytes;
    return 0;
}

static int64_t fetch(rounds *r, far_file *f, int64_t offset) {
    question q = f->asked;
    const int64_t left = f->bytes - offset;
    if (left <= 0) return 0;
    if (!f->ahead) f->ahead = malloc((size_t)(f->bytes < PIECE ? f->bytes : PIECE));
    if (!f->ahead) return -ENOMEM;
    q.what = ASK_BYTES;
    q.offset = offset;
    q.bytes = left < PIECE ? left : PIECE;
    f->first = offset;
    f->n = ask_first(r, &q, f->ahead);
    return f->n;
}

static int64_t far_read(void *context, void *file, int64_t offset, void *out, size_t bytes) {
    far_file *f = file;
    const bool there = offset >= f->first && offset < f->first + f->n;
    const int64_t got = there ? f->n : fetch(context, f, offset);
    if (got <= 0) return got;
    const int64_t left = f->first + f->n - offset;
    if (left < (int64_t)bytes) bytes = (size_t)left;
    memcpy(out, f->ahead + (offset - f->first), bytes);
    return (int64_t)bytes;
}

static int far_close(void *context, void *file) {
    (void)context;
    free(((far_file *)file)->ahead);
    free(file);
    return 0;
}

/* comm_read_files(folder, f, ...): f(...), whose engine finds rank 0's folder, and nothing else. */
static int comm_read_files(lua_State *L) {
    rounds r;
    pf_engine *engine = lpf_engine(L);
    open_rounds(&r, engine, luaL_checkstring(L, 1));
    const pf_file_access far = {.size = sizeof far,
                                .context = &r,
                                .open = far_open,
                                .about = far_about,
                                .read_at = far_read,
                                .close = far_close};
    const pf_file_access *before = pf_engine_lend_files(engine, &far);
    const int thrown = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0);
    pf_engine_lend_files(engine, before);
    close_rounds(&r);
    if (r.status < 0) lpf_result(L, pf_set_error(r.status, r.why)); /* whatever was made of it */
    return thrown ? lua_error(L) : lua_gettop(L) - 1;
}

/* comm_share_files(folder): until all ranks are done, rank 0 answers from its folder; of the others
 * each comes here when it is done. */
static int comm_share_files(lua_State *L) {
    rounds r;
    open_rounds(&r, lpf_engine(L), luaL_optstring(L, 1, ""));
    const question own = {.what = r.rank == 0 ? ASK_NOTHING : ASK_DONE};
    while (r.status >= 0 && !r.done) play_round(&r, &own, NULL, NULL);
    close_rounds(&r);
    if (r.status < 0) lpf_result(L, pf_set_error(r.status, r.why));
    return 0;
}

static const luaL_Reg functions[] = {
    {"comm_read_files", comm_read_files}, {"comm_share_files", comm_share_files}, {NULL, NULL}};

void lpf_open_comm_files(lua_State *L) { luaL_setfuncs(L, functions, 0); }
