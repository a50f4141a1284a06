/*
 * shards.c - opens a folder of shards: see shards.h. Everything that the folder says is checked
 * here against the sizes of its files and against itself; the shards' contents are checked a block
 * at a time, when they are read.
 */
#include "shards.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "folder.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little endian, and so must be the machine"
#endif

enum { MAX_FILES = 100000 };

static int damaged(const char *folder, const char *what) {
    return pf_fail(PF_EFORMAT, "%s: the shards are damaged (%s): make them again", folder, what);
}

/* Lack of memory is no answer: the folder would be taken for a file, or for nothing. */
static int is_there(pf_engine *engine, const char *path, bool as_folder) {
    bool there, folder;
    int status = pf_look_for(engine, path, &there, &folder);
    return status == PF_ENOMEM ? status : as_folder ? folder : there;
}

int pf_shards_at(pf_engine *engine, const char *path) {
    char *file;
    int status = is_there(engine, path, true);
    if (status <= 0) return status;
    PF_TRY(pf_path(&file, engine, "%s/%s", path, PF_SHARDS_FILE));
    status = is_there(engine, file, false);
    pf_path_free(file);
    return status;
}

/* ---- shards.json ---- */

/* A whole number from 0 to 2^53, or -1. */
static int64_t whole_of(const pf_config *node) {
    double value = pf_config_kind_of(node) == PF_NUMBER ? pf_config_number(node) : -1;
    return value >= 0 && value <= 0x1p53 && value == floor(value) ? (int64_t)value : -1;
}

static int64_t whole_at(const pf_config *map, const char *key) {
    return whole_of(pf_config_get(map, key));
}

static const char *text_at(const pf_config *map, const char *key) {
    const char *text = pf_config_string(pf_config_get(map, key));
    return text ? text : "";
}

/* The folder's description, of a version that we read. */
static int read_description(pf_config **doc, pf_engine *engine, const char *folder) {
    PF_TRY(pf_folder_config(doc, engine, folder, PF_SHARDS_FILE));
    if (!*doc) return pf_fail(PF_ENOTFOUND, "%s: holds no shards", folder);
    const char *kind = text_at(*doc, "kind");
    int64_t version = whole_at(*doc, "version");
    int status = PF_OK;
    if (strcmp(text_at(*doc, "format"), PF_SHARDS_FORMAT) != 0)
        status = damaged(folder, "no description of shards");
    else if (version != PF_SHARDS_VERSION)
        status = pf_fail(PF_EFORMAT, "%s: shards of version %lld; this program reads version %d",
                         folder, (long long)version, PF_SHARDS_VERSION);
    else if (strcmp(kind, "fasta") != 0 && strcmp(kind, "text") != 0)
        status = damaged(folder, "of no kind");
    if (status >= 0) return PF_OK;
    pf_config_free(*doc);
    *doc = NULL;
    return status;
}

int pf_shards_kind(const char **kind, pf_engine *engine, const char *folder) {
    pf_config *doc;
    PF_TRY(read_description(&doc, engine, folder));
    *kind = strcmp(text_at(doc, "kind"), "fasta") == 0 ? "fasta" : "text";
    pf_config_free(doc);
    return PF_OK;
}

static int read_sizes(pf_shards *s, const pf_config *doc) {
    const pf_config *list = pf_config_get(doc, "shards");
    int n = pf_config_kind_of(list) == PF_LIST ? pf_config_size(list) : 0;
    if (n < 1 || n > MAX_FILES) return damaged(s->folder, "no sizes of its files");
    s->sizes = pf_heap_alloc(s->heap, (size_t)n * sizeof *s->sizes);
    if (!s->sizes) return PF_ENOMEM;
    s->n_files = n;
    for (int i = 0; i < n; i++)
        if ((s->sizes[i] = whole_of(pf_config_at(list, i))) < 0)
            return damaged(s->folder, "no sizes of its files");
    return PF_OK;
}

/* What is as it is in memory. */
static int read_facts(pf_data *data, const pf_config *doc) {
    pf_shards *s = data->shards;
    const pf_config *nul = pf_config_get(doc, "first_nul");
    char *end;
    data->checksum = strtoull(text_at(doc, "checksum"), &end, 16);
    data->files = whole_at(doc, "files");
    data->shared = whole_at(doc, "shared");
    data->skipped = whole_at(doc, "skipped");
    data->apart = pf_config_number(pf_config_get(doc, "apart")) != 0;
    data->valid_fraction = pf_config_number(pf_config_get(doc, "valid_fraction"));
    data->first_nul = nul ? whole_of(nul) : -1;
    s->block = whole_at(doc, "block");
    snprintf(data->skips, sizeof data->skips, "%s", text_at(doc, "skips"));
    bool good = *end == 0 && data->files > 0 && data->shared >= 0 && data->skipped >= 0;
    good = good && data->valid_fraction >= 0 && data->valid_fraction <= 1 && s->block > 0;
    good = good && strcmp(text_at(doc, "tokenizer"), data->vocab->type) == 0;
    return good ? PF_OK : damaged(s->folder, "facts that can't be");
}

/* ---- text: its documents ---- */

static int add_text(pf_data *data, const pf_config *text, int64_t *at) {
    pf_document part = {.first = *at, .n = whole_at(text, "train"), .split = PF_TRAIN};
    int64_t train = part.n, valid = whole_at(text, "valid");
    if (train < 0 || valid < 0 || train + valid < 1)
        return damaged(data->shards->folder, "texts without sizes");
    PF_TRY(pf_data_keep_name(data, text_at(text, "name"), &part.name));
    if (train > 0) PF_TRY(pf_data_add_document(data, &part));
    part.first = *at + train;
    part.n = valid;
    part.split = PF_VALID;
    if (valid > 0) PF_TRY(pf_data_add_document(data, &part));
    part.first = *at;
    part.n = train + valid;
    part.split = PF_ALL;
    *at += part.n;
    return pf_data_add_document(data, &part);
}

static int read_texts(pf_data *data, const pf_config *doc) {
    const pf_config *list = pf_config_get(doc, "texts");
    int64_t tokens = 0, all = data->shards->first[data->shards->n_blocks];
    for (int i = 0; i < pf_config_size(list); i++) {
        PF_TRY(add_text(data, pf_config_at(list, i), &tokens));
        if (tokens > all) break;
    }
    if (tokens != all || tokens == 0 || data->first_nul >= tokens)
        return damaged(data->shards->folder, "its texts are not what its blocks hold");
    for (int split = 0; split < PF_SPLITS; split++)
        PF_TRY(pf_data_list_documents(data, (pf_split)split));
    return PF_OK;
}

/* ---- FASTA: documents of each split ---- */

static int read_splits(pf_data *data, const pf_config *doc) {
    static const char *const names[] = {"train", "valid"};
    pf_shards *s = data->shards;
    pf_plan *all = &data->plans[PF_ALL];
    for (int i = 0; i < 2; i++) {
        const pf_config *split = pf_config_get(pf_config_get(doc, "splits"), names[i]);
        pf_plan *plan = &data->plans[i];
        plan->n_documents = whole_at(split, "documents");
        plan->targets = whole_at(split, "targets");
        s->copies[i] = whole_at(split, "duplicates");
        if (plan->n_documents < 0 || plan->targets < 0 || s->copies[i] < 0)
            return damaged(s->folder, "no counts of its splits");
        all->n_documents += plan->n_documents;
        all->targets += plan->targets;
        s->copies[PF_ALL] += s->copies[i];
    }
    data->n_documents = all->n_documents;
    if (all->n_documents > s->first[s->n_blocks])
        return damaged(s->folder, "more sequences than its blocks hold");
    return PF_OK;
}

static void count_sides(pf_shards *s, int64_t block, const uint8_t *sides) {
    int64_t n[PF_SPLITS + 1] = {0};
    for (uint32_t i = 0; i < s->blocks[block].documents; i++)
        n[sides[i] < PF_ALL ? sides[i] : PF_SPLITS]++;
    n[PF_ALL] = n[PF_TRAIN] + n[PF_VALID];
    for (int split = 0; split < PF_SPLITS; split++)
        s->documents[split][block + 1] = s->documents[split][block] + n[split];
}

/* How many documents each block has of each split. */
static int read_sides(pf_data *data) {
    pf_shards *s = data->shards;
    uint32_t most = 0;
    for (int split = 0; split < PF_SPLITS; split++) {
        s->documents[split] = pf_heap_zalloc(s->heap, (size_t)(s->n_blocks + 1) * sizeof(int64_t));
        if (!s->documents[split]) return PF_ENOMEM;
    }
    for (int64_t b = 0; b < s->n_blocks; b++)
        if (s->blocks[b].documents > most) most = s->blocks[b].documents;
    uint8_t *sides = pf_heap_alloc(s->heap, most);
    int status = sides ? PF_OK : PF_ENOMEM;
    for (int64_t b = 0; b < s->n_blocks && status >= 0; b++) {
        status = pf_shards_sides(s, b, sides);
        if (status >= 0) count_sides(s, b, sides);
    }
    if (sides) pf_heap_free(s->heap, sides, most);
    PF_TRY(status);
    for (int split = 0; split < PF_SPLITS; split++)
        if (s->documents[split][s->n_blocks] != data->plans[split].n_documents)
            return damaged(s->folder, "sides.bin does not fit its counts");
    return PF_OK;
}

/* ---- blocks.bin ---- */

/* Does the block lie within its file, behind the one before it? */
static bool good_block(const pf_shards *s, const pf_block *b, int64_t begin, bool fasta) {
    int64_t lengths = 4 * (int64_t)b->documents;
    if (b->file >= s->n_files || b->tokens < 0 || b->names < 0 || b->offset != begin) return false;
    int64_t size = s->sizes[b->file];
    if (b->offset > size || lengths > size - b->offset) return false;
    if (b->names > size - b->offset - lengths) return false;
    if (b->tokens > size - b->offset - lengths - b->names) return false;
    /* Text blocks are found by division, all but the last being full. */
    return fasta ? b->documents > 0 && b->names >= b->documents
                 : b->documents == 0 && b->names == 0;
}

static int check_blocks(pf_data *data) {
    pf_shards *s = data->shards;
    int64_t begin = 0, file = 0;
    for (int64_t i = 0; i < s->n_blocks; i++) {
        const pf_block *b = &s->blocks[i];
        if (b->file == file + 1 && begin == s->sizes[file]) file++, begin = 0;
        bool full = data->fasta || b->tokens == s->block || i == s->n_blocks - 1;
        if (b->file != file || !good_block(s, b, begin, data->fasta) || !full || b->tokens < 1)
            return damaged(s->folder, "a block that is not within its file");
        begin += 4 * (int64_t)b->documents + b->names + b->tokens;
        s->first[i + 1] = s->first[i] + (data->fasta ? (int64_t)b->documents : b->tokens);
    }
    if (file != s->n_files - 1 || begin != s->sizes[file])
        return damaged(s->folder, "files that no block fills");
    return PF_OK;
}

static int read_blocks(pf_data *data) {
    pf_shards *s = data->shards;
    pf_reader r;
    char *path;
    PF_TRY(pf_path(&path, s->engine, "%s/%s", s->folder, PF_SHARDS_BLOCKS));
    int status = pf_reader_open(&r, s->engine, path);
    if (status >= 0) {
        s->n_blocks = r.size / (int64_t)sizeof *s->blocks;
        s->blocks = pf_heap_alloc(s->heap, (size_t)s->n_blocks * sizeof *s->blocks);
        s->first = pf_heap_zalloc(s->heap, (size_t)(s->n_blocks + 1) * sizeof *s->first);
        if (!s->blocks || !s->first) status = PF_ENOMEM;
        if (status >= 0)
            status = pf_reader_read(&r, 0, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
        pf_reader_close(&r);
    }
    pf_path_free(path);
    PF_TRY(status);
    return check_blocks(data);
}

/* ---- opening ---- */

/* The three small files are what the manifest says, and the shards have their sizes. */
static int verify(const pf_shards *s) {
    const char *const none[] = {NULL}, *missing;
    pf_manifest m;
    PF_TRY(pf_manifest_read(&m, s->engine, s->folder));
    const char *needed[] = {PF_SHARDS_FILE, PF_SHARDS_BLOCKS, PF_SHARDS_SIDES};
    for (int i = 0; i < PF_COUNT(needed); i++)
        if (!pf_manifest_has(&m, needed[i])) return damaged(s->folder, "no complete manifest");
    return pf_manifest_verify(&m, s->engine, s->folder, true, NULL, none, &missing);
}

static int check_sizes(const pf_shards *s) {
    for (int64_t i = 0; i < s->n_files; i++) {
        pf_reader r;
        char *path;
        PF_TRY(pf_path(&path, s->engine, "%s/shard-%05lld.bin", s->folder, (long long)i));
        int status = pf_reader_open(&r, s->engine, path);
        if (status >= 0 && r.size != s->sizes[i])
            status = pf_fail(PF_EFORMAT,
                             "%s: has %lld bytes, %lld when it was made: it was cut or "
                             "changed; copy it again, or make the shards again",
                             path, (long long)r.size, (long long)s->sizes[i]);
        pf_reader_close(&r);
        pf_path_free(path);
        PF_TRY(status);
    }
    return PF_OK;
}

static size_t choose_window(const pf_heap *heap, size_t asked) {
    size_t budget = pf_heap_budget(heap), window = (size_t)64 << 20;
    if (asked > 0) return asked;
    return budget > 0 && budget / 8 < window ? budget / 8 : window;
}

int pf_shards_open(pf_data *data, pf_engine *engine, const char *folder, size_t window) {
    pf_config *doc = NULL;
    pf_shards *s = data->shards = pf_heap_zalloc(data->heap, sizeof *s);
    if (!s) return PF_ENOMEM;
    s->heap = data->heap;
    s->engine = engine;
    if (!pf_path_in_memory(folder)) s->io = *pf_disk_access(engine, folder);
    s->window = choose_window(data->heap, window);
    PF_TRY(pf_path(&s->folder, engine, "%s", folder));
    PF_TRY(verify(s));
    PF_TRY(read_description(&doc, engine, folder));
    data->fasta = strcmp(text_at(doc, "kind"), "fasta") == 0;
    pf_data_choose_vocab(data);
    int status = read_facts(data, doc);
    if (status >= 0) status = read_sizes(s, doc);
    if (status >= 0) status = check_sizes(s);
    if (status >= 0) status = read_blocks(data);
    if (status >= 0) status = data->fasta ? read_splits(data, doc) : read_texts(data, doc);
    if (status >= 0 && data->fasta) status = read_sides(data);
    pf_config_free(doc);
    return status;
}

void pf_shards_close(pf_data *data) {
    pf_shards *s = data->shards;
    size_t blocks = s ? (size_t)(s->n_blocks + 1) * sizeof(int64_t) : 0;
    if (!s) return;
    pf_shards_forget(data);
    for (int i = 0; i < PF_SPLITS; i++)
        if (s->documents[i]) pf_heap_free(s->heap, s->documents[i], blocks);
    if (s->first) pf_heap_free(s->heap, s->first, blocks);
    if (s->blocks) pf_heap_free(s->heap, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
    if (s->sizes) pf_heap_free(s->heap, s->sizes, (size_t)s->n_files * sizeof *s->sizes);
    pf_path_free(s->folder);
    pf_heap_free(s->heap, s, sizeof *s);
    data->shards = NULL;
}
