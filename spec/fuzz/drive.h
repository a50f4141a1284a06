/*
 * drive.h - what a fuzz target is, to libFuzzer and to drive.c, which takes its place where there
 * is no clang.
 */
#ifndef PF_FUZZ_DRIVE_H
#define PF_FUZZ_DRIVE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of an input. Most faults show in small ones, and thousands of those take no time. */
enum { FUZZ_MOST = 1 << 14 };

/* ---- of each target ---- */

/* One input; a fault of the engine's ends the process. 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* How many inputs the engine took as good ones: drive.c holds that there are some, and goes on
 * from them. */
extern long fuzz_good;

/* ---- of those that have them ---- */

/* Changes an input in place; its new size. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
    __attribute__((weak));
/* Inputs to begin with that are made, beside the files in seeds/NAME. */
void fuzz_seeds(void (*give)(const uint8_t *data, size_t size)) __attribute__((weak));
/* Words of the format, up to a NULL. */
extern const char *const fuzz_words[] __attribute__((weak));

/* ---- for them ---- */

/* Changes bytes without knowing what they are: libFuzzer's, or mutate.c's. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* ---- mutate.c ---- */

void fuzz_begin(uint64_t seed);
uint64_t fuzz_below(uint64_t n); /* 0 .. n - 1 */
/* What splices are taken from. */
void fuzz_other(const uint8_t *data, size_t size);

#endif
