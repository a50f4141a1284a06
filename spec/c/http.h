/*
 * http.h - many HTTP clients in one thread, for server_test: each sends its request, and reads as
 * its manners are until the server closes. No library, so that the broken ones can be as broken as
 * they like.
 */
#ifndef PF_HTTP_H
#define PF_HTTP_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef enum {
    HTTP_PLAIN,   /* reads what comes */
    HTTP_SLOW,    /* a few bytes now and then */
    HTTP_LEAVES,  /* is gone after its first bytes */
    HTTP_SILENT,  /* sends half a request, and waits */
    HTTP_GARBAGE, /* speaks no HTTP */
} http_manners;

typedef struct {
    http_manners manners;
    char request[512];
    int fd;
    bool done;
    char *text; /* all that came */
    size_t n, capacity;
} http_client;

static inline double http_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void http_open(http_client *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) perror("connect");
    size_t n = strlen(c->request);
    if (c->manners == HTTP_SILENT) n /= 2;
    if (write(c->fd, c->request, n) != (ssize_t)n) perror("write");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (c->manners == HTTP_SILENT) c->done = true; /* stays open to the end */
}

static inline void http_close(http_client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->done = true;
}

/* What there is to read now. */
static inline void http_read(http_client *c) {
    const size_t most = c->manners == HTTP_SLOW ? 24 : 1 << 14;
    if (c->n + most + 1 > c->capacity) {
        c->capacity = 2 * (c->n + most + 1);
        c->text = realloc(c->text, c->capacity);
    }
    const ssize_t n = read(c->fd, c->text + c->n, most);
    if (n > 0) c->n += (size_t)n;
    c->text[c->n] = 0;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) http_close(c);
    if (n > 0 && c->manners == HTTP_LEAVES) http_close(c);
}

/* Until all are done, or so many seconds are over; how many are not. */
static inline int http_run(http_client *clients, int n, double seconds) {
    struct pollfd *polls = calloc((size_t)n, sizeof *polls);
    const double end = http_clock() + seconds;
    int open = n;
    for (int turn = 0; open > 0 && http_clock() < end; turn++) {
        open = 0;
        for (int i = 0; i < n; i++) {
            const bool rests = clients[i].manners == HTTP_SLOW && turn % 8 != i % 8;
            open += !clients[i].done;
            polls[i] = (struct pollfd){.fd = clients[i].done || rests ? -1 : clients[i].fd,
                                       .events = POLLIN};
        }
        if (open == 0 || poll(polls, (nfds_t)n, 5) <= 0) continue;
        for (int i = 0; i < n; i++) {
            if (polls[i].revents) http_read(&clients[i]);
        }
    }
    free(polls);
    return open;
}

static inline int http_status(const http_client *c) {
    int status = 0;
    return c->text && sscanf(c->text, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

/* The body, with the marks of its chunks taken out, in the client's text; "": there is none. */
static inline char *http_body(http_client *c) {
    static char none[] = "";
    char *body = c->text ? strstr(c->text, "\r\n\r\n") : NULL;
    if (!body) return none;
    body += 4;
    const bool chunked = strstr(c->text, "chunked") && strstr(c->text, "chunked") < body;
    char *out = body, *at = body, *end = c->text + c->n;
    while (chunked && at < end) {
        char *data = NULL;
        const size_t size = strtoul(at, &data, 16);
        data += 2;
        if (size == 0 || data + size > end) break;
        memmove(out, data, size);
        out += size, at = data + size + 2;
    }
    if (chunked) *out = 0;
    return body;
}

/* One request, from beginning to end. */
static inline http_client http_ask(int port, const char *method, const char *path,
                                   const char *body) {
    http_client c = {.manners = HTTP_PLAIN};
    snprintf(c.request, sizeof c.request,
             "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             method, path, strlen(body), body);
    http_open(&c, port);
    http_run(&c, 1, 20);
    http_close(&c);
    return c;
}

#endif
