/*
 * data_fuzz.c - any bytes as FASTA or text, plain or gzip: an error, or a data set whose batches
 * can be asked for, and which is the same when it is read from shards.
 *
 * The first byte says what the others are: as they are, or what a gzip file of one or two members
 * holds, whole or damaged at an end. So the mutations reach what stands behind a checksum.
 */
#include <stdlib.h>
#include <zlib.h>

#include "fuzz_file.h"

#define SHARDS "memory:shards"

enum { PLAIN, ONE_MEMBER, TWO_MEMBERS, CUT, TAIL, WAYS };

const char *const fuzz_words[] = {
    ">",    ">a\n", "\n",       "\r\n",         "ACDEFGHIKLMNPQRSTVWY",
    "*",    "-",    ";",        "XBZUOJ",       "\xef\xbb\xbf",
    "@a\n", "+\n",  "\xff\xfe", "\x1f\x8b\x08", NULL};

void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) {
    static const char *const texts[] = {
        ">one\nMKVLAAGIVG\nACDEF\n>two x\nGGGGGGGGGG\n>three\nmkvlwaalll\n>four\nPPPPPPPPPPPPP\n",
        "The quick brown fox jumps over the lazy dog.\nAnd again, and again.\n",
        ">a\r\nACD*\r\n>b\r\n\r\nXBZ\r\n"};
    uint8_t made[256];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (uint8_t way = 0; way < WAYS; way++) {
            made[0] = way;
            memcpy(made + 1, texts[i], strlen(texts[i]));
            give(made, 1 + strlen(texts[i]));
        }
    }
}

/* ---- gzip ---- */

/* The stream is made once, and small: each input would fill 256 KB with zeros. */
static size_t member(const uint8_t *data, size_t size, uint8_t *out, size_t most) {
    static z_stream z;
    if (!z.state && deflateInit2(&z, 1, Z_DEFLATED, 12 + 16, 4, Z_DEFAULT_STRATEGY) != Z_OK)
        __builtin_trap();
    if (deflateReset(&z) != Z_OK) __builtin_trap();
    z.next_in = (uint8_t *)data, z.avail_in = (uInt)size;
    z.next_out = out, z.avail_out = (uInt)most;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) __builtin_trap();
    return (size_t)z.total_out;
}

/* The file that an input stands for: its size. */
static size_t wrap(const uint8_t *data, size_t size, uint8_t *out, size_t most) {
    int way = data[0] % WAYS;
    data++, size--;
    if (way == PLAIN) return memcpy(out, data, size), size;
    size_t half = way == TWO_MEMBERS ? size / 3 : size;
    size_t n = member(data, half, out, most);
    if (way == TWO_MEMBERS) n += member(data + half, size - half, out + n, most - n);
    if (way == CUT) n -= 1 + size % n;
    if (way == TAIL) out[n] = (uint8_t)size, n += 1;
    return n;
}

/* ---- what was read ---- */

static void batches(pf_engine *e, pf_data *set, uint8_t kind) {
    pf_batch batch = {.size = sizeof batch};
    for (uint64_t index = 0; index < 2; index++) {
        pf_split split = (pf_split)(index % 2);
        if (pf_data_batch(&batch, e, set, split, index, 2, kind & 1, kind) >= 0)
            pf_batch_release(&batch);
        if (pf_data_stream_batch(&batch, e, set, split, index, 2, kind) >= 0)
            pf_batch_release(&batch);
    }
}

static pf_config *options_of(const char *path, uint8_t kind) {
    static const char *const formats[] = {"auto", "fasta", "text", "auto"};
    pf_config *options = pf_config_new(PF_MAP);
    pf_config_set_string(options, "path", path);
    pf_config_set_string(options, "format", formats[kind / 2 % 4]);
    pf_config_set_bool(options, "skip_bad", kind & 1);
    if (pf_config_set_bool(options, "unique", kind & 8) < 0) __builtin_trap();
    return options;
}

/* Shards of what could be read can be made, and hold the same. */
static void shards(pf_engine *e, const pf_config *options, const pf_data_info *whole) {
    pf_config *of_shards = pf_config_new(PF_MAP);
    pf_data_info info = {.size = sizeof info};
    pf_data *set = NULL;
    pf_config_set_number(of_shards, "length", 16);
    if (pf_config_set_string(of_shards, "path", SHARDS) < 0) __builtin_trap();
    if (pf_data_shard(e, options, SHARDS) >= 0 && pf_data_open(&set, e, of_shards) >= 0) {
        if (pf_data_info_of(set, PF_ALL, &info) < 0) __builtin_trap();
        if (info.checksum != whole->checksum || info.tokens != whole->tokens) __builtin_trap();
        batches(e, set, 1);
        fuzz_good++;
    }
    pf_data_close(&set);
    pf_config_free(of_shards);
    pf_file_remove(e, SHARDS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t file[4 * FUZZ_MOST];
    pf_engine *e = fuzz_engine();
    pf_data *set = NULL;
    pf_data_info info = {.size = sizeof info};
    if (size == 0) return 0;
    uint8_t kind = (uint8_t)(data[0] / WAYS);
    pf_config *options = options_of(fuzz_path(file, wrap(data, size, file, sizeof file)), kind);
    pf_config *rows = pf_config_copy(options);
    if (pf_config_set_number(rows, "length", 16) < 0) __builtin_trap();
    if (pf_data_open(&set, e, rows) >= 0) {
        batches(e, set, kind);
        if (pf_data_lay(set, 5) >= 0) batches(e, set, kind);
        if (pf_data_info_of(set, PF_ALL, &info) < 0) __builtin_trap();
        shards(e, options, &info);
    }
    pf_data_close(&set);
    pf_config_free(options);
    pf_config_free(rows);
    return 0;
}
