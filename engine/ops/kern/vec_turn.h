/* vec_turn.h - the transpose of 8 x 8 floats, in AVX: the verb vt_turn of both x86 levels. */
#ifndef PF_VEC_TURN_H
#define PF_VEC_TURN_H

#include <immintrin.h>

/* The transpose of an 8 x 8 block: to[i * ldt + j] = from[j * ldf + i]. */
enum { VT = 8 };
PF_INLINE void vt_turn(const float *from, int64_t ldf, float *to, int64_t ldt) {
    __m256 r[8], s[8];
    for (int i = 0; i < 4; i++) { /* rows i and i + 4 side by side, four columns at a time */
        r[i] = _mm256_set_m128(_mm_loadu_ps(from + (i + 4) * ldf), _mm_loadu_ps(from + i * ldf));
        r[i + 4] = _mm256_set_m128(_mm_loadu_ps(from + (i + 4) * ldf + 4),
                                   _mm_loadu_ps(from + i * ldf + 4));
    }
    for (int h = 0; h < 8; h += 4) {
        s[h] = _mm256_unpacklo_ps(r[h], r[h + 1]);
        s[h + 1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
        s[h + 2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
        s[h + 3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
        _mm256_storeu_ps(to + (h + 0) * ldt, _mm256_shuffle_ps(s[h], s[h + 2], 0x44));
        _mm256_storeu_ps(to + (h + 1) * ldt, _mm256_shuffle_ps(s[h], s[h + 2], 0xEE));
        _mm256_storeu_ps(to + (h + 2) * ldt, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0x44));
        _mm256_storeu_ps(to + (h + 3) * ldt, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0xEE));
    }
}

#endif
