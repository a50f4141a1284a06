/*
 * events.h - a growing text of server-sent events, whose data are JSON. Tokens of a byte model are
 * no whole characters: what may still become one is kept back, and what can't is U+FFFD.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *text;
    size_t n, capacity, read;
    unsigned char held[4]; /* the beginning of a character */
    int n_held;
    bool failed; /* no memory: what follows is lost */
} events;

/* data: {"text": "..."} of these bytes, if they end a character. */
void events_text(events *e, const char *bytes, size_t n);
/* event: end, data: {"tokens": n, "reason": "..."}. */
void events_end(events *e, int64_t tokens, const char *reason);
void events_free(events *e);

#endif
