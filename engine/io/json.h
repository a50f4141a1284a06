/*
 * json.h - the one door to JSON. pf_json_parse and pf_json_write (performer.h) go to and
 * from plain data; what stands here is for the other readers of io/: the same reader a value
 * at a time, for documents that are too large, or too untrusted, to be held as a tree.
 *
 * A text is at most so many bytes, nests so deep and has so many values; duplicate keys, bad
 * UTF-8, \u0000 and anything behind the document are refused, with line and column. The reader
 * itself asks for no memory: what it can't do for want of it is PF_ENOMEM and never damage.
 */
#ifndef PF_JSON_H
#define PF_JSON_H

#include "runtime.h"

#define PF_JSON_BYTES  ((size_t)16 << 20)
#define PF_JSON_DEPTH  128
#define PF_JSON_VALUES ((size_t)3 << 19) /* enough for the largest safetensors header */
#define PF_JSON_KEYS   16384             /* in one map of plain data */

/* ---- reading ---- */
/* A text of ours, with a 0 behind it: strings are unescaped where they stand, and end in a 0. */
typedef struct pf_json {
    char *at, *end;
    const char *line_start; /* of the line that `at` is in */
    const char *where;      /* begins each message */
    size_t line, values;
    int depth;
    const pf_engine *engine; /* whose cancel flag and limits hold; NULL: nobody's */
} pf_json;

int pf_json_open(pf_json *in, char *text, size_t bytes, const char *where);
int pf_json_enter(pf_json *in, char open); /* '{' or '[', or fails */
/* Is there one more in what was entered? 1, or 0 and it is left. *n, from 0, counts them. */
int pf_json_more(pf_json *in, char close, int *n);
int pf_json_key(pf_json *in, char **key); /* with the colon behind it */
int pf_json_text(pf_json *in, char **text);
int pf_json_whole(pf_json *in, int64_t *value); /* written as a whole number that fits */
int pf_json_skip(pf_json *in);                  /* a value, of whatever kind */
int pf_json_end(pf_json *in);                   /* nothing but blanks is left */
char pf_json_peek(pf_json *in);                 /* the first byte of what comes next; 0: the end */
/* PF_EFORMAT with line and column. */
int pf_json_fail(const pf_json *in, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The whole text as plain data in the engine's heap (NULL: plain C memory). */
int pf_json_read(pf_config **node, const pf_engine *engine, char *text, size_t bytes,
                 const char *where);

/* ---- writing ---- */
/* A growing text; `failed` once memory has run out, and then nothing more is put. */
typedef struct pf_text {
    pf_heap *heap;           /* NULL: plain C memory */
    const pf_engine *engine; /* whose limits hold; NULL: nobody's */
    char *data;
    size_t size, capacity;
    bool failed;
} pf_text;

void pf_text_close(pf_text *text);
void pf_text_put(pf_text *text, const char *data, size_t bytes);
void pf_text_print(pf_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
int pf_json_put_string(pf_text *text, const char *string); /* quoted; checks the UTF-8 */
int pf_json_put(pf_text *text, const pf_config *node, bool indent);
/* Bytes of the UTF-8 sequence at s, or 0 (json_read.c). */
size_t pf_utf8_length(const unsigned char *s);

#endif
