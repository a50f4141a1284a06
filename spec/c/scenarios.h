/*
 * scenarios.h - what people do with an engine, a row each, for tests that break it off: at an
 * allocation (scarcity_test), at a cancel check, at a file operation. `set` makes what stands
 * before, with all that it needs; `run` is the work that is struck. What must hold of each run: it
 * fails as it was struck, `world_look` is what it was before, a second try gives the `result` of
 * one that nobody struck, and once the world is dropped not a byte is held.
 *
 * A new row is a line in scenarios[], and where no `set` and `run` will do two functions in
 * scenarios_compute.h, _models.h or _layers.h. All is small: a run takes about a millisecond.
 */
#ifndef PF_SCENARIOS_H
#define PF_SCENARIOS_H

#include "scenarios_layers.h"

typedef struct {
    const char *name;
    int (*set)(world *w);
    int (*run)(world *w);
    const char *what; /* the row's own word to both */
} scenario;

/* Parts are named by their words. */
#define BACK(what)                                                                                 \
    { what " and back", set_inputs, run_op_back, what }
#define TURNED(what)                                                                               \
    { what ", turned, and back", set_turned, run_op_back, what }
#define LAYER(tree)                                                                                \
    { tree, set_layer, run_layer, tree }
#define MASKED(tree)                                                                               \
    { tree ", masked", set_layer, run_masked, tree }
#define READER(tree)                                                                               \
    { tree, set_reader, run_layer, tree }
#define AGAIN(tree)                                                                                \
    { tree ", again", set_layer, run_again, tree }
#define STATE(tree)                                                                                \
    { tree ", in steps", set_layer, run_state, tree }

#define CONV                 "{'type': 'conv', 'options': {'dim': 8, 'width': 3}}"
#define MLP                  "{'type': 'mlp', 'options': {'dim': 8, 'hidden': 8}}"
#define EMBEDDING            "{'type': 'embedding', 'options': {'vocab': 11, 'dim': 8}}"
#define HEADS_OF(type, more) "{'type': '" type "', 'options': {'dim': 8, 'heads': 2, " more "}}"
#define ATTENTION(more)      HEADS_OF("attention", more)
#define BLOCK(more)          HEADS_OF("block", "'hidden': 8, " more)
#define LANGUAGE(more)       HEADS_OF("performer", "'vocab': 11, 'layers': 1, 'length': 16, " more)

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
    BACK("sub 0 3"),
    BACK("div 0 2"),
    BACK("pow 0 3"),
    BACK("maximum 0 2"),
    BACK("remainder 0 3"),
    BACK("floor_divide 0 3"),
    BACK("mean_square 0 3"),
    BACK("gelu 0"),
    BACK("elu 0"),
    BACK("clamp 0 min=-1 max=1"),
    BACK("affine 0 scale=2"),
    BACK("sum 0 dim=0"),
    BACK("max 0 dim=1"),
    BACK("logsumexp 0 dim=1"),
    BACK("log_softmax 0"),
    BACK("std 0"),
    BACK("norm 0 p=3 dim=1"),
    BACK("prod 0 dim=1"),
    BACK("any 4"),
    BACK("argmax 0 dim=1"),
    BACK("cumsum 0 dim=0"),
    BACK("eq 0 3"),
    BACK("logical_and 4 4"),
    BACK("isnan 0"),
    BACK("where 4 0 3"),
    BACK("cast 0"),
    BACK("linear 0 3"),
    BACK("linear 0 3 - act=1"),
    BACK("reshape 0 shape=8x6"),
    BACK("permute 1 order=2x0x1"),
    BACK("slice 0 dim=1 first=2 end=5"),
    BACK("concat 0 3 dim=1"),
    BACK("stack 0 3"),
    BACK("layernorm 0 2 2"),
    BACK("add_layernorm 0 3 2 2"),
    BACK("add_rmsnorm 0 3 2"),
    BACK("embedding 0 5"),
    BACK("cross_entropy 0 5"),
    BACK("linear_cross_entropy 0 3 5 best=1"),
    BACK("swiglu 0 3"),
    BACK("geglu 0 3"),
    BACK("glu 0 3"),
    BACK("split_heads 1 heads=2 kv_heads=1"),
    BACK("sort 0"),
    BACK("topk 0 k=2"),
    BACK("gather 0 4"),
    BACK("index_select 0 5"),
    BACK("scatter_add 0 4 3"),
    BACK("masked_select 0 4"),
    BACK("flip 0"),
    BACK("squeeze 1"),
    BACK("expand 1 shape=3x6x8"),
    BACK("tile 0 counts=2x1"),
    BACK("triu 0"),
    BACK("one_hot 5 n=9"),
    BACK("ngrams 4 longest=3"),
    TURNED("sub 0 3"),
    TURNED("pow 0 3"),
    TURNED("gelu 0"),
    TURNED("softmax 0"),
    TURNED("logsumexp 0 dim=1"),
    TURNED("std 0"),
    TURNED("cumsum 0 dim=0"),
    TURNED("where 4 0 3"),
    TURNED("linear 0 3"),
    TURNED("layernorm 0 2 2"),
    TURNED("add_layernorm 0 3 2 2"),
    TURNED("embedding 0 5"),
    TURNED("cross_entropy 0 5"),
    TURNED("linear_cross_entropy 0 3 5 best=1"),
    TURNED("swiglu 0 3"),
    TURNED("sort 0"),
    TURNED("topk 0 k=2"),
    TURNED("gather 0 4"),
    TURNED("index_select 0 5"),
    TURNED("scatter_add 0 4 3"),
    TURNED("masked_select 0 4"),
    TURNED("tile 0 counts=2x1"),
    TURNED("triu 0"),
    TURNED("norm 0 p=3 dim=1"),
    TURNED("prod 0 dim=1"),
    TURNED("mean_square 0 3"),
    TURNED("reshape 0 shape=8x6"),
    TURNED("concat 0 3 dim=1"),
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
    LAYER("{'type': 'linear', 'options': {'from': 8, 'to': 5, 'act': 'gelu'}}"),
    LAYER("{'type': 'mlp', 'options': {'dim': 8, 'hidden': 12, 'act': 'swiglu', 'dropout': 0.2}}"),
    LAYER("{'type': 'scalenorm', 'options': {'dim': 8}}"),
    LAYER("{'type': 'positions', 'options': {'kind': 'axial', 'dim': 8, 'axes': [4, 4]}}"),
    LAYER("{'type': 'types', 'options': {'types': 2, 'dim': 8}}"),
    LAYER("{'type': 'chain', 'options': {'recompute': true}, 'children': [" CONV ", " MLP "]}"),
    LAYER("{'type': 'residual', 'options': {'dropout': 0.1}, 'children': [" CONV "]}"),
    LAYER("{'type': 'reversible', 'children': [{'type': 'branches', 'children': [" CONV ", " MLP
          "]}, " BLOCK("'causal': true") "]}"),
    LAYER(ATTENTION("'causal': true, 'qk_norm': true, 'decay': 0.1")),
    LAYER(ATTENTION("'attention': 'exact', 'attention_dropout': 0.2, 'kv_heads': 1")),
    LAYER(ATTENTION("'attention': 'sliding', 'attention_options': {'window': 4}, 'causal': true, "
                    "'relative': true")),
    LAYER(ATTENTION("'attention': 'graph'")),
    LAYER(ATTENTION("'kernel': {'name': 'softmax_plus', 'features': 6}")),
    LAYER("{'type': 'cross_attention', 'options': {'dim': 8, 'heads': 2}}"),
    LAYER("{'type': 'cross_attention', 'options': {'dim': 8, 'heads': 2, 'attention': 'exact'}}"),
    LAYER("{'type': 'graph_attention', 'options': {'dim': 8, 'heads': 2, 'score': 'gatv2', "
          "'residual': true, 'input_dropout': 0.1, 'value_dropout': 0.1}}"),
    LAYER("{'type': 'graph_attention', 'options': {'dim': 8, 'heads': 2, 'join': 'mean'}}"),
    LAYER(BLOCK("'causal': true, 'conv': 3, 'token_shift': true, 'dropout': 0.1, 'norm': "
                "'rmsnorm', 'recompute': true")),
    LAYER(BLOCK("'residual': 'post', 'local_heads': 1, 'local_window': 4, 'causal': true")),
    LAYER(BLOCK("'residual': 'rezero', 'cross': true")),
    LAYER("{'type': 'pool', 'options': {'of': 'attention', 'dim': 8}}"),
    MASKED("{'type': 'pool', 'options': {'of': 'mean'}}"),
    MASKED(ATTENTION("'attention': 'bigbird', 'attention_options': {'block': 4, 'random': 1}")),
    MASKED(ATTENTION("'kernel': {'name': 'relu', 'features': 6}")),
    MASKED(CONV),
    READER(EMBEDDING),
    READER("{'type': 'classifier', 'options': {'classes': 3, 'dim': 8, 'hidden': 4, 'dropout': "
           "0.1}, 'children': [" EMBEDDING "]}"),
    READER("{'type': 'regressor', 'options': {'dim': 8, 'pool': 'last'}, 'children': [" EMBEDDING
           "]}"),
    READER(LANGUAGE("'causal': true, 'reversible': true, 'ngrams': {'longest': 3, 'buckets': 16, "
                    "'width': 4}")),
    READER(LANGUAGE("'positions': 'axial', 'axes': [4, 4], 'tied': false, 'types': 2, 'shared': "
                    "true, 'embedding_norm': true, 'embedding_dim': 4, 'head': 'transform'")),
    READER(LANGUAGE("'causal': true, 'positions': 'relative', 'attention': 'sliding', "
                    "'attention_options': {'window': 4}, 'head_bias': true")),
    READER("{'type': 'encoder_decoder', 'children': [" LANGUAGE("'tied': true") ", " LANGUAGE(
        "'causal': true, 'cross': true") "]}"),
    AGAIN(BLOCK("'causal': true, 'attention': 'routing', 'attention_options': {'window': 4, "
                "'clusters': 2}")),
    AGAIN("{'type': 'chain', 'children': [" CONV ", " MLP ", {'type': 'rmsnorm', 'options': "
          "{'dim': 8}}]}"),
    AGAIN(LANGUAGE("'positions': 'learned', 'conv': 2, 'head': 'transform'")),
    STATE("{'type': 'chain', 'children': [{'type': 'conv', 'options': {'dim': 8, 'width': 3, "
          "'causal': true}}, {'type': 'shift', 'options': {'dim': 8}}, {'type': 'positions', "
          "'options': {'kind': 'learned', 'dim': 8, 'length': 16}}, " BLOCK(
              "'causal': true, 'conv': 2") "]}"),
    STATE(BLOCK("'causal': true, 'residual': 'post', 'attention': 'strided', 'attention_options': "
                "{'stride': 4}, 'token_shift': true")),
    STATE(BLOCK("'causal': true, 'local_heads': 1, 'local_window': 4, 'attention': 'exact'")),
    STATE(ATTENTION("'causal': true, 'attention': 'lsh', 'attention_options': {'window': 4, "
                    "'rounds': 2, 'buckets': 4}")),
    {"a translator's stream", set_reader, run_translator,
     "{'type': 'encoder_decoder', 'children': [" LANGUAGE("'tied': true") ", " LANGUAGE(
         "'causal': true, 'cross': true") "]}"},
    {"a translator's stream of exact attention", set_reader, run_translator,
     "{'type': 'encoder_decoder', 'children': [" LANGUAGE("'tied': true") ", " LANGUAGE(
         "'causal': true, 'cross': true, 'attention': 'exact'") "]}"},
    {"rows that go on", set_reader, run_carry, LANGUAGE("'causal': true")},
    {"rows that go on, in windows", set_reader, run_carry,
     LANGUAGE("'causal': true, 'attention': 'sliding', 'attention_options': {'window': 4}")},
    {"rows that go on, in slices: loading a checkpoint", set_long, run_carried,
     LANGUAGE("'causal': true")},
    {"saving arrays of whole numbers", set_turned, run_bytes, "i64"},
    {"saving arrays of halves", set_turned, run_bytes, "f16"},
    {"adapted layers in a step", set_adapted, run_layer, LANGUAGE("'causal': true")},
    {"merging adapters", set_adapted, run_merge_adapters, LANGUAGE("'causal': true")},
    {"a report of attention", set_reader, run_report,
     LANGUAGE("'causal': true, 'kernel': {'name': 'softmax', 'features': 4}")},
    {"training in lanes", set_training, run_lanes, "adamw"},
    {"saving a state with a decay", set_decayed, run_alone, "favor"},
    {"saving a state of rooms", set_heads, run_alone, "routing {'window': 4, 'clusters': 2}"},
    {"saving a state of windows", set_heads, run_alone, "sliding {'window': 4}"},
    {"saving a state of all keys", set_heads, run_alone, "exact"},
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
    {"a kernel of Hadamard rows", set_heads, run_kernel,
     "{'name': 'softmax', 'features': 8, 'rows': 'hadamard'}"},
    {"a kernel of angles", set_heads, run_kernel, "{'name': 'softmax_trig', 'features': 6}"},
    {"a kernel that is tilted", set_heads, run_kernel,
     "{'name': 'softmax_plus', 'features': 6, 'tilt': -0.1}"},
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
