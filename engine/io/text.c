/*
 * text.c - the documents of text files: each file is one, its last part held out; or, where the
 * valid part has files of its own, all of it is for one side. Neither a target nor what a position
 * sees goes from one file into the next.
 */
#include <string.h>
#include <xxhash.h>

#include "data.h"

/* The file's name without its folders: it names the document. */
static int keep_last_name(pf_data *data, const char *path, int64_t *at) {
    const char *slash = strrchr(path, '/');
    return pf_data_keep_name(data, slash ? slash + 1 : path, at);
}

int pf_data_add_text(pf_reading *r, pf_input *input) {
    pf_data *data = ((pf_filling *)r->to)->data;
    int64_t first = data->n_tokens, name;
    PF_TRY(keep_last_name(data, input->source.name, &name));
    PF_TRY(pf_input_rest(input, &data->tokens, &data->n_tokens, &data->tokens_capacity));
    int64_t n = data->n_tokens - first;
    if (n == 0) return pf_fail(PF_EFORMAT, "%s: the file is empty", input->source.name);
    const uint8_t *tokens = data->tokens + first, *nul = memchr(tokens, 0, (size_t)n);
    if (nul && data->first_nul < 0) data->first_nul = nul - data->tokens;
    XXH128_hash_t hash = XXH3_128bits(tokens, (size_t)n);
    int64_t valid = (int64_t)((double)n * data->valid_fraction);
    if (r->apart) valid = r->valid ? n : 0;
    const pf_document whole = {
        .first = first, .n = n, .name = name, .hash = {hash.low64, hash.high64}, .split = PF_ALL};
    pf_document part[2] = {whole, whole};
    part[0].n = n - valid;
    part[0].split = PF_TRAIN;
    part[1].first += n - valid;
    part[1].n = valid;
    part[1].split = PF_VALID;
    for (int i = 0; i < 2; i++)
        if (part[i].n > 0 || !r->apart) PF_TRY(pf_data_add_document(data, &part[i]));
    return pf_data_add_document(data, &whole);
}

/* Does a file of the valid part hold the very text of this training part? */
static bool stands_in_valid(const pf_data *data, const pf_document *train) {
    for (int64_t i = 0; i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        if (d->split == PF_VALID && d->n == train->n &&
            memcmp(d->hash, train->hash, sizeof d->hash) == 0)
            return true;
    }
    return false;
}

void pf_text_shared(pf_engine *engine, const char *name) {
    pf_log(engine, PF_LOG_WARN,
           "%s: the same text is trained on and held out, so that the held-out loss says nothing "
           "of new text",
           name);
}

void pf_data_end_text(pf_data *data, pf_engine *engine) {
    for (int64_t i = 0; data->apart && i < data->n_documents; i++) {
        const pf_document *d = &data->documents[i];
        if (d->split != PF_TRAIN || !stands_in_valid(data, d)) continue;
        data->shared++;
        pf_text_shared(engine, data->names + d->name);
    }
}
