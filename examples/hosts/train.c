/*
 * train.c - a host that trains: a small language model of any text or FASTA file, in a loop of its
 * own, which keeps checkpoints, goes on where it was stopped, and ends cleanly on Ctrl-C.
 *
 *   train FILE FOLDER [STEPS]
 */
#include <performer.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 8, LENGTH = 256, SAVE = 100 };

static atomic_int stop; /* the engine looks at it within long calls, and this loop between them */

static void on_signal(int number) {
    (void)number;
    atomic_store(&stop, 1);
}

/* Architecture as data: what config.json of the checkpoint will hold. */
static int make_model(pf_module **model, pf_engine *engine, int vocab) {
    char text[512];
    const int n = snprintf(text, sizeof text,
                           "{\"type\": \"performer\", \"options\": {\"vocab\": %d, \"dim\": 64, "
                           "\"layers\": 2, \"heads\": 4, \"causal\": true, \"length\": %d, "
                           "\"kernel\": {\"name\": \"relu\"}}}",
                           vocab, LENGTH);
    pf_config *tree = NULL;
    int status = pf_json_parse(&tree, text, (size_t)n);
    if (status >= 0) status = pf_module_build(model, engine, tree);
    pf_config_free(tree);
    return status;
}

static int open_data(pf_data **data, pf_engine *engine, const char *path) {
    pf_config *options = pf_config_new(PF_MAP);
    int status = pf_config_set_string(options, "path", path);
    if (status >= 0) status = pf_config_set_number(options, "length", LENGTH);
    if (status >= 0) status = pf_data_open(data, engine, options);
    pf_config_free(options);
    return status;
}

/* One step on batch `index`: forward, loss, backward, and the weights move. */
static int step(double *loss, pf_engine *engine, pf_module *model, pf_optimizer *optimizer,
                pf_data *data, uint64_t index) {
    pf_batch batch = {.size = sizeof batch};
    pf_tape *tape = NULL;
    pf_tensor *value = NULL;
    int status = pf_data_batch(&batch, engine, data, PF_TRAIN, index, ROWS, false, 1);
    const pf_pass pass = {.size = sizeof pass,
                          .training = true,
                          .step = index,
                          .mask = batch.mask,
                          .documents = batch.documents};
    if (status >= 0) status = pf_tape_open(&tape, engine);
    if (status >= 0) {
        status = pf_module_loss(&value, engine, model, batch.input, batch.target, &pass);
    }
    if (status >= 0) status = pf_tape_backward(tape, value, NULL);
    if (status >= 0) status = pf_tensor_get(value, 0, loss);
    if (status >= 0) status = pf_optimizer_step(optimizer, engine, -1, 1.0, NULL);
    pf_tensor_release(&value);
    pf_tape_close(&tape); /* what the step made goes with it */
    pf_batch_release(&batch);
    return status;
}

/* The run in `folder`, or a new one. */
static int begin(pf_module **model, pf_optimizer **optimizer, pf_engine *engine, pf_data *data,
                 const char *folder) {
    pf_data_info info = {.size = sizeof info};
    int status = pf_checkpoint_load(engine, folder, model, optimizer, NULL, NULL);
    if (status != PF_ENOTFOUND) return status;
    status = pf_data_info_of(data, PF_TRAIN, &info);
    if (status >= 0) status = make_model(model, engine, pf_tokenizer_size(info.tokenizer));
    if (status >= 0) status = pf_optimizer_new(optimizer, engine, *model, NULL);
    return status;
}

static int train(pf_engine *engine, const char *file, const char *folder, uint64_t steps) {
    pf_data *data = NULL;
    pf_module *model = NULL;
    pf_optimizer *optimizer = NULL;
    pf_data_info info = {.size = sizeof info};
    int status = open_data(&data, engine, file);
    if (status >= 0) status = pf_data_info_of(data, PF_TRAIN, &info);
    pf_config *tokenizer = pf_config_new_string(info.tokenizer);
    if (status >= 0) status = begin(&model, &optimizer, engine, data, folder);
    if (status >= 0) printf("from step %llu\n", (unsigned long long)pf_optimizer_steps(optimizer));
    while (status >= 0 && pf_optimizer_steps(optimizer) < steps) {
        double loss = 0;
        const uint64_t index = pf_optimizer_steps(optimizer) + 1;
        status = step(&loss, engine, model, optimizer, data, index);
        if (status >= 0 && (index % SAVE == 0 || index == steps)) {
            printf("step %llu  loss %.4f\n", (unsigned long long)index, loss);
            status =
                pf_checkpoint_save(engine, folder, index, model, optimizer, NULL, tokenizer, 2);
        }
    }
    if (status == PF_ECANCEL) { /* the step that was under way is left out, and the rest kept */
        atomic_store(&stop, 0);
        const uint64_t done = pf_optimizer_steps(optimizer);
        printf("stopped after step %llu\n", (unsigned long long)done);
        status = pf_checkpoint_save(engine, folder, done, model, optimizer, NULL, tokenizer, 2);
    }
    pf_config_free(tokenizer);
    pf_optimizer_close(&optimizer);
    pf_module_release(&model);
    pf_data_close(&data);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: train FILE FOLDER [STEPS]\n");
        return 2;
    }
    signal(SIGINT, on_signal);
    pf_options options = PF_OPTIONS_DEFAULT;
    options.cancel = &stop;
    options.seed = 1;
    pf_engine *engine = NULL;
    int status = pf_engine_open(&engine, &options);
    if (status >= 0) {
        status = train(engine, argv[1], argv[2], argc > 3 ? strtoull(argv[3], NULL, 10) : 300);
    }
    if (status < 0) fprintf(stderr, "train: %s: %s\n", pf_status_name(status), pf_last_error());
    pf_engine_close(&engine);
    return status < 0;
}
