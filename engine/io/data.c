/*
 * data.c - opens a data set: reads it once, as what it is, splits it, lays it into rows. What must
 * hold: a path is opened once, and its format decided once; the splits are disjoint, a sequence's
 * side depends on the sequence alone (its hash against the valid fraction), and nothing is lost
 * without a word.
 */
#include "data.h"

#include <stdio.h>
#include <string.h>

#include "format.h"
#include "room.h"

/* The one source of the data options: checks, defaults, help. */
static const pf_option_info OPTIONS[] = {
    {.name = "path",
     .kind = PF_OPT_TEXTS,
     .required = true,
     .doc = "FASTA or text, plain or gzip: a file, a pipe, \"-\" for the standard input, or a list "
            "of these: one data set of several files. Each text is a document of its own"},
    {.name = "valid",
     .kind = PF_OPT_TEXTS,
     .doc = "files that are the validation part, so that all of `path` is for training. A sequence "
            "that stands in both is left out of training, and counted"},
    {.name = "format",
     .kind = PF_OPT_STRING,
     .string = "auto",
     .choices = "auto|fasta|text",
     .doc = "auto: FASTA when the first line that is neither blank nor a comment (#, ;) begins "
            "with '>'; else text; packed, UTF-16 and other files are refused. Said, it has the "
            "last word"},
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
     .doc = "share held back; 0: 0.05 of the sequences by their hash, the last 0.1 of each text"},
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
    {.name = "skip_bad",
     .kind = PF_OPT_BOOL,
     .doc = "leave out records with letters that are no amino acids or with too many, and count "
            "them; else the first is an error"},
    {.name = "unique", .kind = PF_OPT_BOOL, .number = 1, .doc = "drop exact duplicate sequences"},
};

static const pf_option_info *find_option(const char *name) {
    int i = 0;
    while (strcmp(OPTIONS[i].name, name) != 0) i++;
    return &OPTIONS[i];
}

static double option_number(const pf_config *options, const char *name) {
    return pf_config_number_of(options, OPTIONS, PF_COUNT(OPTIONS), name);
}

/* ---- rows ---- */

static void free_array(pf_heap *heap, void *array, int64_t n, size_t size) {
    if (array) pf_heap_free(heap, array, (size_t)n * size);
}

static void forget_rows(pf_data *data) {
    free_array(data->heap, data->order, data->plans[PF_TRAIN].n_rows, sizeof *data->order);
    data->order = NULL;
    data->order_pass = -1;
    for (int split = 0; split < PF_SPLITS; split++) pf_plan_clear(data->heap, &data->plans[split]);
}

static int lay_rows(pf_data *data, int64_t length) {
    forget_rows(data);
    data->length = length;
    int status = PF_OK;
    for (int split = 0; split < PF_SPLITS && status >= 0; split++)
        status = pf_plan_pack(data, (pf_split)split);
    if (status < 0) forget_rows(data);
    return status;
}

PF_API int pf_data_lay(pf_data *data, int64_t length) {
    PF_NEED(data);
    const pf_option_info *row = find_option("length");
    if ((double)length < row->low || (double)length > row->high)
        return pf_fail(PF_EINVAL, "data: a row of %lld positions; from %.0f to %.0f are possible",
                       (long long)length, row->low, row->high);
    return lay_rows(data, length);
}

/* ---- opening ---- */

/* A validation part from files of its own leaves nothing to split. */
static int check_sides(const pf_config *options) {
    const char *split = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "split");
    if (pf_config_texts(options, "valid") == 0) return PF_OK;
    if (strcmp(split, "auto") == 0 && option_number(options, "valid_fraction") <= 0) return PF_OK;
    return pf_fail(PF_EINVAL, "data: 'valid' names the validation part, so nothing is split: leave "
                              "out 'split' and 'valid_fraction'");
}

static void choose_vocab(pf_data *data, const pf_config *options) {
    data->vocab = pf_vocab_find(data->fasta ? "protein" : "byte");
    data->begin = pf_vocab_special(data->vocab, "begin");
    data->end = pf_vocab_special(data->vocab, "end");
    data->pad = pf_vocab_special(data->vocab, "pad");
    data->valid_fraction = option_number(options, "valid_fraction");
    if (data->valid_fraction <= 0) data->valid_fraction = data->fasta ? 0.05 : 0.1;
    const char *split = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "split");
    if (strcmp(split, "none") == 0 || data->apart) data->valid_fraction = 0;
}

/* What messages call the data: its file, or the first of them. */
static int keep_label(pf_data *data, const char *name, int64_t files) {
    char label[512];
    int64_t at;
    if (files == 1) return pf_data_keep_name(data, name, &at);
    snprintf(label, sizeof label, "%.480s and %lld more", name, (long long)files - 1);
    return pf_data_keep_name(data, label, &at);
}

/* The first file says what all of them are. */
static int decide_format(pf_data *data, const pf_input *input, const pf_config *options,
                         const pf_reading *how) {
    bool fasta;
    PF_TRY(pf_format_decide(input, how->format, &fasta));
    if (data->files++ == 0) {
        data->fasta = fasta;
        choose_vocab(data, options);
        return keep_label(data, input->source.name,
                          pf_config_texts(options, "path") + pf_config_texts(options, "valid"));
    }
    if (fasta == data->fasta) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s: is %s, unlike the files before it: a data set is all FASTA or "
                   "all text (format = \"text\" takes the bytes of all of them)",
                   input->source.name, fasta ? "FASTA" : "text");
}

static int read_input(pf_data *data, pf_input *input, const pf_config *options, pf_reading *how) {
    data->once = data->once || input->source.once;
    PF_TRY(pf_input_next(input));
    PF_TRY(decide_format(data, input, options, how));
    return data->fasta ? pf_data_read_sequences(data, input, how)
                       : pf_data_read_text(data, input, how);
}

static int read_file(pf_data *data, pf_engine *engine, const char *path, const pf_config *options,
                     pf_reading *how) {
    pf_input input = {0};
    int64_t before = how->bytes;
    snprintf(how->name, sizeof how->name, "%s", path);
    int status = pf_input_open(&input, engine, path);
    if (status >= 0) snprintf(how->name, sizeof how->name, "%s", input.source.name);
    if (status >= 0) status = read_input(data, &input, options, how);
    how->bytes = before + input.total;
    pf_input_close(&input);
    return status;
}

static int read_files(pf_data *data, pf_engine *engine, const pf_config *options, const char *which,
                      pf_reading *how) {
    for (int i = 0; i < pf_config_texts(options, which); i++)
        PF_TRY(read_file(data, engine, pf_config_text_at(options, which, i), options, how));
    return PF_OK;
}

static int read_all(pf_data *data, pf_engine *engine, const pf_config *options, pf_reading *how) {
    how->valid = true;
    PF_TRY(read_files(data, engine, options, "valid", how));
    how->valid = false;
    PF_TRY(read_files(data, engine, options, "path", how));
    if (data->fasta) PF_TRY(pf_data_end_sequences(data, engine, how));
    if (!data->fasta) pf_data_end_text(data, engine);
    data->checksum = pf_data_checksum(data);
    for (int split = 0; split < PF_SPLITS; split++)
        PF_TRY(pf_data_list_documents(data, (pf_split)split));
    return lay_rows(data, (int64_t)option_number(options, "length"));
}

/* Reads within a budget: the engine's own, or where it has none half of the machine's memory, so
 * that a pipe without end, or a file that was made to be large, ends in a sentence. */
static int read_within(pf_data *data, pf_engine *engine, const pf_config *options,
                       pf_reading *how) {
    char why[256];
    size_t own = pf_heap_set_budget(data->heap, 0);
    pf_heap_set_budget(data->heap, own ? own : pf_heap_live(data->heap) + pf_half_of_memory());
    int status = read_all(data, engine, options, how);
    pf_heap_set_budget(data->heap, own);
    if (status != PF_ENOMEM) return status;
    snprintf(why, sizeof why, "%s", pf_last_error());
    return pf_fail(PF_ENOMEM, "%s: no room for it after %lld bytes: %s%s", how->name,
                   (long long)how->bytes, why, own ? "" : " (half of this machine's memory)");
}

static int read_data(pf_data *data, pf_engine *engine, const pf_config *options) {
    const char *format = pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), "format");
    int files = pf_config_texts(options, "path") + pf_config_texts(options, "valid");
    data->apart = pf_config_texts(options, "valid") > 0;
    data->seed = (uint64_t)option_number(options, "seed");
    data->min_tokens = (int64_t)option_number(options, "min_tokens");
    data->order_pass = -1;
    data->first_nul = -1;
    pf_reading how = {.format = format,
                      .longest = (int64_t)option_number(options, "longest"),
                      .unique = option_number(options, "unique") != 0,
                      .skip_bad = option_number(options, "skip_bad") != 0,
                      .guessed = strcmp(format, "auto") == 0,
                      .apart = data->apart,
                      .several = files > 1};
    int status = read_within(data, engine, options, &how);
    pf_reading_close(&how, data->heap);
    return status;
}

PF_API int pf_data_open(pf_data **out, pf_engine *engine, const pf_config *options) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(options);
    PF_TRY(pf_config_check(options, OPTIONS, PF_COUNT(OPTIONS), "data"));
    PF_TRY(check_sides(options));
    pf_data *data = pf_heap_zalloc(engine->heap, sizeof *data);
    if (!data) return PF_ENOMEM;
    data->heap = pf_heap_retain(engine->heap);
    int status = read_data(data, engine, options);
    if (status < 0) pf_data_close(&data);
    *out = data;
    return status < 0 ? status : PF_OK;
}

PF_API int pf_data_kind(const char **format, pf_engine *engine, const char *path) {
    PF_OPEN(engine);
    PF_NEED(format, path);
    pf_input input = {0};
    bool fasta = false;
    int status = pf_input_open(&input, engine, path);
    if (status >= 0 && input.source.once)
        status = pf_fail(PF_EIO,
                         "%s: is read once, and looking would take from it: open it as data "
                         "and ask for the format",
                         input.source.name);
    if (status >= 0) status = pf_input_next(&input);
    if (status >= 0) status = pf_format_decide(&input, "auto", &fasta);
    pf_input_close(&input);
    *format = status < 0 ? NULL : fasta ? "fasta" : "text";
    return status < 0 ? status : PF_OK;
}

PF_API void pf_data_close(pf_data **address) {
    if (!address || !*address) return;
    pf_data *data = *address;
    pf_heap *heap = data->heap;
    *address = NULL;
    forget_rows(data);
    for (int i = 0; i < PF_SPLITS; i++) {
        pf_plan *plan = &data->plans[i];
        free_array(heap, plan->documents, plan->n_documents, sizeof *plan->documents);
        free_array(heap, plan->starts, plan->n_documents + 1, sizeof *plan->starts);
    }
    free_array(heap, data->tokens, data->tokens_capacity, 1);
    free_array(heap, data->documents, data->documents_capacity, sizeof *data->documents);
    free_array(heap, data->names, data->names_capacity, 1);
    pf_heap_free(heap, data, sizeof *data);
    pf_heap_release(heap);
}
