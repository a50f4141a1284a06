/*
 * header_test.c - headers of .safetensors: names in any order, the largest that is read, and what
 * many tensors cost.
 */
#include "check.h"
#include "safetensors.h"
#include "scratch.h"

static pf_engine *engine;
static char dir[256], path[300];

/* A file of `length` bytes of header, blanks behind the text, and the data. */
static void write_file(const char *header, size_t length, const void *data, size_t bytes) {
    uint64_t size = length;
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(&size, 8, 1, f) == 1);
    CHECK(fwrite(header, 1, strlen(header), f) == strlen(header));
    for (size_t i = strlen(header); i < length; i++) fputc(' ', f);
    CHECK(bytes == 0 || fwrite(data, bytes, 1, f) == 1);
    CHECK(fclose(f) == 0);
}

static int load(pf_named **list, int *n) {
    return pf_safetensors_load(engine, path, list, n, NULL);
}

/* The header's order is its own, and so is that of the keys of an entry; what is unknown there is
 * passed over. */
static void test_order(void) {
    static const float data[] = {1, 2, 3, 4, 5, 6};
    const char *header = "{\"last\":{\"data_offsets\":[16,24],\"dtype\":\"F32\",\"shape\":[1,2]},"
                         "\"first\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[0,4]},"
                         "\"none\":{\"dtype\":\"F32\",\"data_offsets\":[4,4],\"shape\":[0,7]},"
                         "\"middle\":{\"x\":[1,{\"y\":null}],\"dtype\":\"F32\",\"shape\":[3],"
                         "\"data_offsets\":[4,16]}}";
    static const struct {
        const char *name;
        int n;
        double from;
    } expected[] = {{"first", 1, 1}, {"none", 0, 0}, {"middle", 3, 2}, {"last", 2, 5}};
    pf_named *list = NULL;
    int n = 0;
    write_file(header, strlen(header), data, sizeof data);
    CHECK_OK(load(&list, &n));
    CHECK(n == 4);
    for (int i = 0; i < n; i++) {
        CHECK(!strcmp(list[i].name, expected[i].name));
        CHECK(pf_tensor_numel(list[i].tensor) == expected[i].n);
        for (int k = 0; k < expected[i].n; k++) {
            double value = 0;
            CHECK_OK(pf_tensor_get(list[i].tensor, k, &value));
            CHECK(value == expected[i].from + k);
        }
    }
    pf_named_free(list, n);
}

/* Names with escapes, and long ones: whole, on both ways. */
static void test_names(void) {
    const char *header = "{\"a\\u00e4\\n\\\"\":{\"dtype\":\"F32\",\"shape\":[],"
                         "\"data_offsets\":[0,4]}}";
    char name[5000];
    pf_named *list = NULL;
    pf_tensor *tensor = NULL;
    float one = 1;
    int n = 0;
    write_file(header, strlen(header), &one, 4);
    CHECK_OK(load(&list, &n));
    CHECK(n == 1 && !strcmp(list[0].name, "a\xc3\xa4\n\""));
    pf_named_free(list, n);
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    CHECK_OK(pf_tensor_full(&tensor, engine, PF_F32, 0, NULL, 1));
    const pf_named long_name = {name, tensor};
    CHECK_OK(pf_safetensors_save(engine, path, &long_name, 1, NULL));
    CHECK_OK(load(&list, &n));
    CHECK(n == 1 && !strcmp(list[0].name, name));
    pf_named_free(list, n);
    pf_tensor_release(&tensor);
}

static void test_cap(void) {
    const char *header = "{\"x\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}";
    float one = 1;
    pf_named *list = NULL;
    int n = 0;
    write_file(header, (size_t)PF_ST_HEADER, &one, 4);
    CHECK_OK(load(&list, &n));
    CHECK(n == 1);
    pf_named_free(list, n);
    write_file(header, (size_t)PF_ST_HEADER + 1, &one, 4);
    CHECK_FAILS(PF_EFORMAT, load(&list, &n));
    CHECK(strstr(pf_last_error(), "its header has 16777217 bytes") != NULL);
}

/* `count` empty tensors; the bytes of the file. */
static size_t write_many(int count) {
    pf_text text = {0};
    pf_text_put(&text, "{", 1);
    for (int i = 0; i < count; i++) {
        pf_text_print(&text, "%s\"%d\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}",
                      i ? "," : "", i);
    }
    pf_text_put(&text, "}", 1);
    size_t bytes = text.size;
    write_file(text.data, bytes, "", 0);
    pf_text_close(&text);
    return bytes + 8;
}

/* What is refused costs its text; what is read, some numbers a tensor. */
static void test_memory(void) {
    pf_info before = {.size = sizeof before}, after = {.size = sizeof after};
    pf_safetensors s;
    for (int many = 0; many < 2; many++) {
        size_t bytes = write_many(many ? 100000 : PF_ST_TENSORS);
        pf_heap_reset_peak(engine->heap);
        pf_engine_info(engine, &before);
        int status = pf_safetensors_open(&s, engine, path, NULL);
        pf_engine_info(engine, &after);
        CHECK(status == (many ? PF_EFORMAT : PF_OK));
        CHECK(after.peak - before.live <= (many ? 2 : 5) * bytes + (1u << 20));
        if (status < 0) continue;
        CHECK(pf_safetensors_find(&s, "65535") >= 0 && pf_safetensors_find(&s, "65536") < 0);
        pf_safetensors_close(&s);
    }
    pf_engine_info(engine, &after);
    CHECK(after.live == before.live);
}

int main(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    options.threads = 1;
    options.allocator = &scratch_allocator;
    CHECK_OK(pf_engine_open(&engine, &options));
    scratch_open(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/file.safetensors", dir);
    test_order();
    test_names();
    test_cap();
    test_memory();
    scratch_remove(dir);
    pf_engine_close(&engine);
    CHECK(scratch_held == 0);
    return CHECK_REPORT();
}
