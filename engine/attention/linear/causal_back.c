/*
 * causal_back.c - the way back through causal.c. With g~, rho as in full.c
 * and B_ij = e^(l_j - M_i) (g~_i . v_j + rho_i):
 *
 *     dq'_i = e^(M_in - M_i) (S g~_i + rho_i z) + sum_(j <= n_i) B_ij k'_j
 *     dk'_j = e^(l_j - M_out) (T v_j + y) + sum_(i: n_i >= j) B_ij q'_i
 *     dv_j  = e^(l_j - M_out) T^T k'_j + sum_(i: n_i >= j) A_ij g~_i
 *     T    <- e^(M_in - M_out) T + sum_i e^(M_in - M_i) q'_i g~_i^T,   y likewise with rho
 *
 * Each comes in two parts. The second one of dq', dk', dv is of keys and queries that meet inside
 * the chunk, by its matrices A and B; the first is of those in other chunks, by the state before
 * it (S, z) or the cotangent behind it (T, y).
 *
 * S moves forward, T moves back, and the chunk needs both. Keeping S before every chunk would cost
 * more than the rows themselves, and dividing it back out loses digits. So the sequence goes in
 * spans of PF_SPAN_CHUNKS, the last first: from the state that the forward kept at a span's first
 * key its chunks' states are made again and held, then its chunks go backward. Memory is one span
 * and a state a span; the work, one more sum over the keys. Features are made once: those of the
 * span's keys are held too.
 *
 * A span's sweep must give the states that the forward had, to the bit: it repeats the forward's
 * own two steps, a chunk's sum from nothing and its join (sums.c), at the maxima that were saved.
 */
#include <math.h>
#include <string.h>

#include "operator.h"

/* Where the state before chunk n of the running span stands: S (r, dv), then z (r). */
static float *state_at(const pf_work *w, int64_t n) {
    int64_t rdv = w->op->r * w->op->dv;
    return w->states + n * (rdv + w->op->r);
}

/* s, z and the keys' features of chunk n: where the sweep left them, or is to put them. */
static void point_at(pf_work *w, int64_t n) {
    w->s = state_at(w, n);
    w->z = w->s + w->op->r * w->op->dv;
    pf_work_point_known(w, w->known + n * pf_known_floats(w->op));
}

/* run and M of the chunk at `first` from the saved running maxima: M is the chunk's entry. */
static void saved_maxima(pf_work *w, int64_t first) {
    const pf_operator *op = w->op;
    int64_t head = w->item * op->Hk + w->kv;
    const float *running = op->running + head * op->Lk + w->seg->start;
    float entry = op->entry_s && w->seg->first ? op->entry_shift[head] : -INFINITY;
    w->M = first > 0 ? running[first - 1] - w->decay * (float)op->block : entry;
    memcpy(w->run, running + first, (size_t)w->keys * sizeof(float));
}

/* M after the loaded chunk, from its own first row. */
static float leaving_maximum(const pf_work *w) { return w->keys > 0 ? w->run[w->keys - 1] : w->M; }

float pf_causal_keys_again(pf_work *w, int64_t first, bool known) {
    if (known) {
        pf_work_known_keys(w, first);
    } else {
        pf_work_keys(w, first);
    }
    pf_work_values(w, first);
    saved_maxima(w, first);
    return leaving_maximum(w);
}

void pf_causal_kept(pf_work *w, int64_t from, float *s, float *z) {
    const pf_operator *op = w->op;
    int64_t rdv = op->r * op->dv, place = w->seg->spans + from / PF_SPAN - 1;
    const float *kept = op->saved + (place * op->Hk + w->kv) * (rdv + op->r);
    memcpy(s, kept, (size_t)rdv * sizeof(float));
    memcpy(z, kept + rdv, (size_t)op->r * sizeof(float));
}

/* The states before the chunks of the span that begins at `from`, chunk by chunk. */
static void sweep_span(pf_work *w, int64_t from, int64_t chunks) {
    int64_t rdv = w->op->r * w->op->dv;
    point_at(w, 0);
    if (from == 0) {
        pf_work_load_state(w);
    } else {
        pf_causal_kept(w, from, w->s, w->z);
    }
    for (int64_t n = 0; n + 1 < chunks; n++) {
        point_at(w, n);
        float *next = state_at(w, n + 1);
        float top = pf_causal_keys_again(w, from + n * w->op->block, false);
        pf_work_own(w, top, next, next + rdv);
        pf_work_join(w, top, next, next + rdv);
    }
}

/* b <- B, on the stair: rho_i is added to a row's seen entries before the decay. */
static void inner_cotangents(pf_work *w) {
    int64_t C = w->op->block;
    pf_stair_scores(w, w->op->dv, w->g, w->v, w->b);
    for (int64_t i = 0; i < w->queries; i++) {
        w->kern->affine(w->sees[i], 1, w->rho[i], w->b + i * C, w->b + i * C);
    }
    pf_stair_decay(w, w->b, NULL);
}

/* dq of the loaded queries. eg: e g~, and rho has its e already. */
static void pull_queries(pf_work *w, const float *eg) {
    int64_t r = w->op->r, dv = w->op->dv;
    pf_work_gemm(w, false, true, w->q_rows, r, dv, eg, dv, w->s, dv, 0, w->df, r);
    pf_stair_apply(w, w->b, r, w->fk, w->df);
    pf_work_pull_queries(w);
}

/* n queries from place `at` on: their dq, their part of dk, dvalue, T and y. `beta`: of T, y. The
 * chunk's own products come first, with g~ and rho as they are; the state's and T's then take
 * both times e^(M_in - M_i). */
static void back_block(pf_work *w, int64_t at, int64_t n, float beta) {
    const pf_operator *op = w->op;
    int64_t r = op->r, dv = op->dv;
    pf_causal_load(w, at, n);
    pf_work_cotangents(w);
    inner_cotangents(w);
    if (op->need_v) {
        pf_stair_scores(w, r, w->fq, w->fk, w->a);
        pf_stair_decay(w, w->a, NULL);
        pf_stair_turned(w, w->a, dv, w->g, w->dvalue);
    }
    if (op->need_k) pf_stair_turned(w, w->b, r, w->fq, w->dk);
    for (int64_t i = 0; i < w->q_rows; i++) {
        if (w->e[i] != 1) w->kern->scale(dv, w->e[i], w->g + i * dv, w->g + i * dv);
        w->rho[i] *= w->e[i];
    }
    pf_work_collect(w, w->g, w->rho, beta);
    if (op->need_q) pull_queries(w, w->g);
}

/* beta: of T, y before the chunk's first block of queries. */
static void back_queries(pf_work *w, int64_t from, int64_t n, float beta) {
    const pf_operator *op = w->op;
    memset(w->dk, 0, (size_t)(w->k_rows * op->r) * sizeof(float));
    memset(w->dvalue, 0, (size_t)(w->k_rows * op->dv) * sizeof(float));
    for (int64_t g = 0; g < op->group; g++) {
        w->head = w->kv * op->group + g;
        for (int64_t i = 0; i < n; i += op->block) {
            back_block(w, from + i, pf_min(op->block, n - i), beta);
            beta = 1;
        }
    }
}

/* A chunk that no query belongs to still hands on zeros. */
void pf_causal_back_queries(pf_work *w) {
    int64_t n, from = pf_causal_queries(w, w->first, &n);
    if (n == 0) {
        memset(w->t, 0, (size_t)(w->op->r * w->op->dv) * sizeof(float));
        memset(w->y, 0, (size_t)w->op->r * sizeof(float));
    }
    back_queries(w, from, n, 0);
}

/* dvalue gains the first part of dv. Keys that are none get 0, whatever 0 e^(-inf) makes. */
static void back_values(pf_work *w, const float *t) {
    const pf_operator *op = w->op;
    int64_t dv = op->dv;
    pf_work_gemm(w, false, false, w->k_rows, dv, op->r, w->fk, op->r, t, dv, 0, w->o, dv);
    w->kern->rows_scale(w->keys, dv, w->leave, 1, w->o, dv, true, w->dvalue, dv);
    for (int64_t j = 0; j < w->keys; j++) {
        if (w->shift[j] == -INFINITY) memset(w->dvalue + j * dv, 0, (size_t)dv * sizeof(float));
    }
    float one = 1;
    pf_heads_put(w->kern, &op->dvalue, w->item, w->kv, w->seg->start + w->first, w->keys, &one, 0,
                 w->dvalue);
}

void pf_causal_back_keys(pf_work *w, const float *t, const float *y) {
    const pf_operator *op = w->op;
    int64_t r = op->r, dv = op->dv;
    pf_decays(w, w->k_rows, w->shift, leaving_maximum(w), w->leave);
    if (op->need_v) back_values(w, t);
    if (!op->need_k) return;
    pf_work_scale_values(w);
    pf_work_gemm(w, false, true, w->k_rows, r, dv, w->vs, dv, t, dv, 1, w->dk, op->r);
    pf_work_pull_keys(w, y);
}

/* One chunk, with T, y moved back: its own part begins at 0, and the later one's joins. */
static void back_chunk(pf_work *w, int64_t first, bool known) {
    const pf_operator *op = w->op;
    int64_t rdv = op->r * op->dv;
    float *t = w->t, *y = w->y, top = pf_causal_keys_again(w, first, known);
    float beta = pf_decay(w->M, top);
    w->t = w->t2, w->y = w->t2 + rdv;
    pf_causal_back_queries(w);
    pf_causal_back_keys(w, t, y);
    pf_work_join_cotangent(w, beta, t, y);
    w->t2 = t;
}

void pf_causal_backward(void *op, int64_t task, void *scratch) {
    pf_work w;
    pf_work_open(&w, op, task, scratch, true);
    int64_t C = w.op->block, chunks = pf_causal_chunks(&w);
    pf_work_load_cotangent(&w);
    for (int64_t from = (chunks - 1) / PF_SPAN_CHUNKS; from >= 0; from--) {
        int64_t first = from * PF_SPAN, n = pf_min(PF_SPAN_CHUNKS, chunks - from * PF_SPAN_CHUNKS);
        sweep_span(&w, first, n);
        for (int64_t i = n - 1; i >= 0; i--) {
            point_at(&w, i);
            back_chunk(&w, first + i * C, i < n - 1); /* the last was not swept */
        }
    }
    pf_work_store_cotangent(&w, 1);
}
