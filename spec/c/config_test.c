/*
 * config_test.c - runtime's plain data: the tree and who owns its nodes, options against
 * their table, the messages word for word, the nearest name.
 */
#include <stdio.h>

#include "check.h"
#include "runtime.h"

static void test_config_tree(void) {
    pf_config *map = pf_config_new(PF_MAP), *list = pf_config_new(PF_LIST);
    CHECK_OK(pf_config_set_number(map, "zeta", 1.5));
    CHECK_OK(pf_config_set_string(map, "alpha", "text"));
    CHECK_OK(pf_config_set_bool(map, "middle", true));
    CHECK_OK(pf_config_set(map, "list", list));
    for (int i = 0; i < 20; i++) CHECK_OK(pf_config_push(list, pf_config_new_number(i)));
    CHECK(pf_config_size(map) == 4 && pf_config_size(list) == 20);
    CHECK(strcmp(pf_config_key(map, 0), "zeta") == 0);
    CHECK(strcmp(pf_config_key(map, 1), "alpha") == 0);
    CHECK(pf_config_number(pf_config_get(map, "zeta")) == 1.5);
    CHECK(pf_config_number(pf_config_get(map, "middle")) == 1.0);
    CHECK(strcmp(pf_config_string(pf_config_get(map, "alpha")), "text") == 0);
    CHECK(pf_config_get(map, "absent") == NULL && pf_config_at(list, 20) == NULL);
    CHECK(pf_config_at(list, -1) == NULL && pf_config_key(list, 0) == NULL);
    CHECK(pf_config_kind_of(NULL) == PF_NULL && pf_config_size(NULL) == 0);
    CHECK(pf_config_string(pf_config_get(map, "zeta")) == NULL);

    CHECK_OK(pf_config_set_number(map, "zeta", 2.5)); /* in place */
    CHECK(pf_config_size(map) == 4 && strcmp(pf_config_key(map, 0), "zeta") == 0);
    CHECK(pf_config_number(pf_config_at(map, 0)) == 2.5);

    pf_config *copy = pf_config_copy(map);
    pf_config_free(list); /* not a root: its map's to free */
    CHECK(pf_config_number(pf_config_at(pf_config_get(map, "list"), 7)) == 7.0);
    pf_config_free(map);
    CHECK(pf_config_size(copy) == 4);
    CHECK(pf_config_number(pf_config_at(pf_config_get(copy, "list"), 19)) == 19.0);
    CHECK(strcmp(pf_config_key(copy, 2), "middle") == 0);
    pf_config_free(copy);
    pf_config_free(NULL);
}

/* Maps of any size: every key is found, what is taken out is gone, the order stays. */
static void test_large_map(pf_heap *heap) {
    pf_config *map = pf_config_new_in(heap, PF_MAP), *copy = NULL;
    char key[16];
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        CHECK_OK(pf_config_set_number(map, key, i));
    }
    for (int i = 0; i < 3000; i += 7) {
        snprintf(key, sizeof key, "key%d", i);
        pf_config_remove(map, key);
        pf_config_remove(map, key);
    }
    CHECK_OK(pf_config_set_string(map, "last", "text"));
    CHECK_OK(pf_config_set_number(map, "key1", -1)); /* in place */
    copy = pf_config_copy_in(heap, map);
    pf_config_free(map);
    CHECK(pf_config_size(copy) == 3000 - 429 + 1);
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        const pf_config *node = pf_config_get(copy, key);
        CHECK((node != NULL) == (i % 7 != 0));
        if (node) CHECK(pf_config_number(node) == (i == 1 ? -1 : i));
    }
    CHECK(!strcmp(pf_config_key(copy, 0), "key1") && !strcmp(pf_config_key(copy, 5), "key6"));
    CHECK(!strcmp(pf_config_string(pf_config_get(copy, "last")), "text"));
    pf_config_free(copy);
}

/* Trees of a heap are counted there, trees of the host's are not, and they may hold each other. */
static void test_heap_trees(void) {
    pf_heap *heap = NULL;
    CHECK_OK(pf_heap_open(&heap, NULL, (size_t)1 << 20));
    test_large_map(heap);
    CHECK(pf_heap_live(heap) == 0);
    test_large_map(NULL);
    CHECK(pf_heap_live(heap) == 0);
    pf_config *map = pf_config_new_in(heap, PF_MAP), *list = pf_config_new(PF_LIST);
    size_t live = pf_heap_live(heap);
    for (int i = 0; i < 1000; i++) CHECK_OK(pf_config_push(list, pf_config_new_number(i)));
    CHECK(live > 0 && pf_heap_live(heap) == live);
    CHECK_OK(pf_config_set(map, "host", list));
    pf_config *plain = pf_config_new(PF_MAP);
    CHECK_OK(pf_config_set(plain, "heap", map));
    for (int i = 0; i < 1000; i++) CHECK_OK(pf_config_set_number(map, "count", i));
    CHECK(pf_heap_live(heap) < live + 4096); /* counting asks for nothing */
    pf_config_free(plain);
    CHECK(pf_heap_live(heap) == 0);
    pf_config *full = pf_config_new_in(heap, PF_LIST), *child = full;
    int status = PF_OK;
    for (int i = 0; status >= 0 && i < 1000000 && child; i++) {
        child = pf_config_new_beside(full, PF_NULL);
        status = pf_config_push(full, child);
    }
    CHECK(status == PF_ENOMEM);
    CHECK(pf_config_copy_in(heap, full) == NULL);
    pf_config_free(full);
    CHECK(pf_heap_live(heap) == 0);
    pf_heap_release(heap);
}

/* Children that cannot hang where they are put: no leak, no double free, no cycle. */
static void test_config_misuse(void) {
    pf_config *map = pf_config_new(PF_MAP), *list = pf_config_new(PF_LIST);
    CHECK_FAILS(PF_EINVAL, pf_config_push(map, pf_config_new_number(1)));
    CHECK_FAILS(PF_EINVAL, pf_config_set_number(list, "x", 1));
    CHECK_FAILS(PF_EINVAL, pf_config_set(map, NULL, pf_config_new_number(1)));
    CHECK_FAILS(PF_EINVAL, pf_config_set(NULL, "x", pf_config_new_number(1)));
    CHECK_FAILS(PF_EINVAL, pf_config_set(map, "self", map));
    CHECK_OK(pf_config_set(map, "list", list));
    CHECK_FAILS(PF_EINVAL, pf_config_push(list, map));
    CHECK_FAILS(PF_EINVAL, pf_config_set(map, "again", list));
    CHECK(pf_config_set(map, "x", NULL) == PF_ENOMEM);
    CHECK(pf_config_size(map) == 1);
    pf_config_free(map);

    pf_config *deep = pf_config_new(PF_LIST);
    for (int i = 0; i < 300000; i++) {
        pf_config *above = pf_config_new(PF_LIST);
        pf_config_push(above, deep);
        deep = above;
    }
    CHECK(pf_config_copy(deep) == NULL && strstr(pf_last_error(), "nested"));
    pf_config_free(deep); /* without a stack of its depth */
}

static const pf_option_info table[] = {
    {.name = "dim",
     .kind = PF_OPT_INT,
     .number = 64,
     .low = 1,
     .high = 1048576,
     .required = true,
     .doc = "width"},
    {.name = "features", .kind = PF_OPT_INT, .number = 256, .low = 0, .high = 1048576},
    {.name = "eps", .kind = PF_OPT_NUMBER, .number = 1e-3},
    {.name = "rate", .kind = PF_OPT_NUMBER, .number = 0.5, .low = 0, .high = 1},
    {.name = "causal", .kind = PF_OPT_BOOL, .number = 1},
    {.name = "map", .kind = PF_OPT_STRING, .string = "softmax", .choices = "softmax|relu|elu"},
    {.name = "name", .kind = PF_OPT_STRING},
    {.name = "kernel", .kind = PF_OPT_TREE},
};
enum { ROWS = PF_COUNT(table) };

/* Checks {dim = 8, key = value} and hands value over; the message must be `expected`. */
static void check_option(const char *key, pf_config *value, const char *expected) {
    pf_config *map = pf_config_new(PF_MAP);
    if (strcmp(key, "dim") != 0) pf_config_set_number(map, "dim", 8);
    pf_config_set(map, key, value);
    int status = pf_config_check(map, table, ROWS, "linear");
    if (!expected) {
        CHECK(status == PF_OK);
    } else {
        CHECK(status == PF_EINVAL);
        CHECK(strcmp(pf_last_error(), expected) == 0);
        if (strcmp(pf_last_error(), expected) != 0) fprintf(stderr, "  %s\n", pf_last_error());
    }
    pf_config_free(map);
}

/* The nearest name, all of them, or as many as there is room for and a sign that there are more. */
static void test_names_told(void) {
    const char *const names[] = {"window", "ahead", "dilation", "global"};
    char text[64];
    CHECK(!strcmp(pf_names_told(text, 64, "windwo", names, 4), " (did you mean 'window'?)"));
    CHECK(!strcmp(pf_names_told(text, 64, "zzz", names, 4),
                  "; there are window, ahead, dilation, global"));
    CHECK(!strcmp(pf_names_told(text, 64, NULL, names, 1), "; there is window"));
    CHECK(!strcmp(pf_names_told(text, 64, "zzz", names, 0), "; there are none"));
    for (size_t bytes = 30; bytes < 64; bytes++) { /* at every length */
        pf_names_told(text, bytes, "zzz", names, 4);
        size_t n = strlen(text);
        CHECK(n < bytes && (strstr(text, "global") || !strcmp(text + n - 5, ", ...")));
    }
}

static void test_options(void) {
    check_option("feature", pf_config_new_number(1),
                 "linear: unknown option 'feature' (did you mean 'features'?)");
    check_option("zzz", pf_config_new_number(1),
                 "linear: unknown option 'zzz'; there are dim, features, eps, rate, causal, "
                 "map, name, kernel");
    check_option("dim", pf_config_new_number(0.5),
                 "linear: 'dim' must be a whole number from 1 to 1048576, got 0.5");
    check_option("dim", pf_config_new_string("x"),
                 "linear: 'dim' must be a whole number from 1 to 1048576, got 'x'");
    check_option("dim", pf_config_new_number(0),
                 "linear: 'dim' must be a whole number from 1 to 1048576, got 0");
    check_option("eps", pf_config_new_number(NAN),
                 "linear: 'eps' must be a finite number, got nan");
    check_option("rate", pf_config_new_number(1.5),
                 "linear: 'rate' must be a number from 0 to 1, got 1.5");
    check_option("causal", pf_config_new_number(1),
                 "linear: 'causal' must be true or false, got 1");
    check_option("map", pf_config_new_string("sofmtax"),
                 "linear: 'map' must be one of softmax, relu, elu, got 'sofmtax' (did you mean "
                 "'softmax'?)");
    check_option("name", pf_config_new_bool(true), "linear: 'name' must be a string, got true");
    check_option("kernel", pf_config_new_number(1),
                 "linear: 'kernel' must be a list or a map, got 1");
    check_option("kernel", pf_config_new(PF_MAP), NULL);
    check_option("map", pf_config_new_string("elu"), NULL);
    check_option("rate", pf_config_new(PF_NULL), NULL);
    check_option("eps", pf_config_new_number(-5), NULL);
    check_option("dim", pf_config_new(PF_NULL), "linear: option 'dim' is required (width)");
    CHECK_FAILS(PF_EINVAL, pf_config_check(NULL, table, ROWS, "linear"));
    CHECK_OK(pf_config_check(NULL, table + 1, ROWS - 1, "linear"));

    pf_config *map = pf_config_new(PF_MAP);
    pf_config_set_bool(map, "causal", false);
    pf_config_set_string(map, "map", "relu");
    CHECK(pf_config_number_of(map, table, ROWS, "causal") == 0.0);
    CHECK(pf_config_number_of(map, table, ROWS, "features") == 256.0);
    CHECK(strcmp(pf_config_string_of(map, table, ROWS, "map"), "relu") == 0);
    CHECK(strcmp(pf_config_string_of(NULL, table, ROWS, "map"), "softmax") == 0);
    CHECK(pf_config_string_of(map, table, ROWS, "name") == NULL);
    pf_config_free(map);
}

/* A text that was given no letters is an empty one, and writes as one. */
static void test_empty_text(void) {
    pf_config *node = pf_config_new(PF_STRING);
    char *text = NULL;
    CHECK(pf_config_string(node) && !*pf_config_string(node));
    CHECK_OK(pf_json_write(&text, node, false));
    CHECK(text && strcmp(text, "\"\"") == 0);
    pf_text_free(text);
    pf_config_free(node);
}

static void test_nearest(void) {
    static const char *const names[] = {"features", "head_dim", "seed", "lr", "dim"};
    CHECK(strcmp(pf_nearest("feautres", names, 5), "features") == 0);
    CHECK(strcmp(pf_nearest("HeadDim", names, 5), "head_dim") == 0);
    CHECK(strcmp(pf_nearest("sed", names, 5), "seed") == 0);
    CHECK(pf_nearest("quantum", names, 5) == NULL);
    const char *const far[] = {"cos", "tanh", "reshape", "define", "mean", "maximum", "keys"};
    CHECK(pf_nearest("acos", far, 7) == NULL && pf_nearest("tan", far, 7) == NULL);
    CHECK(pf_nearest("shape", far, 7) == NULL && pf_nearest("device", far, 7) == NULL);
    CHECK(pf_nearest("median", far, 7) == NULL && pf_nearest("minimum", far, 7) == NULL);
    CHECK(strcmp(pf_nearest("key", far, 7), "keys") == 0);
    CHECK(strcmp(pf_nearest("tnh", far, 7), "tanh") == 0 && pf_nearest("cosh", far, 7) == NULL);
    CHECK(strcmp(pf_nearest("ershape", far, 7), "reshape") == 0);
    CHECK(pf_nearest("", names, 5) == NULL && pf_nearest("x", names, 0) == NULL);
}

int main(void) {
    test_config_tree();
    test_heap_trees();
    test_config_misuse();
    test_names_told();
    test_options();
    test_empty_text();
    test_nearest();
    return CHECK_REPORT();
}
