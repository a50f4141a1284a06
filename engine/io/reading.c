/* reading.c - see reading.h. */
#include "reading.h"

#include <stdio.h>
#include <string.h>

#include "format.h"

/* ---- records ---- */

/* Counts a record that is left out; the first ones are named, with their file where there are
 * several. */
static void leave_out(pf_reading *r, const pf_fasta *fasta) {
    enum { NAMED = 3 };
    size_t at = strlen(r->skips), room = sizeof r->skips - at;
    const char *why = fasta->bad[0] ? fasta->bad : "has no residues";
    bool several = pf_config_texts(r->options, "path") + pf_config_texts(r->options, "valid") > 1;
    if (r->skipped++ >= NAMED) return;
    snprintf(r->skips + at, room, "%s'%.60s' in %s%.80s%sline %lld: %s", at > 0 ? "; " : "",
             fasta->name, several ? "'" : "", several ? r->name : "", several ? "' " : "",
             (long long)(fasta->bad[0] ? fasta->bad_line : fasta->name_line), why);
}

static int take(pf_reading *r, const pf_fasta *fasta) {
    for (int64_t i = 0; i < fasta->n; i++) r->bases += r->is_base[fasta->ids[i]];
    r->tokens += fasta->n;
    return r->sequence(r, fasta);
}

/* Says what a careful reader would want to know of the files. */
static void remark(const pf_reading *r, pf_engine *engine) {
    if (r->skipped > 0)
        pf_log(engine, PF_LOG_WARN, "%s: %lld of %lld records left out: %s%s", r->label,
               (long long)r->skipped, (long long)r->records, r->skips,
               r->skipped > 3 ? "; ..." : "");
    if (r->tokens > 0 && r->bases == r->tokens)
        pf_log(engine, PF_LOG_WARN, "%s: only letters of DNA or RNA; they are read as residues",
               r->label);
}

static int read_records(pf_reading *r, pf_fasta *fasta) {
    int64_t skipped = r->skipped;
    int more = 1;
    while (more > 0) {
        more = pf_fasta_next(fasta);
        if (more > 0 && (fasta->n == 0 || fasta->bad[0]))
            leave_out(r, fasta);
        else if (more > 0)
            PF_TRY(take(r, fasta));
    }
    r->records += fasta->count;
    if (more < 0 || r->skipped - skipped < fasta->count) return more;
    return pf_fail(PF_EFORMAT, "%s: no sequences: none of %lld records can be read: %s%s", r->name,
                   (long long)fasta->count, r->skips,
                   fasta->guessed ? "; for plain text say format = \"text\"" : "");
}

static int read_sequences(pf_reading *r, pf_input *input) {
    pf_fasta fasta;
    pf_fasta_begin(&fasta, input, r->vocab);
    fasta.longest = r->longest;
    fasta.skip_bad = r->skip_bad;
    fasta.guessed = strcmp(r->format, "auto") == 0;
    int status = read_records(r, &fasta);
    pf_fasta_end(&fasta);
    return status;
}

/* ---- files ---- */

static void know_bases(pf_reading *r) {
    int16_t map[256];
    pf_vocab_map(r->vocab, map);
    for (const char *c = "ACGTUN"; *c; c++) r->is_base[map[(unsigned char)*c]] = 1;
}

/* The first file says what all of them are. */
static int decide(pf_reading *r, const pf_input *input) {
    bool fasta;
    PF_TRY(pf_format_decide(input, r->format, &fasta));
    if (r->files++ == 0) {
        r->fasta = fasta;
        r->vocab = pf_vocab_find(fasta ? "protein" : "byte");
        know_bases(r);
        return r->begin(r);
    }
    if (fasta == r->fasta) return PF_OK;
    return pf_fail(PF_EFORMAT,
                   "%s: is %s, unlike the files before it: a data set is all FASTA or all text "
                   "(format = \"text\" takes the bytes of all of them)",
                   input->source.name, fasta ? "FASTA" : "text");
}

static int read_input(pf_reading *r, pf_input *input) {
    r->once = r->once || input->source.once;
    PF_TRY(pf_input_next(input));
    PF_TRY(decide(r, input));
    return r->fasta ? read_sequences(r, input) : r->text(r, input);
}

/* The file, or the first of `path`. */
static void name_all(pf_reading *r) {
    int files = pf_config_texts(r->options, "path") + pf_config_texts(r->options, "valid");
    if (files == 1)
        snprintf(r->label, sizeof r->label, "%s", r->name);
    else
        snprintf(r->label, sizeof r->label, "%.500s and %d more",
                 pf_config_text_at(r->options, "path", 0), files - 1);
}

static int read_file(pf_reading *r, pf_engine *engine, const char *path) {
    pf_input input = {0};
    int64_t before = r->bytes;
    snprintf(r->name, sizeof r->name, "%s", path);
    int status = pf_input_open(&input, engine, path);
    if (status >= 0) snprintf(r->name, sizeof r->name, "%s", input.source.name);
    if (status >= 0 && r->files == 0) name_all(r);
    if (status >= 0) status = read_input(r, &input);
    if (status >= 0) status = pf_source_check(&input.source);
    r->bytes = before + input.total;
    pf_input_close(&input);
    return status < 0 ? status : PF_OK;
}

static int read_files(pf_reading *r, pf_engine *engine, const char *which) {
    for (int i = 0; i < pf_config_texts(r->options, which); i++)
        PF_TRY(read_file(r, engine, pf_config_text_at(r->options, which, i)));
    return PF_OK;
}

int pf_reading_run(pf_reading *r, pf_engine *engine) {
    r->apart = pf_config_texts(r->options, "valid") > 0;
    r->valid = true;
    PF_TRY(read_files(r, engine, "valid"));
    r->valid = false;
    PF_TRY(read_files(r, engine, "path"));
    remark(r, engine);
    return PF_OK;
}
