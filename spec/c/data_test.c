/*
 * data_test.c - data sets: splits, packing, training order, masks. A model must meet
 * every token exactly once, never see across documents, and get the same rows again.
 */
#include "data_support.h"

/* n sequences of 5 .. 5+spread-1 residues, reproducible. */
static void write_proteins(const char *name, int n, int spread) {
    char *text = malloc((size_t)n * (size_t)(spread + 40)), *at = text;
    uint32_t state = 7;
    for (int i = 0; i < n; i++) {
        at += sprintf(at, ">p%d some protein\n", i);
        int residues = 5 + (int)(next_random(&state) >> 8) % spread;
        for (int k = 0; k < residues; k++)
            *at++ = "ACDEFGHIKLMNPQRSTVWY"[(next_random(&state) >> 8) % 20];
        *at++ = '\n';
    }
    *at = 0;
    write_text(name, text);
    free(text);
}

/* ---- splits and packing ---- */

static void test_split(void) {
    pf_data *data = NULL;
    static char side[2][400];
    for (int round = 0; round < 2; round++) { /* the same sequences among fewer others */
        write_proteins("split.fasta", round ? 200 : 400, 30);
        CHECK_OK(open_with(&data, 64, NULL, 0.3));
        for (int split = PF_TRAIN; split <= PF_VALID; split++) {
            int64_t n = info_of(data, (pf_split)split).documents;
            for (int64_t i = 0; i < n; i++) {
                pf_tensor *ids = NULL;
                const char *name = NULL;
                MUST(pf_data_document(&ids, &name, engine, data, (pf_split)split, i) >= 0);
                side[round][atoi(name + 1)] |= (char)(1 << split);
                pf_tensor_release(&ids);
            }
        }
        pf_data_close(&data);
    }
    int valid = 0, same = 1;
    for (int i = 0; i < 400; i++) {
        MUST(side[0][i] == 1 << PF_TRAIN || side[0][i] == 1 << PF_VALID);
        valid += side[0][i] == 1 << PF_VALID;
        if (i < 200) same &= side[0][i] == side[1][i];
    }
    CHECK(same);
    CHECK(abs(valid - 120) < 5 * 9.2); /* binomial: sigma 9.2 */
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    pf_config_set_string(options, "split", "none");
    CHECK_OK(pf_data_open(&data, engine, options));
    CHECK(info_of(data, PF_VALID).documents == 0 && info_of(data, PF_ALL).documents == 200);
    pf_data_close(&data);
    pf_config_free(options);
    write_text("two.fasta", ">a\nACDEF\n>b\nACDEG\n");
    CHECK_OK(open_with(&data, 0, NULL, 0));
    CHECK(info_of(data, PF_TRAIN).documents == 1 && info_of(data, PF_VALID).documents == 1);
    pf_data_close(&data);
}

/* Follows one row: targets are next tokens, documents are begin .. end, padding is dead. */
static int64_t check_row(const int32_t *in, const int32_t *target, const int32_t *document,
                         const int32_t *mask, int length, double *counts) {
    int64_t targets = 0;
    int good = 1;
    for (int i = 0; i < length; i++) {
        bool inner = i + 1 < length && document[i + 1] == document[i] && mask[i];
        if (inner) good &= target[i] == in[i + 1];
        if (!mask[i]) good &= in[i] == 0 && target[i] == -1;
        if (mask[i] && i + 1 < length && !inner) good &= in[i] == 2 || target[i] >= 4;
        if (in[i] == 2) good &= target[i] == -1; /* nothing follows an end */
        good &= target[i] != 1;
        good &= i == 0 || document[i] == document[i - 1] || document[i] == document[i - 1] + 1;
        if (mask[i] && in[i] == 1) good &= i == 0 || document[i] != document[i - 1];
        if (target[i] >= 0) counts[target[i]]++;
        targets += target[i] >= 0;
    }
    MUST(good);
    return targets;
}

/* Of `size` rows those that are there, as long as the longest, in steps of 16 or of a sixteenth. */
static void check_shape(const pf_batch *batch, int length, int size) {
    int64_t L = pf_tensor_size(batch->input, 1), step = (length + 255) / 256 * 16, used = 0;
    for (int64_t i = 0; i < pf_tensor_numel(batch->mask); i++)
        if (ids_of(batch->mask)[i] && i % L >= used) used = i % L + 1;
    int64_t whole = (used + step - 1) / step * step;
    MUST(batch->rows <= size && pf_tensor_size(batch->input, 0) == batch->rows);
    MUST(L == (whole < length ? whole : length));
}

/* Reads `rows` rows of a split and compares what was predicted with the counts. */
static void check_pass(pf_data *data, pf_split split, int length, int size) {
    static double counts[256], expected[256], bigram[256 * 256];
    pf_data_info info = info_of(data, split);
    int64_t batches = (info.rows + size - 1) / size, targets = 0, rows = 0;
    memset(counts, 0, sizeof counts);
    for (int64_t b = 0; b < batches; b++) {
        pf_batch batch = {.size = sizeof batch};
        MUST(pf_data_batch(&batch, engine, data, split, (uint64_t)b, size, false, 3) >= 0);
        int64_t sum = 0;
        check_shape(&batch, length, size);
        for (int i = 0; i < batch.rows; i++) {
            int L = (int)pf_tensor_size(batch.input, 1), at = i * L;
            sum += check_row(ids_of(batch.input) + at, ids_of(batch.target) + at,
                             ids_of(batch.documents) + at, ids_of(batch.mask) + at, L, counts);
        }
        MUST(sum == batch.tokens);
        targets += sum;
        rows += batch.rows;
        pf_batch_release(&batch);
    }
    CHECK(rows == info.rows && targets == info.tokens);
    CHECK_OK(pf_data_counts(data, split, expected, bigram));
    CHECK(memcmp(counts, expected, 29 * sizeof *counts) == 0);
    double pairs = 0;
    for (int i = 0; i < 29 * 29; i++) pairs += bigram[i];
    CHECK(pairs == (double)info.tokens);
}

/* Every token is predicted exactly once, at lengths that cut few, many and all documents. */
static void test_packing(void) {
    const int lengths[] = {2, 7, 50, 128, 5000};
    write_proteins("pack.fasta", 300, 90);
    for (int i = 0; i < 5; i++) {
        pf_data *data = NULL;
        CHECK_OK(open_with(&data, lengths[i], NULL, 0.2));
        check_pass(data, PF_VALID, lengths[i], 3);
        check_pass(data, PF_ALL, lengths[i], 4);
        check_pass(data, PF_TRAIN, lengths[i], 1);
        pf_data_info info = info_of(data, PF_TRAIN);
        double filled = (double)(info.tokens + info.documents) / (double)(info.rows * lengths[i]);
        if (lengths[i] == 128) CHECK(filled > 0.97);
        pf_batch batch = {.size = sizeof batch};
        CHECK_FAILS(PF_EINVAL, pf_data_batch(&batch, engine, data, PF_VALID, 1 << 20, 3, false, 3));
        pf_data_close(&data);
    }
}

enum { N = 5000, LENGTH = 64 };

/* The valid rows of a text follow one another; the last batch has a row less. */
static void check_text_valid(pf_data *data, const char *text) {
    pf_data_info valid = info_of(data, PF_VALID);
    pf_batch batch = {.size = sizeof batch};
    int64_t seen = 0;
    CHECK(valid.tokens == 499 && valid.rows == 8);
    for (int64_t b = 0; b < 3; b++) {
        MUST(pf_data_batch(&batch, engine, data, PF_VALID, (uint64_t)b, 3, false, 1) >= 0);
        int32_t *target = ids_of(batch.target), *mask = ids_of(batch.mask);
        for (int64_t i = 0; i < pf_tensor_numel(batch.target); i++) {
            if (target[i] < 0)
                MUST(mask[i] == 0);
            else
                MUST(target[i] == text[4501 + seen++]);
        }
        MUST(batch.rows == (b < 2 ? 3 : 2));
        pf_batch_release(&batch);
    }
    CHECK(seen == valid.tokens);
}

/* A pass has each training row once, all shifted alike; passes differ in shift and order. */
static void check_text_passes(pf_data *data, const char *text) {
    int64_t rows = info_of(data, PF_TRAIN).rows, shift[4], order[4] = {0};
    pf_batch batch = {.size = sizeof batch};
    CHECK(info_of(data, PF_TRAIN).tokens == 4499 && rows == 4499 / LENGTH - 1);
    for (int pass = 0; pass < 4; pass++) {
        char met[N / LENGTH + 2] = {0};
        shift[pass] = -1;
        for (int64_t r = 0; r < rows; r++) {
            uint64_t index = (uint64_t)(pass * rows + r);
            char row[LENGTH];
            MUST(pf_data_batch(&batch, engine, data, PF_TRAIN, index, 1, false, 9) >= 0);
            MUST(batch.tokens == LENGTH && ids_of(batch.documents)[LENGTH - 1] == 0);
            for (int i = 0; i < LENGTH; i++) row[i] = (char)ids_of(batch.input)[i];
            const char *found = memmem(text, N, row, LENGTH);
            int64_t at = found ? found - text : -1;
            MUST(at >= 0 && at + LENGTH < 4500 && !met[at / LENGTH]++);
            if (r == 0) shift[pass] = at % LENGTH;
            MUST(at % LENGTH == shift[pass]);
            order[pass] = order[pass] * 31 % 1000003 + at / LENGTH;
            pf_batch_release(&batch);
        }
    }
    CHECK(order[0] != order[1] && order[1] != order[2] && order[2] != order[3]);
    CHECK(shift[0] != shift[1] || shift[1] != shift[2] || shift[2] != shift[3]);
}

static void test_text(void) {
    char text[N + 1];
    uint32_t state = 3;
    for (int i = 0; i < N; i++) text[i] = (char)('a' + (next_random(&state) >> 8) % 26);
    text[N] = 0;
    write_text("long.txt", text);
    pf_data *data = NULL;
    CHECK_OK(open_with(&data, LENGTH, NULL, 0));
    pf_data_info info = info_of(data, PF_VALID);
    CHECK(strcmp(info.format, "text") == 0 && strcmp(info.tokenizer, "byte") == 0);
    check_text_valid(data, text);
    check_text_passes(data, text);
    pf_data_close(&data);
}

/* ---- order, masks, determinism ---- */

/* A checksum of what stands in n training rows of the stream, read in batches of `size`. */
static uint64_t stream_sum(pf_data *data, int64_t n, int size, bool masked, uint64_t seed) {
    uint64_t sum = 0;
    for (int64_t b = 0; b < n / size; b++) {
        pf_batch batch = {.size = sizeof batch};
        MUST(pf_data_batch(&batch, engine, data, PF_TRAIN, (uint64_t)b, size, masked, seed) >= 0);
        int64_t numel = pf_tensor_numel(batch.input);
        for (int64_t i = 0; i < numel; i++) {
            if (!ids_of(batch.mask)[i]) continue;
            sum = (sum ^ (uint64_t)(ids_of(batch.input)[i] * 1000 + ids_of(batch.target)[i])) *
                  1099511628211u;
        }
        pf_batch_release(&batch);
    }
    return sum;
}

static void test_determinism(void) {
    pf_data *first = NULL, *second = NULL;
    write_proteins("order.fasta", 300, 90);
    CHECK_OK(open_with(&first, 64, NULL, 0));
    CHECK_OK(open_with(&second, 64, NULL, 0));
    int64_t rows = info_of(first, PF_TRAIN).rows;
    int64_t n = rows * 2 / 12 * 12 + 12; /* over two passes */
    for (int masked = 0; masked < 2; masked++) {
        uint64_t sum = stream_sum(first, n, 1, masked, 5);
        CHECK(sum == stream_sum(second, n, 4, masked, 5)); /* the batch size doesn't matter */
        CHECK(sum == stream_sum(first, n, 12, masked, 5));
        CHECK(sum != stream_sum(first, n, 4, masked, 6));
    }
    uint64_t pass[2] = {0}; /* the passes have the same rows in another order */
    for (int64_t at = 0; at < rows * 2; at++) {
        pf_batch batch = {.size = sizeof batch};
        MUST(pf_data_batch(&batch, engine, first, PF_TRAIN, (uint64_t)at, 1, false, 5) >= 0);
        if (at % rows < 20)
            pass[at / rows] = pass[at / rows] * 31 + (uint64_t)ids_of(batch.input)[1];
        pf_batch_release(&batch);
    }
    CHECK(pass[0] != pass[1]);
    pf_data_close(&first);
    pf_data_close(&second);
}

static bool near_share(double count, double n, double share) {
    return fabs(count - n * share) < 5 * sqrt(n * share * (1 - share));
}

/* BERT's proportions within five sigma; what was hidden is the target, the rest -1. */
static void check_masks(pf_data *data, int mask_id, int lowest, int choices) {
    double can = 0, chosen = 0, hidden = 0, kept = 0;
    int good = 1;
    for (uint64_t b = 0; b < 40; b++) {
        pf_batch plain = {.size = sizeof plain}, batch = {.size = sizeof batch};
        MUST(pf_data_batch(&plain, engine, data, PF_TRAIN, b, 8, false, 4) >= 0);
        MUST(pf_data_batch(&batch, engine, data, PF_TRAIN, b, 8, true, 4) >= 0);
        double targets = 0;
        for (int64_t i = 0; i < pf_tensor_numel(batch.input); i++) {
            int was = ids_of(plain.input)[i], is = ids_of(batch.input)[i];
            int target = ids_of(batch.target)[i];
            can += was >= lowest && ids_of(plain.mask)[i];
            good &= target == -1 ? is == was : target == was && was >= lowest;
            good &= is == was || is == mask_id || (is >= lowest && is < lowest + choices);
            if (target == -1) continue;
            targets++;
            hidden += is == mask_id;
            kept += is == was;
        }
        MUST(batch.tokens == (int64_t)targets);
        chosen += targets;
        pf_batch_release(&plain);
        pf_batch_release(&batch);
    }
    CHECK(good);
    CHECK(near_share(chosen, can, 0.15));
    CHECK(near_share(hidden, chosen, 0.8));
    CHECK(near_share(kept, chosen, 0.1 + 0.1 / choices));
}

static void test_masks(void) {
    pf_data *data = NULL;
    pf_batch batch = {.size = sizeof batch};
    write_proteins("masks.fasta", 300, 90);
    CHECK_OK(open_with(&data, 256, NULL, 0));
    check_masks(data, 3, 4, 20);
    pf_data_close(&data);
    char text[4000];
    for (int i = 0; i < 4000; i++) text[i] = (char)('a' + i * i % 19);
    write_bytes("masks.txt", text, sizeof text);
    CHECK_OK(open_with(&data, 256, NULL, 0));
    check_masks(data, 0, 1, 255);
    pf_data_close(&data);
    text[77] = 0;
    write_bytes("nul.txt", text, sizeof text);
    CHECK_OK(open_with(&data, 256, NULL, 0));
    CHECK_FAILS(PF_EINVAL, pf_data_batch(&batch, engine, data, PF_TRAIN, 0, 2, true, 4));
    CHECK(says("offset 77"));
    CHECK_OK(pf_data_batch(&batch, engine, data, PF_TRAIN, 0, 2, false, 4));
    pf_batch_release(&batch);
    pf_data_close(&data);
}

/* Tiny rows have a target each, masked too: no loss is ever a mean of nothing. */
static void test_never_empty(void) {
    pf_data *data = NULL;
    write_proteins("tiny.fasta", 200, 3);
    CHECK_OK(open_with(&data, 3, NULL, 0));
    for (uint64_t b = 0; b < 200; b++) {
        for (int masked = 0; masked < 2; masked++) {
            pf_batch batch = {.size = sizeof batch};
            MUST(pf_data_batch(&batch, engine, data, PF_TRAIN, b, 1, masked, 2) >= 0);
            int targets = 0;
            for (int i = 0; i < 3; i++) targets += ids_of(batch.target)[i] >= 0;
            MUST(batch.tokens >= 1 && batch.tokens == targets);
            pf_batch_release(&batch);
        }
    }
    pf_data_close(&data);
}

/* Laid anew, rows are those that a data set opened with this length has. */
static void test_lay(void) {
    const char *const files[] = {"lay.fasta", "lay.txt"};
    write_proteins(files[0], 60, 90);
    char text[3000];
    for (int i = 0; i < 3000; i++) text[i] = (char)('a' + i * i % 23);
    for (int i = 0; i < 2; i++) {
        pf_data *laid = NULL, *opened = NULL;
        if (i == 1) write_bytes(files[1], text, sizeof text);
        CHECK_OK(open_with(&laid, 100, NULL, 0));
        CHECK_OK(open_with(&opened, 48, NULL, 0));
        for (int again = 0; again < 2; again++) {
            pf_batch a = {.size = sizeof a}, b = {.size = sizeof b};
            CHECK_OK(pf_data_batch(&a, engine, laid, PF_TRAIN, 1, 4, false, 7));
            pf_batch_release(&a);
            CHECK_OK(pf_data_lay(laid, 48));
            CHECK_OK(pf_data_batch(&a, engine, laid, PF_TRAIN, 1, 4, false, 7));
            CHECK_OK(pf_data_batch(&b, engine, opened, PF_TRAIN, 1, 4, false, 7));
            size_t bytes = (size_t)pf_tensor_numel(a.input) * sizeof(int32_t);
            CHECK(pf_tensor_size(a.input, 1) == 48 && pf_tensor_size(b.input, 1) == 48);
            CHECK(memcmp(ids_of(a.input), ids_of(b.input), bytes) == 0);
            CHECK(info_of(laid, PF_VALID).rows == info_of(opened, PF_VALID).rows);
            pf_batch_release(&a);
            pf_batch_release(&b);
        }
        CHECK_FAILS(PF_EINVAL, pf_data_lay(laid, 1));
        CHECK(says("from 2 to 16777216"));
        CHECK_FAILS(PF_EINVAL, pf_data_lay(NULL, 8));
        pf_data_close(&laid);
        pf_data_close(&opened);
    }
}

/* ---- memory that runs out ---- */

/* Opens and reads a batch with memory running out after n requests. */
static int open_and_batch(int n, failing *memory) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *other = NULL, *usual = engine;
    pf_data *data = NULL;
    pf_batch batch = {.size = sizeof batch};
    options.allocator = &(pf_allocator){sizeof(pf_allocator), failing_resize, memory};
    memory->left = -1;
    if (pf_engine_open(&other, &options) < 0) return PF_EINVAL;
    engine = other;
    memory->left = n;
    int status = open_with(&data, 64, NULL, 0);
    if (status >= 0) status = pf_data_lay(data, 50);
    if (data && status == PF_ENOMEM)
        MUST(pf_data_batch(&batch, engine, data, PF_TRAIN, 0, 2, true, 1) == PF_ESTATE);
    if (status >= 0) status = pf_data_batch(&batch, engine, data, PF_TRAIN, 0, 2, true, 1);
    if (status >= 0) pf_batch_release(&batch);
    pf_data_close(&data);
    pf_engine_close(&other);
    engine = usual;
    return status;
}

static void test_no_memory(void) {
    for (int format = 0; format < 2; format++) {
        if (format == 0)
            write_proteins("memory.fasta", 50, 40);
        else
            write_text("memory.txt", "A text that is long enough to train a little model on it. "
                                     "It goes on for two lines, so that there is a valid part.");
        int failed = 0, status = PF_ENOMEM;
        for (; status == PF_ENOMEM && failed < 500; failed++) {
            failing memory = {0};
            status = open_and_batch(failed, &memory);
            MUST(memory.blocks == 0);
            MUST(status >= 0 || status == PF_ENOMEM);
        }
        if (status < 0) fprintf(stderr, "  %s\n", pf_last_error());
        CHECK(status >= 0 && failed > 5);
    }
}

int main(void) {
    begin_data_test();
    test_split();
    test_packing();
    test_text();
    test_determinism();
    test_masks();
    test_never_empty();
    test_lay();
    test_no_memory();
    return end_data_test();
}
