/*
 * strangers.c - a host that runs strangers' scripts: each answers the lines that come in, may let
 * the host's model write, and gets so much memory, work and time, however it is written.
 *
 *   strangers MODEL SCRIPT.lua... < lines
 *
 * A script has `function answer(line) ... return text end` and may call host.write(prompt, tokens).
 * Files, processes, bytecode and the network are not there. A script that goes over a limit, or
 * raises, is told, and asked no more; the others and the host go on as if nothing had been.
 */
#include <performer_lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 4096, TOKENS = 200 };

/* Of a script in all, and of one answer. */
static const pf_limits of_script = {.size = sizeof(pf_limits), .bytes = 32 << 20, .depth = 50};
static const pf_limits of_answer = {.size = sizeof(pf_limits), .work = 200000000, .seconds = 1};

typedef struct {
    const char *path;
    pf_script *script; /* NULL: asked no more */
} stranger;

/* What a script prints goes nowhere but here. */
static void on_print(void *context, const char *text, size_t bytes) {
    fprintf(stderr, "  [%s prints] %.*s\n", (const char *)context, (int)bytes, text);
}

static bool is_text(const pf_value *value) { return value->kind == PF_VALUE_TEXT; }

/* host.write(prompt, tokens): what the model makes of it, byte by byte. */
static int host_write(void *context, pf_script *script, const pf_value *args, int n_args,
                      pf_value *results) {
    static char text[TOKENS];
    const int64_t wanted = n_args > 1 && args[1].kind == PF_VALUE_INTEGER ? args[1].as.integer : 40;
    const size_t n = wanted < 0 ? 0 : wanted > TOKENS ? TOKENS : (size_t)wanted;
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 0.8, .seed = 7};
    if (n_args < 1 || !is_text(&args[0]) || args[0].bytes == 0) {
        return pf_set_error(PF_EINVAL, "host.write(prompt, tokens): the prompt must be a text");
    }
    pf_stream *stream = NULL;
    int32_t token = 0;
    int status = pf_stream_open(&stream, pf_script_engine(script), context);
    for (size_t i = 0; status >= 0 && i < args[0].bytes; i++) {
        token = (unsigned char)args[0].as.text[i];
        status = pf_stream_feed(stream, &token, 1);
    }
    if (status >= 0) status = pf_stream_sample(stream, &sampling, &token);
    for (size_t i = 0; status >= 0 && i < n; i++) {
        text[i] = (char)token;
        status = pf_stream_next(stream, token, &sampling, &token);
    }
    pf_stream_close(&stream);
    if (status < 0) return status;
    results[0] = pf_value_text(text, n);
    return 1;
}

static void ban(stranger *s, int status) {
    fprintf(stderr, "%s is asked no more: %s: %s\n", s->path, pf_status_name(status),
            pf_script_error());
    pf_script_close(&s->script);
}

/* The file's text: the host reads it, a script reads none. */
static char *read_text(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    char *text = file ? calloc(1, 1 << 20) : NULL;
    *bytes = text ? fread(text, 1, (1 << 20) - 1, file) : 0;
    if (file) fclose(file);
    return text;
}

static void let_in(stranger *s, pf_engine *engine, pf_module *model, const char *path) {
    size_t bytes = 0;
    char *text = read_text(path, &bytes);
    const pf_script_options options = {.size = sizeof options,
                                       .name = path,
                                       .sandbox = true,
                                       .limits = &of_script,
                                       .print = on_print,
                                       .print_context = (void *)(uintptr_t)path};
    s->path = path;
    if (!text) {
        fprintf(stderr, "%s can't be read\n", path);
        return;
    }
    int status = pf_script_open(&s->script, engine, &options);
    if (status >= 0) status = pf_script_set_function(s->script, "host.write", host_write, model);
    if (status >= 0) status = pf_script_load(s->script, path, text, bytes);
    if (status < 0) ban(s, status);
    free(text);
}

static void ask(stranger *s, const char *line) {
    pf_value question = pf_value_text(line, strlen(line)), answer;
    const int status = pf_script_call(s->script, "answer", &question, 1, &answer, 1, &of_answer);
    if (status < 0) {
        ban(s, status);
    } else if (status < 1 || !is_text(&answer)) {
        printf("%s: (no text)\n", s->path);
    } else {
        printf("%s: %.*s\n", s->path, (int)answer.bytes, answer.as.text);
    }
    pf_value_clear(&answer);
}

int main(int argc, char **argv) {
    pf_engine *engine = NULL;
    pf_module *model = NULL;
    char line[LINE];
    const int n = argc - 2;
    stranger *strangers = n > 0 ? calloc((size_t)n, sizeof *strangers) : NULL;
    if (!strangers) {
        fprintf(stderr, "usage: strangers MODEL SCRIPT.lua... < lines\n");
        return 2;
    }
    int status = pf_engine_open(&engine, NULL);
    if (status >= 0) status = pf_model_load(&model, engine, argv[1]);
    if (status < 0) fprintf(stderr, "strangers: %s\n", pf_last_error());
    for (int i = 0; status >= 0 && i < n; i++) {
        let_in(&strangers[i], engine, model, argv[2 + i]);
    }
    while (status >= 0 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; i < n; i++) {
            if (strangers[i].script) ask(&strangers[i], line);
        }
        fflush(stdout);
    }
    for (int i = 0; i < n; i++) pf_script_close(&strangers[i].script);
    free(strangers);
    pf_module_release(&model);
    pf_engine_close(&engine);
    return status < 0;
}
