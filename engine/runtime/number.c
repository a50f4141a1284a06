/*
 * number.c - see number.h. The locale is named at each call, so neither the process's nor the
 * thread's is asked or changed: glibc hands out its "C" without allocating anything.
 */
#include "number.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double pf_number_read(const char *text, char **end) {
    return strtod_l(text, end, newlocale(LC_ALL_MASK, "C", (locale_t)0));
}

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
