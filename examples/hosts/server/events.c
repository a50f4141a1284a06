/* events.c - see events.h. */
#include "events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put(events *e, const char *bytes, size_t n) {
    if (e->n + n > e->capacity) {
        size_t capacity = 2 * (e->n + n) + 256;
        char *text = realloc(e->text, capacity);
        if (!text) {
            e->failed = true;
            return;
        }
        e->text = text, e->capacity = capacity;
    }
    memcpy(e->text + e->n, bytes, n);
    e->n += n;
}

static void put_text(events *e, const char *text) { put(e, text, strlen(text)); }

/* How long the character is that begins with this byte; 0: none does. */
static int length_of(unsigned char first) {
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first < 0xe0) return 2;
    if (first >= 0xe0 && first < 0xf0) return 3;
    return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

/* Whether `byte` may stand at place `at` behind this first one: no surrogates, nothing overlong,
 * nothing beyond U+10FFFF. */
static bool goes_on(unsigned char first, int at, unsigned char byte) {
    if ((byte & 0xc0) != 0x80) return false;
    if (at > 1) return true;
    if (first == 0xe0) return byte >= 0xa0;
    if (first == 0xed) return byte < 0xa0;
    if (first == 0xf0) return byte >= 0x90;
    return first != 0xf4 || byte < 0x90;
}

static void put_character(events *e, const unsigned char *bytes, int n) {
    char escaped[8];
    if (n > 1) {
        put(e, (const char *)bytes, (size_t)n);
    } else if (bytes[0] < 0x20 || bytes[0] == 0x7f) {
        snprintf(escaped, sizeof escaped, "\\u%04x", bytes[0]);
        put_text(e, escaped);
    } else {
        if (bytes[0] == '"' || bytes[0] == '\\') put(e, "\\", 1);
        put(e, (const char *)bytes, 1);
    }
}

/* One byte more: a character that is whole goes out. */
static void take(events *e, unsigned char byte) {
    if (e->n_held > 0 && !goes_on(e->held[0], e->n_held, byte)) {
        put_text(e, "\xef\xbf\xbd");
        e->n_held = 0;
    }
    if (e->n_held == 0 && length_of(byte) == 0) {
        put_text(e, "\xef\xbf\xbd");
        return;
    }
    e->held[e->n_held++ & 3] = byte; /* at most 4 are held */
    if (e->n_held == length_of(e->held[0])) {
        put_character(e, e->held, e->n_held);
        e->n_held = 0;
    }
}

static const char text_begin[] = "data: {\"text\": \"", text_end[] = "\"}\n\n";

void events_text(events *e, const char *bytes, size_t n) {
    const size_t before = e->n;
    put_text(e, text_begin);
    const size_t empty = e->n;
    for (size_t i = 0; i < n; i++) take(e, (unsigned char)bytes[i]);
    if (e->n == empty) {
        e->n = before;
    } else {
        put_text(e, text_end);
    }
}

void events_end(events *e, int64_t tokens, const char *reason) {
    char line[160];
    if (e->n_held > 0) {
        e->n_held = 0;
        put_text(e, text_begin), put_text(e, "\xef\xbf\xbd"), put_text(e, text_end);
    }
    snprintf(line, sizeof line, "event: end\ndata: {\"tokens\": %lld, \"reason\": \"%s\"}\n\n",
             (long long)tokens, reason);
    put_text(e, line);
}

void events_free(events *e) {
    free(e->text);
    memset(e, 0, sizeof *e);
}
