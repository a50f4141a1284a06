/*
 * input_test.c - where data come from and what they are: pipes, FIFOs, the standard input, devices;
 * gzip in all its shapes; files that are neither text nor FASTA; the memory that reading takes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <zlib.h>

#include "data_support.h"
#include "source.h"

/* ---- helpers ---- */

static const char PROTEINS[] = ">a\nMKLV\n>b\nMKLI\n";

static size_t pack(void *packed, size_t room, const void *bytes, size_t n) {
    z_stream z = {0};
    MUST(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)n;
    z.next_out = packed;
    z.avail_out = (uInt)room;
    MUST(deflate(&z, Z_FINISH) == Z_STREAM_END);
    size_t size = room - z.avail_out;
    deflateEnd(&z);
    return size;
}

static void refused(int status, const char *words) {
    pf_data *data = NULL;
    CHECK_FAILS(status, open_with(&data, 0, NULL, 0));
    CHECK(data == NULL && says(words));
}

/* The file at `path` is FASTA with so many records. */
static void is_fasta(int64_t documents) {
    pf_data *data = NULL;
    CHECK_OK(open_with(&data, 0, NULL, 0));
    pf_data_info info = info_of(data, PF_ALL);
    CHECK(strcmp(info.format, "fasta") == 0 && info.documents == documents);
    pf_data_close(&data);
}

/* What a thread writes into a pipe, in pieces. */
typedef struct {
    int fd;
    const char *fifo; /* opened for writing when fd < 0 */
    const char *bytes;
    size_t n, piece;
    bool endless;
} writing;

static void *write_pieces(void *context) {
    writing *w = context;
    if (w->fd < 0) w->fd = open(w->fifo, O_WRONLY);
    do {
        for (size_t at = 0; at < w->n; at += w->piece) {
            size_t n = w->n - at < w->piece ? w->n - at : w->piece;
            if (write(w->fd, w->bytes + at, n) != (ssize_t)n) w->endless = false;
        }
    } while (w->endless);
    close(w->fd);
    return NULL;
}

/* ---- pipes and devices ---- */

static void test_fifo(void) {
    snprintf(path, sizeof path, "%s/fifo", folder);
    CHECK(mkfifo(path, 0600) == 0);
    char fifo[sizeof path];
    memcpy(fifo, path, sizeof fifo);
    for (size_t piece = 1; piece < 20; piece += 6) {
        writing w = {.fd = -1, .fifo = fifo, .bytes = PROTEINS, .n = sizeof PROTEINS - 1};
        w.piece = piece;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, write_pieces, &w) == 0);
        pf_data *data = NULL;
        CHECK_OK(open_with(&data, 0, NULL, 0));
        pf_data_info info = info_of(data, PF_ALL);
        CHECK(info.documents == 2 && info.once && strcmp(info.format, "fasta") == 0);
        pf_data_close(&data);
        pthread_join(thread, NULL);
    }
    const char *kind = NULL;
    CHECK_FAILS(PF_EIO, pf_data_kind(&kind, engine, fifo)); /* looking would take from it */
    CHECK(says("is read once"));
}

/* A FIFO that nobody writes into is waited for until the host cancels. */
static void test_cancel(void) {
    static atomic_int cancel;
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *usual = engine;
    options.cancel = &cancel;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    atomic_store(&cancel, 1);
    snprintf(path, sizeof path, "%s/silent", folder);
    CHECK(mkfifo(path, 0600) == 0);
    refused(PF_ECANCEL, "cancel");
    write_text("cancel.txt", "a text that could be read at once");
    refused(PF_ECANCEL, "cancel");
    pf_engine_close(&engine);
    engine = usual;
}

/* "-" and /dev/stdin are read from where they stand, pipe or file. */
static void test_standard_input(void) {
    static const char *const names[] = {"-", "/dev/stdin"};
    int kept = dup(STDIN_FILENO);
    for (int i = 0; i < 4; i++) {
        int ends[2];
        if (i % 2 == 0) {
            CHECK(pipe(ends) == 0);
            CHECK(write(ends[1], PROTEINS, sizeof PROTEINS - 1) == sizeof PROTEINS - 1);
            close(ends[1]);
        } else {
            write_text("stdin.fasta", PROTEINS);
            ends[0] = open(path, O_RDONLY);
        }
        CHECK(dup2(ends[0], STDIN_FILENO) == STDIN_FILENO);
        close(ends[0]);
        snprintf(path, sizeof path, "%s", names[i / 2]);
        pf_data *data = NULL;
        CHECK_OK(open_with(&data, 0, NULL, 0));
        CHECK(info_of(data, PF_ALL).documents == 2 && info_of(data, PF_ALL).once);
        pf_data_close(&data);
        refused(PF_EFORMAT, "the standard input: the file is empty"); /* it has been read */
    }
    if (kept >= 0) {
        dup2(kept, STDIN_FILENO);
        close(kept);
    }
}

static void test_devices(void) {
    static const char *const devices[] = {"/dev/zero", "/dev/urandom", "/dev/null"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s", devices[i]);
        refused(PF_EIO, "is a device");
    }
    char link[sizeof path];
    snprintf(link, sizeof link, "%s/zero", folder);
    CHECK(symlink("/dev/zero", link) == 0);
    memcpy(path, link, sizeof path);
    refused(PF_EIO, "is a device");
}

/* A file that somebody writes while it is read is no data set. */
static void test_changed(void) {
    pf_source source;
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 2000}};
    write_text("changed.fa", PROTEINS);
    CHECK_OK(pf_source_open(&source, engine, path));
    CHECK_OK(pf_source_check(&source));
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_FAILS(PF_EIO, pf_source_check(&source));
    CHECK(says("changed.fa: was changed while it was read"));
    pf_source_close(&source);
    is_fasta(2);
}

/* ---- gzip ---- */

static void test_members(void) {
    unsigned char bytes[4096] = {0};
    size_t one = pack(bytes, sizeof bytes, PROTEINS, sizeof PROTEINS - 1), at = one;
    write_bytes("one.gz", bytes, one);
    is_fasta(2);
    write_bytes("padded.gz", bytes, 3000); /* zero bytes, as tapes leave them */
    is_fasta(2);
    at += pack(bytes + at, sizeof bytes - at, ">c\nMKLY\n", 8);
    at += pack(bytes + at, sizeof bytes - at, "", 0); /* as bgzip ends */
    write_bytes("members.gz", bytes, at);
    is_fasta(3);
    write_bytes("cut.gz", bytes, at - 3);
    refused(PF_EFORMAT, "cut short");
    char words[64];
    snprintf(words, sizeof words, "from offset %zu on", one);
    memcpy(bytes + one, ">c\nMKLY\n", 8);
    write_bytes("behind.gz", bytes, one + 8);
    refused(PF_EFORMAT, words);
    memset(bytes + one, 0, 100);
    bytes[one + 60] = '\n';
    write_bytes("later.gz", bytes, one + 100);
    refused(PF_EFORMAT, "is no gzip data");
}

/* A small file that unpacks to much is refused before it fills the memory. */
static void test_bomb(void) {
    enum { N = 40 << 20 };
    unsigned char *much = malloc(N), *packed = malloc(N / 100);
    size_t live, peak;
    memset(much, 'A', N);
    write_bytes("bomb.gz", packed, pack(packed, N / 100, much, N));
    pf_engine_reset_peak(engine);
    refused(PF_EFORMAT, "unpacks to more than 256 times its size");
    pf_engine_memory(engine, &live, &peak);
    CHECK(peak < (size_t)N + (4 << 20));
    free(much);
    free(packed);
}

/* ---- neither text nor FASTA ---- */

typedef struct {
    const char *bytes;
    size_t n;
    const char *words;
} strange;

#define STRANGE(text, words)                                                                       \
    { text, sizeof(text) - 1, words }

static const strange STRANGE_FILES[] = {
    STRANGE("\xFD\x37zXZ\0\0\4 and so on", "is xz data"),
    STRANGE("BZh91AY&SY and so on", "is bzip2 data"),
    STRANGE("\x28\xB5\x2F\xFD and so on", "is zstd data"),
    STRANGE("\x04\x22\x4D\x18 and so on", "is lz4 data"),
    STRANGE("\x1F\x9D\x90 and so on", "is compress (.Z) data"),
    STRANGE("\x5D\0\0\x80 and so on", "is lzma data"),
    STRANGE("PK\3\4 and so on", "is a zip archive"),
    STRANGE("7z\xBC\xAF\x27\x1C and so on", "is a 7z archive"),
    STRANGE("\xFF\xFE>\0a\0\n\0M\0", "'iconv -f UTF-16 -t UTF-8'"),
    STRANGE("\xFE\xFF\0>\0a\0\n\0M", "'iconv -f UTF-16 -t UTF-8'"),
    STRANGE("\xFF\xFE\0\0>\0\0\0", "'iconv -f UTF-32 -t UTF-8'"),
    STRANGE(">\0a\0\n\0M\0K\0", "'iconv -f UTF-16LE -t UTF-8'"),
    STRANGE("\0>\0a\0\n\0M\0K", "'iconv -f UTF-16BE -t UTF-8'"),
    STRANGE(">\0\0\0a\0\0\0\n\0\0\0", "'iconv -f UTF-32LE -t UTF-8'"),
    STRANGE("\0\0\0>\0\0\0a\0\0\0\n", "'iconv -f UTF-32BE -t UTF-8'"),
    /* Cyrillic: zeros in blanks and line ends only */
    STRANGE("\x34\4\x30\4 \0\x3d\4\x35\4\x42\4 \0\x3d\4\x35\4\n\0\x34\4\x30\4 \0",
            "'iconv -f UTF-16LE -t UTF-8'"),
    STRANGE("\x89PNG\r\n\x1A\n and so on", "is a PNG picture"),
    STRANGE("\x7F\x45LF\2\1\1 and so on", "is a program (ELF)"),
    STRANGE("\1\2\3\4\5\6 this and that", "is binary data"),
};

static void test_strange(void) {
    char words[96];
    unsigned char packed[512], tar[512] = "p.fasta";
    for (size_t i = 0; i < sizeof STRANGE_FILES / sizeof *STRANGE_FILES; i++) {
        const strange *s = &STRANGE_FILES[i];
        pf_data *data = NULL;
        write_bytes("strange", s->bytes, s->n);
        refused(PF_EFORMAT, s->words);
        CHECK(says("format = \"text\""));
        CHECK_FAILS(PF_EFORMAT, open_with(&data, 0, "fasta", 0));
        CHECK(says(s->words));
        CHECK_OK(open_with(&data, 0, "text", 0)); /* the user's word is the last */
        CHECK(info_of(data, PF_ALL).tokens == (int64_t)s->n - 1);
        pf_data_close(&data);
        write_bytes("strange.gz", packed, pack(packed, sizeof packed, s->bytes, s->n));
        if (strstr(s->words, "'iconv"))
            snprintf(words, sizeof words, "('gzip -dc' and %s)", s->words);
        else
            snprintf(words, sizeof words, "%s in gzip", s->words);
        refused(PF_EFORMAT, s->words[0] == '\'' ? words : strstr(words, "is "));
    }
    memcpy(tar + 257, "ustar", 5);
    write_bytes("strange.tar", tar, sizeof tar);
    refused(PF_EFORMAT, "is a tar archive");
    CHECK(says("'tar -xOf'"));
}

/* FASTA behind other lines is no text to train on in silence. */
static void test_behind(void) {
    static const char records[] = ">a one\nMKLYVAAGIMKLYVAAGI\nMKLYVA*\n\n>b\nMKLYVAAGIMKLYVAAGI\n";
    static const char *const lines[] = {"// release 7\n", "Proteins of release 7\r\n\r\n", "\f\n",
                                        "\xC2\xA0\n", "!\n# more\n"};
    char text[256];
    for (int i = 0; i < 5; i++) {
        pf_data *data = NULL;
        snprintf(text, sizeof text, "%s%s", lines[i], records);
        write_text("behind.fasta", text);
        refused(PF_EFORMAT, "seems to be FASTA");
        CHECK_OK(open_with(&data, 0, "text", 0));
        pf_data_close(&data);
    }
}

/* Texts that look a little strange are texts. */
static void test_texts(void) {
    static const strange texts[] = {
        STRANGE("BZh is a name", NULL),
        STRANGE("He wrote:\n> yes\n> no\n\nWell\nI see.\n> so be it\n", NULL),
        STRANGE("FASTA is:\n>a\nMKLYVAAGIMKLYVAAGI\nand no more than that.\n", NULL),
        STRANGE("caf\xE9 au lait, latin-1", NULL),
        STRANGE("\xE4\xB8\xAD\xE6\x96\x87\n", NULL),
        STRANGE("one zero \0 byte", NULL),
        STRANGE("\x1B[31mred\x1B[0m \f\v\b", NULL),
        STRANGE("# a title\n\nand words", NULL),
        STRANGE("; a comment\n(defun f ())", NULL),
        STRANGE("# nothing but comments", NULL),
        STRANGE("x", NULL),
        STRANGE("\x1F", NULL),
        STRANGE("PK", NULL),
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        pf_data *data = NULL;
        write_bytes("text", texts[i].bytes, texts[i].n);
        CHECK_OK(open_with(&data, 0, NULL, 0));
        CHECK(strcmp(info_of(data, PF_ALL).format, "text") == 0);
        pf_data_close(&data);
    }
    char *comments = malloc(300001);
    for (int i = 0; i < 300000; i++) comments[i] = i % 100 == 99 ? '\n' : '#';
    comments[300000] = '>';
    write_bytes("comments", comments, 300001);
    refused(PF_EFORMAT, "say format = \"fasta\" or format = \"text\"");
    free(comments);
}

/* ---- memory ---- */

/* Highest bytes held while the file written last is opened, above those before. */
static size_t peak_of_opening(void) {
    size_t before_it, live, peak;
    pf_data *data = NULL;
    pf_engine_memory(engine, &before_it, &peak);
    pf_engine_reset_peak(engine);
    CHECK_OK(open_with(&data, 32, NULL, 0));
    pf_engine_memory(engine, &live, &peak);
    pf_data_close(&data);
    return peak - before_it;
}

/* A text takes its own size and a little, also in short rows and packed; from a pipe, whose size
 * nobody knows, a little over twice. */
static void test_memory(void) {
    enum { N = 6 << 20 };
    char *text = malloc(N);
    unsigned char *packed = malloc(N);
    uint32_t state = 5;
    for (int i = 0; i < N; i++) text[i] = (char)('a' + (next_random(&state) >> 8) % 26);
    write_bytes("memory.txt", text, N);
    CHECK((double)peak_of_opening() < N * 1.25);
    write_bytes("memory.gz", packed, pack(packed, N, text, N));
    CHECK((double)peak_of_opening() < N * 1.3);
    snprintf(path, sizeof path, "%s/memory", folder);
    CHECK(mkfifo(path, 0600) == 0);
    char fifo[sizeof path];
    memcpy(fifo, path, sizeof fifo);
    writing w = {.fd = -1, .fifo = fifo, .bytes = text, .n = N, .piece = 10000};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_pieces, &w) == 0);
    CHECK((double)peak_of_opening() < N * 2.7);
    pthread_join(thread, NULL);
    free(text);
    free(packed);
}

/* A pipe without end, of text or of one sequence, ends at the budget, in a sentence. */
static void test_endless(void) {
    static const char *const begins[] = {"no end ", ">a\n"};
    static char letters[60000];
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *usual = engine;
    options.memory = 12 << 20;
    options.threads = 1;
    signal(SIGPIPE, SIG_IGN);
    memset(letters, 'M', sizeof letters);
    CHECK_OK(pf_engine_open(&engine, &options));
    for (int i = 0; i < 2; i++) {
        int ends[2];
        pthread_t thread;
        ssize_t n = (ssize_t)strlen(begins[i]);
        CHECK(pipe(ends) == 0 && write(ends[1], begins[i], (size_t)n) == n);
        writing w = {.fd = ends[1], .bytes = letters, .n = sizeof letters, .piece = sizeof letters};
        w.endless = true;
        CHECK(pthread_create(&thread, NULL, write_pieces, &w) == 0);
        snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
        refused(PF_ENOMEM, "no room for it after");
        CHECK(says("budget 12582912"));
        close(ends[0]);
        pthread_join(thread, NULL);
    }
    pf_engine_close(&engine);
    engine = usual;
}

int main(void) {
    begin_data_test();
    test_fifo();
    test_cancel();
    test_standard_input();
    test_devices();
    test_changed();
    test_members();
    test_bomb();
    test_strange();
    test_behind();
    test_texts();
    test_memory();
    test_endless();
    return end_data_test();
}
