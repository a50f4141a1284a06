/*
 * batch.c - turns rows of a plan into tensors. What must hold: a training row's place in a pass,
 * its shift and its masks depend on (seed, pass, row) alone, never on the batch size; a target
 * never crosses documents. So ranks that share a batch ask for their rows by number, and nothing
 * here knows of ranks: lane l of G of batch i is batch i G + l of rows / G.
 */
#include <string.h>

#include "shards.h"
#include "tensor.h"

/* BERT's shares of the positions that are chosen. */
#define CHOSEN    0.15
#define AS_MASK   0.8
#define AS_RANDOM 0.9 /* the rest, 0.1, stays */

/* One row of a batch, and where its four runs of `length` numbers go. */
typedef struct {
    int64_t row;   /* of the plan */
    int64_t shift; /* text, training */
    int64_t pass;
    bool stream; /* documents have numbers that hold for all rows of a pass */
    int32_t *input, *target, *documents, *mask;
} batch_row;

/* ---- which rows ---- */

/* Place `at` in the endless stream of training rows. */
static int train_row(pf_data *data, const pf_engine *engine, uint64_t seed, int64_t at,
                     batch_row *row) {
    const pf_plan *plan = &data->plans[PF_TRAIN];
    row->pass = at / plan->n_rows;
    PF_TRY(pf_data_order(&row->row, data, engine, seed, row->pass, at % plan->n_rows));
    pf_rng rng = pf_rng_make(seed, PF_DRAW_DATA, (uint64_t)row->pass, 1);
    row->shift = (int64_t)pf_rng_below(&rng, 0, (uint64_t)plan->slack + 1);
    return PF_OK;
}

/* ---- filling ---- */

/* Writes piece number `number` of the row at position `at`; returns its targets. */
static int64_t fill_piece(const pf_data *data, const pf_piece *piece, const batch_row *row,
                          int64_t at, int64_t number) {
    const pf_document *document = &data->documents[piece->document];
    int64_t size = pf_document_size(data, document), start = piece->start;
    int64_t targets = 0;
    for (int64_t i = 0; i < piece->count; i++) {
        int64_t next = start + i + 1;
        row->input[at + i] = pf_data_token(data, document, start + i);
        row->target[at + i] = next < size ? pf_data_token(data, document, next) : -1;
        row->documents[at + i] = (int32_t)number;
        row->mask[at + i] = 1;
        targets += next < size;
    }
    return targets;
}

/* What lies behind the last piece is not there: a document of its own, masked. */
static void fill_pad(const pf_data *data, const batch_row *row, int64_t at, int64_t number) {
    for (; at < data->length; at++) {
        row->input[at] = data->pad;
        row->target[at] = -1;
        row->documents[at] = (int32_t)number;
        row->mask[at] = 0;
    }
}

/* A piece of text and its target, where they lie in shards. */
static int hold_piece(pf_data *data, const pf_piece *piece) {
    if (!data->shards) return PF_OK;
    const pf_document *document = &data->documents[piece->document];
    int64_t n = pf_min(piece->count + 1, document->n - piece->start);
    return pf_shards_hold(data, document->first + piece->start, n);
}

/* Does the first piece of a row go on where the row before it ended? (Where the row before lies in
 * another stream, it goes on from nothing, whatever its number.) */
static bool goes_on(const pf_data *data, pf_split split, const batch_row *row,
                    const pf_piece *piece) {
    pf_piece last = {.document = -1}, next;
    int64_t at = 0;
    for (int64_t n = 0; row->row > 0 && pf_plan_piece(data, &data->plans[split], row->row - 1,
                                                      row->shift, n, at, &next);
         n++) {
        last = next, at += next.count;
    }
    return last.document == piece->document && last.start + last.count == piece->start;
}

/* In a stream a document has one number in all rows of a pass, but for a piece that stands apart
 * from the one before it. */
static int64_t number_of(const pf_data *data, pf_split split, const batch_row *row, int64_t n,
                         const pf_piece *piece) {
    if (!row->stream) return n;
    bool apart = piece->start > 0 && data->fasta && (n > 0 || !goes_on(data, split, row, piece));
    int64_t number = (2 * row->pass + apart) * data->n_documents + piece->document;
    return number & INT32_MAX;
}

/* Fills a row of `split`: its targets, or a status. */
static int64_t fill_row(pf_data *data, pf_split split, const batch_row *row) {
    pf_data *from = data;
    pf_piece piece;
    int64_t n = 0, at = 0, targets = 0, number = row->row;
    if (data->shards && data->fasta) PF_TRY(pf_shards_row(&from, &number, data, split, row->row));
    for (; pf_plan_piece(from, &from->plans[split], number, row->shift, n, at, &piece); n++) {
        PF_TRY(hold_piece(from, &piece));
        targets += fill_piece(from, &piece, row, at, number_of(data, split, row, n, &piece));
        at += piece.count;
    }
    fill_pad(data, row, at, row->stream ? -1 : n);
    return targets;
}

/* ---- masking ---- */

static bool maskable(const pf_data *data, const batch_row *row, int64_t i) {
    return row->mask[i] && row->input[i] >= data->vocab->first_letter;
}

/* A random residue of the twenty, or a random byte other than the mask. */
static int32_t random_token(const pf_data *data, const pf_rng *rng, uint64_t index) {
    if (!data->vocab->letters) return 1 + (int32_t)pf_rng_below(rng, index, 255);
    return data->vocab->first_letter + (int32_t)pf_rng_below(rng, index, 20);
}

/* Hides position i: the target is what stood there. */
static void hide(const pf_data *data, const batch_row *row, const pf_rng *rng, int64_t i) {
    uint64_t draw = (uint64_t)i * 3;
    double how = pf_rng_uniform(rng, draw + 1);
    row->target[i] = row->input[i];
    if (how < AS_MASK)
        row->input[i] = pf_vocab_special(data->vocab, "mask");
    else if (how < AS_RANDOM)
        row->input[i] = random_token(data, rng, draw + 2);
}

/* Replaces next-token targets by BERT's. A row whose draws choose nothing hides one
 * position all the same, so that no row is without a target. */
static int64_t mask_row(const pf_data *data, const batch_row *row, pf_split split, uint64_t seed) {
    uint64_t pass = (uint64_t)row->pass | (uint64_t)split << 62;
    pf_rng rng = pf_rng_make(seed, PF_DRAW_MASK, pass, (uint64_t)row->row);
    int64_t targets = 0, can = 0, spare = -1;
    for (int64_t i = 0; i < data->length; i++) {
        row->target[i] = -1;
        if (!maskable(data, row, i)) continue;
        if (pf_rng_below(&rng, (uint64_t)i * 3 + 2, (uint64_t)++can) == 0) spare = i;
        if (pf_rng_uniform(&rng, (uint64_t)i * 3) >= CHOSEN) continue;
        hide(data, row, &rng, i);
        targets++;
    }
    if (targets > 0 || spare < 0) return targets;
    hide(data, row, &rng, spare);
    return 1;
}

/* ---- the calls ---- */

static int too_small(const pf_data *data) {
    const pf_plan *train = &data->plans[PF_TRAIN], *valid = &data->plans[PF_VALID];
    if (data->fasta && data->n_documents < 2 && !data->apart)
        return pf_fail(PF_EFORMAT,
                       "%s: one distinct sequence is too little to train on: at least 2 are "
                       "needed, one to train and one to validate",
                       pf_data_path(data));
    if (train->targets < data->min_tokens)
        return pf_fail(PF_EFORMAT,
                       "%s: too small to train on: its training part has %lld tokens to predict, "
                       "at least %lld are needed (option min_tokens)",
                       pf_data_path(data), (long long)train->targets, (long long)data->min_tokens);
    if (valid->targets < 1 && data->apart)
        return pf_fail(PF_EFORMAT, "%s: the files of its validation part have no token to predict",
                       pf_data_path(data));
    if (valid->targets < 1)
        return pf_fail(PF_EFORMAT,
                       "%s: too small to train on: its validation part (the share %g) has no token "
                       "to predict; give more data or a larger valid_fraction",
                       pf_data_path(data), data->valid_fraction);
    return PF_OK;
}

/* Names the file, and the place in it. */
static int holds_nul(const pf_data *data) {
    const pf_document *d = data->documents;
    while (d->split != PF_ALL || d->first + d->n <= data->first_nul) d++;
    return pf_fail(PF_EINVAL,
                   "%s: byte 0 stands for the mask, and the text holds one at offset %lld: "
                   "train without masks (causal)",
                   data->files > 1 ? data->names + d->name : pf_data_path(data),
                   (long long)(data->first_nul - d->first));
}

static int check_batch(const pf_data *data, pf_split split, uint64_t index, int64_t rows,
                       bool masked) {
    PF_TRY(pf_data_check_split(data, split));
    if (rows < 1 || rows > 1 << 24)
        return pf_fail(PF_EINVAL, "data: a batch of %lld rows; from 1 to %d are possible",
                       (long long)rows, 1 << 24);
    if (index >= (uint64_t)(INT64_MAX / rows))
        return pf_fail(PF_EINVAL, "data: batches of %lld rows: the index is too large",
                       (long long)rows);
    if (data->plans[split].targets > 0 && data->plans[split].n_rows == 0)
        return pf_fail(PF_ESTATE, "data: there was no memory to lay its rows; lay them again");
    if (masked && data->first_nul >= 0) return holds_nul(data);
    if (split != PF_ALL) return too_small(data);
    if (data->plans[PF_ALL].targets < 1)
        return pf_fail(PF_EFORMAT, "%s: has no token to predict: 2 are needed", pf_data_path(data));
    return PF_OK;
}

enum { TENSORS = 4 };

static void tensors_of(pf_batch *batch, pf_tensor ***to) {
    to[0] = &batch->input, to[1] = &batch->target, to[2] = &batch->documents, to[3] = &batch->mask;
}

static int make_batch(pf_batch *batch, const pf_data *data, int64_t rows) {
    int64_t shape[2] = {rows, data->length};
    pf_tensor **tensor[TENSORS];
    tensors_of(batch, tensor);
    for (int i = 0; i < TENSORS; i++)
        PF_TRY(pf_tensor_make_lasting(tensor[i], data->heap, PF_I32, 2, shape));
    return PF_OK;
}

/* How many positions the longest row has, in steps of a sixteenth of `length`, so that batches are
 * of few shapes. */
static int64_t longest_row(const pf_batch *batch, int64_t length) {
    int64_t longest = 1, step = pf_round_up(pf_ceil_div(length, 16), 16);
    for (int64_t i = 0; i < batch->input->shape[0]; i++) {
        const int32_t *mask = pf_i32(batch->mask) + i * length;
        int64_t used = length;
        while (used > longest && !mask[used - 1]) used--;
        longest = used;
    }
    return pf_min(pf_round_up(longest, step), length);
}

/* Of the rows from `first` on those that the batch has, without the positions behind the longest
 * row of all. */
static int cut_batch(pf_batch *batch, const pf_data *data, int64_t first) {
    int64_t length = data->length;
    int64_t shape[2] = {pf_max(batch->rows, 1), longest_row(batch, length)};
    if (shape[1] == length && shape[0] == batch->input->shape[0]) return PF_OK;
    pf_tensor **tensor[TENSORS];
    tensors_of(batch, tensor);
    for (int i = 0; i < TENSORS; i++) {
        pf_tensor *cut = NULL;
        PF_TRY(pf_tensor_make_lasting(&cut, data->heap, PF_I32, 2, shape));
        for (int64_t r = 0; r < shape[0]; r++)
            memcpy(pf_i32(cut) + r * shape[1], pf_i32(*tensor[i]) + (first + r) * length,
                   (size_t)shape[1] * sizeof(int32_t));
        pf_tensor_release(tensor[i]);
        *tensor[i] = cut;
    }
    return PF_OK;
}

/* Four numbers a position. */
static int charge_row(const pf_data *data, const pf_engine *engine) {
    return pf_charge(engine, pf_work_of(4 * (double)data->length, 0));
}

/* Fills row i of the batch with row `at` of the split; behind the end: nothing there. */
static int batch_fill(pf_batch *batch, pf_data *data, const pf_engine *engine, pf_split split,
                      int64_t at, int64_t i, bool masked, uint64_t seed) {
    const pf_plan *plan = &data->plans[split];
    int64_t offset = i * data->length;
    batch_row row = {.row = at,
                     .input = pf_i32(batch->input) + offset,
                     .target = pf_i32(batch->target) + offset,
                     .documents = pf_i32(batch->documents) + offset,
                     .mask = pf_i32(batch->mask) + offset};
    PF_TRY(charge_row(data, engine));
    if (split == PF_TRAIN) PF_TRY(train_row(data, engine, seed, at, &row));
    if (row.row >= plan->n_rows) {
        fill_pad(data, &row, 0, 0);
        return PF_OK;
    }
    int64_t targets = fill_row(data, split, &row);
    if (targets < 0) return (int)targets;
    batch->tokens += masked ? mask_row(data, &row, split, seed) : targets;
    batch->rows++;
    return PF_OK;
}

/* A host's struct that is too short for the tensors would lose them. */
static int give_batch(pf_batch *batch, const pf_batch *own) {
    if (batch->size >= sizeof *own) return pf_result_give(batch, own, sizeof *own, "data");
    return pf_fail(PF_EINVAL, "data: the batch's size is %zu, must be sizeof its struct",
                   batch->size);
}

PF_API int pf_data_batch(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                         uint64_t index, int64_t rows, bool masked, uint64_t seed) {
    PF_OPEN(engine);
    PF_NEED(batch, data);
    pf_batch own = {.size = sizeof own};
    PF_TRY(give_batch(batch, &own));
    PF_TRY(check_batch(data, split, index, rows, masked));
    int64_t first = (int64_t)index * rows, all = data->plans[split].n_rows;
    if (split != PF_TRAIN && first >= all)
        return pf_fail(PF_EINVAL,
                       "data: batch %s of %lld rows is behind the end: the split has "
                       "%lld rows",
                       pf_place((int64_t)index), (long long)rows, (long long)all);
    int status = make_batch(&own, data, rows);
    for (int64_t i = 0; i < rows && status >= 0; i++)
        status = batch_fill(&own, data, engine, split, first + i, i, masked, seed);
    if (status >= 0) status = cut_batch(&own, data, 0); /* rows behind the end go, too */
    if (status < 0) pf_batch_release(&own);
    return status < 0 ? status : give_batch(batch, &own);
}

/* ---- streams ---- */

/* Rows of a stream: training leaves out what would fill no batch, others have all rows. */
static int64_t stream_rows(const pf_data *data, pf_split split, int64_t streams) {
    int64_t rows = data->plans[split].n_rows;
    return pf_max(1, split == PF_TRAIN ? rows / streams : pf_ceil_div(rows, streams));
}

/* Row `place` of stream b; behind a stream's end: nothing there. How many targets it has. */
static int64_t fill_stream(pf_batch *batch, pf_data *data, const pf_engine *engine, pf_split split,
                           uint64_t seed, int64_t pass, int64_t place, int64_t b) {
    const pf_plan *plan = &data->plans[split];
    int64_t offset = b * data->length;
    pf_rng rng = pf_rng_make(seed, PF_DRAW_DATA, (uint64_t)pass, 1);
    batch_row row = {.row = b * stream_rows(data, split, batch->input->shape[0]) + place,
                     .pass = pass,
                     .stream = true,
                     .input = pf_i32(batch->input) + offset,
                     .target = pf_i32(batch->target) + offset,
                     .documents = pf_i32(batch->documents) + offset,
                     .mask = pf_i32(batch->mask) + offset};
    PF_TRY(charge_row(data, engine));
    if (split == PF_TRAIN) row.shift = (int64_t)pf_rng_below(&rng, 0, (uint64_t)plan->slack + 1);
    if (row.row >= plan->n_rows) {
        fill_pad(data, &row, 0, -1);
        return 0;
    }
    return fill_row(data, split, &row);
}

static int check_stream(const pf_data *data, pf_split split, uint64_t index, int64_t rows,
                        int64_t first, int64_t n) {
    PF_TRY(check_batch(data, split, index, rows, false));
    if (first < 0 || n < 1 || first > rows - n)
        return pf_fail(PF_EINVAL, "data: rows %s to %lld of a batch of %lld", pf_place(first),
                       (long long)(first + n), (long long)rows);
    if (data->shards && data->fasta)
        return pf_fail(PF_EINVAL, "data: sequences in shards are packed within blocks, which no "
                                  "stream goes through; open the file itself, or a text");
    int64_t each = stream_rows(data, split, rows), at = (int64_t)index;
    if (split == PF_TRAIN || at < each) return PF_OK;
    return pf_fail(PF_EINVAL, "data: row %s of %lld streams is behind the end: they have %lld",
                   pf_place(at), (long long)rows, (long long)each);
}

/* All rows are laid: the longest says how many positions there are, whoever has it. */
PF_API int pf_data_stream_rows(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                               uint64_t index, int64_t rows, int64_t first, int64_t n,
                               uint64_t seed) {
    PF_OPEN(engine);
    PF_NEED(batch, data);
    pf_batch own = {.size = sizeof own, .rows = n};
    PF_TRY(give_batch(batch, &own));
    PF_TRY(check_stream(data, split, index, rows, first, n));
    int64_t each = stream_rows(data, split, rows), at = (int64_t)index;
    int64_t status = make_batch(&own, data, rows);
    for (int64_t b = 0; b < rows && status >= 0; b++) {
        status = fill_stream(&own, data, engine, split, seed, at / each, at % each, b);
        if (status > 0 && b >= first && b < first + n) own.tokens += status;
    }
    if (status >= 0) status = cut_batch(&own, data, first);
    if (status < 0) pf_batch_release(&own);
    return status < 0 ? (int)status : give_batch(batch, &own);
}

PF_API int pf_data_stream_batch(pf_batch *batch, pf_engine *engine, pf_data *data, pf_split split,
                                uint64_t index, int64_t rows, uint64_t seed) {
    return pf_data_stream_rows(batch, engine, data, split, index, rows, 0, rows, seed);
}

PF_API void pf_batch_release(pf_batch *batch) {
    if (!batch || batch->size < sizeof *batch) return; /* none of ours: pf_data_batch refused it */
    pf_tensor_release(&batch->input);
    pf_tensor_release(&batch->target);
    pf_tensor_release(&batch->documents);
    pf_tensor_release(&batch->mask);
    *batch = (pf_batch){.size = batch->size};
}
