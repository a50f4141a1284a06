/*
 * serving.h - a running batch: its sequences, each a stream of one with a prompt, a sampling and
 * an end of its own (api_serving.c), and a step of all of them (api_serving_step.c).
 */
#ifndef PF_SERVING_H
#define PF_SERVING_H

#include "stream.h"

enum { PF_SEQUENCE_MESSAGE = 512 };

/* What the step under way does with a sequence. */
typedef struct pf_sequence_step {
    int64_t slice; /* tokens of its prompt that it reads */
    bool writes;   /* its last token is read */
    bool draws;    /* and the next one is drawn */
    bool moves;    /* its tree has begun a call */
    int32_t token; /* drawn */
    int failed;    /* < 0: by itself, while the others go on */
} pf_sequence_step;

typedef struct pf_sequence {
    int64_t id;
    pf_stream *stream; /* where it stands */
    pf_sampling sampling;
    int32_t *prompt;        /* NULL once it is read */
    int64_t n_prompt, read; /* tokens of it; read by the model */
    int32_t *stops;
    int64_t n_stops;
    int64_t most, tokens; /* new ones: at most (0: no bound), so far */
    int32_t last;         /* -1: none */
    pf_end end;
    int status; /* of PF_ENDED_FAILED, with its message */
    char message[PF_SEQUENCE_MESSAGE];
    pf_sequence_step step;
} pf_sequence;

struct pf_serving {
    pf_engine *engine;
    pf_heap *heap;
    pf_module *model; /* retained */
    int64_t capacity, slice;
    int64_t ids; /* given so far */
    pf_sequence **all;
    int64_t n, cap;
    pf_served *made; /* by the last step */
    int64_t n_made, cap_made;
    /* Sequences that go through the model together in a step, and the states of those that went in
     * the last one, gathered with room for their tokens; NULL: to be gathered. */
    pf_sequence **running;
    int64_t n_running, cap_running;
    int64_t *gathered; /* their ids */
    int64_t n_gathered, cap_gathered;
    pf_state *rows;
    pf_tensor *token; /* (n_gathered) i32 */
    uint64_t refused; /* of the engine, when the step began */
    int64_t again;    /* passes that failed together and were made again one by one, so far */
};

/* Lets go of the gathered states: one of them is about to go. */
void pf_serving_ungather(pf_serving *s);

#endif
