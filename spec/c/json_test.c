/* json_test.c - JSON: what is read, what is refused and how that is told, what is written. */
#include "check.h"
#include "json.h"

static void test_numbers(void) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-0.0, "-0"},
        {1, "1"},
        {-17, "-17"},
        {100, "100"},
        {0.1, "0.1"},
        {3e-4, "0.0003"},
        {1.5, "1.5"},
        {9007199254740993.0, NULL},
        {1e15, NULL},
        {1e300, NULL},
        {5e-324, NULL},
        {1.7976931348623157e308, NULL},
        {1.0 / 3, NULL},
        {-2.0 / 3, NULL},
        {0.1 + 0.2, NULL},
        {1e-5, NULL},
        {123456789012345678.0, NULL},
        {0x1p53, NULL},
    };
    for (int i = 0; i < PF_COUNT(cases); i++) {
        pf_config *node = pf_config_new_number(cases[i].value), *back = NULL;
        char *text = NULL;
        CHECK_OK(pf_json_write(&text, node, false));
        if (cases[i].text) CHECK(!strcmp(text, cases[i].text));
        CHECK_OK(pf_json_parse(&back, text, strlen(text)));
        double got = pf_config_number(back);
        CHECK(memcmp(&got, &cases[i].value, sizeof got) == 0);
        pf_text_free(text);
        pf_config_free(node);
        pf_config_free(back);
    }
}

static void test_tree(void) {
    const char *source = "{\"a\":[1,2.5,null,true,false],\"\xc3\xa4 \\\"q\\\" \\\\ \\n\\t\\u0001\":"
                         "{\"deep\":[[],{},\"\xf0\x9f\x8e\xad\"]},\"z\":-3}";
    pf_config *tree = NULL, *again = NULL;
    char *text = NULL, *pretty = NULL, *third = NULL;
    CHECK_OK(pf_json_parse(&tree, source, strlen(source)));
    CHECK(!strcmp(pf_config_key(tree, 2), "z")); /* order of the file */
    CHECK_OK(pf_json_write(&text, tree, false));
    CHECK_OK(pf_json_write(&pretty, tree, true));
    CHECK(strlen(pretty) > strlen(text));
    CHECK_OK(pf_json_parse(&again, pretty, strlen(pretty)));
    CHECK_OK(pf_json_write(&third, again, false));
    CHECK(!strcmp(text, third));
    pf_text_free(text);
    pf_text_free(pretty);
    pf_text_free(third);
    pf_config_free(tree);
    pf_config_free(again);
}

static void refused(const char *text, size_t bytes, const char *part) {
    pf_config *node = NULL;
    CHECK_FAILS(PF_EFORMAT, pf_json_parse(&node, text, bytes));
    CHECK(node == NULL);
    CHECK(strstr(pf_last_error(), part) != NULL);
    if (!strstr(pf_last_error(), part)) fprintf(stderr, "  %s\n", pf_last_error());
}

static void test_refused(void) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "line 1"},
        {"{", "line 1"},
        {"{\"a\":1,\n \"a\":2}", "line 2"},
        {"{\"a\":1,\"a\":2}", "uplicate"},
        {"[1] x", "line 1"},
        {"[1,]", "line 1"},
        {"\"\xff\"", "decode"},
        {"\"\xed\xa0\x80\"", "decode"},
        {"\"\\u0000\"", "u0000"},
        {"\"\\ud800\"", "line 1"},
        {"[01]", "line 1"},
        {"[NaN]", "line 1"},
        {"[1e999]", "line 1"},
        {"[\n\n  tru]", "line 3"},
        {"{'a':1}", "line 1"},
        {"[1 2]", "line 1"},
        {"{\"a\":\"x", "line 1"},
        {"\"\\", "line 1"},
        {"\"\\u12", "line 1"},
        {"\"\\ud83d\\u0041\"", "line 1"},
        {"\"\\udc00\"", "line 1"},
        {"\"\\x\"", "line 1"},
        {"\"a\tb\"", "line 1"},
        {"\"\xc0\x80\"", "decode"},
        {"\"\xf4\x90\x80\x80\"", "decode"},
        {"-", "line 1"},
        {"1.", "line 1"},
        {".5", "line 1"},
        {"+1", "line 1"},
        {"1e", "line 1"},
        {"-01", "line 1"},
        {"0x1", "line 1"},
        {"{\"a\" 1}", "line 1"},
        {"{1:2}", "line 1"},
        {"{,}", "line 1"},
        {"{\"a\":1,}", "line 1"},
        {"[1;2]", "line 1"},
        {"[}", "line 1"},
        {"truefalse", "line 1"},
        {"\xef\xbb\xbf[]", "line 1"},
        {"[1}", "line 1"},
        {"\"\xc3\xa4\" x", "line 1"},
    };
    for (int i = 0; i < PF_COUNT(cases); i++) {
        refused(cases[i].text, strlen(cases[i].text), cases[i].part);
    }
    refused("[1]\0", 4, "line 1"); /* a 0 behind the document */
    size_t bytes = PF_JSON_BYTES + 1;
    char *big = malloc(bytes);
    memset(big, '[', bytes);
    refused(big, bytes, "at most");
    refused(big, PF_JSON_DEPTH + 1, "levels of nesting");
    big[0] = '[';
    for (size_t i = 1; i < bytes; i++) big[i] = i % 2 ? '0' : ',';
    refused(big, bytes - 1, "values");
    free(big);
    char digits[400];
    memset(digits, '1', sizeof digits);
    refused(digits, sizeof digits, "line 1");
    pf_text many = {0};
    pf_text_put(&many, "{", 1);
    for (int i = 0; i <= PF_JSON_KEYS; i++) pf_text_print(&many, "%s\"%d\":0", i ? "," : "", i);
    pf_text_put(&many, "}", 1);
    refused(many.data, many.size, "keys");
    memcpy(many.data + many.size - 10, " \"9999\":0}", 11); /* once more, far apart */
    refused(many.data, many.size, "uplicate");
    free(many.data);
}

/* What the escapes stand for, and numbers at the edges. */
static void test_values(void) {
    static const struct {
        const char *text, *string;
    } strings[] = {
        {"\"\"", ""},
        {"\"\\u00e4\\u20AC\"", "\xc3\xa4\xe2\x82\xac"},
        {"\"\\ud83d\\uDE00\"", "\xf0\x9f\x98\x80"},
        {"\"\\/\\b\\f\\r\\n\\t\"", "/\b\f\r\n\t"},
        {" \"\x7f\xf4\x8f\xbf\xbf\"\n", "\x7f\xf4\x8f\xbf\xbf"},
    };
    static const struct {
        const char *text;
        double number;
    } numbers[] = {
        {"0", 0},
        {"-0", -0.0},
        {"-0.0e-9", -0.0},
        {"1E+2", 100},
        {"9223372036854775807", 0x1p63},
        {"-9223372036854775808", -0x1p63},
        {"18446744073709551616", 0x1p64},
        {"1e-400", 0},
        {"0.1", 0.1},
        {"123456789.25", 123456789.25},
    };
    for (int i = 0; i < PF_COUNT(strings); i++) {
        pf_config *node = NULL;
        CHECK_OK(pf_json_parse(&node, strings[i].text, strlen(strings[i].text)));
        CHECK(node && !strcmp(pf_config_string(node), strings[i].string));
        pf_config_free(node);
    }
    for (int i = 0; i < PF_COUNT(numbers); i++) {
        pf_config *node = NULL;
        CHECK_OK(pf_json_parse(&node, numbers[i].text, strlen(numbers[i].text)));
        double got = pf_config_number(node);
        CHECK(memcmp(&got, &numbers[i].number, sizeof got) == 0);
        pf_config_free(node);
    }
}

static void test_not_written(void) {
    static const double odd[] = {NAN, INFINITY, -INFINITY};
    char *text = NULL;
    pf_config *map = pf_config_new(PF_MAP);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pf_config_set_number(map, "loss", odd[i]));
        CHECK_FAILS(PF_ENUMERIC, pf_json_write(&text, map, true));
        CHECK(strstr(pf_last_error(), "loss") && text == NULL);
    }
    CHECK_OK(pf_config_set_string(map, "loss", "\xc0\x80"));
    CHECK_FAILS(PF_EINVAL, pf_json_write(&text, map, true));
    pf_config *deep = pf_config_new(PF_LIST), *inner = deep;
    for (int i = 0; i < PF_JSON_DEPTH; i++) {
        CHECK_OK(pf_config_push(inner, pf_config_new(PF_LIST)));
        inner = pf_config_at(inner, 0);
    }
    CHECK_FAILS(PF_EINVAL, pf_json_write(&text, deep, false));
    pf_config_free(deep);
    pf_config_free(map);
}

int main(void) {
    test_numbers();
    test_tree();
    test_refused();
    test_values();
    test_not_written();
    return CHECK_REPORT();
}
