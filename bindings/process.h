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

/* From here on signals stop the script that runs in L; NULL: there is none any more. */
void process_watch(lua_State *L);

/* The script was told to end, and so what it threw is that end: the exit code, with a word on
 * stderr where one reads it. 0: it was not. */
int process_stopped(void);

/* What the program ends with: `code`, or another one if its output was lost. */
int process_end(int code);

#endif
