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

/* ---- what crosses the border: the manners of performer.h, each in one place ---- */

/* PF_EINVAL, naming the first of the pointers that is NULL; `names` is their list, with commas. */
int pf_need(const char *where, const char *names, const void *const *pointers, int n);
#define PF_NEED(...)                                                                               \
    do {                                                                                           \
        const void *const pf_need_list_[] = {__VA_ARGS__};                                         \
        PF_TRY(pf_need(__func__, #__VA_ARGS__, pf_need_list_, PF_COUNT(pf_need_list_)));           \
    } while (0)
/* The place of a result, cleared for the case of a failure. */
#define PF_OUT(place)                                                                              \
    do {                                                                                           \
        PF_NEED(place);                                                                            \
        PF_HOLDS(place);                                                                           \
        *(place) = 0;                                                                              \
    } while (0)
/* An array of n elements: NULL will do for none. */
#define PF_NEED_ARRAY(array, n)                                                                    \
    do {                                                                                           \
        if ((n) > 0) PF_NEED(array);                                                               \
    } while (0)

/* pf_options_take and pf_result_give are public: a host built against an older header knows a
 * shorter struct, and one built against a newer header a longer one, which must be 0 where we know
 * nothing. */

/* After a callback that failed with `status` when pf_failures was `before`: a message of its own
 * stands, or a default is left that names who failed. Returns `status`. */
int pf_callback_failed(int status, uint64_t before, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* How often this thread has called pf_fail: where a callback failed and the number has not moved,
 * the message that stands is of something else. */
uint64_t pf_failures(void);

/* This thread's message with its places marked: for pf_fail to say once more, later. */
const char *pf_message_marked(void);

/* Memory, a cancel, a limit: of the moment, whatever was asked. */
static inline bool pf_of_moment(int status) {
    return status == PF_ENOMEM || status == PF_ECANCEL || status == PF_ELIMIT;
}

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

/* What clang-tidy can't see from other files: that a condition holds by what stands there, which is
 * said to whoever reads one file alone; and that these return their status. */
#ifdef __clang_analyzer__
#define PF_HOLDS(condition)                                                                        \
    do {                                                                                           \
        if (!(condition)) __builtin_unreachable();                                                 \
    } while (0)
#define pf_fail(status, ...)    ((void)pf_fail(0, __VA_ARGS__), (status))
#define pf_fail_in(status, ...) ((void)pf_fail_in(0, __VA_ARGS__), (status))
#else
#define PF_HOLDS(condition) ((void)0)
#endif

#endif
