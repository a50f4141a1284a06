/*
 * worker.c - see worker.h. One lock guards the lists and every request's events; it is not held
 * while the model runs. A round: those that wait join, those whose asker is gone leave, a step
 * moves all on by a token, and what it made is handed out.
 */
#include "worker.h"

#include <errno.h>
#include <performer.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "events.h"

struct request {
    worker *owner;
    request *next; /* in the worker's list */
    int references;
    question q;
    int32_t *ids; /* the prompt */
    size_t n_ids;
    int64_t id;     /* in the serving; 0: waits to join */
    int64_t tokens; /* made so far */
    bool limited;   /* by the server, to fewer than were wanted */
    bool gone;      /* the asker has dropped it */
    bool asleep;    /* its sleep was called, and no wake since */
    bool ended;     /* its events are all there */
    events events;
};

struct worker {
    worker_options o;
    pf_engine *engine;
    pf_module *model;
    pf_serving *serving;
    char tokenizer[32];
    int32_t stop; /* the tokenizer's end; -1: none */
    pthread_t thread;
    bool started;
    atomic_int cancel; /* ends a step that is under way */
    pthread_mutex_t lock;
    pthread_cond_t asked;
    request *first; /* under way: running and waiting, in the order of asking */
    bool stopping;
    double begun, deadline;
    worker_health health;
    double window_begun; /* of the rate that is told */
    int64_t window_tokens;
};

/* ---- requests ------------------------------------------------------------------
 * With the lock held. */

static void release(request *r) {
    if (--r->references > 0) return;
    events_free(&r->events);
    free(r->ids);
    free(r);
}

static void wake(request *r) {
    if (!r->asleep) return;
    r->asleep = false;
    r->q.wake(r->q.context);
}

static void finish(request *r, const char *reason) {
    if (r->ended) return;
    events_end(&r->events, r->tokens, reason);
    r->ended = true;
    wake(r);
}

/* Takes those that have ended, or whose asker is gone, out of list and batch. */
static void sweep(worker *w) {
    for (request **at = &w->first; *at;) {
        request *r = *at;
        if (!r->ended && !r->gone) {
            at = &r->next;
            continue;
        }
        if (r->id) pf_serving_leave(w->serving, r->id);
        w->health.served += r->ended;
        w->health.gone += !r->ended;
        *at = r->next;
        release(r);
    }
}

static int64_t count(const worker *w, const char *client, bool waiting) {
    int64_t n = 0;
    for (const request *r = w->first; r; r = r->next) {
        if (client ? strcmp(r->q.client, client) == 0 : (r->id == 0) == waiting) n++;
    }
    return n;
}

/* ---- the thread ---------------------------------------------------------------- */

static int join(worker *w, request *r) {
    const pf_sampling sampling = {.size = sizeof sampling,
                                  .temperature = r->q.temperature,
                                  .top_k = r->q.top_k,
                                  .top_p = r->q.top_p,
                                  .min_p = r->q.min_p,
                                  .repetition_penalty = r->q.repetition_penalty,
                                  .seed = r->q.seed};
    const pf_sequence_options options = {.size = sizeof options,
                                         .sampling = &sampling,
                                         .tokens = r->q.tokens,
                                         .stops = &w->stop,
                                         .n_stops = w->stop >= 0};
    return pf_serving_join(w->serving, r->ids, r->n_ids, &options, &r->id);
}

/* Those that wait take the places that are free, first come first. */
static void let_in(worker *w) {
    int64_t free_places = w->o.capacity - pf_serving_count(w->serving);
    for (request *r = w->first; r && free_places > 0; r = r->next) {
        if (r->id || r->ended) continue;
        if (join(w, r) < 0) {
            fprintf(stderr, "serve: a request was refused: %s\n", pf_last_error());
            w->health.failed++;
            finish(r, "failed");
        } else {
            free_places--;
        }
    }
}

static request *find(const worker *w, int64_t id) {
    for (request *r = w->first; r; r = r->next) {
        if (r->id == id) return r;
    }
    return NULL;
}

static void hand_out_one(worker *w, const pf_served *made) {
    request *r = find(w, made->id);
    if (!r) return;
    if (made->token >= 0 && made->end != PF_ENDED_STOP) {
        char text[64];
        size_t bytes = sizeof text;
        if (pf_tokenizer_decode(w->tokenizer, &made->token, 1, text, &bytes) >= 0) {
            events_text(&r->events, text, bytes);
        }
        r->tokens++;
        w->health.tokens++;
        w->window_tokens++;
        wake(r);
    }
    w->health.failed += made->end == PF_ENDED_FAILED;
    if (made->end != PF_ONGOING) {
        const char *tokens = r->limited ? "limit" : "tokens";
        finish(r, made->end == PF_ENDED_STOP     ? "stop"
                  : made->end == PF_ENDED_TOKENS ? tokens
                                                 : "failed");
    }
}

/* What a step made; a step that failed has moved nobody, and when memory is short the youngest has
 * to go, so that the others can. */
static void hand_out(worker *w, int status) {
    size_t n = 0;
    const pf_served *made = status < 0 ? NULL : pf_serving_made(w->serving, &n);
    for (size_t i = 0; i < n; i++) hand_out_one(w, &made[i]);
    if (status < 0 && status != PF_ECANCEL) {
        request *youngest = NULL;
        for (request *r = w->first; r; r = r->next) {
            if (r->id && !r->ended) youngest = r;
        }
        fprintf(stderr, "serve: %s: %s\n", pf_status_name(status), pf_last_error());
        w->health.failed++;
        if (youngest) finish(youngest, "failed");
    }
    const double now = pf_clock();
    if (now - w->window_begun >= 2) {
        w->health.tokens_per_second = (double)w->window_tokens / (now - w->window_begun);
        w->window_begun = now, w->window_tokens = 0;
    }
}

static bool over(const worker *w) {
    return w->stopping && (!w->first || pf_clock() >= w->deadline);
}

static void *work(void *context) {
    worker *w = context;
    pthread_mutex_lock(&w->lock);
    while (!over(w)) {
        sweep(w);
        let_in(w);
        if (count(w, NULL, false) == 0) {
            if (w->first) continue; /* all that were left have just ended */
            w->window_begun = pf_clock(), w->window_tokens = 0;
            w->health.tokens_per_second = 0;
            if (!w->stopping) pthread_cond_wait(&w->asked, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        const int status = pf_serving_step(w->serving);
        pthread_mutex_lock(&w->lock);
        hand_out(w, status);
    }
    for (request *r = w->first; r; r = r->next) finish(r, "shutdown");
    sweep(w);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- open, close --------------------------------------------------------------- */

/* The name of the engine's own tokenizer that a checkpoint was saved with: a text, or the `type` of
 * a map. "byte" where none was saved; NULL: another's. */
static const char *tokenizer_name(const pf_config *saved) {
    if (!saved) return "byte";
    const char *name = pf_config_string(saved);
    if (!name) name = pf_config_string(pf_config_get(saved, "type"));
    return name && pf_tokenizer_size(name) > 0 ? name : NULL;
}

/* The texts that the model speaks: a tokenizer of the engine's own. */
static int load(worker *w) {
    pf_config *tokenizer = NULL;
    int status = pf_checkpoint_load(w->engine, w->o.model, &w->model, NULL, NULL, &tokenizer);
    const char *name = tokenizer_name(tokenizer);
    snprintf(w->tokenizer, sizeof w->tokenizer, "%s", name ? name : "");
    if (status >= 0 && !name) {
        status = pf_set_error(PF_EINVAL, "the model has a tokenizer of its own, which this host "
                                         "doesn't know: it speaks bytes and proteins");
    }
    pf_config_free(tokenizer);
    if (status < 0) return status;
    w->stop = pf_tokenizer_special(w->tokenizer, "end");
    if (w->stop < 0) w->stop = -1; /* bytes have none */
    const pf_serving_options options = {.size = sizeof options, .capacity = w->o.capacity};
    return pf_serving_open(&w->serving, w->engine, w->model, &options);
}

bool worker_open(worker **out, const worker_options *options) {
    worker *w = *out = calloc(1, sizeof *w);
    if (!w) return false;
    w->o = *options;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->asked, NULL);
    pf_options engine = PF_OPTIONS_DEFAULT;
    engine.threads = w->o.threads;
    engine.memory = w->o.memory;
    engine.cancel = &w->cancel;
    int status = pf_engine_open(&w->engine, &engine);
    if (status >= 0) status = load(w);
    w->begun = w->window_begun = pf_clock();
    if (status < 0) {
        fprintf(stderr, "serve: %s: %s\n", pf_status_name(status), pf_last_error());
    } else if (pthread_create(&w->thread, NULL, work, w) != 0) {
        fprintf(stderr, "serve: no thread could be started: %s\n", strerror(errno));
    } else {
        w->started = true;
    }
    if (!w->started) worker_close(out);
    return *out != NULL;
}

void worker_stop(worker *w) {
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    w->deadline = pf_clock() + w->o.grace;
    pthread_cond_signal(&w->asked);
    pthread_mutex_unlock(&w->lock);
    if (w->started) pthread_join(w->thread, NULL);
    w->started = false;
}

void worker_close(worker **out) {
    worker *w = *out;
    *out = NULL;
    if (!w) return;
    if (w->started) worker_stop(w);
    pf_serving_close(&w->serving);
    pf_module_release(&w->model);
    pf_engine_close(&w->engine);
    pthread_cond_destroy(&w->asked);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

worker_health worker_look(worker *w) {
    pthread_mutex_lock(&w->lock);
    worker_health health = w->health;
    health.running = count(w, NULL, false);
    health.waiting = count(w, NULL, true);
    health.seconds = pf_clock() - w->begun;
    health.stopping = w->stopping;
    pthread_mutex_unlock(&w->lock);
    return health;
}

/* ---- the askers' side ---------------------------------------------------------- */

/* Ids of the prompt; an empty one begins with a line's end, or what the tokenizer begins with. */
static bool read_prompt(const worker *w, request *r) {
    const int begin = pf_tokenizer_special(w->tokenizer, "begin");
    size_t n = 0;
    if (pf_tokenizer_encode(w->tokenizer, r->q.prompt, r->q.bytes, NULL, &n) < 0) return false;
    r->ids = malloc((n + 1) * sizeof *r->ids);
    if (!r->ids) return false;
    r->ids[0] = begin >= 0 ? begin : '\n';
    const bool lead = begin >= 0 || n == 0;
    r->n_ids = n + lead;
    return pf_tokenizer_encode(w->tokenizer, r->q.prompt, r->q.bytes, r->ids + lead, &n) >= 0;
}

static int refuse(worker *w, int code, const char **why, const char *text) {
    w->health.refused++;
    *why = text;
    return code;
}

static int admit(worker *w, request *r, const char **why) {
    if (w->stopping) return refuse(w, 503, why, "the server is about to end");
    if (count(w, r->q.client, false) >= w->o.per_client) {
        return refuse(w, 429, why, "too many requests of this client are under way");
    }
    if (count(w, NULL, true) >= w->o.waiting) {
        return refuse(w, 503, why, "too many requests are waiting");
    }
    request **last = &w->first;
    while (*last) last = &(*last)->next;
    *last = r;
    r->references++;
    pthread_cond_signal(&w->asked);
    return 200;
}

int worker_ask(worker *w, const question *q, request **out, const char **why) {
    request *r = *out = calloc(1, sizeof *r);
    *why = "no memory";
    if (!r) return 503;
    r->owner = w;
    r->references = 1;
    r->q = *q;
    r->limited = r->q.tokens < 1 || r->q.tokens > w->o.tokens;
    if (r->limited) r->q.tokens = w->o.tokens;
    int code = 400;
    if (read_prompt(w, r)) {
        pthread_mutex_lock(&w->lock);
        code = admit(w, r, why);
        pthread_mutex_unlock(&w->lock);
    } else {
        *why = "the model's tokenizer can't read this prompt";
    }
    r->q.prompt = NULL; /* the asker's */
    if (code == 200) return code;
    free(r->ids);
    free(r);
    *out = NULL;
    return code;
}

long request_read(request *r, char *out, size_t max) {
    worker *w = r->owner;
    pthread_mutex_lock(&w->lock);
    size_t n = r->events.n - r->events.read;
    long result = r->ended || r->events.failed ? -1 : 0;
    if (n > 0) {
        n = n < max ? n : max;
        memcpy(out, r->events.text + r->events.read, n);
        r->events.read += n;
        if (r->events.read == r->events.n) r->events.read = r->events.n = 0;
        result = (long)n;
    } else if (result == 0) {
        r->asleep = true;
        r->q.sleep(r->q.context);
    }
    pthread_mutex_unlock(&w->lock);
    return result;
}

void request_drop(request *r) {
    worker *w = r->owner;
    pthread_mutex_lock(&w->lock);
    r->gone = true;
    r->asleep = false;
    release(r);
    pthread_mutex_unlock(&w->lock);
}
