/*
 * start.h - runs what the program's command line asks for: pieces of Lua, a script, a prompt.
 */
#ifndef LPF_START_H
#define LPF_START_H

#include <stdbool.h>

#include "host.h"

typedef struct {
    const char *program;
    const char *const *code; /* what stood behind each -e */
    int n_code;
    const char *file; /* NULL: none; "-": the standard input */
    bool prompt;      /* behind them */
    int argc;         /* the script's own words */
    char **argv;
} start_request;

/* All of it, one after another in one state, until something fails; a prompt comes all the same.
 * The exit code; what failed is told on stderr. */
int start_run(const start_request *request, const lpf_places *places);

#endif
