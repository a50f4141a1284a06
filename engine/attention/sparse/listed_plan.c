/*
 * listed_plan.c - see listed.h: the patterns of a call, one for all segments of a length where
 * nothing else tells them apart, and what a task is.
 */
#include <string.h>

#include "listed.h"
#include "pattern_maker.h"

/* Runs of keys whose tiles make one task of the backward: as many as keep those small that queries
 * see only in part, and no more than leave CHUNKS tasks a call. */
enum { CHUNK = 32, CHUNKS = 8 };

/* ---- tasks of a part ---- */

/* A run's list in spans: side (first (runs + 1)) gets tasks and slots. */
static int cut_spans(pf_listed_side *side, pf_maker *m, const int64_t *first, int64_t runs) {
    int64_t *task = pf_maker_take(m, (size_t)(runs + 1) * sizeof *task);
    int64_t *slot = pf_maker_take(m, (size_t)(runs + 1) * sizeof *slot);
    if (!task || !slot) return PF_ENOMEM;
    task[0] = slot[0] = 0;
    for (int64_t r = 0; r < runs; r++) {
        int64_t spans = pf_max(1, pf_ceil_div(first[r + 1] - first[r], PF_LISTED_SPAN));
        task[r + 1] = task[r] + spans;
        slot[r + 1] = slot[r] + (spans > 1 ? spans : 0);
    }
    *side = (pf_listed_side){task[runs], slot[runs], task, slot};
    return PF_OK;
}

static int64_t longest(const int64_t *first, int64_t runs) {
    int64_t most = 0;
    for (int64_t r = 0; r < runs; r++) most = pf_max(most, first[r + 1] - first[r]);
    return most;
}

/* Plain windows are never cut, however wide: their sums are then those of exact attention. Global
 * rows, columns and listed tiles are. `pairs`: segments and heads of keys. */
static int plan_part(pf_listed_part *part, pf_maker *m, int64_t Lk, int64_t pairs) {
    const pf_pattern_part *p = &part->p;
    int64_t rows = longest(p->first, p->q.runs), columns = longest(p->back, p->k.runs);
    int64_t share = pf_ceil_div(p->k.runs * pf_max(pairs, 1), CHUNKS);
    part->chunk = pf_max(1, pf_min(share, pf_max(CHUNK, 8 * rows)));
    part->by_query = (pf_listed_side){.tasks = p->q.runs};
    if (rows > PF_LISTED_SPAN && (p->q.position || !p->lo)) {
        PF_TRY(cut_spans(&part->by_query, m, p->first, p->q.runs));
    }
    if (columns > PF_LISTED_SPAN && (p->k.position || p->k.n < Lk || !p->lo)) {
        part->chunk = 1;
        return cut_spans(&part->by_key, m, p->back, p->k.runs);
    }
    part->by_key = (pf_listed_side){.tasks = pf_ceil_div(p->k.runs, part->chunk)};
    return PF_OK;
}

/* ---- patterns ---- */

static void ask_for(pf_ask *ask, const pf_listed *op, int64_t segment, int64_t head) {
    const pf_segment *seg = &op->s.reach.list[segment];
    const int32_t *limit = op->s.reach.limit;
    *ask = op->ask;
    ask->Lq = seg->q_length;
    ask->Lk = seg->length;
    ask->causal = op->s.causal;
    ask->limit = limit ? limit + seg->item * op->s.Lq + seg->q_start : NULL;
    ask->ahead = pf_tile_ahead(seg);
    if (!seg->first) ask->skipped = ask->kept = 0; /* what a stream let go of, it did in front */
    ask->head = head;
    if (!op->buckets) return;
    ask->rounds = op->buckets->shape[2];
    ask->bucket_step = op->s.Lk;
    ask->bucket =
        pf_i32(op->buckets) + (seg->item * op->s.H + head) * ask->rounds * op->s.Lk + seg->start;
}

static int make_pattern(pf_listed_pattern *to, pf_pattern_store *store, const pf_listed *op,
                        int64_t segment, int64_t head) {
    pf_pattern made;
    pf_maker maker = {.pattern = &made, .store = store};
    pf_ask ask;
    ask_for(&ask, op, segment, head);
    PF_TRY(pf_pattern_make(&made, store, op->rule, &ask));
    pf_listed_part *part = pf_maker_take(&maker, (size_t)made.n * sizeof *part);
    if (!part) return PF_ENOMEM;
    for (int i = 0; i < made.n; i++) {
        part[i].p = made.part[i];
        PF_TRY(plan_part(&part[i], &maker, ask.Lk, op->s.reach.n * op->s.Hk));
    }
    *to = (pf_listed_pattern){part, made.n, made.self_last};
    return PF_OK;
}

/* Is a segment's pattern not that of every other one of its length? Of a packed item that goes on
 * from earlier rows the first has fewer queries than keys, and what was skipped is its own. */
static bool stands_alone(const pf_listed *op, const pf_segment *seg) {
    if (op->by_head || op->s.reach.limit) return true;
    if (seg->first && seg->last) return false;
    return seg->q_length != seg->length || (seg->first && op->s.skipped > 0);
}

/* known (longest + 1): the pattern of each length so far, -1: none. */
static int make_patterns(pf_listed *op, pf_pattern_store *store, int32_t *which, int32_t *known) {
    int64_t heads = op->by_head ? op->s.H : 1, n = 0;
    for (int64_t i = 0; i < op->s.reach.n * heads; i++) {
        const pf_segment *seg = &op->s.reach.list[i / heads];
        int32_t own = -1, *same = stands_alone(op, seg) ? &own : &known[seg->length];
        if (*same < 0) {
            PF_TRY(make_pattern(&op->pattern[n], store, op, i / heads, i % heads));
            if (op->pattern[n].n > op->parts) op->parts = op->pattern[n].n;
            op->self_last = op->self_last || op->pattern[n].self_last;
            *same = (int32_t)n++;
        }
        which[i] = *same;
    }
    return PF_OK;
}

static int take_buckets(pf_listed *op, pf_call *c) {
    pf_tensor *given = c->in[PF_LISTED_BUCKETS], *rows;
    if (op->rule->buckets != (given != NULL)) {
        return pf_fail(PF_EINVAL, "%s: the pattern %s %s", c->op->name, op->rule->name,
                       given ? "takes no buckets" : "goes by bucket numbers: give buckets");
    }
    PF_TRY(pf_call_compact(c, given, &rows));
    op->buckets = rows;
    return PF_OK;
}

/* ---- passes ---- */

/* The head whose pattern tells a task's keys or queries. */
static int64_t head_of(const pf_listed_pass *pass, int64_t head) {
    return pass->by_key ? head * pass->op->s.group + pass->group : head;
}

static const pf_listed_side *side_of(const pf_listed_pass *pass, const pf_listed_part *part) {
    return pass->by_key ? &part->by_key : &part->by_query;
}

void pf_listed_begin(pf_listed_pass *pass, const pf_listed *op, int part, bool by_key,
                     int64_t group) {
    *pass = (pf_listed_pass){.op = op,
                             .part = part,
                             .by_key = by_key,
                             .heads = by_key ? op->s.Hk : op->s.H,
                             .group = group,
                             .start = op->start,
                             .slot = op->slot};
    int64_t n = op->s.reach.n * pass->heads;
    const pf_listed_side none = {0};
    pass->start[0] = pass->slot[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        const pf_listed_pattern *pattern =
            pf_listed_of(op, i / pass->heads, head_of(pass, i % pass->heads));
        const pf_listed_side *side =
            part < pattern->n ? side_of(pass, &pattern->part[part]) : &none;
        pass->start[i + 1] = pass->start[i] + side->tasks;
        pass->slot[i + 1] = pass->slot[i] + side->slots;
    }
}

/* For the partial sums of the pass that has most. */
static int make_room(pf_listed *op, pf_call *c) {
    int64_t most = 0, groups = op->by_head ? op->s.group : 1;
    pf_listed_pass pass;
    for (int64_t i = 0; i < op->parts * (groups + 1); i++) {
        int64_t group = i % (groups + 1) - 1; /* -1: by queries */
        pf_listed_begin(&pass, op, (int)(i / (groups + 1)), group >= 0, pf_max(group, 0));
        most = pf_max(most, pass.slot[op->s.reach.n * pass.heads]);
    }
    op->partial = NULL;
    if (most == 0) return PF_OK;
    op->partial = pf_call_alloc(c, (size_t)(most * pf_listed_numbers(&op->s)) * sizeof(float));
    return op->partial ? PF_OK : PF_ENOMEM;
}

/* The tiles of all parts, known only now: their work, twice in a backward. */
static int charge_tiles(const pf_listed *op, const pf_call *c) {
    double tiles = 0;
    if (!c->engine->meter) return PF_OK;
    for (int64_t i = 0; i < op->s.reach.n * op->s.H; i++) {
        const pf_listed_pattern *pattern = pf_listed_of(op, i / op->s.H, i % op->s.H);
        for (int k = 0; k < pattern->n; k++)
            tiles += (double)pattern->part[k].p.first[pattern->part[k].p.q.runs];
    }
    double products = tiles * PF_TILE * PF_TILE * (double)(op->s.d + op->s.dv);
    return pf_charge(c->engine, pf_work_of(0, c->grad_context ? 2 * products : products));
}

int pf_listed_open(pf_listed *op, pf_call *c) {
    pf_tensor *words;
    pf_pattern_store store = {.call = c};
    op->s.skipped = c->attr[PF_LISTED_SKIPPED].i;
    op->s.kept = c->attr[PF_LISTED_KEPT].i;
    op->ask = (pf_ask){.skipped = op->s.skipped, .kept = op->s.kept};
    PF_TRY(pf_call_compact(c, c->in[PF_LISTED_PATTERN], &words));
    PF_TRY(pf_pattern_read(&op->rule, op->option, &op->ask, words, c->op->name));
    PF_TRY(take_buckets(op, c));
    op->by_head = op->rule->by_head || op->rule->buckets;
    op->parts = 0;
    op->self_last = false;
    int64_t all = op->s.reach.n * op->s.H, longest = op->s.reach.longest;
    int64_t n = op->by_head ? all : op->s.reach.n;
    int32_t *which = pf_call_alloc(c, (size_t)n * sizeof *which);
    int32_t *known = pf_call_alloc(c, (size_t)(longest + 1) * sizeof *known);
    op->pattern = pf_call_alloc(c, (size_t)n * sizeof *op->pattern);
    op->start = pf_call_alloc(c, (size_t)(all + 1) * sizeof *op->start);
    op->slot = pf_call_alloc(c, (size_t)(all + 1) * sizeof *op->slot);
    if (!which || !known || !op->pattern || !op->start || !op->slot) return PF_ENOMEM;
    memset(known, 0xff, (size_t)(longest + 1) * sizeof *known);
    op->which = which;
    PF_TRY(make_patterns(op, &store, which, known));
    PF_TRY(charge_tiles(op, c));
    return make_room(op, c);
}

int pf_listed_distances(pf_listed *op, pf_call *c) {
    pf_tensor *relative = c->in[PF_LISTED_RELATIVE];
    if (!relative) return PF_OK;
    op->s.distances = relative->shape[3];
    return pf_call_heads(c, relative, &op->s.relative);
}

const pf_listed_pattern *pf_listed_of(const pf_listed *op, int64_t segment, int64_t head) {
    return &op->pattern[op->which[op->by_head ? segment * op->s.H + head : segment]];
}

int64_t pf_listed_tasks(const pf_listed_pass *pass) {
    return pass->start[pass->op->s.reach.n * pass->heads];
}

/* The last i of 0 .. n - 1 with start[i] <= at. */
static int64_t last_before(const int64_t *start, int64_t n, int64_t at) {
    int64_t low = 0, high = n;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (start[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int64_t pf_listed_spans(const pf_listed_side *side, int64_t run) {
    return side->task ? side->task[run + 1] - side->task[run] : 1;
}

float *pf_listed_partial(const pf_listed_pass *pass, int64_t pair, const pf_listed_side *side,
                         int64_t run, int64_t span) {
    int64_t slot = pass->slot[pair] + side->slot[run] + span;
    return pass->op->partial + slot * pf_listed_numbers(&pass->op->s);
}

/* Task `number` of a part's side, of the segment and head `pair`. */
static void fill_task(pf_listed_task *t, const pf_listed_pass *pass, int64_t pair, int64_t number) {
    const pf_pattern_part *p = &t->part->p;
    const pf_listed_side *side = side_of(pass, t->part);
    const int64_t *first = pass->by_key ? p->back : p->first;
    int64_t runs = pass->by_key ? p->k.runs : p->q.runs, chunk = pass->by_key ? t->part->chunk : 1;
    t->run = side->task ? last_before(side->task, runs, number) : number * chunk;
    t->runs = pf_min(chunk, runs - t->run);
    t->from = first[t->run];
    t->to = first[t->run + 1];
    if (pf_listed_spans(side, t->run) == 1) return;
    int64_t span = number - side->task[t->run];
    t->from += span * PF_LISTED_SPAN;
    t->to = pf_min(t->to, t->from + PF_LISTED_SPAN);
    t->partial = pf_listed_partial(pass, pair, side, t->run, span);
}

pf_listed_task pf_listed_task_at(const pf_listed_pass *pass, int64_t task) {
    int64_t pair = last_before(pass->start, pass->op->s.reach.n * pass->heads, task);
    pf_listed_task t = {.segment = pair / pass->heads, .head = head_of(pass, pair % pass->heads)};
    t.pattern = pf_listed_of(pass->op, t.segment, t.head);
    t.part = &t.pattern->part[pass->part];
    fill_task(&t, pass, pair, task - pass->start[pair]);
    return t;
}

bool pf_listed_whole(const pf_listed_part *part, int64_t run) {
    const pf_pattern_part *p = &part->p;
    int64_t from = p->first[run], to = p->first[run + 1];
    if (to == from || pf_listed_spans(&part->by_query, run) > 1) return false;
    return p->key[from] / part->chunk == p->key[to - 1] / part->chunk;
}
