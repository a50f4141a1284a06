/*
 * shards_test.c - data in shards are the data in memory: the same sequences, sides, checksum, rows
 * of text and passes, with a window of the folder in memory; and a folder that is not what it was,
 * or was made to do harm, is refused in a sentence, at any time.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "data_support.h"
#include "manifest.h"
#include "shards.h"

static char shards[160]; /* the folder of the last ones */

/* Options {path = a file of the folder, length, min_tokens = 1}. */
static pf_config *options_of(const char *name, int length) {
    pf_config *options = pf_config_new(PF_MAP);
    char full[160];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    pf_config_set_string(options, "path", full);
    if (length) pf_config_set_number(options, "length", length);
    if (length) pf_config_set_number(options, "min_tokens", 1);
    return options;
}

/* Adds a second file of the folder under `key`. */
static void add_file(pf_config *options, const char *key, const char *name) {
    pf_config *list = pf_config_new(PF_LIST);
    char full[160];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    if (strcmp(key, "path") == 0)
        pf_config_push(list, pf_config_new_string(pf_config_string(pf_config_get(options, key))));
    pf_config_push(list, pf_config_new_string(full));
    pf_config_set(options, key, list);
}

/* Makes shards of what the options (without length) say; the folder's name is in `shards`. */
static int make(pf_engine *with, const pf_config *options, int block) {
    static int count;
    pf_config *all = pf_config_copy(options);
    if (block) pf_config_set_number(all, "block", block);
    snprintf(shards, sizeof shards, "%s/shards-%d", folder, ++count);
    int status = pf_data_shard(with, all, shards);
    pf_config_free(all);
    return status;
}

static int open_shards(pf_data **data, pf_engine *with, int length, double window) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", shards);
    pf_config_set_number(options, "length", length);
    pf_config_set_number(options, "min_tokens", 1);
    pf_config_set_number(options, "window", window);
    int status = pf_data_open(data, with, options);
    pf_config_free(options);
    return status;
}

static void put_sequences(char *text, int n, uint32_t random) {
    static const char letters[] = "ACDEFGHIKLMNPQRSTVWY";
    for (int i = 0; i < n; i++) {
        text += sprintf(text, ">s%d\n", i);
        int size = 5 + (int)(next_random(&random) >> 24) % 40;
        for (int j = 0; j < size; j++) *text++ = letters[(next_random(&random) >> 16) % 20];
        *text++ = '\n';
    }
    *text = 0;
}

static void put_text(const char *name, int n, uint32_t random) {
    char *text = malloc((size_t)n);
    for (int i = 0; i < n; i++) text[i] = (char)(32 + (next_random(&random) >> 20) % 90);
    write_bytes(name, text, (size_t)n);
    free(text);
}

/* ---- as in memory ---- */

static void check_info(const pf_data *a, const pf_data *b, bool rows) {
    for (int split = 0; split < 3; split++) {
        pf_data_info x = info_of(a, (pf_split)split), y = info_of(b, (pf_split)split);
        MUST(x.documents == y.documents && x.tokens == y.tokens && x.files == y.files);
        MUST(x.duplicates == y.duplicates && x.shared == y.shared && x.checksum == y.checksum);
        MUST(!rows || x.rows == y.rows);
        MUST(strcmp(x.format, y.format) == 0 && strcmp(x.tokenizer, y.tokenizer) == 0);
        MUST(!x.shards && y.shards && x.skipped == y.skipped && strcmp(x.skips, y.skips) == 0);
    }
}

static bool same_batch(pf_data *a, pf_data *b, pf_split split, uint64_t index, bool masked) {
    pf_batch x = {.size = sizeof x}, y = {.size = sizeof y};
    bool same = pf_data_batch(&x, engine, a, split, index, 3, masked, 5) >= 0 &&
                pf_data_batch(&y, engine, b, split, index, 3, masked, 5) >= 0;
    pf_tensor *const one[] = {x.input, x.target, x.documents, x.mask};
    pf_tensor *const two[] = {y.input, y.target, y.documents, y.mask};
    for (int i = 0; i < 4 && same; i++)
        same = pf_tensor_numel(one[i]) == pf_tensor_numel(two[i]) &&
               memcmp(pf_tensor_data(one[i]), pf_tensor_data(two[i]),
                      (size_t)pf_tensor_numel(one[i]) * sizeof(int32_t)) == 0;
    same = same && x.tokens == y.tokens && x.rows == y.rows;
    pf_batch_release(&x);
    pf_batch_release(&y);
    return same;
}

static void check_rows(pf_data *a, pf_data *b, bool masked) {
    for (int split = 0; split < 3; split++) {
        uint64_t n = (uint64_t)info_of(a, (pf_split)split).rows / 3;
        for (uint64_t i = 0; i < (split == PF_TRAIN ? 2 * n + 3 : n); i++)
            MUST(same_batch(a, b, (pf_split)split, i, masked));
    }
}

static void check_documents(pf_data *a, pf_data *b, pf_split split) {
    for (int64_t i = 0; i < info_of(a, split).documents; i++) {
        pf_tensor *x = NULL, *y = NULL;
        const char *name, *other;
        MUST(pf_data_document(&x, &name, engine, a, split, i) >= 0);
        MUST(pf_data_document(&y, &other, engine, b, split, i) >= 0);
        MUST(x && y && pf_tensor_numel(x) == pf_tensor_numel(y) && strcmp(name, other) == 0);
        MUST(memcmp(ids_of(x), ids_of(y), (size_t)pf_tensor_numel(x) * sizeof(int32_t)) == 0);
        pf_tensor_release(&x);
        pf_tensor_release(&y);
    }
}

static void check_counts(const pf_data *a, const pf_data *b, int vocab) {
    size_t n = (size_t)vocab * (size_t)(vocab + 1) * sizeof(double);
    double *x = malloc(n), *y = malloc(n);
    for (int split = 0; split < 3; split++) {
        CHECK_OK(pf_data_counts(a, (pf_split)split, x, x + vocab));
        CHECK_OK(pf_data_counts(b, (pf_split)split, y, y + vocab));
        MUST(memcmp(x, y, n) == 0);
    }
    free(x);
    free(y);
}

/* Texts: all of it, whatever the blocks and however little of them is held. */
static void test_texts(void) {
    put_text("a.txt", 5000, 1);
    put_text("b.txt", 777, 2);
    put_text("v.txt", 400, 3);
    for (int files = 1; files <= 3; files++) {
        pf_config *options = options_of("a.txt", 0);
        if (files > 1) add_file(options, "path", "b.txt");
        if (files > 2) add_file(options, "valid", "v.txt");
        pf_data *memory = NULL, *disk = NULL;
        CHECK_OK(make(engine, options, 100));
        pf_config_set_number(options, "length", 37);
        pf_config_set_number(options, "min_tokens", 1);
        CHECK_OK(pf_data_open(&memory, engine, options));
        CHECK_OK(open_shards(&disk, engine, 37, files == 1 ? 1 : 0));
        check_info(memory, disk, true);
        check_rows(memory, disk, false);
        check_rows(memory, disk, true);
        check_counts(memory, disk, 256);
        for (int split = 0; split < 3; split++) check_documents(memory, disk, (pf_split)split);
        CHECK_OK(pf_data_lay(memory, 500)); /* rows of several blocks */
        CHECK_OK(pf_data_lay(disk, 500));
        check_rows(memory, disk, false);
        pf_data_close(&memory);
        pf_data_close(&disk);
        pf_config_free(options);
    }
    const char *kind;
    CHECK_OK(pf_data_kind(&kind, engine, shards));
    CHECK(strcmp(kind, "text") == 0);
}

/* Sequences: of one block all of it; of several all but which rows share what. */
static void test_sequences(void) {
    char text[2][16384];
    put_sequences(text[0], 200, 1);
    put_sequences(text[1], 150, 2);
    strcpy(text[1] + strlen(text[1]), ">none\n>again\n");
    strncat(text[1], strchr(text[0], '\n') + 1, (size_t)(strstr(text[0], ">s1\n") - text[0] - 4));
    write_text("a.fa", text[0]);
    write_text("b.fa", text[1]);
    for (int round = 0; round < 5; round++) {
        pf_config *options = options_of("a.fa", 0);
        if (round > 0) add_file(options, round == 3 ? "valid" : "path", "b.fa");
        if (round == 4) pf_config_set_bool(options, "unique", false);
        pf_data *memory = NULL, *disk = NULL;
        CHECK_OK(make(engine, options, round < 2 ? 0 : 300));
        pf_config_set_number(options, "length", 50);
        pf_config_set_number(options, "min_tokens", 1);
        CHECK_OK(pf_data_open(&memory, engine, options));
        CHECK_OK(open_shards(&disk, engine, 50, round == 2 ? 1 : 0));
        check_info(memory, disk, round < 2);
        if (round < 2) check_rows(memory, disk, false);
        if (round < 2) check_rows(memory, disk, true);
        check_counts(memory, disk, 29);
        for (int split = 0; split < 3; split++) check_documents(memory, disk, (pf_split)split);
        pf_data_close(&memory);
        pf_data_close(&disk);
        pf_config_free(options);
    }
}

/* A pass has every target once; a batch depends on its number alone, whatever came before it. */
static void test_passes(void) {
    char text[16384];
    put_sequences(text, 300, 9);
    write_text("a.fa", text);
    pf_config *options = options_of("a.fa", 0);
    CHECK_OK(make(engine, options, 500));
    pf_config_free(options);
    pf_data *first = NULL, *second = NULL;
    CHECK_OK(open_shards(&first, engine, 64, 0));
    CHECK_OK(open_shards(&second, engine, 64, 2000));
    pf_data_info info = info_of(first, PF_TRAIN);
    double expected[29], seen[29] = {0};
    CHECK_OK(pf_data_counts(first, PF_TRAIN, expected, NULL));
    int64_t tokens = 0;
    for (int64_t row = 0; row < info.rows; row++) {
        pf_batch batch = {.size = sizeof batch};
        MUST(pf_data_batch(&batch, engine, first, PF_TRAIN, (uint64_t)row, 1, false, 5) >= 0);
        for (int64_t i = 0; i < pf_tensor_numel(batch.target); i++)
            if (ids_of(batch.target)[i] >= 0) seen[ids_of(batch.target)[i]]++;
        tokens += batch.tokens;
        pf_batch_release(&batch);
    }
    CHECK(tokens == info.tokens && memcmp(seen, expected, sizeof seen) == 0);
    static const uint64_t at[] = {40, 3, 17, 0, 90, 41};
    for (int i = 0; i < 6; i++) MUST(same_batch(first, second, PF_TRAIN, at[i], i % 2 == 0));
    CHECK_FAILS(PF_EINVAL, pf_data_lay(first, 1));
    CHECK_FAILS(PF_EINVAL, pf_data_lay(first, 501));
    CHECK(says("rows of 501 positions don't fit its blocks of 500 tokens"));
    CHECK(same_batch(first, second, PF_TRAIN, 7, false)); /* its rows are as they were */
    pf_data_close(&first);
    pf_data_close(&second);
}

/* More rows than are shuffled in an array: each comes once a pass, and passes differ. */
static void test_order(void) {
    enum { ROWS = (1 << 20) + 77 };
    pf_shards none = {0};
    pf_data data = {.shards = &none, .order_pass = -1};
    data.plans[PF_TRAIN].n_rows = ROWS;
    uint8_t *seen = calloc(ROWS, 1);
    int64_t row, other, equal = 0, near = 0, last = 0;
    for (int64_t place = 0; place < ROWS; place++) {
        MUST(pf_data_order(&row, &data, 3, 0, place) >= 0 && row >= 0 && row < ROWS && !seen[row]);
        seen[row] = 1;
        near += row - last < 1000 && last - row < 1000;
        last = row;
        pf_data_order(&other, &data, 3, 1, place);
        equal += row == other;
    }
    CHECK(equal < 20 && near < 4000 && data.order == NULL);
    free(seen);
}

/* ---- less memory than data ---- */

static void test_budget(void) {
    pf_engine *small = NULL;
    pf_options how = PF_OPTIONS_DEFAULT;
    how.memory = 3 << 20;
    CHECK_OK(pf_engine_open(&small, &how));
    put_text("large.txt", 12 << 20, 4);
    pf_config *options = options_of("large.txt", 64);
    pf_data *data = NULL;
    CHECK_FAILS(PF_ENOMEM, pf_data_open(&data, small, options));
    pf_config_free(options);
    options = options_of("large.txt", 0);
    CHECK_OK(make(small, options, 1 << 16));
    pf_config_free(options);
    CHECK_OK(open_shards(&data, small, 512, 0));
    pf_batch batch = {.size = sizeof batch};
    for (uint64_t i = 0; i < 200; i++) {
        MUST(pf_data_batch(&batch, small, data, PF_TRAIN, i, 4, false, 1) >= 0);
        pf_batch_release(&batch);
    }
    pf_data_close(&data);
    /* Sequences whose hashes don't fit either: 30,000, a third of them copies. */
    char *text = malloc(4 << 20);
    put_sequences(text, 20000, 11);
    size_t n = strlen(text);
    put_sequences(text + n, 10000, 11);
    write_text("many.fa", text);
    free(text);
    options = options_of("many.fa", 0);
    CHECK_OK(make(small, options, 1 << 14));
    pf_config_free(options);
    CHECK_OK(open_shards(&data, small, 128, 0));
    pf_data_info all = info_of(data, PF_ALL);
    CHECK(all.documents == 20000 && all.duplicates == 10000);
    pf_data *memory = NULL;
    options = options_of("many.fa", 128);
    CHECK_OK(pf_data_open(&memory, engine, options));
    check_info(memory, data, false);
    pf_config_free(options);
    pf_data_close(&memory);
    pf_data_close(&data);
    pf_info info = {.size = sizeof info};
    pf_engine_info(small, &info);
    CHECK(info.peak <= 3 << 20);
    pf_engine_close(&small);
}

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

static int count_open(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
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
    pf_heap *heap;
    CHECK_OK(pf_heap_open(&heap, NULL, 0));
    for (int i = 0; i < 3; i++) {
        char hash[PF_HASH_TEXT];
        size_t n;
        char *bytes = read_file(names[i], &n);
        pf_hash_bytes(bytes, n, hash);
        MUST(pf_manifest_add(&m, names[i], (int64_t)n, hash) >= 0);
        free(bytes);
    }
    unlink(file_in("manifest.json"));
    MUST(pf_manifest_write(&m, heap, shards) >= 0);
    pf_heap_release(heap);
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

static int no_sync(int fd) { return fd < 0 ? -1 : 0; }

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
        CHECK(says(i == 0 ? "have their validation part" : "is a folder of shards: leave out"));
        pf_config_free(options);
    }
    options = options_of("a.txt", 8);
    pf_config_set_string(options, "format", "shards");
    CHECK_FAILS(PF_ENOTFOUND, pf_data_open(&data, engine, options));
    pf_config_free(options);
    const char *kind;
    CHECK_OK(pf_data_kind(&kind, engine, shards));
    CHECK(strcmp(kind, "text") == 0);
}

int main(void) {
    pf_file_ops calls = pf_file_libc;
    calls.sync = no_sync; /* of folders that last as long as the test */
    pf_file_hook(&calls);
    begin_data_test();
    int open = count_open();
    test_texts();
    test_sequences();
    test_passes();
    test_order();
    test_budget();
    test_changes();
    test_hostile(true);
    test_hostile(false);
    test_options();
    test_no_memory();
    CHECK(count_open() == open);
    return end_data_test();
}
