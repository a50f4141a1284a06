/*
 * main.c - the `performer` program.
 *
 *   performer FILE.lua [arguments]   runs a script with the engine at hand
 *   performer COMMAND [options]      runs scripts/COMMAND.lua
 *
 * Exit codes: 0 done, 1 failed, 2 misuse, 3 over a limit (run), 130 interrupted, 141 the reader of
 * its output is gone; a script chooses its own by throwing {code = n, message = text} (pf.exit).
 * What signals do is process.c's.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

#include "host.h"
#include "lpf.h"
#include "process.h"
#include "run.h"

enum { MAX_COMMANDS = 128, NAME = 64 };

typedef struct {
    int n;
    char name[MAX_COMMANDS][NAME];
} command_list;

/* ---- commands ----------------------------------------------------------------- */

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

/* The scripts of the folder, in order; names that begin with '_' are no commands. */
static void read_commands(const char *scripts, command_list *list) {
    list->n = 0;
    DIR *dir = scripts[0] ? opendir(scripts) : NULL;
    if (!dir) return;
    const struct dirent *entry;
    while (list->n < MAX_COMMANDS && (entry = readdir(dir)) != NULL) {
        const size_t n = strlen(entry->d_name);
        if (n < 5 || n - 4 >= NAME || strcmp(entry->d_name + n - 4, ".lua") != 0) continue;
        if (!isalnum((unsigned char)entry->d_name[0])) continue;
        memcpy(list->name[list->n], entry->d_name, n - 4);
        list->name[list->n++][n - 4] = 0;
    }
    closedir(dir);
    qsort(list->name, (size_t)list->n, NAME, by_name);
}

/* What the script's first comment says of it, after its own name. */
static void describe(const char *scripts, const char *name, char line[256]) {
    char path[LPF_PATH];
    line[0] = 0;
    snprintf(path, sizeof path, "%s/%s.lua", scripts, name);
    FILE *file = fopen(path, "r");
    if (!file) return;
    char text[256];
    while (fgets(text, sizeof text, file) && strncmp(text, "#!", 2) == 0) continue;
    fclose(file);
    const char *p = text + strspn(text, "- ");
    if (strncmp(text, "--", 2) != 0) return;
    const size_t n = strlen(name);
    if (strncmp(p, "performer ", 10) == 0) p += 10;
    if (strncmp(p, name, n) == 0) {
        p += n;
        if (strncmp(p, ".lua", 4) == 0) p += 4;
        p += strspn(p, " :-");
    }
    snprintf(line, 256, "%s", p);
    line[strcspn(line, ",.;\n")] = 0; /* its first clause */
}

static void print_help(FILE *out, const char *scripts) {
    command_list list;
    char line[256];
    fprintf(out,
            "Performer %s: Performers (transformers with linear attention) on CPUs\n\n"
            "usage: performer COMMAND [options]       performer COMMAND --help says more\n"
            "       performer FILE.lua [arguments]    runs a script with the engine\n"
            "       performer --help | --version\n\n",
            pf_version());
    read_commands(scripts, &list);
    if (list.n > 0) fprintf(out, "commands:\n");
    for (int i = 0; i < list.n; i++) {
        describe(scripts, list.name[i], line);
        fprintf(out, "  %-10s %s\n", list.name[i], line);
    }
    fprintf(out, "\nexample: performer train --data proteins.fasta --out run --minutes 10\n"
                 "exit codes: 0 done, 1 failed, 2 misuse, 3 over a limit, 130 interrupted, "
                 "141 nobody reads\n");
}

static int unknown_command(const char *word, const char *scripts) {
    command_list list;
    const char *names[MAX_COMMANDS];
    read_commands(scripts, &list);
    for (int i = 0; i < list.n; i++) names[i] = list.name[i];
    const char *near = pf_nearest(word, names, list.n);
    if (near)
        fprintf(stderr, "performer: no command '%s' (did you mean '%s'?)\n", word, near);
    else
        fprintf(stderr, "performer: no command '%s'; performer --help lists them\n", word);
    return MISUSE;
}

/* ---- running ------------------------------------------------------------------ */

/* Says what was thrown, which is on top, and gives the exit code. */
static int report(lua_State *L, int status) {
    char text[LPF_THROWN];
    const int stopped = lua_istable(L, -1) ? 0 : process_stopped();
    if (stopped) return stopped;
    const int code = lpf_host_thrown(L, text, NULL);
    lpf_plain(text, true);
    if (text[0]) fprintf(stderr, "performer: %s\n", text);
    return status == LUA_ERRFILE ? MISUSE : code;
}

/* PF_CPU is the user's word as an option is: one that no engine opens with is misuse. */
static bool check_environment(void) {
    if (!getenv("PF_CPU")) return true;
    pf_engine *engine = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    const int status = pf_engine_open(&engine, &options);
    pf_engine_close(&engine);
    if (status >= 0) return true;
    fprintf(stderr, "performer: %s\n", pf_last_error());
    return false;
}

static int run(const char *path, const lpf_places *places, int argc, char **argv,
               const char *program) {
    if (!check_environment()) return MISUSE;
    lua_State *L = lpf_host_open(NULL, places);
    if (!L) {
        fprintf(stderr, "performer: out of memory\n");
        return FAILED;
    }
    luaL_requiref(L, "performer.run", luaopen_performer_run, 0);
    lua_pop(L, 1);
    process_watch(L);
    const int status = lpf_host_run(L, path, program, argc, (const char *const *)argv);
    const int code = status == LUA_OK ? DONE : report(L, status);
    process_watch(NULL);
    lua_close(L);
    return code;
}

static bool own_folder(char out[LPF_PATH]) {
    const ssize_t n = readlink("/proc/self/exe", out, LPF_PATH - 1);
    if (n <= 0) return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
    return slash != NULL;
}

static bool ends_in_lua(const char *word) {
    const size_t n = strlen(word);
    return n > 4 && strcmp(word + n - 4, ".lua") == 0;
}

static int act(int argc, char **argv) {
    char folder[LPF_PATH], lua_dir[LPF_PATH] = "", scripts[LPF_PATH] = "", path[LPF_PATH];
    if (own_folder(folder)) lpf_find_files(folder, lua_dir, scripts);
    if (argc < 2) {
        print_help(stderr, scripts);
        return MISUSE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help(stdout, scripts);
        return DONE;
    }
    if (strcmp(word, "--version") == 0) {
        printf("performer %s\n", pf_version());
        return DONE;
    }
    if (word[0] == '-') {
        fprintf(stderr, "performer: no option '%s'; performer --help says more\n", word);
        return MISUSE;
    }
    lpf_places places = {.lua_dir = lua_dir, .scripts = scripts};
    if (ends_in_lua(word)) {
        if (access(word, R_OK) == 0) return run(word, &places, argc - 2, argv + 2, argv[0]);
        fprintf(stderr, "performer: can't read %s: %s\n", word, strerror(errno));
        return MISUSE;
    }
    snprintf(path, sizeof path, "%s/%s.lua", scripts, word);
    if (!scripts[0] || strchr(word, '/') || access(path, R_OK) != 0)
        return unknown_command(word, scripts);
    places.command = true;
    return run(path, &places, argc - 2, argv + 2, argv[0]);
}

int main(int argc, char **argv) {
    process_begin();
    return process_end(act(argc, argv));
}
