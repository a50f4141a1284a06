/*
 * border.h - what the tests of the border share: an object of every type, made with the public
 * headers alone, arguments made of them, and calls in a child process, whose crash is one failure.
 *
 * The calls are made by border.lua from the headers (border_calls.h): border_rows has a row for
 * each function, whose `call` takes the number of the argument that is to be NULL, or -1.
 */
#ifndef PF_BORDER_H
#define PF_BORDER_H

#include <stdbool.h>
#include <sys/mman.h>

#include <lauxlib.h>
#include <lualib.h>

#include "check.h"
#include "child.h"
#include "performer_attention.h"
#include "performer_lua.h"

typedef enum { BORDER_STATUS, BORDER_GETTER, BORDER_NOTHING } border_kind;

typedef struct {
    int status; /* of a function that returns one */
    bool empty; /* of a getter: 0, NULL or false */
} border_answer;

typedef struct {
    const char *name, *type;
    bool pointer, nullable;
    size_t size; /* of the struct it points to, where that begins with its size */
    bool constant;
} border_parameter;

typedef struct {
    const char *name;
    border_kind kind;
    border_answer (*call)(int null);
    int n;
    bool cleared; /* the first argument is the place of a result that a failure clears */
    border_parameter parameter[12];
} border_row;

/* ---- arguments that would do ---- */

static struct {
    pf_engine *engine;
    pf_tensor *tensor, *rows, *ids, *id; /* (1, 1, 2, 4), (2, 4), (1, 2) i32, (1) i32 */
    pf_module *module;
    pf_state *state, *alone;
    pf_stream *stream;
    pf_serving *serving; /* of one sequence, 1 */
    pf_memory_files *memory_files;
    pf_random *random;
    pf_optimizer *optimizer;
    pf_data *data;
    pf_kernel *kernel;
    pf_items *items;
    pf_meter *meter;
    pf_tape *tape;
    pf_config *tree, *none, *map, *list, *data_options;
    lua_State *lua;
    pf_script *script;
    pf_value values[2];
    pf_named named[2];
    pf_tensor *tensors[8], *outputs[8];
    pf_module *modules[2];
    const char *words[2], *text;
    pf_attr attrs[16];
    void *places[16];      /* of results; the first is not clear before */
    double out[300 * 300]; /* counts of pairs of bytes are the most */
    int64_t zeros[512];
    size_t bytes; /* of `tensor` */
    int whole;
    bool flag;
    char path[64], file[80];
} B;

/* What a struct that begins with its size is filled with: its own size, or what a test wants. */
static size_t (*border_size)(unsigned char *bytes, size_t size);
static unsigned char *border_page_end; /* behind it memory is out of reach */

/* A struct of zeros but for its size. Where a test says so it lies at the end of a page. */
static void *border_struct(size_t size) {
    static unsigned char plain[4096];
    unsigned char *bytes = plain;
    memset(plain, 0, sizeof plain);
    size_t given = size;
    if (border_size) given = border_size(plain, size);
    memcpy(plain, &given, sizeof given);
    if (border_page_end) {
        bytes = border_page_end - given;
        memcpy(bytes, plain, given);
    }
    return bytes;
}

static int border_entry(void *to, const char *name) { return (void)to, (void)name, 0; }

static int border_function(void *context, pf_engine *engine, pf_tensor *const *inputs, int n,
                           pf_tensor **y) {
    (void)context, (void)engine, (void)inputs, (void)n, (void)y;
    return PF_EHOST;
}

static int border_resolve(void *context, pf_engine *engine, const char *name,
                          pf_module *const *children, int n, pf_module **module) {
    (void)context, (void)engine, (void)name, (void)children, (void)n, (void)module;
    return PF_ENOTFOUND;
}

static void border_release(void *context) { (void)context; }

static int border_script(void *context, pf_script *script, const pf_value *args, int n,
                         pf_value *results) {
    (void)context, (void)script, (void)args, (void)n, (void)results;
    return 0;
}

static pf_config *border_json(const char *text) {
    pf_config *node = NULL;
    CHECK_OK(pf_json_parse(&node, text, strlen(text)));
    return node;
}

static pf_engine *border_engine(void) {
    pf_options options = PF_OPTIONS_DEFAULT;
    pf_engine *e = NULL;
    options.threads = 1; /* children of fork call it */
    CHECK_OK(pf_engine_open(&e, &options));
    return e;
}

static void border_open_data(void) {
    snprintf(B.path, sizeof B.path, "/tmp/borderXXXXXX");
    CHECK(mkdtemp(B.path) != NULL);
    snprintf(B.file, sizeof B.file, "%s/proteins", B.path);
    FILE *file = fopen(B.file, "w");
    for (int i = 0; file && i < 64; i++)
        fprintf(file, ">%d\n%.*sMKVLAAGIV\n", i, 1 + i % 32,
                "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMN" + i / 32);
    if (file) fclose(file);
    B.data_options = border_json("{\"length\": 8}");
    CHECK_OK(pf_config_set_string(B.data_options, "path", B.file));
    CHECK_OK(pf_data_open(&B.data, B.engine, B.data_options));
}

static void border_open_tensors(void) {
    const int64_t shape[] = {1, 1, 2, 4};
    CHECK_OK(pf_tensor_full(&B.tensor, B.engine, PF_F32, 4, shape, 0.5));
    CHECK_OK(pf_tensor_full(&B.rows, B.engine, PF_F32, 2, shape + 2, 0.5));
    CHECK_OK(pf_tensor_full(&B.ids, B.engine, PF_I32, 2, shape + 1, 1));
    CHECK_OK(pf_tensor_full(&B.id, B.engine, PF_I32, 1, shape, 1));
    CHECK_OK(pf_tensor_require_grad(B.tensor, true));
    B.bytes = (size_t)pf_tensor_numel(B.tensor) * sizeof(float);
    B.tensors[0] = B.tensor;
    B.named[0] = (pf_named){"name", B.tensor};
}

/* One object of every type. The tape last: what is made under it is its own. */
static void border_open(void) {
    const pf_items_options items = {.size = sizeof items, .dim = 4};
    const pf_attention_state_options alone = {.size = sizeof alone};
    B.engine = border_engine();
    B.tree = border_json("{\"type\": \"performer\", \"options\": {\"vocab\": 11, \"dim\": 8, "
                         "\"layers\": 1, \"heads\": 1, \"length\": 16, \"causal\": true}}");
    B.none = pf_config_new(PF_MAP), B.map = pf_config_new(PF_MAP), B.list = pf_config_new(PF_LIST);
    border_open_tensors();
    border_open_data();
    CHECK_OK(pf_module_build(&B.module, B.engine, B.tree));
    CHECK_OK(pf_module_state(&B.state, B.engine, B.module, 1));
    CHECK_OK(pf_attention_state_open(&B.alone, B.engine, &alone));
    CHECK_OK(pf_stream_open(&B.stream, B.engine, B.module));
    CHECK_OK(pf_stream_feed(B.stream, &(int32_t){1}, 1));
    CHECK_OK(pf_memory_files_open(&B.memory_files, B.engine));
    CHECK_OK(pf_random_open(&B.random, B.engine));
    CHECK_OK(pf_serving_open(&B.serving, B.engine, B.module, NULL));
    CHECK_OK(pf_serving_join(B.serving, &(int32_t){1}, 1, NULL, &(int64_t){0}));
    CHECK_OK(pf_optimizer_new(&B.optimizer, B.engine, B.module, NULL));
    CHECK_OK(pf_kernel_open(&B.kernel, B.engine, NULL, NULL));
    CHECK_OK(pf_items_open(&B.items, B.engine, &items));
    CHECK_OK(pf_meter_open(&B.meter, B.engine, NULL));
    B.modules[0] = B.module;
    B.words[0] = "word";
    B.lua = luaL_newstate();
    luaL_openlibs(B.lua);
    CHECK_OK(pf_script_open(&B.script, B.engine, NULL));
    CHECK_OK(pf_script_load(B.script, "border", "function byte() end", 19));
    CHECK_OK(pf_tape_open(&B.tape, B.engine));
    B.places[0] = &B;
}

/* In any order, and also behind their engine's close. */
static void border_close(void) {
    lua_close(B.lua);
    pf_script_close(&B.script);
    pf_tape_close(&B.tape);
    pf_meter_close(&B.meter);
    pf_items_close(&B.items);
    pf_kernel_release(&B.kernel);
    pf_optimizer_close(&B.optimizer);
    pf_stream_close(&B.stream);
    pf_serving_close(&B.serving);
    pf_memory_files_close(&B.memory_files);
    pf_random_close(&B.random);
    pf_state_close(&B.alone);
    pf_state_close(&B.state);
    pf_module_release(&B.module);
    pf_data_close(&B.data);
    pf_tensor_release(&B.tensor);
    pf_tensor_release(&B.rows);
    pf_tensor_release(&B.ids);
    pf_tensor_release(&B.id);
    pf_config *configs[] = {B.tree, B.none, B.map, B.list, B.data_options};
    for (int i = 0; i < 5; i++) pf_config_free(configs[i]);
    unlink(B.file);
    rmdir(B.path);
}

/* What frees memory of the host's would free ours, that never came from there. */
static inline bool border_frees(const border_row *row) {
    const char *type = row->n ? row->parameter[0].type : "";
    return row->kind == BORDER_NOTHING &&
           (strcmp(type, "char *") == 0 || strcmp(type, "pf_config *") == 0 ||
            strcmp(type, "pf_named *") == 0);
}

/* ---- calls in a child ---- */

enum { BORDER_DOING = 4096, BORDER_MOST = 1024 };

/* Shared with the child: what it is at, in words and by the row's number, and which rows failed. */
typedef struct {
    char doing[BORDER_DOING];
    size_t at;
    bool failed[BORDER_MOST];
} border_told;
static border_told *border_shared;
static char *border_doing;

static void border_fail(const char *what) { fprintf(stderr, "  %s: %s\n", border_doing, what); }

static void border_share(void) {
    if (border_shared) return;
    border_shared = mmap(NULL, sizeof *border_shared, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    border_doing = border_shared->doing;
}

/* Waits for a child, which ended by itself? */
static bool border_ended(pid_t child, int *code) {
    int status = -1;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status)) border_fail("crashed");
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return WIFEXITED(status);
}

/* Runs `row` through `test` in a child, which gives the number of its failures. */
static inline void border_run(const border_row *row, int (*test)(const border_row *row)) {
    border_share();
    snprintf(border_doing, BORDER_DOING, "%s", row->name);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(test(row) > 0);
    }
    int code = -1;
    bool good = border_ended(child, &code) && code == 0;
    check_one(good, border_doing, __FILE__, __LINE__);
}

/* The same of n rows that leave each other alone: in one child, and behind a crash in another. */
static inline void border_run_all(const border_row *rows, size_t n,
                                  int (*test)(const border_row *row)) {
    border_share();
    border_shared->at = 0;
    memset(border_shared->failed, 0, sizeof border_shared->failed);
    CHECK(n <= BORDER_MOST);
    while (border_shared->at < n) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            for (alarm(120); border_shared->at < n; border_shared->at++)
                border_shared->failed[border_shared->at] = test(&rows[border_shared->at]) > 0;
            CHILD_EXIT(0);
        }
        int code = -1;
        if (!border_ended(child, &code)) border_shared->failed[border_shared->at++] = true;
    }
    for (size_t i = 0; i < n; i++)
        check_one(!border_shared->failed[i], rows[i].name, __FILE__, __LINE__);
}

#endif
