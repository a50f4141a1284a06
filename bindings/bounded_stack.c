/* bounded_stack.c - see bounded_stack.h. */
#include "bounded_stack.h"

enum { SPARE = 5, WIDE = (BOUNDED_STACK / 2 + SPARE) * WIDE_VALUE };

static bool is_doubled(size_t old, size_t bytes) {
    return bytes + (size_t)SPARE * WIDE_VALUE == 2 * old;
}

bool wide_stack(const wide_blocks *wide, const void *block, size_t old, size_t bytes) {
    if (bytes <= (size_t)(BOUNDED_STACK + SPARE) * WIDE_VALUE) return false;
    if (block) return is_doubled(old, bytes);
    for (int i = 0; i < wide->n; i++)
        if (is_doubled(wide->at[i].bytes, bytes)) return true;
    return false;
}

void wide_note(wide_blocks *wide, const void *block, size_t old, const void *moved, size_t bytes) {
    for (int i = wide->n - 1; block && old >= WIDE && i >= 0; i--) {
        if (wide->at[i].block != block) continue;
        wide->at[i] = wide->at[--wide->n];
        break;
    }
    if (bytes < WIDE || wide->n == WIDE_MOST) return;
    wide->at[wide->n].block = moved;
    wide->at[wide->n++].bytes = bytes;
}
