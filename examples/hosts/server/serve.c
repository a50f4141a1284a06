/*
 * serve.c - a server: texts of one model for many clients at once, over HTTP (libmicrohttpd).
 *
 *   serve --model RUN [--port 8080] [--host 127.0.0.1] ...
 *
 *   GET  /                a page to try it from
 *   GET  /health          what it is at, as JSON
 *   GET  /generate?prompt=...&tokens=200&temperature=0.8&top_k=0&top_p=0&seed=7
 *        and min_p, repetition_penalty, as pf_sampling has them
 *   POST /generate?...    the same; the body is the prompt
 *
 * A text comes as server-sent events: data {"text": "..."} as the model writes, at last an event
 * "end" with {"tokens": n, "reason": "tokens"}, or "stop", "failed", "shutdown", or "limit" where
 * more were wanted than --tokens allows a text. Whoever closes the connection leaves the batch at
 * the next step. SIGTERM and SIGINT end it: no new requests, a few seconds for those that run.
 *
 * HTTP has a thread of its own, the model another (worker.c): a connection without news is
 * suspended until there are some, so that hundreds of them cost nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "page.h"
#include "worker.h"

enum { PROMPT = 1 << 16 }; /* bytes of a prompt */

/* A request on its way in, and then its events on their way out. */
typedef struct {
    char *body;
    size_t n;
    bool too_long;
    request *request;
} visit;

/* ---- answers ------------------------------------------------------------------- */

static enum MHD_Result answer(struct MHD_Connection *connection, int code, const char *type,
                              struct MHD_Response *response) {
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'self'; style-src 'unsafe-inline'; "
                            "script-src 'unsafe-inline'; frame-ancestors 'none'");
    if (code == 429 || code == 503) MHD_add_response_header(response, "Retry-After", "1");
    enum MHD_Result result = MHD_queue_response(connection, (unsigned)code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result say(struct MHD_Connection *connection, int code, const char *type,
                           const char *text) {
    return answer(connection, code, type,
                  MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                  MHD_RESPMEM_MUST_COPY));
}

static enum MHD_Result refuse(struct MHD_Connection *connection, int code, const char *why) {
    char line[256];
    snprintf(line, sizeof line, "%s\n", why);
    return say(connection, code, "text/plain; charset=utf-8", line);
}

static enum MHD_Result tell_health(struct MHD_Connection *connection, worker *w) {
    char text[512];
    const worker_health h = worker_look(w);
    snprintf(text, sizeof text,
             "{\"status\": \"%s\", \"running\": %lld, \"waiting\": %lld, \"served\": %lld, "
             "\"refused\": %lld, \"gone\": %lld, \"failed\": %lld, \"tokens\": %lld, "
             "\"tokens_per_s\": %.1f, \"seconds\": %.1f}\n",
             h.stopping ? "stopping" : "ok", (long long)h.running, (long long)h.waiting,
             (long long)h.served, (long long)h.refused, (long long)h.gone, (long long)h.failed,
             (long long)h.tokens, h.tokens_per_second, h.seconds);
    return say(connection, h.stopping ? 503 : 200, "application/json", text);
}

/* ---- texts --------------------------------------------------------------------- */

/* The number of the query, or what it is without one; false: it is none, or out of bounds. */
static bool number_of(struct MHD_Connection *connection, const char *name, double least,
                      double most, double *value) {
    const char *text = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
    if (!text || !*text) return true;
    char *end = NULL;
    *value = strtod(text, &end);
    return *end == 0 && *value >= least && *value <= most;
}

static bool read_query(struct MHD_Connection *connection, question *q, char why[256]) {
    double tokens = 0, temperature = 0.8, top_k = 0, top_p = 0, seed = -1;
    double min_p = 0, penalty = 1;
    const struct {
        const char *name;
        double least, most, *value;
    } numbers[] = {{"tokens", 1, 1e9, &tokens},
                   {"temperature", 0, 100, &temperature},
                   {"top_k", 0, 1e6, &top_k},
                   {"top_p", 0, 1, &top_p},
                   {"min_p", 0, 1, &min_p},
                   {"repetition_penalty", 0.01, 100, &penalty},
                   {"seed", 0, 9007199254740992.0, &seed}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (number_of(connection, numbers[i].name, numbers[i].least, numbers[i].most,
                      numbers[i].value)) {
            continue;
        }
        snprintf(why, 256, "%s must be a number from %g to %g", numbers[i].name, numbers[i].least,
                 numbers[i].most);
        return false;
    }
    q->tokens = (int64_t)tokens, q->temperature = temperature;
    q->top_k = (int)top_k, q->top_p = top_p, q->seed = (uint64_t)seed;
    q->min_p = min_p, q->repetition_penalty = penalty;
    if (seed < 0 && getrandom(&q->seed, sizeof q->seed, 0) < 0) q->seed = 1;
    return true;
}

/* A word that nobody reads is a mistake of the client's, who would take its default for it. */
static enum MHD_Result check_word(void *to, enum MHD_ValueKind kind, const char *name,
                                  const char *value) {
    static const char *const words[] = {"prompt", "tokens", "temperature",        "top_k",
                                        "top_p",  "min_p",  "repetition_penalty", "seed"};
    char *why = to, shown[41];
    (void)kind, (void)value;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(name, words[i]) == 0) return MHD_YES;
    }
    snprintf(shown, sizeof shown, "%s", name);
    for (char *c = shown; *c; c++) {
        if (*c < ' ' || *c > '~') *c = '?';
    }
    snprintf(why, 256,
             "there is no '%s' in a query; there are prompt, tokens, temperature, top_k, top_p, "
             "min_p, repetition_penalty and seed",
             shown);
    return MHD_NO;
}

static void name_client(struct MHD_Connection *connection, char name[CLIENT]) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    snprintf(name, CLIENT, "unknown");
    if (address && address->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, name, CLIENT);
    } else if (address && address->sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, name, CLIENT);
    }
}

static void sleep_connection(void *connection) { MHD_suspend_connection(connection); }

static void wake_connection(void *connection) { MHD_resume_connection(connection); }

static ssize_t read_events(void *context, uint64_t position, char *out, size_t max) {
    (void)position;
    const long n = request_read(((visit *)context)->request, out, max);
    return n < 0 ? MHD_CONTENT_READER_END_OF_STREAM : (ssize_t)n;
}

static enum MHD_Result generate(struct MHD_Connection *connection, worker *w, visit *v) {
    char text[256];
    const char *why = text;
    const char *prompt = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "prompt");
    question q = {.prompt = v->body  ? v->body
                            : prompt ? prompt
                                     : "",
                  .sleep = sleep_connection,
                  .wake = wake_connection,
                  .context = connection};
    q.bytes = v->body ? v->n : strlen(q.prompt);
    if (v->too_long || q.bytes > PROMPT) return refuse(connection, 413, "the prompt is too long");
    text[0] = 0;
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, check_word, text);
    if (text[0] || !read_query(connection, &q, text)) return refuse(connection, 400, why);
    name_client(connection, q.client);
    const int code = worker_ask(w, &q, &v->request, &why);
    if (code != 200) return refuse(connection, code, why);
    return answer(connection, 200, "text/event-stream; charset=utf-8",
                  MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_events, v, NULL));
}

/* ---- HTTP ---------------------------------------------------------------------- */

/* Puts a piece of the body behind what came before. */
static void gather(visit *v, const char *data, size_t n) {
    char *body = v->n + n > PROMPT ? NULL : realloc(v->body, v->n + n);
    if (!body) {
        v->too_long = true;
        return;
    }
    memcpy(body + v->n, data, n);
    v->body = body, v->n += n;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *bytes, void **state) {
    (void)version;
    if (!*state) return (*state = calloc(1, sizeof(visit))) ? MHD_YES : MHD_NO;
    visit *v = *state;
    const bool post = strcmp(method, "POST") == 0;
    if (*bytes > 0) {
        if (post) gather(v, data, *bytes);
        *bytes = 0;
        return MHD_YES;
    }
    const bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (strcmp(url, "/generate") == 0) {
        if (strcmp(method, "GET") == 0 || post) return generate(connection, context, v);
        return refuse(connection, 405, "/generate takes GET and POST");
    }
    if (!get) return refuse(connection, 405, "only /generate takes anything but GET");
    if (strcmp(url, "/health") == 0) return tell_health(connection, context);
    if (strcmp(url, "/") != 0) return refuse(connection, 404, "there are /, /health and /generate");
    return answer(connection, 200, "text/html; charset=utf-8",
                  MHD_create_response_from_buffer(page_bytes, (void *)(uintptr_t)page,
                                                  MHD_RESPMEM_PERSISTENT));
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
    (void)context, (void)connection, (void)code;
    visit *v = *state;
    if (!v) return;
    if (v->request) request_drop(v->request);
    free(v->body);
    free(v);
    *state = NULL;
}

/* ---- the program --------------------------------------------------------------- */

typedef struct {
    worker_options worker;
    const char *host;
    int port;
} settings;

static const char usage[] = "usage: serve --model RUN [options]\n"
                            "  --host ADDRESS   to listen at (127.0.0.1)\n"
                            "  --port N         0: any that is free, which is told (8080)\n"
                            "  --threads N      of the engine; 0: all (0)\n"
                            "  --memory MIB     budget of the engine; 0: none (0)\n"
                            "  --capacity N     texts that are written at once (64)\n"
                            "  --waiting N      requests that wait for a place (256)\n"
                            "  --per-client N   requests of one address at a time (8)\n"
                            "  --tokens N       of a text, at most (1024)\n"
                            "  --grace SECONDS  for running texts when it ends (5)\n";

static bool read_options(settings *s, int argc, char **argv) {
    static const struct option names[] = {
        {"model", 1, NULL, 'm'},   {"host", 1, NULL, 'h'},   {"port", 1, NULL, 'p'},
        {"threads", 1, NULL, 't'}, {"memory", 1, NULL, 'M'}, {"capacity", 1, NULL, 'c'},
        {"waiting", 1, NULL, 'w'}, {"tokens", 1, NULL, 'n'}, {"per-client", 1, NULL, 'l'},
        {"grace", 1, NULL, 'g'},   {"help", 0, NULL, '?'},   {NULL, 0, NULL, 0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        char *end = NULL;
        const double number = optarg ? strtod(optarg, &end) : 0;
        const bool text = name == 'm' || name == 'h';
        if (name == '?' || (!text && (*end || number < 0 || number > 1e9))) return false;
        switch (name) {
        case 'm':
            s->worker.model = optarg;
            break;
        case 'h':
            s->host = optarg;
            break;
        case 'p':
            s->port = (int)number;
            break;
        case 't':
            s->worker.threads = (int)number;
            break;
        case 'M':
            s->worker.memory = (size_t)(number * (1 << 20));
            break;
        case 'c':
            s->worker.capacity = (int64_t)number;
            break;
        case 'w':
            s->worker.waiting = (int64_t)number;
            break;
        case 'n':
            s->worker.tokens = (int64_t)number;
            break;
        case 'l':
            s->worker.per_client = (int64_t)number;
            break;
        case 'g':
            s->worker.grace = number;
            break;
        }
    }
    return optind == argc && s->worker.model && s->port <= 65535 && s->worker.capacity > 0 &&
           s->worker.tokens > 0;
}

static struct MHD_Daemon *listen_at(const settings *s, worker *w) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)};
    if (inet_pton(AF_INET, s->host, &address.sin_addr) != 1) {
        fprintf(stderr, "serve: %s is no IPv4 address\n", s->host);
        return NULL;
    }
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, w,
        MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
        MHD_OPTION_CONNECTION_TIMEOUT, 30u, MHD_OPTION_CONNECTION_LIMIT, 1000u,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!daemon) {
        fprintf(stderr, "serve: can't listen at %s:%d: %s\n", s->host, s->port, strerror(errno));
        return NULL;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("http://%s:%d/\n", s->host, info ? info->port : s->port);
    fflush(stdout);
    return daemon;
}

int main(int argc, char **argv) {
    settings s = {.host = "127.0.0.1", .port = 8080};
    s.worker = (worker_options){
        .capacity = 64, .waiting = 256, .per_client = 8, .tokens = 1024, .grace = 5};
    if (!read_options(&s, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    /* Before any thread begins: only the wait below takes them. */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM), sigaddset(&ends, SIGINT), sigaddset(&ends, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    signal(SIGPIPE, SIG_IGN);

    worker *w = NULL;
    if (!worker_open(&w, &s.worker)) return 1;
    struct MHD_Daemon *daemon = listen_at(&s, w);
    if (daemon) {
        int number = 0;
        sigwait(&ends, &number);
        worker_stop(w);
        usleep(200000); /* for the last events to reach their sockets */
        const worker_health h = worker_look(w);
        MHD_stop_daemon(daemon);
        fprintf(stderr, "serve: ended after %lld texts, %lld tokens\n", (long long)h.served,
                (long long)h.tokens);
    }
    worker_close(&w);
    return daemon ? 0 : 1;
}
