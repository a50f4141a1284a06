/*
 * lpf_place.c - counting. In Lua positions and dimensions count from 1, negative ones from the
 * end, and a range includes its last; in the engine places count from 0, and a range ends before
 * its end. No other C file of the binding adds or takes away that one.
 */
#include "lpf.h"

int64_t lpf_place(int64_t position, int64_t n) {
    if (position < 0 && n != LPF_NO_END) position += n + 1;
    if (position < 1 || (position > n && n != LPF_NO_END)) return -1;
    return position - 1;
}

int64_t lpf_told(int64_t place) { return place >= 0 ? place + 1 : place; }

void lpf_push_place(lua_State *L, int64_t place) { lua_pushinteger(L, lpf_told(place)); }

int64_t lpf_dim(int64_t dim) { return dim > 0 ? dim - 1 : dim; }

bool lpf_range(int64_t *first, int64_t *last, int64_t n) {
    if (*first < 0) *first += n + 1;
    if (*last < 0) *last += n + 1;
    if (*first < 1 || *last > n || *last < *first - 1) return false;
    (*first)--; /* `last` is the end already: one less, one more */
    return true;
}

void lpf_tell_places(lua_State *L, pf_tensor *t) {
    int32_t *place = pf_tensor_data(t);
    int64_t n = pf_tensor_numel(t);
    if (!place && n > 0) lpf_raise(L, "the positions are not contiguous");
    for (int64_t i = 0; i < n; i++) place[i] = (int32_t)lpf_told(place[i]);
}

int64_t lpf_take_places(pf_tensor *t) {
    int32_t *place = pf_tensor_data(t);
    for (int64_t i = 0, n = pf_tensor_numel(t); i < n; i++) {
        if (place[i] == 0) return i;
        place[i] = (int32_t)lpf_dim(place[i]);
    }
    return -1;
}
