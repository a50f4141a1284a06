/*
 * scenarios.h - what people do with an engine, a row each, for tests that break it off: at an
 * allocation (scarcity_test), at a cancel check, at a file operation. `set` makes what stands
 * before, with all that it needs; `run` is the work that is struck. What must hold of each run: it
 * fails as it was struck, `world_look` is what it was before, a second try gives the `result` of
 * one that nobody struck, and once the world is dropped not a byte is held.
 *
 * A new row is a line in scenarios[], and where no `set` and `run` will do two functions in
 * scenarios_compute.h or scenarios_models.h. All is small: a run takes about a millisecond.
 */
#ifndef PF_SCENARIOS_H
#define PF_SCENARIOS_H

#include "scenarios_models.h"

typedef struct {
    const char *name;
    int (*set)(world *w);
    int (*run)(world *w);
    const char *what; /* the row's own word to both */
} scenario;

#define SMALL "'causal': true, 'kernel': {'name': 'softmax', 'features': 8}"
static const scenario scenarios[] = {
    {"op add", set_rows, run_op, "add 0 0"},
    {"op softmax", set_rows, run_op, "softmax 0"},
    {"op sum", set_rows, run_op, "sum 0"},
    {"op var", set_rows, run_op, "var 0"},
    {"op add in place", set_rows, run_in_place, "add 0 2"},
    {"op matmul", set_rows, run_op, "matmul 0 1"},
    {"op concat", set_rows, run_op, "concat 0 0"},
    {"op layernorm", set_rows, run_op, "layernorm 0 2"},
    {"op argsort", set_rows, run_op, "argsort 0"},
    {"op tril", set_rows, run_op, "tril 0"},
    {"gradient of an mlp", set_leaves, run_mlp, NULL},
    {"recomputation", set_leaves, run_recompute, NULL},
    {"gradient check", set_leaves, run_gradcheck, NULL},
    {"favor, full", set_heads, run_attention, "favor"},
    {"favor, causal", set_heads, run_causal, "favor"},
    {"exact, causal", set_heads, run_causal, "exact"},
    {"graph", set_graph, run_attention, "graph"},
    {"sliding", set_heads, run_causal, "sliding {'window': 4}"},
    {"strided", set_heads, run_causal, "strided {'stride': 4}"},
    {"fixed", set_heads, run_causal, "fixed {'stride': 4, 'last': 1}"},
    {"bigbird", set_heads, run_attention, "bigbird {'block': 4, 'random': 1}"},
    {"lsh", set_heads, run_causal, "lsh {'window': 4, 'rounds': 2, 'buckets': 4}"},
    {"routing", set_heads, run_causal, "routing {'window': 4, 'clusters': 2}"},
    {"training by adamw", set_training, run_step, "adamw"},
    {"training by adam", set_training, run_step, "adam"},
    {"training by sgd", set_training, run_step, "sgd"},
    {"training by lion", set_training, run_step, "lion"},
    {"training by muon", set_training, run_step, "muon"},
    {"training in slices", set_training, run_sliced, "adamw"},
    {"evaluation", set_training, run_evaluation, "adamw"},
    {"what is trained", set_model, run_adapters, SMALL},
    {"building a model", set_options, run_build, SMALL},
    {"building and reading a config", set_nothing, run_json, NULL},
    {"describing", set_nothing, run_describe, NULL},
    {"a tokenizer", set_nothing, run_tokenizer, NULL},
    {"a stream's prompt", set_stream, run_prompt, SMALL},
    {"a stream of exact attention", set_stream, run_prompt, "'causal': true, 'attention': 'exact'"},
    {"generating", set_stream, run_generate, SMALL},
    {"forking a stream", set_stream, run_fork, SMALL},
    {"a running batch", set_serving, run_serving, SMALL},
    {"a running batch of exact attention", set_serving, run_serving,
     "'causal': true, 'attention': 'exact', 'conv': 2"},
    {"joining a running batch", set_serving, run_join, SMALL},
    {"saving a stream", set_stream, run_save_stream, SMALL},
    {"a state's prompt", set_states, run_prefill, NULL},
    {"merging states", set_states, run_merge, NULL},
    {"saving a state", set_states, run_save_state, NULL},
    {"adding items", set_items, run_add, NULL},
    {"asking a set of items", set_items, run_ask, NULL},
    {"a kernel", set_heads, run_kernel, NULL},
    {"weights of attention", set_heads, run_weights, NULL},
    {"data of text", set_data, run_data, "text.txt"},
    {"data of sequences", set_data, run_data, "proteins.fasta"},
    {"data of gzip", set_data, run_data, "text.txt.gz"},
    {"making shards", set_shard, run_shard, "proteins.fasta"},
    {"reading shards", set_data, run_data, "shards"},
    {"saving tensors", set_rows, run_save_tensors, NULL},
    {"saving arrays", set_rows, run_save_arrays, NULL},
    {"saving a checkpoint", set_run, run_save, "adamw"},
    {"loading a checkpoint", set_nothing, run_load, "run"},
    {"restoring a checkpoint", set_training, run_restore, "adamw"},
    {"shipping a model", set_model, run_ship, SMALL},
    {"loading a model", set_nothing, run_load_model, "run"},
    {"inspecting a run", set_nothing, run_inspect, "run"},
};

#endif
