/*
 * script_values_test.c - values between a host and its scripts: every kind there and back, the same
 * tensor and the same model on both sides, who owns what, and what is no value.
 * In LIVING_IN_A_HOST.md: [scripts.3].
 */
#include <lauxlib.h>
#include <lualib.h>

#include "script_support.h"

static const char ECHO[] = "function echo(x) return x end\n"
                           "function kind(x) return math.type(x) or type(x) end\n";

static bool is_text(const pf_value *v, const char *text) {
    return v->kind == PF_VALUE_TEXT && v->bytes == strlen(text) && strcmp(v->as.text, text) == 0;
}

static void check_kind(pf_script *s, pf_value v, const char *kind) {
    pf_value told = call_one(s, "kind", v);
    CHECK(is_text(&told, kind));
    pf_value_clear(&told);
}

static void test_plain(pf_script *s) {
    pf_value v = call_one(s, "echo", pf_value_nil());
    CHECK(v.kind == PF_VALUE_NIL);
    v = call_one(s, "echo", pf_value_bool(false));
    CHECK(v.kind == PF_VALUE_BOOL && !v.as.boolean);
    v = call_one(s, "echo", pf_value_bool(true));
    CHECK(v.kind == PF_VALUE_BOOL && v.as.boolean && !v.owned);
    v = call_one(s, "echo", pf_value_integer(INT64_MIN));
    CHECK(v.kind == PF_VALUE_INTEGER && v.as.integer == INT64_MIN);
    v = call_one(s, "echo", pf_value_number(-0.0));
    CHECK(v.kind == PF_VALUE_NUMBER && v.as.number == 0 && signbit(v.as.number));
    v = call_one(s, "echo", pf_value_number(NAN));
    CHECK(v.kind == PF_VALUE_NUMBER && isnan(v.as.number));
    check_kind(s, pf_value_integer(3), "integer");
    check_kind(s, pf_value_number(3), "float");
    check_kind(s, pf_value_nil(), "nil");
}

static void test_texts(pf_script *s) {
    pf_value v = call_one(s, "echo", pf_value_text("a\0b", 4));
    CHECK(v.kind == PF_VALUE_TEXT && v.bytes == 4 && memcmp(v.as.text, "a\0b\0", 5) == 0);
    CHECK(v.owned);
    pf_value copy;
    CHECK_OK(pf_value_copy(&copy, &v));
    CHECK(copy.as.text != v.as.text && copy.bytes == 4 && memcmp(copy.as.text, "a\0b\0", 5) == 0);
    pf_value_clear(&v);
    CHECK(v.kind == PF_VALUE_NIL && !v.owned);
    pf_value_clear(&v);
    pf_value_clear(&copy);
    v = call_one(s, "echo", pf_value_text(NULL, 0));
    CHECK(is_text(&v, ""));
    pf_value_clear(&v);
}

static void test_tensors(pf_engine *engine, pf_script *s) {
    const int64_t shape[] = {2, 3};
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_full(&t, engine, PF_F32, 2, shape, 1));
    const size_t before = held(engine);
    pf_value v = call_one(s, "echo", pf_value_tensor(t));
    CHECK(v.kind == PF_VALUE_TENSOR && v.as.tensor == t && v.owned);
    pf_value_clear(&v);
    CHECK(held(engine) == before);
    /* What one side writes the other sees. */
    CHECK_OK(load(s, "function write(t) t:fill_(7) kept = t end"));
    pf_value argument = pf_value_tensor(t);
    CHECK_OK(pf_script_call(s, "write", &argument, 1, NULL, 0, NULL));
    CHECK(((const float *)pf_tensor_data(t))[5] == 7);
    pf_tensor_release(&t); /* the script has one more reference */
    CHECK_OK(pf_script_get(s, "kept", &v));
    CHECK(v.kind == PF_VALUE_TENSOR && ((const float *)pf_tensor_data(v.as.tensor))[0] == 7);
    pf_value copy;
    CHECK_OK(pf_value_copy(&copy, &v));
    CHECK(copy.as.tensor == v.as.tensor);
    CHECK_OK(load(s, "kept = nil collectgarbage()"));
    pf_value_clear(&v);
    CHECK(pf_tensor_alive(copy.as.tensor));
    pf_value_clear(&copy);
    CHECK(held(engine) < before);
}

static void test_dead_tensor(pf_script *s) {
    pf_value v;
    CHECK_OK(load(s, "local pf = require 'performer'\n"
                     "function dead() local tape <close> = pf.tape()\n"
                     "  return pf.ones(2) * 2 end\n"
                     "function alive() local tape <close> = pf.tape()\n"
                     "  return (pf.ones(2) * 2):detach() end\n"));
    CHECK_FAILS(PF_ESTATE, pf_script_call(s, "dead", NULL, 0, &v, 1, NULL));
    CHECK(v.kind == PF_VALUE_NIL && says("result 0 of 'dead' is a tensor whose tape has closed"));
    CHECK(pf_script_call(s, "alive", NULL, 0, &v, 1, NULL) == 1 && pf_tensor_alive(v.as.tensor));
    pf_value_clear(&v);
}

static void test_modules(pf_engine *engine, pf_script *s) {
    pf_config *options = pf_config_new(PF_MAP);
    pf_module *module = NULL;
    pf_config_set_number(options, "dim", 4);
    CHECK_OK(pf_module_new(&module, engine, "rmsnorm", options, NULL, 0));
    pf_config_free(options);
    pf_value v = call_one(s, "echo", pf_value_module(module));
    CHECK(v.kind == PF_VALUE_MODULE && v.as.module == module && v.owned);
    pf_module_release(&module);
    CHECK(strcmp(pf_module_type(v.as.module), "rmsnorm") == 0);
    CHECK_OK(load(s, "function run(m) return m(require 'performer'.ones(1, 4)) end"));
    pf_value y = call_one(s, "run", v);
    CHECK(y.kind == PF_VALUE_TENSOR && pf_tensor_numel(y.as.tensor) == 4);
    pf_value_clear(&y);
    pf_value_clear(&v);
}

static char *json_of(const pf_value *v) {
    char *text = NULL;
    CHECK(v->kind == PF_VALUE_DATA);
    CHECK_OK(pf_json_write(&text, v->as.data, false));
    return text;
}

static void check_json(pf_script *s, const char *text) {
    pf_config *tree = NULL;
    CHECK_OK(pf_json_parse(&tree, text, strlen(text)));
    pf_value v = call_one(s, "echo", pf_value_data(tree)), copy;
    char *back = json_of(&v);
    CHECK(back && strcmp(back, text) == 0);
    pf_text_free(back);
    CHECK_OK(pf_value_copy(&copy, &v));
    pf_value_clear(&v);
    back = json_of(&copy);
    CHECK(back && strcmp(back, text) == 0);
    pf_text_free(back);
    pf_value_clear(&copy);
    pf_config_free(tree);
}

static void test_data(pf_script *s) {
    check_json(s, "{\"a\":[1,2.5,{\"b\":[]},null,true],\"c\":{},\"d\":\"text\"}");
    check_json(s, "[]");
    check_json(s, "[[[]]]");
    CHECK_OK(load(s, "function sum(list) local n = 0\n"
                     "  for _, x in ipairs(list.values) do n = n + x end\n"
                     "  return { sum = n, names = { 'a', 'b' } } end\n"
                     "nested = {} for i = 1, 100 do nested = { nested } end\n"
                     "mixed = { 1, 2, name = 'x' } deep = { { f = print } }\n"
                     "cycle = {} cycle.again = cycle\n"
                     "big = { 2 ^ 53 | 0, (1 << 53) + 1 }"));
    pf_config *tree = NULL;
    CHECK_OK(pf_json_parse(&tree, "{\"values\":[1,2,3]}", 18));
    pf_value v = call_one(s, "sum", pf_value_data(tree));
    char *text = json_of(&v);
    CHECK(text && strcmp(text, "{\"names\":[\"a\",\"b\"],\"sum\":6}") == 0);
    pf_text_free(text);
    pf_value_clear(&v);
    pf_config_free(tree);
    const char *const bad[] = {"nested", "mixed", "deep", "cycle", "big", "echo", "coroutine.wrap"};
    for (int i = 0; i < 7; i++) {
        CHECK_FAILS(PF_EINVAL, pf_script_get(s, bad[i], &v));
        CHECK(v.kind == PF_VALUE_NIL && says(bad[i]));
    }
}

/* Arguments that are no values; nothing is called then. */
static void test_misuse(pf_script *s) {
    pf_value v[2] = {pf_value_nil(), pf_value_tensor(NULL)}, out;
    CHECK_FAILS(PF_EINVAL, pf_script_call(s, "echo", v, 2, &out, 1, NULL));
    CHECK(says("argument 1 is a tensor that is NULL"));
    v[1] = pf_value_module(NULL);
    CHECK_FAILS(PF_EINVAL, pf_script_set(s, "x", &v[1]));
    v[1] = pf_value_data(NULL);
    CHECK_FAILS(PF_EINVAL, pf_value_copy(&out, &v[1]));
    v[1] = pf_value_text(NULL, 3);
    CHECK_FAILS(PF_EINVAL, pf_script_call(s, "echo", v, 2, &out, 1, NULL));
    v[1].kind = (pf_value_kind)77;
    CHECK_FAILS(PF_EINVAL, pf_script_call(s, "echo", v, 2, &out, 1, NULL));
    CHECK(says("of no kind"));
    CHECK_FAILS(PF_EINVAL, pf_script_call(s, "echo", v, -1, &out, 1, NULL));
}

/* Globals, and fields below them. */
static void test_names(pf_script *s) {
    pf_value v = pf_value_integer(5);
    CHECK_OK(pf_script_set(s, "x", &v));
    CHECK_OK(pf_script_set(s, "game.level.number", &v));
    CHECK_OK(
        load(s, "assert(x == 5 and game.level.number == 5)\n"
                "game.level.name = 'cave'\n"
                "game.seen = setmetatable({}, { __index = function(_, k) return k .. '!' end })"));
    CHECK_OK(pf_script_get(s, "game.level.name", &v));
    CHECK(is_text(&v, "cave"));
    pf_value_clear(&v);
    CHECK_OK(pf_script_get(s, "game.seen.it", &v));
    CHECK(is_text(&v, "it!"));
    pf_value_clear(&v);
    CHECK_OK(pf_script_get(s, "nothing.below.it", &v));
    CHECK(v.kind == PF_VALUE_NIL);
    CHECK_OK(pf_script_get(s, "x.y", &v)); /* a number has no fields */
    CHECK(v.kind == PF_VALUE_NIL);
    v = pf_value_bool(true);
    CHECK_FAILS(PF_EINVAL, pf_script_set(s, "x.y", &v));
    CHECK(says("'x.y' lies in a number"));
    v = pf_value_nil();
    CHECK_OK(pf_script_set(s, "game.level", &v));
    CHECK_OK(load(s, "assert(game.level == nil)"));
}

/* Values on the stack of a state of the host's own. */
static void test_own_state(pf_engine *engine) {
    lua_State *L = luaL_newstate();
    pf_value v = pf_value_integer(3);
    luaL_openlibs(L);
    CHECK_FAILS(PF_ESTATE, pf_script_push(L, &v));
    CHECK(pf_script_bind(L, engine, NULL) == PF_OK);
    lua_settop(L, 0);
    CHECK_OK(pf_script_push(L, &v));
    CHECK(lua_gettop(L) == 1 && lua_tointeger(L, 1) == 3);
    pf_tensor *t = NULL;
    CHECK_OK(pf_tensor_arange(&t, engine, PF_F32, 4));
    v = pf_value_tensor(t);
    CHECK_OK(pf_script_push(L, &v));
    lua_setglobal(L, "t");
    CHECK(luaL_dostring(L, "return t * 2, print") == LUA_OK);
    CHECK_FAILS(PF_EINVAL, pf_script_read(L, -1, &v));
    CHECK_FAILS(PF_EINVAL, pf_script_read(L, 9, &v));
    CHECK_OK(pf_script_read(L, -2, &v));
    CHECK(lua_gettop(L) == 3 && ((const float *)pf_tensor_data(v.as.tensor))[3] == 6);
    pf_value_clear(&v);
    pf_tensor_release(&t);
    lua_close(L);
}

int main(void) {
    pf_engine *engine = new_engine();
    pf_script *script = new_script(engine, ECHO);
    test_plain(script);
    test_texts(script);
    test_tensors(engine, script);
    test_dead_tensor(script);
    test_modules(engine, script);
    test_data(script);
    test_misuse(script);
    test_names(script);
    pf_script_close(&script);
    test_own_state(engine);
    pf_engine_close(&engine);
    return CHECK_REPORT();
}
