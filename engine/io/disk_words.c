/*
 * disk_words.c - what an access to files said of a failure beside its number (pf_set_error), or is
 * said of an answer that can't be: the words stand in the message in the place of the number's.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "disk.h"

/* Of the last call of an access on this thread. */
static _Thread_local struct {
    int64_t error; /* 0: nothing */
    char text[256];
} words;

int64_t pf_disk_said(int64_t result, uint64_t before) {
    if (result < -INT_MAX) {
        words.error = -EIO;
        snprintf(words.text, sizeof words.text,
                 "the access to files answers %lld, which is no number of errno.h",
                 (long long)result);
        return -EIO;
    }
    const bool said = result < 0 && pf_failures() != before;
    words.error = said ? result : 0;
    if (said) snprintf(words.text, sizeof words.text, "%s", pf_last_error());
    return result;
}

int64_t pf_disk_lied(const char *what, int64_t answer) {
    words.error = -EIO;
    snprintf(words.text, sizeof words.text, "the access to files answers %lld bytes %s",
             (long long)answer, what);
    return -EIO;
}

const char *pf_disk_words(int error, char *buffer, size_t bytes) {
    const bool said = words.error == error;
    words.error = 0;
    return said ? words.text : strerror_r(-error, buffer, bytes);
}
