/*
 * data_options.c - the one table of options of data sets, in memory and in shards: checks,
 * defaults, help.
 */
#include "data_options.h"

#include <string.h>

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
     .choices = "auto|fasta|text|shards",
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
     .choices = "auto|none|homology",
     .doc = "none: hold nothing back, to evaluate a whole file; homology: sequences that are alike "
            "are on one side of the split, in memory"},
    {.name = "identity",
     .kind = PF_OPT_NUMBER,
     .number = 0.3,
     .low = 0.2,
     .high = 1,
     .doc =
         "of split = \"homology\": share of equal columns, of an alignment that spans half of the "
         "shorter sequence, from which two are alike"},
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
    {.name = "window",
     .kind = PF_OPT_INT,
     .number = 0,
     .low = 0,
     .high = 9007199254740991.0,
     .doc =
         "of shards: bytes of them that are held in memory; 0: 64 MiB, or an eighth of the budget "
         "where that is less"},
    {.name = "block",
     .kind = PF_OPT_INT,
     .number = 1 << 20,
     .low = 64,
     .high = 1 << 30,
     .doc = "of shards that are made: tokens in a block, which is read in one go. A row is of one "
            "block"},
    {.name = "unique", .kind = PF_OPT_BOOL, .number = 1, .doc = "drop exact duplicate sequences"},
};

/* ---- checks ---- */

const pf_option_info *pf_data_option(const char *name) {
    int i = 0;
    while (strcmp(OPTIONS[i].name, name) != 0) i++;
    return &OPTIONS[i];
}

double pf_data_number(const pf_config *options, const char *name) {
    return pf_config_number_of(options, OPTIONS, PF_COUNT(OPTIONS), name);
}

const char *pf_data_text(const pf_config *options, const char *name) {
    return pf_config_string_of(options, OPTIONS, PF_COUNT(OPTIONS), name);
}

/* The rows that the making of shards has, in `rows`; how many. */
static int shard_rows(pf_option_info *rows) {
    static const char *const names[] = {"path",     "valid",  "format",  "valid_fraction", "split",
                                        "skip_bad", "unique", "longest", "block"};
    for (int i = 0; i < PF_COUNT(names); i++) rows[i] = *pf_data_option(names[i]);
    return PF_COUNT(names);
}

int pf_data_check_options(const pf_config *options, bool of_shards) {
    pf_option_info rows[PF_COUNT(OPTIONS)];
    if (of_shards)
        PF_TRY(pf_config_check(options, rows, shard_rows(rows), "shard"));
    else
        PF_TRY(pf_config_check(options, OPTIONS, PF_COUNT(OPTIONS), "data"));
    if (of_shards && strcmp(pf_data_text(options, "split"), "homology") == 0)
        return pf_fail(PF_EINVAL, "shard: a split by homology takes the sequences in memory: hold "
                                  "out files of your own ('valid'), or take split = \"auto\"");
    if (pf_config_texts(options, "valid") == 0) return PF_OK;
    bool whole = strcmp(pf_data_text(options, "split"), "auto") == 0;
    if (whole && pf_data_number(options, "valid_fraction") <= 0) return PF_OK;
    return pf_fail(PF_EINVAL, "data: 'valid' names the validation part, so nothing is split: leave "
                              "out 'split' and 'valid_fraction'");
}

double pf_data_fraction(const pf_reading *r, const pf_config *options) {
    double share = pf_data_number(options, "valid_fraction");
    if (r->apart || strcmp(pf_data_text(options, "split"), "none") == 0) return 0;
    if (share > 0) return share;
    return r->fasta ? 0.05 : 0.1;
}

void pf_reading_ask(pf_reading *r, const pf_config *options) {
    r->options = options;
    r->format = pf_data_text(options, "format");
    r->longest = (int64_t)pf_data_number(options, "longest");
    r->skip_bad = pf_data_number(options, "skip_bad") != 0;
}
