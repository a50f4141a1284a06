/*
 * lpf_ops.c - a call of an op from Lua, pf.<op>(inputs..., attributes), read by its row alone:
 * inputs by position, then attributes by position in the row's order, or one options table with
 * attributes and optional inputs. The rows come from lpf_op_table.c.
 *
 * Counting is turned round by lpf_place.c: dimensions, the positions of `slice`, which includes
 * its last, and tensors of positions, which ops like `gather` take and ops like `argmax` return. A
 * number stands for a scalar tensor wherever an input is required; before positions it is the
 * dimension that they belong to: t:gather(dim, index).
 */
#include "lpf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* One call being read from the Lua stack: arguments next .. top are to be read still, and the
 * inputs and attributes before them have been. What came out of tables is pushed above `top`, and
 * lives there as long as the call. */
typedef struct {
    lua_State *L;
    const lpf_op *op;
    int next, top;
    pf_tensor *in[LPF_MAX_IN];
    int n_in;
    pf_attr attr[LPF_MAX_ATTR];
    bool given[LPF_MAX_ATTR]; /* else attr[k] is the default */
} reading;

/* ---- names ------------------------------------------------------------------- */

/* What Lua calls an attribute: C's ranges are half open, Lua's end with their last. */
const char *lpf_attr_name(const pf_attr_info *info) {
    return info->kind == PF_ATTR_INDEX && strcmp(info->name, "end") == 0 ? "last" : info->name;
}

static bool is_last(const pf_attr_info *info) { return strcmp(lpf_attr_name(info), "last") == 0; }

/* ---- running ------------------------------------------------------------------ */

/* The boxes of the outputs are made first, so that what the op gives has an owner at once. An
 * output that the op left out is nil between others, and not there after them. */
int lpf_run(lua_State *L, const lpf_op *op, pf_tensor *const *in, int n_in, const pf_attr *attr) {
    pf_engine *engine = lpf_engine(L);
    pf_tensor **box[LPF_MAX_OUT], *out[LPF_MAX_OUT] = {NULL};
    int n = op->info.outputs;
    luaL_checkstack(L, n + 8, "too many results");
    for (int o = 0; o < n; o++) box[o] = lpf_new_tensor(L);
    int status = pf_op_apply(engine, op->index, in, n_in, attr, out);
    if (lpf_collect_for(L, status)) status = pf_op_apply(engine, op->index, in, n_in, attr, out);
    lpf_result(L, status);
    int results = 0;
    for (int o = 0; o < n; o++) {
        *box[o] = out[o];
        if (out[o]) results = o + 1;
    }
    lua_pop(L, n - results);
    for (int o = 0; o < results; o++) {
        if (out[o]) {
            lpf_made(L, out[o]);
        } else {
            lua_pushnil(L);
            lua_replace(L, -(results - o) - 1);
        }
    }
    for (int o = 0; o < n; o++)
        if (op->info.place_outputs >> o & 1) lpf_tell_places(L, out[o]);
    return results;
}

/* ---- reading attributes ------------------------------------------------------- */

/* The dimension at `index`; that the tensor has it is looked at when all has been read. */
static int64_t check_dim(reading *r, int index, const char *name) {
    int64_t dim = lpf_check_whole(r->L, index, r->op->info.name, name);
    if (dim == 0) lpf_raise(r->L, "%s: %s is 0; dimensions count from 1", r->op->info.name, name);
    return lpf_dim(dim);
}

/* The number of the word at `index` among the row's "a|b|c". */
static int64_t check_choice(reading *r, int index, const pf_attr_info *info) {
    if (lua_type(r->L, index) != LUA_TSTRING)
        lpf_raise(r->L, "%s: %s must be one of %s, got %s", r->op->info.name, info->name,
                  info->choices, lpf_kind(r->L, index));
    const char *word = lpf_check_text(r->L, index, r->op->info.name, info->name);
    char buffer[512];
    const char *names[64];
    int n = 0;
    strncpy(buffer, info->choices, sizeof buffer - 1);
    buffer[sizeof buffer - 1] = 0;
    char *rest = NULL;
    for (char *p = strtok_r(buffer, "|", &rest); p && n < 64; p = strtok_r(NULL, "|", &rest)) {
        if (strcmp(p, word) == 0) return n;
        names[n++] = p;
    }
    const char *near = pf_nearest(word, names, n);
    if (near)
        lpf_raise(r->L, "%s: no %s '%s' (did you mean '%s'?)", r->op->info.name, info->name, word,
                  near);
    lpf_raise(r->L, "%s: no %s '%s'; there are %s", r->op->info.name, info->name, word,
              info->choices);
    return 0;
}

/* One more number of a list: a dimension, or any whole number. */
static void add_to_list(reading *r, int index, const pf_attr_info *info, pf_attr *attr) {
    if (attr->n == PF_MAX_RANK)
        lpf_raise(r->L, "%s: %s takes at most %d numbers", r->op->info.name, info->name,
                  PF_MAX_RANK);
    attr->list[attr->n++] = info->kind == PF_ATTR_DIMS
                                ? check_dim(r, index, info->name)
                                : lpf_check_whole(r->L, index, r->op->info.name, info->name);
}

/* The list at `index`: a table, or a single number. */
static void read_list_attr(reading *r, int index, const pf_attr_info *info, pf_attr *attr) {
    lua_State *L = r->L;
    attr->n = 0;
    if (lua_type(L, index) == LUA_TNUMBER) {
        add_to_list(r, index, info, attr);
        return;
    }
    if (!lua_istable(L, index))
        lpf_raise(L, "%s: %s must be a list of numbers, got %s", r->op->info.name, info->name,
                  lpf_kind(L, index));
    lua_Integer n = (lua_Integer)lua_rawlen(L, index);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, index, i);
        add_to_list(r, -1, info, attr);
        lua_pop(L, 1);
    }
}

/* Attribute k from the value at `index` (not nil). */
static void read_attr(reading *r, int k, int index) {
    const pf_attr_info *info = &r->op->info.attrs[k];
    const char *op = r->op->info.name, *name = lpf_attr_name(info);
    pf_attr *attr = &r->attr[k];
    lua_State *L = r->L;
    r->given[k] = true;
    switch (info->kind) {
    case PF_ATTR_INT:
    case PF_ATTR_INDEX:
        attr->i = lpf_check_whole(L, index, op, name);
        return;
    case PF_ATTR_FLOAT:
        if (lua_type(L, index) != LUA_TNUMBER)
            lpf_raise(L, "%s: %s must be a number, got %s", op, name, lpf_kind(L, index));
        attr->f = lua_tonumber(L, index);
        return;
    case PF_ATTR_BOOL:
        if (!lua_isboolean(L, index))
            lpf_raise(L, "%s: %s must be true or false, got %s", op, name, lpf_kind(L, index));
        attr->i = lua_toboolean(L, index);
        return;
    case PF_ATTR_DIM:
    case PF_ATTR_NEW_DIM:
        attr->i = check_dim(r, index, name);
        return;
    case PF_ATTR_CHOICE:
        attr->i = check_choice(r, index, info);
        return;
    case PF_ATTR_DIMS:
    case PF_ATTR_INTS:
        read_list_attr(r, index, info, attr);
        return;
    }
}

/* ---- reading inputs ----------------------------------------------------------- */

/* Pushes a scalar tensor for the number at `index`. */
pf_tensor *lpf_scalar(lua_State *L, int index, pf_dtype dtype, const char *where) {
    double value = lua_tonumber(L, index);
    if (dtype == PF_I32 && !(value == floor(value) && value >= INT32_MIN && value <= INT32_MAX))
        lpf_raise(L, "%s: %.14g can't go with an i32 tensor", where, value);
    if (dtype == PF_F32) value = (float)value; /* an operand is rounded as results are */
    pf_engine *engine = lpf_engine(L);
    pf_tensor **t = lpf_new_tensor(L);
    int status = pf_tensor_full(t, engine, dtype, 0, NULL, value);
    if (lpf_collect_for(L, status)) status = pf_tensor_full(t, engine, dtype, 0, NULL, value);
    lpf_result(L, status);
    return *t;
}

/* A number among the inputs is a scalar of the type of the first tensor among the arguments; a
 * condition chooses between them, and says nothing of their type. */
static pf_dtype dtype_of(const reading *r) {
    int first = r->next + (strcmp(r->op->arg[0], "cond") == 0);
    for (int i = first; i <= r->top; i++) {
        const pf_tensor *t = lpf_test_tensor(r->L, i);
        if (t) return pf_tensor_dtype(t);
    }
    return PF_F32;
}

/* Does input i hold positions? */
static bool is_place(const lpf_op *op, int i) { return op->info.place_inputs >> i & 1; }

/* concat{a, b, ...}: a list in the place of all inputs, where a row takes more than it names. */
static void read_list(reading *r) {
    lua_State *L = r->L;
    lua_Integer n = (lua_Integer)lua_rawlen(L, r->next);
    if (n > r->op->info.max_inputs)
        lpf_raise(L, "%s: takes at most %d tensors, got %d", r->op->info.name,
                  r->op->info.max_inputs, (int)n);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, r->next, i); /* stays on the stack while the op runs */
        r->in[r->n_in++] = lpf_check_tensor(L, -1, r->op->info.name, "each of the list");
    }
    r->next++;
}

/* Inputs by position: the required ones, then optional ones (nil leaves one out) up to the first
 * value that is no tensor, where the attributes begin. */
static void read_inputs(reading *r) {
    lua_State *L = r->L;
    const pf_op_info *info = &r->op->info;
    pf_dtype dtype = dtype_of(r);
    if (lua_istable(L, r->next) && lua_rawlen(L, r->next) > 0 && info->max_inputs > r->op->n_args) {
        read_list(r);
        return;
    }
    while (r->n_in < info->max_inputs && r->next <= r->top) {
        pf_tensor *t = lpf_test_tensor(L, r->next);
        bool required = r->n_in < info->min_inputs;
        const char *name = r->n_in < r->op->n_args ? r->op->arg[r->n_in] : "input";
        if (!t && is_place(r->op, r->n_in) && lua_type(L, r->next) == LUA_TNUMBER && !r->given[0]) {
            read_attr(r, 0, r->next++);
            continue;
        }
        if (!t && required && lua_type(L, r->next) == LUA_TNUMBER) {
            t = lpf_scalar(L, r->next, dtype, info->name);
        } else if (!t && required) {
            lpf_raise(L, "%s: %s must be a tensor, got %s", info->name, name, lpf_kind(L, r->next));
        } else if (!t && !lua_isnil(L, r->next)) {
            break;
        }
        r->in[r->n_in++] = t;
        r->next++;
    }
    if (r->n_in < info->min_inputs)
        lpf_raise(L, "%s: %s is missing (it takes %s)", info->name, r->op->arg[r->n_in],
                  info->args);
}

/* ---- reading options ----------------------------------------------------------- */

/* An option's place: attribute 0 .. or, as -1-i, optional input i; raises for neither. */
static int find_option(reading *r, const char *key) {
    const pf_op_info *info = &r->op->info;
    const char *names[LPF_MAX_ATTR + LPF_MAX_IN];
    int n = 0;
    for (int k = 0; k < info->n_attrs; k++) {
        names[n++] = lpf_attr_name(&info->attrs[k]);
        if (strcmp(names[n - 1], key) == 0) return k;
    }
    for (int i = info->min_inputs; i < r->op->n_args; i++) {
        names[n++] = r->op->arg[i];
        if (strcmp(r->op->arg[i], key) == 0) return -1 - i;
    }
    lpf_raise(r->L, "%s: unknown option '%s'%s", info->name, key, lpf_hint(r->L, key, names, n));
    return 0;
}

/* The options table at `index`: optional inputs and attributes by name. */
static void read_options(reading *r, int index) {
    lua_State *L = r->L;
    luaL_checkstack(L, LPF_MAX_IN + 8, "options");
    /* Inputs first, and left on the stack, so that they live as long as the call. */
    for (int i = r->op->info.min_inputs; i < r->op->n_args; i++) {
        if (lua_getfield(L, index, r->op->arg[i]) == LUA_TNIL) continue;
        if (i < r->n_in && r->in[i])
            lpf_raise(L, "%s: %s is given twice", r->op->info.name, r->op->arg[i]);
        r->in[i] = lpf_check_tensor(L, -1, r->op->info.name, r->op->arg[i]);
        if (r->n_in <= i) r->n_in = i + 1;
    }
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            lpf_raise(L, "%s: options are named, got one at %s", r->op->info.name,
                      luaL_tolstring(L, -2, NULL));
        int k = find_option(r, lpf_check_text(L, -2, r->op->info.name, "an option"));
        if (k >= 0 && r->given[k])
            lpf_raise(L, "%s: %s is given twice", r->op->info.name,
                      lpf_attr_name(&r->op->info.attrs[k]));
        if (k >= 0) read_attr(r, k, lua_gettop(L));
        lua_pop(L, 1);
    }
}

/* A table with elements, or an empty one: reshape({}) makes a scalar. */
static bool is_list(lua_State *L, int index) {
    if (lua_rawlen(L, index) > 0) return true;
    lua_pushnil(L);
    if (!lua_next(L, index)) return true;
    lua_pop(L, 2);
    return false;
}

/* Positions in Lua are places in the engine: a copy of them, on the stack as long as the call. */
static void turn_places(reading *r) {
    lua_State *L = r->L;
    for (int i = 0; i < r->n_in; i++) {
        const pf_tensor *t = r->in[i];
        if (!t || !is_place(r->op, i) || pf_tensor_dtype(t) != PF_I32 || !pf_tensor_alive(t))
            continue;
        pf_tensor **copy = lpf_new_tensor(L);
        int status = pf_tensor_detach(copy, lpf_engine(L), t);
        if (lpf_collect_for(L, status)) status = pf_tensor_detach(copy, lpf_engine(L), t);
        lpf_result(L, status);
        int64_t zero = lpf_take_places(*copy);
        if (zero >= 0)
            lpf_raise(L, "%s: element %lld of %s is 0; positions count from 1", r->op->info.name,
                      (long long)lpf_told(zero), r->op->arg[i]);
        r->in[i] = *copy;
    }
}

/* Attributes by position (nil leaves one out), until a table that is not the list of one: it holds
 * the rest by name, and is the last argument. */
static void read_attrs(reading *r) {
    lua_State *L = r->L;
    const pf_op_info *info = &r->op->info;
    for (int k = r->given[0] ? 1 : 0; r->next <= r->top; k++) {
        bool list = k < info->n_attrs &&
                    (info->attrs[k].kind == PF_ATTR_DIMS || info->attrs[k].kind == PF_ATTR_INTS);
        if (lua_istable(L, r->next) && !(list && is_list(L, r->next))) {
            read_options(r, r->next++);
            if (r->next <= r->top) lpf_raise(L, "%s: options come last", info->name);
            return;
        }
        if (k >= info->n_attrs)
            lpf_raise(L, "%s: too many arguments (it takes %s and %d attributes)", info->name,
                      info->args, info->n_attrs);
        if (lua_isnil(L, r->next)) {
            r->next++;
            continue;
        }
        read_attr(r, k, r->next++);
        /* reshape(2, 3): numbers that follow belong to the list. */
        while (list && r->next <= r->top && lua_type(L, r->next) == LUA_TNUMBER)
            add_to_list(r, r->next++, &info->attrs[k], &r->attr[k]);
    }
}

/* ---- dimensions --------------------------------------------------------------- */

/* One dimension (from 0, or negative) of attribute `name`; the message counts as Lua does. */
static void check_range(reading *r, const char *name, int64_t dim) {
    const pf_tensor *t = r->in[0];
    int rank = pf_tensor_rank(t);
    if (dim < rank && dim >= -rank) return;
    if (rank == 0)
        lpf_raise(r->L, "%s: %s is a scalar, without dimensions", r->op->info.name, r->op->arg[0]);
    char shape[PF_MAX_RANK * 22 + 3] = "[";
    size_t n = 1;
    for (int d = 0; d < rank; d++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", d ? ", " : "",
                              (long long)pf_tensor_size(t, d));
    snprintf(shape + n, sizeof shape - n, "]");
    lpf_raise(r->L, "%s: %s is %lld, but %s is %s: dimensions 1 to %d, or -%d to -1",
              r->op->info.name, name, (long long)lpf_told(dim), r->op->arg[0], shape, rank, rank);
}

/* Dimensions that were given belong to the first input. */
static void check_dims(reading *r) {
    const pf_op_info *info = &r->op->info;
    for (int k = 0; k < info->n_attrs; k++) {
        const pf_attr *attr = &r->attr[k];
        if (!r->given[k]) continue;
        if (info->attrs[k].kind == PF_ATTR_DIM) check_range(r, info->attrs[k].name, attr->i);
        if (info->attrs[k].kind != PF_ATTR_DIMS) continue;
        for (int i = 0; i < attr->n; i++) check_range(r, info->attrs[k].name, attr->list[i]);
    }
}

/* ---- positions ---------------------------------------------------------------- */

/* Positions of a slice, as Lua counts, become the range of the engine. */
static void resolve_positions(reading *r) {
    const pf_op_info *info = &r->op->info;
    int dim_at = -1, first_at = -1, last_at = -1;
    for (int k = 0; k < info->n_attrs; k++) {
        if (info->attrs[k].kind == PF_ATTR_DIM) dim_at = k;
        if (info->attrs[k].kind == PF_ATTR_INDEX && is_last(&info->attrs[k])) last_at = k;
        if (info->attrs[k].kind == PF_ATTR_INDEX && !is_last(&info->attrs[k])) first_at = k;
    }
    if (dim_at < 0 || first_at < 0 || last_at < 0) return;
    const pf_tensor *t = r->in[0];
    int rank = pf_tensor_rank(t);
    int64_t dim = r->attr[dim_at].i;
    if (dim >= rank || dim < -rank) return; /* the default, of a scalar: the op says it */
    int64_t n = pf_tensor_size(t, (int)(dim < 0 ? dim + rank : dim));
    int64_t first = r->given[first_at] ? r->attr[first_at].i : 1;
    int64_t last = r->given[last_at] ? r->attr[last_at].i : n;
    r->attr[first_at].i = first;
    r->attr[last_at].i = last;
    if (!lpf_range(&r->attr[first_at].i, &r->attr[last_at].i, n))
        lpf_raise(r->L, "%s: from %lld to %lld, but dimension %d has %lld (positions count from 1)",
                  info->name, (long long)first, (long long)last,
                  (int)lpf_told(dim < 0 ? dim + rank : dim), (long long)n);
    r->given[first_at] = r->given[last_at] = true;
}

/* ---- a call ------------------------------------------------------------------- */

/* The arguments on the stack, read by the row that the function was made for. */
static void read_call(reading *r) {
    lua_State *L = r->L;
    r->op = lua_touserdata(L, lua_upvalueindex(1));
    const pf_op_info *info = &r->op->info;
    luaL_checkstack(L, LPF_MAX_IN + 16, "arguments");
    lpf_result(L, pf_op_defaults(lpf_engine(L), r->op->index, r->attr));
    read_inputs(r);
    read_attrs(r);
    turn_places(r);
    check_dims(r);
    resolve_positions(r);
    for (int k = 0; k < info->n_attrs; k++)
        if (info->attrs[k].required && !r->given[k])
            lpf_raise(L, "%s: %s is missing", info->name, lpf_attr_name(&info->attrs[k]));
}

/* pf.<op>(...) and t:<op>(...): both see the tensor as argument 1. */
int lpf_call_op(lua_State *L) {
    reading r = {.L = L, .next = 1, .top = lua_gettop(L)};
    read_call(&r);
    return lpf_run(L, r.op, r.in, r.n_in, r.attr);
}

/* t:<op>_(...): new numbers in place; t itself. */
int lpf_call_in_place(lua_State *L) {
    reading r = {.L = L, .next = 1, .top = lua_gettop(L)};
    const lpf_op *op = lua_touserdata(L, lua_upvalueindex(1));
    lpf_enter(L);
    lpf_check_living(L, 1, op->info.in_place);
    read_call(&r);
    int status = pf_op_apply_in_place(lpf_engine(L), op->index, r.in, r.n_in, r.attr);
    if (lpf_collect_for(L, status))
        status = pf_op_apply_in_place(lpf_engine(L), op->index, r.in, r.n_in, r.attr);
    lpf_result(L, status);
    lua_settop(L, 1);
    return 1;
}
