/*
 * show.c - a tensor as text for people: one line of shape and dtype, then the numbers, at
 * most six a dimension. What must hold: the text is of bounded size for any tensor, and
 * values that are not finite are plainly seen.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "tensor.h"

enum { EDGE = 3, MOST = 2 * EDGE, CELL = 24, TEXT_MAX = 16384 };

/* How the numbers of one tensor are written: all alike, in one width. */
typedef struct {
    const pf_tensor *t;
    bool scientific;
    int width;
    char *text;
    size_t used;
} page;

/* Text that does not fit is left out; sizes are such that it fits. */
static void put(page *p, const char *text) {
    size_t length = strlen(text);
    if (p->used + length >= TEXT_MAX) return;
    memcpy(p->text + p->used, text, length + 1);
    p->used += length;
}

/* Six or fewer: all. More: three, a gap (-1), three. Returns how many are shown. */
static int shown(int64_t n, int64_t *place) {
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (n > MOST && i == EDGE) {
            place[count++] = -1;
            i = n - EDGE;
        }
        place[count++] = i;
    }
    return count;
}

static void cell(const page *p, double value, char *out) {
    if (isnan(value))
        snprintf(out, CELL, "nan");
    else if (isinf(value))
        snprintf(out, CELL, value < 0 ? "-inf" : "inf");
    else if (pf_dtype_find(p->t->dtype)->whole)
        snprintf(out, CELL, "%.0f", value);
    else
        pf_print(out, CELL, p->scientific ? "%.4e" : "%.4f", value);
}

typedef void (*visit_fn)(page *p, double value);

static void widen(page *p, double value) {
    char text[CELL];
    cell(p, value, text);
    int width = (int)strlen(text);
    if (width > p->width) p->width = width;
}

/* Plain decimals lose numbers far from 1. */
static void weigh(page *p, double value) {
    double size = fabs(value);
    if (isfinite(size) && size != 0.0 && (size >= 1e5 || size < 1e-3)) p->scientific = true;
}

static void print(page *p, double value) {
    char text[CELL], padded[2 * CELL];
    cell(p, value, text);
    snprintf(padded, sizeof padded, " %*s", p->width, text);
    put(p, padded);
}

/* One row of the innermost dimension, beginning at row-major position `first`. */
static void row(page *p, int64_t first, int64_t columns, visit_fn visit) {
    int64_t place[MOST + 1];
    int count = shown(columns, place);
    for (int i = 0; i < count; i++) {
        double value = 0.0;
        if (place[i] < 0) {
            if (visit == print) put(p, " ...");
            continue;
        }
        pf_tensor_get(p->t, first + place[i], &value);
        visit(p, value);
    }
    if (visit == print) put(p, "\n");
}

/* Everything that is shown: blocks (all leading dimensions as one), rows, columns. */
static void walk(page *p, visit_fn visit) {
    const pf_tensor *t = p->t;
    int64_t columns = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    int64_t rows = t->rank > 1 ? t->shape[t->rank - 2] : 1;
    int64_t blocks = t->rank > 2 ? pf_shape_numel(t->rank - 2, t->shape) : 1;
    int64_t block[MOST + 1], line[MOST + 1];
    int block_count = shown(blocks, block), line_count = shown(rows, line);
    for (int b = 0; b < block_count; b++) {
        bool gap = block[b] < 0;
        if (visit == print && (b > 0 || gap)) put(p, gap ? "\n ...\n" : "\n");
        for (int r = 0; r < line_count && !gap; r++) {
            if (line[r] >= 0)
                row(p, (block[b] * rows + line[r]) * columns, columns, visit);
            else if (visit == print)
                put(p, " ...\n");
        }
    }
}

int pf_tensor_show(char **text, const pf_tensor *t) {
    PF_OUT(text);
    PF_NEED(t);
    page p = {.t = t, .text = malloc(TEXT_MAX)};
    if (!p.text) return pf_fail(PF_ENOMEM, "show: out of memory");
    p.text[0] = '\0';
    put(&p, "tensor ");
    put(&p, pf_shape_of(t));
    put(&p, " ");
    put(&p, pf_dtype_name(t->dtype));
    if (!t->storage)
        put(&p, " (no data)");
    else if (!t->storage->data)
        put(&p, " (dead: its tape has closed)");
    else if (pf_tensor_numel(t) > 0) {
        put(&p, "\n");
        walk(&p, weigh);
        walk(&p, widen);
        walk(&p, print);
        p.text[--p.used] = '\0'; /* no newline at the end */
    }
    *text = p.text;
    return PF_OK;
}
