/*
 * number.h - numbers as text and back, the same under every locale: a host may have set one whose
 * decimal point is a comma, and what a file, an option or a script says is never written so.
 */
#ifndef PF_NUMBER_H
#define PF_NUMBER_H

#include <stdarg.h>
#include <stddef.h>

#define PF_NUMBER_TEXT 40 /* bytes that hold any number as pf_number_text writes it */

/* The number that `text` begins with, rounded to the nearest double; *end (may be NULL) is where it
 * ends, `text` itself where there is none. As strtod reads it in the locale "C". */
double pf_number_read(const char *text, char **end);
/* In at most six digits, as %g has it, for people. */
void pf_number_short(char out[PF_NUMBER_TEXT], double value);
/* The fewest of 15 to 17 digits that read back as the same double. */
void pf_number_text(char out[PF_NUMBER_TEXT], double value);

/* snprintf and vsnprintf as in the locale "C": what messages and logs are made with. */
int pf_print(char *out, size_t bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int pf_vprint(char *out, size_t bytes, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

#endif
