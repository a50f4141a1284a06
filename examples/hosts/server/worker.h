/*
 * worker.h - the thread that owns engine, model and running batch. HTTP threads ask it for texts
 * and read what has been made; nothing of the engine is touched elsewhere. A request is counted:
 * one reference is the asker's, one the worker's while it is under way.
 */
#ifndef WORKER_H
#define WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT 64 /* bytes of a client's address */

typedef struct worker worker;
typedef struct request request;

typedef struct {
    const char *model;  /* a run or checkpoint folder */
    int threads;        /* 0: all */
    size_t memory;      /* byte budget of the engine; 0: none */
    int64_t capacity;   /* sequences that run at once */
    int64_t waiting;    /* requests that wait for a place */
    int64_t per_client; /* requests of one address, running or waiting */
    int64_t tokens;     /* new ones of a request, at most */
    double grace;       /* seconds that running texts get when all ends */
} worker_options;

typedef struct {
    const char *prompt;
    size_t bytes;
    int64_t tokens;
    double temperature, top_p, min_p, repetition_penalty;
    int top_k;
    uint64_t seed;
    char client[CLIENT];
    /* Both under the worker's lock: there is nothing to read now, and there is again. */
    void (*sleep)(void *context);
    void (*wake)(void *context);
    void *context;
} question;

/* What it is at, for the health page. */
typedef struct {
    int64_t running, waiting, served, refused, gone, failed, tokens, bytes;
    double seconds, tokens_per_second; /* since it began; of the last seconds that had any */
    bool stopping;
} worker_health;

/* false: said on stderr why. */
bool worker_open(worker **w, const worker_options *options);
/* No new requests; running ones get their grace, then an end; the thread is joined. */
void worker_stop(worker *w);
void worker_close(worker **w);
worker_health worker_look(worker *w);

/* An HTTP status: 200 with *r, or 429, 503 or 400 with *why in words. */
int worker_ask(worker *w, const question *q, request **r, const char **why);
/* The next bytes of its event stream: how many, 0 where there are none yet (sleep was called), -1
 * behind the last. */
long request_read(request *r, char *out, size_t max);
/* The asker is through with it; where it is under way, it leaves the batch. */
void request_drop(request *r);

#endif
