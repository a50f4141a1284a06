/*
 * format.c - a table of first bytes, and three looks: at the bytes that no text has many of (zeros,
 * which UTF-16 and UTF-32 are full of, and other control characters), at the first line that is no
 * comment, and for a text at what its lines are.
 */
#include "format.h"

#include <stdio.h>
#include <string.h>

/* Something that is neither text nor FASTA. */
typedef struct {
    const char *bytes; /* what it has at `at` */
    int n, at;
    const char *name;
    const char *first; /* what has to be done first; NULL: nothing helps */
    const char *run;   /* a command that does it, given the file's name behind it */
    const char *piped; /* the command in a pipe, where it is another one */
} other_kind;

#define UNPACK "unpack it first"
#define RECODE "make it UTF-8 first"

static const other_kind KINDS[] = {
    {"\xFD\x37zXZ\0", 6, 0, "xz data", UNPACK, "xz -dc", NULL},
    {"\x5D\0\0", 3, 0, "lzma data", UNPACK, "xz -dc", NULL},
    {"LZIP\1", 5, 0, "lzip data", UNPACK, "lzip -dc", NULL},
    {"1AY&SY", 6, 4, "bzip2 data", UNPACK, "bzip2 -dc", NULL},
    {"\x17rE8P\x90", 6, 4, "bzip2 data", UNPACK, "bzip2 -dc", NULL},
    {"\x28\xB5\x2F\xFD", 4, 0, "zstd data", UNPACK, "zstd -dc", NULL},
    {"\x04\x22\x4D\x18", 4, 0, "lz4 data", UNPACK, "lz4 -dc", NULL},
    {"\x02\x21\x4C\x18", 4, 0, "lz4 data", UNPACK, "lz4 -dc", NULL},
    {"\x89LZO\0\r\n\x1A\n", 9, 0, "lzop data", UNPACK, "lzop -dc", NULL},
    {"\x1F\x8B", 2, 0, "gzip data once more", UNPACK, "gzip -dc", NULL},
    {"\x1F\x9D", 2, 0, "compress (.Z) data", UNPACK, "gzip -dc", NULL},
    {"\x1F\x1E", 2, 0, "pack (.z) data", UNPACK, "gzip -dc", NULL},
    {"\x1F\xA0", 2, 0, "pack (.z) data", UNPACK, "gzip -dc", NULL},
    {"PK\3\4", 4, 0, "a zip archive", UNPACK, "unzip -p", "funzip"},
    {"7z\xBC\xAF\x27\x1C", 6, 0, "a 7z archive", UNPACK, "7z x -so", NULL},
    {"Rar!\x1A\x07", 6, 0, "a rar archive", UNPACK, "unrar p -inul", NULL},
    {"ustar", 5, 257, "a tar archive", UNPACK, "tar -xOf", "tar -xOf -"},
    {"\xFF\xFE\0\0", 4, 0, "UTF-32 text", RECODE, "iconv -f UTF-32 -t UTF-8", NULL},
    {"\0\0\xFE\xFF", 4, 0, "UTF-32 text", RECODE, "iconv -f UTF-32 -t UTF-8", NULL},
    {"\xFF\xFE", 2, 0, "UTF-16 text", RECODE, "iconv -f UTF-16 -t UTF-8", NULL},
    {"\xFE\xFF", 2, 0, "UTF-16 text", RECODE, "iconv -f UTF-16 -t UTF-8", NULL},
    {"BAM\1", 4, 0, "a BAM alignment", NULL, NULL, NULL},
    {"%PDF-", 5, 0, "a PDF document", NULL, NULL, NULL},
    {"\x89PNG\r\n\x1A\n", 8, 0, "a PNG picture", NULL, NULL, NULL},
    {"\xFF\xD8\xFF", 3, 0, "a JPEG picture", NULL, NULL, NULL},
    {"\x7F\x45LF", 4, 0, "a program (ELF)", NULL, NULL, NULL},
    {"SQLite format 3\0", 16, 0, "an SQLite database", NULL, NULL, NULL},
    {"\x89HDF\r\n\x1A\n", 8, 0, "an HDF5 file", NULL, NULL, NULL},
    {"\x93NUMPY", 6, 0, "a NumPy array", NULL, NULL, NULL},
};

/* What shows in the counts of bytes. */
enum { UTF16LE, UTF16BE, UTF32LE, UTF32BE, BINARY };
static const other_kind COUNTED[] = {
    {.name = "UTF-16 text", .first = RECODE, .run = "iconv -f UTF-16LE -t UTF-8"},
    {.name = "UTF-16 text", .first = RECODE, .run = "iconv -f UTF-16BE -t UTF-8"},
    {.name = "UTF-32 text", .first = RECODE, .run = "iconv -f UTF-32LE -t UTF-8"},
    {.name = "UTF-32 text", .first = RECODE, .run = "iconv -f UTF-32BE -t UTF-8"},
    {.name = "binary data"},
};

static bool is_kind(const other_kind *kind, const uint8_t *bytes, size_t n) {
    return n >= (size_t)kind->at + (size_t)kind->n &&
           memcmp(bytes + kind->at, kind->bytes, (size_t)kind->n) == 0;
}

/* Nearly all of the zeros there are, and at least one in a hundred bytes. */
static bool zeros_stand(int64_t zeros, int64_t all, size_t n) {
    return zeros >= 3 && zeros * 20 >= all * 19 && zeros * 100 >= (int64_t)n;
}

/* UTF-16 and UTF-32 have their zeros in the same bytes of each unit. */
static const other_kind *counted_kind(const uint8_t *bytes, size_t n) {
    int64_t zeros[4] = {0}, controls = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = bytes[i];
        zeros[i % 4] += c == 0;
        controls += c < 32 && !(c >= 7 && c <= 13) && c != 26 && c != 27;
    }
    int64_t odd = zeros[1] + zeros[3], even = zeros[0] + zeros[2], all = odd + even;
    bool wide = all * 2 > (int64_t)n; /* three bytes of four, or nearly */
    if (wide && zeros[0] * 20 < all) return &COUNTED[UTF32LE];
    if (wide && zeros[3] * 20 < all) return &COUNTED[UTF32BE];
    if (n >= 6 && zeros_stand(odd, all, n)) return &COUNTED[UTF16LE];
    if (n >= 6 && zeros_stand(even, all, n)) return &COUNTED[UTF16BE];
    return controls * 20 > (int64_t)n && controls >= 3 ? &COUNTED[BINARY] : NULL;
}

static const other_kind *find_other(const uint8_t *bytes, size_t n) {
    for (int i = 0; i < PF_COUNT(KINDS); i++)
        if (is_kind(&KINDS[i], bytes, n)) return &KINDS[i];
    return counted_kind(bytes, n);
}

/* Names it and says what to do. Scripts read the commands in single quotes, in their order. */
static int refuse(const pf_input *input, const other_kind *kind, bool may_be_text) {
    char advice[96] = "";
    if (kind->first && input->gzip)
        snprintf(advice, sizeof advice, "; %s ('gzip -dc' and '%s')", kind->first,
                 kind->piped ? kind->piped : kind->run);
    else if (kind->first)
        snprintf(advice, sizeof advice, "; %s ('%s')", kind->first,
                 kind->piped && input->source.waits ? kind->piped : kind->run);
    return pf_fail(PF_EFORMAT, "%s: is %s%s, neither FASTA nor text%s%s", input->source.name,
                   kind->name, input->gzip ? " in gzip" : "",
                   may_be_text ? " (format = \"text\" takes its bytes as they are)" : "", advice);
}

/* ---- FASTA or text ---- */

static bool is_blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static size_t line_end(const uint8_t *bytes, size_t at, size_t n) {
    while (at < n && bytes[at] != '\n' && bytes[at] != '\r') at++;
    return at;
}

static bool is_mark(const uint8_t *bytes, size_t at, size_t n) {
    return n - at >= 3 && memcmp(bytes + at, "\xEF\xBB\xBF", 3) == 0;
}

/* The first byte that is neither blank, nor in a comment, nor of a byte order mark; n: none. */
static size_t first_of_record(const uint8_t *bytes, size_t n) {
    size_t at = 0;
    while (at < n) {
        if (is_mark(bytes, at, n))
            at += 3;
        else if (is_blank(bytes[at]))
            at++;
        else if (bytes[at] == '#' || bytes[at] == ';')
            at = line_end(bytes, at, n);
        else
            break;
    }
    return at;
}

static bool is_letter(uint8_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

static bool is_residues(const uint8_t *bytes, size_t at, size_t end) {
    while (at < end && (is_letter(bytes[at]) || bytes[at] == '*')) at++;
    return at == end;
}

/* Is this FASTA behind lines of something else? From the first '>' on nearly all is headers and
 * lines of nothing but letters, and these are the most; no text in words is like that. */
static bool seems_fasta(const uint8_t *bytes, size_t n) {
    size_t headers = 0, letters[2] = {0, 0}, other = 0;
    for (size_t at = 0, end; at < n; at = end + 1) {
        end = line_end(bytes, at, n);
        bool header = bytes[at] == '>';
        headers += header;
        if (headers == 0) continue;
        if (header || is_residues(bytes, at, end))
            letters[header] += end - at;
        else
            other += end - at;
    }
    size_t all = letters[0] + letters[1] + other;
    return headers >= 2 && letters[0] * 2 > all && other * 20 < all;
}

int pf_format_decide(const pf_input *input, const char *asked, bool *fasta) {
    const uint8_t *bytes = input->bytes;
    size_t n = input->n;
    bool any = strcmp(asked, "auto") == 0;
    *fasta = strcmp(asked, "fasta") == 0;
    if (n == 0) return pf_fail(PF_EFORMAT, "%s: the file is empty", input->source.name);
    if (strcmp(asked, "text") == 0) return PF_OK;
    const other_kind *kind = find_other(bytes, n);
    if (kind) return refuse(input, kind, any);
    if (!any) return PF_OK;
    size_t at = first_of_record(bytes, n);
    if (at == n && n == PF_INPUT_CHUNK)
        return pf_fail(PF_EFORMAT,
                       "%s: its first %d bytes are blanks and comments: say format = \"fasta\" or "
                       "format = \"text\"",
                       input->source.name, PF_INPUT_CHUNK);
    *fasta = at < n && bytes[at] == '>';
    if (!*fasta && seems_fasta(bytes, n))
        return pf_fail(PF_EFORMAT,
                       "%s: seems to be FASTA, but other lines stand before the first '>': take "
                       "them out, or say format = \"text\"",
                       input->source.name);
    return PF_OK;
}
