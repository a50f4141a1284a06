/*
 * console.c - see console.h. While a line is read no Lua runs but what completes it, whose errors
 * end there.
 */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lauxlib.h>

#include "edit.h"
#include "process.h"

typedef struct {
    lua_State *L;
    line_edit *edit; /* NULL: lines come as they are */
    int complete;    /* stack index of the function, while a line is read */
    bool locked_out; /* the history file is another's, and stays so */
} console;

static console *console_of(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

/* ---- lines ---------------------------------------------------------------------- */

#ifdef LPF_EDIT
typedef struct {
    const char *line;
    size_t bytes, cursor;
} tab;

/* complete(line, cursor): two results. */
static int call_complete(lua_State *L) {
    const tab *at = lua_touserdata(L, 2);
    lua_settop(L, 1);
    lua_pushlstring(L, at->line, at->bytes);
    lua_pushinteger(L, (lua_Integer)at->cursor);
    lua_call(L, 2, 2);
    return 2;
}

/* Nothing of Lua's that may raise, for want of memory too, is called outside of the lua_pcall: an
 * error would leave the editor in its middle. */
static edit_completion on_tab(void *context, const char *line, size_t bytes, size_t cursor) {
    console *c = context;
    lua_State *L = c->L;
    tab at = {line, bytes, cursor};
    edit_completion found = {NULL, NULL};
    lua_settop(L, c->complete); /* no more than what the last Tab gave is above */
    if (!lua_checkstack(L, 4)) return found;
    lua_pushcfunction(L, call_complete);
    lua_pushvalue(L, c->complete);
    lua_pushlightuserdata(L, &at);
    if (lua_pcall(L, 2, 2, 0) != LUA_OK) return found;
    /* As they are: of a number lua_tostring would make a text. */
    if (lua_type(L, -2) != LUA_TSTRING && !lua_isnil(L, -2)) return found;
    if (lua_type(L, -1) != LUA_TSTRING && !lua_isnil(L, -1)) return found;
    found.insert = lua_tostring(L, -2); /* they stay on the stack */
    found.show = lua_tostring(L, -1);
    return found;
}

/* Not where the output is no terminal, or none that can move its cursor. */
static bool can_edit(void) {
    const char *kind = getenv("TERM");
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && kind && *kind &&
           strcmp(kind, "dumb") != 0;
}
#endif

/* A line of the editor's, on top. */
static bool edited(console *c, const char *prompt, process_input *why) {
#ifdef LPF_EDIT
    const char *line = edit_read(c->edit, prompt, why);
    if (!line) return false;
    const size_t n = strlen(line); /* one that is called back may have several lines */
    lua_pushlstring(c->L, line, n > 0 && line[n - 1] == '\n' ? n - 1 : n);
    return true;
#else
    (void)c, (void)prompt, (void)why;
    return false;
#endif
}

/* Byte by byte: what stands behind the line is for whoever reads next, a script's io.read too. */
static bool plain(console *c, const char *prompt, process_input *why) {
    luaL_Buffer line;
    char byte = 0;
    bool any = false;
    fputs(prompt, stdout);
    fflush(stdout);
    luaL_buffinit(c->L, &line);
    while (byte != '\n') {
        *why = process_wait(STDIN_FILENO);
        if (*why == INPUT_RESIZED || *why == INPUT_RESUMED) continue;
        if (*why != INPUT_READY) return false;
        const ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        any = true;
        luaL_addchar(&line, byte);
    }
    if (byte == '\n') luaL_buffsub(&line, 1);
    luaL_pushresult(&line);
    return any;
}

static int console_read(lua_State *L) {
    static const char *const words[] = {[INPUT_READY] = "end",
                                        [INPUT_STRUCK] = "interrupted",
                                        [INPUT_ENDS] = "ended",
                                        [INPUT_RESIZED] = "end",
                                        [INPUT_RESUMED] = "end"};
    console *c = console_of(L);
    const char *prompt = luaL_checkstring(L, 1);
    process_input why = INPUT_READY;
    lua_settop(L, 2);
    c->L = L;
    c->complete = 2;
    fflush(stdout);
    process_struck(); /* of what ran before */
    if (c->edit ? edited(c, prompt, &why) : plain(c, prompt, &why)) return 1;
    lua_pushnil(L);
    lua_pushstring(L, words[why]);
    return 2;
}

static int console_remember(lua_State *L) {
    const console *c = console_of(L);
    const char *text = luaL_checkstring(L, 1);
#ifdef LPF_EDIT
    if (c->edit) edit_remember(c->edit, text);
#else
    (void)c, (void)text;
#endif
    return 0;
}

static int console_waiting(lua_State *L) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    lua_pushboolean(L, poll(&input, 1, 0) > 0 && (input.revents & POLLIN) != 0);
    return 1;
}

static int console_call(lua_State *L) {
    const int n = lua_gettop(L) - 2;
    const int status = process_call(L, n, LUA_MULTRET, 1);
    luaL_checkstack(L, 2, "too many results"); /* they may have taken all there was */
    lua_pushboolean(L, process_struck());
    lua_insert(L, 2);
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, 2);
    return lua_gettop(L) - 1;
}

/* ---- the file of what was typed -------------------------------------------------- */

/* Whoever holds the lock writes a line; one that is stopped there must not stop this session. Then
 * what is typed is not kept, and the next line waits no more. */
static bool lock(console *c, int fd) {
    enum { TRIES = 100, PAUSE = 10 }; /* milliseconds */
    for (int i = c->locked_out ? TRIES - 1 : 0; i < TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            c->locked_out = false;
            return true;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) return false;
        poll(NULL, 0, PAUSE);
    }
    c->locked_out = true;
    return false;
}

/* Opens it for this session alone; several write to one file. -1: it can't be. */
static int open_history(console *c, const char *path, int how) {
    const int fd = open(path, how | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd >= 0 && lock(c, fd)) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

/* The folders that lead to it. */
static void make_folders(char *path) {
    char *slash = *path ? strchr(path + 1, '/') : NULL;
    for (; slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

static bool write_all(int fd, const char *text, size_t bytes) {
    while (bytes > 0) {
        const ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno != EINTR) return false;
        if (n > 0) text += n, bytes -= (size_t)n;
    }
    return true;
}

/* The last lines of the file that have room in `most` bytes: where they begin in `text`. */
static const char *read_tail(int fd, char *text, size_t most, size_t *bytes) {
    const off_t end = lseek(fd, 0, SEEK_END);
    const size_t size = end > 0 ? (size_t)end : 0, skip = size > most ? size - most : 0;
    const ssize_t n = pread(fd, text, size - skip, (off_t)skip);
    *bytes = n > 0 ? (size_t)n : 0;
    const char *end_of_line = skip > 0 ? memchr(text, '\n', *bytes) : NULL;
    if (!end_of_line) return text;
    *bytes -= (size_t)(end_of_line + 1 - text);
    return end_of_line + 1;
}

static int console_history(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    const size_t most = (size_t)luaL_checkinteger(L, 2);
    char *room = lua_newuserdatauv(L, most, 0); /* while no file is open: it may raise */
    const int fd = access(path, F_OK) == 0 ? open_history(console_of(L), path, O_RDWR) : -1;
    if (fd < 0) return 0;
    size_t bytes;
    const char *text = read_tail(fd, room, most, &bytes);
    const off_t size = lseek(fd, 0, SEEK_END);
    /* In place: who waits for the lock has this file open. */
    const bool lost = size > (off_t)bytes && lseek(fd, 0, SEEK_SET) == 0 &&
                      write_all(fd, text, bytes) && ftruncate(fd, (off_t)bytes) != 0;
    close(fd);
    lua_pushlstring(L, text, lost ? 0 : bytes);
    return 1;
}

static int console_append(lua_State *L) {
    console *c = console_of(L);
    size_t bytes;
    const size_t length = strlen(luaL_checkstring(L, 1));
    char *path = lua_newuserdatauv(L, length + 1, 0);
    const char *text = luaL_checklstring(L, 2, &bytes);
    memcpy(path, lua_tostring(L, 1), length + 1);
    int fd = open_history(c, path, O_WRONLY | O_APPEND);
    if (fd < 0 && errno == ENOENT) {
        make_folders(path);
        fd = open_history(c, path, O_WRONLY | O_APPEND);
    }
    lua_pushboolean(L, fd >= 0 && write_all(fd, text, bytes));
    if (fd >= 0) close(fd);
    return 1;
}

/* ---- the module ------------------------------------------------------------------ */

#ifdef LPF_EDIT
static int close_console(lua_State *L) {
    console *c = lua_touserdata(L, 1);
    edit_close(c->edit);
    c->edit = NULL;
    return 0;
}
#endif

int luaopen_performer_console(lua_State *L) {
    static const luaL_Reg functions[] = {{"read", console_read},
                                         {"remember", console_remember},
                                         {"waiting", console_waiting},
                                         {"call", console_call},
                                         {"history", console_history},
                                         {"append", console_append},
                                         {NULL, NULL}};
    luaL_newlibtable(L, functions);
    console *c = lua_newuserdatauv(L, sizeof *c, 0);
    memset(c, 0, sizeof *c);
#ifdef LPF_EDIT
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, close_console);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    if (can_edit()) c->edit = edit_open(on_tab, c);
#endif
    lua_pushboolean(L, c->edit != NULL);
    lua_setfield(L, -3, "edits");
    luaL_setfuncs(L, functions, 1);
    return 1;
}
