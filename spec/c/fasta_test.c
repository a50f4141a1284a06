/*
 * fasta_test.c - tokenizers, and reading FASTA, text and gzip: what is accepted, and
 * what is refused with which words.
 */
#include <zlib.h>

#include "data_support.h"

static void write_packed(const char *name, const void *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    gzFile file = gzopen(path, "wb");
    CHECK(file && gzwrite(file, bytes, (unsigned)n) == (int)n);
    CHECK(gzclose(file) == Z_OK);
}

/* The file written last must be refused with `status` and `words` in the message. */
static void refused(int status, const char *words) {
    pf_data *data = NULL;
    CHECK_FAILS(status, open_with(&data, 0, NULL, 0));
    CHECK(data == NULL && says(words));
}

/* ---- tokenizers ---- */

static void test_tokenizers(void) {
    int32_t ids[64];
    char text[128];
    size_t n = 64, bytes = 128;
    CHECK(pf_tokenizer_size("byte") == 256 && pf_tokenizer_size("protein") == 29);
    CHECK_FAILS(PF_ENOTFOUND, pf_tokenizer_size("word"));
    CHECK(pf_tokenizer_special("protein", "begin") == 1);
    CHECK(pf_tokenizer_special("protein", "unknown") == 24);
    CHECK(pf_tokenizer_special("byte", "mask") == 0);
    CHECK_FAILS(PF_ENOTFOUND, pf_tokenizer_special("byte", "begin"));
    CHECK_OK(pf_tokenizer_encode("protein", "AcyXJ<mask>o*", 13, ids, &n));
    const int32_t expected[] = {4, 5, 23, 24, 24, 3, 28};
    CHECK(n == 7 && memcmp(ids, expected, sizeof expected) == 0);
    CHECK_OK(pf_tokenizer_decode("protein", ids, n, text, &bytes));
    CHECK(bytes == 12 && memcmp(text, "ACYXX<mask>O", 12) == 0);
    n = 0;
    CHECK_OK(pf_tokenizer_encode("protein", "ACD", 3, NULL, &n));
    CHECK(n == 3);
    n = 2;
    CHECK_FAILS(PF_EINVAL, pf_tokenizer_encode("protein", "ACD", 3, ids, &n));
    n = 64;
    CHECK_FAILS(PF_EFORMAT, pf_tokenizer_encode("protein", "AC1D", 4, ids, &n));
    CHECK(says("'1'") && says("position 2"));
    CHECK_FAILS(PF_EFORMAT, pf_tokenizer_encode("protein", "A*D", 3, ids, &n));
    CHECK(says("'*'") && says("position 1"));
    CHECK_FAILS(PF_EFORMAT, pf_tokenizer_encode("protein", "A<bad>", 6, ids, &n));
    CHECK_FAILS(PF_EFORMAT, pf_tokenizer_encode("protein", "A\x01", 2, ids, &n));
    CHECK(says("byte 0x01"));
    ids[0] = 29;
    bytes = 128;
    CHECK_FAILS(PF_EINVAL, pf_tokenizer_decode("protein", ids, 1, text, &bytes));
    unsigned char all[256];
    int32_t wide[256];
    char back[256];
    for (int i = 0; i < 256; i++) all[i] = (unsigned char)i;
    n = bytes = 256;
    CHECK_OK(pf_tokenizer_encode("byte", (const char *)all, 256, wide, &n));
    CHECK(n == 256 && wide[255] == 255);
    CHECK_OK(pf_tokenizer_decode("byte", wide, 256, back, &bytes));
    CHECK(bytes == 256 && memcmp(all, back, 256) == 0);
}

/* ---- FASTA ---- */

static bool document_is(pf_data *data, int64_t index, const char *name, const char *residues) {
    pf_tensor *ids = NULL;
    const char *found = "";
    char text[512];
    size_t bytes = sizeof text;
    CHECK_OK(pf_data_document(&ids, &found, engine, data, PF_ALL, index));
    CHECK_OK(
        pf_tokenizer_decode("protein", ids_of(ids), (size_t)pf_tensor_numel(ids), text, &bytes));
    char expected[512];
    snprintf(expected, sizeof expected, "<begin>%s<end>", residues);
    bool good =
        strcmp(found, name) == 0 && bytes == strlen(expected) && memcmp(text, expected, bytes) == 0;
    if (!good) fprintf(stderr, "  '%s' %.*s\n", found, (int)bytes, text);
    pf_tensor_release(&ids);
    return good;
}

static const char *const MIXED =
    "; a comment\n>one first protein\nACD\n\n efg \n; between\nHIK*\n>  two\tx\nACDEFGHIK\n"
    ">three\nWYJ\n>\nMMM";

static void check_mixed(void) {
    pf_data *data = NULL;
    CHECK_OK(open_with(&data, 0, NULL, 0));
    pf_data_info info = info_of(data, PF_ALL);
    CHECK(info.documents == 3 && info.duplicates == 1 && info.tokens == 10 + 4 + 4);
    CHECK(strcmp(info.format, "fasta") == 0 && strcmp(info.tokenizer, "protein") == 0);
    CHECK(document_is(data, 0, "one", "ACDEFGHIK"));
    CHECK(document_is(data, 1, "three", "WYX"));
    CHECK(document_is(data, 2, "record-4", "MMM"));
    pf_data_close(&data);
    CHECK(data == NULL);
}

/* LF, CRLF and CR files, a byte order mark and gzip all read the same. */
static void test_fasta_reads(void) {
    char other[512], *crlf = other, mark[512];
    write_text("mixed.fasta", MIXED);
    check_mixed();
    for (const char *c = MIXED; *c; c++) {
        if (*c == '\n') *crlf++ = '\r';
        *crlf++ = *c;
    }
    *crlf = 0;
    write_text("crlf.fasta", other);
    check_mixed();
    snprintf(other, sizeof other, "%s", MIXED);
    for (char *c = other; *c; c++) *c = *c == '\n' ? '\r' : *c;
    write_text("cr.fasta", other);
    check_mixed();
    snprintf(mark, sizeof mark, "\xEF\xBB\xBF%s", MIXED);
    write_text("mark.fasta", mark);
    check_mixed();
    write_packed("mixed.fasta.gz", MIXED, strlen(MIXED));
    check_mixed();
}

/* What stands before the first record, and between the records of files that were joined. */
static void test_fasta_begins(void) {
    static const char *const lines[] = {"\n",
                                        "\r\n",
                                        " \n\t\n",
                                        "# release 7\n",
                                        "#\r\n\r\n; old\r\n",
                                        "\xEF\xBB\xBF\n# release\n",
                                        "; a\r# b\r",
                                        "  "};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[200];
        snprintf(text, sizeof text, "%s>a\nacd\n%s>b\nEF G*\n%s", lines[i], lines[i], lines[i]);
        pf_data *data = NULL;
        write_text("before.fasta", text);
        CHECK_OK(open_with(&data, 0, NULL, 0));
        const char *kind = "";
        CHECK_OK(pf_data_kind(&kind, engine, path));
        CHECK(strcmp(kind, "fasta") == 0 && strcmp(info_of(data, PF_ALL).format, "fasta") == 0);
        CHECK(info_of(data, PF_ALL).documents == 2 && info_of(data, PF_ALL).skipped == 0);
        CHECK(document_is(data, 0, "a", "ACD") && document_is(data, 1, "b", "EFG"));
        pf_data_close(&data);
    }
    write_text("marks.fasta", ">a\nACD\n\xEF\xBB\xBF>b\nEFG\n");
    pf_data *data = NULL;
    CHECK_OK(open_with(&data, 0, NULL, 0));
    CHECK(document_is(data, 1, "b", "EFG"));
    pf_data_close(&data);
    write_text("half.fasta", ">a\nACD\n\xEF\n>b\nEFG\n");
    refused(PF_EFORMAT, "half.fasta:3: 'a': byte 0xef");
}

/* Opens the file written last without its bad records. */
static int open_skipping(pf_data **data, int longest) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    pf_config_set_bool(options, "skip_bad", true);
    if (longest) pf_config_set_number(options, "longest", longest);
    int status = pf_data_open(data, engine, options);
    pf_config_free(options);
    return status;
}

/* A bad record, of whatever kind and wherever it stands, is left out alone, and counted. */
static void test_skip_bad(void) {
    enum { KINDS = 6 };
    static const struct {
        const char *record, *why;
    } bad[KINDS] = {{">x\nMK*V\nMM\n", "'x' in line 2: '*' after 2 residues (a stop)"},
                    {">x\nM-K\n", "'-' after 1 residues is a gap"},
                    {">x\nMK\nM7K*\n\nA\n", "in line 3: '7' after 3 residues"},
                    {">x\n", "'x' in line 1: has no residues"},
                    {">x\n\xEF\n", "byte 0xef"},
                    {">x\nACDEF\nGHIKLMN\n", "in line 3: has more than 9 residues"}};
    char text[200], expected[100];
    for (int i = 0; i < KINDS; i++) {
        pf_data *data = NULL;
        for (int place = 0; place < 3; place++) {
            snprintf(text, sizeof text, "%s>a\nACD\n%s>b\nEFG\n%s", place == 0 ? bad[i].record : "",
                     place == 1 ? bad[i].record : "", place == 2 ? bad[i].record : "");
            write_text("bad.fasta", text);
            CHECK_OK(open_skipping(&data, 9));
            pf_data_info info = info_of(data, PF_VALID);
            CHECK(info.skipped == 1 && info_of(data, PF_ALL).documents == 2);
            CHECK(place > 0 || strstr(info.skips, bad[i].why));
            if (place == 0 && !strstr(info.skips, bad[i].why))
                fprintf(stderr, "  %s\n", info.skips);
            CHECK(document_is(data, 0, "a", "ACD") && document_is(data, 1, "b", "EFG"));
            pf_data_close(&data);
        }
        snprintf(expected, sizeof expected, "no sequences: none of 2 records can be read: %s",
                 "'x'");
        snprintf(text, sizeof text, "%s%s", bad[i].record, bad[i].record);
        write_text("all.fasta", text);
        CHECK_FAILS(PF_EFORMAT, open_skipping(&data, 9));
        CHECK(says(expected) && says(bad[i].why));
    }
}

static void test_fasta_errors(void) {
    char many[200] = "";
    for (int i = 0; i < 10; i++) strcat(many, ">J0\nACD\n");
    strcat(many, ">J1 odd\r\nACD\r\nAC7E\r\n");
    write_text("x.fasta", many);
    refused(PF_EFORMAT, "x.fasta:23: 'J1': '7' after 5 residues");
    CHECK(says("skip_bad = true") && !strstr(pf_last_error(), "format ="));
    write_text("mail.txt", "> He said\n> this\nAnd she\n> and that\nand, she left\n");
    refused(PF_EFORMAT, "mail.txt:5: 'and': ',' after 3 residues");
    CHECK(says("for plain text say format = \"text\""));
    write_text("mail.txt", "> He said: \"yes\"\n\nAnd she, too, left.\n");
    refused(PF_EFORMAT, "mail.txt:3: 'He': ','");
    CHECK(says("for plain text say format = \"text\""));
    write_text("stop.fasta", ">a\nAC*\n\nDE\n");
    refused(PF_EFORMAT, "stop.fasta:2: 'a': '*'");
    write_text("gap.fasta", ">a\nAC-DE\n");
    refused(PF_EFORMAT, "gap");
    write_text("twice.fasta", ">a\nACDE**\n");
    refused(PF_EFORMAT, "twice.fasta:2");
    write_bytes("nul.fasta", ">a\nAC\0D\n", 8);
    refused(PF_EFORMAT, "byte 0x00");
    write_text("none.fasta", ">a\n>b\n\n");
    refused(PF_EFORMAT, "no sequences");
    write_text("empty.fasta", "");
    refused(PF_EFORMAT, "empty");
    write_text("plain.txt", "Hello there\n");
    pf_data *data = NULL;
    CHECK_FAILS(PF_EFORMAT, open_with(&data, 0, "fasta", 0));
    CHECK(says("plain.txt:1") && says("'H'"));
    CHECK_FAILS(PF_EINVAL, open_with(&data, 0, "sequence", 0));
    CHECK_FAILS(PF_EINVAL, open_with(&data, 1, NULL, 0));
    snprintf(path, sizeof path, "%s/missing.fasta", folder);
    refused(PF_ENOTFOUND, "missing.fasta");
    snprintf(path, sizeof path, "%s", folder);
    refused(PF_EIO, "folder");
    CHECK_FAILS(PF_EINVAL, pf_data_open(&data, engine, NULL));
}

/* The checksum of what the file written last holds. */
static uint64_t checksum(void) {
    pf_data *data = NULL;
    CHECK_OK(open_with(&data, 0, NULL, 0));
    uint64_t train = info_of(data, PF_TRAIN).checksum, all = info_of(data, PF_ALL).checksum;
    CHECK(train == all);
    pf_data_close(&data);
    return all;
}

/* It tells other contents of equal size, another order and other borders apart, not how the same
 * is written. */
static void test_checksum(void) {
    enum { N = 5 };
    static const char *const others[N] = {">a\nACDEF\n>b\nGHIKM\n", ">b\nGHIKL\n>a\nACDEF\n",
                                          ">a\nACDEFG\n>b\nHIKL\n", ">a\nACDEF\n>b\nGHIKL\n>c\nA\n",
                                          ">a\nACDEF\n"};
    write_text("sum.fasta", ">a\nACDEF\n>b\nGHIKL\n");
    uint64_t sum = checksum();
    for (int i = 0; i < N; i++) {
        write_text("sum.fasta", others[i]);
        CHECK(checksum() != sum);
    }
    static const char again[] = ">x\r\nacd\r\nef\r\n>y\r\nGHIKL";
    write_packed("sum.fasta.gz", again, sizeof again - 1);
    CHECK(checksum() == sum);
    write_text("sum.txt", "two texts of equal size");
    sum = checksum();
    write_text("sum.txt", "two texts of equal sizE");
    CHECK(checksum() != sum);
}

static void test_longest(void) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_data *data = NULL;
    write_text("long.fasta", ">a\nACDEF\nGHIKL\n");
    pf_config_set_string(options, "path", path);
    pf_config_set_number(options, "longest", 9);
    CHECK_FAILS(PF_EFORMAT, pf_data_open(&data, engine, options));
    CHECK(says("long.fasta:3: 'a'"));
    pf_config_set_number(options, "longest", 10);
    CHECK_OK(pf_data_open(&data, engine, options));
    pf_data_close(&data);
    pf_config_free(options);
}

/* A gzip file cut anywhere, or with a byte changed, is refused. */
static void test_gzip_damage(void) {
    enum { N = 300000 };
    unsigned char *text = malloc(N), *packed = malloc(N + 1000);
    uint32_t state = 1;
    for (int i = 0; i < N; i++) text[i] = (unsigned char)('a' + (next_random(&state) >> 8) % 26);
    write_packed("t.txt.gz", text, N);
    FILE *file = fopen(path, "rb");
    size_t size = fread(packed, 1, N + 1000, file);
    fclose(file);
    const size_t cuts[] = {6, 12, size / 3, size - 9, size - 8, size - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        char words[64];
        snprintf(words, sizeof words, "cut short after %zu bytes", cuts[i]);
        write_bytes("cut.txt.gz", packed, cuts[i]);
        refused(PF_EFORMAT, words);
    }
    packed[size - 6] ^= 1; /* the checksum */
    write_bytes("crc.txt.gz", packed, size);
    refused(PF_EFORMAT, "damaged");
    packed[size - 6] ^= 1;
    packed[size / 2] ^= 64;
    write_bytes("bit.txt.gz", packed, size);
    refused(PF_EFORMAT, "gzip data is");
    free(text);
    free(packed);
}

static void test_too_small(void) {
    pf_data *data = NULL;
    pf_batch batch = {.size = sizeof batch};
    write_text("tiny.txt", "ten bytes!");
    CHECK_OK(open_with(&data, 8, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_data_batch(&batch, engine, data, PF_TRAIN, 0, 2, false, 1));
    CHECK(says("tiny.txt") && says("8 tokens") && says("64"));
    CHECK_OK(pf_data_batch(&batch, engine, data, PF_ALL, 0, 2, false, 1)); /* eval may */
    CHECK(batch.tokens == 9 && batch.rows == 2);
    pf_batch_release(&batch);
    pf_data_close(&data);
    write_text("one.fasta", ">a\nACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY\n"
                            "ACDEFGHIKLMNPQRSTVWY\n>b\nACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRST\n"
                            "VWYACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY\n");
    CHECK_OK(open_with(&data, 0, NULL, 0));
    CHECK_FAILS(PF_EFORMAT, pf_data_batch(&batch, engine, data, PF_VALID, 0, 2, false, 1));
    CHECK(says("one distinct sequence"));
    pf_data_close(&data);
}

int main(void) {
    begin_data_test();
    test_tokenizers();
    test_fasta_reads();
    test_fasta_begins();
    test_skip_bad();
    test_fasta_errors();
    test_checksum();
    test_longest();
    test_gzip_damage();
    test_too_small();
    return end_data_test();
}
