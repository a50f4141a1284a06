/*
 * json.c - reading JSON: see json.h. A strict reader of RFC 8259 that allocates twice: the
 * nodes (their number is bounded by a first pass over the text) and a copy of the text, in
 * which strings are decoded in place. What must hold: the write position never passes the
 * read position, and nothing is read behind the 0 that ends the copy.
 *
 * Ours and not a library's, because jansson 2.14, when it fails to get memory, drops
 * characters of names and numbers in silence or writes out of bounds.
 */
#include "json.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX 320 /* characters of one number: more than any double needs */

struct pf_json {
    uint32_t size;  /* entries of a list or map */
    uint8_t kind;   /* pf_config_kind */
    uint8_t whole;  /* NUMBER: `integer` holds it, else `number` */
    union {
        double number; /* BOOL too */
        int64_t integer;
        char *string;
        pf_json *first;
    };
    const char *key; /* in a map */
    pf_json *next;
};

typedef struct {
    const char *where, *text; /* as it was given */
    char *copy, *at;          /* at: what is read next */
    pf_json *node;
    size_t bytes, n, room;
    int depth;
} parser;

/* ---- text --------------------------------------------------------------------- */

static int fail(const parser *p, const char *what, const char *name) {
    size_t line = 1, column = 1;
    for (const char *c = p->text; c < p->text + (p->at - p->copy); c++) {
        if (*c == '\n') line++, column = 1;
        else if (((unsigned char)*c & 0xC0) != 0x80) column++; /* a character, not a byte */
    }
    return pf_fail(PF_EFORMAT, "%s: line %zu, column %zu: %s%s%.64s%s", p->where, line, column,
                   what, name ? " '" : "", name ? name : "", name ? "'" : "");
}

static void skip_blanks(parser *p) { p->at += strspn(p->at, " \t\r\n"); }

/* Bytes of the UTF-8 sequence at s (RFC 3629: no surrogates, no overlong form, nothing
 * above U+10FFFF), or 0. The text ends with a 0, which is no continuation byte. */
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

/* Four hex digits after "\u"; -1: not so. */
static int hex4(const char *s) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int c = s[i], digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
        bool letter = (c | 32) >= 'a' && (c | 32) <= 'f';
        if (!letter && !(c >= '0' && c <= '9')) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *out, int code) {
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xC0, 0xE0, 0xF0};
    *out++ = (char)(lead[more] | code >> 6 * more);
    while (more-- > 0) *out++ = (char)(0x80 | (code >> 6 * more & 0x3F));
    return out;
}

/* "\uXXXX", or two of them for what lies beyond 16 bits. */
static int parse_unicode(parser *p, char **out) {
    int code = hex4(p->at + 2);
    size_t used = 6;
    if (code < 0) return fail(p, "\\u without four hex digits", NULL);
    if (code == 0) return fail(p, "\\u0000 in a string", NULL);
    if (code >= 0xDC00 && code <= 0xDFFF) return fail(p, "half of a surrogate pair", NULL);
    if (code >= 0xD800 && code <= 0xDBFF) {
        int low = p->at[6] == '\\' && p->at[7] == 'u' ? hex4(p->at + 8) : -1;
        if (low < 0xDC00 || low > 0xDFFF) return fail(p, "half of a surrogate pair", NULL);
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        used = 12;
    }
    *out = put_utf8(*out, code);
    p->at += used;
    return PF_OK;
}

static int parse_escape(parser *p, char **out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char c = p->at[1];
    if (c == 'u') return parse_unicode(p, out);
    const char *found = c ? strchr(names, c) : NULL;
    if (!found) return fail(p, "an unknown escape in a string", NULL);
    *(*out)++ = values[found - names];
    p->at += 2;
    return PF_OK;
}

/* Decodes in place: a string never gets longer. */
static int parse_string(parser *p, char **string) {
    char *out = p->at;
    *string = out;
    p->at++;
    while (*p->at != '"') {
        unsigned char c = (unsigned char)*p->at;
        if (c == 0 && p->at == p->copy + p->bytes) return fail(p, "a string without end", NULL);
        if (c < 0x20) return fail(p, "a control character in a string", NULL);
        if (c == '\\') {
            PF_TRY(parse_escape(p, &out));
            continue;
        }
        size_t length = pf_utf8_length((const unsigned char *)p->at);
        if (length == 0) return fail(p, "a byte that is not UTF-8", NULL);
        memmove(out, p->at, length);
        out += length;
        p->at += length;
    }
    *out = 0;
    p->at++;
    return PF_OK;
}

/* ---- numbers ------------------------------------------------------------------ */

/* The length of a number by RFC 8259 (no +, no leading 0, no bare point), 0: none. */
static size_t number_length(const char *s, bool *whole) {
    const char *digits = "0123456789", *c = s + (*s == '-');
    size_t n = strspn(c, digits);
    if (n == 0 || (*c == '0' && n > 1)) return 0;
    c += n;
    *whole = *c != '.' && (*c | 32) != 'e';
    if (*c == '.') {
        n = strspn(c + 1, digits);
        if (n == 0) return 0;
        c += 1 + n;
    }
    if ((*c | 32) == 'e') {
        c += 1 + (c[1] == '+' || c[1] == '-');
        n = strspn(c, digits);
        if (n == 0) return 0;
        c += n;
    }
    return (size_t)(c - s);
}

static bool to_integer(const char *s, size_t length, int64_t *value) {
    bool negative = *s == '-';
    *value = 0;
    for (size_t i = negative; i < length; i++) {
        int digit = negative ? '0' - s[i] : s[i] - '0';
        if (__builtin_mul_overflow(*value, 10, value)) return false;
        if (__builtin_add_overflow(*value, digit, value)) return false;
    }
    return !(negative && *value == 0); /* -0 is a real */
}

static int parse_number(parser *p, pf_json *node) {
    char text[NUMBER_MAX + 16], *out = text;
    bool whole = false;
    size_t length = number_length(p->at, &whole);
    if (length == 0) return fail(p, "not a number", NULL);
    if (length > NUMBER_MAX) return fail(p, "a number of too many digits", NULL);
    node->kind = PF_NUMBER;
    node->whole = whole && to_integer(p->at, length, &node->integer);
    if (!node->whole) {
        const char *point = nl_langinfo(RADIXCHAR); /* what strtod wants here: "," maybe */
        for (size_t i = 0; i < length; i++) {
            if (p->at[i] != '.') *out++ = p->at[i];
            else out = stpncpy(out, point, 8);
        }
        *out = 0;
        node->number = strtod(text, NULL);
        if (isinf(node->number)) return fail(p, "a number too large for a double", NULL);
    }
    p->at += length;
    return PF_OK;
}

/* ---- values ------------------------------------------------------------------- */

static int compare_keys(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_keys(const parser *p, const pf_json *map) {
    const char *few[32], **keys = few;
    if (map->size > 32) keys = malloc(map->size * sizeof *keys);
    if (!keys) return pf_fail(PF_ENOMEM, "%s: out of memory", p->where);
    size_t n = 0;
    for (const pf_json *c = map->first; c; c = c->next) keys[n++] = c->key;
    qsort(keys, n, sizeof *keys, compare_keys);
    int status = PF_OK;
    for (size_t i = 1; status >= 0 && i < n; i++) {
        if (!strcmp(keys[i - 1], keys[i])) status = fail(p, "in this map: duplicate key", keys[i]);
    }
    if (keys != few) free(keys);
    return status;
}

static int parse_value(parser *p, pf_json *node);

static int parse_key(parser *p, char **key) {
    if (*p->at != '"') return fail(p, "a key in quotes is expected", NULL);
    PF_TRY(parse_string(p, key));
    skip_blanks(p);
    if (*p->at != ':') return fail(p, "':' is expected after the key", *key);
    p->at++;
    skip_blanks(p);
    return PF_OK;
}

/* A list or a map, from its bracket to the one that closes it. */
static int parse_entries(parser *p, pf_json *node, char closing) {
    pf_json **end = &node->first;
    if (++p->depth > PF_JSON_DEPTH) return fail(p, "too many levels of nesting", NULL);
    p->at++;
    skip_blanks(p);
    while (*p->at != closing || node->size > 0) {
        char *key = NULL;
        if (closing == '}') PF_TRY(parse_key(p, &key));
        if (p->n == p->room) return fail(p, "too many values", NULL);
        pf_json *child = &p->node[p->n++];
        child->key = key;
        PF_TRY(parse_value(p, child));
        *end = child;
        end = &child->next;
        node->size++;
        skip_blanks(p);
        if (*p->at == closing) break;
        if (*p->at != ',') return fail(p, "',' or a closing bracket is expected", NULL);
        p->at++;
        skip_blanks(p);
    }
    if (closing == '}') PF_TRY(check_keys(p, node));
    p->at++;
    p->depth--;
    return PF_OK;
}

static int parse_word(parser *p, pf_json *node) {
    static const struct { const char *word; pf_config_kind kind; double number; } words[] = {
        {"true", PF_BOOL, 1}, {"false", PF_BOOL, 0}, {"null", PF_NULL, 0}};
    for (int i = 0; i < PF_COUNT(words); i++) {
        size_t length = strlen(words[i].word);
        if (strncmp(p->at, words[i].word, length) != 0) continue;
        node->kind = (uint8_t)words[i].kind;
        node->number = words[i].number;
        p->at += length;
        return PF_OK;
    }
    return fail(p, "a value is expected", NULL);
}

/* The node is zeroed. */
static int parse_value(parser *p, pf_json *node) {
    switch (*p->at) {
    case '{': node->kind = PF_MAP; return parse_entries(p, node, '}');
    case '[': node->kind = PF_LIST; return parse_entries(p, node, ']');
    case '"': node->kind = PF_STRING; return parse_string(p, &node->string);
    case 't':
    case 'f':
    case 'n': return parse_word(p, node);
    default:
        if (*p->at == '-' || (*p->at >= '0' && *p->at <= '9')) return parse_number(p, node);
        return fail(p, "a value is expected", NULL);
    }
}

/* No value without a bracket, comma or colon before it, but the first. */
static size_t count_values(const char *text, size_t bytes) {
    size_t values = 1;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '"') quoted = !quoted;
        else if (quoted) i += c == '\\';
        else values += c == '[' || c == ',' || c == ':';
    }
    return values;
}

static int parse_document(parser *p) {
    skip_blanks(p);
    PF_TRY(parse_value(p, &p->node[1]));
    skip_blanks(p);
    return p->at == p->copy + p->bytes ? PF_OK : fail(p, "text behind the end", NULL);
}

/* Node 0 keeps the copy of the text, node 1 is the document. */
int pf_json_open(pf_json **doc, const char *text, size_t bytes, const char *where) {
    parser p = {.where = where, .text = text, .bytes = bytes, .n = 2};
    *doc = NULL;
    if (!text) return pf_fail(PF_EINVAL, "%s: no text", where);
    if (bytes > PF_JSON_BYTES) {
        return pf_fail(PF_EFORMAT, "%s: %zu bytes of JSON, at most %zu are read", where, bytes,
                       PF_JSON_BYTES);
    }
    p.room = 1 + count_values(text, bytes);
    if (p.room - 1 > PF_JSON_VALUES) {
        return pf_fail(PF_EFORMAT, "%s: more than %zu values", where, PF_JSON_VALUES);
    }
    p.node = calloc(p.room, sizeof *p.node);
    p.copy = p.at = malloc(bytes + 1);
    int status = PF_OK;
    if (!p.node || !p.copy) {
        status = pf_fail(PF_ENOMEM, "%s: out of memory", where);
    } else {
        memcpy(p.copy, text, bytes);
        p.copy[bytes] = 0;
        p.node[0].string = p.copy;
        status = parse_document(&p);
    }
    if (status >= 0) {
        *doc = &p.node[1];
        return PF_OK;
    }
    free(p.copy);
    free(p.node);
    return status;
}

void pf_json_close(pf_json **doc) {
    if (!doc || !*doc) return;
    pf_json *keeper = *doc - 1;
    free(keeper->string);
    free(keeper);
    *doc = NULL;
}

/* ---- looking ------------------------------------------------------------------ */

bool pf_json_is_map(const pf_json *node) { return node && node->kind == PF_MAP; }

bool pf_json_is_list(const pf_json *node) { return node && node->kind == PF_LIST; }

size_t pf_json_size(const pf_json *node) { return node ? node->size : 0; }

const pf_json *pf_json_at(const pf_json *list, size_t index) {
    if (!pf_json_is_list(list)) return NULL;
    const pf_json *child = list->first;
    while (child && index-- > 0) child = child->next;
    return child;
}

const pf_json *pf_json_get(const pf_json *map, const char *key) {
    if (!pf_json_is_map(map)) return NULL;
    const pf_json *child = map->first;
    while (child && strcmp(child->key, key) != 0) child = child->next;
    return child;
}

const char *pf_json_string(const pf_json *node) {
    return node && node->kind == PF_STRING ? node->string : NULL;
}

bool pf_json_integer(const pf_json *node, int64_t *out) {
    if (!node || node->kind != PF_NUMBER || !node->whole) return false;
    *out = node->integer;
    return true;
}

const pf_json *pf_json_next(const pf_json *map, const pf_json *place) {
    if (place) return place->next;
    return pf_json_is_map(map) || pf_json_is_list(map) ? map->first : NULL;
}

const char *pf_json_key(const pf_json *node) { return node->key; }

/* ---- plain data --------------------------------------------------------------- */

static int convert(pf_config **out, const pf_json *node);

static int convert_entries(pf_config *to, const pf_json *node) {
    if (node->kind == PF_MAP && node->size > PF_JSON_KEYS) {
        return pf_fail(PF_EFORMAT, "json: a map of %u keys, at most %d are read", node->size,
                       PF_JSON_KEYS);
    }
    for (const pf_json *c = node->first; c; c = c->next) {
        pf_config *child;
        PF_TRY(convert(&child, c));
        PF_TRY(node->kind == PF_MAP ? pf_config_set(to, c->key, child) : pf_config_push(to, child));
    }
    return PF_OK;
}

/* The depth was bounded by the parser. */
static int convert(pf_config **out, const pf_json *node) {
    int status = PF_OK;
    switch ((pf_config_kind)node->kind) {
    case PF_BOOL: *out = pf_config_new_bool(node->number != 0); break;
    case PF_STRING: *out = pf_config_new_string(node->string); break;
    case PF_NUMBER:
        *out = pf_config_new_number(node->whole ? (double)node->integer : node->number);
        break;
    default: *out = pf_config_new((pf_config_kind)node->kind);
    }
    if (!*out) return pf_fail(PF_ENOMEM, "json: out of memory");
    if (node->kind == PF_LIST || node->kind == PF_MAP) status = convert_entries(*out, node);
    if (status < 0) {
        pf_config_free(*out);
        *out = NULL;
    }
    return status;
}

int pf_json_parse(pf_config **node, const char *text, size_t bytes) {
    pf_json *doc;
    if (!node) return pf_fail(PF_EINVAL, "json: no place for the result");
    *node = NULL;
    PF_TRY(pf_json_open(&doc, text, bytes, "json"));
    int status = convert(node, doc);
    pf_json_close(&doc);
    return status;
}
