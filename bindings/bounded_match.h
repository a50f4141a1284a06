/*
 * bounded_match.h - Lua's patterns, matched by a machine that counts its steps: no bound on the
 * lengths of a pattern and a text bounds the backtracking, so the steps themselves must be paid
 * for. The same matches, captures and complaints as Lua 5.4's own (lstrlib.c, whose rules this
 * follows), which its test holds it to.
 */
#ifndef BOUNDED_MATCH_H
#define BOUNDED_MATCH_H

#include <lauxlib.h>
#include <lua.h>

enum {
    MATCH_ESCAPE = '%',
    MATCH_OPEN = -1,     /* a capture's length while it lacks its end */
    MATCH_POSITION = -2, /* of a capture that is a position */
    MATCH_CAPTURES = 32, /* at most, as in Lua ... */
    MATCH_DEPTH = 200    /* ... and choices, one in the other */
};

typedef struct {
    lua_State *L;
    const char *text, *text_end, *pattern_end;
    int depth; /* how much deeper it may go */
    int steps; /* taken and not paid for yet */
    int level; /* captures, finished or not */
    struct {
        const char *from;
        ptrdiff_t length;
    } capture[MATCH_CAPTURES];
} match_state;

void match_begin(match_state *ms, lua_State *L, const char *text, size_t n, const char *pattern,
                 size_t pattern_n);
/* The end of the match that begins at `from`, or NULL. Raises when the pattern is none, and when
 * its steps are more than a limit lets it take. */
const char *match_at(match_state *ms, const char *s, const char *p);
void match_pay(match_state *ms); /* for the steps so far */
void match_step(match_state *ms);

/* The captures of a match from..to, all of it where there are none, pushed; how many. from NULL:
 * only those that the pattern marks. */
int match_push(match_state *ms, const char *from, const char *to);
void match_push_one(match_state *ms, int index, const char *from, const char *to);

/* The first place of `what` in the text, or NULL. */
const char *match_plain(lua_State *L, const char *text, size_t n, const char *what, size_t what_n);

#endif
