/*
 * performer_serving.h - the page of Performer's public interface for serving many sequences at
 * once, each at a position of its own. performer.h includes it; its manners hold here.
 */
#ifndef PERFORMER_SERVING_H
#define PERFORMER_SERVING_H

#include "performer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- serving ---------------------------------------------------------------------------
 * A running batch (continuous batching): sequences of one model, which join it and leave it
 * between steps, each with a prompt, a position, a sampling and an end of its own. A step moves all
 * of them on by a token in one pass through the model, and each one's tokens and logits are bit for
 * bit those of a stream that has it alone (pf_stream_feed of the prompt, pf_stream_sample, then
 * pf_stream_next with each token), whoever else is there.
 *
 * A layer of the host's is called for each sequence by itself. What can't be a stream can't be
 * served: pf_serving_open says why.
 *
 *     pf_serving_join(serving, prompt, n, NULL, &id);           any number of them, at any time
 *     do {
 *         going = pf_serving_step(serving);                     < 0: nothing has moved
 *         const pf_served *made = pf_serving_made(serving, &n);
 *         ... made[i].id has the token made[i].token; where made[i].end, it is its last one:
 *         pf_serving_leave(serving, made[i].id);
 *     } while (going > 0);
 */

typedef struct pf_serving pf_serving;

typedef struct {
    size_t size;
    int64_t capacity; /* sequences that it holds at most, ended ones among them; 0: no bound */
    int64_t slice;    /* prompt tokens that a step takes at most, which bounds how long the others
                       * wait for a long prompt; 0: 1024. A prompt that is longer has the bits of a
                       * stream that was fed with such pieces, as pf_stream_feed does with 1024 */
} pf_serving_options;

typedef struct {
    size_t size;
    const pf_sampling *sampling; /* copied; NULL: greedy. Draws depend on seed and position alone */
    int64_t tokens;              /* new ones, after which it ends; 0: no bound */
    const int32_t *stops;        /* (n_stops), copied: ids that end it */
    int64_t n_stops;
    const uint8_t *allow; /* (n_allow), copied: as pf_stream_allow */
    int64_t n_allow;
    const pf_named *inputs; /* (n_inputs): as pf_stream_open_inputs, of a batch of 1 */
    int n_inputs;
} pf_sequence_options;

/* Why a sequence has ended; it then takes part in no step, and stays until it leaves. */
typedef enum {
    PF_ONGOING,
    PF_ENDED_STOP,   /* its last token is one of its stops */
    PF_ENDED_TOKENS, /* it has as many tokens as it was to have */
    PF_ENDED_FAILED  /* it could not go on, the others could (pf_serving_failure says why) */
} pf_end;

/* What a step has made: a token of sequence `id`, -1 where it failed. */
typedef struct {
    int64_t id;
    int32_t token;
    int32_t end; /* a pf_end */
} pf_served;

/* Filled as far as its size goes. */
typedef struct {
    size_t size;
    int64_t position; /* tokens that the model has read of it */
    int64_t waiting;  /* tokens of its prompt that no step has taken yet */
    int64_t tokens;   /* that were made; the last one has not been read yet */
    int64_t bytes;    /* of what the model remembers of it */
    int32_t last;     /* the token made last; -1: none */
    int32_t end;      /* a pf_end */
} pf_sequence_info;

/* The model is retained: weights are shared with its streams and servings on other engines. */
PF_API int pf_serving_open(pf_serving **serving, pf_engine *engine, pf_module *model,
                           const pf_serving_options *PF_NULLABLE options);
PF_API void pf_serving_close(pf_serving **serving);

/* A sequence more; *id is its number, which none had before it. Its prompt, of at least one token,
 * is copied, and read by the next steps; options NULL: greedy, until it leaves. PF_ESTATE where the
 * capacity is reached. */
PF_API int pf_serving_join(pf_serving *serving, const int32_t *prompt, size_t n,
                           const pf_sequence_options *PF_NULLABLE options, int64_t *id);
/* The same of a copy of `stream`, of one sequence, this engine and this model, which has read its
 * prompt: the next step draws from the logits that stand. What the stream allows stands too, where
 * options have no `allow`; `inputs` are the stream's own. */
PF_API int pf_serving_join_stream(pf_serving *serving, const pf_stream *stream,
                                  const pf_sequence_options *PF_NULLABLE options, int64_t *id);
/* It is gone, whether it has ended or not. PF_ENOTFOUND: there is no such sequence. */
PF_API int pf_serving_leave(pf_serving *serving, int64_t id);
/* A stream that stands where the sequence stands, to go on, to save or to join again (after
 * pf_stream_feed of its last token, which has not been read yet). The sequence stays. */
PF_API int pf_serving_fork(pf_stream **stream, const pf_serving *serving, int64_t id);

/* All sequences move on by a token, but for those whose prompt still waits; returns how many have
 * not ended, and pf_serving_made what was made. All or nothing: a step that fails (memory, cancel,
 * a limit, the host's threads) leaves every sequence as it was, and can be made again. What fails
 * of one sequence alone (no position left in a learned table, a token that there is none of,
 * nothing allowed to draw, a layer of the host's) ends that one. */
PF_API int pf_serving_step(pf_serving *serving);
/* What the last step has made, in the order of joining: *n of them, borrowed until the next
 * step. */
PF_API const pf_served *pf_serving_made(const pf_serving *serving, size_t *n);

/* Why it is PF_ENDED_FAILED: the status, with its message once more as this thread's last one;
 * PF_OK of one that is not. */
PF_API int pf_serving_failure(const pf_serving *serving, int64_t id);
PF_API int pf_serving_sequence(pf_sequence_info *info, const pf_serving *serving, int64_t id);
/* The logits of its next token: (n), borrowed until it is moved on; NULL: none yet, or no such. */
PF_API const float *pf_serving_logits(const pf_serving *serving, int64_t id,
                                      int64_t *PF_NULLABLE n);
/* As pf_stream_allow, and another sampling, from its next token on. */
PF_API int pf_serving_allow(pf_serving *serving, int64_t id, const uint8_t *PF_NULLABLE allow,
                            int64_t n);
PF_API int pf_serving_sampling(pf_serving *serving, int64_t id,
                               const pf_sampling *PF_NULLABLE sampling);
PF_API int64_t pf_serving_count(const pf_serving *serving); /* sequences, ended ones among them */
PF_API int64_t pf_serving_bytes(const pf_serving *serving); /* that the model remembers of all */

#ifdef __cplusplus
}
#endif

#endif
