/*
 * data_files_test.c - data sets of several files, and a validation part from files of its own:
 * what stands in which file changes nothing but borders of texts, and nothing is held out that is
 * trained on.
 */
#include "data_support.h"

/* A data set of the files named in `paths` and `valid` (words of the folder, NULL ends them). */
static int open_files(pf_data **data, const char *const *paths, const char *const *valid,
                      int length) {
    const char *const *lists[] = {paths, valid};
    static const char *const names[] = {"path", "valid"};
    pf_config *options = pf_config_new(PF_MAP);
    for (int i = 0; i < 2; i++) {
        if (!lists[i]) continue;
        pf_config *list = pf_config_new(PF_LIST);
        for (int j = 0; lists[i][j]; j++) {
            char full[160];
            snprintf(full, sizeof full, "%s/%s", folder, lists[i][j]);
            pf_config_push(list, pf_config_new_string(full));
        }
        pf_config_set(options, names[i], list);
    }
    pf_config_set_number(options, "length", length);
    pf_config_set_number(options, "min_tokens", 1);
    int status = pf_data_open(data, engine, options);
    pf_config_free(options);
    return status;
}

#define FILES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* n sequences of random residues, from the state of `random`. */
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

/* The same sequences are the same data set in one file and in two, where one repeats another. */
static void test_sequences(void) {
    char text[2][8192], all[3 * 8192];
    put_sequences(text[0], 60, 1);
    put_sequences(text[1], 60, 2);
    snprintf(all, sizeof all, "%s%s%s", text[0], text[1], text[0]);
    write_text("all.fa", all);
    write_text("a.fa", text[0]);
    write_text("b.fa", text[1]);
    pf_data *one = NULL, *two = NULL;
    CHECK_OK(open_files(&one, FILES("all.fa"), NULL, 32));
    CHECK_OK(open_files(&two, FILES("a.fa", "b.fa", "a.fa"), NULL, 32));
    for (int split = 0; split < 3; split++) {
        pf_data_info a = info_of(one, (pf_split)split), b = info_of(two, (pf_split)split);
        CHECK(a.documents == b.documents && a.tokens == b.tokens && a.rows == b.rows);
        CHECK(a.duplicates == b.duplicates && a.checksum == b.checksum);
        CHECK(a.files == 1 && b.files == 3 && b.shared == 0);
    }
    pf_batch a = {.size = sizeof a}, b = {.size = sizeof b};
    CHECK_OK(pf_data_batch(&a, engine, one, PF_TRAIN, 3, 4, false, 1));
    CHECK_OK(pf_data_batch(&b, engine, two, PF_TRAIN, 3, 4, false, 1));
    CHECK(memcmp(ids_of(a.input), ids_of(b.input), 4 * 32 * sizeof(int32_t)) == 0);
    pf_batch_release(&a);
    pf_batch_release(&b);
    pf_data_close(&one);
    pf_data_close(&two);
}

/* What is wrong names its file; files of two kinds are no data set. */
static void test_messages(void) {
    pf_data *data = NULL;
    write_text("good.fa", ">a\nMKV\n>b\nMKL\n");
    write_text("bad.fa", ">c\nMK7\n");
    write_text("book.txt", "It was a dark and stormy night.");
    CHECK_FAILS(PF_EFORMAT, open_files(&data, FILES("good.fa", "bad.fa"), NULL, 8));
    CHECK(says("bad.fa:2: 'c'") && !data);
    CHECK_FAILS(PF_EFORMAT, open_files(&data, FILES("good.fa", "book.txt"), NULL, 8));
    CHECK(says("book.txt: is text, unlike the files before it"));
    CHECK_FAILS(PF_EFORMAT, open_files(&data, FILES("good.fa"), FILES("book.txt"), 8));
    CHECK(says("good.fa: is FASTA, unlike"));
    CHECK_FAILS(PF_ENOTFOUND, open_files(&data, FILES("good.fa", "none.fa"), NULL, 8));
    CHECK(says("none.fa"));
    CHECK_FAILS(PF_EFORMAT, open_files(&data, FILES("good.fa"), FILES("good.fa"), 8));
    CHECK(says("nothing is left to train on"));
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set(options, "path", pf_config_new(PF_LIST));
    CHECK_FAILS(PF_EINVAL, pf_data_open(&data, engine, options));
    CHECK(says("'path' must be a string or a list of strings"));
    pf_config_set_string(options, "path", path);
    pf_config_set_string(options, "valid", path);
    pf_config_set_string(options, "split", "none");
    CHECK_FAILS(PF_EINVAL, pf_data_open(&data, engine, options));
    CHECK(says("'valid' names the validation part"));
    pf_config_free(options);
}

/* A row of several texts: each is a document, its last byte a target only, and the next one begins
 * behind it. */
static void test_texts(void) {
    write_text("a.txt", "abcdefghij"); /* the last 10 % of each is held out: j, KLM's nothing */
    write_text("b.txt", "KLM");
    write_text("c.txt", "0123456789876543210+"); /* 2 */
    pf_data *data = NULL;
    CHECK_OK(open_files(&data, FILES("a.txt", "b.txt", "c.txt"), NULL, 32));
    pf_data_info train = info_of(data, PF_TRAIN), valid = info_of(data, PF_VALID);
    CHECK(train.documents == 3 && train.tokens == 8 + 2 + 17 && valid.tokens == 1);
    CHECK(info_of(data, PF_ALL).tokens == 9 + 2 + 19);
    pf_batch batch = {.size = sizeof batch};
    CHECK_OK(pf_data_batch(&batch, engine, data, PF_ALL, 0, 1, false, 1));
    static const char input[] = "abcdefghiKL0123456789876543210";
    static const char target[] = "bcdefghijLM123456789876543210+";
    for (int i = 0; i < 30; i++) {
        MUST(ids_of(batch.input)[i] == input[i] && ids_of(batch.target)[i] == target[i]);
        MUST(ids_of(batch.documents)[i] == (i >= 9) + (i >= 11));
        MUST(ids_of(batch.mask)[i] == 1);
    }
    CHECK(ids_of(batch.target)[30] == -1 && ids_of(batch.mask)[31] == 0 && batch.tokens == 30);
    pf_batch_release(&batch);
    CHECK_OK(pf_data_lay(data, 4)); /* every target once, in rows that meet borders anywhere */
    int64_t seen = 0;
    for (uint64_t row = 0; row < 8; row++) {
        CHECK_OK(pf_data_batch(&batch, engine, data, PF_ALL, row, 1, false, 1));
        for (int i = 0; i < 4 && seen < 30; i++, seen++)
            MUST(ids_of(batch.input)[i] == input[seen] && ids_of(batch.target)[i] == target[seen]);
        pf_batch_release(&batch);
    }
    CHECK(seen == 30);
    for (uint64_t b = 0; b < 50; b++) { /* training rows are shifted, and cross no border either */
        CHECK_OK(pf_data_batch(&batch, engine, data, PF_TRAIN, b, 2, false, 1));
        for (int i = 0; i < 8; i++) {
            const char *at = strchr(target, ids_of(batch.target)[i]);
            MUST(at && ids_of(batch.mask)[i] == 1);
        }
        pf_batch_release(&batch);
    }
    const char *name;
    pf_tensor *ids = NULL;
    CHECK_OK(pf_data_document(&ids, &name, engine, data, PF_ALL, 1));
    CHECK(strcmp(name, "b.txt") == 0 && pf_tensor_numel(ids) == 3);
    pf_tensor_release(&ids);
    pf_data_close(&data);
}

/* Files of the validation part are all of it, and what they hold is not trained on. */
static void test_valid(void) {
    char text[4096];
    put_sequences(text, 20, 7);
    write_text("train.fa", text);
    char *cut = strstr(text, ">s3\n"), more[2048];
    snprintf(more, sizeof more, "%.*s>new\nMKVMKVMKV\n>again\nMKVMKVMKV\n", (int)(cut - text),
             text);
    write_text("valid.fa", more); /* three of the twenty, and one that stands there twice */
    pf_data *data = NULL;
    CHECK_OK(open_files(&data, FILES("train.fa"), FILES("valid.fa"), 32));
    pf_data_info train = info_of(data, PF_TRAIN), valid = info_of(data, PF_VALID);
    CHECK(train.documents == 17 && valid.documents == 4);
    CHECK(train.shared == 3 && train.duplicates == 0 && valid.duplicates == 1);
    pf_data_close(&data);
    write_text("a.txt", "one text");
    write_text("b.txt", "another");
    CHECK_OK(open_files(&data, FILES("a.txt", "b.txt"), FILES("b.txt"), 32));
    train = info_of(data, PF_TRAIN), valid = info_of(data, PF_VALID);
    CHECK(train.documents == 2 && train.tokens == 13 && valid.tokens == 6 && valid.shared == 1);
    pf_data_close(&data);
}

int main(void) {
    begin_data_test();
    test_sequences();
    test_messages();
    test_texts();
    test_valid();
    return end_data_test();
}
