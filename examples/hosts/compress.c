/*
 * compress.c - a lossless compressor whose model of the data is a language model: a range coder
 * spends on every byte what the model, having read what came before, finds it worth.
 *
 *   compress MODEL < book.txt > book.pfz        compress -d MODEL < book.pfz > book.txt
 *
 * MODEL is a run folder of bytes (performer train --data ... --format text). The file is cut into
 * lanes, which are a batch of one stream: a step of the model codes a byte of each. What comes out
 * of -d is what went in, to the byte, or an error: the file says which weights it was made with and
 * holds a checksum. Both ends need the same logits to the bit, which one build on one kind of
 * processor gives, for any number of threads.
 */
#include <math.h>
#include <performer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES = 256, MAX_LANES = 32, LANE = 16384, FIRST = '\n' };
enum { TOTAL = 1 << 20 }; /* what frequencies add up to */
/* A model knows best what it was trained on, rows of some hundreds: a stream that has read so many
 * bytes begins anew, with the last ones for context. */
enum { WINDOW = 512, CONTEXT = 256 };

/* ---- bytes -------------------------------------------------------------------- */

typedef struct {
    uint8_t *data;
    size_t n, capacity, at; /* at: read so far */
} buffer;

static bool put(buffer *b, uint8_t byte) {
    if (b->n == b->capacity) {
        size_t capacity = b->capacity ? 2 * b->capacity : 1 << 16;
        uint8_t *data = realloc(b->data, capacity);
        if (!data) return false;
        b->data = data, b->capacity = capacity;
    }
    b->data[b->n++] = byte;
    return true;
}

static bool put_number(buffer *b, uint64_t number) {
    bool ok = true;
    for (int i = 0; i < 8; i++) ok = ok && put(b, (uint8_t)(number >> 8 * i));
    return ok;
}

/* Beyond the end there are zeros: a coder reads a few bytes more than were written. */
static uint8_t take(buffer *b) { return b->at < b->n ? b->data[b->at++] : 0; }

static uint64_t take_number(buffer *b) {
    uint64_t number = 0;
    for (int i = 0; i < 8; i++) number |= (uint64_t)take(b) << 8 * i;
    return number;
}

static bool read_all(buffer *b, FILE *in) {
    for (int c; (c = getc(in)) != EOF;) {
        if (!put(b, (uint8_t)c)) return false;
    }
    return !ferror(in);
}

/* FNV-1a, going on from `hash`. */
static uint64_t checksum(uint64_t hash, const void *data, size_t n) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}
#define FNV_BEGIN 0xcbf29ce484222325u

/* ---- range coder --------------------------------------------------------------
 * Subbotin's carryless one on 64 bits: [low, low + range) shrinks to a symbol's share of it, and
 * bytes go out at the top as soon as they are settled, or the range is about to run out. */

#define TOP    ((uint64_t)1 << 56)
#define BOTTOM ((uint64_t)1 << 48)

typedef struct {
    uint64_t low, range, code;
    buffer bytes;
} coder;

/* The next byte that is settled leaves; true while there may be more. */
static bool settled(coder *c) {
    if ((c->low ^ (c->low + c->range)) < TOP) return true;
    if (c->range >= BOTTOM) return false;
    c->range = -c->low & (BOTTOM - 1);
    return true;
}

static void narrow(coder *c, uint32_t from, uint32_t width) {
    c->range /= TOTAL;
    c->low += from * c->range;
    c->range *= width;
}

static bool encode(coder *c, uint32_t from, uint32_t width) {
    narrow(c, from, width);
    for (; settled(c); c->low <<= 8, c->range <<= 8) {
        if (!put(&c->bytes, (uint8_t)(c->low >> 56))) return false;
    }
    return true;
}

static bool encode_end(coder *c) {
    bool ok = true;
    for (int i = 0; i < 8; i++, c->low <<= 8) ok = ok && put(&c->bytes, (uint8_t)(c->low >> 56));
    return ok;
}

static void decode_begin(coder *c) {
    for (int i = 0; i < 8; i++) c->code = c->code << 8 | take(&c->bytes);
}

/* Which of the symbols lies there, by their cumulative frequencies. */
static int decode(coder *c, const uint32_t *from) {
    uint64_t place = (c->code - c->low) / (c->range / TOTAL);
    int symbol = 0;
    while (symbol < BYTES - 1 && from[symbol + 1] <= place) symbol++;
    narrow(c, from[symbol], from[symbol + 1] - from[symbol]);
    for (; settled(c); c->low <<= 8, c->range <<= 8) c->code = c->code << 8 | take(&c->bytes);
    return symbol;
}

/* What the logits of a vocabulary of bytes give each byte, from[b] .. from[b + 1]: at least 1, so
 * that whatever comes can be told. */
static void shares(const float *logits, uint32_t from[BYTES + 1]) {
    double weight[BYTES], top = logits[0], sum = 0;
    int likeliest = 0;
    for (int b = 1; b < BYTES; b++) {
        if (logits[b] > top) top = logits[b], likeliest = b;
    }
    for (int b = 0; b < BYTES; b++) sum += weight[b] = exp(logits[b] - top);
    uint32_t width[BYTES], given = 0;
    for (int b = 0; b < BYTES; b++) {
        width[b] = 1 + (uint32_t)(weight[b] / sum * (TOTAL - BYTES));
        given += width[b];
    }
    width[likeliest] += TOTAL - given;
    from[0] = 0;
    for (int b = 0; b < BYTES; b++) from[b + 1] = from[b] + width[b];
}

/* ---- lanes --------------------------------------------------------------------
 * Lane l has the bytes l * length .. of the text; the last ones may end before the others, and are
 * fed whatever is at hand from there on. */

typedef struct {
    pf_engine *engine;
    pf_module *model;
    pf_stream *stream;
    buffer text; /* what is coded, or comes back */
    size_t length;
    int n;
    coder lane[MAX_LANES];
} lanes;

/* Feeds ids, the bytes before place `at` of each lane. */
static int feed(lanes *all, size_t at, const int32_t *ids) {
    int32_t context[MAX_LANES * CONTEXT];
    if (pf_stream_position(all->stream) < WINDOW) return pf_stream_feed(all->stream, ids, 1);
    for (int l = 0; l < all->n; l++) {
        for (size_t i = 0; i < CONTEXT; i++) {
            const size_t place = (size_t)l * all->length + at - CONTEXT + i;
            context[(size_t)l * CONTEXT + i] = place < all->text.n ? all->text.data[place] : FIRST;
        }
    }
    pf_stream_close(&all->stream);
    int status = pf_stream_open_batch(&all->stream, all->engine, all->model, all->n);
    return status < 0 ? status : pf_stream_feed(all->stream, context, CONTEXT);
}

static int step(lanes *all, bool decoding, size_t at, int32_t *ids) {
    int64_t vocab = 0;
    int status = feed(all, at, ids);
    if (status < 0) return status;
    const float *logits = pf_stream_logits(all->stream, &vocab);
    for (int l = 0; l < all->n; l++) {
        uint32_t from[BYTES + 1];
        const size_t place = (size_t)l * all->length + at;
        if (place >= all->text.n) continue;
        shares(logits + l * vocab, from);
        if (decoding) all->text.data[place] = (uint8_t)decode(&all->lane[l], from);
        ids[l] = all->text.data[place];
        if (!decoding && !encode(&all->lane[l], from[ids[l]], from[ids[l] + 1] - from[ids[l]])) {
            return pf_set_error(PF_ENOMEM, "no room for the result");
        }
    }
    return PF_OK;
}

static int run(lanes *all, bool decoding) {
    int32_t ids[MAX_LANES];
    int64_t vocab = 0;
    int status = pf_stream_open_batch(&all->stream, all->engine, all->model, all->n);
    if (status >= 0 && (pf_stream_logits(all->stream, &vocab), vocab < BYTES)) {
        status = pf_set_error(PF_EINVAL, "the model knows no bytes: train it on text");
    }
    for (int l = 0; l < all->n; l++) {
        ids[l] = FIRST;
        all->lane[l].range = UINT64_MAX;
        if (decoding) decode_begin(&all->lane[l]);
    }
    for (size_t at = 0; status >= 0 && at < all->length; at++) {
        status = step(all, decoding, at, ids);
    }
    pf_stream_close(&all->stream);
    return status;
}

/* ---- the file -----------------------------------------------------------------
 * "PFZ1" and, as numbers of 8 bytes, the weights' checksum, the text's, its length, how many
 * lanes, and the length of each; then the lanes. Without lanes the text follows as it is, where
 * coding would make it longer. */

static const char magic[4] = {'P', 'F', 'Z', '1'};

static uint64_t weights_of(pf_module *model) {
    uint64_t hash = FNV_BEGIN;
    for (int i = 0, n = pf_module_tensor_count(model); i < n; i++) {
        pf_tensor *tensor = NULL;
        if (pf_module_tensor_at(model, i, NULL, &tensor, NULL) < 0) return 0;
        const void *data = pf_tensor_data(tensor);
        const size_t bytes =
            (size_t)pf_tensor_numel(tensor) * pf_dtype_size(pf_tensor_dtype(tensor));
        if (data) hash = checksum(hash, data, bytes);
    }
    return hash;
}

static void cut(lanes *all) {
    const size_t wanted = (all->text.n + LANE - 1) / LANE;
    all->n = wanted < 1 ? 1 : wanted > MAX_LANES ? MAX_LANES : (int)wanted;
    all->length = (all->text.n + (size_t)all->n - 1) / (size_t)all->n;
}

/* What no model knows anything of is not coded. */
static bool is_longer(const lanes *all) {
    size_t coded = 0;
    for (int l = 0; l < all->n; l++) coded += 8 + all->lane[l].bytes.n;
    return coded > all->text.n;
}

static int compress(lanes *all) {
    buffer out = {0};
    if (!read_all(&all->text, stdin)) return pf_set_error(PF_EIO, "can't read the input");
    cut(all);
    int status = run(all, false);
    if (status < 0) return status;
    bool ok = true;
    for (int l = 0; l < all->n; l++) ok = ok && encode_end(&all->lane[l]);
    const int kept = is_longer(all) ? 0 : all->n;
    for (size_t i = 0; i < sizeof magic; i++) ok = ok && put(&out, (uint8_t)magic[i]);
    ok = ok && put_number(&out, weights_of(all->model)) &&
         put_number(&out, checksum(FNV_BEGIN, all->text.data, all->text.n)) &&
         put_number(&out, all->text.n) && put_number(&out, (uint64_t)kept);
    for (int l = 0; l < kept; l++) ok = ok && put_number(&out, all->lane[l].bytes.n);
    ok = ok && fwrite(out.data, 1, out.n, stdout) == out.n;
    if (kept == 0 && all->text.n > 0)
        ok = ok && fwrite(all->text.data, 1, all->text.n, stdout) == all->text.n;
    for (int l = 0; l < kept; l++) {
        const buffer *bytes = &all->lane[l].bytes;
        ok = ok && fwrite(bytes->data, 1, bytes->n, stdout) == bytes->n;
    }
    free(out.data);
    return ok && fflush(stdout) == 0 ? PF_OK : pf_set_error(PF_EIO, "can't write the result");
}

/* The head's numbers, and each lane's bytes, with every length held against what is there. */
static int read_file(lanes *all, uint64_t *sum, buffer *in) {
    if (!read_all(in, stdin)) return pf_set_error(PF_EIO, "can't read the input");
    if (in->n < 36 || memcmp(in->data, magic, sizeof magic) != 0) {
        return pf_set_error(PF_EFORMAT, "this is no file of this program");
    }
    in->at = sizeof magic;
    if (take_number(in) != weights_of(all->model)) {
        return pf_set_error(PF_EFORMAT, "the file was made with other weights than this model's");
    }
    *sum = take_number(in);
    const uint64_t n = take_number(in), wanted = take_number(in);
    /* A byte that is certain leaves 255 parts of 2^20 to the others: 22,800 of them cost a byte. */
    if (n > (uint64_t)in->n << 15) return pf_set_error(PF_EFORMAT, "the file is damaged");
    all->text.data = calloc(n ? n : 1, 1);
    if (!all->text.data) return pf_set_error(PF_ENOMEM, "no room for the result");
    all->text.n = n;
    if (wanted == 0) {
        if (n != in->n - in->at) return pf_set_error(PF_EFORMAT, "the file is cut short");
        memcpy(all->text.data, in->data + in->at, n);
        return PF_OK;
    }
    cut(all);
    if (wanted != (uint64_t)all->n) return pf_set_error(PF_EFORMAT, "the file is damaged");
    uint64_t length[MAX_LANES];
    for (int l = 0; l < all->n; l++) length[l] = take_number(in);
    for (int l = 0; l < all->n; l++) {
        if (length[l] > in->n - in->at) return pf_set_error(PF_EFORMAT, "the file is cut short");
        all->lane[l].bytes = (buffer){.data = in->data + in->at, .n = length[l]};
        in->at += length[l];
    }
    return PF_OK;
}

static int restore(lanes *all) {
    uint64_t sum = 0;
    buffer in = {0};
    int status = read_file(all, &sum, &in);
    if (status >= 0 && all->n > 0) status = run(all, true);
    for (int l = 0; l < MAX_LANES; l++) all->lane[l].bytes = (buffer){0}; /* they lie in `in` */
    free(in.data);
    if (status < 0) return status;
    if (checksum(FNV_BEGIN, all->text.data, all->text.n) != sum) {
        return pf_set_error(PF_EFORMAT, "the file is damaged, or this machine's logits are others "
                                        "than those that it was made with");
    }
    const bool ok = fwrite(all->text.data, 1, all->text.n, stdout) == all->text.n;
    return ok && fflush(stdout) == 0 ? PF_OK : pf_set_error(PF_EIO, "can't write the result");
}

int main(int argc, char **argv) {
    const bool decoding = argc > 1 && strcmp(argv[1], "-d") == 0;
    if (argc != 2 + decoding) {
        fprintf(stderr, "usage: compress [-d] MODEL < IN > OUT\n");
        return 2;
    }
    static lanes all; /* zeros */
    int status = pf_engine_open(&all.engine, NULL);
    if (status >= 0) status = pf_model_load(&all.model, all.engine, argv[1 + decoding]);
    if (status >= 0) status = decoding ? restore(&all) : compress(&all);
    if (status < 0) fprintf(stderr, "compress: %s: %s\n", pf_status_name(status), pf_last_error());
    for (int l = 0; l < MAX_LANES; l++) free(all.lane[l].bytes.data);
    free(all.text.data);
    pf_module_release(&all.model);
    pf_engine_close(&all.engine);
    return status < 0;
}
