/*
 * shards_bad_test.c - a folder of shards that is not what it was, or was made to do harm, is
 * refused in a sentence, at any time; so are options that shards have not, and memory may run out.
 */
#include <sys/stat.h>
#include <xxhash.h>

#include "manifest.h"
#include "shards_support.h"

/* ---- not what it was ---- */

static char *file_in(const char *name) {
    static char full[256];
    snprintf(full, sizeof full, "%s/%s", shards, name);
    return full;
}

/* Reads a file of the shards; to be freed. */
static char *read_file(const char *name, size_t *n) {
    FILE *file = fopen(file_in(name), "rb");
    char *bytes = malloc(1 << 20);
    *n = file ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file) fclose(file);
    return bytes;
}

/* In place, since truncating takes its time on some file systems. */
static void write_file(const char *name, const char *bytes, size_t n) {
    FILE *file = fopen(file_in(name), "r+b");
    if (!file) file = fopen(file_in(name), "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n && fflush(file) == 0);
    struct stat about;
    MUST(file && fstat(fileno(file), &about) == 0);
    if (file && about.st_size != (off_t)n) MUST(ftruncate(fileno(file), (off_t)n) == 0);
    if (file) fclose(file);
}

static int first_batches(pf_data *data, int n) {
    int status = PF_OK;
    for (int i = 0; i < n && status >= 0; i++) {
        pf_batch batch = {.size = sizeof batch};
        status = pf_data_batch(&batch, engine, data, PF_TRAIN, (uint64_t)i, 2, false, 1);
        pf_batch_release(&batch);
    }
    return status;
}

static void test_changes(void) {
    put_text("a.txt", 20000, 5);
    pf_config *options = options_of("a.txt", 0);
    CHECK_OK(make(engine, options, 1000));
    CHECK_FAILS(PF_EINVAL, pf_data_shard(engine, options, shards));
    CHECK(says("is there already"));
    pf_config_set_string(options, "path", "/none");
    char lost[200];
    snprintf(lost, sizeof lost, "%s/lost", folder);
    CHECK_FAILS(PF_ENOTFOUND, pf_data_shard(engine, options, lost));
    CHECK(access(lost, F_OK) < 0);
    pf_config_free(options);
    size_t n;
    char *good = read_file("shard-00000.bin", &n);
    CHECK(n == 20000);
    pf_data *data = NULL;
    CHECK_OK(open_shards(&data, engine, 64, 1));
    CHECK_OK(first_batches(data, 30));
    good[3500] ^= 1; /* while it is open */
    write_file("shard-00000.bin", good, n);
    CHECK_FAILS(PF_EFORMAT, first_batches(data, 150));
    CHECK(says("shard-00000.bin: is damaged, or has changed since it was made"));
    write_file("shard-00000.bin", good, n - 1);
    CHECK_FAILS(PF_EFORMAT, first_batches(data, 150));
    CHECK(says("has 19999 bytes, 20000 when it was made"));
    good[3500] ^= 1; /* as it was: nothing is lost */
    write_file("shard-00000.bin", good, n);
    CHECK_OK(first_batches(data, 150));
    pf_data_close(&data);
    write_file("shard-00000.bin", good, n / 2);
    CHECK_FAILS(PF_EFORMAT, open_shards(&data, engine, 64, 0));
    CHECK(says("has 10000 bytes, 20000 when"));
    unlink(file_in("shard-00000.bin"));
    CHECK_FAILS(PF_ENOTFOUND, open_shards(&data, engine, 64, 0));
    write_file("shard-00000.bin", good, n);
    free(good);
    good = read_file("blocks.bin", &n);
    good[8] ^= 1;
    write_file("blocks.bin", good, n);
    CHECK_FAILS(PF_EFORMAT, open_shards(&data, engine, 64, 0));
    CHECK(says("blocks.bin") && says("checksum differs"));
    free(good);
}

/* Gives every block of the table the sums of what the files hold now, where it lies in them. */
static void reseal(void) {
    size_t n, shard_n, sides_n, first = 0;
    char *table = read_file("blocks.bin", &n), *shard = read_file("shard-00000.bin", &shard_n);
    char *sides = read_file("sides.bin", &sides_n);
    for (size_t i = 0; i < n / sizeof(pf_block); i++) {
        pf_block b;
        memcpy(&b, table + i * sizeof b, sizeof b);
        size_t sizes[3] = {4 * (size_t)b.documents, (size_t)b.names, (size_t)b.tokens};
        size_t at = (size_t)b.offset;
        for (int j = 0; j < 3 && at <= shard_n && sizes[j] <= shard_n - at; at += sizes[j++])
            b.sum[j] = XXH3_64bits(shard + at, sizes[j]);
        if (first + b.documents <= sides_n) b.sum[3] = XXH3_64bits(sides + first, b.documents);
        first += b.documents;
        memcpy(table + i * sizeof b, &b, sizeof b);
    }
    write_file("blocks.bin", table, n);
    free(table);
    free(shard);
    free(sides);
}

/* Gives the folder a manifest that fits what it holds now, as whoever means harm would. */
static void sign(void) {
    static const char *const names[] = {"sides.bin", "blocks.bin", "shards.json"};
    pf_manifest m = {0};
    for (int i = 0; i < 3; i++) {
        char hash[PF_HASH_TEXT];
        size_t n;
        char *bytes = read_file(names[i], &n);
        pf_hash_bytes(bytes, n, hash);
        MUST(pf_manifest_add(&m, names[i], (int64_t)n, hash) >= 0);
        free(bytes);
    }
    unlink(file_in("manifest.json"));
    MUST(pf_manifest_write(&m, engine, shards, shards) >= 0);
}

/* Whatever the folder says, it is refused or it is a data set that can be gone through. */
static int go_through(const char *where) {
    pf_data *data = NULL;
    int status = open_shards(&data, engine, 32, 1);
    if (status >= 0) status = first_batches(data, 40);
    if (data) pf_data_counts(data, PF_ALL, NULL, NULL);
    pf_tensor *ids = NULL;
    if (data) pf_data_document(&ids, NULL, engine, data, PF_VALID, 0);
    pf_tensor_release(&ids);
    pf_data_close(&data);
    if (status < 0) MUST(strlen(pf_last_error()) > 10);
    if (status == PF_ENOMEM) fprintf(stderr, "  %s: %s\n", where, pf_last_error());
    return status;
}

static void test_hostile(bool fasta) {
    static const char *const names[] = {"blocks.bin", "shards.json", "sides.bin",
                                        "shard-00000.bin"};
    char text[8192];
    put_sequences(text, 100, 3);
    write_text("a.fa", text);
    pf_config *options = options_of("a.fa", 0);
    pf_config_set_string(options, "format", fasta ? "fasta" : "text");
    CHECK_OK(make(engine, options, 400));
    pf_config_free(options);
    uint32_t random = 12;
    size_t table_n;
    char *table = read_file("blocks.bin", &table_n);
    int through = 0;
    for (int round = 0; round < (fasta ? 600 : 200); round++) {
        const char *name = names[round % (fasta ? 4 : 2)];
        size_t n;
        char *good = read_file(name, &n), *bad = malloc(n);
        memcpy(bad, good, n);
        for (int i = 0; i < 1 + round % 3; i++)
            bad[next_random(&random) % n] = (char)(next_random(&random) >> 24);
        if (round % 7 == 0) memset(bad + next_random(&random) % (n - 8), round % 2 ? 0xff : 0, 8);
        write_file(name, bad, round % 11 == 0 ? next_random(&random) % n : n);
        if (round % 5 > 0) reseal();
        sign();
        through += go_through(name) >= 0;
        write_file("blocks.bin", table, table_n);
        write_file(name, good, n);
        free(good);
        free(bad);
    }
    CHECK(through > 10 && through < 500);
    free(table);
    sign();
    pf_data *data = NULL;
    CHECK_OK(open_shards(&data, engine, 32, 0));
    pf_data_close(&data);
    size_t n;
    char *json = read_file("shards.json", &n), *version;
    json[n] = 0;
    CHECK((version = strstr(json, "\"version\": 1")) != NULL);
    version[11] = '2';
    write_file("shards.json", json, n);
    sign();
    CHECK_FAILS(PF_EFORMAT, open_shards(&data, engine, 32, 0));
    CHECK(says("shards of version 2; this program reads version 1"));
    free(json);
}

/* ---- memory that runs out ---- */

/* Makes, opens and reads with memory running out after n requests. */
static int make_and_read(int n, failing *memory, const char *file) {
    pf_options how = PF_OPTIONS_DEFAULT;
    pf_engine *other = NULL;
    pf_data *data = NULL;
    pf_batch batch = {.size = sizeof batch};
    how.allocator = &(pf_allocator){sizeof(pf_allocator), failing_resize, memory};
    memory->left = -1;
    if (pf_engine_open(&other, &how) < 0) return PF_EINVAL;
    memory->left = n;
    pf_config *options = options_of(file, 0);
    int status = make(other, options, 300);
    if (status < 0) MUST(access(shards, F_OK) < 0);
    if (status >= 0) status = open_shards(&data, other, 40, 1);
    if (status >= 0) status = pf_data_batch(&batch, other, data, PF_TRAIN, 0, 2, true, 1);
    if (status >= 0) status = pf_data_counts(data, PF_ALL, NULL, NULL);
    pf_config_free(options);
    pf_batch_release(&batch);
    pf_data_close(&data);
    pf_engine_close(&other);
    return status;
}

static void test_no_memory(void) {
    char text[8192];
    put_sequences(text, 60, 8);
    write_text("memory.fa", text);
    put_text("memory.txt", 1500, 8);
    for (int format = 0; format < 2; format++) {
        int failed = 0, status = PF_ENOMEM;
        for (; status == PF_ENOMEM && failed < 900; failed++) {
            failing memory = {0};
            status = make_and_read(failed, &memory, format == 0 ? "memory.fa" : "memory.txt");
            MUST(memory.blocks == 0);
            MUST(status >= 0 || status == PF_ENOMEM);
        }
        if (status < 0) fprintf(stderr, "  %s\n", pf_last_error());
        CHECK(status >= 0 && failed > 20);
    }
}

/* ---- what goes with shards ---- */

static void test_options(void) {
    write_text("a.txt", "It was a dark and stormy night; the rain fell in torrents.");
    pf_config *options = options_of("a.txt", 0);
    CHECK_OK(make(engine, options, 0));
    pf_config_set_number(options, "length", 8);
    CHECK_FAILS(PF_EINVAL, pf_data_shard(engine, options, "/tmp/none"));
    CHECK(says("shard: unknown option 'length'"));
    pf_config_free(options);
    pf_data *data = NULL;
    static const char *const keys[] = {"valid", "format"};
    for (int i = 0; i < 2; i++) {
        options = pf_config_new(PF_MAP);
        pf_config_set_string(options, "path", shards);
        pf_config_set_string(options, keys[i], i == 0 ? path : "fasta");
        CHECK_FAILS(PF_EINVAL, pf_data_open(&data, engine, options));
        CHECK(says(i == 0 ? "have their validation part"
                          : "is a folder of shards of text: leave out"));
        pf_config_free(options);
    }
    options = options_of("a.txt", 8);
    pf_config_set_string(options, "format", "shards");
    CHECK_FAILS(PF_ENOTFOUND, pf_data_open(&data, engine, options));
    CHECK(says("a.txt: is no folder of shards"));
    pf_config_set_string(options, "path", shards);
    pf_config_set_string(options, "format", "text");
    CHECK_OK(pf_data_open(&data, engine, options));
    pf_data_close(&data);
    pf_config_free(options);
    const char *kind;
    CHECK_OK(pf_data_kind(&kind, engine, shards));
    CHECK(strcmp(kind, "text") == 0);
}

int main(void) {
    begin_shards_test();
    int open = count_open();
    test_changes();
    test_hostile(true);
    test_hostile(false);
    test_options();
    test_no_memory();
    CHECK(count_open() == open);
    return end_data_test();
}
