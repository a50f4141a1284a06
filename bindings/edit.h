/*
 * edit.h - one line, edited on a terminal with libedit: the only file that sees it is edit.c, which
 * a build without it leaves out.
 */
#ifndef LPF_EDIT_H
#define LPF_EDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "process.h"

typedef struct line_edit line_edit;

/* At Tab, in the caller's locale: the line, its length and the cursor in bytes. Gives what to
 * insert (or NULL) and what to show below (or NULL); both stay until the next call. */
typedef struct {
    const char *insert, *show;
} edit_completion;
typedef edit_completion (*edit_complete)(void *context, const char *line, size_t bytes,
                                         size_t cursor);

/* NULL: this terminal can't, or no memory. */
line_edit *edit_open(edit_complete on_tab, void *context);
void edit_close(line_edit *edit);

/* A line without its end, which stays until the next call. NULL: `why` is what came instead, and
 * INPUT_READY the end of the input. */
const char *edit_read(line_edit *edit, const char *prompt, process_input *why);
void edit_remember(line_edit *edit, const char *text);

#endif
