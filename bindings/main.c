/*
 * main.c - the `performer` program.
 *
 *   performer                        a prompt; of a pipe, the script that comes through it
 *   performer FILE.lua [arguments]   runs a script with the engine at hand; - is the standard input
 *   performer -e CODE, -i            Lua of the command line; a prompt behind it
 *   performer COMMAND [options]      runs scripts/COMMAND.lua
 *
 * Exit codes: 0 done, 1 failed, 2 misuse, 3 over a limit (run), 130 interrupted, 141 the reader of
 * its output is gone; a script chooses its own by throwing {code = n, message = text} (pf.exit).
 * What signals do is process.c's.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "performer.h"
#include "process.h"
#include "start.h"

enum { MAX_COMMANDS = 128, NAME = 64, MAX_CODE = 64 };

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
    char text[256] = "";
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
            "       performer FILE.lua [arguments]    runs a script; -: the standard input\n"
            "       performer                         a prompt, or a script that is piped in\n"
            "       performer -e CODE [-e CODE ...]   runs Lua, in which pf is at hand\n"
            "       performer -i [FILE.lua]           a prompt, after the script and every -e\n"
            "       performer --help | --version\n\n",
            pf_version());
    read_commands(scripts, &list);
    if (list.n > 0) fprintf(out, "commands:\n");
    for (int i = 0; i < list.n; i++) {
        describe(scripts, list.name[i], line);
        fprintf(out, "  %-10s %s\n", list.name[i], line);
    }
    fprintf(out, "\nexample: performer train --data proteins.fasta --out run --minutes 10\n"
                 "exit codes: 0 done, 1 failed, 2 misuse, 3 over a limit, 130 interrupted,\n"
                 "            141 nobody reads\n");
}

#define SERVER "generate; a program that serves many is examples/16_serve.lua"

/* What commands of other programs are called here. */
static const char *const other_words[][2] = {{"sample", "generate"},
                                             {"complete", "generate"},
                                             {"run-model", "generate"},
                                             {"predict", "generate"},
                                             {"evaluate", "eval"},
                                             {"perplexity", "eval"},
                                             {"test", "eval"},
                                             {"fit", "train"},
                                             {"finetune", "train --init RUN"},
                                             {"resume", "train --resume RUN"},
                                             {"info", "inspect"},
                                             {"show", "inspect"},
                                             {"encode", "embed"},
                                             {"embedding", "embed"},
                                             {"benchmark", "bench"},
                                             {"quantize", "convert"},
                                             {"export", "convert"},
                                             {"train.py", "train FILE"},
                                             {"sample.py", "generate RUN"},
                                             {"bench.py", "bench"},
                                             {"python", "train FILE, or performer FILE.lua"},
                                             {"python3", "train FILE, or performer FILE.lua"},
                                             {"prepare", "train FILE: it reads text and FASTA"},
                                             {"torchrun", "train FILE, behind mpirun -n 4"},
                                             {"chat", "generate RUN PROMPT: models go on writing"},
                                             {"llama-cli", "generate RUN PROMPT"},
                                             {"llama-bench", "bench"},
                                             {"llama-perplexity", "eval RUN FILE"},
                                             {"llama-quantize", "convert"},
                                             {"llama-server", SERVER},
                                             {"server", SERVER},
                                             {"serve", SERVER},
                                             {"tokenize", "score, or in Lua a tokenizer:encode"},
                                             {"plot", "report RUN, or performer compare RUN ..."}};

/* A word that is no command, but one elsewhere, or a file. */
static bool tell_meant(const char *word) {
    for (size_t i = 0; i < sizeof other_words / sizeof *other_words; i++) {
        if (strcmp(word, other_words[i][0]) != 0) continue;
        fprintf(stderr, "performer: no command '%s'; it is performer %s\n", word,
                other_words[i][1]);
        return true;
    }
    if (access(word, R_OK) != 0) return false;
    fprintf(stderr,
            "performer: '%s' is no command; say what to do with it: performer train FILE, "
            "or performer generate RUN\n",
            word);
    return true;
}

static int unknown_command(const char *word, const char *scripts) {
    command_list list;
    if (tell_meant(word)) return MISUSE;
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

/* ---- what is asked for ----------------------------------------------------------- */

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

/* Why there is no such request, for stderr. */
static int refuse(const char *why, const char *word) {
    fprintf(stderr, "performer: %s '%s'; performer --help says more\n", why, word);
    return MISUSE;
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c) {
    return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

/* -e CODE, -i, then FILE.lua or -, and what is the script's own. */
static int start_options(int argc, char **argv, const lpf_places *places) {
    const char *code[MAX_CODE];
    start_request request = {.program = argv[0], .code = code};
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        if (strcmp(argv[i], "-i") == 0) {
            request.prompt = true;
        } else if (strcmp(argv[i], "-e") == 0) {
            if (i + 1 == argc) return refuse("Lua is needed behind", "-e");
            if (request.n_code == MAX_CODE) return refuse("too many of", "-e");
            code[request.n_code++] = argv[++i];
        } else if (is_one_of(argv[i], "-m", "-p", "--prompt") || strcmp(argv[i], "--model") == 0) {
            fprintf(stderr,
                    "performer: no option '%s'; a model writes by performer generate RUN "
                    "PROMPT\n",
                    argv[i]);
            return MISUSE;
        } else {
            return refuse("no option", argv[i]);
        }
    }
    if (i < argc) request.file = argv[i++];
    if (request.file && strcmp(request.file, "-") != 0 && !ends_in_lua(request.file))
        return refuse("a FILE.lua or - is needed behind -e and -i, not", request.file);
    request.argc = argc - i;
    request.argv = argv + i;
    return start_run(&request, places);
}

/* A terminal gets a prompt; a script that comes through a pipe is run; nothing at all is misuse. */
static int start_without_words(char **argv, const lpf_places *places) {
    start_request request = {.program = argv[0], .prompt = isatty(STDIN_FILENO) != 0};
    if (!request.prompt) {
        const int first = getchar();
        if (first == EOF) {
            print_help(stderr, places->scripts);
            return MISUSE;
        }
        ungetc(first, stdin);
        request.file = "-";
    }
    return start_run(&request, places);
}

static int act(int argc, char **argv) {
    char folder[LPF_PATH], lua_dir[LPF_PATH] = "", scripts[LPF_PATH] = "", path[LPF_PATH];
    if (own_folder(folder)) lpf_find_files(folder, lua_dir, scripts);
    lpf_places places = {.lua_dir = lua_dir, .scripts = scripts};
    if (argc < 2) return start_without_words(argv, &places);
    const char *word = argv[1];
    if (is_one_of(word, "--help", "-h", "help")) {
        char *of_command[] = {argv[0], argc > 2 ? argv[2] : NULL, "--help", NULL};
        if (argc > 2 && argv[2][0] != '-') return act(3, of_command); /* help train */
        print_help(stdout, scripts);
        return DONE;
    }
    if (is_one_of(word, "--version", "-v", "version")) {
        printf("performer %s\n", pf_version());
        return DONE;
    }
    if (word[0] == '-' || ends_in_lua(word)) return start_options(argc, argv, &places);
    snprintf(path, sizeof path, "%s/%s.lua", scripts, word);
    if (!scripts[0] || strchr(word, '/') || access(path, R_OK) != 0)
        return unknown_command(word, scripts);
    places.command = true;
    const start_request command = {
        .program = argv[0], .file = path, .argc = argc - 2, .argv = argv + 2};
    return start_run(&command, &places);
}

int main(int argc, char **argv) {
    process_begin();
    return process_end(act(argc, argv));
}
