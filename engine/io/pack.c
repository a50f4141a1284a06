/*
 * pack.c - lays the documents of a split into rows. Sequences: whole documents by best
 * fit, longest first, which wastes little and cuts only what is longer than a row; the
 * pieces of a cut document stand in rows of their own context. Text: row after row, each of
 * as many documents as it meets. What
 * must hold: every token that has a token before it in its document is the target of
 * exactly one position (training rows of a text leave out a part that moves each pass).
 */
#include "data.h"

#include <string.h>

void pf_plan_clear(pf_heap *heap, pf_plan *plan) {
    if (plan->pieces)
        pf_heap_free(heap, plan->pieces, (size_t)plan->pieces_capacity * sizeof *plan->pieces);
    if (plan->rows)
        pf_heap_free(heap, plan->rows, (size_t)plan->rows_capacity * sizeof *plan->rows);
    plan->pieces = NULL;
    plan->rows = NULL;
    plan->n_pieces = plan->pieces_capacity = plan->n_rows = plan->rows_capacity = plan->slack = 0;
}

static int add_piece(pf_heap *heap, pf_plan *plan, int64_t document, int64_t start, int64_t count) {
    PF_TRY(pf_heap_grow(heap, (void **)&plan->pieces, &plan->pieces_capacity, plan->n_pieces + 1,
                        sizeof *plan->pieces));
    plan->pieces[plan->n_pieces++] = (pf_piece){document, start, count};
    return PF_OK;
}

/* ---- text ---- */

/* Training rows are whole and a pass shifts them all by up to `slack`; the last row of
 * the other splits may be short. The very last byte is a target only. */
static void pack_text(const pf_data *data, pf_plan *plan, pf_split split) {
    int64_t length = data->length, n = plan->targets;
    plan->n_rows = pf_ceil_div(n, length);
    if (split != PF_TRAIN || n < length) return;
    /* One row less than fits leaves room to shift by at least a row. */
    plan->n_rows = pf_max(1, n / length - 1);
    plan->slack = n - plan->n_rows * length;
}

/* The document whose targets hold number `at` of the split: the last one that starts there or
 * before. */
static int64_t find_document(const pf_plan *plan, int64_t at) {
    int64_t low = 0, high = plan->n_documents;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (plan->starts[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

bool pf_plan_piece(const pf_data *data, const pf_plan *plan, int64_t row, int64_t shift, int64_t i,
                   int64_t at, pf_piece *piece) {
    if (data->fasta) {
        if (i >= plan->rows[row + 1] - plan->rows[row]) return false;
        *piece = plan->pieces[plan->rows[row] + i];
        return true;
    }
    int64_t first = row * data->length + shift + at;
    int64_t end = pf_min((row + 1) * data->length + shift, plan->targets);
    if (first >= end) return false;
    int64_t d = find_document(plan, first);
    *piece = (pf_piece){plan->documents[d], first - plan->starts[d],
                        pf_min(end, plan->starts[d + 1]) - first};
    return true;
}

/* ---- sequences ---- */

/* Open rows by the room they have left: a stack for each room, and which rooms have one
 * (a bit each, and a bit for each word of bits, so that the search skips empty stretches). */
typedef struct {
    int64_t length, rows;
    int64_t *top;     /* (length + 1): newest row with that room, or -1 */
    int64_t *below;   /* (pieces): the row under a row in its stack */
    uint64_t *bits;   /* (length + 1 bits) */
    uint64_t *groups; /* a bit a word of bits */
    int64_t *row_of;  /* (pieces): the row of each piece */
    int64_t *sorted;  /* (pieces): longest first */
} packer;

static void push_row(packer *p, int64_t room, int64_t row) {
    p->below[row] = p->top[room];
    p->top[room] = row;
    p->bits[room / 64] |= (uint64_t)1 << (room % 64);
    p->groups[room / 4096] |= (uint64_t)1 << (room / 64 % 64);
}

static int64_t pop_row(packer *p, int64_t room) {
    int64_t row = p->top[room];
    p->top[room] = p->below[row];
    if (p->top[room] < 0) p->bits[room / 64] &= ~((uint64_t)1 << (room % 64));
    if (p->bits[room / 64] == 0) p->groups[room / 4096] &= ~((uint64_t)1 << (room / 64 % 64));
    return row;
}

/* First set bit at or after `at` among n bits, or -1. */
static int64_t find_bit(const uint64_t *bits, int64_t at, int64_t n) {
    if (at >= n) return -1;
    int64_t word = at / 64, words = pf_ceil_div(n, 64);
    uint64_t here = bits[word] & (~(uint64_t)0 << (at % 64));
    while (here == 0 && ++word < words) here = bits[word];
    return here == 0 ? -1 : word * 64 + __builtin_ctzll(here);
}

/* The smallest room that holds `count` positions, or -1. */
static int64_t find_room(const packer *p, int64_t count) {
    int64_t words = p->length / 64 + 1, word = count / 64;
    uint64_t here = p->bits[word] & (~(uint64_t)0 << (count % 64));
    if (here == 0) {
        word = find_bit(p->groups, word + 1, words);
        if (word < 0) return -1;
        here = p->bits[word];
    }
    return word * 64 + __builtin_ctzll(here);
}

static void place(packer *p, const pf_piece *piece, int64_t index) {
    int64_t room = find_room(p, piece->count);
    int64_t row = room < 0 ? p->rows++ : pop_row(p, room);
    room = (room < 0 ? p->length : room) - piece->count;
    p->row_of[index] = row;
    if (room > 1) push_row(p, room, row);
}

/* Pieces by length, longest first, equal ones in their order (counting sort in `top`). */
static void sort_pieces(packer *p, const pf_plan *plan) {
    memset(p->top, 0, (size_t)(p->length + 1) * sizeof *p->top);
    for (int64_t i = 0; i < plan->n_pieces; i++) p->top[plan->pieces[i].count]++;
    int64_t at = 0;
    for (int64_t count = p->length; count >= 0; count--) {
        int64_t n = p->top[count];
        p->top[count] = at;
        at += n;
    }
    for (int64_t i = 0; i < plan->n_pieces; i++) p->sorted[p->top[plan->pieces[i].count]++] = i;
}

/* Brings the pieces together by row. Rows are numbered by their first piece, so that
 * they stand in the order of the documents. `below` and `sorted` are free by now. */
static int gather_rows(pf_heap *heap, packer *p, pf_plan *plan) {
    int64_t n = plan->n_pieces, *number = p->below, *place_of = p->sorted, rows = 0;
    PF_TRY(pf_heap_grow(heap, (void **)&plan->rows, &plan->rows_capacity, p->rows + 1,
                        sizeof *plan->rows));
    for (int64_t row = 0; row < p->rows; row++) number[row] = -1;
    memset(plan->rows, 0, (size_t)(p->rows + 1) * sizeof *plan->rows);
    for (int64_t i = 0; i < n; i++) {
        int64_t *at = &number[p->row_of[i]];
        if (*at < 0) *at = rows++;
        place_of[i] = plan->rows[*at + 1]++; /* its place within the row; the starts follow below */
    }
    for (int64_t row = 0; row < rows; row++) plan->rows[row + 1] += plan->rows[row];
    plan->n_rows = rows;
    pf_piece *pieces = pf_heap_alloc(heap, (size_t)n * sizeof *pieces);
    if (!pieces) return PF_ENOMEM;
    for (int64_t i = 0; i < n; i++)
        pieces[plan->rows[number[p->row_of[i]]] + place_of[i]] = plan->pieces[i];
    pf_heap_free(heap, plan->pieces, (size_t)plan->pieces_capacity * sizeof *pieces);
    plan->pieces = pieces;
    plan->pieces_capacity = n;
    return PF_OK;
}

/* Carves the packer's arrays out of one block, packs, and gives it back. */
static int pack_pieces(pf_data *data, pf_plan *plan) {
    int64_t n = plan->n_pieces, rooms = data->length + 1;
    int64_t words = rooms / 64 + 1, groups = words / 64 + 1;
    size_t bytes;
    if (n == 0) return PF_OK;
    if (!pf_mul_size((size_t)(3 * n + rooms + words + groups), sizeof(int64_t), &bytes))
        return pf_fail(PF_ENOMEM, "data: %lld pieces are too many", (long long)n);
    int64_t *block = pf_heap_zalloc(data->heap, bytes);
    if (!block) return PF_ENOMEM;
    packer p = {.length = data->length, .below = block, .row_of = block + n};
    p.sorted = p.row_of + n;
    p.top = p.sorted + n;
    p.bits = (uint64_t *)(p.top + rooms);
    p.groups = p.bits + words;
    sort_pieces(&p, plan);
    for (int64_t room = 0; room < rooms; room++) p.top[room] = -1;
    for (int64_t i = 0; i < n; i++) place(&p, &plan->pieces[p.sorted[i]], p.sorted[i]);
    int status = gather_rows(data->heap, &p, plan);
    pf_heap_free(data->heap, block, bytes);
    return status;
}

/* Cuts a document in pieces of at most a row. A piece of the end token alone would
 * predict nothing and is left out. */
static int cut_document(pf_data *data, pf_plan *plan, int64_t document) {
    int64_t n = pf_document_size(data, &data->documents[document]);
    for (int64_t start = 0; start < n - 1; start += data->length)
        PF_TRY(add_piece(data->heap, plan, document, start, pf_min(data->length, n - start)));
    return PF_OK;
}

/* Training takes the documents in an order keyed by the seed (it decides which of equal
 * length share a row); the others in file order. */
static int pack_sequences(pf_data *data, pf_split split) {
    pf_plan *plan = &data->plans[split];
    int64_t n = plan->n_documents;
    size_t bytes = (size_t)n * sizeof(int64_t);
    int64_t *order = pf_heap_alloc(data->heap, bytes);
    if (!order) return PF_ENOMEM;
    if (n > 0) memcpy(order, plan->documents, bytes);
    pf_rng rng = pf_rng_make(data->seed, PF_DRAW_DATA, UINT64_MAX, (uint64_t)data->block);
    for (int64_t i = n - 1; split == PF_TRAIN && i > 0; i--) {
        int64_t j = (int64_t)pf_rng_below(&rng, (uint64_t)i, (uint64_t)i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    int status = PF_OK;
    for (int64_t i = 0; i < n && status >= 0; i++) status = cut_document(data, plan, order[i]);
    pf_heap_free(data->heap, order, bytes);
    PF_TRY(status);
    return pack_pieces(data, plan);
}

int pf_plan_pack(pf_data *data, pf_split split) {
    if (data->fasta) return pack_sequences(data, split);
    pack_text(data, &data->plans[split], split);
    return PF_OK;
}
