/*
 * locale_test.c - under a locale whose decimal point is a comma and whose thousands have points,
 * in force for the process and for a thread, files, options, messages and scripts are read and
 * written to the byte as under "C". The locale is made here, by localedef, so that none need be
 * installed (number_test plays one). In LIVING_IN_A_HOST.md: [locale.1], [locale.3].
 */
#include <locale.h>
#include <unistd.h>

#include "check.h"
#include "performer_attention.h"
#include "performer_lua.h"

static char folder[] = "/tmp/locale_testXXXXXX";

/* LC_NUMERIC alone. The characters that it is written in are written too: localedef's own files are
 * a package that may be missing. */
static const char SOURCE[] = "comment_char %\nescape_char /\nLC_NUMERIC\n"
                             "decimal_point \"<U002C>\"\nthousands_sep \"<U002E>\"\n"
                             "grouping 3;3\nEND LC_NUMERIC\n";

static FILE *open_in(const char *name, const char *mode) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, mode);
}

static void write_characters(void) {
    FILE *file = open_in("ascii.map", "w");
    CHECK(file != NULL);
    if (!file) return;
    fputs("<code_set_name> ASCII\n<comment_char> %\n<escape_char> /\n<mb_cur_min> 1\n"
          "<mb_cur_max> 1\nCHARMAP\n",
          file);
    for (int i = 0; i < 128; i++) fprintf(file, "<U%04X> /x%02x\n", (unsigned)i, (unsigned)i);
    fputs("END CHARMAP\n", file);
    CHECK(fclose(file) == 0);
}

static void make_locale(void) {
    char command[400];
    CHECK(mkdtemp(folder) != NULL);
    write_characters();
    FILE *file = open_in("comma.src", "w");
    CHECK(file && fputs(SOURCE, file) >= 0 && fclose(file) == 0);
    snprintf(command, sizeof command,
             "localedef --no-archive -c -f %s/ascii.map -i %s/comma.src %s/comma 2>/dev/null",
             folder, folder, folder);
    (void)!system(command); /* what is missing beside LC_NUMERIC makes it grumble */
    setenv("LOCPATH", folder, 1);
}

static bool is_comma(void) {
    char text[16];
    snprintf(text, sizeof text, "%.1f", 0.5);
    return text[1] == ',';
}

/* ---- what is read and written --------------------------------------------------------- */

enum { ROOM = 1 << 20 };
static char texts[2][ROOM];
static size_t filled;
static char *out;

static void keep(const char *text) {
    filled += (size_t)snprintf(out + filled, ROOM - filled, "%s\n", text);
}

static void keep_file(const char *name) {
    FILE *file = open_in(name, "rb");
    CHECK(file != NULL);
    for (int c; file && (c = fgetc(file)) != EOF && filled < ROOM - 1;) out[filled++] = (char)c;
    if (file) fclose(file);
}

static pf_config *json(const char *text) {
    pf_config *node = NULL;
    CHECK_OK(pf_json_parse(&node, text, strlen(text)));
    return node;
}

static void keep_json(void) {
    char *text = NULL;
    pf_config *node = json("{\"a\": 0.1, \"b\": [-1.5e-7, 1234567.25, 1e300]}");
    CHECK(pf_config_number(pf_config_get(node, "a")) == 0.1);
    CHECK_OK(pf_json_write(&text, node, true));
    keep(text);
    pf_text_free(text), pf_config_free(node);
}

static void keep_messages(pf_engine *e) {
    const int64_t shape[] = {2, 2};
    char *text = NULL;
    pf_tensor *x = NULL;
    pf_module *module = NULL;
    CHECK_OK(pf_tensor_full(&x, e, PF_F32, 2, shape, 1234.5678));
    CHECK_OK(pf_tensor_show(&text, x));
    keep(text);
    pf_text_free(text), pf_tensor_release(&x);
    pf_config *options = json("{\"dim\": 2.5}");
    CHECK_FAILS(PF_EINVAL, pf_module_new(&module, e, "rmsnorm", options, NULL, 0));
    keep(pf_last_error());
    pf_config_free(options);
}

static void keep_checkpoint(pf_engine *e) {
    char path[200];
    pf_module *model = NULL, *back = NULL;
    pf_config *tree = json("{\"type\": \"performer\", \"options\": {\"vocab\": 11, \"dim\": 8, "
                           "\"layers\": 1, \"heads\": 1, \"causal\": true, \"dropout\": 0.25, "
                           "\"kernel\": {\"name\": \"relu\", \"eps\": 0.0015}}}");
    pf_config *state = json("{\"loss\": 1.625, \"rate\": 0.0003}");
    snprintf(path, sizeof path, "%s/run", folder);
    CHECK_OK(pf_module_build(&model, e, tree));
    CHECK_OK(pf_checkpoint_save(e, path, 1, model, NULL, state, NULL, 1));
    keep_file("run/step-1/config.json"), keep_file("run/step-1/state.json");
    CHECK_OK(pf_model_load(&back, e, path));
    pf_module_release(&back), pf_module_release(&model);
    pf_config_free(tree), pf_config_free(state);
    snprintf(path, sizeof path, "rm -r %s/run", folder);
    CHECK(system(path) == 0);
}

/* A script is Lua's: numbers in its text have points in any locale, its own `tostring` does as
 * the C library does, and what goes into files and JSON does not. */
static const char SCRIPT[] = "local pf = require 'performer'\n"
                             "assert(0.5 == 1 / 2 and pf.full({1}, 2.5):item() == 2.5)\n"
                             "assert(pf.json.encode { 0.5, 1e-3 } == '[0.5,0.001]')\n"
                             "assert(pf.json.decode('[1234.5]')[1] == 1234.5)\n"
                             "local point = tostring(0.5):sub(2, 2)\n"
                             "assert(point == (... == 'comma' and ',' or '.'))\n";

static void run_script(pf_engine *e, bool comma) {
    char path[200];
    const char *const argv[] = {comma ? "comma" : "point"};
    snprintf(path, sizeof path, "%s/script.lua", folder);
    FILE *file = open_in("script.lua", "w");
    CHECK(file && fputs(SCRIPT, file) >= 0 && fclose(file) == 0);
    CHECK(pf_script_run(e, path, 1, argv) == PF_OK);
    if (pf_script_error()[0]) fprintf(stderr, "  %s\n", pf_script_error());
}

static int ask_comma(void *context, pf_script *script, const pf_value *args, int n,
                     pf_value *results) {
    (void)context, (void)script, (void)args, (void)n;
    results[0] = pf_value_bool(is_comma());
    return 1;
}

static void print_comma(void *context, const char *text, size_t bytes) {
    (void)text, (void)bytes;
    *(bool *)context = is_comma();
}

/* A stranger's code has points in any locale; what it calls of the host's has the host's. */
static void run_stranger(pf_engine *e, bool comma) {
    bool printed = !comma;
    const pf_script_options options = {
        .size = sizeof options, .sandbox = true, .print = print_comma, .print_context = &printed};
    pf_script *s = NULL;
    pf_value seen = pf_value_nil();
    static const char text[] =
        "function run() print(tostring(0.5)) assert(tostring(0.5) == '0.5')\n"
        "  local comma = is_comma() assert(tostring(0.5) == '0.5')\n"
        "  return comma end";
    CHECK_OK(pf_script_open(&s, e, &options));
    CHECK_OK(pf_script_set_function(s, "is_comma", ask_comma, NULL));
    CHECK_OK(pf_script_load(s, "stranger", text, sizeof text - 1));
    CHECK(pf_script_call(s, "run", NULL, 0, &seen, 1, NULL) == 1);
    CHECK(seen.as.boolean == comma && printed == comma);
    pf_script_close(&s);
}

static void keep_all(int turn, bool comma) {
    pf_options options = pf_options_default();
    pf_engine *e = NULL;
    out = texts[turn], filled = 0;
    CHECK(is_comma() == comma);
    options.seed = 1;
    CHECK_OK(pf_engine_open(&e, &options));
    keep_json(), keep_messages(e), keep_checkpoint(e);
    run_script(e, comma);
    run_stranger(e, comma);
    pf_engine_close(&e);
    CHECK(is_comma() == comma);
}

/* Both turns said the same. */
static void check_same(void) {
    const char *a = texts[0], *b = texts[1];
    while (*a && *a == *b) a++, b++;
    if (*a != *b) fprintf(stderr, "  '%.40s' became '%.40s'\n", a, b);
    CHECK(*a == *b);
}

int main(void) {
    char command[200];
    make_locale();
    keep_all(0, false);
    CHECK(setlocale(LC_NUMERIC, "comma") != NULL);
    keep_all(1, true);
    check_same();
    setlocale(LC_ALL, "C");
    locale_t own = newlocale(LC_NUMERIC_MASK, "comma", (locale_t)0);
    CHECK(own != (locale_t)0);
    if (own) uselocale(own);
    memset(texts[1], 0, ROOM);
    keep_all(1, true);
    check_same();
    uselocale(LC_GLOBAL_LOCALE);
    if (own) freelocale(own);
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
    return CHECK_REPORT();
}
