/*
 * data.c - opens a data set: reads the file, drops exact duplicates, splits, plans rows.
 * What must hold: the splits are disjoint, a sequence's side depends on the sequence
 * alone (its hash against the valid fraction), and nothing is lost without a word.
 */
#include "data.h"

#include <string.h>
#include <xxhash.h>

#include "fasta.h"
#include "input.h"

/* The one source of the data options: checks, defaults, help. */
static const pf_option_info OPTIONS[] = {
    {.name = "path",
     .kind = PF_OPT_STRING,
     .required = true,
     .doc = "FASTA or text file, plain or gzip"},
    {.name = "format",
     .kind = PF_OPT_STRING,
     .string = "auto",
     .choices = "auto|fasta|text",
     .doc = "auto: FASTA when the first byte is '>', or '>' follows ';' comments"},
    {.name = "length",
     .kind = PF_OPT_INT,
     .number = 1024,
     .low = 2,
     .high = 1 << 24,
     .doc = "positions in a row"},
    {.name = "valid_fraction",
     .kind = PF_OPT_NUMBER,
     .number = 0,
     .low = 0,
     .high = 0.9,
     .doc = "share held back; 0: 0.05 of the sequences by their hash, the last 0.1 of a text"},
    {.name = "split",
     .kind = PF_OPT_STRING,
     .string = "auto",
     .choices = "auto|none",
     .doc = "none: hold nothing back, to evaluate a whole file"},
    {.name = "seed",
     .kind = PF_OPT_INT,
     .number = 0,
     .low = 0,
     .high = 9007199254740991.0,
     .doc = "of the order in which documents are packed; the split does not depend on it"},
    {.name = "min_tokens",
     .kind = PF_OPT_INT,
     .number = 64,
     .low = 1,
     .high = 1e15,
     .doc = "training on fewer predicted tokens is refused"},
    {.name = "longest",
     .kind = PF_OPT_INT,
     .number = 1e7,
     .low = 1,
     .high = 1e12,
     .doc = "residues that one sequence may have"},
    {.name = "unique", .kind = PF_OPT_BOOL, .number = 1, .doc = "drop exact duplicate sequences"},
};

static double option_number(const pf_config *options, const char *name) {
    return pf_config_number_of(options, OPTIONS, PF_COUNT(OPTIONS), name);
}

/* ---- documents ---- */

/* Keeps a string; *at is its offset, since the array moves as it grows. */
static int keep_name(pf_data *data, const char *name, int64_t *at) {
    int64_t bytes = (int64_t)strlen(name) + 1, need = data->n_names + bytes;
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->names, &data->names_capacity, need, 1));
    memcpy(data->names + data->n_names, name, (size_t)bytes);
    *at = data->n_names;
    data->n_names = need;
    return PF_OK;
}

static int add_document(pf_data *data, const pf_document *document) {
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->documents, &data->documents_capacity,
                        data->n_documents + 1, sizeof *document));
    data->documents[data->n_documents++] = *document;
    return PF_OK;
}

/* Open addressing over document numbers + 1 (0: free); at most half full. */
typedef struct {
    int64_t *slots;
    int64_t size; /* a power of two */
} sequence_set;

/* The slot of a sequence: where it stands, or where it would go. */
static int64_t *find_slot(const pf_data *data, const sequence_set *set, const pf_document *d,
                          const uint8_t *ids) {
    int64_t at = (int64_t)(d->hash[1] & (uint64_t)(set->size - 1));
    for (; set->slots[at]; at = (at + 1) & (set->size - 1)) {
        const pf_document *other = &data->documents[set->slots[at] - 1];
        if (other->hash[0] == d->hash[0] && other->hash[1] == d->hash[1] && other->n == d->n &&
            memcmp(data->tokens + other->first, ids, (size_t)d->n) == 0)
            break;
    }
    return &set->slots[at];
}

static void set_free(pf_heap *heap, sequence_set *set) {
    if (set->slots) pf_heap_free(heap, set->slots, (size_t)set->size * sizeof *set->slots);
    set->slots = NULL;
}

/* Room for one document more; all that are there move to the new table. */
static int set_grow(const pf_data *data, sequence_set *set) {
    if (set->slots && data->n_documents * 2 < set->size) return PF_OK;
    sequence_set larger = {.size = pf_max(1024, set->size * 2)};
    larger.slots = pf_heap_zalloc(data->heap, (size_t)larger.size * sizeof *larger.slots);
    if (!larger.slots) return PF_ENOMEM;
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        *find_slot(data, &larger, d, data->tokens + d->first) = i + 1;
    }
    set_free(data->heap, set);
    *set = larger;
    return PF_OK;
}

/* ---- FASTA ---- */

/* Adds the record that the reader holds, or counts it as a copy. set NULL: keep copies. */
static int add_sequence(pf_data *data, sequence_set *set, const pf_fasta *fasta) {
    XXH128_hash_t hash = XXH3_128bits(fasta->ids, (size_t)fasta->n);
    pf_document d = {.first = data->n_tokens, .n = fasta->n, .hash = {hash.low64, hash.high64}};
    int64_t *slot = NULL;
    if (set) {
        PF_TRY(set_grow(data, set));
        slot = find_slot(data, set, &d, fasta->ids);
        if (*slot) {
            data->documents[*slot - 1].copies++;
            return PF_OK;
        }
    }
    PF_TRY(pf_heap_grow(data->heap, (void **)&data->tokens, &data->tokens_capacity,
                        data->n_tokens + d.n, 1));
    PF_TRY(keep_name(data, fasta->name, &d.name));
    PF_TRY(add_document(data, &d));
    memcpy(data->tokens + d.first, fasta->ids, (size_t)d.n);
    data->n_tokens += d.n;
    if (slot) *slot = data->n_documents;
    return PF_OK;
}

/* Says what a careful reader would want to know of the file. */
static void remark(const pf_data *data, pf_engine *engine, int64_t empty, const char *first) {
    int64_t seen[256] = {0}, bases = 0;
    if (empty > 0)
        pf_log(engine, PF_LOG_WARN, "%s: %lld records without residues are left out, first '%s'",
               pf_data_path(data), (long long)empty, first);
    for (int64_t i = 0; i < data->n_tokens; i++) seen[data->tokens[i]]++;
    int16_t map[256];
    pf_vocab_map(data->vocab, map);
    for (const char *c = "ACGTUN"; *c; c++) bases += seen[map[(unsigned char)*c]];
    if (data->n_tokens > 0 && bases == data->n_tokens)
        pf_log(engine, PF_LOG_WARN, "%s: only letters of DNA or RNA; they are read as residues",
               pf_data_path(data));
}

static int read_sequences(pf_data *data, pf_fasta *fasta, sequence_set *set, pf_engine *engine) {
    int64_t empty = 0;
    char first[PF_FASTA_NAME] = "";
    int more = 1;
    while (more > 0) {
        more = pf_fasta_next(fasta);
        if (more > 0 && fasta->n == 0) {
            if (empty++ == 0) memcpy(first, fasta->name, sizeof first);
        } else if (more > 0) {
            PF_TRY(add_sequence(data, set, fasta));
        }
    }
    PF_TRY(more);
    if (data->n_documents == 0)
        return pf_fail(PF_EFORMAT, "%s: no sequences: a '>' line, then residues, were expected",
                       pf_data_path(data));
    remark(data, engine, empty, first);
    return PF_OK;
}

/* A side that the hash left empty gets the sequence nearest to the border. */
static void mend_split(pf_data *data) {
    int64_t low = 0, high = 0, valid = 0, n = data->n_documents;
    for (int64_t i = 0; i < n; i++) {
        valid += data->documents[i].split == PF_VALID;
        if (data->documents[i].hash[0] < data->documents[low].hash[0]) low = i;
        if (data->documents[i].hash[0] > data->documents[high].hash[0]) high = i;
    }
    if (n >= 2 && valid == 0) data->documents[low].split = PF_VALID;
    if (valid == n) data->documents[high].split = PF_TRAIN;
}

static int open_fasta(pf_data *data, pf_input *input, const pf_config *options) {
    pf_fasta fasta;
    sequence_set set = {0};
    pf_fasta_begin(&fasta, input, data->vocab, (int64_t)option_number(options, "longest"));
    bool unique = option_number(options, "unique") != 0;
    int status = read_sequences(data, &fasta, unique ? &set : NULL, input->engine);
    pf_fasta_end(&fasta);
    set_free(data->heap, &set);
    PF_TRY(status);
    /* 2^64 is exact in a double, and the hash is uniform: its fraction is the split's. */
    double border = data->valid_fraction * 18446744073709551616.0;
    for (int64_t i = 0; i < data->n_documents; i++) {
        pf_document *d = &data->documents[i];
        d->split = (double)d->hash[0] < border ? PF_VALID : PF_TRAIN;
    }
    if (data->valid_fraction > 0) mend_split(data);
    return PF_OK;
}

/* ---- text ---- */

/* Where the last component of the path stands in `names`: it names a text's documents. */
static int64_t text_name(const pf_data *data) {
    const char *slash = strrchr(pf_data_path(data), '/');
    return slash ? slash + 1 - data->names : 0;
}

static int open_text(pf_data *data, pf_input *input) {
    int64_t n = 0, name = text_name(data);
    PF_TRY(pf_input_rest(input, &data->tokens, &n, &data->tokens_capacity));
    data->n_tokens = n;
    if (n == 0) return pf_fail(PF_EFORMAT, "%s: the file is empty", pf_data_path(data));
    const uint8_t *nul = memchr(data->tokens, 0, (size_t)n);
    data->first_nul = nul ? nul - data->tokens : -1;
    int64_t valid = (int64_t)((double)n * data->valid_fraction);
    const pf_document parts[PF_SPLITS] = {
        {.first = 0, .n = n - valid, .name = name, .split = PF_TRAIN},
        {.first = n - valid, .n = valid, .name = name, .split = PF_VALID},
        {.first = 0, .n = n, .name = name, .split = PF_ALL},
    };
    for (int i = 0; i < PF_SPLITS; i++) PF_TRY(add_document(data, &parts[i]));
    return PF_OK;
}

/* ---- opening ---- */

static bool in_split(const pf_data *data, const pf_document *document, pf_split split) {
    return document->split == split || (data->fasta && split == PF_ALL);
}

static int plan_split(pf_data *data, pf_split split) {
    pf_plan *plan = &data->plans[split];
    for (int64_t i = 0; i < data->n_documents; i++)
        plan->n_documents += in_split(data, &data->documents[i], split);
    plan->documents =
        pf_heap_alloc(data->heap, (size_t)plan->n_documents * sizeof *plan->documents);
    if (!plan->documents) return PF_ENOMEM;
    for (int64_t i = 0, n = 0; i < data->n_documents; i++) {
        if (!in_split(data, &data->documents[i], split)) continue;
        plan->documents[n++] = i;
        plan->targets += pf_max(0, pf_document_size(data, &data->documents[i]) - 1);
    }
    return pf_plan_pack(data, split);
}

static int choose_format(pf_data *data, const pf_input *input, const pf_config *options) {
    const char *format = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "format");
    if (input->n == 0) return pf_fail(PF_EFORMAT, "%s: the file is empty", input->path);
    data->fasta = strcmp(format, "fasta") == 0 ||
                  (strcmp(format, "auto") == 0 && pf_fasta_looks(input->bytes, input->n));
    data->vocab = pf_vocab_find(data->fasta ? "protein" : "byte");
    data->begin = pf_vocab_special(data->vocab, "begin");
    data->end = pf_vocab_special(data->vocab, "end");
    data->pad = pf_vocab_special(data->vocab, "pad");
    data->valid_fraction = option_number(options, "valid_fraction");
    if (data->valid_fraction <= 0) data->valid_fraction = data->fasta ? 0.05 : 0.1;
    const char *split = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "split");
    if (strcmp(split, "none") == 0) data->valid_fraction = 0;
    return PF_OK;
}

/* One number for what was read. Borders count: each document goes on from the one before. */
static uint64_t checksum_of(const pf_data *data) {
    if (!data->fasta) return XXH3_64bits(data->tokens, (size_t)data->n_tokens);
    uint64_t sum = 0;
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        sum = XXH3_64bits_withSeed(d->hash, sizeof d->hash, sum);
    }
    return sum;
}

static int read_file(pf_data *data, pf_input *input, const pf_config *options) {
    PF_TRY(pf_input_next(input));
    PF_TRY(choose_format(data, input, options));
    PF_TRY(data->fasta ? open_fasta(data, input, options) : open_text(data, input));
    data->checksum = checksum_of(data);
    for (int split = 0; split < PF_SPLITS; split++) PF_TRY(plan_split(data, (pf_split)split));
    return PF_OK;
}

PF_API int pf_data_open(pf_data **out, pf_engine *engine, const pf_config *options) {
    if (!out || !engine) return pf_fail(PF_EINVAL, "data: open needs a place and an engine");
    *out = NULL;
    PF_TRY(pf_config_check(options, OPTIONS, PF_COUNT(OPTIONS), "data"));
    const char *path = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "path");
    pf_data *data = pf_heap_zalloc(engine->heap, sizeof *data);
    if (!data) return PF_ENOMEM;
    data->heap = pf_heap_retain(engine->heap);
    data->length = (int64_t)option_number(options, "length");
    data->seed = (uint64_t)option_number(options, "seed");
    data->min_tokens = (int64_t)option_number(options, "min_tokens");
    data->order_pass = -1;
    data->first_nul = -1;
    int64_t at;
    pf_input input = {0};
    int status = keep_name(data, path, &at);
    if (status >= 0) status = pf_input_open(&input, engine, path);
    if (status >= 0) status = read_file(data, &input, options);
    pf_input_close(&input);
    if (status < 0) pf_data_close(&data);
    *out = data;
    return status < 0 ? status : PF_OK;
}

static void free_array(pf_heap *heap, void *array, int64_t n, size_t size) {
    if (array) pf_heap_free(heap, array, (size_t)n * size);
}

PF_API void pf_data_close(pf_data **address) {
    if (!address || !*address) return;
    pf_data *data = *address;
    pf_heap *heap = data->heap;
    *address = NULL;
    free_array(heap, data->order, data->plans[PF_TRAIN].n_rows, sizeof *data->order);
    for (int i = 0; i < PF_SPLITS; i++) pf_plan_free(heap, &data->plans[i]);
    free_array(heap, data->tokens, data->tokens_capacity, 1);
    free_array(heap, data->documents, data->documents_capacity, sizeof *data->documents);
    free_array(heap, data->names, data->names_capacity, 1);
    pf_heap_free(heap, data, sizeof *data);
    pf_heap_release(heap);
}
