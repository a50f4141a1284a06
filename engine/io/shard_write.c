/*
 * shard_write.c - makes shards (shards.h) of FASTA or text of any size: a block is gathered in
 * memory and written, and nothing but a table of the blocks stays. What must hold: the folder has
 * its name only when all of it is on the disk; what fails leaves nothing behind, and what was
 * killed no longer than till the next one of that name; the shards hold the sequences, on the
 * sides, that the same files have in memory.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY /* the size of a state */
#include <xxhash.h>

#include "data_options.h"
#include "folder_list.h"
#include "json.h"
#include "manifest.h"
#include "shard_unique.h"

#define SHARD_BYTES  ((int64_t)1 << 30) /* of a file; its last block may reach beyond */
#define RECORDS_FILE "records.tmp"

typedef struct {
    pf_engine *engine;
    pf_heap *heap;
    char *place, *temp; /* the folder, and where it lies until it is whole */
    int64_t block;
    pf_data *part;    /* the block that is being gathered */
    pf_writer shard;  /* the file that it goes to */
    pf_config *sizes; /* of the files before */
    pf_block *blocks;
    int64_t n_blocks, blocks_capacity;
    /* FASTA */
    pf_writer records; /* pf_shard_record of each sequence */
    char *records_path;
    int64_t n, n_valid;
    /* text */
    pf_config *texts;
    double fraction;
    int64_t tokens, first_nul;
    XXH3_state_t *hash; /* of the text that is being read */
    uint64_t checksum;  /* of those before; of one alone, as in memory */
} sharder;

/* ---- files of the folder ---- */

static int open_in(pf_writer *w, const sharder *s, const char *name) {
    return pf_writer_open_in(w, s->engine, s->temp, s->place, name);
}

static int end_shard(sharder *s) {
    if (!s->shard.temp) return PF_OK; /* none is open */
    int64_t size = s->shard.size;
    PF_TRY(pf_writer_commit(&s->shard, NULL));
    return pf_config_push(s->sizes, pf_config_number_beside(s->sizes, (double)size));
}

static int begin_shard(sharder *s) {
    char name[32];
    if (s->shard.temp && s->shard.size < SHARD_BYTES) return PF_OK;
    PF_TRY(end_shard(s));
    snprintf(name, sizeof name, "shard-%05d.bin", pf_config_size(s->sizes));
    return open_in(&s->shard, s, name);
}

/* ---- blocks ---- */

static int put_piece(sharder *s, const void *bytes, int64_t n, uint64_t *sum) {
    *sum = XXH3_64bits(bytes, (size_t)n);
    return pf_writer_put(&s->shard, bytes, (size_t)n);
}

/* Lengths to the shard, records to their file. */
static int put_documents(sharder *s, pf_block *b) {
    const pf_data *part = s->part;
    size_t n = (size_t)part->n_documents, bytes = n * (sizeof(pf_shard_record) + sizeof(uint32_t));
    pf_shard_record *records = pf_heap_alloc(s->heap, bytes);
    if (!records) return PF_ENOMEM;
    uint32_t *lengths = (uint32_t *)(records + n);
    for (size_t i = 0; i < n; i++) {
        const pf_document *d = &part->documents[i];
        records[i] = (pf_shard_record){{d->hash[0], d->hash[1]}, d->n};
        lengths[i] = (uint32_t)d->n;
    }
    int status = pf_writer_put(&s->records, records, n * sizeof *records);
    if (status >= 0) status = put_piece(s, lengths, (int64_t)(n * sizeof *lengths), &b->sum[0]);
    if (status >= 0) status = put_piece(s, part->names, part->n_names, &b->sum[1]);
    pf_heap_free(s->heap, records, bytes);
    return status;
}

static int flush(sharder *s) {
    pf_data *part = s->part;
    if (part->n_tokens == 0) return PF_OK;
    PF_TRY(begin_shard(s));
    PF_TRY(pf_heap_grow(s->heap, (void **)&s->blocks, &s->blocks_capacity, s->n_blocks + 1,
                        sizeof *s->blocks));
    pf_block *b = &s->blocks[s->n_blocks];
    *b = (pf_block){.file = (uint32_t)pf_config_size(s->sizes),
                    .documents = (uint32_t)part->n_documents,
                    .offset = s->shard.size,
                    .names = part->n_names,
                    .tokens = part->n_tokens};
    if (part->fasta) PF_TRY(put_documents(s, b));
    PF_TRY(put_piece(s, part->tokens, part->n_tokens, &b->sum[2]));
    s->n_blocks++;
    part->n_tokens = part->n_names = part->n_documents = 0;
    return PF_OK;
}

/* ---- what is read ---- */

static int begin(pf_reading *r) {
    sharder *s = r->to;
    s->part->fasta = r->fasta;
    s->fraction = pf_data_fraction(r, r->options);
    PF_TRY(
        pf_heap_grow(s->heap, (void **)&s->part->tokens, &s->part->tokens_capacity, s->block, 1));
    if (!r->fasta) return PF_OK;
    PF_TRY(pf_path(&s->records_path, s->engine, "%s/%s", s->temp, RECORDS_FILE));
    return open_in(&s->records, s, RECORDS_FILE);
}

static int add_sequence(pf_reading *r, const pf_fasta *fasta) {
    sharder *s = r->to;
    pf_data *part = s->part;
    XXH128_hash_t hash = XXH3_128bits(fasta->ids, (size_t)fasta->n);
    if (fasta->n > UINT32_MAX)
        return pf_fail(PF_EFORMAT, "%s: '%s' has more residues than shards can hold", r->name,
                       fasta->name);
    if (part->n_tokens + fasta->n > s->block) PF_TRY(flush(s));
    pf_document d = {.first = part->n_tokens, .n = fasta->n, .hash = {hash.low64, hash.high64}};
    PF_TRY(pf_heap_grow(s->heap, (void **)&part->tokens, &part->tokens_capacity,
                        part->n_tokens + d.n, 1));
    PF_TRY(pf_data_keep_name(part, fasta->name, &d.name));
    PF_TRY(pf_data_add_document(part, &d));
    memcpy(part->tokens + d.first, fasta->ids, (size_t)d.n);
    part->n_tokens += d.n;
    s->n++;
    s->n_valid += r->valid;
    return PF_OK;
}

static int add_bytes(sharder *s, const uint8_t *bytes, int64_t n) {
    pf_data *part = s->part;
    const uint8_t *nul = memchr(bytes, 0, (size_t)n);
    if (nul && s->first_nul < 0) s->first_nul = s->tokens + (nul - bytes);
    XXH3_128bits_update(s->hash, bytes, (size_t)n);
    s->tokens += n;
    while (n > 0) {
        int64_t count = pf_min(n, s->block - part->n_tokens);
        memcpy(part->tokens + part->n_tokens, bytes, (size_t)count);
        part->n_tokens += count;
        bytes += count;
        n -= count;
        if (part->n_tokens == s->block) PF_TRY(flush(s));
    }
    return PF_OK;
}

/* Notes a text that has been read: its name, and what is trained on and held out of it. */
static int end_text(const pf_reading *r, sharder *s, int64_t n) {
    const char *slash = strrchr(r->name, '/');
    int64_t valid = (int64_t)((double)n * s->fraction);
    XXH128_hash_t hash = XXH3_128bits_digest(s->hash);
    uint64_t both[2] = {hash.low64, hash.high64};
    bool alone = pf_config_texts(r->options, "path") + pf_config_texts(r->options, "valid") == 1;
    s->checksum =
        alone ? XXH3_64bits_digest(s->hash) : XXH3_64bits_withSeed(both, sizeof both, s->checksum);
    if (r->apart) valid = r->valid ? n : 0;
    char sum[33];
    snprintf(sum, sizeof sum, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    pf_config *text = pf_config_new_beside(s->texts, PF_MAP);
    PF_TRY(pf_config_push(s->texts, text));
    PF_TRY(pf_config_set_string(text, "hash", sum));
    PF_TRY(pf_config_set_string(text, "name", slash ? slash + 1 : r->name));
    PF_TRY(pf_config_set_number(text, "train", (double)(n - valid)));
    return pf_config_set_number(text, "valid", (double)valid);
}

/* Does a file of the valid part hold the very text of this training part? */
static bool stands_in_valid(const sharder *s, const pf_config *train) {
    const char *hash = pf_config_string(pf_config_get(train, "hash"));
    for (int i = 0; i < pf_config_size(s->texts); i++) {
        const pf_config *text = pf_config_at(s->texts, i);
        if (pf_config_number(pf_config_get(text, "valid")) > 0 &&
            strcmp(pf_config_string(pf_config_get(text, "hash")), hash) == 0)
            return true;
    }
    return false;
}

/* How many texts are trained on and held out, of files that are one or the other. */
static int64_t shared_texts(const sharder *s) {
    int64_t shared = 0;
    for (int i = 0; i < pf_config_size(s->texts); i++) {
        const pf_config *text = pf_config_at(s->texts, i);
        if (pf_config_number(pf_config_get(text, "train")) == 0 || !stands_in_valid(s, text))
            continue;
        shared++;
        pf_text_shared(s->engine, pf_config_string(pf_config_get(text, "name")));
    }
    return shared;
}

static int add_text(pf_reading *r, pf_input *input) {
    sharder *s = r->to;
    int64_t before = s->tokens;
    int more = 1;
    XXH3_128bits_reset(s->hash);
    while (more > 0) {
        PF_TRY(add_bytes(s, input->bytes + input->at, (int64_t)(input->n - input->at)));
        more = pf_input_next(input);
    }
    PF_TRY(more);
    return end_text(r, s, s->tokens - before);
}

/* ---- the end ---- */

/* A file of the folder with all it holds, into the manifest. */
static int put_file(pf_manifest *m, const sharder *s, const char *name, const void *bytes,
                    size_t n) {
    pf_writer w;
    char hash[PF_HASH_TEXT];
    PF_TRY(open_in(&w, s, name));
    int status = pf_writer_put(&w, bytes, n);
    if (status < 0)
        pf_writer_abort(&w);
    else
        status = pf_writer_commit(&w, hash);
    return status < 0 ? status : pf_manifest_add(m, name, (int64_t)n, hash);
}

/* sides.bin; of text it is empty. */
static int put_sides(pf_manifest *m, sharder *s, const pf_reading *r, pf_shard_choice *c) {
    pf_writer w;
    char hash[PF_HASH_TEXT];
    if (!r->fasta) return put_file(m, s, PF_SHARDS_SIDES, "", 0);
    *c = (pf_shard_choice){.engine = s->engine,
                           .path = s->records_path,
                           .n = s->n,
                           .n_valid = s->n_valid,
                           .unique = pf_data_number(r->options, "unique") != 0,
                           .apart = r->apart,
                           .fraction = s->fraction};
    PF_TRY(pf_writer_end(&s->records)); /* read by this process, and removed */
    int status = open_in(&w, s, PF_SHARDS_SIDES);
    if (status >= 0) {
        status = pf_shard_choose(c, &w, s->blocks, s->n_blocks);
        if (status < 0)
            pf_writer_abort(&w);
        else
            status = pf_writer_commit(&w, hash);
    }
    pf_disk_remove(s->engine, s->records_path);
    return status < 0 ? status : pf_manifest_add(m, PF_SHARDS_SIDES, s->n, hash);
}

static int describe_split(pf_config *splits, const pf_shard_choice *c, int side, const char *name) {
    pf_config *split = pf_config_new_beside(splits, PF_MAP);
    PF_TRY(pf_config_set(splits, name, split));
    PF_TRY(pf_config_set_number(split, "documents", (double)c->documents[side]));
    PF_TRY(pf_config_set_number(split, "targets", (double)c->targets[side]));
    return pf_config_set_number(split, "duplicates", (double)c->copies[side]);
}

static int describe_documents(pf_config *doc, const sharder *s, const pf_reading *r,
                              const pf_shard_choice *c) {
    if (!r->fasta) return pf_config_set(doc, "texts", pf_config_copy_beside(doc, s->texts));
    pf_config *splits = pf_config_new_beside(doc, PF_MAP);
    PF_TRY(pf_config_set(doc, "splits", splits));
    PF_TRY(describe_split(splits, c, PF_TRAIN, "train"));
    return describe_split(splits, c, PF_VALID, "valid");
}

static int describe(pf_config *doc, const sharder *s, const pf_reading *r,
                    const pf_shard_choice *c) {
    char sum[17];
    snprintf(sum, sizeof sum, "%016llx",
             (unsigned long long)(r->fasta ? c->checksum : s->checksum));
    PF_TRY(pf_config_set_string(doc, "format", PF_SHARDS_FORMAT));
    PF_TRY(pf_config_set_number(doc, "version", PF_SHARDS_VERSION));
    PF_TRY(pf_config_set_string(doc, "kind", r->fasta ? "fasta" : "text"));
    PF_TRY(pf_config_set_string(doc, "tokenizer", r->vocab->type));
    PF_TRY(pf_config_set_string(doc, "checksum", sum));
    PF_TRY(pf_config_set_number(doc, "block", (double)s->block));
    PF_TRY(pf_config_set_number(doc, "files", (double)r->files));
    PF_TRY(pf_config_set_number(doc, "shared", (double)c->shared));
    PF_TRY(pf_config_set_number(doc, "skipped", (double)r->skipped));
    PF_TRY(pf_config_set_string(doc, "skips", r->skips));
    PF_TRY(pf_config_set_bool(doc, "apart", r->apart));
    PF_TRY(pf_config_set_number(doc, "valid_fraction", s->fraction));
    if (s->first_nul >= 0) PF_TRY(pf_config_set_number(doc, "first_nul", (double)s->first_nul));
    PF_TRY(pf_config_set(doc, "shards", pf_config_copy_beside(doc, s->sizes)));
    return describe_documents(doc, s, r, c);
}

static int put_description(pf_manifest *m, const sharder *s, const pf_reading *r,
                           const pf_shard_choice *c) {
    pf_config *doc = pf_config_new_in(s->heap, PF_MAP);
    pf_text text = {.heap = s->heap};
    int status = doc ? describe(doc, s, r, c) : PF_ENOMEM;
    if (status >= 0) status = pf_json_put(&text, doc, true);
    if (status >= 0 && text.size > PF_JSON_BYTES)
        status = pf_fail(PF_EFORMAT, "shard: %lld texts are too many", (long long)r->files);
    if (status >= 0) status = put_file(m, s, PF_SHARDS_FILE, text.data, text.size);
    pf_text_close(&text);
    pf_config_free(doc);
    return status;
}

static int nothing_left(const pf_reading *r) {
    return pf_fail(PF_EFORMAT,
                   "%s: nothing is left to train on: all of its sequences stand in the "
                   "validation part",
                   r->label);
}

static int finish(sharder *s, const pf_reading *r) {
    pf_manifest m = {0};
    pf_shard_choice c = {0};
    PF_TRY(flush(s));
    PF_TRY(end_shard(s));
    PF_TRY(put_sides(&m, s, r, &c));
    if (r->fasta && r->apart && c.documents[PF_TRAIN] == 0) return nothing_left(r);
    if (!r->fasta && r->apart) c.shared = shared_texts(s);
    PF_TRY(put_file(&m, s, PF_SHARDS_BLOCKS, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks));
    PF_TRY(put_description(&m, s, r, &c));
    PF_TRY(pf_manifest_write(&m, s->engine, s->temp, s->place));
    return pf_dir_sync(s->engine, s->temp);
}

/* ---- the call ---- */

/* The folder that nobody is to find yet: the one that it stands in is synced at the end. */
static int make_temp(const sharder *s) {
    char *parent;
    pf_dir_remove(s->engine, s->temp); /* of a dead process with our number */
    PF_TRY(pf_path_parent(&parent, s->engine, s->temp));
    int status = pf_dir_make(s->engine, parent);
    pf_path_free(parent);
    int result = status >= 0 ? pf_disk_make_dir(s->engine, s->temp) : 0;
    return result < 0 ? pf_file_fail(result, "make folder", s->place) : status;
}

static int work(sharder *s, const pf_config *options) {
    pf_reading r = {.to = s, .begin = begin, .sequence = add_sequence, .text = add_text};
    pf_reading_ask(&r, options);
    PF_TRY(make_temp(s));
    PF_TRY(pf_reading_run(&r, s->engine));
    return finish(s, &r);
}

static int open_sharder(sharder *s, pf_engine *engine, const pf_config *options) {
    *s = (sharder){.engine = engine,
                   .heap = engine->heap,
                   .block = (int64_t)pf_data_number(options, "block"),
                   .first_nul = -1};
    s->part = pf_heap_zalloc(s->heap, sizeof *s->part);
    if (s->part) s->part->heap = s->heap;
    s->hash = pf_heap_zalloc(s->heap, sizeof *s->hash);
    s->sizes = pf_config_new_in(s->heap, PF_LIST);
    s->texts = pf_config_new_in(s->heap, PF_LIST);
    if (!s->part || !s->hash || !s->sizes || !s->texts) return PF_ENOMEM;
    XXH3_INITSTATE(s->hash);
    return PF_OK;
}

static void close_sharder(sharder *s) {
    if (s->shard.temp) pf_writer_abort(&s->shard);
    if (s->records.file.io) pf_writer_abort(&s->records);
    if (s->blocks) pf_heap_free(s->heap, s->blocks, (size_t)s->blocks_capacity * sizeof *s->blocks);
    if (s->hash) pf_heap_free(s->heap, s->hash, sizeof *s->hash);
    if (s->part) pf_data_free(s->part);
    pf_config_free(s->sizes);
    pf_config_free(s->texts);
    pf_path_free(s->records_path);
    pf_path_free(s->temp);
    pf_path_free(s->place);
}

static int find_any(void *to, const char *name) { return (void)to, (void)name, -EEXIST; }

/* Is nothing there, or a folder that holds nothing? */
static bool is_free(pf_engine *engine, const char *path) {
    return !pf_is_there(engine, path) || pf_disk_list(engine, path, find_any, NULL) >= 0;
}

/* The folder's name without slashes at its end. */
static int check_place(char **dir, pf_engine *engine, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (n == 0) return pf_fail(PF_EINVAL, "shard: the folder's name is empty");
    PF_TRY(pf_path(dir, engine, "%.*s", (int)n, path));
    if (is_free(engine, *dir)) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "shard: %s is there already, and holds something: name another folder", path);
}

/* Is it "NAME.tmp-PID", what a process that has ended began for the folder NAME? */
static bool is_left(const char *entry, const char *name, size_t n) {
    const char *pid = entry + n + 5;
    if (strncmp(entry, name, n) != 0 || strncmp(entry + n, ".tmp-", 5) != 0) return false;
    return *pid && strspn(pid, "0123456789") == strlen(pid) && pf_temp_is_dead(entry + n);
}

/* Takes away what writers that were killed have left beside `place`. */
static int clean(pf_engine *engine, const char *place) {
    const char *name = pf_path_name(place);
    char *parent, *path;
    pf_names names = {0};
    PF_TRY(pf_path_parent(&parent, engine, place));
    pf_names_read(&names, engine, parent);
    for (const char *entry = NULL; (entry = pf_names_next(&names, entry));) {
        if (!is_left(entry, name, strlen(name))) continue;
        if (pf_path(&path, engine, "%s/%s", parent, entry) < 0) break;
        pf_dir_remove(engine, path);
        pf_path_free(path);
    }
    pf_names_free(&names);
    pf_path_free(parent);
    return PF_OK;
}

/* The folder gets its name, for good. */
static int install(pf_engine *engine, const char *temp, const char *place) {
    char *parent;
    PF_TRY(pf_path_parent(&parent, engine, place)); /* before it can no longer fail */
    int status = PF_OK, result = pf_disk_rename(engine, temp, place);
    if (result < 0) status = pf_file_fail(result, "rename to", place);
    if (status >= 0) status = pf_dir_sync(engine, parent);
    pf_path_free(parent);
    return status;
}

PF_API int pf_data_shard(pf_engine *engine, const pf_config *options, const char *dir) {
    PF_OPEN(engine);
    PF_NEED(options, dir);
    PF_TRY(pf_data_check_options(options, true));
    sharder s;
    int status = open_sharder(&s, engine, options);
    if (status >= 0) status = check_place(&s.place, engine, dir);
    if (status >= 0) status = clean(engine, s.place);
    if (status >= 0) status = pf_path(&s.temp, engine, "%s.tmp-%ld", s.place, (long)getpid());
    if (status >= 0) status = work(&s, options);
    if (status >= 0) status = install(engine, s.temp, s.place);
    if (status < 0 && s.temp) pf_dir_remove(engine, s.temp);
    close_sharder(&s);
    return status < 0 ? status : PF_OK;
}
