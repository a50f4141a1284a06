/* bounded_match.c - see bounded_match.h. */
#include "bounded_match.h"

#include <ctype.h>
#include <string.h>

#include "bounded.h"

enum { PAY_AT = 4096 }; /* steps: some ten microseconds */

static unsigned char byte_of(const char *at) { return (unsigned char)*at; }

void match_pay(match_state *ms) {
    const int steps = ms->steps;
    ms->steps = 0;
    bounded_charge(ms->L, (uint64_t)steps);
}

void match_step(match_state *ms) {
    if (++ms->steps >= PAY_AT) match_pay(ms);
}

/* ---- a class of bytes --------------------------------------------------------- */

/* Behind the class that begins at p. */
static const char *class_end(match_state *ms, const char *p) {
    const char first = *p++;
    if (first == MATCH_ESCAPE) {
        if (p == ms->pattern_end) luaL_error(ms->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (first != '[') return p;
    if (*p == '^') p++;
    do { /* a ']' that comes first is one of the set */
        if (p == ms->pattern_end) luaL_error(ms->L, "malformed pattern (missing ']')");
        match_step(ms);
        if (*p++ == MATCH_ESCAPE && p < ms->pattern_end) p++;
    } while (*p != ']');
    return p + 1;
}

static bool in_class(int c, int class) {
    int is;
    switch (tolower(class)) {
    case 'a':
        is = isalpha(c);
        break;
    case 'c':
        is = iscntrl(c);
        break;
    case 'd':
        is = isdigit(c);
        break;
    case 'g':
        is = isgraph(c);
        break;
    case 'l':
        is = islower(c);
        break;
    case 'p':
        is = ispunct(c);
        break;
    case 's':
        is = isspace(c);
        break;
    case 'u':
        is = isupper(c);
        break;
    case 'w':
        is = isalnum(c);
        break;
    case 'x':
        is = isxdigit(c);
        break;
    case 'z':
        is = c == 0;
        break; /* of old */
    default:
        return class == c;
    }
    return isupper(class) ? !is : is != 0;
}

/* In the set that begins with the '[' at p and ends with the ']' at `last`? */
static bool in_set(match_state *ms, int c, const char *p, const char *last) {
    bool found = true;
    if (p[1] == '^') {
        found = false;
        p++;
    }
    while (++p < last) {
        match_step(ms);
        if (*p == MATCH_ESCAPE) {
            p++;
            if (in_class(c, byte_of(p))) return found;
        } else if (p[1] == '-' && p + 2 < last) {
            p += 2;
            if (byte_of(p - 2) <= c && c <= byte_of(p)) return found;
        } else if (byte_of(p) == c) {
            return found;
        }
    }
    return !found;
}

/* Does the byte at s match the class p, which ends before `end`? */
static bool one(match_state *ms, const char *s, const char *p, const char *end) {
    if (s >= ms->text_end) return false;
    match_step(ms);
    const int c = byte_of(s);
    switch (*p) {
    case '.':
        return true;
    case MATCH_ESCAPE:
        return in_class(c, byte_of(p + 1));
    case '[':
        return in_set(ms, c, p, end - 1);
    default:
        return byte_of(p) == c;
    }
}

/* ---- items of a pattern ------------------------------------------------------- */

/* %bxy at s; p is at x. */
static const char *balanced(match_state *ms, const char *s, const char *p) {
    if (p >= ms->pattern_end - 1)
        luaL_error(ms->L, "malformed pattern (missing arguments to '%%b')");
    if (*s != *p) return NULL;
    int open = 1;
    while (++s < ms->text_end) {
        match_step(ms);
        if (*s == p[1]) {
            if (--open == 0) return s + 1;
        } else if (*s == *p) {
            open++;
        }
    }
    return NULL;
}

/* As many as there are, then fewer. */
static const char *most(match_state *ms, const char *s, const char *p, const char *end) {
    ptrdiff_t n = 0;
    while (one(ms, s + n, p, end)) n++;
    for (; n >= 0; n--) {
        const char *to = match_at(ms, s + n, end + 1);
        if (to) return to;
    }
    return NULL;
}

/* As few as will do. */
static const char *fewest(match_state *ms, const char *s, const char *p, const char *end) {
    for (;;) {
        const char *to = match_at(ms, s, end + 1);
        if (to) return to;
        if (!one(ms, s, p, end)) return NULL;
        s++;
    }
}

static const char *open_capture(match_state *ms, const char *s, const char *p, ptrdiff_t length) {
    if (ms->level >= MATCH_CAPTURES) luaL_error(ms->L, "too many captures");
    ms->capture[ms->level].from = s;
    ms->capture[ms->level].length = length;
    ms->level++;
    const char *to = match_at(ms, s, p);
    if (!to) ms->level--;
    return to;
}

static const char *close_capture(match_state *ms, const char *s, const char *p) {
    int l = ms->level - 1;
    while (l >= 0 && ms->capture[l].length != MATCH_OPEN) l--;
    if (l < 0) luaL_error(ms->L, "invalid pattern capture");
    ms->capture[l].length = s - ms->capture[l].from;
    const char *to = match_at(ms, s, p);
    if (!to) ms->capture[l].length = MATCH_OPEN;
    return to;
}

/* %1 .. %9: the same text again. */
static const char *again(match_state *ms, const char *s, int digit) {
    const int l = digit - '1';
    if (l < 0 || l >= ms->level || ms->capture[l].length == MATCH_OPEN)
        luaL_error(ms->L, "invalid capture index %%%d", l + 1);
    /* A position's length is negative: more than any text has, as in Lua. */
    const size_t n = (size_t)ms->capture[l].length;
    if ((size_t)(ms->text_end - s) < n) return NULL;
    bounded_charge(ms->L, n / BOUNDED_BYTES);
    return memcmp(ms->capture[l].from, s, n) == 0 ? s + n : NULL;
}

/* %f[set] at s: the byte before isn't in the set, this one is. */
static bool frontier(match_state *ms, const char *s, const char *p, const char *end) {
    const int before = s == ms->text ? 0 : byte_of(s - 1);
    const int here = s == ms->text_end ? 0 : byte_of(s);
    return !in_set(ms, before, p, end - 1) && in_set(ms, here, p, end - 1);
}

/* ---- the machine -------------------------------------------------------------- */

/* A class with what follows it. *goes_on: it has matched without a choice, s and p are beyond it;
 * else the answer is the match's. */
static const char *repeated(match_state *ms, const char **s, const char **p, bool *goes_on) {
    const char *end = class_end(ms, *p), *class = *p;
    const char suffix = end < ms->pattern_end ? *end : 0;
    const bool first = one(ms, *s, class, end);
    *goes_on = false;
    if (!first) {
        *goes_on = suffix == '*' || suffix == '?' || suffix == '-';
        *p = end + 1;
        return NULL;
    }
    switch (suffix) {
    case '?': {
        const char *to = match_at(ms, *s + 1, end + 1);
        if (to) return to;
        *goes_on = true;
        *p = end + 1;
        return NULL;
    }
    case '+':
        return most(ms, *s + 1, class, end);
    case '*':
        return most(ms, *s, class, end);
    case '-':
        return fewest(ms, *s, class, end);
    default:
        *goes_on = true;
        (*s)++;
        *p = end;
        return NULL;
    }
}

/* %b, %f and %1; *goes_on as in repeated. false: it is a class. */
static bool escaped(match_state *ms, const char **s, const char **p, bool *goes_on) {
    const char kind = *p + 1 < ms->pattern_end ? (*p)[1] : 0;
    if (kind == 'b') {
        *s = balanced(ms, *s, *p + 2);
        *p += 4;
        *goes_on = *s != NULL;
    } else if (kind == 'f') {
        *p += 2;
        if (*p >= ms->pattern_end || **p != '[')
            luaL_error(ms->L, "missing '[' after '%%f' in pattern");
        const char *end = class_end(ms, *p);
        *goes_on = frontier(ms, *s, *p, end);
        *p = end;
    } else if (isdigit((unsigned char)kind)) {
        *s = again(ms, *s, (unsigned char)kind);
        *p += 2;
        *goes_on = *s != NULL;
    } else {
        return false;
    }
    return true;
}

static const char *run(match_state *ms, const char *s, const char *p) {
    bool goes_on = true;
    while (p != ms->pattern_end) {
        match_step(ms);
        if (*p == '(')
            return p[1] == ')' ? open_capture(ms, s, p + 2, MATCH_POSITION)
                               : open_capture(ms, s, p + 1, MATCH_OPEN);
        if (*p == ')') return close_capture(ms, s, p + 1);
        if (*p == '$' && p + 1 == ms->pattern_end) return s == ms->text_end ? s : NULL;
        const char *to = NULL;
        if (*p != MATCH_ESCAPE || !escaped(ms, &s, &p, &goes_on))
            to = repeated(ms, &s, &p, &goes_on);
        if (!goes_on) return to;
    }
    return s;
}

const char *match_at(match_state *ms, const char *s, const char *p) {
    if (ms->depth-- == 0) luaL_error(ms->L, "pattern too complex");
    const char *to = run(ms, s, p);
    ms->depth++;
    return to;
}

void match_begin(match_state *ms, lua_State *L, const char *text, size_t n, const char *pattern,
                 size_t pattern_n) {
    ms->L = L;
    ms->text = text;
    ms->text_end = text + n;
    ms->pattern_end = pattern + pattern_n;
    ms->depth = MATCH_DEPTH;
    ms->steps = ms->level = 0;
}

/* ---- what came of it ---------------------------------------------------------- */

void match_push_one(match_state *ms, int index, const char *from, const char *to) {
    if (index >= ms->level) {
        if (index != 0) luaL_error(ms->L, "invalid capture index %%%d", index + 1);
        lua_pushlstring(ms->L, from, (size_t)(to - from));
        return;
    }
    const ptrdiff_t n = ms->capture[index].length;
    if (n == MATCH_OPEN) luaL_error(ms->L, "unfinished capture");
    if (n == MATCH_POSITION)
        lua_pushinteger(ms->L, ms->capture[index].from - ms->text + 1);
    else
        lua_pushlstring(ms->L, ms->capture[index].from, (size_t)n);
}

int match_push(match_state *ms, const char *from, const char *to) {
    const int n = ms->level == 0 && from ? 1 : ms->level;
    luaL_checkstack(ms->L, n, "too many captures");
    for (int i = 0; i < n; i++) match_push_one(ms, i, from, to);
    return n;
}

/* ---- plain texts -------------------------------------------------------------- */

/* Pieces, so that the search for a first byte is paid for as it goes. */
static const char *find_byte(lua_State *L, const char *at, const char *end, char wanted) {
    enum { PIECE = 1 << 16 };
    while (at < end) {
        const size_t n = end - at < PIECE ? (size_t)(end - at) : PIECE;
        const char *found = memchr(at, wanted, n);
        bounded_charge(L, (found ? (size_t)(found - at) : n) / BOUNDED_BYTES + 1);
        if (found) return found;
        at += n;
    }
    return NULL;
}

const char *match_plain(lua_State *L, const char *text, size_t n, const char *what, size_t what_n) {
    if (what_n == 0) return text;
    if (what_n > n) return NULL;
    const char *last = text + (n - what_n) + 1; /* no match begins here or later */
    while ((text = find_byte(L, text, last, *what)) != NULL) {
        bounded_charge(L, what_n / BOUNDED_BYTES);
        if (memcmp(text, what, what_n) == 0) return text;
        text++;
    }
    return NULL;
}
