/*
 * kern_gemm.c - products of attention's blocks, compiled once a level: matrices that lie in
 * the caches, where a BLAS call would spend its time packing and clearing.
 *
 * Every element of C is one chain of multiply-adds over k, in order, from beta C on: its
 * bits depend on its row of A, its column of B and beta, never on the shape of the call or
 * its place in it. A tile of MR rows by two vectors of columns stays in registers; B's panel
 * of two vectors stays in the first cache while all rows of A pass by. A is read one
 * element at a time, so its layout does not matter; B's panel is copied where its rows lie
 * far apart, and turned when B is transposed. Long products go in passes over k, which
 * continue the same chains.
 */
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
} tile;

/* C (mr, nv vectors) = beta C + A B. mr, nv and partial are constants where it is inlined;
 * partial: the last vector has `tail` lanes. */
PF_INLINE void tile_product(const tile *t, const int mr, const int nv, const bool partial) {
    vf sum[MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) sum[i][j] = vf_zero();
    }
    const float *b = t->b, *a = t->a;
    const int64_t row = t->row, step = t->step, ldb = t->ldb;
    for (int64_t k = 0; k < t->k; k++, a += step, b += ldb) {
        vf right[2];
        right[0] = nv == 1 && partial ? vf_load_n(b, t->tail) : vf_load(b);
        if (nv == 2) right[1] = partial ? vf_load_n(b + VW, t->tail) : vf_load(b + VW);
#pragma GCC unroll 12
        for (int i = 0; i < mr; i++) {
            const vf left = vf_set(a[i * row]);
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) sum[i][j] = vf_fma(left, right[j], sum[i][j]);
        }
    }
    const vf beta = vf_set(t->beta);
#pragma GCC unroll 12
    for (int i = 0; i < mr; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) {
            float *c = t->c + i * t->ldc + j * VW;
            const int64_t lanes = partial && j == nv - 1 ? t->tail : VW;
            if (t->beta != 0) sum[i][j] = vf_fma(beta, vf_get(c, lanes), sum[i][j]);
            vf_put(c, lanes, sum[i][j]);
        }
    }
}

/* The row counts a tile comes in; a block's rest goes through the smaller ones. */
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

/* panel (k, 2 VW) <- columns 0 .. n-1 of B (k, n; ldb). */
static void copy_panel(int64_t n, int64_t k, const float *b, int64_t ldb, float *panel) {
    if (n == 2 * VW) {
        for (int64_t p = 0; p < k; p++) {
            vf_store(panel + p * 2 * VW, vf_load(b + p * ldb));
            vf_store(panel + p * 2 * VW + VW, vf_load(b + p * ldb + VW));
        }
        return;
    }
    for (int64_t p = 0; p < k; p++) {
        for (int64_t j = 0; j < n; j++) panel[p * 2 * VW + j] = b[p * ldb + j];
    }
}

/* One pass over at most K_BLOCK of k: all of C. */
static void k_block(tile *t, bool ta, bool tb, int64_t m, int64_t n, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float *c, float *panel) {
    const bool copy = !tb && m >= 8 * MR && ldb >= 16 * VW;
    t->row = ta ? 1 : lda;
    t->step = ta ? lda : 1;
    t->ldb = tb || copy ? 2 * VW : ldb;
    for (int64_t j = 0; j < n; j += 2 * VW) {
        const int64_t columns = pf_min(2 * VW, n - j);
        if (tb) turn_panel(columns, t->k, b + j * ldb, ldb, panel);
        if (copy) copy_panel(columns, t->k, b + j, ldb, panel);
        t->b = tb || copy ? panel : b + j;
        t->tail = columns % VW == 0 ? VW : columns % VW;
        for (int64_t i = 0; i < m;) {
            const int mr = m - i >= MR ? MR : m - i >= 4 ? 4 : m - i >= 2 ? 2 : 1;
            t->a = a + i * t->row;
            t->c = c + i * t->ldc + j;
            tile_run(t, mr, columns);
            i += mr;
        }
    }
}

void PF_KERN(block_gemm)(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a,
                         int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                         int64_t ldc, float *panel) {
    tile t = {.ldc = ldc, .beta = beta};
    int64_t done = 0;
    do {
        t.k = pf_min(k - done, PF_PANEL_DEPTH);
        k_block(&t, ta, tb, m, n, a + done * (ta ? lda : 1), lda, b + done * (tb ? 1 : ldb), ldb,
                c, panel);
        done += t.k;
        t.beta = 1;
    } while (done < k);
}
