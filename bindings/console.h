/*
 * console.h - `require "performer.console"`: the terminal of a prompt, for performer/repl/. Lines
 * are edited with libedit where the build has it (edit.h) and the terminal can; else they are read
 * as they come. Only the program has it.
 */
#ifndef LPF_CONSOLE_H
#define LPF_CONSOLE_H

#include <lua.h>

/* {
 *   read(prompt, complete): a line; or nil and "end", "interrupted" (Ctrl-C), "ended" (the program
 *     is told to end). complete(line, cursor), at Tab: what to insert, or nil and what to show
 *   remember(text): one more line that arrow-up brings back
 *   edits: are lines edited?
 *   waiting(): does more input wait, as when a text is pasted?
 *   call(handler, f, ...): did it end well, was there a Ctrl-C, which ends it; results or the error
 *   history(path, most): the text of a history file, of which no more than the last `most` bytes
 *     are kept
 *   append(path, text): to it, in a folder that is made where it is missing
 * } */
int luaopen_performer_console(lua_State *L);

#endif
