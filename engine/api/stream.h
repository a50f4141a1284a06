/*
 * stream.h - a stream of a model, as it is seen by what moves it on: by itself (api_stream.c), or
 * with others (api_serving_step.c).
 */
#ifndef PF_STREAM_H
#define PF_STREAM_H

#include "sample.h"

enum { PF_STREAM_SLICE = 1024 }; /* prompt tokens a prefill: bounds what a long prompt needs */

struct pf_stream {
    pf_engine *engine;
    pf_heap *heap;
    pf_module *model; /* retained */
    pf_state *state;
    pf_tensor *token; /* (batch) i32, of a step */
    int64_t vocab;    /* as the model's layers say; 0: they don't */
    bool ready;       /* logits stand */
    pf_sampler pick;  /* with the logits (batch, vocab) of the next token */
};

/* Within a call that has begun (state/undo.c): n tokens of every sequence in one go, rows of ids
 * `stride` apart; *y is what the model gives. */
int pf_stream_slice(pf_stream *s, const int32_t *ids, int64_t n, size_t stride, pf_tensor **y);
/* The last rows of y, (batch, V) or (batch, L, V), are the coming logits. */
int pf_stream_coming(pf_stream *s, pf_tensor *y);
/* They stand from now on: nothing can fail any more. */
void pf_stream_keep(pf_stream *s);

#endif
