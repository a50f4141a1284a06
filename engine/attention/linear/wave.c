/*
 * wave.c - few sequences on many threads: parallel over the sequence.
 *
 * A task is one head of one segment, as everywhere; a unit is one block of it. Units are numbered
 * in order, task after task, and taken by whichever thread is free. What makes them depend on each
 * other is the running sum: S, z, M forward, T, y on the way back. A unit
 *
 *     1. makes its features, and its own part of the sum from nothing;
 *     2. waits for the sum before it, adds it to its own, and tells that the next one's stands;
 *     3. does the rest of its work (answers, gradients) while the next unit does its 2.
 *
 * So only the joins go one after the other, and no feature is made twice. Running maxima go ahead
 * of the sums, as soon as a unit's keys have their features: a part is made at its final scale.
 *
 * A link is the place between two units: what stands before one of them, with numbers that tell
 * how far it is. Links lie in a ring of a few more than twice the threads: unit u is served by
 * link u modulo the ring, which must wait until the unit that had it before is over. That is what
 * bounds the memory, and how far a thread runs ahead of the slowest.
 *
 *     unit u waits for             told by                       number
 *     the maximum before it        unit u - 1, early             link u, maximum >= u + 1
 *     the sum before it            unit u - 1, after its join    link u, sum >= u + 1
 *     the next one's place         unit u + 1 - ring, at its end link u + 1, done
 *
 * The arithmetic is that of the schedules that run a task on one thread, addition for addition:
 * those too make a block's part from 0 and join it in one rounding (sums.c), as block_gemm's beta
 * does. Which thread does it, and when, changes no operand. So the bits are the same.
 *
 * A thread only ever waits for units taken before its own, by threads that finish what they took:
 * the first unit under way can always go on, and nothing locks up.
 */
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "operator.h"

/* What stands before a unit. The numbers are those of the unit served, plus 1: a value left by
 * the one that had the link before is smaller, so it needs no reset. Each link has a cache line of
 * its own, since threads spin on it. */
typedef struct {
    _Alignas(64) atomic_llong maximum; /* M stands */
    atomic_llong sum;                  /* the sum stands */
    atomic_llong done;                 /* the unit served is over: its place is free */
    float M;
    float *s; /* S, z or T, y */
} link;

/* Units of one kind. Phases follow each other: full attention's queries wait for all keys. */
typedef struct wave wave;
typedef struct {
    void (*unit)(wave *v, pf_work *w, int64_t u, int64_t n); /* n: of its task */
    int64_t (*count)(const pf_work *w);                      /* units of the task */
    bool backward;
} phase;

struct wave {
    pf_operator *op;
    const phase *phase;
    int64_t tasks, units, ring, state; /* state: floats of S, z */
    int64_t *begin;                    /* (tasks + 1) first units */
    int64_t *chunks;                   /* (tasks + 1) causal: chunks of the tasks before */
    link *links, *spans;     /* (ring); (chunks of a span): states of the span under way */
    float *last, *last_t;    /* (tasks, state + 1): S, z, M and T, y after the last unit */
    float *known;            /* fk and shift of a span's chunks */
    atomic_llong next, over; /* over: chunks that have gone backward */
    atomic_int stopped;      /* why, or 0 */
};

/* ---- waiting ---- */

/* Until *number is `least` or more; what its teller wrote before telling is seen then. A join takes
 * microseconds, so it spins first, and gives the processor away where threads outnumber it. */
static void wait_for(atomic_llong *number, int64_t least) {
    for (int spins = 0; atomic_load_explicit(number, memory_order_acquire) < least; spins++) {
        if (spins >= 200) sched_yield();
    }
}

static void tell(atomic_llong *number, int64_t value) {
    atomic_store_explicit(number, value, memory_order_release);
}

static link *link_of(const wave *v, int64_t u) { return &v->links[u % v->ring]; }

static void end_unit(const wave *v, int64_t u) { tell(&link_of(v, u)->done, u + 1); }

/* The link that serves unit u, once the unit that had its place is over. */
static link *free_link(const wave *v, int64_t u) {
    link *l = link_of(v, u);
    if (u >= v->ring) wait_for(&l->done, u - v->ring + 1);
    return l;
}

/* Unit u is its task's last: nothing is passed on. */
static bool is_last(const wave *v, int64_t u, int64_t task) { return u + 1 == v->begin[task + 1]; }

static int64_t task_of(const wave *v, const pf_work *w) {
    return (w->seg - v->op->reach.list) * v->op->Hk + w->kv;
}

static void point_s(pf_work *w, float *s) {
    w->s = s;
    w->z = s + w->op->r * w->op->dv;
}

static void point_t(pf_work *w, float *t) {
    w->t = t;
    w->y = t + w->op->r * w->op->dv;
}

/* ---- the sum over keys, forward ---- */

/* S, z, M before unit u are where w points, or will be: M is there on return. */
static void enter_keys(wave *v, pf_work *w, int64_t u, int64_t n) {
    link *in = link_of(v, u);
    if (n == 0) {
        in = free_link(v, u);
        point_s(w, in->s);
        pf_work_load_state(w);
        return;
    }
    point_s(w, in->s);
    wait_for(&in->maximum, u + 1);
    w->M = in->M;
}

/* The loaded keys' sum at scale `top` goes on to the next unit, or to `end` after the task's
 * last. M of the next begins with `next`. */
static void pass_keys(wave *v, pf_work *w, int64_t u, int64_t n, float top, float next,
                      float *end) {
    int64_t rdv = v->op->r * v->op->dv;
    link *out = NULL;
    float *to = end;
    if (!end) {
        out = free_link(v, u + 1);
        out->M = next;
        tell(&out->maximum, u + 2);
        to = out->s;
    }
    pf_work_own(w, top, to, to + rdv);
    if (n > 0) wait_for(&link_of(v, u)->sum, u + 1);
    pf_work_join(w, top, to, to + rdv);
    if (out) tell(&out->sum, u + 2);
}

/* The task's last state: exit, and where the units of later phases look for it. w is as it was
 * afterwards: its queries are still to be answered from the state before. */
static void end_keys(wave *v, pf_work *w, float M) {
    float *s = v->last + task_of(v, w) * (v->state + 1), *kept_s = w->s, *kept_z = w->z;
    float kept_M = w->M;
    point_s(w, s);
    w->M = s[v->state] = M;
    pf_work_store_state(w);
    w->s = kept_s, w->z = kept_z, w->M = kept_M;
}

/* Keys of block n into the sum; causal: its queries too, while others join. */
static void key_unit(wave *v, pf_work *w, int64_t u, int64_t n, bool causal) {
    int64_t first = n * v->op->block, task = task_of(v, w);
    bool last = is_last(v, u, task);
    float entry, top, next, *end = last ? v->last + task * (v->state + 1) : NULL;
    /* The features first: M is not needed for them, and may not be there yet. `run` is then of
     * this chunk's keys alone, and takes in the maximum before it below. */
    w->M = -INFINITY;
    top = causal ? pf_causal_keys(w, first) : pf_full_keys(w, first);
    enter_keys(v, w, u, n);
    entry = w->M;
    if (entry > top) top = entry;
    for (int64_t j = 0; causal && j < w->keys; j++) {
        w->run[j] = entry > w->run[j] ? entry : w->run[j];
    }
    next = top - (causal ? w->decay * (float)w->keys : 0);
    pass_keys(v, w, u, n, top, next, end);
    if (last) end_keys(v, w, next);
    if (causal) pf_causal_answer(w);
    end_unit(v, u);
}

static void full_keys_unit(wave *v, pf_work *w, int64_t u, int64_t n) {
    key_unit(v, w, u, n, false);
}

static void causal_unit(wave *v, pf_work *w, int64_t u, int64_t n) { key_unit(v, w, u, n, true); }

static int64_t count_chunks(const pf_work *w) { return pf_causal_chunks(w); }

/* ---- full attention: queries, and the way back ---- */

static int64_t query_blocks(const pf_work *w) {
    return pf_ceil_div(w->seg->q_length, w->op->block);
}

static int64_t count_queries(const pf_work *w) { return query_blocks(w) * w->op->group; }

/* Head and place of the task's unit n; returns the queries in it. */
static int64_t begin_queries(wave *v, pf_work *w, int64_t n, int64_t *first) {
    int64_t blocks = query_blocks(w);
    float *s = v->last + task_of(v, w) * (v->state + 1);
    w->head = w->kv * v->op->group + n / blocks;
    *first = n % blocks * v->op->block;
    point_s(w, s);
    w->M = s[v->state];
    return pf_min(v->op->block, w->seg->q_length - *first);
}

static void full_query_unit(wave *v, pf_work *w, int64_t u, int64_t n) {
    int64_t first, rows = begin_queries(v, w, n, &first);
    (void)u;
    pf_full_answer(w, first, rows);
}

/* T, y before the task's first unit stand at its link; after its last in last_t. */
static void full_back_query_unit(wave *v, pf_work *w, int64_t u, int64_t n) {
    int64_t first, task = task_of(v, w), rows = begin_queries(v, w, n, &first);
    link *in = n == 0 ? free_link(v, u) : link_of(v, u);
    bool last = is_last(v, u, task);
    PF_HOLDS(in);
    if (n == 0) {
        point_t(w, in->s);
        pf_work_load_cotangent(w);
    }
    link *out = last ? NULL : free_link(v, u + 1);
    point_t(w, out ? out->s : v->last_t + task * (v->state + 1));
    pf_full_back_queries(w, first, rows, 0);
    if (n > 0) wait_for(&in->sum, u + 1);
    pf_work_join_cotangent(w, 1, in->s, in->s + v->op->r * v->op->dv);
    if (out) tell(&out->sum, u + 2);
    end_unit(v, u);
}

static void full_back_key_unit(wave *v, pf_work *w, int64_t u, int64_t n) {
    int64_t task = task_of(v, w);
    (void)u;
    w->M = v->last[task * (v->state + 1) + v->state];
    point_t(w, v->last_t + task * (v->state + 1));
    pf_full_back_keys(w, n * v->op->block);
    if (n == 0 && v->op->dentry_s && w->seg->first) {
        int64_t at = w->item * v->op->Hk + w->kv;
        pf_work_store_cotangent(w, pf_decay(v->op->entry_shift[at], w->M));
    }
}

/* ---- causal attention, the way back ---- */

/*
 * A unit of the way back. S moves forward and T back, so a span of c chunks takes 2 c - 1 units:
 * c - 1 sweep forward and leave the states before all chunks but the first in `spans`, whose state
 * the forward kept; then c go backward, the last chunk first. Spans follow each other from the
 * sequence's end to its beginning, and share `spans`: one begins when all chunks behind it are
 * over.
 *
 * Sweeping units pass S on along `spans`, chunks going backward pass T, y on along the ring, where
 * their numbers count chunks, not units.
 */
typedef struct {
    int64_t from;   /* first key of the span */
    int64_t c;      /* its chunks */
    int64_t first;  /* its first unit */
    int64_t number; /* chunks that go backward before it, of all tasks: its first one's number */
    int64_t chunk;  /* of the span, that this unit is about */
    bool sweeps;    /* forward: it makes the state behind that chunk */
} back_place;

static int64_t count_back(const pf_work *w) {
    int64_t chunks = pf_causal_chunks(w);
    return 2 * chunks - pf_ceil_div(chunks, PF_SPAN_CHUNKS);
}

/* The last span, which comes first, has what is left over; the others are whole. */
static back_place place_of(const wave *v, const pf_work *w, int64_t u, int64_t n) {
    int64_t whole = 2 * PF_SPAN_CHUNKS - 1, chunks = pf_causal_chunks(w),
            span = (chunks - 1) / PF_SPAN_CHUNKS;
    back_place p = {.c = chunks - span * PF_SPAN_CHUNKS};
    if (n >= 2 * p.c - 1) {
        n -= 2 * p.c - 1;
        span -= 1 + n / whole;
        n %= whole;
        p.c = PF_SPAN_CHUNKS;
    }
    p.from = span * PF_SPAN;
    p.first = u - n;
    p.number = v->chunks[task_of(v, w)] + chunks - span * PF_SPAN_CHUNKS - p.c;
    p.sweeps = n < p.c - 1;
    p.chunk = p.sweeps ? n : 2 * (p.c - 1) - n;
    return p;
}

/* The state before the span's first chunk, put there by the span's first unit: the entry state or
 * what the forward kept. M is not part of it: saved maxima say it (pf_causal_keys_again). */
static void first_state(wave *v, pf_work *w, const back_place *p) {
    float M = w->M;
    point_s(w, v->spans[0].s);
    if (p->from == 0) {
        pf_work_load_state(w);
    } else {
        pf_causal_kept(w, p->from, w->s, w->z);
    }
    w->M = M;
    tell(&v->spans[0].sum, p->first + 1);
}

/* The keys of a chunk into the state before the next one. */
static void sweep_unit(wave *v, pf_work *w, int64_t u, const back_place *p) {
    link *in = &v->spans[p->chunk], *out = in + 1;
    pf_work_point_known(w, v->known + p->chunk * pf_known_floats(v->op));
    float top = pf_causal_keys_again(w, p->from + p->chunk * v->op->block, false);
    float *z = out->s + v->op->r * v->op->dv;
    if (p->chunk == 0) first_state(v, w, p);
    pf_work_own(w, top, out->s, z);
    point_s(w, in->s);
    wait_for(&in->sum, p->chunk == 0 ? u + 1 : u);
    pf_work_join(w, top, out->s, z);
    tell(&out->sum, u + 1);
}

/* A chunk backward: its own T, y from nothing, then those behind it, which its keys' gradients
 * are made of too. The span's last chunk was not swept, so its features are made here. */
static void chunk_unit(wave *v, pf_work *w, const back_place *p) {
    int64_t task = task_of(v, w), number = p->number + p->c - 1 - p->chunk;
    bool first = number == v->chunks[task], last = number + 1 == v->chunks[task + 1];
    bool swept = p->chunk + 1 < p->c;
    if (swept) wait_for(&v->spans[p->chunk + 1].sum, p->first + p->chunk + 1);
    pf_work_point_known(w, v->known + p->chunk * pf_known_floats(v->op));
    float top = pf_causal_keys_again(w, p->from + p->chunk * v->op->block, swept);
    float beta = pf_decay(w->M, top);
    link *in = first ? free_link(v, number) : link_of(v, number);
    link *out = last ? NULL : free_link(v, number + 1);
    float *t = in->s, *y = t + v->op->r * v->op->dv;
    if (first) {
        point_t(w, t);
        pf_work_load_cotangent(w);
    }
    if (p->c == 1) first_state(v, w, p);
    point_s(w, v->spans[p->chunk].s);
    wait_for(&v->spans[p->chunk].sum, p->first + pf_max(p->chunk, 1));
    point_t(w, out ? out->s : v->last_t + task * (v->state + 1));
    pf_causal_back_queries(w);
    if (!first) wait_for(&in->sum, number + 1);
    pf_work_join_cotangent(w, beta, t, y);
    if (out) tell(&out->sum, number + 2);
    if (last) pf_work_store_cotangent(w, 1);
    pf_causal_back_keys(w, t, y);
    end_unit(v, number);
    atomic_fetch_add(&v->over, 1);
}

static void causal_back_unit(wave *v, pf_work *w, int64_t u, int64_t n) {
    back_place p = place_of(v, w, u, n);
    wait_for(&v->over, p.number); /* until nobody reads the states of the span before */
    if (p.sweeps) {
        sweep_unit(v, w, u, &p);
    } else {
        chunk_unit(v, w, &p);
    }
}

/* ---- running ---- */

/* One thread: takes units until there are none. Its scratch is the running task's; units of a task
 * ascend, so it is opened once a task at most. */
static void worker(void *context, int64_t number, void *scratch) {
    wave *v = context;
    pf_work w;
    int64_t task = -1, u;
    (void)number;
    for (;;) {
        /* Looked at before a unit is taken: what is taken is finished. */
        int status = pf_stopped(v->op->engine);
        if (status < 0) {
            atomic_store(&v->stopped, status);
            return;
        }
        u = atomic_fetch_add(&v->next, 1);
        if (u >= v->units) return;
        bool other = task < 0 || u >= v->begin[task + 1];
        while (task < 0 || u >= v->begin[task + 1]) task++;
        if (other) pf_work_open(&w, v->op, task, scratch, v->phase->backward);
        v->phase->unit(v, &w, u, u - v->begin[task]);
    }
}

/* Begins all counts anew: links are told by numbers of this phase's units. */
static int run_phase(wave *v, const phase *p) {
    pf_operator *op = v->op;
    v->phase = p;
    v->units = 0;
    for (int64_t task = 0; task < v->tasks; task++) {
        pf_work w = {.op = op, .seg = &op->reach.list[task / op->Hk]};
        v->begin[task] = v->units;
        v->units += p->count(&w);
        v->chunks[task + 1] = v->chunks[task] + pf_causal_chunks(&w);
    }
    v->begin[v->tasks] = v->units;
    for (int64_t i = 0; i < v->ring; i++) {
        atomic_store(&v->links[i].maximum, 0);
        atomic_store(&v->links[i].sum, 0);
        atomic_store(&v->links[i].done, 0);
    }
    atomic_store(&v->next, 0);
    PF_TRY(pf_parallel(op->engine, op->engine->threads, pf_work_bytes(op, p->backward), worker, v));
    return pf_stopped_fail(op->engine, atomic_load(&v->stopped));
}

static int run_forward(wave *v) {
    static const phase causal = {causal_unit, count_chunks, false};
    static const phase keys = {full_keys_unit, count_chunks, false};
    static const phase queries = {full_query_unit, count_queries, false};
    if (v->op->causal) return run_phase(v, &causal);
    PF_TRY(run_phase(v, &keys));
    size_t bytes = (size_t)(v->tasks * (v->state + 1)) * sizeof(float);
    if (v->op->saved) memcpy(v->op->saved, v->last, bytes);
    return run_phase(v, &queries);
}

static int run_backward(wave *v) {
    static const phase causal = {causal_back_unit, count_back, true};
    static const phase keys = {full_keys_unit, count_chunks, true};
    static const phase queries = {full_back_query_unit, count_queries, true};
    static const phase back_keys = {full_back_key_unit, count_chunks, true};
    if (v->op->causal) return run_phase(v, &causal);
    if (v->op->saved) {
        memcpy(v->last, v->op->saved, (size_t)(v->tasks * (v->state + 1)) * sizeof(float));
    } else {
        PF_TRY(run_phase(v, &keys));
    }
    PF_TRY(run_phase(v, &queries));
    return run_phase(v, &back_keys);
}

/* Links of the ring and of a span, each with its place for a sum. */
static link *make_links(link *list, int64_t n, float *sums, int64_t state) {
    for (int64_t i = 0; i < n; i++) list[i] = (link){.s = sums + i * state};
    return list;
}

/* Cuts the memory of the wave; with memory NULL it only measures. */
static void carve_wave(wave *v, void *memory, bool backward, void **end) {
    int64_t span = backward && v->op->causal ? pf_span_chunks(v->op) : 0;
    size_t one = sizeof(float);
    *end = memory;
    v->begin = pf_carve(end, (size_t)(v->tasks + 1) * sizeof(int64_t));
    v->chunks = pf_carve(end, (size_t)(v->tasks + 1) * sizeof(int64_t));
    v->links = pf_carve(end, (size_t)v->ring * sizeof(link));
    v->spans = pf_carve(end, (size_t)span * sizeof(link));
    v->last = pf_carve(end, (size_t)(v->tasks * (v->state + 1)) * one);
    v->last_t = pf_carve(end, (size_t)(v->tasks * (v->state + 1)) * one);
    float *sums = pf_carve(end, (size_t)((v->ring + span) * v->state) * one);
    v->known = pf_carve(end, (size_t)(span * pf_known_floats(v->op)) * one);
    if (!memory) return;
    v->chunks[0] = 0;
    make_links(v->links, v->ring, sums, v->state);
    make_links(v->spans, span, sums + v->ring * v->state, v->state);
}

int pf_wave_run(pf_operator *op, bool backward) {
    void *end;
    op->wave = true;
    wave v = {.op = op,
              .tasks = pf_work_tasks(op),
              .ring =
                  2 * op->engine->threads + 2, /* each thread's own and next, and one to spare */
              .state = op->r * op->dv + op->r};
    carve_wave(&v, NULL, backward, &end);
    size_t bytes = (size_t)(uintptr_t)end;
    void *memory = pf_heap_alloc(op->engine->heap, bytes);
    if (!memory) return PF_ENOMEM;
    carve_wave(&v, memory, backward, &end);
    int status = backward ? run_backward(&v) : run_forward(&v);
    pf_heap_free(op->engine->heap, memory, bytes);
    return status;
}
