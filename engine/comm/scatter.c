/*
 * scatter.c - see scatter.h. A round moves a piece of every rank's shard; several are under way at
 * a time, so that the link is busy between two looks at it, and their bodies go with their heads.
 *
 * What must hold: all ranks count the same rounds, from the groups alone, though at other times. A
 * pass ends for all ranks alike: when it is whole, or at a vote that failed, behind which what is
 * under way is drained (drain.c), and rounds have other numbers and tags. One that is given up
 * without a vote leaves messages that others may take for those of the next: then there is none.
 */
#include "scatter.h"

#include <string.h>

_Static_assert((int)PF_LANE_NODES <= (int)PF_SIDE_PAIR, "messages of a pair");
_Static_assert((int)PF_DEAL_PIECE <= (int)PF_SIDE_PIECE, "numbers of a message");
enum { PARTS_AT_ONCE = 32 }; /* nodes, of all ranks and rounds that are under way, at most */

typedef struct {
    bool under_way;
    pf_round round;
    const char *in;
    pf_deal_piece own; /* of this rank */
    float *room;       /* for the others' nodes of it, and then own ones that are packed */
} flight;

struct pf_scatter {
    pf_engine *engine; /* retained */
    bool held;         /* the transport still has some of it, until the process ends */
    pf_summands parts;
    pf_deal *deal;
    const float *const *own;
    float *const *sum;
    bool begun;
    const char **in; /* groups: the first n_gone have gone, of the next one some rounds (going) */
    int groups, n_in, n_gone;
    bool going;
    flight flight[PF_SIDE_ROUNDS];
    int window, n_flying;
    pf_message *list; /* of a round */
    float *room;
    pf_leg *leg;
    size_t room_bytes, leg_bytes, list_bytes;
};

/* The talk of all ranks, also while rows are shared, when the engine's is that of a group. */
static pf_comm *talk_of(const pf_scatter *s) { return s->engine->own[PF_OWN_RANKS].thing; }

/* ---- making ---- */

static int legs_of(const pf_scatter *s) {
    return s->parts.n - s->parts.n_own + (s->parts.ranks - 1) * s->parts.n_own;
}

static size_t in_bytes(const pf_scatter *s) { return (size_t)s->groups * sizeof *s->in; }

static int take_memory(pf_scatter *s) {
    pf_heap *heap = s->engine->heap;
    const int legs = legs_of(s);
    const int64_t numbers = legs * pf_deal_most(s->deal);
    s->window = (int)pf_max(1, pf_min(PF_SIDE_ROUNDS, PARTS_AT_ONCE / s->parts.n));
    s->room_bytes = (size_t)s->window * (size_t)numbers * sizeof *s->room;
    s->leg_bytes = (size_t)s->window * (size_t)legs * sizeof *s->leg;
    s->list_bytes = (size_t)legs * sizeof *s->list;
    s->room = pf_heap_alloc(heap, s->room_bytes);
    s->leg = pf_heap_alloc(heap, s->leg_bytes);
    s->list = pf_heap_alloc(heap, s->list_bytes);
    s->in = pf_heap_alloc(heap, in_bytes(s));
    if (!s->room || !s->leg || !s->list || !s->in) return PF_ENOMEM;
    for (int i = 0; i < s->window; i++) {
        s->flight[i].room = s->room + i * numbers;
        s->flight[i].round.leg = s->leg + (ptrdiff_t)i * legs;
    }
    return PF_OK;
}

int pf_scatter_open(pf_scatter **scatter, pf_engine *engine, const pf_leaves *leaves, pf_deal *deal,
                    int groups) {
    pf_scatter *s = *scatter = pf_heap_zalloc(engine->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->engine = pf_engine_retain(engine);
    s->deal = deal, s->groups = groups;
    int status = pf_summands_open(&s->parts, engine, leaves);
    if (status >= 0) status = take_memory(s);
    if (status < 0) pf_scatter_close(scatter);
    return status;
}

bool pf_scatter_holds(const pf_scatter *s) { return s && s->held; }

/* A talk that has ended for good may list rounds on. */
static void strike_out(const pf_scatter *s) {
    pf_comm *comm = talk_of(s);
    for (int i = 0; comm && i < PF_SIDE_ROUNDS; i++)
        if (comm->beside.round[i] == &s->flight[i].round) comm->beside.round[i] = NULL;
}

void pf_scatter_close(pf_scatter **scatter) {
    pf_scatter *s = *scatter;
    *scatter = NULL;
    if (!s) return;
    pf_heap *heap = s->engine->heap;
    if (s->begun) {
        int status = pf_fail(PF_ESTATE, "sum over ranks: it was closed before its end");
        pf_scatter_drop(s, status);
    }
    strike_out(s);
    if (!pf_scatter_holds(s)) {
        pf_heap_free(heap, s->room, s->room_bytes);
        pf_heap_free(heap, s->leg, s->leg_bytes);
    }
    pf_heap_free(heap, s->list, s->list_bytes);
    pf_heap_free(heap, s->in, in_bytes(s));
    pf_summands_close(&s->parts);
    pf_engine *engine = s->engine;
    pf_heap_free(heap, s, sizeof *s);
    pf_engine_release(&engine);
}

/* ---- a round ---- */

/* The own nodes of another's piece, one a message; room: where they are packed. */
static int send_piece(const pf_scatter *s, int to, float **room, pf_message *out) {
    const pf_deal_piece *p = &s->deal->piece[to];
    int n = 0;
    if (p->n == 0) return 0;
    for (int i = 0; i < s->parts.n_own; i++) {
        const float *const *node = s->own + (size_t)i * (size_t)s->deal->arrays;
        const float *from = *room;
        if (pf_deal_lies_whole(p)) {
            from = node[p->first.array] + p->first.first;
        } else {
            pf_deal_pack(s->deal, to, node, *room);
            *room += p->n;
        }
        out[n++] = (pf_message){to, (void *)(uintptr_t)from, (size_t)p->n * sizeof(float)};
    }
    return n;
}

static void count_legs(const pf_beside *beside, const pf_round *round) {
    for (int i = 0; i < round->n; i++) {
        pf_leg *leg = &round->leg[i];
        pf_beside_count *count = &beside->count[leg->message.rank];
        leg->place = ++(leg->out ? count->sent : count->awaited)[leg->tag % PF_SIDE_TAGS];
    }
}

/* Others' nodes of the own piece come into the room, one behind the other. */
static void take_off(pf_scatter *s, flight *f) {
    pf_comm *comm = s->engine->comm;
    const pf_summands *parts = &s->parts;
    const uint32_t slot = (uint32_t)(f - s->flight);
    float *room = f->room;
    f->in = s->deal->in, f->own = s->deal->piece[parts->rank];
    pf_message *in = s->list;
    int n_in = 0, n_out = 0;
    for (int i = 0; i < parts->n && f->own.n > 0; i++) {
        if (parts->part[i].rank == parts->rank) continue;
        in[n_in++] = (pf_message){parts->part[i].rank, room, (size_t)f->own.n * sizeof(float)};
        room += f->own.n;
    }
    pf_message *out = in + n_in;
    for (int far = 1; far < parts->ranks; far++)
        n_out += send_piece(s, pf_comm_next(comm, far), &room, out + n_out);
    pf_beside *beside = &comm->beside;
    f->round.verb = PF_VERB_SUM;
    f->round.at_once = true;
    f->round.number = beside->since * 0x9e3779b1u + ++beside->rounds;
    f->round.tags = PF_SIDE_FIRST + (int)(beside->since % PF_SIDE_TALKS * PF_SIDE_TAGS) +
                    (int)slot * PF_SIDE_PAIR;
    pf_round_begin(comm, &f->round, out, n_out, in, n_in);
    count_legs(beside, &f->round);
    beside->round[slot] = &f->round;
    f->under_way = true;
    s->n_flying++;
}

/* The next round's place, if there is a round, and room for it. */
static flight *next_round(pf_scatter *s) {
    flight *f = &s->flight[s->engine->comm->beside.rounds % (uint32_t)s->window];
    if (f->under_way) return NULL;
    for (; s->n_gone < s->n_in; s->n_gone++, s->going = false) {
        if (!s->going) pf_deal_begin(s->deal, s->in[s->n_gone]);
        s->going = true;
        if (pf_deal_round(s->deal)) return f;
    }
    return NULL;
}

/* The own piece is here from all: it is added, stretch by stretch. */
static int land(pf_scatter *s, flight *f) {
    pf_summands *parts = &s->parts;
    pf_deal_place place = f->own.place;
    const char *in = s->deal->in;
    int status = PF_OK;
    s->deal->in = f->in;
    for (int64_t done = 0; done < f->own.n && status >= 0;) {
        pf_stretch t = pf_deal_next(s->deal, parts->rank, &place, f->own.n - done);
        int mine = 0, theirs = 0;
        for (int i = 0; i < parts->n; i++)
            parts->part[i].x = parts->part[i].rank == parts->rank
                                   ? s->own[mine++ * s->deal->arrays + t.array] + t.first
                                   : f->room + theirs++ * f->own.n + done;
        status = pf_summands_add(parts, t.n, s->sum[t.array] + t.first);
        done += t.n;
    }
    s->deal->in = in;
    f->under_way = false;
    s->engine->comm->beside.round[f - s->flight] = NULL;
    s->n_flying--;
    return status;
}

/* ---- a pass ---- */

static int turn(void *context, const pf_round **left) {
    pf_scatter *s = context;
    int moved = 0;
    for (flight *f; (f = next_round(s)) != NULL; moved = 1) take_off(s, f);
    for (int i = 0; i < s->window; i++) {
        flight *f = &s->flight[i];
        bool whole = false;
        if (!f->under_way) continue;
        int status = pf_round_move(s->engine->comm, &f->round, &whole);
        PF_TRY(status);
        moved |= status;
        if (whole)
            PF_TRY(land(s, f));
        else
            *left = &f->round;
    }
    if (!*left && s->n_gone < s->n_in) *left = &s->flight[0].round; /* there is room for it now */
    return moved;
}

bool pf_scatter_goes_on(const pf_scatter *s) {
    const pf_comm *comm = talk_of(s);
    return s->begun && comm && comm->broken >= 0 && comm->beside.context == s;
}

int pf_scatter_begin(pf_scatter *s, const float *const *own, float *const *sum) {
    pf_comm *comm = s->engine->comm;
    pf_beside *beside = &comm->beside;
    if (beside->turn)
        return pf_fail(PF_ESTATE, "sum over ranks: another one is under way; a step ends before "
                                  "the next begins");
    pf_beside_count_since(comm, comm->failures);
    if (beside->spoiled)
        return pf_fail(PF_ESTATE, "sum over ranks: the last one was given up on this rank, and "
                                  "the others don't know it");
    s->own = own, s->sum = sum;
    s->n_in = s->n_gone = 0;
    s->going = false;
    s->begun = true;
    beside->turn = turn, beside->context = s;
    return PF_OK;
}

static void leave(pf_scatter *s) {
    pf_comm *comm = talk_of(s);
    if (comm && comm->beside.context == s) comm->beside.turn = NULL, comm->beside.context = NULL;
    for (int i = 0; i < PF_SIDE_ROUNDS; i++) s->flight[i].under_way = false;
    s->n_flying = 0;
    s->begun = false;
}

int pf_scatter_give(pf_scatter *s, const char *in) {
    if (s->n_in == s->groups) return pf_fail(PF_ESTATE, "sum over ranks: more groups than said");
    s->in[s->n_in++] = in;
    return pf_scatter_poll(s);
}

int pf_scatter_poll(pf_scatter *s) {
    const pf_round *left = NULL;
    if (!pf_scatter_goes_on(s)) return pf_fail(PF_ESTATE, "sum over ranks: a vote has ended it");
    int status = turn(s, &left);
    return status < 0 ? pf_round_fail(s->engine, status) : PF_OK;
}

int pf_scatter_end(pf_scatter *s) {
    if (!pf_scatter_goes_on(s)) return pf_fail(PF_ESTATE, "sum over ranks: a vote has ended it");
    int status = pf_round_wait(s->engine, turn, s);
    leave(s);
    if (status < 0) (void)pf_round_fail(s->engine, status);
    s->held = s->engine->comm->held > 0;
    return status < 0 ? status : PF_OK;
}

bool pf_scatter_waits(const pf_scatter *s) {
    return pf_scatter_goes_on(s) && (s->n_flying > 0 || s->n_gone > 0 || s->going);
}

void pf_scatter_drop(pf_scatter *s, int status) {
    pf_comm *comm = talk_of(s);
    if (!s->begun) return;
    s->held |= comm && comm->held > 0;
    for (int i = 0; i < PF_SIDE_ROUNDS; i++) s->held |= s->flight[i].round.held;
    if (pf_scatter_waits(s)) {
        comm->beside.spoiled = true;
        memset(comm->beside.round, 0, sizeof comm->beside.round);
        int held = s->n_flying > 0 ? comm->transport->cancel(comm->transport->self) : 0;
        if (held > 0) (void)pf_round_fail(s->engine, status);
        s->held |= held > 0;
    }
    leave(s);
}

/* No round begins any more; those that have are moved on by the drain. */
void pf_scatter_leave(pf_scatter *s, void (*let_go)(void *left), void *left) {
    pf_beside *beside = &talk_of(s)->beside;
    beside->spoiled = true;
    beside->turn = NULL, beside->context = NULL;
    beside->left = left, beside->let_go = let_go;
    s->begun = false;
}
