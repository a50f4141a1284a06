/*
 * shard_unique.c - see shard_unique.h. The rules are those of sequences.c, so that shards hold what
 * the same files hold in memory: the first of equal sequences stays, and one that is held out is
 * not trained on.
 */
#include "shard_unique.h"

#include <string.h>
#include <xxhash.h>

enum { AT_A_TIME = 4096 }; /* records that are read in one go */

/* Open addressing over a share of the hashes. */
typedef struct {
    uint64_t hash[2];
    bool used, valid; /* valid: its first sequence is held out */
} slot;

typedef struct {
    pf_heap *heap;
    slot *slots;
    int64_t size, count;
    uint8_t *dropped; /* (n bits) */
    pf_shard_record *records;
    pf_reader file;
} search;

/* ---- going through the records ---- */

typedef int (*record_fn)(void *context, int64_t i, const pf_shard_record *record);

static int each_record(const pf_shard_choice *c, const search *s, record_fn f, void *context) {
    for (int64_t first = 0, n; first < c->n; first += n) {
        n = pf_min(AT_A_TIME, c->n - first);
        PF_TRY(pf_progress_at(c->engine, "looking for duplicates", first, c->n));
        PF_TRY(pf_reader_read(&s->file, first * (int64_t)sizeof *s->records, s->records,
                              (size_t)n * sizeof *s->records));
        for (int64_t i = 0; i < n; i++) PF_TRY(f(context, first + i, &s->records[i]));
    }
    return PF_OK;
}

static bool is_dropped(const search *s, int64_t i) { return s->dropped[i / 8] >> i % 8 & 1; }

/* ---- duplicates ---- */

typedef struct {
    pf_shard_choice *choice;
    search *search;
    uint64_t share, shares;
} sharing;

static slot *find_slot(const search *s, const uint64_t hash[2]) {
    int64_t at = (int64_t)(hash[0] & (uint64_t)(s->size - 1));
    while (s->slots[at].used &&
           (s->slots[at].hash[0] != hash[0] || s->slots[at].hash[1] != hash[1]))
        at = (at + 1) & (s->size - 1);
    return &s->slots[at];
}

static bool by_hash(const pf_shard_choice *c, const pf_shard_record *record) {
    return (double)record->hash[0] < c->fraction * 18446744073709551616.0;
}

static int look_up(void *context, int64_t i, const pf_shard_record *record) {
    const sharing *own = context;
    pf_shard_choice *c = own->choice;
    search *s = own->search;
    bool valid = i < c->n_valid;
    if (record->hash[1] % own->shares != own->share) return PF_OK;
    slot *at = find_slot(s, record->hash);
    if (!at->used) {
        if (++s->count >= s->size) return pf_fail(PF_ENOMEM, "shard: too many equal hashes");
        *at = (slot){{record->hash[0], record->hash[1]}, true, valid};
        return PF_OK;
    }
    bool held_out = c->apart && at->valid && !valid;
    if (held_out)
        c->shared++;
    else if (c->unique)
        c->copies[c->apart ? at->valid : by_hash(c, record)]++;
    if (held_out || c->unique) s->dropped[i / 8] |= (uint8_t)(1 << i % 8);
    return PF_OK;
}

/* The shares that it takes for a table to fit in a quarter of what the budget has left. */
static uint64_t count_shares(const pf_shard_choice *c, search *s) {
    size_t budget = pf_heap_budget(s->heap), live = pf_heap_live(s->heap), room = (size_t)256 << 20;
    if (budget > 0) room = budget > live ? (budget - live) / 4 : 0;
    uint64_t shares = 1;
    for (;; shares *= 2) {
        for (s->size = 1024; s->size < c->n / (int64_t)shares * 5 / 2;) s->size *= 2;
        if (s->size == 1024 || (size_t)s->size * sizeof *s->slots <= room) return shares;
    }
}

static int find_duplicates(pf_shard_choice *c, search *s) {
    if (!c->unique && !c->apart) return PF_OK;
    uint64_t shares = count_shares(c, s);
    size_t bytes = (size_t)s->size * sizeof *s->slots;
    s->slots = pf_heap_alloc(s->heap, bytes);
    int status = s->slots ? PF_OK : PF_ENOMEM;
    for (uint64_t share = 0; share < shares && status >= 0; share++) {
        sharing own = {c, s, share, shares};
        memset(s->slots, 0, bytes);
        s->count = 0;
        status = each_record(c, s, look_up, &own);
    }
    if (s->slots) pf_heap_free(s->heap, s->slots, bytes);
    return status;
}

/* ---- sides ---- */

/* What the hashes of all that is kept come to, and what is written of it. */
typedef struct {
    pf_shard_choice *choice;
    const search *search;
    int64_t valid, kept, low, high; /* low, high: records of the least and the largest hash */
    uint64_t least, largest;
    pf_writer *to;
    pf_block *blocks;
    int64_t block, in_block; /* the block that is being filled, and how far */
    uint8_t *sides;          /* its sides */
} siding;

static bool is_valid(const siding *s, int64_t i, const pf_shard_record *record) {
    const pf_shard_choice *c = s->choice;
    return c->apart ? i < c->n_valid : by_hash(c, record);
}

static int survey(void *context, int64_t i, const pf_shard_record *record) {
    siding *s = context;
    if (is_dropped(s->search, i)) return PF_OK;
    if (s->kept == 0 || record->hash[0] < s->least) s->least = record->hash[0], s->low = i;
    if (s->kept == 0 || record->hash[0] > s->largest) s->largest = record->hash[0], s->high = i;
    s->kept++;
    s->valid += is_valid(s, i, record);
    return PF_OK;
}

/* A side that the hash left empty gets the sequence nearest to the border, as in memory. */
static bool mended(const siding *s, int64_t i, bool valid) {
    if (s->choice->apart || s->choice->fraction <= 0) return valid;
    if (s->valid == 0 && s->kept >= 2 && i == s->low) return true;
    return s->valid == s->kept && i == s->high ? false : valid;
}

static int put_side(siding *s, uint8_t side) {
    pf_block *block = &s->blocks[s->block];
    s->sides[s->in_block++] = side;
    if (s->in_block < block->documents) return PF_OK;
    block->sum[3] = XXH3_64bits(s->sides, block->documents);
    s->in_block = 0;
    s->block++;
    return pf_writer_put(s->to, s->sides, block->documents);
}

static int write_side(void *context, int64_t i, const pf_shard_record *record) {
    siding *s = context;
    pf_shard_choice *c = s->choice;
    if (is_dropped(s->search, i)) return put_side(s, PF_SPLITS);
    bool valid = mended(s, i, is_valid(s, i, record));
    c->documents[valid]++;
    c->targets[valid] += record->n + 1; /* residues and the end */
    c->checksum = XXH3_64bits_withSeed(record->hash, sizeof record->hash, c->checksum);
    return put_side(s, valid ? PF_VALID : PF_TRAIN);
}

static int write_sides(pf_shard_choice *c, const search *s, pf_writer *to, pf_block *blocks,
                       int64_t n_blocks) {
    siding own = {.choice = c, .search = s, .to = to, .blocks = blocks};
    uint32_t most = 1;
    for (int64_t b = 0; b < n_blocks; b++)
        if (blocks[b].documents > most) most = blocks[b].documents;
    own.sides = pf_heap_alloc(s->heap, most);
    if (!own.sides) return PF_ENOMEM;
    int status = each_record(c, s, survey, &own);
    if (status >= 0) status = each_record(c, s, write_side, &own);
    pf_heap_free(s->heap, own.sides, most);
    return status;
}

int pf_shard_choose(pf_shard_choice *c, pf_writer *sides, pf_block *blocks, int64_t n_blocks) {
    search s = {.heap = c->engine->heap};
    size_t bits = (size_t)pf_ceil_div(c->n, 8), records = AT_A_TIME * sizeof *s.records;
    PF_TRY(pf_reader_open(&s.file, c->engine, c->path));
    s.dropped = pf_heap_zalloc(s.heap, bits);
    s.records = pf_heap_alloc(s.heap, records);
    int status = s.dropped && s.records ? PF_OK : PF_ENOMEM;
    if (status >= 0) status = find_duplicates(c, &s);
    if (status >= 0) status = write_sides(c, &s, sides, blocks, n_blocks);
    if (s.dropped) pf_heap_free(s.heap, s.dropped, bits);
    if (s.records) pf_heap_free(s.heap, s.records, records);
    pf_reader_close(&s.file);
    return status;
}
