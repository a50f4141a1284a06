/* io_test.c - safetensors: round trips bit for bit, and a corpus of damaged files. */
#include "check.h"
#include "safetensors.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256];

/* ---- safetensors: round trips ------------------------------------------------- */

static pf_tensor *make(pf_dtype dtype, int rank, const int64_t *shape) {
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_empty(&t, engine, dtype, rank, shape));
    for (int64_t i = 0; i < pf_tensor_numel(t); i++) {
        pf_tensor_set(t, i, dtype == PF_F32 ? (double)i * 0.37 - 1 : (double)(i * 1000003 - 5));
    }
    return t;
}

static bool same_values(const pf_tensor *a, const pf_tensor *b) {
    size_t bytes = (size_t)pf_tensor_numel(a) * 4;
    char *x = malloc(bytes + 1), *y = malloc(bytes + 1);
    bool same = pf_same_shape(a, b) && a->dtype == b->dtype && pf_tensor_read(a, x, bytes) >= 0 &&
                pf_tensor_read(b, y, bytes) >= 0 && memcmp(x, y, bytes) == 0;
    free(x);
    free(y);
    return same;
}

static void test_round_trip(void) {
    pf_named in[6], *out = NULL;
    pf_tensor *base = make(PF_F32, 3, (int64_t[]){3, 4, 5});
    pf_config *metadata = pf_config_new(PF_MAP), *back = NULL, *list = pf_config_new(PF_LIST);
    const char *path = scratch_path("%s/round.safetensors", dir);
    int n = 0;
    in[0] = (pf_named){"weights", base};
    in[1] = (pf_named){"ids \xc3\xa9 \"x\"", make(PF_I32, 2, (int64_t[]){2, 7})};
    in[2] = (pf_named){"scalar", make(PF_F32, 0, NULL)};
    in[3] = (pf_named){"empty", make(PF_F32, 2, (int64_t[]){0, 9})};
    in[4] = (pf_named){"rank8", make(PF_F32, 8, (int64_t[]){1, 2, 1, 2, 1, 1, 2, 1})};
    in[5].name = "strided"; /* base permuted to (5, 3, 4), and its first column left out */
    CHECK_OK(pf_tensor_view(&in[5].tensor, base));
    pf_tensor *v = in[5].tensor;
    memcpy(v->shape, (int64_t[]){4, 3, 4}, 24);
    memcpy(v->stride, (int64_t[]){1, 20, 5}, 24);
    v->offset = 1;
    static const uint32_t odd[] = {0x7FC01234, 0xFF800000, 0x80000000, 0x00000001};
    memcpy(pf_tensor_data(in[4].tensor), odd, sizeof odd); /* nan with payload, -inf, -0, tiny */
    CHECK_OK(pf_config_set_string(metadata, "format", "pt"));
    CHECK_OK(pf_config_set_number(metadata, "n", 2.5));
    CHECK_OK(pf_config_push(list, pf_config_new_bool(true)));
    CHECK_OK(pf_config_set(metadata, "list", list));
    CHECK_OK(pf_safetensors_save(engine, path, in, 6, metadata));
    CHECK_OK(pf_safetensors_load(engine, path, &out, &n, &back));
    CHECK(n == 6);
    for (int i = 0; i < n; i++) {
        int j = 0;
        while (j < n && strcmp(out[j].name, in[i].name)) j++;
        CHECK(j < n && same_values(in[i].tensor, out[j].tensor));
    }
    CHECK(!strcmp(pf_config_string(pf_config_get(back, "format")), "pt"));
    CHECK(!strcmp(pf_config_string(pf_config_get(back, "n")), "2.5"));
    CHECK(!strcmp(pf_config_string(pf_config_get(back, "list")), "[true]"));
    size_t bytes;
    uint64_t header;
    char *raw = scratch_read(path, &bytes);
    memcpy(&header, raw, 8);
    CHECK(header % 8 == 0 && raw[8] == '{');
    CHECK(scratch_count(dir, ".round") == 0); /* no temporary file is left */
    free(raw);
    pf_named_free(out, n);
    pf_config_free(back);
    pf_config_free(metadata);
    for (int i = 0; i < 6; i++) pf_tensor_release(&in[i].tensor);
}

static void test_save_refused(void) {
    const char *path = scratch_path("%s/not.safetensors", dir);
    pf_tensor *t = make(PF_F32, 1, (int64_t[]){3}), *dead = NULL;
    pf_tape *tape = NULL;
    CHECK_OK(pf_tape_open(&tape, engine));
    CHECK_OK(pf_tensor_full(&dead, engine, PF_F32, 0, NULL, 1));
    pf_tape_close(&tape);
    const pf_named twice[] = {{"a", t}, {"b", t}, {"a", t}};
    const pf_named none[] = {{"", t}}, gone[] = {{"g", dead}};
    const pf_named reserved[] = {{"__metadata__", t}}, bytes[] = {{"\xff", t}};
    CHECK_FAILS(PF_EINVAL, pf_safetensors_save(engine, path, twice, 3, NULL));
    CHECK_FAILS(PF_EINVAL, pf_npz_save(engine, path, twice, 3, NULL, false));
    CHECK(strstr(pf_last_error(), "two tensors are named '"));
    CHECK(strstr(pf_last_error(), "'a'") != NULL);
    CHECK_FAILS(PF_EINVAL, pf_safetensors_save(engine, path, none, 1, NULL));
    CHECK_FAILS(PF_EINVAL, pf_safetensors_save(engine, path, reserved, 1, NULL));
    CHECK_FAILS(PF_EINVAL, pf_safetensors_save(engine, path, bytes, 1, NULL));
    CHECK_FAILS(PF_ESTATE, pf_safetensors_save(engine, path, gone, 1, NULL));
    CHECK_FAILS(PF_ENOTFOUND,
                pf_safetensors_save(engine, scratch_path("%s/no/x", dir), twice, 2, NULL));
    CHECK(access(path, F_OK) != 0 && scratch_count(dir, ".not") == 0);
    pf_tensor_release(&dead);
    pf_tensor_release(&t);
}

/* ---- safetensors: files of others --------------------------------------------- */

/* Writes header length, header and data; length < 0: the true one. */
static const char *craft(int64_t length, const char *header, const void *data, size_t bytes) {
    const char *path = scratch_path("%s/crafted.safetensors", dir);
    uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    FILE *f = fopen(path, "wb");
    fwrite(&n, 1, 8, f);
    fwrite(header, 1, strlen(header), f);
    fwrite(data, 1, bytes, f);
    fclose(f);
    return path;
}

#define ONE(dtype, shape, end)                                                                     \
    "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[0," end "]}}"

static void converts(const char *header, const void *data, size_t bytes, int64_t count,
                     const double *expected) {
    pf_named *out = NULL;
    int n = 0;
    CHECK_OK(pf_safetensors_load(engine, craft(-1, header, data, bytes), &out, &n, NULL));
    CHECK(n == 1 && pf_tensor_numel(out[0].tensor) == count);
    for (int64_t i = 0; n == 1 && i < count; i++) {
        double got = 0;
        CHECK_OK(pf_tensor_get(out[0].tensor, i, &got));
        CHECK(memcmp(&got, &expected[i], sizeof got) == 0);
        if (got != expected[i]) fprintf(stderr, "  %.40s [%d]: %g\n", header, (int)i, got);
    }
    pf_named_free(out, n);
}

static void test_dtypes(void) {
    converts(ONE("F64", "[2]", "16"), (double[]){0.1, -INFINITY}, 16, 2,
             (double[]){(double)0.1f, -INFINITY});
    converts(ONE("F16", "[6]", "12"), (uint16_t[]){0x3C00, 0xC000, 0x7BFF, 0x0001, 0x8000, 0xFC00},
             12, 6, (double[]){1, -2, 65504, 0x1p-24, -0.0, -INFINITY});
    converts(ONE("BF16", "[3]", "6"), (uint16_t[]){0x3F80, 0xC049, 0x0001}, 6, 3,
             (double[]){1, -3.140625, 0x1p-133});
    converts(ONE("I64", "[2]", "16"), (int64_t[]){INT32_MIN, INT32_MAX}, 16, 2,
             (double[]){INT32_MIN, INT32_MAX});
    converts(ONE("U64", "[1]", "8"), (uint64_t[]){7}, 8, 1, (double[]){7});
    converts(ONE("U32", "[1]", "4"), (uint32_t[]){INT32_MAX}, 4, 1, (double[]){INT32_MAX});
    converts(ONE("I16", "[2]", "4"), (int16_t[]){-32768, 5}, 4, 2, (double[]){-32768, 5});
    converts(ONE("U16", "[1]", "2"), (uint16_t[]){65535}, 2, 1, (double[]){65535});
    converts(ONE("I8", "[2]", "2"), (int8_t[]){-128, 127}, 2, 2, (double[]){-128, 127});
    converts(ONE("U8", "[2]", "2"), (uint8_t[]){255, 0}, 2, 2, (double[]){255, 0});
    converts(ONE("BOOL", "[2]", "2"), (uint8_t[]){1, 0}, 2, 2, (double[]){1, 0});
    /* More than one chunk of the conversion. */
    static uint8_t many[20001];
    static double expected[20001];
    for (int i = 0; i < 20001; i++) expected[i] = many[i] = (uint8_t)(i * 7);
    converts(ONE("U8", "[20001]", "20001"), many, sizeof many, 20001, expected);
}

/* Every number of 16 bits is the same from a file and from bytes, NaN and their bits among them. */
static void test_all_halves(void) {
    static const char *const types[2][2] = {{"f16", ONE("F16", "[65536]", "131072")},
                                            {"bf16", ONE("BF16", "[65536]", "131072")}};
    static uint16_t every[1 << 16];
    const int64_t count[] = {1 << 16};
    for (int i = 0; i < 1 << 16; i++) every[i] = (uint16_t)i;
    for (int k = 0; k < 2; k++) {
        pf_named *out = NULL;
        pf_tensor *t = NULL;
        int n = 0;
        const char *path = craft(-1, types[k][1], every, sizeof every);
        CHECK_OK(pf_safetensors_load(engine, path, &out, &n, NULL));
        CHECK_OK(
            pf_tensor_from_bytes(&t, engine, types[k][0], false, every, sizeof every, 1, count));
        CHECK(n == 1 && memcmp(pf_tensor_data(t), pf_tensor_data(out[0].tensor), 4 << 16) == 0);
        pf_named_free(out, n);
        pf_tensor_release(&t);
    }
}

static void rejects(int status, const char *path, const char *part) {
    pf_named *out = NULL;
    pf_config *metadata = NULL;
    int n = -1;
    CHECK_FAILS(status, pf_safetensors_load(engine, path, &out, &n, &metadata));
    CHECK(!out && n == 0 && !metadata);
    CHECK(strstr(pf_last_error(), part) != NULL);
    if (!strstr(pf_last_error(), part)) fprintf(stderr, "  %s\n", pf_last_error());
}

static void test_range(void) {
    rejects(PF_EFORMAT, craft(-1, ONE("F64", "[1]", "8"), (double[]){1e300}, 8), "position 0");
    rejects(PF_EFORMAT, craft(-1, ONE("I64", "[2]", "16"), (int64_t[]){0, 1LL << 31}, 16),
            "position 1");
    rejects(PF_EFORMAT, craft(-1, ONE("U64", "[1]", "8"), (uint64_t[]){1ULL << 63}, 8), "fit");
    rejects(PF_EFORMAT, craft(-1, ONE("U32", "[1]", "4"), (uint32_t[]){1U << 31}, 4), "fit");
    rejects(PF_EFORMAT, craft(-1, ONE("F8_E4M3", "[2]", "2"), "ab", 2), "F8_E4M3");
}

#define TWO(a, b, c, d)                                                                            \
    "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" a "," b "]},"                     \
    "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" c "," d "]}}"

/* Each row one lie; the data are 8 zero bytes. */
static void test_corpus(void) {
    static const struct {
        const char *header, *part;
    } cases[] = {
        {ONE("F32", "[3]", "12"), "12 bytes"},
        {ONE("F32", "[1]", "4"), "the file has 8"},
        {ONE("F32", "[1]", "8"), "data_offsets say 8"},
        {ONE("F32", "[2,-1]", "8"), "dimension"},
        {ONE("F32", "[2.0]", "8"), "dimension"},
        {ONE("F32", "[\"2\"]", "8"), "dimension"},
        {ONE("F32", "2", "8"), "shape"},
        {ONE("F32", "[1,1,1,1,1,1,1,1,2]", "8"), "9 dimensions"},
        {ONE("F32", "[4611686018427387904,4]", "0"), "too large"},
        {ONE("F32", "[4611686018427387904,4,0]", "0"), "too large"},
        {ONE("F32", "[9223372036854775807]", "8"), "too large"},
        {ONE("F32", "[2]", "-8"), "negative"},
        {ONE("F32", "[2]", "8.0"), "data_offsets"},
        {ONE("F32", "[2]", "9223372036854775808"), "data_offsets"},
        {ONE("F32", "[2]", "8,8"), "data_offsets"},
        {ONE("F31", "[2]", "8"), "unknown dtype 'F31'"},
        {ONE("f32", "[2]", "8"), "unknown dtype"},
        {ONE("", "[2]", "8"), "unknown dtype"},
        {TWO("0", "4", "0", "4"), "overlap"},
        {TWO("0", "4", "2", "6"), "overlap"},
        {TWO("0", "4", "8", "12"), "hole"},
        {TWO("4", "8", "8", "12"), "hole"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", "data_offsets"},
        {"{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", "dtype"},
        {"{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "shape"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}",
         "uplicate"},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "uplicate"},
        {"{\"x\":[]}", "map"},
        {"{\"x\":null}", "map"},
        {"{}", "the file has 8"},
        {"[]", "'{'"},
        {"", "'{'"},
        {" {}", "'{'"},
        {"{", "line 1"},
        {"{}x", "line 1"},
        {"{\"\xff\":1}", "decode"},
        {"{\"__metadata__\":[]}", "__metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", "__metadata__ 'a'"},
    };
    static const char zeros[8];
    for (int i = 0; i < PF_COUNT(cases); i++) {
        rejects(PF_EFORMAT, craft(-1, cases[i].header, zeros, 8), cases[i].part);
    }
    const char *good = ONE("F32", "[2]", "8");
    static const int64_t lengths[] = {0, 1, 1000, PF_ST_HEADER + 1, INT64_MAX, INT64_MAX - 7};
    for (int i = 0; i < PF_COUNT(lengths); i++) {
        rejects(PF_EFORMAT, craft(lengths[i], good, zeros, 8), "header");
    }
    const char *path = craft(-1, good, zeros, 8);
    size_t bytes;
    char *raw = scratch_read(path, &bytes);
    memset(raw, 0xFF, 8); /* the length 2^64 - 1 */
    CHECK(scratch_write(path, raw, bytes) == 0);
    rejects(PF_EFORMAT, path, "header");
    free(raw);
    rejects(PF_ENOTFOUND, scratch_path("%s/absent", dir), "absent");
    rejects(PF_EIO, dir, "folder");
}

static void test_many_tensors(void) {
    pf_text text = {0};
    pf_text_put(&text, "{", 1);
    for (int i = 0; i <= PF_ST_TENSORS; i++) {
        pf_text_print(&text, "%s\"%d\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}",
                      i ? "," : "", i);
    }
    pf_text_put(&text, "}", 1);
    rejects(PF_EFORMAT, craft(-1, text.data, "", 0), "tensors, at most");
    free(text.data);
}

/* A file is allowed to change meaning by a flipped byte (the format has no checksum), but
 * neither that nor a cut may do more than fail. */
static void test_flips_and_cuts(void) {
    static const float data[] = {1, 2};
    const char *path = craft(-1,
                             "{\"__metadata__\":{\"a\":\"b\"},\"x\":{\"dtype\":\"F32\","
                             "\"shape\":[1],\"data_offsets\":[0,4]},"
                             "\"y\":{\"dtype\":\"I32\",\"shape\":[],"
                             "\"data_offsets\":[4,8]}}",
                             data, sizeof data);
    size_t bytes;
    char *raw = scratch_read(path, &bytes);
    pf_named *out;
    int n, good = 0, cut = 0;
    for (size_t i = 0; i < bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            raw[i] = (char)(raw[i] ^ 1 << bit);
            scratch_write(path, raw, bytes);
            if (pf_safetensors_load(engine, path, &out, &n, NULL) >= 0) {
                good++;
                pf_named_free(out, n);
            } else {
                check_one(pf_last_error()[0] != 0, "a message", __FILE__, __LINE__);
            }
            raw[i] = (char)(raw[i] ^ 1 << bit);
        }
    }
    CHECK(good >= 64 && good < (int)bytes * 4); /* the data's 64 bits always load */
    for (size_t size = 0; size < bytes; size++) {
        scratch_write(path, raw, size);
        cut += pf_safetensors_load(engine, path, &out, &n, NULL) < 0;
    }
    CHECK(cut == (int)bytes);
    free(raw);
}

static void test_budget(void) {
    pf_engine *small = NULL;
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_named *out = NULL;
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    int n = 0;
    options.memory = 1 << 20;
    options.threads = 1;
    CHECK_OK(pf_engine_open(&small, &options));
    pf_tensor *t = make(PF_F32, 2, (int64_t[]){600, 1000});
    const char *path = scratch_path("%s/big.safetensors", dir);
    const pf_named big = {"big", t};
    CHECK_OK(pf_safetensors_save(engine, path, &big, 1, NULL));
    pf_engine_info(small, &before);
    CHECK_FAILS(PF_ENOMEM, pf_safetensors_load(small, path, &out, &n, NULL));
    pf_engine_info(small, &after);
    CHECK(before.live == after.live && !out);
    pf_tensor_release(&t);
    pf_engine_close(&small);
}

static void test_inspect(void) {
    pf_config *info = NULL;
    pf_tensor *t = make(PF_F32, 2, (int64_t[]){3, 4});
    const pf_named one = {"layer.weight", t};
    const char *path = scratch_path("%s/inspect.safetensors", dir);
    CHECK_OK(pf_safetensors_save(engine, path, &one, 1, NULL));
    CHECK_OK(pf_inspect(&info, engine, path));
    const pf_config *first = pf_config_at(pf_config_get(info, "tensors"), 0);
    CHECK(!strcmp(pf_config_string(pf_config_get(first, "name")), "layer.weight"));
    CHECK(!strcmp(pf_config_string(pf_config_get(first, "dtype")), "F32"));
    CHECK(pf_config_number(pf_config_at(pf_config_get(first, "shape"), 1)) == 4);
    CHECK(pf_config_number(pf_config_get(first, "bytes")) == 48);
    CHECK(pf_config_number(pf_config_get(info, "params")) == 12);
    CHECK(pf_config_number(pf_config_get(info, "bytes")) == 48);
    CHECK(pf_config_kind_of(pf_config_get(info, "metadata")) == PF_MAP);
    pf_config_free(info);
    CHECK_FAILS(PF_ENOTFOUND, pf_inspect(&info, engine, scratch_path("%s/absent", dir)));
    CHECK(info == NULL);
    pf_tensor_release(&t);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    options.threads = 1;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    pf_engine_info(engine, &before);
    test_round_trip();
    test_save_refused();
    test_dtypes();
    test_all_halves();
    test_range();
    test_corpus();
    test_many_tensors();
    test_flips_and_cuts();
    test_budget();
    test_inspect();
    pf_engine_info(engine, &after);
    CHECK(before.live == after.live);
    scratch_remove(dir);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
