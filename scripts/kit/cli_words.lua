--- cli_words.lua - what the options of other programs (nanoGPT, llama.cpp, Hugging Face's trainers)
-- are called here. Looked up before a near name is suggested.
--
-- What must hold (spec/first_hour_spec.lua): a word is no option of the command that it is looked
-- up for, and what it points to is one.
local choices = require "performer.choices"
local core = require "performer.core"

local cli_words = {}

local CPU = "everything runs on the CPU"
local FLOATS = "numbers are float32"
local SAMPLING = "there is none; --temperature, --top-k and --top-p shape the sampling"
local LOG = "every run writes its log (log.jsonl, and log.csv as a table) and its picture; "
  .. "train --tensorboard writes events too"
local MAPPED = "weights are read as they are needed"
local CACHE = "what is read of a prompt is kept by nobody: --prompts FILE reads many in one run"
local QUIET = "the text alone goes to stdout, all else to stderr"
local NO_GRAMMAR = "there is none: --stop TEXT ends a text, a script can choose ids by itself"
local SHELL = "it is the shell's: $'a line\\n' has a line's end"
local CHAT = "models go on writing: there is no chat"

-- Words without dashes in front, with dashes inside; of several options the one that the command
-- has. `say`: how it is told, where one name says too little.
cli_words.options = {
  -- how long, how often
  epochs = { "steps", say = "--steps, --minutes or --tokens" },
  ["num-epochs"] = { "steps", say = "--steps, --minutes or --tokens" },
  ["num-train-epochs"] = { "steps", say = "--steps, --minutes or --tokens" },
  ["max-iters"] = { "steps" }, iters = { "steps" }, iterations = { "steps" },
  ["max-steps"] = { "steps" }, ["num-steps"] = { "steps" }, ["train-steps"] = { "steps" },
  hours = { "minutes" }, time = { "minutes" }, ["max-time"] = { "minutes" },
  ["eval-interval"] = { "eval-every" }, ["eval-steps"] = { "eval-every" },
  ["eval-iters"] = { "eval-every", say = "--eval-every; all that is held out is measured" },
  ["val-interval"] = { "eval-every" }, ["save-steps"] = { "eval-every" },
  ["save-every"] = { "save-minutes" }, ["save-interval"] = { "save-minutes" },
  ["log-interval"] = { "log-every" }, ["logging-steps"] = { "log-every" },
  ["print-every"] = { "log-every" }, ["early-stopping"] = { "patience" },
  ["lr-decay-iters"] = { "steps", say = "--steps, with which the schedule ends" },
  -- a step
  ["batch-size"] = { "batch" }, bs = { "batch" }, b = { "batch" },
  ["micro-batch-size"] = { "batch" },
  ["per-device-train-batch-size"] = { "batch" }, ["gradient-accumulation-steps"] = { "accumulate" },
  ["grad-accum"] = { "accumulate" }, ["learning-rate"] = { "lr" }, ["max-lr"] = { "lr" },
  ["min-lr"] = { "lr-floor" }, ["warmup-iters"] = { "warmup" }, ["warmup-steps"] = { "warmup" },
  ["num-warmup-steps"] = { "warmup" }, ["warmup-ratio"] = { "warmup", say = "--warmup, in steps" },
  ["lr-scheduler"] = { "schedule" }, ["lr-scheduler-type"] = { "schedule" },
  scheduler = { "schedule" }, ["lr-schedule"] = { "schedule" }, optim = { "optimizer" },
  ["weight-decay"] = { "decay" }, wd = { "decay" }, ["grad-clip"] = { "clip" },
  ["max-grad-norm"] = { "clip" }, ["clip-norm"] = { "clip" }, ["adam-beta1"] = { "beta1" },
  ["adam-beta2"] = { "beta2" }, ["adam-epsilon"] = { "optimizer-eps" }, ["ema-decay"] = { "ema" },
  -- the model
  ["n-layer"] = { "layers" }, ["n-layers"] = { "layers" }, ["num-layers"] = { "layers" },
  ["num-hidden-layers"] = { "layers" }, depth = { "layers" }, ["n-head"] = { "heads" },
  ["n-heads"] = { "heads" }, ["num-heads"] = { "heads" }, ["num-attention-heads"] = { "heads" },
  ["n-embd"] = { "dim" }, ["d-model"] = { "dim" }, ["hidden-size"] = { "dim" },
  ["embed-dim"] = { "dim" }, width = { "dim" }, ["n-kv-heads"] = { "kv-heads" },
  ["num-kv-heads"] = { "kv-heads" }, ["head-size"] = { "head-dim" },
  ["block-size"] = { "length" }, ["seq-len"] = { "length" }, ["seq-length"] = { "length" },
  ["sequence-length"] = { "length" }, ["max-length"] = { "length", "tokens" },
  ["max-seq-len"] = { "length" }, ["context-length"] = { "length" }, context = { "length" },
  ["ctx-size"] = { "length" }, ["n-ctx"] = { "length" }, c = { "length" },
  ["ffn-dim"] = { "hidden" }, ["d-ff"] = { "hidden" }, ["intermediate-size"] = { "hidden" },
  ["mlp-dim"] = { "hidden" }, activation = { "act" }, ["hidden-act"] = { "act" },
  ["dropout-rate"] = { "dropout" }, ["rope-theta"] = { "rotary-base" },
  ["rope-base"] = { "rotary-base" }, ["tie-weights"] = { "tied" },
  ["gradient-checkpointing"] = { "recompute" }, kernel = { "attention" },
  ["attention-type"] = { "attention" }, attn = { "attention" }, ["nb-features"] = { "features" },
  ["num-features"] = { "features" }, ["n-features"] = { "features" }, mlm = { "bidirectional" },
  masked = { "bidirectional" },
  -- files
  ["out-dir"] = { "out", "checkpoint" }, ["output-dir"] = { "out" }, output = { "out" },
  o = { "out" }, ["save-dir"] = { "out" }, ["run-name"] = { "out" }, dataset = { "data" },
  ["data-dir"] = { "data" }, ["data-path"] = { "data" }, input = { "data" },
  ["train-file"] = { "data" },
  ["train-data"] = { "data" }, f = { "data", "prompts" }, file = { "data", "prompts" },
  ["val-data"] = { "valid" },
  ["validation-file"] = { "valid" }, ["val-file"] = { "valid" }, val = { "valid" },
  ["val-split"] = { "valid-fraction" }, ["validation-split"] = { "valid-fraction" },
  ["init-from"] = { "init", say = "--init RUN, or --resume RUN to go on", "checkpoint" },
  pretrained = { "init" }, ["model-name-or-path"] = { "init", "checkpoint" },
  ["resume-from"] = { "resume" }, ["resume-from-checkpoint"] = { "resume" },
  m = { "checkpoint" }, ckpt = { "checkpoint" }, ["ckpt-path"] = { "checkpoint" },
  ["model-path"] = { "checkpoint" }, run = { "checkpoint" },
  -- the machine, samples
  ["n-threads"] = { "threads" }, ["num-threads"] = { "threads" }, t = { "threads" },
  j = { "threads" }, s = { "seed" }, ["random-seed"] = { "seed" }, ["manual-seed"] = { "seed" },
  p = { "prompt" }, start = { "prompt" }, prefix = { "prompt" }, n = { "tokens" },
  ["n-predict"] = { "tokens" }, ["max-new-tokens"] = { "tokens" }, ["max-tokens"] = { "tokens" },
  ["num-predict"] = { "tokens" }, length = { "tokens" }, temp = { "temperature" },
  ["num-samples"] = { "count" }, ["n-samples"] = { "count" },
  ["num-return-sequences"] = { "count" }, ["repeat-penalty"] = { "repetition-penalty" },
  predict = { "tokens" }, ["repeat-last-n"] = { "repetition-penalty" },
  ["presence-penalty"] = { "repetition-penalty" }, ["penalize-nl"] = { "repetition-penalty" },
  greedy = { "temperature", say = "--temperature 0" },
  ["do-sample"] = { "temperature", say = "--temperature 0 is greedy" },
  ["no-sample"] = { "temperature", say = "--temperature 0" }, outfile = { "out" },
  ["eval-only"] = { "resume", say = "performer eval RUN FILE" },
  ["samples-per-prompt"] = { "count" },
  ["decay-lr"] = { "schedule", say = "--schedule constant, where the rate is to stay" },
  ["lr-decay"] = { "schedule" },
  lora = { "adapters", say = "performer train --init RUN --adapters RANK" },
  ["lora-r"] = { "adapters" }, ["lora-rank"] = { "adapters" }, hf = { "checkpoint" },
  r = { "stop" }, ["reverse-prompt"] = { "stop" }, ["stop-sequence"] = { "stop" },
  ["stop-sequences"] = { "stop" }, eos = { "stop" }, ["prompt-file"] = { "prompts" },
}

-- What has no option here, and why.
cli_words.notes = {
  device = CPU, gpu = CPU, gpus = CPU, cuda = CPU, ["no-cuda"] = CPU, ngl = CPU,
  ["n-gpu-layers"] = CPU, ["gpu-layers"] = CPU, backend = CPU, dtype = FLOATS, fp16 = FLOATS,
  bf16 = FLOATS, precision = FLOATS, ["mixed-precision"] = FLOATS,
  compile = "nothing is compiled: a run begins at once", ["vocab-size"] = "the tokenizer says it",
  mirostat = SAMPLING, ["frequency-penalty"] = SAMPLING, ["wandb-log"] = LOG, wandb = LOG,
  ["report-to"] = LOG, tensorboard = LOG, ["no-mmap"] = MAPPED, mlock = MAPPED, cnv = CHAT,
  conversation = CHAT, chat = CHAT, ["num-workers"] = "batches are made as they are asked for",
  causal = "models are causal where --bidirectional is not said",
  tokenizer = "text is read byte by byte, proteins letter by letter; --init takes another's",
  ["meta-vocab-size"] = "the tokenizer says it",
  ["no-compile"] = "nothing is compiled: a run begins at once",
  ["wandb-project"] = LOG, ["wandb-run-name"] = LOG, ["log-disable"] = QUIET, v = QUIET,
  verbose = QUIET,
  ["verbose-prompt"] = QUIET, ["no-display-prompt"] = QUIET, color = QUIET,
  typical = SAMPLING, tfs = SAMPLING, ["dynatemp-range"] = SAMPLING, samplers = SAMPLING,
  ["logit-bias"] = SAMPLING, ["mirostat-lr"] = SAMPLING, ["mirostat-ent"] = SAMPLING,
  xtc = SAMPLING,
  ["ignore-eos"] = "a text ends after --tokens, or at --stop TEXT alone", grammar = NO_GRAMMAR,
  ["json-schema"] = NO_GRAMMAR, ["grammar-file"] = NO_GRAMMAR, i = CHAT, interactive = CHAT,
  ["interactive-first"] = CHAT, sys = CHAT, ["system-prompt"] = CHAT, ["chat-template"] = CHAT,
  ["in-prefix"] = CHAT, ["flash-attn"] = "attention is the model's own",
  fa = "attention is the model's own",
  ["rope-freq-base"] = "positions are the model's own",
  ["rope-scaling"] = "positions are the model's own",
  numa = CPU, ["split-mode"] = CPU, ["tensor-split"] = CPU, ["main-gpu"] = CPU,
  embedding = "it is performer embed",
  ["prompt-cache"] = CACHE, keep = "what a stream remembers has one size, whatever it has read",
  e = SHELL, escape = SHELL,
  lora = "a run has its adapters: performer train --init RUN --adapters 8",
  overwrite = "a run is not written over: choose another --out",
  force = "a run is not written over: choose another --out",
  config = "settings are options; an architecture of one's own is --model FILE.lua",
  ["always-save-checkpoint"] = "every evaluation saves one",
  ["ctx-size"] = "what a stream remembers has one size, whatever it has read",
  c = "what a stream remembers has one size, whatever it has read",
  shuffle = "rows are shuffled, by --seed", version = "performer --version says it",
}

-- What the choices of options are called elsewhere, and what is said of them.
cli_words.values, cli_words.value_hint = choices.values, choices.hint
cli_words.with_value = choices.told

--- What is said behind "unknown option 'WORD'", WORD with its dashes, where a command has options
-- of these names (without them).
function cli_words.hint(word, names)
  local bare = word:gsub("^%-+", ""):gsub("_", "-"):lower()
  local has = {}
  for _, name in ipairs(names) do has[name] = true end
  if has[bare] then return (" (did you mean '--%s'?)"):format(bare) end
  local meant = cli_words.options[bare]
  for _, name in ipairs(meant or {}) do
    if has[name] then return "; it is " .. (meant.say or "--" .. name) end
  end
  if cli_words.notes[bare] then return "; " .. cli_words.notes[bare] end
  local near = core.nearest(bare, names)
  return near and (" (did you mean '--%s'?)"):format(near) or ""
end

return cli_words
