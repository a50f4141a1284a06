/*
 * status.c - names and texts of the status codes, the message a thread keeps of its last
 * failure, and the version. What must hold: recording a failure needs no memory and cannot
 * fail itself; one thread never sees another's message.
 */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };

static _Thread_local char message[MESSAGE_BYTES];

/* Changes when a program built against an older header could break. */
static const uint32_t abi_version = 1;

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

const char *pf_last_error(void) { return message; }

/* The arguments may point into the message that stands, so it is formatted aside. */
int pf_fail(int status, const char *format, ...) {
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0)
        snprintf(text, sizeof text, "%s", pf_status_text(status));
    va_end(args);
    memcpy(message, text, sizeof text);
    return status;
}

/* A message too long for the buffer loses its end, never the prefix. */
int pf_fail_in(int status, const char *format, ...) {
    char prefix[MESSAGE_BYTES / 4], text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    if (vsnprintf(prefix, sizeof prefix, format, args) < 0) prefix[0] = '\0';
    va_end(args);
    int used = snprintf(text, sizeof text, "%s: ", prefix);
    size_t room = sizeof text - (size_t)used - 1, length = strlen(message);
    if (length > room) length = room;
    memcpy(text + used, message, length);
    text[(size_t)used + length] = '\0';
    memcpy(message, text, sizeof text);
    return status;
}

#define PF_TEXT_(x) #x
#define PF_TEXT(x)  PF_TEXT_(x)

const char *pf_version(void) {
    return PF_TEXT(PF_VERSION_MAJOR) "." PF_TEXT(PF_VERSION_MINOR) "." PF_TEXT(PF_VERSION_PATCH);
}

uint32_t pf_abi_version(void) { return abi_version; }
