/*
 * edit.c - see edit.h. Characters come by process_wait, so that Ctrl-C, an end and a new size of
 * the window reach a line that is being written; the terminal is as it was whenever Lua runs, but
 * at Tab: what is typed ahead would be edited and shown by the terminal meanwhile. What completes
 * writes nothing itself, and no error of its comes through here (console.c).
 *
 * The locale is the editor's alone, while it works: what a script does with letters is the same
 * whatever the terminal writes.
 */
#include "edit.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { REMEMBERED = 2000, PROMPT = 64 };

struct line_edit {
    EditLine *el;
    History *history;
    locale_t locale, outer; /* outer: of whoever reads a line */
    mbstate_t partial;
    char prompt[PROMPT];
    edit_complete complete;
    void *context;
    process_input why; /* what ended the line */
};

static line_edit *edit_of(EditLine *el) {
    void *edit = NULL;
    el_get(el, EL_CLIENTDATA, &edit);
    return edit;
}

/* The user's; a terminal of today's in a machine without settings writes UTF-8, too. */
static locale_t make_locale(void) {
    locale_t made = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    const char *wish = getenv("LC_ALL");
    if (!wish || !*wish) wish = getenv("LC_CTYPE");
    if (!wish || !*wish) wish = getenv("LANG");
    const bool plain = !wish || !*wish || strcmp(wish, "C") == 0 || strcmp(wish, "POSIX") == 0;
    if (made && !plain) return made;
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!utf8) return made;
    if (made) freelocale(made);
    return utf8;
}

/* ---- keys ---------------------------------------------------------------------- */

static char *show_prompt(EditLine *el) { return edit_of(el)->prompt; }

/* One character of the terminal's bytes; 0 at the end, -1 when something else came. */
static int read_character(EditLine *el, wchar_t *out) {
    line_edit *edit = edit_of(el);
    for (;;) {
        char byte;
        edit->why = process_wait(STDIN_FILENO);
        if (edit->why == INPUT_RESIZED) el_resize(el);
        if (edit->why == INPUT_RESUMED) { /* the shell had the terminal */
            el_set(el, EL_PREP_TERM, 0);
            el_set(el, EL_PREP_TERM, 1);
            el_set(el, EL_REFRESH);
        }
        if (edit->why == INPUT_RESIZED || edit->why == INPUT_RESUMED) continue;
        if (edit->why != INPUT_READY) return -1;
        const ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) return 0;
        if (byte == 0) continue; /* a Ctrl-D that was typed before: it would stand in the line */
        const size_t used = mbrtowc(out, &byte, 1, &edit->partial);
        if (used == (size_t)-2) continue;
        if (used != (size_t)-1) return 1;
        memset(&edit->partial, 0, sizeof edit->partial); /* not of this locale: left out */
    }
}

static unsigned char complete(EditLine *el, int key) {
    line_edit *edit = edit_of(el);
    const LineInfo *line = el_line(el);
    (void)key;
    uselocale(edit->outer);
    const edit_completion found =
        edit->complete(edit->context, line->buffer, (size_t)(line->lastchar - line->buffer),
                       (size_t)(line->cursor - line->buffer));
    uselocale(edit->locale);
    if (found.show) {
        printf("\n%s\n", found.show);
        fflush(stdout);
        return CC_REDISPLAY;
    }
    if (!found.insert || el_insertstr(el, found.insert) < 0) return CC_ERROR;
    return CC_REFRESH;
}

/* Arrows look for what begins as the line does; the rest are the keys of today's terminals. */
static void bind_keys(EditLine *el) {
    static const char *const keys[][2] = {
        {"^I", "complete"},
        {"^R", "em-inc-search-prev"},
        {"^W", "ed-delete-prev-word"},
        {"\\e[A", "ed-search-prev-history"},
        {"\\eOA", "ed-search-prev-history"},
        {"\\e[B", "ed-search-next-history"},
        {"\\eOB", "ed-search-next-history"},
        {"^P", "ed-search-prev-history"},
        {"^N", "ed-search-next-history"},
        {"\\e[H", "ed-move-to-beg"},
        {"\\eOH", "ed-move-to-beg"},
        {"\\e[F", "ed-move-to-end"},
        {"\\eOF", "ed-move-to-end"},
        {"\\e[1~", "ed-move-to-beg"},
        {"\\e[4~", "ed-move-to-end"},
        {"\\e[3~", "ed-delete-next-char"},
        {"\\e[1;5C", "em-next-word"},
        {"\\e[1;5D", "ed-prev-word"},
        {"\\e[1;3C", "em-next-word"},
        {"\\e[1;3D", "ed-prev-word"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        el_set(el, EL_BIND, keys[i][0], keys[i][1], NULL);
}

/* ---- the line ------------------------------------------------------------------- */

static bool begin(line_edit *edit) {
    HistEvent event;
    edit->el = el_init("performer", stdin, stdout, stderr);
    edit->history = history_init();
    if (!edit->el || !edit->history) return false;
    history(edit->history, &event, H_SETSIZE, REMEMBERED);
    el_set(edit->el, EL_CLIENTDATA, edit);
    el_set(edit->el, EL_EDITOR, "emacs");
    el_set(edit->el, EL_PROMPT_ESC, show_prompt, '\1');
    el_set(edit->el, EL_SIGNAL, 0);
    el_set(edit->el, EL_GETCFN, read_character);
    el_set(edit->el, EL_HIST, history, edit->history);
    el_set(edit->el, EL_ADDFN, "complete", "completes the name", complete);
    bind_keys(edit->el);
    el_source(edit->el, NULL);
    return true;
}

line_edit *edit_open(edit_complete on_tab, void *context) {
    line_edit *edit = calloc(1, sizeof *edit);
    if (!edit) return NULL;
    edit->complete = on_tab;
    edit->context = context;
    edit->locale = make_locale();
    const locale_t before = uselocale(edit->locale);
    const bool good = begin(edit);
    uselocale(before);
    if (good) return edit;
    edit_close(edit);
    return NULL;
}

void edit_close(line_edit *edit) {
    if (!edit) return;
    if (edit->el) el_end(edit->el);
    if (edit->history) history_end(edit->history);
    if (edit->locale) freelocale(edit->locale);
    free(edit);
}

const char *edit_read(line_edit *edit, const char *prompt, process_input *why) {
    int n = 0;
    snprintf(edit->prompt, sizeof edit->prompt, "%s", prompt);
    edit->why = INPUT_READY;
    edit->outer = uselocale(edit->locale);
    const char *line = el_gets(edit->el, &n);
    uselocale(edit->outer);
    *why = edit->why;
    return n > 0 ? line : NULL;
}

void edit_remember(line_edit *edit, const char *text) {
    HistEvent event;
    const locale_t before = uselocale(edit->locale);
    history(edit->history, &event, H_ENTER, text);
    uselocale(before);
}
