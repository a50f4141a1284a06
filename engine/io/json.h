/*
 * json.h - the one door to JSON. pf_json_parse and pf_json_write (performer.h) go to and
 * from plain data; what stands here is the view that the other readers of io/ use for
 * large or untrusted documents, where every number's kind matters.
 *
 * Before the parser sees a text it has passed caps on its bytes, its nesting and the
 * number of its values, so a small file can't ask for much memory. Duplicate keys, bad
 * UTF-8, \u0000 and anything behind the document are refused, with line and column.
 */
#ifndef PF_JSON_H
#define PF_JSON_H

#include "runtime.h"

#define PF_JSON_BYTES  ((size_t)16 << 20)
#define PF_JSON_DEPTH  128
#define PF_JSON_VALUES ((size_t)3 << 19) /* enough for the largest safetensors header */
#define PF_JSON_KEYS   16384 /* in one map of plain data, whose maps are searched in line */

typedef struct json_t pf_json;

/* `where` begins the message. Close with pf_json_close. */
int pf_json_open(pf_json **doc, const char *text, size_t bytes, const char *where);
void pf_json_close(pf_json **doc);

/* Looking: all take NULL, and a wrong kind gives NULL, 0 or false. Borrowed. */
bool pf_json_is_map(const pf_json *node);
bool pf_json_is_list(const pf_json *node);
size_t pf_json_size(const pf_json *node);
const pf_json *pf_json_at(const pf_json *list, size_t index);
const pf_json *pf_json_get(const pf_json *map, const char *key);
const char *pf_json_string(const pf_json *node);
bool pf_json_integer(const pf_json *node, int64_t *out); /* written as an integer */
/* Walks a map in the document's order: start with NULL, ends with NULL. */
void *pf_json_next(const pf_json *map, void *place, const char **key, const pf_json **value);

/* ---- writing ---- */
/* A growing text; `failed` once memory has run out, and then nothing more is put. */
typedef struct pf_text {
    char *data;
    size_t size, capacity;
    bool failed;
} pf_text;

void pf_text_put(pf_text *text, const char *data, size_t bytes);
void pf_text_print(pf_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
int pf_json_put_string(pf_text *text, const char *string); /* quoted; checks the UTF-8 */
int pf_json_put(pf_text *text, const pf_config *node, bool indent);

#endif
