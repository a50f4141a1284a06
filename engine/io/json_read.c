/*
 * json_read.c - reading JSON (RFC 8259): see json.h. What must hold: whatever the bytes, `at` never
 * passes `end`, where a 0 stands; nothing of the text is copied but strings that are to be kept;
 * what was read before an error is the caller's to free.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "meter.h"
#include "number.h"

enum { LOOK = 1 << 12 }; /* values between two looks at the cancel flag */

/* ---- places ------------------------------------------------------------------- */

int pf_json_open(pf_json *in, char *text, size_t bytes, const char *where) {
    *in = (pf_json){text, text + bytes, text, where, 1, 0, 0, NULL};
    if (bytes <= PF_JSON_BYTES) return PF_OK;
    return pf_fail(PF_EFORMAT, "%s: %zu bytes of JSON, at most %zu are read", where, bytes,
                   PF_JSON_BYTES);
}

int pf_json_fail(const pf_json *in, const char *format, ...) {
    char what[192];
    va_list args;
    va_start(args, format);
    pf_vprint(what, sizeof what, format, args);
    va_end(args);
    return pf_fail(PF_EFORMAT, "%s: line %zu, column %zu: %s", in->where, in->line,
                   (size_t)(in->at - in->line_start) + 1, what);
}

char pf_json_peek(pf_json *in) {
    for (;; in->at++) {
        char c = *in->at;
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return c;
        if (c != '\n') continue;
        in->line++;
        in->line_start = in->at + 1;
    }
}

/* What stands where something else should. */
static int unexpected(pf_json *in, const char *wanted) {
    unsigned char c = (unsigned char)pf_json_peek(in);
    if (in->at == in->end) return pf_json_fail(in, "the text ends, %s expected", wanted);
    if (c > ' ' && c < 0x7F) return pf_json_fail(in, "'%c', %s expected", c, wanted);
    return pf_json_fail(in, "byte 0x%02x, %s expected", c, wanted);
}

/* Every value is counted, so that a small file can't ask for much. */
static int count(pf_json *in) {
    if (in->values % LOOK == 0 && in->engine) PF_TRY(pf_charge(in->engine, LOOK));
    if (++in->values <= PF_JSON_VALUES) return PF_OK;
    return pf_json_fail(in, "more than %zu values", PF_JSON_VALUES);
}

/* ---- lists and maps ----------------------------------------------------------- */

int pf_json_enter(pf_json *in, char open) {
    if (pf_json_peek(in) != open) return unexpected(in, open == '{' ? "a map" : "a list");
    PF_TRY(count(in));
    if (in->depth == PF_JSON_DEPTH)
        return pf_json_fail(in, "more than %d levels of nesting", PF_JSON_DEPTH);
    if (in->engine) PF_TRY(pf_nest(in->engine, 1));
    in->depth++;
    in->at++;
    return PF_OK;
}

int pf_json_more(pf_json *in, char close, int *n) {
    char c = pf_json_peek(in);
    if (c == close) {
        in->at++;
        in->depth--;
        if (in->engine) pf_nest(in->engine, -1);
        return 0;
    }
    if (*n > 0 && c != ',') return unexpected(in, close == '}' ? "',' or '}'" : "',' or ']'");
    if (*n > 0) in->at++;
    ++*n;
    return 1;
}

int pf_json_key(pf_json *in, char **key) {
    if (pf_json_peek(in) != '"') return unexpected(in, "a key in quotes");
    PF_TRY(pf_json_text(in, key));
    if (pf_json_peek(in) != ':') return unexpected(in, "':'");
    in->at++;
    return PF_OK;
}

int pf_json_end(pf_json *in) {
    pf_json_peek(in);
    return in->at == in->end ? PF_OK : unexpected(in, "the end of the text");
}

/* ---- strings ------------------------------------------------------------------ */

/* RFC 3629: no surrogates, no overlong form, nothing above U+10FFFF. The text ends with a 0, which
 * is no continuation byte. */
size_t pf_utf8_length(const unsigned char *s) {
    unsigned char low = 0x80, high = 0xBF;
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (n == 0 || s[0] > 0xF4) return 0;
    if (s[0] == 0xE0) low = 0xA0;
    if (s[0] == 0xED) high = 0x9F;
    if (s[0] == 0xF0) low = 0x90;
    if (s[0] == 0xF4) high = 0x8F;
    for (size_t i = 1; i < n; i++) {
        if (s[i] < (i == 1 ? low : 0x80) || s[i] > (i == 1 ? high : 0xBF)) return 0;
    }
    return n;
}

/* Four hexadecimal digits; -1: they are not. */
static int32_t hex4(const char *s) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = s[i] >= '0' && s[i] <= '9'   ? s[i] - '0'
                    : s[i] >= 'a' && s[i] <= 'f' ? s[i] - 'a' + 10
                    : s[i] >= 'A' && s[i] <= 'F' ? s[i] - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1; /* the 0 at the end is none, so nothing beyond is read */
        value = value << 4 | digit;
    }
    return value;
}

static char *put_utf8(char *to, int32_t c) {
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xC0, 0xE0, 0xF0};
    *to++ = (char)(first[more] | c >> 6 * more);
    while (more-- > 0) *to++ = (char)(0x80 | (c >> 6 * more & 0x3F));
    return to;
}

/* \uXXXX, or two of them for what lies above U+FFFF; `at` stands on the u. */
static int unescape_code(pf_json *in, char **to) {
    int32_t c = hex4(in->at + 1), low;
    if (c < 0) return pf_json_fail(in, "\\u needs four hexadecimal digits");
    if (c == 0) return pf_json_fail(in, "\\u0000 in a string");
    in->at += 5;
    if (c >= 0xDC00 && c < 0xE000) return pf_json_fail(in, "half of a surrogate pair");
    if (c >= 0xD800 && c < 0xDC00) {
        low = in->at[0] == '\\' && in->at[1] == 'u' ? hex4(in->at + 2) : -1;
        if (low < 0xDC00 || low > 0xDFFF) return pf_json_fail(in, "half of a surrogate pair");
        in->at += 6;
        c = 0x10000 + ((c - 0xD800) << 10 | (low - 0xDC00));
    }
    *to = put_utf8(*to, c);
    return PF_OK;
}

/* Behind a backslash. What comes out is never longer than what stood there. */
static int unescape(pf_json *in, char **to) {
    static const char letters[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    if (*in->at == 'u') return unescape_code(in, to);
    const char *place = *in->at ? strchr(letters, *in->at) : NULL;
    if (!place) return pf_json_fail(in, "no escape of JSON's");
    *(*to)++ = means[place - letters];
    in->at++;
    return PF_OK;
}

int pf_json_text(pf_json *in, char **text) {
    if (pf_json_peek(in) != '"') return unexpected(in, "a string");
    PF_TRY(count(in));
    char *to = *text = ++in->at;
    while (*in->at != '"') {
        size_t n = pf_utf8_length((const unsigned char *)in->at);
        if (in->at == in->end) return pf_json_fail(in, "the text ends in a string");
        if (n == 0) return pf_json_fail(in, "unable to decode byte 0x%02x", *in->at & 0xFF);
        if ((unsigned char)*in->at < 0x20)
            return pf_json_fail(in, "control character 0x%02x in a string", *in->at);
        if (*in->at == '\\') {
            in->at++;
            PF_TRY(unescape(in, &to));
            continue;
        }
        if (to != in->at) memmove(to, in->at, n); /* behind an escape */
        to += n;
        in->at += n;
    }
    in->at++;
    *to = '\0';
    return PF_OK;
}

/* ---- numbers ------------------------------------------------------------------ */

static char *digits(char *at) {
    while (*at >= '0' && *at <= '9') at++;
    return at;
}

/* Where the number at `at` ends by JSON's grammar, or NULL. *whole: no point, no exponent. */
static char *number_end(char *at, bool *whole) {
    char *first = *at == '-' ? at + 1 : at, *end = digits(first);
    if (end == first || (*first == '0' && end > first + 1)) return NULL;
    *whole = true;
    if (*end == '.') {
        char *fraction = end + 1;
        *whole = false;
        end = digits(fraction);
        if (end == fraction) return NULL;
    }
    if (*end == 'e' || *end == 'E') {
        char *exponent = end + 1;
        *whole = false;
        if (*exponent == '+' || *exponent == '-') exponent++;
        end = digits(exponent);
        if (end == exponent) return NULL;
    }
    return end;
}

int pf_json_whole(pf_json *in, int64_t *value) {
    bool whole = false;
    pf_json_peek(in);
    char *end = number_end(in->at, &whole);
    if (!end || !whole) return unexpected(in, "a whole number");
    errno = 0;
    *value = strtoll(in->at, NULL, 10);
    if (errno == ERANGE) return pf_json_fail(in, "a whole number of more than 63 bits");
    in->at = end;
    return count(in);
}

static int read_number(pf_json *in, double *value) {
    bool whole;
    char *end = number_end(in->at, &whole);
    if (!end) return unexpected(in, "a number");
    *value = pf_number_read(in->at, NULL);
    if (!isfinite(*value)) return pf_json_fail(in, "a number too large for a double");
    in->at = end;
    return PF_OK;
}

/* null, true or false; node NULL: of no interest. */
static int read_word(pf_json *in, pf_config *node) {
    static const char *const words[] = {"null", "false", "true"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if (strncmp(in->at, words[i], length) != 0) continue;
        in->at += length;
        if (i > 0 && node) pf_config_become_bool(node, i == 2);
        return PF_OK;
    }
    return unexpected(in, "a value");
}

/* A value that nobody asks for. */
int pf_json_skip(pf_json *in) {
    char c = pf_json_peek(in), *text = NULL;
    double number = 0;
    int n = 0, more;
    if (c == '"') return pf_json_text(in, &text);
    if (c != '{' && c != '[') {
        if (c == '-' || (c >= '0' && c <= '9')) return read_number(in, &number);
        return read_word(in, NULL);
    }
    PF_TRY(pf_json_enter(in, c));
    while ((more = pf_json_more(in, c == '{' ? '}' : ']', &n)) > 0) {
        if (c == '{') PF_TRY(pf_json_key(in, &text));
        PF_TRY(pf_json_skip(in));
    }
    return more;
}

/* ---- plain data --------------------------------------------------------------- */

/* The depth is bounded by pf_json_enter. Each reads into a fresh node of kind null or its own,
 * which its parent holds already, so that a failure has nothing to free. */
static int read_value(pf_json *in, pf_config *node);

static pf_config *fresh(pf_json *in, const pf_config *near) {
    char c = pf_json_peek(in);
    return pf_config_new_beside(near, c == '{' ? PF_MAP : c == '[' ? PF_LIST : PF_NULL);
}

static int read_list(pf_json *in, pf_config *list) {
    int n = 0, more;
    PF_TRY(pf_json_enter(in, '['));
    while ((more = pf_json_more(in, ']', &n)) > 0) {
        pf_config *child = fresh(in, list);
        PF_TRY(pf_config_push(list, child));
        PF_TRY(read_value(in, child));
    }
    return more;
}

static int read_map(pf_json *in, pf_config *map) {
    int n = 0, more;
    char *key = NULL;
    PF_TRY(pf_json_enter(in, '{'));
    while ((more = pf_json_more(in, '}', &n)) > 0) {
        PF_TRY(pf_json_key(in, &key));
        if (pf_config_get(map, key)) return pf_json_fail(in, "duplicate key '%.64s'", key);
        if (n > PF_JSON_KEYS) return pf_json_fail(in, "a map of more than %d keys", PF_JSON_KEYS);
        pf_config *child = fresh(in, map);
        PF_TRY(pf_config_set(map, key, child));
        PF_TRY(read_value(in, child));
    }
    return more;
}

static int read_value(pf_json *in, pf_config *node) {
    char c = pf_json_peek(in), *text = NULL;
    double number = 0;
    if (c == '{') return read_map(in, node);
    if (c == '[') return read_list(in, node);
    if (c == '"') {
        PF_TRY(pf_json_text(in, &text));
        return pf_config_become_string(node, text);
    }
    PF_TRY(count(in));
    if (c != '-' && (c < '0' || c > '9')) return read_word(in, node);
    PF_TRY(read_number(in, &number));
    pf_config_become_number(node, number);
    return PF_OK;
}

int pf_json_read(pf_config **node, const pf_engine *engine, char *text, size_t bytes,
                 const char *where) {
    pf_json in;
    pf_heap *heap = engine ? engine->heap : NULL;
    *node = NULL;
    PF_TRY(pf_json_open(&in, text, bytes, where));
    in.engine = engine;
    char c = pf_json_peek(&in);
    pf_config *root = pf_config_new_in(heap, c == '{' ? PF_MAP : c == '[' ? PF_LIST : PF_NULL);
    if (!root) return PF_ENOMEM;
    int status = read_value(&in, root);
    if (engine) pf_nest(engine, -in.depth); /* where it broke off */
    if (status >= 0) status = pf_json_end(&in);
    if (status >= 0)
        *node = root;
    else
        pf_config_free(root);
    return status;
}

static int check_bytes(size_t bytes) {
    if (bytes <= PF_JSON_BYTES) return PF_OK;
    return pf_fail(PF_EFORMAT, "json: %zu bytes, at most %zu are read", bytes, PF_JSON_BYTES);
}

int pf_json_parse(pf_config **node, const char *text, size_t bytes) {
    PF_OUT(node);
    PF_NEED_ARRAY(text, bytes);
    PF_TRY(check_bytes(bytes));
    char *own = malloc(bytes + 1);
    if (!own) return pf_fail(PF_ENOMEM, "json: out of memory");
    memcpy(own, text, bytes);
    own[bytes] = '\0';
    int status = pf_json_read(node, NULL, own, bytes, "json");
    free(own);
    return status;
}

int pf_json_parse_in(pf_config **node, pf_engine *engine, const char *text, size_t bytes) {
    PF_OUT(node);
    PF_OPEN(engine);
    PF_NEED_ARRAY(text, bytes);
    PF_TRY(check_bytes(bytes));
    PF_TRY(pf_charge(engine, pf_work_of((double)bytes, 0)));
    char *own = pf_heap_alloc(engine->heap, bytes + 1);
    if (!own) return PF_ENOMEM;
    memcpy(own, text, bytes);
    own[bytes] = '\0';
    int status = pf_json_read(node, engine, own, bytes, "json");
    pf_heap_free(engine->heap, own, bytes + 1);
    return status;
}
