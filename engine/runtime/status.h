/*
 * status.h - how a failure travels: a negative status as return value, and one message
 * a thread. A function that returns a status < 0 has called pf_fail (or something that
 * did); a function that returns >= 0 has left the message alone.
 */
#ifndef PF_STATUS_H
#define PF_STATUS_H

#include "base.h"

/* Records a formatted message for this thread and returns `status`. */
int pf_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A host's options struct, which begins with its size: copies what it has of our `bytes` over the
 * defaults in `own`, for a host built against an older header knows a shorter one, and one built
 * against a newer header a longer one. NULL: all defaults. A size of 0 was forgotten: PF_EINVAL. */
int pf_options_take(void *own, size_t bytes, const void *given, const char *where);

/* How often this thread has called it: where a callback failed and the number has not moved, the
 * message that stands is of something else. */
uint64_t pf_failures(void);

/* Puts "prefix: " before the message that stands; returns `status`. */
int pf_fail_in(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A place that counts from 0 (a row, a child, a position), as the text of a %s in a message:
 * whoever reads the message says from where it counts. In a rotating thread-local buffer: good
 * for 8 uses in one message. */
const char *pf_place(int64_t place);
/* The same for a dimension: negative ones count from the end for everybody. */
const char *pf_place_dim(int64_t dim);
/* `text` as people read it, its places counted from `first`, cut to `bytes`. */
void pf_places_from(int first, const char *text, char *out, size_t bytes);

/* Returns early with the status of `call` if it failed. */
#define PF_TRY(call)                                                                               \
    do {                                                                                           \
        int pf_try_status_ = (call);                                                               \
        if (pf_try_status_ < 0) return pf_try_status_;                                             \
    } while (0)

#endif
