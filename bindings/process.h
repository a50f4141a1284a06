/*
 * process.h - what the `performer` program owes to the system around it: signals, pipes whose
 * reader goes away, descriptors that were closed before it began, output that was lost. A host
 * that runs scripts in its own process has manners of its own: nothing of this is in a library.
 */
#ifndef LPF_PROCESS_H
#define LPF_PROCESS_H

#include <stdbool.h>

#include <lua.h>

/* READER_GONE: what a shell says of a program that SIGPIPE ended; INTERRUPTED: of Ctrl-C. */
enum { DONE = 0, FAILED = 1, MISUSE = 2, INTERRUPTED = 130, READER_GONE = 141 };

/* Before anything is opened or written. */
void process_begin(void);
/* The module performer.leave of a command's state: a function(code, seconds, words) that sees to
 * the end. */
int luaopen_performer_leave(lua_State *L);

/* From here on signals stop the script that runs in L; NULL: there is none any more. */
void process_watch(lua_State *L);

/* The script was told to end, and so what it threw is that end: the exit code, with a word on
 * stderr where one reads it. 0: it was not. */
int process_stopped(void);

/* From here on `co` is what runs, and what a signal stops. */
void process_enter(lua_State *co);

/* There is a prompt: Ctrl-C ends what it was given, or the line that is being written. */
void process_prompt(void);

/* Behind luaL_openlibs, in a prompt's state: what Lua does in C (a match of a pattern, a sort) is
 * ended as well. Raises. */
void process_listen(lua_State *L);

/* lua_pcall, which Ctrl-C ends with the error "interrupted"; a script that asks pf.interrupted()
 * has the first one to itself, as ever. */
int process_call(lua_State *L, int n, int results, int handler);

/* Has there been a Ctrl-C since this was asked, or a call began? */
bool process_struck(void);

/* Waits until something can be read, or another thing comes: Ctrl-C, a wish to end, a new size of
 * the window, the terminal back from the shell. */
typedef enum { INPUT_READY, INPUT_STRUCK, INPUT_ENDS, INPUT_RESIZED, INPUT_RESUMED } process_input;
process_input process_wait(int fd);

/* Was the program told to end? */
bool process_ending(void);

/* What the program ends with: `code`, or another one if its output was lost. */
int process_end(int code);

#endif
