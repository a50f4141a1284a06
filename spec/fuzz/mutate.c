/* mutate.c - changes to bytes, each a function of the seed alone: what crashes does so again. */
#include <string.h>

#include "drive.h"

typedef struct {
    uint8_t *data;
    size_t size, most;
} bytes;

static uint64_t state;
static const uint8_t *other;
static size_t other_size;

void fuzz_begin(uint64_t seed) { state = seed; }

uint64_t fuzz_below(uint64_t n) {
    uint64_t z = state += 0x9e3779b97f4a7c15; /* SplitMix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return n ? (z ^ (z >> 31)) % n : 0;
}

void fuzz_other(const uint8_t *data, size_t size) { other = data, other_size = size; }

/* Puts n bytes of `from` in the place of `old` ones at `at`; `from` lies elsewhere. What follows is
 * copied twice: sanitizers move bytes one by one. */
static void put(bytes *b, size_t at, size_t old, const void *from, size_t n) {
    static uint8_t follows[FUZZ_MOST];
    size_t rest = b->size - at - old;
    if (b->size - old + n > b->most || rest > sizeof follows) return;
    if (rest && n != old) {
        memcpy(follows, b->data + at + old, rest);
        memcpy(b->data + at + n, follows, rest);
    }
    if (n) memcpy(b->data + at, from, n);
    b->size = b->size - old + n;
}

static void flip_bit(bytes *b) {
    if (b->size) b->data[fuzz_below(b->size)] ^= (uint8_t)(1u << fuzz_below(8));
}

static void set_byte(bytes *b) {
    static const uint8_t usual[] = {0, 1, 0x7f, 0x80, 0xff, '\n', ' ', '"', '0', '9', '>', '{'};
    uint8_t to = fuzz_below(2) ? usual[fuzz_below(sizeof usual)] : (uint8_t)fuzz_below(256);
    if (b->size) b->data[fuzz_below(b->size)] = to;
}

/* Sizes and offsets at the ends of their types, of 1 to 8 bytes. */
static void set_integer(bytes *b) {
    static const uint64_t usual[] = {0,           1,          2,           7,
                                     8,           16,         255,         256,
                                     4096,        65535,      65536,       0x7fffffff,
                                     0x80000000,  0xffffffff, 0x100000000, INT64_MAX,
                                     UINT64_MAX,  1ull << 63, 1ull << 52,  UINT64_MAX - 7,
                                     (uint64_t)-2};
    size_t width = (size_t)1 << fuzz_below(4);
    uint64_t value = usual[fuzz_below(sizeof usual / sizeof *usual)];
    if (b->size >= width) memcpy(b->data + fuzz_below(b->size - width + 1), &value, width);
}

/* The number in digits that stands somewhere, by another. */
static void set_digits(bytes *b) {
    static const char *const usual[] = {
        "0",      "-1",   "1",     "1e999", "4294967296",       "2147483648",
        "1e-400", "-0.0", "65537", "0.5",   "9007199254740993", "18446744073709551615"};
    const char *text = usual[fuzz_below(sizeof usual / sizeof *usual)];
    size_t at = b->size ? fuzz_below(b->size) : 0, end;
    while (at < b->size && (b->data[at] < '0' || b->data[at] > '9')) at++;
    for (end = at; end < b->size && b->data[end] >= '0' && b->data[end] <= '9';) end++;
    if (end > at) put(b, at, end - at, text, strlen(text));
}

static void insert_bytes(bytes *b) {
    uint8_t made[16], one = (uint8_t)fuzz_below(256);
    size_t n = 1 + fuzz_below(sizeof made);
    for (size_t i = 0; i < n; i++) made[i] = fuzz_below(4) ? one : (uint8_t)fuzz_below(256);
    put(b, fuzz_below(b->size + 1), 0, made, n);
}

static void erase(bytes *b) {
    size_t at = fuzz_below(b->size), most = b->size - at;
    if (b->size) put(b, at, 1 + fuzz_below(fuzz_below(4) && most > 16 ? 16 : most), NULL, 0);
}

static void duplicate(bytes *b) {
    uint8_t kept[256];
    size_t at = fuzz_below(b->size), n = 1 + fuzz_below(sizeof kept);
    if (n > b->size - at) n = b->size - at;
    memcpy(kept, b->data + at, n);
    put(b, fuzz_below(2) ? at : fuzz_below(b->size + 1), 0, kept, n);
}

static void splice(bytes *b) {
    size_t from = fuzz_below(other_size), n = 1 + fuzz_below(other_size - from);
    size_t at = fuzz_below(b->size + 1), old = fuzz_below(b->size - at + 1);
    if (other_size && other != b->data) put(b, at, fuzz_below(2) ? old : 0, other + from, n);
}

static void word(bytes *b) {
    size_t n = 0;
    while (fuzz_words && fuzz_words[n]) n++;
    if (n == 0) return;
    const char *text = fuzz_words[fuzz_below(n)];
    size_t at = fuzz_below(b->size + 1), length = strlen(text);
    size_t over = fuzz_below(2) && length <= b->size - at ? length : 0;
    put(b, at, over, text, length);
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    static void (*const ways[])(bytes *) = {
        flip_bit, set_byte, set_integer, set_digits, insert_bytes, erase, duplicate, splice, word};
    bytes b = {data, size, max_size};
    for (uint64_t n = 1 + fuzz_below(fuzz_below(4) ? 3 : 12); n > 0; n--)
        ways[fuzz_below(sizeof ways / sizeof *ways)](&b);
    return b.size;
}
