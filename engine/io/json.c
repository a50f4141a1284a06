/*
 * json.c - the one wrapper around jansson: see json.h. Reading is jansson's; writing is
 * ours, because numbers must come back as the same bits in the fewest digits, whatever
 * the locale. jansson's global hooks (allocator, seed) are never touched.
 */
#include "json.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ------------------------------------------------------------------ */

/* One pass over the raw text: nesting and an upper bound of the number of values, both
 * exact on what is JSON at all. */
static int check_caps(const char *text, size_t bytes, const char *where) {
    size_t values = 1, line = 1, column = 0;
    int depth = 0;
    bool quoted = false;
    if (bytes > PF_JSON_BYTES) {
        return pf_fail(PF_EFORMAT, "%s: %zu bytes of JSON, at most %zu are read", where, bytes,
                       PF_JSON_BYTES);
    }
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        column++;
        if (c == '\n') line++, column = 0;
        if (c == '"') quoted = !quoted;
        if (quoted) {
            if (c == '\\') i++, column++;
            continue;
        }
        if (c == '[' || c == '{') depth++;
        if (c == ']' || c == '}') depth--;
        if (c == '[' || c == '{' || c == ',' || c == ':') values++;
        if (depth > PF_JSON_DEPTH || values > PF_JSON_VALUES) {
            return pf_fail(PF_EFORMAT, "%s: line %zu, column %zu: more than %zu %s", where, line,
                           column, depth > PF_JSON_DEPTH ? (size_t)PF_JSON_DEPTH : PF_JSON_VALUES,
                           depth > PF_JSON_DEPTH ? "levels of nesting" : "values");
        }
    }
    return PF_OK;
}

static int parse(json_t **doc, const char *text, size_t bytes, size_t flags, const char *where) {
    json_error_t error;
    *doc = NULL;
    if (!text) return pf_fail(PF_EINVAL, "%s: no text", where);
    PF_TRY(check_caps(text, bytes, where));
    *doc = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | flags, &error);
    if (*doc) return PF_OK;
    enum json_error_code code = json_error_code(&error);
    if (code == json_error_out_of_memory) return pf_fail(PF_ENOMEM, "%s: out of memory", where);
    return pf_fail(PF_EFORMAT, "%s: line %d, column %d: %s", where, error.line, error.column,
                   code == json_error_null_character ? "\\u0000 in a string" : error.text);
}

int pf_json_open(pf_json **doc, const char *text, size_t bytes, const char *where) {
    return parse(doc, text, bytes, 0, where);
}

void pf_json_close(pf_json **doc) {
    if (doc && *doc) json_decref(*doc);
    if (doc) *doc = NULL;
}

bool pf_json_is_map(const pf_json *node) { return node && json_is_object(node); }

bool pf_json_is_list(const pf_json *node) { return node && json_is_array(node); }

size_t pf_json_size(const pf_json *node) {
    return pf_json_is_map(node) ? json_object_size(node) : json_array_size(node);
}

const pf_json *pf_json_at(const pf_json *list, size_t index) { return json_array_get(list, index); }

const pf_json *pf_json_get(const pf_json *map, const char *key) {
    return json_object_get(map, key);
}

const char *pf_json_string(const pf_json *node) { return json_string_value(node); }

bool pf_json_integer(const pf_json *node, int64_t *out) {
    if (!node || !json_is_integer(node)) return false;
    *out = (int64_t)json_integer_value(node);
    return true;
}

void *pf_json_next(const pf_json *map, void *place, const char **key, const pf_json **value) {
    /* jansson's iterators take a map that is not const, and don't change it. */
    json_t *object = (json_t *)map;
    void *next = place ? json_object_iter_next(object, place) : json_object_iter(object);
    if (!next) return NULL;
    *key = json_object_iter_key(next);
    *value = json_object_iter_value(next);
    return next;
}

static int convert(pf_config **out, const json_t *node);

static int out_of_memory(void) { return pf_fail(PF_ENOMEM, "json: out of memory"); }

static int convert_list(pf_config *list, const json_t *node) {
    for (size_t i = 0; i < json_array_size(node); i++) {
        pf_config *child;
        PF_TRY(convert(&child, json_array_get(node, i)));
        PF_TRY(pf_config_push(list, child));
    }
    return PF_OK;
}

static int convert_map(pf_config *map, const json_t *node) {
    const char *key;
    const pf_json *value;
    if (json_object_size(node) > PF_JSON_KEYS) {
        return pf_fail(PF_EFORMAT, "json: a map of %zu keys, at most %d are read",
                       json_object_size(node), PF_JSON_KEYS);
    }
    for (void *i = NULL; (i = pf_json_next(node, i, &key, &value));) {
        pf_config *child;
        PF_TRY(convert(&child, value));
        PF_TRY(pf_config_set(map, key, child));
    }
    return PF_OK;
}

/* The depth is bounded by check_caps. */
static int convert(pf_config **out, const json_t *node) {
    int status = PF_OK;
    switch (json_typeof(node)) {
    case JSON_NULL:
        *out = pf_config_new(PF_NULL);
        break;
    case JSON_TRUE:
        *out = pf_config_new_bool(true);
        break;
    case JSON_FALSE:
        *out = pf_config_new_bool(false);
        break;
    case JSON_STRING:
        *out = pf_config_new_string(json_string_value(node));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        *out = pf_config_new_number(json_number_value(node));
        break;
    case JSON_ARRAY:
        *out = pf_config_new(PF_LIST);
        break;
    case JSON_OBJECT:
        *out = pf_config_new(PF_MAP);
        break;
    }
    if (!*out) return out_of_memory();
    if (json_is_array(node)) status = convert_list(*out, node);
    if (json_is_object(node)) status = convert_map(*out, node);
    if (status < 0) {
        pf_config_free(*out);
        *out = NULL;
    }
    return status;
}

int pf_json_parse(pf_config **node, const char *text, size_t bytes) {
    json_t *doc;
    if (!node) return pf_fail(PF_EINVAL, "json: no place for the result");
    *node = NULL;
    /* Integers as reals: plain data knows doubles only, and "-0" must stay so. */
    PF_TRY(parse(&doc, text, bytes, JSON_DECODE_INT_AS_REAL, "json"));
    int status = convert(node, doc);
    json_decref(doc);
    return status;
}

/* ---- writing ------------------------------------------------------------------ */

static bool text_reserve(pf_text *text, size_t more) {
    if (text->failed) return false;
    if (more < text->capacity - text->size) return true; /* one byte stays for the 0 */
    size_t need = text->size + more + 1;
    size_t capacity = text->capacity < 256 ? 256 : text->capacity;
    while (capacity < need && capacity <= SIZE_MAX / 2) capacity *= 2;
    char *data = need > more && capacity >= need ? realloc(text->data, capacity) : NULL;
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void pf_text_put(pf_text *text, const char *data, size_t bytes) {
    if (!text_reserve(text, bytes)) return;
    memcpy(text->data + text->size, data, bytes);
    text->size += bytes;
    text->data[text->size] = 0;
}

void pf_text_print(pf_text *text, const char *format, ...) {
    char buffer[256]; /* numbers and hashes: callers put long strings with pf_text_put */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof buffer)
        text->failed = true;
    else
        pf_text_put(text, buffer, (size_t)n);
}

/* Bytes of the UTF-8 sequence at s (RFC 3629: no surrogates, no overlong form, nothing
 * above U+10FFFF), or 0. The text ends with a 0, which is no continuation byte. */
static size_t utf8_length(const unsigned char *s) {
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

int pf_json_put_string(pf_text *text, const char *string) {
    const unsigned char *s = (const unsigned char *)string;
    pf_text_put(text, "\"", 1);
    for (size_t n; *s; s += n) {
        n = utf8_length(s);
        if (n == 0) {
            return pf_fail(PF_EINVAL, "json: byte %s of a string is not UTF-8 (0x%02x)",
                           pf_place(s - (const unsigned char *)string), *s);
        }
        if (*s == '"' || *s == '\\') pf_text_put(text, "\\", 1);
        if (*s == '\n')
            pf_text_put(text, "\\n", 2);
        else if (*s < 0x20 || *s == 0x7F)
            pf_text_print(text, "\\u%04x", *s);
        else
            pf_text_put(text, (const char *)s, n);
    }
    pf_text_put(text, "\"", 1);
    return text->failed ? out_of_memory() : PF_OK;
}

/* The fewest of 15 to 17 digits that read back as the same double. */
static int put_number(pf_text *text, double value, const char *key) {
    char digits[40], *to = digits;
    if (!isfinite(value)) {
        return pf_fail(PF_ENUMERIC, "json: '%s' is %s: JSON has finite numbers only", key,
                       isnan(value) ? "nan"
                       : value > 0  ? "inf"
                                    : "-inf");
    }
    if (value == trunc(value) && fabs(value) < 1e15) {
        pf_text_print(text, "%.0f", value);
        return PF_OK;
    }
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    /* The decimal point is the locale's, maybe of several bytes: it becomes one dot. */
    for (const char *from = digits; *from; from++) {
        if (strchr("0123456789+-e", *from))
            *to++ = *from;
        else if (to == digits || to[-1] != '.')
            *to++ = '.';
    }
    pf_text_put(text, digits, (size_t)(to - digits));
    return PF_OK;
}

typedef struct {
    pf_text *text;
    bool indent;
    int depth;
} json_writer;

static int put_node(json_writer *w, const pf_config *node, const char *key);

static void put_line(json_writer *w) {
    if (!w->indent) return;
    pf_text_put(w->text, "\n", 1);
    for (int i = 0; i < w->depth; i++) pf_text_put(w->text, "  ", 2);
}

/* A list of plain values stands on one line: shapes and betas stay readable. */
static bool is_flat(const pf_config *node) {
    if (pf_config_kind_of(node) != PF_LIST) return false;
    for (int i = 0; i < pf_config_size(node); i++) {
        pf_config_kind kind = pf_config_kind_of(pf_config_at(node, i));
        if (kind == PF_LIST || kind == PF_MAP) return false;
    }
    return true;
}

static int put_children(json_writer *w, const pf_config *node, const char *key) {
    bool map = pf_config_kind_of(node) == PF_MAP;
    bool flat = is_flat(node);
    int n = pf_config_size(node);
    if (++w->depth > PF_JSON_DEPTH) {
        return pf_fail(PF_EINVAL, "json: '%s' nests deeper than %d levels", key, PF_JSON_DEPTH);
    }
    pf_text_put(w->text, map ? "{" : "[", 1);
    for (int i = 0; i < n; i++) {
        if (i > 0) pf_text_put(w->text, flat && w->indent ? ", " : ",", flat && w->indent ? 2 : 1);
        if (!flat) put_line(w);
        if (map) {
            PF_TRY(pf_json_put_string(w->text, pf_config_key(node, i)));
            pf_text_put(w->text, w->indent ? ": " : ":", w->indent ? 2 : 1);
        }
        PF_TRY(put_node(w, pf_config_at(node, i), map ? pf_config_key(node, i) : key));
    }
    w->depth--;
    if (n > 0 && !flat) put_line(w);
    pf_text_put(w->text, map ? "}" : "]", 1);
    return PF_OK;
}

/* `key` names the value, or the nearest map entry around it, for the message. */
static int put_node(json_writer *w, const pf_config *node, const char *key) {
    switch (node ? pf_config_kind_of(node) : PF_NULL) {
    case PF_NULL:
        pf_text_put(w->text, "null", 4);
        return PF_OK;
    case PF_BOOL:
        if (pf_config_number(node) != 0)
            pf_text_put(w->text, "true", 4);
        else
            pf_text_put(w->text, "false", 5);
        return PF_OK;
    case PF_NUMBER:
        return put_number(w->text, pf_config_number(node), key);
    case PF_STRING:
        return pf_json_put_string(w->text, pf_config_string(node));
    case PF_LIST:
    case PF_MAP:
        return put_children(w, node, key);
    }
    return PF_OK;
}

int pf_json_put(pf_text *text, const pf_config *node, bool indent) {
    json_writer w = {.text = text, .indent = indent};
    PF_TRY(put_node(&w, node, "the value"));
    return text->failed ? out_of_memory() : PF_OK;
}

int pf_json_write(char **text, const pf_config *node, bool indent) {
    pf_text out = {0};
    if (!text) return pf_fail(PF_EINVAL, "json: no place for the result");
    *text = NULL;
    int status = pf_json_put(&out, node, indent);
    if (status < 0) {
        free(out.data);
        return status;
    }
    *text = out.data;
    return PF_OK;
}
