/*
 * kern_gemm.c - matrix products, compiled once a level: attention's blocks, which lie in the
 * caches and where a BLAS call would spend its time packing and clearing, and the tiles of
 * large products.
 *
 * Every element of C is, for each pass of PF_PANEL_DEPTH of k, one chain of multiply-adds in
 * order, and the sum of the passes, in order, and beta C: its bits depend on its row of A, its
 * column of B and beta, never on the shape of the call or its place in it. A tile of MR rows by
 * two vectors of columns stays in registers; B's panel of two vectors stays in the nearest
 * caches while all rows of A pass by. B's panel is copied where its rows lie far apart, and
 * turned when B is transposed. A is read one element at a time, so its layout does not matter to
 * blocks in the caches; of large products it is packed in the order of reading, or its rows, a
 * power of two apart, crowd each other out of the cache.
 */
#include <string.h>

#include "kern_level.h"

/* Rows of a register tile: two vectors each, and room for two of B and one of A. */
#if PF_LEVEL == 2
enum { MR = 12 };
#elif PF_LEVEL == 1
enum { MR = 6 };
#else
enum { MR = 4 };
#endif

/* One operand walk: A's element (i, k) is a[i * row + k * step]; B's row k is b + k * ldb. */
typedef struct {
    const float *a, *b;
    int64_t row, step, ldb, k;
    float *c;
    int64_t ldc, tail; /* lanes of the last vector */
    float beta;
    bool large; /* A is packed, and C's lines are far: called for before the products */
} tile;

/* C (mr, nv vectors) = beta C + A B. mr, nv and partial are constants where it is inlined;
 * partial: the last vector has `tail` lanes. */
PF_INLINE void tile_product(const tile *t, const int mr, const int nv, const bool partial) {
    vf sum[MR][2];
    const float *b = t->b, *a = t->a;
    const int64_t row = t->row, step = t->step, ldb = t->ldb, ldc = t->ldc, tail = t->tail;
    const float beta = t->beta;
    float *c = t->c;
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) sum[i][j] = vf_zero();
    }
    if (t->large) {
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) __builtin_prefetch(c + i * ldc + j * VW, 1, 3);
        }
    }
    for (int64_t k = t->k; k > 0; k--, a += step, b += ldb) {
        vf right[2];
        right[0] = nv == 1 && partial ? vf_load_n(b, tail) : vf_load(b);
        if (nv == 2) right[1] = partial ? vf_load_n(b + VW, tail) : vf_load(b + VW);
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
            const vf left = vf_set(a[i * row]);
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) sum[i][j] = vf_fma(left, right[j], sum[i][j]);
        }
    }
    if (beta != 0) {
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) {
                const vf old = vf_get(c + i * ldc + j * VW, partial && j == nv - 1 ? tail : VW);
                sum[i][j] = vf_fma(vf_set(beta), old, sum[i][j]);
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++)
            vf_put(c + i * ldc + j * VW, partial && j == nv - 1 ? tail : VW, sum[i][j]);
    }
}

/* The row counts a tile comes in; a block's rest goes through the smaller ones. */
static int tile_height(int64_t rows) { return rows >= MR ? MR : rows >= 4 ? 4 : rows >= 2 ? 2 : 1; }

PF_INLINE void tile_rows(const tile *t, int mr, const int nv, const bool partial) {
    if (mr == MR) {
        tile_product(t, MR, nv, partial);
    } else if (mr == 4) {
        tile_product(t, 4, nv, partial);
    } else if (mr == 2) {
        tile_product(t, 2, nv, partial);
    } else {
        tile_product(t, 1, nv, partial);
    }
}

static void tile_run(const tile *t, int mr, int64_t columns) {
    if (columns >= 2 * VW) {
        tile_rows(t, mr, 2, false);
    } else if (columns > VW) {
        tile_rows(t, mr, 2, true);
    } else if (columns == VW) {
        tile_rows(t, mr, 1, false);
    } else {
        tile_rows(t, mr, 1, true);
    }
}

/* panel (k, 2 VW) <- rows first .. first+n-1 of B (n, k; ldb), turned. */
static void turn_panel(int64_t n, int64_t k, const float *b, int64_t ldb, float *panel) {
    int64_t j = 0;
    for (; j + VT <= n; j += VT) {
        int64_t p = 0;
        for (; p + VT <= k; p += VT) {
            vt_turn(b + j * ldb + p, ldb, panel + p * 2 * VW + j, 2 * VW);
        }
        for (; p < k; p++) {
            for (int i = 0; i < VT; i++) panel[p * 2 * VW + j + i] = b[(j + i) * ldb + p];
        }
    }
    for (; j < n; j++) {
        for (int64_t p = 0; p < k; p++) panel[p * 2 * VW + j] = b[j * ldb + p];
    }
}

/* panels (k, 2 VW), one after another, <- columns 0 .. n-1 of B (k, n; ldb). Several at a time:
 * rows that lie far apart are read in longer runs. */
static void copy_panels(int64_t n, int64_t k, const float *b, int64_t ldb, float *panels) {
    const int64_t whole = n / (2 * VW), rest = n % (2 * VW);
    for (int64_t p = 0; p < k; p++) {
        const float *from = b + p * ldb;
        float *to = panels + p * 2 * VW;
        for (int64_t g = 0; g < whole; g++, from += 2 * VW, to += 2 * VW * k) {
            vf_store(to, vf_load(from));
            vf_store(to + VW, vf_load(from + VW));
        }
        for (int64_t j = 0; j < rest; j++) to[j] = from[j];
    }
}

/* pack <- A (m, k), tile after tile, in a tile column after column: A stored (m, k). A whole
 * tile is turned; stores of a whole vector run over into the next column, which is written next. */
static void pack_turned(int64_t m, int64_t k, const float *a, int64_t lda, float *pack) {
    for (int64_t i = 0; i < m;) {
        const int mr = tile_height(m - i);
        const float *from = a + i * lda;
        const bool turn = mr == MR && i + pf_max(MR, VT) <= m;
        int64_t p = 0;
        for (; turn && p + VT <= k; p += VT) {
            for (int r = 0; r < MR; r += VT) {
                const int64_t at = pf_max(0, pf_min(r, MR - VT));
                vt_turn(from + at * lda + p, lda, pack + p * MR + at, MR);
            }
        }
        for (; p < k; p++) {
            for (int r = 0; r < mr; r++) pack[p * mr + r] = from[r * lda + p];
        }
        pack += mr * k;
        i += mr;
    }
}

/* The same for A stored (k, m), a few of its rows at a time: they are as far apart as rows of a
 * whole batch, and each is read once. */
static void pack_along(int64_t m, int64_t k, const float *a, int64_t lda, float *pack) {
    enum { FEW = 8 };
    for (int64_t p = 0; p < k; p += FEW) {
        const int64_t end = pf_min(p + FEW, k);
        for (int64_t i = 0; i < m;) {
            const int mr = tile_height(m - i);
            float *to = pack + i * k;
            for (int64_t q = p; q < end && mr == MR; q++)
                memcpy(to + q * MR, a + q * lda + i, MR * sizeof(float));
            for (int64_t q = p; q < end && mr != MR; q++)
                memcpy(to + q * mr, a + q * lda + i, (size_t)mr * sizeof(float));
            i += mr;
        }
    }
}

/* One strip of C, `columns` wide: all m rows of A (packed in `a` where t->large) by t->b. */
static void strip(tile *t, int64_t m, const float *a, float *c, int64_t columns) {
    t->tail = columns % VW == 0 ? VW : columns % VW;
    for (int64_t i = 0; i < m;) {
        const int mr = tile_height(m - i);
        if (t->large) t->step = mr;
        t->a = a + i * (t->large ? t->k : t->row);
        t->c = c + i * t->ldc;
        tile_run(t, mr, columns);
        i += mr;
    }
}

/* One pass over at most PF_PANEL_DEPTH of k: m rows of C. */
static void k_block(tile *t, bool ta, bool tb, int64_t m, int64_t n, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float *c, float *panel) {
    const bool copy = !tb && m >= 8 * MR && ldb >= 16 * VW;
    t->row = ta ? 1 : lda;
    t->step = ta ? lda : 1;
    t->ldb = tb || copy ? 2 * VW : ldb;
    if (t->large) {
        float *pack = panel + PF_PANELS * 2 * VW * t->k;
        if (ta)
            pack_along(m, t->k, a, lda, pack);
        else
            pack_turned(m, t->k, a, lda, pack);
        a = pack;
        t->row = 1;
    }
    for (int64_t j = 0; j < n; j += 2 * VW) {
        const int64_t columns = pf_min(2 * VW, n - j), g = j / (2 * VW) % PF_PANELS;
        t->b = b + j;
        if (tb) {
            turn_panel(columns, t->k, b + j * ldb, ldb, panel);
            t->b = panel;
        } else if (copy) {
            if (g == 0) copy_panels(pf_min(PF_PANELS * 2 * VW, n - j), t->k, b + j, ldb, panel);
            t->b = panel + g * 2 * VW * t->k;
        }
        strip(t, m, a, c + j, columns);
    }
}

/* m <= PF_PACK_ROWS rows where A is packed. */
static void rows_gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                      int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc,
                      float *panel) {
    tile t = {.ldc = ldc, .beta = beta};
    int64_t done = 0;
    do {
        t.k = pf_min(k - done, PF_PANEL_DEPTH);
        t.large = t.k >= 128 && m >= 4 * MR && n >= 16 * VW;
        k_block(&t, ta, tb, m, n, a + done * (ta ? lda : 1), lda, b + done * (tb ? 1 : ldb), ldb, c,
                panel);
        done += t.k;
        t.beta = 1;
    } while (done < k);
}

void PF_KERN(block_gemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                         int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                         int64_t ldc, float *panel) {
    for (int64_t i = 0; i < m; i += PF_PACK_ROWS)
        rows_gemm(ta, tb, pf_min(m - i, PF_PACK_ROWS), n, k, a + i * (ta ? 1 : lda), lda, b, ldb,
                  beta, c + i * ldc, ldc, panel);
}
