/*
 * homology_test.c - alignments against the plain recurrence over all cells, words in common against
 * looking at every pair, the split by homology against families that are known, and the identity
 * that is told against what the families were made with.
 */
#include <math.h>

#include "align.h"
#include "data_options.h"
#include "data_support.h"
#include "homology.h"
#include "kmers.h"

static const char LETTERS[] = "ACDEFGHIKLMNPQRSTVWY";

static uint32_t draws = 1;

static int below(int n) { return (int)((next_random(&draws) >> 8) % (uint32_t)n); }

/* ---- alignments ---- */

/* The recurrence as it is written: H over all cells, gaps of any length looked at one by one. */
static int plain_score(const pf_aligner *aligner, const pf_residues *a, const pf_residues *b) {
    static int h[64][64];
    int best = 0;
    for (int i = 1; i <= a->n; i++) {
        for (int j = 1; j <= b->n; j++) {
            pf_residues x = {a->ids + i - 1, 1}, y = {b->ids + j - 1, 1};
            int pair = pf_align_pair(aligner, x.ids[0], y.ids[0]), score = h[i - 1][j - 1] + pair;
            for (int k = 1; k <= i; k++) score = (int)pf_max(score, h[i - k][j] - 11 - k);
            for (int k = 1; k <= j; k++) score = (int)pf_max(score, h[i][j - k] - 11 - k);
            h[i][j] = (int)pf_max(0, score);
            best = (int)pf_max(best, h[i][j]);
        }
    }
    return best;
}

/* A copy of `from` with residues changed, left out and put in; its length. */
static int mutate(uint8_t *to, const uint8_t *from, int n, int change, int gaps) {
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (below(100) < gaps) continue;
        if (below(100) < gaps) to[m++] = (uint8_t)(4 + below(20));
        to[m++] = below(100) < change ? (uint8_t)(4 + below(20)) : from[i];
    }
    return m;
}

static void test_alignments(void) {
    pf_aligner *aligner = NULL;
    CHECK_OK(pf_aligner_open(&aligner, engine));
    CHECK(pf_align_pair(aligner, 4, 4) == 4);    /* A, A */
    CHECK(pf_align_pair(aligner, 22, 22) == 11); /* W, W */
    CHECK(pf_align_pair(aligner, 6, 7) == 2);    /* D, E */
    CHECK(pf_align_pair(aligner, 24, 4) == -1);  /* X */
    for (int round = 0; round < 300; round++) {
        uint8_t x[64], y[64];
        int n = 8 + below(20);
        for (int i = 0; i < n; i++) x[i] = (uint8_t)(4 + below(21));
        int m = mutate(y, x, n, 40, round % 10);
        if (m == 0) continue;
        pf_residues a = {m < n ? y : x, m < n ? m : n}, b = {m < n ? x : y, m < n ? n : m};
        pf_alignment found, none;
        int expected = plain_score(aligner, &a, &b);
        pf_align_banded(&found, aligner, &a, &b, 0, 0, 0); /* the band holds all cells */
        MUST(found.score == expected);
        MUST(found.matches <= found.columns && found.span <= a.n && found.span <= found.columns);
        MUST(expected == 0 || (found.matches > 0 && found.span >= found.matches));
        pf_align_banded(&none, aligner, &a, &b, 0, 0, expected + 1);
        MUST(none.score == expected && none.columns == 0);
        int at = below((int)a.n), ungapped = pf_align_extend(aligner, &a, &b, at, at);
        MUST(ungapped <= expected || expected == 0);
    }
    static const uint8_t one[] = {4, 5, 6, 7, 8, 9, 10, 11, 12, 13}; /* ACDEFGHIKL */
    static const uint8_t two[] = {4, 5, 6, 7, 4, 8, 9, 10, 11, 12, 13};
    pf_residues a = {one, 10}, b = {two, 11};
    pf_alignment found;
    pf_align_banded(&found, aligner, &a, &b, 0, 0, 0);
    CHECK(found.score == 4 + 9 + 6 + 5 + 6 + 6 + 8 + 4 + 5 + 4 - 12);
    CHECK(found.matches == 10 && found.columns == 11 && found.span == 10);
    CHECK(pf_align_extend(aligner, &a, &b, 5, 6) == 6 - 1 + 2 + 6 + 8 + 4 + 5 + 4);
    pf_aligner_close(&aligner);
}

/* ---- data of families ---- */

enum { FAMILIES = 40, LONG = 160 };

/* Families of 1 to 6: copies of an ancestor with a share of the residues changed; the family is in
 * the name, "f12_3". Returns the number of sequences. */
static int write_families(const char *name, int change, bool backwards) {
    static char text[FAMILIES * 6 * (LONG + 60)], *parts[FAMILIES * 6];
    char *at = text;
    int n = 0;
    draws = 5;
    for (int family = 0; family < FAMILIES; family++) {
        uint8_t ancestor[LONG], copy[2 * LONG];
        for (int i = 0; i < LONG; i++) ancestor[i] = (uint8_t)(4 + below(20));
        for (int member = 0; member <= family % 6; member++) {
            int m = mutate(copy, ancestor, LONG - 5 * member, change, 1);
            parts[n++] = at;
            at += sprintf(at, ">f%d_%d\n", family, member);
            for (int i = 0; i < m; i++) *at++ = LETTERS[copy[i] - 4];
            *at++ = '\n';
            *at++ = 0;
        }
    }
    char path_of[128];
    snprintf(path_of, sizeof path_of, "%s/%s", folder, name);
    snprintf(path, sizeof path, "%s", path_of);
    FILE *file = fopen(path, "wb");
    for (int i = 0; file && i < n; i++) fputs(parts[backwards ? n - 1 - i : i], file);
    CHECK(file && fclose(file) == 0);
    return n;
}

static int open_split(pf_data **data, pf_engine *with, const char *split, double identity,
                      double fraction) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    pf_config_set_string(options, "split", split);
    pf_config_set_number(options, "identity", identity);
    pf_config_set_number(options, "valid_fraction", fraction);
    pf_config_set_number(options, "min_tokens", 1);
    int status = pf_data_open(data, with, options);
    pf_config_free(options);
    return status;
}

/* The side of each family: bit 0 for training, bit 1 for validation. */
static void sides_of(const pf_data *data, int *sides) {
    memset(sides, 0, FAMILIES * sizeof *sides);
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        sides[atoi(data->names + d->name + 1)] |= 1 << d->split;
    }
}

static void test_split(void) {
    int first[FAMILIES], sides[FAMILIES], hashed = 0;
    pf_data *data = NULL;
    for (int backwards = 0; backwards < 2; backwards++) {
        int n = write_families("families.fa", 25, backwards);
        CHECK_OK(open_split(&data, engine, "homology", 0.3, 0.2));
        pf_data_info train = info_of(data, PF_TRAIN), valid = info_of(data, PF_VALID);
        CHECK(train.documents + valid.documents == n && train.clusters == FAMILIES);
        CHECK(valid.documents <= n / 5 && valid.documents >= n / 5 - 3);
        sides_of(data, sides);
        for (int i = 0; i < FAMILIES; i++) MUST(sides[i] == 1 || sides[i] == 2);
        if (backwards) CHECK(memcmp(first, sides, sizeof first) == 0); /* the order is nothing */
        memcpy(first, sides, sizeof first);
        pf_data_close(&data);
    }
    CHECK_OK(open_split(&data, engine, "auto", 0.3, 0.2));
    sides_of(data, sides);
    for (int i = 0; i < FAMILIES; i++) hashed += sides[i] == 3;
    CHECK(hashed > 10 && info_of(data, PF_ALL).clusters == 0);
    pf_data_close(&data);
    CHECK_OK(open_split(&data, engine, "homology", 0.9, 0.2)); /* none is as like as that */
    CHECK(info_of(data, PF_ALL).clusters > 2 * FAMILIES);
    pf_data_close(&data);
    write_text("one.fa", ">f0_0\nMKVLAAGIVGLCQWERTYHDNPSFMKVLAAGIVGLCQWERTYHDNPSF\n"
                         ">f0_1\nMKVLAAGIVGLCQWERTYHDNPSFMKVLAAGIVGLCQWERTYHDNPSW\n");
    CHECK_FAILS(PF_EFORMAT, open_split(&data, engine, "homology", 0.3, 0.2));
    CHECK(says("all of its 2 sequences are alike"));
    write_text("a.txt", "some words that are no sequence");
    CHECK_FAILS(PF_EINVAL, open_split(&data, engine, "homology", 0.3, 0.2));
    CHECK(says("is for sequences"));
}

/* ---- words ---- */

typedef struct {
    const pf_data *data;
    int64_t groups, words, pairs; /* pairs: of words of two sequences */
    uint32_t last;
} tally;

static int count_group(void *context, const pf_kmer *words, int64_t n) {
    tally *t = context;
    t->groups++;
    t->words += n;
    for (int64_t i = 1; i < n; i++) MUST(words[i].sequence >= words[i - 1].sequence);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) t->pairs += words[i].sequence != words[j].sequence;
    return PF_OK;
}

/* Groups are the same for any share of the words at a time. */
static void test_words(void) {
    write_families("families.fa", 25, false);
    pf_data *data = NULL;
    CHECK_OK(open_split(&data, engine, "none", 0.3, 0));
    int64_t n = data->n_documents, order[FAMILIES * 6];
    for (int64_t i = 0; i < n; i++) order[i] = i;
    tally whole = {.data = data}, shares = {.data = data};
    CHECK_OK(pf_kmers_each(data, engine, order, n, count_group, &whole));
    CHECK(whole.groups > 500 && whole.pairs > 1000);
    size_t own = pf_heap_set_budget(data->heap, pf_heap_live(data->heap) + 150000);
    CHECK_OK(pf_kmers_each(data, engine, order, n, count_group, &shares));
    pf_heap_set_budget(data->heap, own);
    CHECK(shares.groups == whole.groups && shares.pairs == whole.pairs);
    pf_data_close(&data);
}

/* ---- how near ---- */

static void test_identity(void) {
    pf_data *data = NULL;
    pf_identity_info info = {.size = sizeof info};
    write_families("families.fa", 25, false);
    CHECK_OK(open_split(&data, engine, "homology", 0.3, 0.2));
    CHECK_OK(pf_data_identity(data, engine, 1000, &info));
    CHECK(info.sequences == info_of(data, PF_VALID).documents);
    CHECK(info.unrelated == info.sequences && info.mean == 0 && info.median == 0);
    CHECK(info.histogram[0] == info.sequences);
    pf_data_close(&data);
    CHECK_OK(open_split(&data, engine, "auto", 0.3, 0.3));
    CHECK_OK(pf_data_identity(data, engine, 12, &info));
    CHECK(info.sequences == 12 && info.unrelated < 12 && info.median > 0.2 && info.median < 0.7);
    int64_t sum = 0;
    for (int i = 0; i < 10; i++) sum += info.histogram[i];
    CHECK(sum == 12);
    CHECK_FAILS(PF_EINVAL, pf_data_identity(data, engine, 0, &info));
    pf_data_close(&data);
    /* A sequence with one of its 50 residues changed is told as that. */
    write_text("near.fa", ">a\nMKVLAAGIVGLCQWERTYHDNPSFMKVLAAGIVGLCQWERTYHDNPSFWW\n"
                          ">b\nMKVLAAGIVGLCQWERTYHDNPSFMKVLAAGIVGLCQWERTYHDNPSFWF\n");
    CHECK_OK(open_split(&data, engine, "auto", 0.3, 0.5));
    CHECK_OK(pf_data_identity(data, engine, 10, &info));
    CHECK(info.sequences == 1 && fabs(info.mean - 49.0 / 50) < 0.03 && info.histogram[9] == 1);
    pf_data_close(&data);
    write_text("a.txt", "some words that are no sequence");
    CHECK_OK(open_split(&data, engine, "auto", 0.3, 0));
    CHECK_FAILS(PF_EINVAL, pf_data_identity(data, engine, 10, &info));
    CHECK(says("these are text"));
    pf_data_close(&data);
}

/* ---- memory that runs out ---- */

static int split_and_ask(int n, failing *memory) {
    pf_options how = PF_OPTIONS_DEFAULT;
    pf_engine *other = NULL;
    pf_data *data = NULL;
    pf_identity_info info = {.size = sizeof info};
    how.allocator = &(pf_allocator){sizeof(pf_allocator), failing_resize, memory};
    memory->left = -1;
    if (pf_engine_open(&other, &how) < 0) return PF_EINVAL;
    memory->left = n;
    int status = open_split(&data, other, "homology", 0.3, 0.3);
    if (status >= 0) status = pf_data_identity(data, other, 10, &info);
    pf_data_close(&data);
    pf_engine_close(&other);
    return status;
}

static void test_no_memory(void) {
    write_text("few.fa", ">a\nMKVLAAGIVGLCQWERTYHDNPSFMKVLA\n>b\nMKVLAAGIVGLCQWERTYHDNPSFMKVLC\n"
                         ">c\nWWHHFFPPGGYYTTSSRRQQNNMMLLKKIIHHGGFF\n");
    int failed = 0, status = PF_ENOMEM;
    for (; status == PF_ENOMEM && failed < 300; failed++) {
        failing memory = {0};
        status = split_and_ask(failed, &memory);
        MUST(memory.blocks == 0 && (status >= 0 || status == PF_ENOMEM));
    }
    CHECK(status >= 0 && failed > 20);
}

int main(void) {
    begin_data_test();
    test_alignments();
    test_split();
    test_words();
    test_identity();
    test_no_memory();
    return end_data_test();
}
