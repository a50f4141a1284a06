/*
 * status.c - names and texts of the status codes, the message a thread keeps of its last
 * failure, and the version. What must hold: recording a failure needs no memory and cannot
 * fail itself; one thread never sees another's message.
 *
 * A message is kept with its places marked (MARK digits MARK_END), as the C host that reads it
 * counts from 0 and a Lua script from 1. Reading takes the marks away, so they never leave this
 * file; a message that is cut loses a place whole, never some of its digits.
 */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"

enum { MESSAGE_BYTES = 2048, PLACES = 8, PLACE_BYTES = 24, MARK = '\x01', MARK_END = '\x02' };

static _Thread_local char message[MESSAGE_BYTES], as_read[MESSAGE_BYTES];
static _Thread_local uint64_t failures;

#define PF_STATUS_ROW(name, value, text) {#name, text, value},
static const struct {
    const char *name, *text;
    int value;
} rows[] = {PF_STATUS_LIST(PF_STATUS_ROW)};
#undef PF_STATUS_ROW

const char *pf_status_name(int status) {
    for (int i = 0; i < PF_COUNT(rows); i++)
        if (rows[i].value == status) return rows[i].name;
    return status >= 0 ? "PF_OK" : "PF_UNKNOWN";
}

const char *pf_status_text(int status) {
    for (int i = 0; i < PF_COUNT(rows); i++)
        if (rows[i].value == status) return rows[i].text;
    return status >= 0 ? "ok" : "unknown status";
}

/* ---- what crosses the border ---- */

int pf_need(const char *where, const char *names, const void *const *pointers, int n) {
    for (int i = 0; i < n; i++) {
        size_t length = strcspn(names, ",");
        if (!pointers[i]) return pf_fail(PF_EINVAL, "%s: %.*s is NULL", where, (int)length, names);
        names += length;
        names += strspn(names, ", ");
    }
    return PF_OK;
}

/* The size that a host's struct begins with. */
static int size_of(size_t *size, const void *given, const char *where) {
    memcpy(size, given, sizeof *size);
    if (*size >= sizeof *size) return PF_OK;
    return pf_fail(PF_EINVAL, "%s: a struct's size is %zu, must be sizeof the struct", where,
                   *size);
}

int pf_options_take(void *own, size_t bytes, const void *given, const char *where) {
    size_t size;
    PF_NEED(own, where);
    if (!given) return PF_OK;
    PF_TRY(size_of(&size, given, where));
    const unsigned char *more = (const unsigned char *)given;
    for (size_t i = bytes; i < size; i++) {
        if (!more[i]) continue;
        return pf_fail(PF_EINVAL,
                       "%s: byte %zu of a struct of %zu bytes is not 0, and this library knows the "
                       "first %zu only: it is older than the header",
                       where, i, size, bytes);
    }
    memcpy(own, given, size < bytes ? size : bytes);
    memcpy(own, &bytes, sizeof bytes);
    return PF_OK;
}

int pf_result_give(void *given, const void *own, size_t bytes, const char *where) {
    size_t size, head = sizeof size;
    PF_NEED(given, own, where);
    PF_TRY(size_of(&size, given, where));
    if (size < bytes) bytes = size;
    memcpy((char *)given + head, (const char *)own + head, bytes - head);
    return PF_OK;
}

/* ---- places ---- */

static char *next_text(void) {
    static _Thread_local char texts[PLACES][PLACE_BYTES];
    static _Thread_local unsigned turn;
    return texts[turn++ % PLACES];
}

const char *pf_place(int64_t place) {
    char *text = next_text();
    snprintf(text, PLACE_BYTES, "%c%lld%c", MARK, (long long)place, MARK_END);
    return text;
}

const char *pf_place_dim(int64_t dim) {
    if (dim >= 0) return pf_place(dim);
    char *text = next_text();
    snprintf(text, PLACE_BYTES, "%lld", (long long)dim);
    return text;
}

/* A mark with digits but without its end was cut: both go. A lone mark came from the host. */
void pf_places_from(int first, const char *text, char *out, size_t bytes) {
    size_t used = 0;
    while (*text && used + 1 < bytes) {
        if (*text != MARK) {
            if (*text != MARK_END) out[used++] = *text;
            text++;
            continue;
        }
        const char *digits = text + 1, *end = digits + strspn(digits, "-0123456789");
        text = end;
        if (*end != MARK_END || end == digits) continue;
        size_t room = bytes - used;
        int n = snprintf(out + used, room, "%lld", strtoll(digits, NULL, 10) + first);
        if (n > 0 && (size_t)n < room) used += (size_t)n;
    }
    out[used] = '\0';
}

/* ---- messages ---- */

const char *pf_last_error_from(int first) {
    pf_places_from(first, message, as_read, sizeof as_read);
    return as_read;
}

const char *pf_message_marked(void) { return message; }

const char *pf_last_error(void) { return pf_last_error_from(0); }

/* The arguments may point into the message that stands, so it is formatted aside. */
int(pf_fail)(int status, const char *format, ...) {
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    if (pf_vprint(text, sizeof text, format, args) < 0)
        snprintf(text, sizeof text, "%s", pf_status_text(status));
    va_end(args);
    memcpy(message, text, sizeof text);
    failures++;
    return status;
}

uint64_t pf_failures(void) { return failures; }

int pf_set_error(int status, const char *text) {
    if (status >= 0) return pf_fail(PF_EINVAL, "pf_set_error: status is %d, not negative", status);
    return pf_fail(status, "%s", text ? text : pf_status_text(status));
}

int pf_callback_failed(int status, uint64_t before, const char *format, ...) {
    char who[MESSAGE_BYTES / 4];
    if (failures != before) return status;
    va_list args;
    va_start(args, format);
    if (pf_vprint(who, sizeof who, format, args) < 0) who[0] = '\0';
    va_end(args);
    return pf_fail(status, "%s failed with %d (%s) and left no text (pf_set_error)", who, status,
                   pf_status_text(status));
}

/* What of the message that stands is left out behind a prefix: the prefix itself ("norm" before
 * "norm: "), and the word before a layer's number, which only the beginning of a path needs. */
static size_t said_already(const char *prefix, const char *text) {
    const size_t all = strlen(prefix), word = strlen("layer ");
    if (strncmp(text, "layer ", word) == 0 && text[word] >= '0' && text[word] <= '9') return word;
    return strncmp(prefix, text, all) == 0 && strncmp(text + all, ": ", 2) == 0 ? all + 2 : 0;
}

/* A message too long for the buffer loses its end, never the prefix. */
int(pf_fail_in)(int status, const char *format, ...) {
    char prefix[MESSAGE_BYTES / 4], text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    if (pf_vprint(prefix, sizeof prefix, format, args) < 0) prefix[0] = '\0';
    va_end(args);
    int used = snprintf(text, sizeof text, "%s: ", prefix);
    const char *rest = message + said_already(prefix, message);
    size_t room = sizeof text - (size_t)used - 1, length = strlen(rest);
    if (length > room) length = room;
    memcpy(text + used, rest, length);
    text[(size_t)used + length] = '\0';
    memcpy(message, text, sizeof text);
    return status;
}

#define PF_TEXT_(x) #x
#define PF_TEXT(x)  PF_TEXT_(x)

const char *pf_version(void) {
    return PF_TEXT(PF_VERSION_MAJOR) "." PF_TEXT(PF_VERSION_MINOR) "." PF_TEXT(PF_VERSION_PATCH);
}

uint32_t pf_abi_version(void) { return PF_ABI_VERSION; }
