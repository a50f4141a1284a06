/*
 * tokenizer.c - bytes and proteins to ids and back. What must hold: decoding what was
 * encoded gives the text again (proteins in upper case, J as X, a final '*' dropped), and
 * an unknown letter is an error that names it and its place, never a silent id.
 */
#include "tokenizer.h"

#include "engine.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { LOOK = 1 << 16 }; /* bytes or ids between two looks at whether to stop */

/* 20 residues, then X any, B Asx, Z Glx, U selenocysteine, O pyrrolysine. */
static const char PROTEIN_LETTERS[] = "ACDEFGHIKLMNPQRSTVWYXBZUO";

static const pf_special PROTEIN_SPECIALS[] = {
    {"pad", 0}, {"begin", 1}, {"end", 2}, {"mask", 3}, {"unknown", 24}, /* X */
};

/* Text holds no NUL, so byte 0 is free for what is not there and for what is hidden. */
static const pf_special BYTE_SPECIALS[] = {{"pad", 0}, {"mask", 0}};

static const pf_vocab VOCABS[] = {
    {"byte", 256, NULL, 0, BYTE_SPECIALS, PF_COUNT(BYTE_SPECIALS)},
    {"protein", 29, PROTEIN_LETTERS, 4, PROTEIN_SPECIALS, PF_COUNT(PROTEIN_SPECIALS)},
};

const pf_vocab *pf_vocab_find(const char *type) {
    for (int i = 0; i < PF_COUNT(VOCABS); i++)
        if (type && strcmp(type, VOCABS[i].type) == 0) return &VOCABS[i];
    pf_fail(PF_ENOTFOUND, "tokenizer: there is no type '%s'; take \"byte\" or \"protein\"",
            type ? type : "(none)");
    return NULL;
}

int pf_vocab_special(const pf_vocab *vocab, const char *name) {
    for (int i = 0; i < vocab->n_specials; i++)
        if (strcmp(name, vocab->specials[i].name) == 0) return vocab->specials[i].id;
    return -1;
}

void pf_vocab_map(const pf_vocab *vocab, int16_t map[256]) {
    for (int c = 0; c < 256; c++) map[c] = (int16_t)(vocab->letters ? -1 : c);
    if (!vocab->letters) return;
    for (int i = 0; vocab->letters[i]; i++) {
        int upper = (unsigned char)vocab->letters[i];
        map[upper] = map[tolower(upper)] = (int16_t)(vocab->first_letter + i);
    }
    map['J'] = map['j'] = (int16_t)pf_vocab_special(vocab, "unknown");
}

void pf_byte_text(int byte, char text[16]) {
    if (byte > 32 && byte < 127)
        snprintf(text, 16, "'%c'", byte);
    else
        snprintf(text, 16, "byte 0x%02x", (unsigned)(byte & 0xff));
}

/* Bytes of "<name>" at the front of text if it names a special (*id), else 0. */
static size_t special_here(const pf_vocab *vocab, const char *text, size_t bytes, int *id) {
    for (int i = 0; i < vocab->n_specials; i++) {
        size_t length = strlen(vocab->specials[i].name);
        if (bytes < length + 2 || text[length + 1] != '>') continue;
        if (memcmp(text + 1, vocab->specials[i].name, length) != 0) continue;
        *id = vocab->specials[i].id;
        return length + 2;
    }
    return 0;
}

static int unknown_letter(const char *text, size_t at) {
    char shown[16];
    pf_byte_text((unsigned char)text[at], shown);
    const char *why = "";
    if (text[at] == '*') why = " (a stop) before the end";
    if (text[at] == '-' || text[at] == '.') why = " (a gap)";
    return pf_fail(PF_EFORMAT, "tokenizer: %s%s at position %s is no amino-acid letter", shown, why,
                   pf_place((int64_t)at));
}

/* One step of encoding: *at moves on, *id is the token, or -1 for nothing (a final stop). */
static int next_id(const pf_vocab *vocab, const int16_t map[256], const char *text, size_t bytes,
                   size_t *at, int *id) {
    unsigned char c = (unsigned char)text[*at];
    *id = map[c];
    if (*id < 0 && c == '<') {
        size_t skip = special_here(vocab, text + *at, bytes - *at, id);
        if (skip == 0) return unknown_letter(text, *at);
        *at += skip;
        return PF_OK;
    }
    if (*id < 0 && !(c == '*' && *at + 1 == bytes)) return unknown_letter(text, *at);
    *at += 1;
    return PF_OK;
}

PF_API int pf_tokenizer_size(const char *type) {
    PF_NEED(type);
    const pf_vocab *vocab = pf_vocab_find(type);
    return vocab ? vocab->size : PF_ENOTFOUND;
}

PF_API int pf_tokenizer_special(const char *type, const char *name) {
    PF_NEED(type, name);
    const pf_vocab *vocab = pf_vocab_find(type);
    if (!vocab) return PF_ENOTFOUND;
    int id = pf_vocab_special(vocab, name);
    if (id >= 0) return id;
    return pf_fail(PF_ENOTFOUND, "tokenizer: '%s' has no special token '%s'", type, name);
}

/* text (bytes) -> ids (*n on entry: room; on return: count). ids NULL: only counts. */
PF_API int pf_tokenizer_encode(const char *type, const char *text, size_t bytes, int32_t *ids,
                               size_t *n) {
    PF_NEED(type, n);
    PF_NEED_ARRAY(text, bytes);
    const pf_vocab *vocab = pf_vocab_find(type);
    if (!vocab) return PF_ENOTFOUND;
    int16_t map[256];
    pf_vocab_map(vocab, map);
    size_t count = 0, at = 0, looked = 0;
    while (at < bytes) {
        int id;
        if (at >= looked) {
            PF_TRY(pf_check_lent());
            looked = at + LOOK;
        }
        PF_TRY(next_id(vocab, map, text, bytes, &at, &id));
        if (id < 0) continue;
        if (ids && count >= *n)
            return pf_fail(PF_EINVAL, "tokenizer: room for %zu ids is too little for %zu bytes", *n,
                           bytes);
        if (ids) ids[count] = id;
        count++;
    }
    *n = count;
    return PF_OK;
}

/* The text of one id: a letter, a byte, or "<name>". Returns its length. */
static size_t id_text(const pf_vocab *vocab, int32_t id, char text[16]) {
    text[0] = (char)id;
    if (!vocab->letters) return 1;
    if (id >= vocab->first_letter) {
        text[0] = vocab->letters[id - vocab->first_letter];
        return 1;
    }
    const char *name = "";
    for (int i = vocab->n_specials - 1; i >= 0; i--)
        if (vocab->specials[i].id == id) name = vocab->specials[i].name;
    return (size_t)snprintf(text, 16, "<%s>", name);
}

/* ids (n) -> text (*bytes on entry: room; on return: length). text NULL: only counts. */
PF_API int pf_tokenizer_decode(const char *type, const int32_t *ids, size_t n, char *text,
                               size_t *bytes) {
    PF_NEED(type, bytes);
    PF_NEED_ARRAY(ids, n);
    const pf_vocab *vocab = pf_vocab_find(type);
    if (!vocab) return PF_ENOTFOUND;
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        char piece[16];
        if (i % LOOK == 0) PF_TRY(pf_check_lent());
        if (ids[i] < 0 || ids[i] >= vocab->size)
            return pf_fail(PF_EINVAL, "tokenizer: id %d at position %s is outside 0..%d of '%s'",
                           (int)ids[i], pf_place((int64_t)i), vocab->size - 1, type);
        size_t more = id_text(vocab, ids[i], piece);
        if (text && length + more > *bytes)
            return pf_fail(PF_EINVAL, "tokenizer: room for %zu bytes is too little for %zu ids",
                           *bytes, n);
        if (text) memcpy(text + length, piece, more);
        length += more;
    }
    *bytes = length;
    return PF_OK;
}
