/*
 * shards_part.c - reads blocks of shards (shards.h) and keeps those that were used last. A block is
 * read whole, held against its checksums, checked, and is then a data set of its own; nothing of a
 * file stays open, so that a file that changes is met by the next block that is read from it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "shards.h"

/* ---- reading ---- */

/* By the access that the folder was opened by: whoever reads from a data set may have another by
 * now, and need not come at its files himself. */
static int open_by(pf_reader *r, const pf_shards *s, const char *path) {
    return s->io.open ? pf_reader_open_by(r, &s->io, path) : pf_reader_open(r, s->engine, path);
}

/* The part of `path`, of so many bytes, as it was when the shards were made, or a sentence. */
static int read_same(const pf_shards *s, const char *path, int64_t size, int64_t offset, void *to,
                     size_t bytes, uint64_t sum) {
    pf_reader r;
    PF_TRY(open_by(&r, s, path));
    int status = PF_OK;
    if (size >= 0 && r.size != size)
        status = pf_fail(PF_EFORMAT,
                         "%s: has %lld bytes, %lld when it was made: it was cut or "
                         "changed; copy it again, or make the shards again",
                         path, (long long)r.size, (long long)size);
    if (status >= 0) status = pf_reader_read(&r, offset, to, bytes);
    pf_reader_close(&r);
    if (status < 0 || XXH3_64bits(to, bytes) == sum) return status;
    return pf_fail(PF_EFORMAT,
                   "%s: is damaged, or has changed since it was made (%zu bytes from %lld "
                   "on have another checksum): copy it again, or make the shards again",
                   path, bytes, (long long)offset);
}

/* A piece of a block: `at` bytes behind its beginning. */
static int read_piece(const pf_shards *s, const pf_block *b, int64_t at, void *to, int64_t bytes,
                      int sum) {
    char *path;
    PF_TRY(pf_path(&path, s->engine, "%s/shard-%05u.bin", s->folder, (unsigned)b->file));
    int status =
        read_same(s, path, s->sizes[b->file], b->offset + at, to, (size_t)bytes, b->sum[sum]);
    pf_path_free(path);
    return status;
}

int pf_shards_sides(const pf_shards *s, int64_t number, uint8_t *sides) {
    const pf_block *b = &s->blocks[number];
    char *path;
    PF_TRY(pf_path(&path, s->engine, "%s/%s", s->folder, PF_SHARDS_SIDES));
    int status =
        read_same(s, path, s->first[s->n_blocks], s->first[number], sides, b->documents, b->sum[3]);
    pf_path_free(path);
    return status;
}

/* ---- a block as a data set ---- */

static int bad_block(const pf_shards *s, int64_t number, const char *what) {
    return pf_fail(PF_EFORMAT, "%s: the shards are damaged (block %lld: %s): make them again",
                   s->folder, (long long)number, what);
}

/* Documents of those that were not left out. Without names (`names` NULL) all have none. */
static int add_documents(pf_data *part, const pf_shards *s, const uint32_t *lengths,
                         const uint8_t *sides) {
    const pf_block *b = &s->blocks[part->block];
    int64_t first = 0, name = 0;
    for (uint32_t i = 0; i < b->documents; i++) {
        pf_document d = {
            .first = first, .n = lengths[i], .name = name, .split = (pf_split)sides[i]};
        const char *end =
            part->names ? memchr(part->names + name, 0, (size_t)(b->names - name)) : "";
        first += d.n;
        if (!end || first > b->tokens || d.n < 1)
            return bad_block(s, part->block, "its sequences are not what it holds");
        if (part->names) name = end + 1 - part->names;
        if (sides[i] < PF_ALL) PF_TRY(pf_data_add_document(part, &d));
    }
    if (first != b->tokens || (part->names && name != b->names))
        return bad_block(s, part->block, "its sequences are not what it holds");
    for (int split = 0; split < PF_SPLITS; split++)
        PF_TRY(pf_data_list_documents(part, (pf_split)split));
    return PF_OK;
}

static int read_tokens(pf_data *part, const pf_shards *s, const pf_block *b) {
    int64_t lengths = 4 * (int64_t)b->documents;
    PF_TRY(pf_heap_grow(part->heap, (void **)&part->tokens, &part->tokens_capacity, b->tokens, 1));
    part->n_tokens = b->tokens;
    PF_TRY(read_piece(s, b, lengths + b->names, part->tokens, b->tokens, 2));
    for (int64_t i = 0; part->fasta && i < b->tokens; i++)
        if (part->tokens[i] < part->vocab->first_letter || part->tokens[i] >= part->vocab->size)
            return bad_block(s, part->block, "a token that the vocabulary has not");
    if (b->names == 0) return PF_OK;
    PF_TRY(pf_heap_grow(part->heap, (void **)&part->names, &part->names_capacity, b->names, 1));
    part->n_names = b->names;
    return read_piece(s, b, lengths, part->names, b->names, 1);
}

/* Lengths and sides are read into one block of memory, and are not kept. */
static int read_documents(pf_data *part, const pf_shards *s, const pf_block *b) {
    size_t lengths = 4 * (size_t)b->documents, bytes = lengths + b->documents;
    uint32_t *block = pf_heap_alloc(part->heap, bytes);
    if (!block) return PF_ENOMEM;
    uint8_t *sides = (uint8_t *)block + lengths;
    int status = read_piece(s, b, 0, block, (int64_t)lengths, 0);
    if (status >= 0) status = pf_shards_sides(s, part->block, sides);
    if (status >= 0) status = add_documents(part, s, block, sides);
    pf_heap_free(part->heap, block, bytes);
    return status;
}

/* Block `number`; tokens: with its names and tokens, not only as it is laid. */
static int make_part(pf_data **out, const pf_data *data, int64_t number, bool tokens) {
    const pf_shards *s = data->shards;
    pf_data *part = pf_heap_zalloc(data->heap, sizeof *part);
    *out = NULL;
    if (!part) return PF_ENOMEM;
    part->heap = data->heap;
    part->fasta = data->fasta;
    part->vocab = data->vocab;
    part->begin = data->begin;
    part->end = data->end;
    part->pad = data->pad;
    part->length = data->length;
    part->seed = data->seed;
    part->block = number;
    int status = tokens ? read_tokens(part, s, &s->blocks[number]) : PF_OK;
    if (status >= 0 && data->fasta) status = read_documents(part, s, &s->blocks[number]);
    if (status < 0)
        pf_data_free(part);
    else
        *out = part;
    return status;
}

/* ---- what is held ---- */

static void drop_slot(pf_shards *s, int i) {
    pf_data_free(s->slot[i].part);
    s->held -= s->slot[i].bytes;
    s->slot[i] = s->slot[--s->n_slots];
}

static int oldest_slot(const pf_shards *s) {
    int oldest = 0;
    for (int i = 1; i < s->n_slots; i++)
        if (s->slot[i].used < s->slot[oldest].used) oldest = i;
    return oldest;
}

static void drop_all(pf_shards *s) {
    while (s->n_slots > 0) drop_slot(s, 0);
}

/* Reads a block; where there is no room beside those that are held, they go first. */
static int load_part(pf_data **part, const pf_data *data, int64_t number) {
    pf_shards *s = data->shards;
    int status = make_part(part, data, number, true);
    if (status != PF_ENOMEM || s->n_slots == 0) return status;
    drop_all(s);
    pf_heap_trim(data->heap);
    return make_part(part, data, number, true);
}

int pf_shards_part(pf_data **part, pf_data *data, int64_t number) {
    pf_shards *s = data->shards;
    for (int i = 0; i < s->n_slots; i++) {
        if (s->slot[i].block != number) continue;
        s->slot[i].used = ++s->clock;
        *part = s->slot[i].part;
        return PF_OK;
    }
    PF_TRY(load_part(part, data, number));
    /* Its rows, which are laid later, are a third at most. */
    size_t bytes = pf_data_bytes(*part), room = s->window > bytes ? s->window - bytes : 0;
    while (s->n_slots > 0 && (s->held > room || s->n_slots == PF_SHARDS_SLOTS))
        drop_slot(s, oldest_slot(s));
    s->slot[s->n_slots].part = *part;
    s->slot[s->n_slots].block = number;
    s->slot[s->n_slots].bytes = bytes;
    s->slot[s->n_slots++].used = ++s->clock;
    s->held += bytes;
    return PF_OK;
}

void pf_shards_forget(pf_data *data) {
    pf_shards *s = data->shards;
    drop_all(s);
    for (int i = 0; i < PF_SPLITS; i++) {
        if (s->rows[i])
            pf_heap_free(s->heap, s->rows[i], (size_t)(s->n_blocks + 1) * sizeof *s->rows[i]);
        s->rows[i] = NULL;
        if (data->fasta) data->plans[i].n_rows = 0;
    }
}

/* ---- rows ---- */

static int count_rows(int64_t *rows, const pf_data *data, pf_split split, int64_t number) {
    pf_data *part;
    PF_TRY(make_part(&part, data, number, false));
    int status = pf_plan_pack(part, split);
    *rows = part->plans[split].n_rows;
    pf_data_free(part);
    return status;
}

int pf_shards_lay(pf_data *data, pf_split split) {
    pf_shards *s = data->shards;
    if (s->rows[split]) return PF_OK;
    size_t bytes = (size_t)(s->n_blocks + 1) * sizeof(int64_t);
    int64_t *rows = pf_heap_zalloc(data->heap, bytes);
    int status = rows ? PF_OK : PF_ENOMEM;
    for (int64_t b = 0; b < s->n_blocks && status >= 0; b++) {
        int64_t n = 0;
        status = count_rows(&n, data, split, b);
        rows[b + 1] = rows[b] + n;
    }
    if (status < 0) {
        if (rows) pf_heap_free(data->heap, rows, bytes);
        return status;
    }
    s->rows[split] = rows;
    data->plans[split].n_rows = rows[s->n_blocks];
    return PF_OK;
}

/* The block that holds number `at` of what `before` counts. */
static int64_t find_block(const pf_shards *s, const int64_t *before, int64_t at) {
    int64_t low = 0, high = s->n_blocks;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (before[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int pf_shards_row(pf_data **part, int64_t *row, pf_data *data, pf_split split, int64_t at) {
    const pf_shards *s = data->shards;
    int64_t block = find_block(s, s->rows[split], at);
    PF_TRY(pf_shards_part(part, data, block));
    *row = at - s->rows[split][block];
    if ((*part)->plans[split].n_rows == 0) PF_TRY(pf_plan_pack(*part, split));
    return PF_OK;
}

int pf_shards_document(pf_data **part, int64_t *index, pf_data *data, pf_split split, int64_t at) {
    const pf_shards *s = data->shards;
    int64_t block = find_block(s, s->documents[split], at);
    *index = at - s->documents[split][block];
    return pf_shards_part(part, data, block);
}

int pf_shards_hold(pf_data *data, int64_t first, int64_t n) {
    pf_shards *s = data->shards;
    if (first >= data->base && first + n <= data->base + data->n_tokens) return PF_OK;
    data->n_tokens = 0;
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity, n, 1));
    for (int64_t done = 0, count; done < n; done += count) {
        int64_t block = (first + done) / s->block, at = (first + done) % s->block;
        pf_data *part;
        PF_TRY(pf_shards_part(&part, data, block));
        count = pf_min(n - done, part->n_tokens - at);
        memcpy(data->tokens + done, part->tokens + at, (size_t)count);
    }
    data->base = first;
    data->n_tokens = n;
    return PF_OK;
}
