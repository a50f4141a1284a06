/*
 * shards_test.c - data in shards are the data in memory: the same sequences, sides, checksum, rows
 * of text and passes, with a window of the folder in memory.
 */
#include "shards_support.h"

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
        MUST(pf_data_order(&row, &data, engine, 3, 0, place) >= 0 && row >= 0 && row < ROWS &&
             !seen[row]);
        seen[row] = 1;
        near += row - last < 1000 && last - row < 1000;
        last = row;
        pf_data_order(&other, &data, engine, 3, 1, place);
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

int main(void) {
    begin_shards_test();
    int open = count_open();
    test_texts();
    test_sequences();
    test_passes();
    test_order();
    test_budget();
    CHECK(count_open() == open);
    return end_data_test();
}
