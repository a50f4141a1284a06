/*
 * data.c - opens a data set: reads it once, as what it is, splits it, lays it into rows; or opens
 * shards, which were read and split before. What must
 * hold: a path is opened once, and its format decided once; the splits are disjoint, a sequence's
 * side depends on the sequence alone (its hash against the valid fraction), and nothing is lost
 * without a word.
 */
#include "data.h"

#include <stdio.h>
#include <string.h>

#include "data_options.h"
#include "format.h"
#include "homology.h"
#include "room.h"
#include "shards.h"

/* ---- rows ---- */

/* Blocks of sequences are laid one by one. */
static int check_block(const pf_data *data, int64_t length) {
    if (!data->shards || !data->fasta || length <= data->shards->block) return PF_OK;
    return pf_fail(PF_EINVAL,
                   "%s: rows of %lld positions don't fit its blocks of %lld tokens: make the "
                   "shards again with a larger block, or take shorter rows",
                   pf_data_path(data), (long long)length, (long long)data->shards->block);
}

static int lay_rows(pf_data *data, int64_t length) {
    PF_TRY(check_block(data, length));
    if (data->shards) pf_shards_forget(data);
    pf_data_forget_rows(data);
    data->length = length;
    int status = PF_OK;
    if (data->shards && data->fasta) return PF_OK; /* a split is laid when it is asked for */
    for (int split = 0; split < PF_SPLITS && status >= 0; split++)
        status = pf_plan_pack(data, (pf_split)split);
    if (status < 0) pf_data_forget_rows(data);
    return status;
}

PF_API int pf_data_lay(pf_data *data, int64_t length) {
    PF_NEED(data);
    const pf_option_info *row = pf_data_option("length");
    if ((double)length < row->low || (double)length > row->high)
        return pf_fail(PF_EINVAL, "data: a row of %lld positions; from %.0f to %.0f are possible",
                       (long long)length, row->low, row->high);
    return lay_rows(data, length);
}

/* ---- reading ---- */

/* It is known what the files are. */
static int begin(pf_reading *r) {
    pf_data *data = ((pf_filling *)r->to)->data;
    int64_t at;
    data->fasta = r->fasta;
    data->apart = r->apart;
    pf_data_choose_vocab(data);
    data->valid_fraction = pf_data_fraction(r, r->options);
    return pf_data_keep_name(data, r->label, &at);
}

static int split_homology(pf_data *data, pf_engine *engine, const pf_config *options) {
    if (data->fasta)
        return pf_data_split_homology(data, engine, pf_data_number(options, "identity"));
    return pf_fail(PF_EINVAL, "%s: split = \"homology\" is for sequences, and this is text",
                   pf_data_path(data));
}

static int read_all(pf_data *data, pf_engine *engine, pf_reading *r) {
    PF_TRY(pf_reading_run(r, engine));
    data->files = r->files;
    data->once = r->once;
    data->skipped = r->skipped;
    memcpy(data->skips, r->skips, sizeof data->skips);
    if (data->fasta) PF_TRY(pf_data_end_sequences(data, engine));
    if (!data->fasta) pf_data_end_text(data, engine);
    if (strcmp(pf_data_text(r->options, "split"), "homology") == 0)
        PF_TRY(split_homology(data, engine, r->options));
    data->checksum = pf_data_checksum(data);
    for (int split = 0; split < PF_SPLITS; split++)
        PF_TRY(pf_data_list_documents(data, (pf_split)split));
    return lay_rows(data, (int64_t)pf_data_number(r->options, "length"));
}

/* Reads within a budget: the engine's own, or where it has none half of the machine's memory, so
 * that a pipe without end, or a file that was made to be large, ends in a sentence. */
static int read_within(pf_data *data, pf_engine *engine, pf_reading *r) {
    char why[256];
    size_t own = pf_heap_budget(data->heap);
    if (!own)
        pf_heap_set_budget(data->heap, pf_heap_live(data->heap) + pf_heap_charged(data->heap) +
                                           pf_half_of_memory());
    int status = read_all(data, engine, r);
    pf_heap_set_budget(data->heap, own);
    if (status != PF_ENOMEM) return status;
    snprintf(why, sizeof why, "%s", pf_last_error());
    return pf_fail(PF_ENOMEM, "%s: no room for it after %lld bytes: %s%s", r->name,
                   (long long)r->bytes, why, own ? "" : " (half of this machine's memory)");
}

static int read_data(pf_data *data, pf_engine *engine, const pf_config *options) {
    pf_filling filling = {.data = data, .unique = pf_data_number(options, "unique") != 0};
    pf_reading r = {
        .to = &filling, .begin = begin, .sequence = pf_data_add_sequence, .text = pf_data_add_text};
    pf_reading_ask(&r, options);
    int status = read_within(data, engine, &r);
    pf_filling_close(&filling);
    return status;
}

/* ---- shards ---- */

/* Is the path a folder of shards, and not said to be something else? 1, 0, or a status. */
static int is_shards(pf_engine *engine, const pf_config *options) {
    const char *format = pf_data_text(options, "format");
    if (strcmp(format, "shards") == 0) return 1;
    return pf_shards_at(engine, pf_config_text_at(options, "path", 0));
}

/* What was decided when the shards were made is not decided again. */
static int check_shards(pf_engine *engine, const pf_config *options) {
    const char *path = pf_config_text_at(options, "path", 0);
    int at = pf_shards_at(engine, path);
    PF_TRY(at);
    if (!at) return pf_fail(PF_ENOTFOUND, "%s: is no folder of shards", path);
    if (pf_config_texts(options, "path") > 1)
        return pf_fail(PF_EINVAL,
                       "data: '%s' is a folder of shards, which is a data set by itself: "
                       "make shards of all the files",
                       path);
    if (pf_config_texts(options, "valid") > 0 || pf_data_number(options, "valid_fraction") > 0)
        return pf_fail(PF_EINVAL,
                       "data: the shards of '%s' have their validation part, of when they "
                       "were made: leave out 'valid' and 'valid_fraction', or make them again",
                       path);
    if (strcmp(pf_data_text(options, "split"), "homology") == 0)
        return pf_fail(PF_EINVAL,
                       "data: the shards of '%s' were split when they were made: leave out split = "
                       "\"homology\"",
                       path);
    return PF_OK;
}

/* A format that was said is that of the files that the shards were made of. */
static int check_kind(const pf_data *data, const char *format) {
    const char *kind = data->fasta ? "fasta" : "text";
    if (strcmp(format, "auto") == 0 || strcmp(format, "shards") == 0) return PF_OK;
    if (strcmp(format, kind) == 0) return PF_OK;
    return pf_fail(PF_EINVAL, "data: '%s' is a folder of shards of %s: leave out format = \"%s\"",
                   pf_data_path(data), kind, format);
}

static int open_shards(pf_data *data, pf_engine *engine, const pf_config *options) {
    const char *path = pf_config_text_at(options, "path", 0);
    int64_t at;
    size_t window = (size_t)pf_data_number(options, "window");
    PF_TRY(check_shards(engine, options));
    PF_TRY(pf_data_keep_name(data, path, &at));
    PF_TRY(pf_shards_open(data, engine, path, window));
    PF_TRY(check_kind(data, pf_data_text(options, "format")));
    int64_t length = (int64_t)pf_data_number(options, "length");
    bool given = pf_config_kind_of(pf_config_get(options, "length")) == PF_NUMBER;
    return lay_rows(data, given ? length : pf_min(length, data->shards->block));
}

PF_API int pf_data_open(pf_data **out, pf_engine *engine, const pf_config *options) {
    PF_OUT(out);
    PF_OPEN(engine);
    PF_NEED(options);
    PF_TRY(pf_data_check_options(options, false));
    pf_data *data = pf_heap_zalloc(engine->heap, sizeof *data);
    if (!data) return PF_ENOMEM;
    data->heap = pf_heap_retain(engine->heap);
    data->seed = (uint64_t)pf_data_number(options, "seed");
    data->min_tokens = (int64_t)pf_data_number(options, "min_tokens");
    data->order_pass = -1;
    data->first_nul = -1;
    int status = is_shards(engine, options);
    if (status >= 0) status = (status ? open_shards : read_data)(data, engine, options);
    if (status < 0) pf_data_close(&data);
    *out = data;
    return status < 0 ? status : PF_OK;
}

PF_API int pf_data_kind(const char **format, pf_engine *engine, const char *path) {
    PF_OPEN(engine);
    PF_NEED(format, path);
    pf_input input = {0};
    bool fasta = false;
    *format = NULL;
    int status = pf_shards_at(engine, path);
    PF_TRY(status);
    if (status) return pf_shards_kind(format, engine, path);
    status = pf_input_open(&input, engine, path);
    if (status >= 0 && input.source.once)
        status = pf_fail(PF_EIO,
                         "%s: is read once, and looking would take from it: open it as data "
                         "and ask for the format",
                         input.source.name);
    if (status >= 0) status = pf_input_next(&input);
    if (status >= 0) status = pf_format_decide(&input, "auto", &fasta);
    pf_input_close(&input);
    if (status < 0) return status;
    *format = fasta ? "fasta" : "text";
    return PF_OK;
}

PF_API void pf_data_close(pf_data **address) {
    if (!address || !*address) return;
    pf_data *data = *address;
    pf_heap *heap = data->heap;
    *address = NULL;
    pf_shards_close(data);
    pf_data_free(data);
    pf_heap_release(heap);
}
