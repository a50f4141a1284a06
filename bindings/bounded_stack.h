/*
 * bounded_stack.h - which blocks of a stranger's state are stacks of Lua's, so that none of them
 * grows beyond BOUNDED_STACK. Nobody says it. But Lua doubles a stack, and keeps some values more
 * than its size: of no other block are two lengths so. It moves it (Lua 5.4.5), or makes another
 * and then frees the one before (5.4.3). By more than that it grows only for the values that one
 * call puts there, which are bounded by themselves (bounded_values).
 */
#ifndef BOUNDED_STACK_H
#define BOUNDED_STACK_H

#include <stdbool.h>
#include <stddef.h>

#include "bounded.h"

enum { WIDE_VALUE = 16, WIDE_MOST = BOUNDED_LUA / (BOUNDED_STACK / 2 * WIDE_VALUE) };

/* The blocks, texts aside, that may be stacks which could be doubled too far. */
typedef struct {
    struct {
        const void *block;
        size_t bytes;
    } at[WIDE_MOST];
    int n;
} wide_blocks;

/* Is it a stack that would be too wide? block NULL: one more. */
bool wide_stack(const wide_blocks *wide, const void *block, size_t old, size_t bytes);
/* What was asked for is at `moved` now; bytes 0: it was freed. */
void wide_note(wide_blocks *wide, const void *block, size_t old, const void *moved, size_t bytes);

#endif
