/*
 * json.c - writing JSON: see json.h. Numbers come back as the same bits, in the fewest digits,
 * whatever the locale.
 */
#include "json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meter.h"

static int out_of_memory(void) { return pf_fail(PF_ENOMEM, "json: out of memory"); }

/* ---- writing ------------------------------------------------------------------ */

static bool text_widen(pf_text *text, size_t capacity) {
    char *data = text->heap ? pf_heap_alloc(text->heap, capacity) : realloc(text->data, capacity);
    if (!data) return false;
    if (text->heap) {
        if (text->data) memcpy(data, text->data, text->size);
        pf_heap_free(text->heap, text->data, text->capacity);
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

static bool text_reserve(pf_text *text, size_t more) {
    if (text->failed) return false;
    if (more < text->capacity - text->size) return true; /* one byte stays for the 0 */
    size_t need = text->size + more + 1;
    size_t capacity = text->capacity < 256 ? 256 : text->capacity;
    while (capacity < need && capacity <= SIZE_MAX / 2) capacity *= 2;
    text->failed = need <= more || capacity < need || !text_widen(text, capacity);
    return !text->failed;
}

void pf_text_close(pf_text *text) {
    if (text->heap)
        pf_heap_free(text->heap, text->data, text->capacity);
    else
        free(text->data);
    *text = (pf_text){.heap = text->heap, .engine = text->engine};
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

/* Is it one that a string of JSON's has behind a backslash alone? */
static bool is_escaped(unsigned char c) { return c < 0x20 || c == 0x7F || c == '"' || c == '\\'; }

static void put_escaped(pf_text *text, unsigned char c) {
    static const char digits[] = "0123456789abcdef";
    const char code[] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
    const char letter[] = {'\\', c == '\n' ? 'n' : (char)c};
    if (c == '"' || c == '\\' || c == '\n')
        pf_text_put(text, letter, sizeof letter);
    else
        pf_text_put(text, code, sizeof code);
}

int pf_json_put_string(pf_text *text, const char *string) {
    const unsigned char *s = (const unsigned char *)string, *run = s;
    pf_text_put(text, "\"", 1);
    for (size_t n; *s; s += n) {
        n = pf_utf8_length(s);
        if (n == 0) {
            return pf_fail(PF_EINVAL, "json: byte %s of a string is not UTF-8 (0x%02x)",
                           pf_place(s - (const unsigned char *)string), *s);
        }
        if (!is_escaped(*s)) continue;
        pf_text_put(text, (const char *)run, (size_t)(s - run));
        put_escaped(text, *s);
        run = s + 1;
    }
    pf_text_put(text, (const char *)run, (size_t)(s - run));
    pf_text_put(text, "\"", 1);
    return text->failed ? out_of_memory() : PF_OK;
}

static int put_number(pf_text *text, double value, const char *key) {
    char digits[PF_NUMBER_TEXT];
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
    pf_number_text(digits, value);
    pf_text_put(text, digits, strlen(digits));
    return PF_OK;
}

enum { LOOK = 1 << 10 }; /* values between two looks at the limits */

typedef struct {
    pf_text *text;
    bool indent;
    int depth;
    int values; /* since the last look */
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
    if (w->text->engine && ++w->values == LOOK) {
        w->values = 0;
        PF_TRY(pf_charge(w->text->engine, LOOK));
    }
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

static int write_text(char **text, const pf_engine *engine, const pf_config *node, bool indent) {
    pf_text out = {.engine = engine};
    int status = pf_json_put(&out, node, indent);
    if (status < 0) {
        free(out.data);
        return status;
    }
    *text = out.data;
    return PF_OK;
}

int pf_json_write(char **text, const pf_config *node, bool indent) {
    PF_OUT(text);
    return write_text(text, NULL, node, indent);
}

int pf_json_write_in(char **text, pf_engine *engine, const pf_config *node, bool indent) {
    PF_OUT(text);
    PF_OPEN(engine);
    return write_text(text, engine, node, indent);
}
