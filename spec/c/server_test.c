/*
 * server_test.c - the example server under load: every client gets what a stream of its own would
 * write, whoever else is there, slow, gone or broken; limits, health and a clean end.
 */
#include <performer.h>
#include <signal.h>
#include <sys/wait.h>

#include "check.h"
#include "http.h"
#include "scratch.h"

enum { PLAIN = 160, SLOW = 16, LEAVES = 16, SILENT = 8, GARBAGE = 8 };
enum { ALL = PLAIN + SLOW + LEAVES + SILENT + GARBAGE, VOCAB = 128 };

static char folder[256];

/* ---- the model ------------------------------------------------------------------ */

/* Of ASCII alone, so that each token is a character. */
static void make_run(pf_engine *e, pf_module **model) {
    static const char tree[] =
        "{\"type\": \"performer\", \"options\": {\"vocab\": 128, \"dim\": 32, \"layers\": 2, "
        "\"heads\": 2, \"causal\": true, \"kernel\": {\"name\": \"softmax\", \"features\": 16}}}";
    pf_config *config = NULL, *tokenizer = pf_config_new_string("byte");
    CHECK_OK(pf_json_parse(&config, tree, strlen(tree)));
    CHECK_OK(pf_module_build(model, e, config));
    CHECK_OK(
        pf_checkpoint_save(e, scratch_path("%s/run", folder), 1, *model, NULL, NULL, tokenizer, 0));
    pf_config_free(config), pf_config_free(tokenizer);
}

/* What a stream alone writes. */
static void expected(pf_engine *e, pf_module *model, const char *prompt, int tokens, uint64_t seed,
                     char *out) {
    pf_stream *stream = NULL;
    int32_t ids[64], token = 0, n = 0;
    for (; prompt[n]; n++) ids[n] = (unsigned char)prompt[n];
    if (n == 0) ids[n++] = '\n';
    const pf_sampling sampling = {.size = sizeof sampling, .temperature = 0.8, .seed = seed};
    CHECK_OK(pf_stream_open(&stream, e, model));
    CHECK_OK(pf_stream_feed(stream, ids, (size_t)n));
    CHECK_OK(pf_stream_sample(stream, &sampling, &token));
    for (int i = 0; i < tokens; i++) {
        out[i] = (char)token;
        if (i + 1 < tokens) CHECK_OK(pf_stream_next(stream, token, &sampling, &token));
    }
    pf_stream_close(&stream);
}

/* ---- the server ----------------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int port;
} server;

static server start(const char *const *options) {
    server s = {0};
    int out[2];
    char line[128] = "", run[300];
    const char *words[32] = {"serve", "--model", run, "--port", "0", "--threads", "1"};
    int n = 7;
    snprintf(run, sizeof run, "%s/run", folder);
    while (*options) words[n++] = *options++;
    if (pipe(out) != 0) return s;
    s.pid = fork();
    if (s.pid == 0) {
        dup2(out[1], 1), close(out[0]), close(out[1]);
        execv(SERVE, (char *const *)(uintptr_t)words);
        _exit(127);
    }
    close(out[1]);
    FILE *told = fdopen(out[0], "r");
    if (fgets(line, sizeof line, told)) sscanf(line, "http://127.0.0.1:%d/", &s.port);
    fclose(told);
    CHECK(s.port > 0);
    return s;
}

/* What it ended with, once it got the signal; -1: it had to be killed. */
static int stop(server *s, int number) {
    int status = 0;
    kill(s->pid, number);
    for (int i = 0; i < 200; i++) {
        if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        }
        usleep(50000);
    }
    kill(s->pid, SIGKILL);
    waitpid(s->pid, &status, 0);
    return -1;
}

static double health(const server *s, const char *field) {
    http_client c = http_ask(s->port, "GET", "/health", "");
    pf_config *tree = NULL;
    const char *body = http_body(&c);
    CHECK_OK(pf_json_parse(&tree, body, strlen(body)));
    const double value = pf_config_number(pf_config_get(tree, field));
    pf_config_free(tree);
    free(c.text);
    return value;
}

static long resident(const server *s) {
    char text[128] = "";
    long pages = 0, size = 0;
    FILE *f = fopen(scratch_path("/proc/%d/statm", (int)s->pid), "r");
    if (f && fgets(text, sizeof text, f)) sscanf(text, "%ld %ld", &size, &pages);
    if (f) fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* ---- events --------------------------------------------------------------------- */

/* The texts of all events, one after the other; how many bytes. */
static size_t texts_of(const char *body, char *out, size_t most) {
    static const char mark[] = "data: {\"text\": \"";
    size_t n = 0;
    for (const char *at = body; (at = strstr(at, mark));) {
        for (at += sizeof mark - 1; *at && *at != '"' && n < most; at++) {
            unsigned code = (unsigned char)*at;
            if (*at == '\\' && at[1] == 'u') {
                sscanf(at + 2, "%4x", &code);
                at += 5;
            } else if (*at == '\\') {
                code = (unsigned char)*++at;
            }
            out[n++] = (char)code;
        }
    }
    return n;
}

static bool ended(const char *body, int tokens, const char *reason) {
    char line[160];
    snprintf(line, sizeof line, "event: end\ndata: {\"tokens\": %d, \"reason\": \"%s\"}\n\n",
             tokens, reason);
    const char *end = strstr(body, line);
    return end && end[strlen(line)] == 0;
}

/* ---- load ----------------------------------------------------------------------- */

static const char *prompt_of(int i) {
    static const char letters[] = "thequickbrownfoxjumpsoverthelazydog";
    return letters + i % (int)(sizeof letters);
}

static void prepare(http_client *c, int i, int tokens) {
    c->manners = i < PLAIN                            ? HTTP_PLAIN
                 : i < PLAIN + SLOW                   ? HTTP_SLOW
                 : i < PLAIN + SLOW + LEAVES          ? HTTP_LEAVES
                 : i < PLAIN + SLOW + LEAVES + SILENT ? HTTP_SILENT
                                                      : HTTP_GARBAGE;
    snprintf(c->request, sizeof c->request,
             "GET /generate?prompt=%s&tokens=%d&seed=%d HTTP/1.1\r\nHost: x\r\n"
             "Connection: close\r\n\r\n",
             prompt_of(i), tokens, i);
    if (c->manners == HTTP_GARBAGE) {
        snprintf(c->request, sizeof c->request, "\x01\xff nonsense %d\r\n\r\n\r\n", i);
    }
}

static void test_load(pf_engine *e, pf_module *model, server *s) {
    http_client *clients = calloc(ALL, sizeof *clients);
    for (int i = 0; i < ALL; i++) {
        prepare(&clients[i], i, 1 + i % 40);
        http_open(&clients[i], s->port);
    }
    CHECK(http_run(clients, ALL, 60) == 0);
    int right = 0;
    for (int i = 0; i < PLAIN + SLOW; i++) {
        char want[64], got[64];
        const int tokens = 1 + i % 40;
        const char *body = http_body(&clients[i]);
        expected(e, model, prompt_of(i), tokens, (uint64_t)i, want);
        const size_t n = texts_of(body, got, sizeof got);
        right += http_status(&clients[i]) == 200 && n == (size_t)tokens &&
                 memcmp(want, got, n) == 0 && ended(body, tokens, "tokens");
    }
    CHECK(right == PLAIN + SLOW);
    for (int i = 0; i < ALL; i++) http_close(&clients[i]), free(clients[i].text);
    free(clients);
}

/* Nothing of those who came and went is left. */
static void check_empty(const server *s, double served) {
    for (int i = 0; i < 100 && health(s, "running") + health(s, "waiting") > 0; i++) usleep(20000);
    CHECK(health(s, "running") == 0 && health(s, "waiting") == 0);
    CHECK(health(s, "served") + health(s, "gone") >= served);
    CHECK(health(s, "failed") == 0);
}

static void test_many(pf_engine *e, pf_module *model) {
    static const char *const options[] = {
        "--capacity", "32", "--waiting", "500", "--tokens", "100", "--per-client", "500", NULL};
    const int rounds = getenv("PF_LONG") ? 30 : 2;
    server s = start(options);
    long first = 0;
    for (int round = 0; round < rounds; round++) {
        test_load(e, model, &s);
        check_empty(&s, (round + 1) * (PLAIN + SLOW));
        if (round == 0) first = resident(&s);
    }
    CHECK(SANITIZED || resident(&s) - first < 8 << 20);
    CHECK(stop(&s, SIGTERM) == 0);
}

/* ---- limits, misuse ------------------------------------------------------------- */

static int status_of(const server *s, const char *method, const char *path, const char *body) {
    http_client c = http_ask(s->port, method, path, body);
    const int status = http_status(&c);
    free(c.text);
    return status;
}

static void test_misuse(pf_engine *e, pf_module *model) {
    static const char *const options[] = {"--tokens", "20", NULL};
    server s = start(options);
    char want[16], got[16];
    CHECK(status_of(&s, "GET", "/nothing", "") == 404);
    CHECK(status_of(&s, "DELETE", "/generate", "") == 405);
    CHECK(status_of(&s, "POST", "/health", "") == 405);
    CHECK(status_of(&s, "GET", "/generate?tokens=0", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?tokens=ten", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?temperature=nan", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?top_p=1.5", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?min_p=2", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?repetition_penalty=0", "") == 400);
    CHECK(status_of(&s, "GET", "/generate?min_p=0.1&repetition_penalty=1.2&tokens=2", "") == 200);
    CHECK(status_of(&s, "GET", "/generate?prompt=%C3%A9&tokens=2", "") == 200);
    http_client unknown = http_ask(s.port, "GET", "/generate?prompt=a&max%0Atokens=2&tokens=2", "");
    CHECK(http_status(&unknown) == 400);
    CHECK(strstr(unknown.text, "there is no 'max?tokens' in a query; there are prompt, tokens, "));
    free(unknown.text);
    http_client page = http_ask(s.port, "GET", "/", "");
    CHECK(http_status(&page) == 200 && strstr(page.text, "<title>Performer</title>"));
    free(page.text);
    http_client posted = http_ask(s.port, "POST", "/generate?tokens=9&seed=5", "the fox");
    expected(e, model, "the fox", 9, 5, want);
    CHECK(texts_of(http_body(&posted), got, sizeof got) == 9 && memcmp(want, got, 9) == 0);
    free(posted.text);
    /* Of more than the server allows, and of no number, the reply says that the server ended it. */
    static const char *const most[] = {"/generate?tokens=20", "/generate?tokens=21", "/generate"};
    for (int i = 0; i < 3; i++) {
        http_client c = http_ask(s.port, "GET", most[i], "");
        CHECK(ended(http_body(&c), 20, i == 0 ? "tokens" : "limit"));
        free(c.text);
    }
    CHECK(stop(&s, SIGINT) == 0);
}

static void begin_long(http_client *c, const server *s, int tokens) {
    memset(c, 0, sizeof *c);
    snprintf(c->request, sizeof c->request, "GET /generate?tokens=%d HTTP/1.1\r\nHost: x\r\n\r\n",
             tokens);
    http_open(c, s->port);
}

static void test_limits(void) {
    static const char *const options[] = {"--capacity",   "1", "--waiting", "1",
                                          "--per-client", "9", "--tokens",  "100000000",
                                          "--grace",      "0", NULL};
    static const char *const narrow[] = {"--per-client", "1", "--tokens", "100000000",
                                         "--grace",      "0", NULL};
    http_client runs, waits;
    server s = start(options);
    begin_long(&runs, &s, 100000000);
    for (int i = 0; i < 100 && health(&s, "running") < 1; i++) usleep(20000);
    begin_long(&waits, &s, 100000000);
    for (int i = 0; i < 100 && health(&s, "waiting") < 1; i++) usleep(20000);
    CHECK(status_of(&s, "GET", "/generate?tokens=1", "") == 503);
    CHECK(health(&s, "refused") == 1);
    /* The one that runs goes, and the one that waited has its place. */
    http_close(&runs);
    for (int i = 0; i < 100 && health(&s, "waiting") > 0; i++) usleep(20000);
    CHECK(health(&s, "running") == 1 && health(&s, "waiting") == 0 && health(&s, "gone") == 1);
    CHECK(stop(&s, SIGTERM) == 0);
    http_run(&waits, 1, 5);
    CHECK(strstr(http_body(&waits), "\"reason\": \"shutdown\"") != NULL);
    http_close(&waits);
    free(runs.text), free(waits.text);

    s = start(narrow);
    begin_long(&runs, &s, 100000000);
    for (int i = 0; i < 100 && health(&s, "running") < 1; i++) usleep(20000);
    CHECK(status_of(&s, "GET", "/generate?tokens=1", "") == 429);
    CHECK(stop(&s, SIGHUP) == 0);
    http_close(&runs);
    free(runs.text);
}

/* A folder that was made to be shipped, whose tokenizer is a map: what the commands save. */
static void test_shipped(pf_engine *e, pf_module *model) {
    static const char *const types[] = {"byte", "another"};
    for (int i = 0; i < 2; i++) {
        pf_config *tokenizer = pf_config_new(PF_MAP);
        char command[900], path[300];
        size_t n = 0;
        CHECK_OK(pf_config_set_string(tokenizer, "type", types[i]));
        snprintf(path, sizeof path, "%s/shipped-%s", folder, types[i]);
        CHECK_OK(pf_model_save(e, path, model, tokenizer));
        pf_config_free(tokenizer);
        snprintf(command, sizeof command, "timeout -s INT 1 %s --model %s --port 0 >%s/said 2>&1",
                 SERVE, path, folder);
        CHECK(system(command) != -1);
        char *said = scratch_read(scratch_path("%s/said", folder), &n);
        if (said) said[n] = 0;
        CHECK(said && strstr(said, i == 0 ? "http://127.0.0.1:" : "a tokenizer of its own"));
        free(said);
    }
}

/* A folder that is no model, and a port that is taken: a sentence and exit code 1, at once. */
static void test_start(void) {
    char command[700];
    size_t n = 0;
    snprintf(command, sizeof command, "%s --model %s/nothing 2>%s/said", SERVE, folder, folder);
    CHECK(WEXITSTATUS(system(command)) == 1);
    char *said = scratch_read(scratch_path("%s/said", folder), &n);
    if (said) said[n] = 0;
    CHECK(said && strstr(said, "nothing"));
    free(said);
    snprintf(command, sizeof command, "%s 2>%s/said", SERVE, folder);
    CHECK(WEXITSTATUS(system(command)) == 2);
}

int main(void) {
    pf_engine *e = NULL;
    pf_module *model = NULL;
    signal(SIGPIPE, SIG_IGN);
    scratch_open(folder, sizeof folder);
    CHECK_OK(pf_engine_open(&e, NULL));
    make_run(e, &model);
    test_start();
    test_shipped(e, model);
    test_many(e, model);
    test_misuse(e, model);
    test_limits();
    pf_module_release(&model);
    pf_engine_close(&e);
    scratch_remove(folder);
    return CHECK_REPORT();
}
