/*
 * fasta.c - the FASTA reader: a byte at a time over chunks, so that a line or a sequence
 * may be as long as it likes without a line buffer. What must hold: no letter is dropped
 * or changed in silence (J reads as X, the tokenizer's rule), and `line` is right for LF,
 * CRLF and CR files.
 */
#include "fasta.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    BYTE_END = -1,
    BYTE_FAILED = -2,
    SURE = 10 /* good records that no text of lines with '>' has */
};

void pf_fasta_begin(pf_fasta *fasta, pf_input *input, const pf_vocab *vocab) {
    memset(fasta, 0, sizeof *fasta);
    fasta->input = input;
    fasta->longest = INT64_MAX;
    fasta->line = 1;
    pf_vocab_map(vocab, fasta->map);
}

void pf_fasta_end(pf_fasta *fasta) {
    pf_heap *heap = fasta->input->source.engine->heap;
    if (fasta->ids) pf_heap_free(heap, fasta->ids, (size_t)fasta->capacity);
    fasta->ids = NULL;
    fasta->capacity = 0;
}

/* The next byte with every line end as '\n', or BYTE_END, or BYTE_FAILED. */
static int next_byte(pf_fasta *f) {
    pf_input *input = f->input;
    if (f->holds) {
        f->holds = false;
        return f->held;
    }
    for (;;) {
        if (input->at == input->n) {
            int more = pf_input_next(input);
            f->failure = more;
            if (more <= 0) return more == 0 ? BYTE_END : BYTE_FAILED;
        }
        int c = input->bytes[input->at++];
        bool joined = c == '\n' && f->after_cr;
        f->after_cr = c == '\r';
        if (!joined) return c == '\r' ? '\n' : c;
    }
}

static int skip_line(pf_fasta *f) {
    int c;
    do c = next_byte(f);
    while (c >= 0 && c != '\n');
    if (c == '\n') f->line++;
    return c;
}

/* Reads the header after its '>': the first word is the name, in printable ASCII. */
static int read_header(pf_fasta *f) {
    int c = next_byte(f), n = 0;
    while (c == ' ' || c == '\t') c = next_byte(f);
    while (c >= 0 && c != '\n' && c != ' ' && c != '\t') {
        if (n < PF_FASTA_NAME - 1) f->name[n++] = (char)(c > 32 && c < 127 ? c : '?');
        c = next_byte(f);
    }
    f->name[n] = 0;
    f->name_line = f->line;
    f->count++;
    if (n == 0) snprintf(f->name, PF_FASTA_NAME, "record-%lld", (long long)f->count);
    if (c == '\n')
        f->line++;
    else if (c >= 0)
        c = skip_line(f);
    return c;
}

/* The record is bad: to be left out, or an error. What is wrong is kept, the first thing only. */
static int spoil(pf_fasta *f, int64_t line, const char *format, ...) {
    if (f->bad[0]) return PF_OK;
    va_list args;
    va_start(args, format);
    vsnprintf(f->bad, sizeof f->bad, format, args);
    va_end(args);
    f->bad_line = line;
    if (f->skip_bad) return PF_OK;
    bool doubt = f->guessed && f->sound < SURE; /* it may be no FASTA at all */
    return pf_fail(PF_EFORMAT,
                   "%s:%lld: '%s': %s; correct this record, or leave such ones out (skip_bad = "
                   "true)%s",
                   f->input->source.name, (long long)line, f->name, f->bad,
                   doubt ? "; for plain text say format = \"text\"" : "");
}

static int bad_letter(pf_fasta *f, int c, int64_t line) {
    char shown[16];
    const char *why = "is no amino-acid letter";
    pf_byte_text(c, shown);
    if (c == '*') why = "(a stop) stands inside the sequence";
    if (c == '-' || c == '.') why = "is a gap: remove the gaps of an alignment first";
    return spoil(f, line, "%s after %lld residues %s", shown, (long long)f->n, why);
}

static int add_residue(pf_fasta *f, int id) {
    if (f->stop_line) return bad_letter(f, '*', f->stop_line);
    if (f->n >= f->longest)
        return spoil(f, f->line, "has more than %lld residues (option 'longest')",
                     (long long)f->longest);
    if (f->n == f->capacity)
        PF_TRY(pf_heap_grow(f->input->source.engine->heap, (void **)&f->ids, &f->capacity, f->n + 1,
                            1));
    f->ids[f->n++] = (uint8_t)id;
    return PF_OK;
}

/* Reads a line of residues that begins with c; of a bad record only to its end. 0, or a status. */
static int read_residues(pf_fasta *f, int c) {
    for (; c >= 0 && c != '\n'; c = next_byte(f)) {
        int id = f->map[c];
        if (f->bad[0]) continue;
        if (id >= 0) {
            PF_TRY(add_residue(f, id));
        } else if (c == '*' && !f->stop_line) {
            f->stop_line = f->line;
        } else if (c != ' ' && c != '\t') {
            PF_TRY(bad_letter(f, c, f->line));
        }
    }
    if (c == '\n') f->line++;
    return c == BYTE_FAILED ? f->failure : PF_OK;
}

/* The first byte of a line behind blanks and byte order marks. What only begins like such a mark
 * is no letter: its first byte is given, which spoils the record. */
static int begin_line(pf_fasta *f) {
    static const uint8_t mark[3] = {0xEF, 0xBB, 0xBF};
    int c = next_byte(f);
    for (;;) {
        while (c == ' ' || c == '\t') c = next_byte(f);
        if (c != mark[0]) return c;
        for (int i = 1; i < 3; i++) {
            f->held = next_byte(f);
            if (f->held == mark[i]) continue;
            f->holds = true;
            return mark[0];
        }
        c = next_byte(f);
    }
}

static int no_header(const pf_fasta *f, int c) {
    char shown[16];
    pf_byte_text(c, shown);
    return pf_fail(PF_EFORMAT,
                   "%s:%lld: %s before the first '>': no FASTA file; for plain text say "
                   "format = \"text\"",
                   f->input->source.name, (long long)f->line, shown);
}

/* Reads lines until the next '>' (1), the end (0), or a failure. */
static int read_record(pf_fasta *f) {
    for (;;) {
        int c = begin_line(f);
        if (c == BYTE_END) return 0;
        if (c == BYTE_FAILED) return f->failure;
        if (c == '>') return 1;
        if (c == '\n') {
            f->line++;
        } else if (c == ';' || c == '#') {
            if (skip_line(f) == BYTE_FAILED) return f->failure;
        } else if (f->count == 0) {
            return no_header(f, c);
        } else {
            PF_TRY(read_residues(f, c));
        }
    }
}

int pf_fasta_next(pf_fasta *f) {
    int more = 1;
    f->n = f->stop_line = 0;
    f->bad[0] = 0;
    if (!f->header_waits) more = f->count == 0 ? read_record(f) : 0;
    if (more <= 0) return more;
    f->header_waits = false;
    if (read_header(f) == BYTE_FAILED) return f->failure;
    more = read_record(f);
    if (more < 0) return more;
    f->header_waits = more == 1;
    f->sound += f->n > 0 && !f->bad[0];
    return 1;
}
