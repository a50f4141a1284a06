/*
 * items_levels.c - sums over items, kept by size so that items can be taken out again
 * (items.h). Joining and leaving either happen as a whole or not at all.
 */
#include <math.h>
#include <string.h>

#include "items.h"

static size_t sum_bytes(const pf_levels *v) {
    return (size_t)(v->r * (1 + v->dv)) * sizeof(double);
}

void pf_levels_open(pf_levels *v, pf_heap *heap, int64_t r, int64_t dv) {
    *v = (pf_levels){.heap = heap, .r = r, .dv = dv, .lowest = INT64_MIN};
}

/* The level goes with its sums, and with the rounding that removals left in them. */
static void drop(pf_levels *v, int64_t place) {
    pf_heap_free(v->heap, v->list[place].sum, sum_bytes(v));
    memmove(&v->list[place], &v->list[place + 1], (size_t)(v->n - place - 1) * sizeof v->list[0]);
    v->n--;
}

void pf_levels_close(pf_levels *v) {
    while (v->n > 0) drop(v, v->n - 1);
    v->nothing = 0;
    v->lowest = INT64_MIN;
}

int64_t pf_levels_count(const pf_levels *v) {
    int64_t count = v->nothing;
    for (int64_t i = 0; i < v->n; i++) count += v->list[i].count;
    return count;
}

int64_t pf_levels_bytes(const pf_levels *v) { return v->n * (int64_t)sum_bytes(v); }

/* WIDTH (n - 1) < l <= WIDTH n, so a level's terms are at most 1 in its units. */
int64_t pf_level_number(double l) { return (int64_t)ceil(l / PF_ITEMS_WIDTH); }

/* The first place whose level is not below `number`. */
static int64_t place_of(const pf_levels *v, int64_t number) {
    int64_t place = 0;
    while (place < v->n && v->list[place].number < number) place++;
    return place;
}

int64_t pf_levels_find(const pf_levels *v, int64_t number) {
    if (number < v->lowest) number = v->lowest;
    int64_t place = place_of(v, number);
    return place < v->n && v->list[place].number == number ? place : -1;
}

/* Takes the level in at its place; the list has room. */
static void insert(pf_levels *v, pf_level level) {
    int64_t place = place_of(v, level.number);
    memmove(&v->list[place + 1], &v->list[place], (size_t)(v->n - place) * sizeof level);
    v->list[place] = level;
    v->n++;
}

/* to (r (1 + dv)) += factor * from */
static void add_sums(const pf_levels *v, double factor, const double *from, double *to) {
    int64_t n = v->r * (1 + v->dv);
    for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
}

/* What a number in units of level `from` is in those of level `to`. */
static double between(int64_t from, int64_t to) {
    return exp((double)PF_ITEMS_WIDTH * (double)(from - to));
}

/* The lowest level goes up into the next one, which is shared from now on. */
static void fold_lowest(pf_levels *v) {
    pf_level *low = &v->list[0], *next = &v->list[1];
    add_sums(v, between(low->number, next->number), low->sum, next->sum);
    next->count += low->count;
    v->lowest = next->number;
    drop(v, 0);
}

/* Takes in one level, whose sums become the list's or are used up. */
static void take(pf_levels *v, pf_level level) {
    int64_t place = pf_levels_find(v, level.number);
    if (place >= 0) {
        pf_level *to = &v->list[place];
        add_sums(v, between(level.number, to->number), level.sum, to->sum);
        to->count += level.count;
        pf_heap_free(v->heap, level.sum, sum_bytes(v));
        return;
    }
    if (v->n == PF_ITEMS_LEVELS) {
        fold_lowest(v);
        take(v, level); /* there is room now, or the shared level takes it */
        return;
    }
    insert(v, level);
}

/* An empty level `number`. */
static int new_level(pf_levels *v, int64_t number, pf_level *level) {
    *level = (pf_level){.number = number};
    level->sum = pf_heap_zalloc(v->heap, sum_bytes(v));
    return level->sum ? PF_OK : PF_ENOMEM;
}

int pf_levels_make(pf_levels *v, const float *l, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (l[i] == -INFINITY) {
            v->nothing++;
            continue;
        }
        int64_t number = pf_level_number((double)l[i]), place = pf_levels_find(v, number);
        if (place < 0) {
            pf_level level;
            PF_TRY(new_level(v, number, &level));
            take(v, level);
            place = pf_levels_find(v, number);
        }
        v->list[place].count++;
    }
    return PF_OK;
}

/* Takes nothing from the heap, so it can't fail: all that can was done while `change` was built. */
void pf_levels_join(pf_levels *v, pf_levels *change) {
    for (int64_t i = 0; i < change->n; i++) take(v, change->list[i]);
    v->nothing += change->nothing;
    change->n = 0;
    if (change->lowest <= v->lowest) return;
    /* What change shares can't be told apart here either. */
    while (v->list[0].number < change->lowest) fold_lowest(v);
    v->lowest = v->list[0].number;
}

/* Counts are held against each other before any sum is touched. They can't tell whether it is the
 * same items: whoever takes out others than were added gets wrong sums. */
int pf_levels_leave(pf_levels *v, const pf_levels *change) {
    int64_t left[PF_ITEMS_LEVELS];
    for (int64_t i = 0; i < v->n; i++) left[i] = v->list[i].count;
    bool fits = v->nothing >= change->nothing;
    for (int64_t i = 0; fits && i < change->n; i++) {
        int64_t place = pf_levels_find(v, change->list[i].number);
        fits = place >= 0 && (left[place] -= change->list[i].count) >= 0;
    }
    if (!fits) {
        return pf_fail(PF_EINVAL, "items: remove: not all of these are in the set; take out what "
                                  "was added, with the same keys and values");
    }
    for (int64_t i = 0; i < change->n; i++) {
        const pf_level *from = &change->list[i];
        pf_level *to = &v->list[pf_levels_find(v, from->number)];
        add_sums(v, -between(from->number, to->number), from->sum, to->sum);
        to->count -= from->count;
    }
    v->nothing -= change->nothing;
    for (int64_t i = v->n - 1; i >= 0; i--) {
        if (v->list[i].count > 0) continue;
        if (v->list[i].number == v->lowest) v->lowest = INT64_MIN;
        drop(v, i);
    }
    return PF_OK;
}
