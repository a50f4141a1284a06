/*
 * number.c - see number.h. Where a locale can be named at a call, it is; printing knows no such
 * call, so the thread's own is "C" for as long as it takes. The process's is never touched, and
 * glibc hands out its "C" without allocating anything.
 */
#include "number.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static locale_t plain(void) { return newlocale(LC_ALL_MASK, "C", (locale_t)0); }

double pf_number_read(const char *text, char **end) { return strtod_l(text, end, plain()); }

/* A decimal point of the host's, maybe of several bytes, becomes one dot. */
static void use_dot(char *digits) {
    char *to = digits;
    for (const char *from = digits; *from; from++) {
        if (strchr("0123456789+-einfa", *from))
            *to++ = *from;
        else if (to == digits || to[-1] != '.')
            *to++ = '.';
    }
    *to = '\0';
}

void pf_number_short(char out[PF_NUMBER_TEXT], double value) {
    snprintf(out, PF_NUMBER_TEXT, "%g", value);
    use_dot(out);
}

void pf_number_text(char out[PF_NUMBER_TEXT], double value) {
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(out, PF_NUMBER_TEXT, "%.*g", precision, value);
        use_dot(out);
        if (pf_number_read(out, NULL) == value) return;
    }
}

int pf_vprint(char *out, size_t bytes, const char *format, va_list args) {
    const locale_t before = uselocale(plain());
    const int n = vsnprintf(out, bytes, format, args);
    uselocale(before);
    return n;
}

int pf_print(char *out, size_t bytes, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = pf_vprint(out, bytes, format, args);
    va_end(args);
    return n;
}
