/* embed.c - a host program in C: loads a run folder and streams what the model writes. */
#include <performer.h>
#include <stdio.h>

int main(int argc, char **argv) {
    pf_engine *engine = NULL;
    pf_module *model = NULL;
    pf_stream *stream = NULL;
    pf_sampling sampling = {.size = sizeof sampling, .temperature = 0.8, .seed = 7};
    int32_t token = 'T';
    int status = pf_engine_open(&engine, NULL);
    if (status >= 0) status = pf_model_load(&model, engine, argc > 1 ? argv[1] : "runs/twenty");
    if (status >= 0) status = pf_stream_open(&stream, engine, model);
    for (int i = 0; status >= 0 && i < 200; i++) {
        putchar(token); /* a byte is a token; each costs the same time and memory */
        status = pf_stream_next(stream, token, &sampling, &token);
    }
    if (status < 0) fprintf(stderr, "%s: %s\n", pf_status_name(status), pf_last_error());
    pf_stream_close(&stream), pf_module_release(&model), pf_engine_close(&engine);
    return status < 0;
}
