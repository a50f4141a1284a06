/*
 * number_test.c - numbers of files, options and scripts are read and written alike under a locale
 * whose decimal point is a comma. No such locale need be installed: the functions that heed one
 * are defined here, where the linker looks first, as they would behave under it.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>

#include "check.h"
#include "json.h"
#include "module.h"

static bool comma; /* the locale is set */
static int asked;  /* how often a number was read by it */

/* Reads up to the point, which it does not know. */
double strtod(const char *text, char **end) {
    char *at;
    long whole = strtol(text, &at, 10);
    asked++;
    if (end) *end = at;
    return (double)whole;
}

int snprintf(char *out, size_t bytes, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out, bytes, format, args);
    va_end(args);
    bool number = strpbrk(format, "efg") != NULL; /* of a conversion: no text of ours is in it */
    for (char *c = out; comma && number && bytes > 0 && *c; c++) {
        bool point = *c == '.' && c > out && isdigit((unsigned char)c[-1]);
        if (point && isdigit((unsigned char)c[1])) *c = ',';
    }
    return n;
}

static void test_text(void) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {-1.5, "-1.5"},
                 {1.0 / 3, "0.333333333333333"},
                 {6.02e23, "6.02e+23"},
                 {1e-7, "1e-07"},
                 {12345678.9, "12345678.9"},
                 {0.1 + 0.2, NULL},
                 {5e-324, NULL},
                 {1.7976931348623157e308, NULL},
                 {2.2250738585072014e-308, NULL}};
    for (int i = 0; i < PF_COUNT(cases); i++) {
        char text[PF_NUMBER_TEXT], *end;
        pf_number_text(text, cases[i].value);
        CHECK(!strchr(text, ','));
        if (cases[i].text) CHECK(!strncmp(text, cases[i].text, strlen(cases[i].text)));
        CHECK(pf_number_read(text, &end) == cases[i].value && *end == '\0');
    }
    char *end, small[PF_NUMBER_TEXT];
    pf_number_short(small, 0.001);
    CHECK(!strcmp(small, "0.001"));
    CHECK(pf_number_read("1,5", &end) == 1 && *end == ',');
    CHECK(pf_number_read("x", &end) == 0 && *end == 'x');
}

static void test_json(void) {
    const char *source = "[0.5,1e-3,-2.25]";
    pf_config *node = NULL;
    char *text = NULL;
    CHECK_OK(pf_json_parse(&node, source, strlen(source)));
    CHECK(pf_config_number(pf_config_at(node, 0)) == 0.5);
    CHECK(pf_config_number(pf_config_at(node, 1)) == 1e-3);
    CHECK_OK(pf_json_write(&text, node, false));
    CHECK(text && !strcmp(text, "[0.5,0.001,-2.25]"));
    pf_text_free(text);
    pf_config_free(node);
}

/* Layers that say with what numbers their weights begin. */
static void test_layers(void) {
    static const char *const trees[] = {
        "{\"type\":\"conv\",\"options\":{\"dim\":4}}",
        "{\"type\":\"linear\",\"options\":{\"from\":3,\"to\":4,\"init\":0.5}}",
        "{\"type\":\"attention\",\"options\":{\"dim\":8,\"heads\":2,\"qk_norm\":true,"
        "\"kernel\":{\"name\":\"softmax\",\"features\":8}}}"};
    pf_engine *engine = NULL;
    CHECK_OK(pf_engine_open(&engine, NULL));
    for (int i = 0; i < PF_COUNT(trees); i++) {
        pf_config *tree = NULL;
        pf_module *module = NULL;
        CHECK_OK(pf_json_parse(&tree, trees[i], strlen(trees[i])));
        CHECK_OK(pf_module_build(&module, engine, tree));
        if (module && i == 2) {
            double first = 0;
            CHECK_OK(pf_tensor_get(pf_module_tensor(module, "q_norm"), 0, &first));
            CHECK(first == (double)(float)1); /* sqrt(2) 4^(-1/4) */
        }
        pf_module_release(&module);
        pf_config_free(tree);
    }
    pf_engine_close(&engine);
}

int main(void) {
    comma = true;
    char half[8];
    snprintf(half, sizeof half, "%.1f", 0.5);
    CHECK(half[1] == ','); /* the locale is in force */
    test_text();
    test_json();
    test_layers();
    CHECK(asked == 0);
    comma = false;
    return CHECK_REPORT();
}
