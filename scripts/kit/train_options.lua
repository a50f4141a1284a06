--- train_options.lua - what `performer train` can be told: its options, what each comes to for
-- proteins and for text, and the settings that a run keeps. Those of the model are made from the
-- engine's tables (model_options.lua).
local attention = require "kit.attention"
local carried = require "kit.carried"
local cli = require "kit.cli"
local cli_words = require "kit.cli_words"
local course = require "kit.course"
local engine = require "kit.engine"
local lanes = require "kit.lanes"
local lists = require "kit.lists"
local model_options = require "kit.model_options"
local optimizer_options = require "kit.optimizer_options"
local trainable = require "kit.trainable"
local pf = require "performer"
local ranks = require "kit.ranks"
local run_data = require "kit.run_data"
local schedule = require "kit.schedule"

local train_options = {}

-- `keep`: one of a run's settings, which its checkpoints hold.
local OWN = {
  { "out", "folder", nil, "run folder to make (default runs/NAME-DATE)", group = "Run" },
  { "resume", "folder", nil, "go on exactly where this run's last checkpoint stands",
    group = "Run" },
  { "continue", "flag", nil, "go on where the run in --out stands, or begin it: one command for "
    .. "the first start and every other", group = "Run" },
  { "lanes", "positive", nil, "fixed parts of a step's batch: the same bits on 1 to so many ranks "
    .. "(mpirun, srun; default: the ranks that begin the run)", group = "Run", keep = true },
  { "segments", "positive", nil, "rows in so many parts, which the ranks share, where one row is "
    .. "more than a rank can hold: the same bits on 1 to so many ranks, or with --lanes on so many "
    .. "times that; linear attention only", group = "Run", keep = true },
  { "segment-form", { "scan", "chain" }, nil, "what stands before a part is joined by a scan of "
    .. "states, or a part waits for the one before, which is fewer flops with many rows", "scan",
    group = "Run", keep = true },
  { "row-ranks", "positive", nil, "of --segments: ranks that share a row, while others have other "
    .. "rows (default: as many as can)", group = "Run" },
  ranks.TIMEOUT,
  { "seed", "seed", 1, "of everything random", group = "Run", keep = true },
  engine.threads { group = "Run" },
  engine.memory { group = "Run" },
  { "eval-every", "positive", nil, "steps between evaluations and checkpoints", group = "Run",
    keep = true },
  { "log-every", "positive", 10, "steps between log lines", group = "Run", keep = true },
  { "save-minutes", "number", 10, "minutes after which a checkpoint is saved in between",
    group = "Run", keep = true },
  { "keep", "positive", 2, "checkpoints to keep, beside the best", group = "Run", keep = true },
  { "json", "flag", nil, "log lines as JSON on stdout", group = "Run", own = true },
  { "tensorboard", "switch", nil, "an event file for TensorBoard, too, beside log.jsonl and "
    .. "log.csv", "off", group = "Run", keep = true },
  { "length", "positive", nil, "tokens a row", group = "Training", keep = true },
  { "batch", "positive", nil, "rows a step", group = "Training", keep = true },
  { "optimizer", "name", optimizer_options.DEFAULT, "how weights follow their gradients: "
    .. table.concat(optimizer_options.names(), ", "), group = "Training", keep = true,
    names = optimizer_options.names() },
  { "decay", "number", nil, "weight decay", group = "Training", keep = true },
  { "group", "text", nil, "PATTERN:option=value,...: options of the optimizer's, lr_scale and rows "
    .. "(touched or all: what a step moves), for the parameters whose names fit, as "
    .. "embedding:lr_scale=0.1,decay=0 or ngrams:rows=all; may be given again, and "
    .. "the first that fits counts", group = "Training", many = "times" },
  { "clip", "number", nil, "largest gradient norm (0: none)", group = "Training", keep = true },
  { "bidirectional", "switch", nil, "masked language model instead of a causal one", "off",
    group = "Training", keep = true },
  { "sliced", "positive", nil, "train on so many parts of a row one after the other: the memory of "
    .. "one part; causal models with linear attention or windows", group = "Training",
    keep = true },
  { "slice-length", "positive", nil, "the same with parts of so many tokens", group = "Training",
    keep = true },
  { "carry", "positive", nil, "rows go on where those of the step before ended: windows see so "
    .. "many positions of before, linear attention all of them (its sums), without their "
    .. "gradient; causal only", group = "Training", keep = true },
  { "carry-form", { "keys", "rows" }, nil, "what windows carry: keys and values, or the inputs of "
    .. "their layers, of which these are made again by the weights as they are then "
    .. "(Transformer-XL)", "keys", group = "Training", keep = true },
  { "model", "file", nil, "a Lua file that returns function(options) -> model", group = "Model" },
  { "attention", "name", "softmax", ("a kind of attention: %s (one of these by the length); or the "
    .. "feature map of a kernel: %s"):format(
    table.concat(attention.kind_names(), ", ") .. ", auto",
    table.concat(attention.names(), ", ", #attention.kind_names() + 2)), group = "Model",
    keep = true, names = attention.names() },
  { "plain", "flag", nil, "without what the defaults have beside attention, and what hides the "
    .. "kernel in a comparison: --ngrams 0 --conv 0 --head-decay 0, but for those that are given",
    group = "Model" },
  { "crossover", "file", nil, "what `performer bench crossover --out` measured, for auto",
    group = "Model", needs = "auto" },
  { "buckets", "positive", nil, "rows of the n-gram memory for each n (default: a 32nd of the "
    .. "tokens)", group = "Model", keep = true, needs = "ngrams" },
}

--- Puts rows into OWN before the one called `name`.
local function insert_before(name, rows)
  local at = 1
  while OWN[at][1] ~= name do at = at + 1 end
  for i, row in ipairs(rows) do table.insert(OWN, at + i - 1, row) end
end

insert_before("optimizer", course.rows)
insert_before("model", trainable.rows)
insert_before("out", run_data.rows())

--- What a user gets who names nothing: found by trying (engine/DIARY.md).
local PRESETS = {
  protein = { length = 512, batch = 8, ngrams = 6 },
  text = { length = 256, batch = 4, ngrams = 0 },
}
-- What --plain does without: it learns short contexts by itself, whatever attention does.
local PLAIN = { ngrams = 0, conv = 0, head_decay = 0 }

for _, preset in pairs(PRESETS) do
  for name, value in pairs {
    dim = 128, layers = 4, heads = 4, features = 64, conv = 4, head_decay = 1, qk_norm = true,
    -- The engine's own defaults, as words for a model's script.
    dropout = 0, redraw = 0, positions = "rotary", act = "gelu", norm = "layernorm",
    recompute = false, reversible = false,
    lr = 4e-3, warmup = 60, decay = 0.1, clip = 1.0, minutes = 3, eval_every = 200,
  } do
    preset[name] = value
  end
end

--- What may be given with --resume; all else is the run's own.
local RESUMABLE = { "resume", "out", "data", "valid", "format", "skip_bad", "model", "steps",
                    "patience", "threads", "memory", "keep", "eval_every", "log_every",
                    "save_minutes", "tensorboard", "recompute", "sliced", "slice_length", "json",
                    "timeout", "row_ranks" }

--- Names of RESUMABLE, by name.
local function resumable()
  local names = {}
  for _, name in ipairs(RESUMABLE) do names[name] = true end
  return names
end

--- The optimizer's rows: words that stand for something else are taken.
local function make_optimizer_rows()
  local taken = {}
  for _, list in ipairs { OWN, model_options.rows } do
    for _, row in ipairs(list) do taken[row[1]] = true end
  end
  return optimizer_options.rows(taken)
end

local OPTIMIZER = make_optimizer_rows()

--- All rows, with what the presets say for the help.
local function make_rows()
  local rows = {}
  for _, list in ipairs { OWN, OPTIMIZER, model_options.rows } do
    table.move(list, 1, #list, #rows + 1, rows)
  end
  for _, row in ipairs(rows) do
    local protein, text = PRESETS.protein[cli.key(row)], PRESETS.text[cli.key(row)]
    if protein ~= nil then
      row[5] = protein == text and protein or ("%s, for text %s"):format(protein, text)
      if row[2] == "switch" then row[5] = protein and "on" or "off" end
    end
  end
  return rows
end

local ROWS = cli.place(make_rows(), { "data", "file" })
train_options.rows = ROWS

-- ---- the command line ----

--- A run's settings and records are JSON, which has no other texts: better known before it trains.
local function check_texts(given)
  for name, value in pf.sorted(given) do
    for _, text in ipairs(type(value) == "table" and value or { value }) do
      if type(text) == "string" and not utf8.len(text) then
        cli.fail(2, ("train: --%s %s is no UTF-8 text, which a run's records are: rename it")
          :format((name:gsub("_", "-")), cli.utf8(text)))
      end
    end
  end
end

--- Complaints that need no file.
local function check(options, given)
  check_texts(given)
  if not options.data and not options.resume then
    cli.fail(2, "train: say what to train on: train FILE, or --data FILE (or --resume FOLDER)")
  end
  course.check(options)
  run_data.check(options)
  trainable.check(options)
  if options.sliced and options.slice_length then
    cli.fail(2, "train: give --sliced or --slice-length, not both")
  end
  attention.check_name("attention", options.attention)
  if given.attention and (given.attentions or given.head_groups) then
    cli.fail(2, ("train: give --attention or --%s, not both"):format(
      given.attentions and "attentions" or "head-groups"))
  end
  cli.check_name("optimizer", options.optimizer, optimizer_options.names())
  optimizer_options.check(OPTIMIZER, given, options.optimizer)
  lanes.check_options(options)
  if not options.resume then return end
  local allowed = resumable()
  for name in pf.sorted(given) do
    if not allowed[name] then
      cli.fail(2, ("train: --%s can't change with --resume: the run keeps its own; leave it out")
        :format((name:gsub("_", "-"))))
    end
  end
end

--- How the program that parses these is called: "train", or the path of a copy of it, which goes
-- on with a run of its own by itself.
local function name_of(script)
  local folder = debug.getinfo(1, "S").source:match "^@(.*)kit/[^/]+$"
  return (script == nil or script == folder .. "train.lua") and "train" or cli.quote(script)
end

--- The command as it can be pasted into a shell.
local function command_of(arguments)
  local words = { train_options.program }
  for _, word in ipairs(arguments) do words[#words + 1] = cli.quote(word) end
  return table.concat(words, " ")
end

--- The options of the command line, checked; options.given: those that the user typed;
-- options.command: all of it.
function train_options.parse(arguments)
  local name = name_of(arguments[0])
  train_options.program = "performer " .. name
  train_options.called = cli.called(train_options.program)
  local examples = {}
  for i, example in ipairs { "proteins.fasta.gz --minutes 3",
                             "book.txt --length 512 --steps 2000 --out runs/book",
                             "--resume runs/book",
                             "--resume runs/book --steps 4000        # longer than planned" } do
    examples[i] = ("%s %s"):format(train_options.program, example)
  end
  local parser = cli.add(cli.parser(name, "Trains a Performer and keeps it in a run folder.",
                                    examples), ROWS)
  local options, given = cli.parse(parser, ROWS, arguments)
  run_data.settle(options)
  run_data.settle(given)
  options.given, options.command = given, command_of(arguments)
  check(options, given)
  return options
end

--- The engine's complaint in the words of the command line.
local function typed(message)
  local group, what = message:match "groups%[(%d+)%]: (.*)$"
  if group then return ("train: --group, number %s: %s"):format(group, what) end
  local words = optimizer_options.is_of(message) and optimizer_options.typed(message, OPTIMIZER)
    or model_options.typed(message)
  words = cli_words.with_value(words)
  if words == message then return message end
  local n -- where it stands in the engine's tree is of no use here
  repeat words, n = words:gsub("%f[%w]%a+: (%-%-)", "%1") until n == 0
  return ("%s; %s --help lists what there is"):format(words, train_options.called)
end

--- f(...), whose complaint is misuse, in the words of the command line.
function train_options.try(f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local message = results[2]
  cli.try(2, error, type(message) == "string" and typed(message) or message, 0)
end

-- ---- checks of settings ----

local function check_heads(model)
  local dim, heads = model.dim, model.heads
  if (model.head_dim or 0) > 0 or dim < 1 or heads < 1 or dim % heads == 0 then return end
  while dim % heads ~= 0 do heads = heads - 1 end
  cli.fail(2, ("train: --heads %d does not divide --dim %d; try --heads %d"):format(
    model.heads, dim, heads))
end

-- Positions of a slice, at least.
local LEAST = 16

--- The positions of a slice; nil: rows are trained on as wholes. A batch of shorter rows has fewer
-- slices.
function train_options.slice_length(settings)
  if settings.slice_length then return settings.slice_length end
  if settings.sliced == 1 then return nil end
  return math.max(LEAST, -(-settings.length // settings.sliced))
end

--- Parts of a row can be handed on by causal linear attention only, and are to be worth it.
-- `model`, once there is one, knows what auto chose.
function train_options.check_sliced(settings, model)
  local n, length = settings.sliced, train_options.slice_length(settings)
  if not length then return end
  local option = n > 1 and "--sliced" or "--slice-length"
  if settings.bidirectional then
    cli.fail(2, ("train: %s is for causal models: where a position sees what comes after it, a "
      .. "slice can't be told apart; leave out --bidirectional or %s"):format(option, option))
  end
  local kind = model and attention.kind_of(model:options())
  if kind and not attention.hands_on(kind) then
    cli.fail(2, ("train: %s is for linear attention and windows: %s attention has no state of "
      .. "fixed size to hand from slice to slice; try --recompute"):format(option, kind))
  end
  if length < LEAST then
    cli.fail(2, ("train: --slice-length %d: a slice has at least %d positions"):format(length,
      LEAST))
  end
  if settings.length // n < LEAST then
    cli.fail(2, ("train: --sliced %d leaves %d positions of --length %d to a slice, which has at "
      .. "least %d; try --sliced %d"):format(n, settings.length // n, settings.length, LEAST,
      math.max(1, settings.length // LEAST)))
  end
end

--- Reversible blocks are run once more as it is: recomputing would save nothing.
function train_options.check_recompute(options, settings)
  if not options.recompute or not settings.model.reversible then return end
  cli.fail(2, "train: --recompute does nothing with --reversible, which saves memory by itself; "
    .. "leave out --recompute")
end

-- ---- settings ----

--- The options of pf.nn.performer, as words say them.
local function model_of(words)
  local model = model_options.collect(words)
  local chosen = attention.model_options(words.attention)
  model.kernel = model.kernel or {}
  model.attention, model.kernel.name = chosen.attention, chosen.kernel.name
  model.length, model.causal = words.length, not words.bidirectional
  if not lists.reads_kernel(model) then model.kernel = nil end
  if words.bidirectional then model.decay = 0 end
  local ngrams = model.ngrams
  if ngrams and ngrams.longest and ngrams.longest > 0 then
    ngrams.shortest = ngrams.shortest or math.min(3, ngrams.longest)
    ngrams.buckets = words.buckets
  else
    model.ngrams = nil
  end
  return model
end

--- The groups of the optimizer's from the texts of --group; nil: none.
local function groups_of(texts)
  local groups = {}
  for i, text in ipairs(texts or {}) do
    local message
    groups[i], message = optimizer_options.group(text)
    if not groups[i] then cli.fail(2, "train: --group: " .. message) end
  end
  return #groups > 0 and groups or nil
end

--- The settings that words come to: { attention, batch, lr, ..., script, model = {...} }. `model`
-- is what pf.nn.performer takes, but for the vocabulary; `script` a file that makes another one;
-- `optimizer_options` what pf.optim[settings.optimizer] takes.
local function settle(words)
  local settings = { script = words.model, model = model_of(words),
                     optimizer_options = optimizer_options.collect(words, OPTIMIZER),
                     schedule_options = schedule.collect(words) }
  settings.optimizer_options.groups = groups_of(words.group)
  for _, row in ipairs(OWN) do
    if row.keep then settings[cli.key(row)] = words[cli.key(row)] end
  end
  settings.optimizer = settings.optimizer or optimizer_options.DEFAULT
  settings.bidirectional, settings.sliced = words.bidirectional or false, words.sliced or 1
  return settings
end

--- The user's words over the preset of `kind`: "fasta" or "text".
function train_options.settings(options, kind)
  local words = {}
  for name, value in pairs(kind == "fasta" and PRESETS.protein or PRESETS.text) do
    words[name] = value
  end
  if options.optimizer ~= optimizer_options.DEFAULT then -- the preset's are not for it
    for _, name in ipairs { "lr", "decay" } do
      words[name] = optimizer_options.default(options.optimizer, name)
    end
  end
  for name, value in pairs(options.plain and PLAIN or {}) do words[name] = value end
  for name, value in pairs(options) do words[name] = value end
  course.fit_words(words, options)
  local settings = settle(words)
  settings.own_warmup = options.warmup ~= nil
  lanes.settle(settings, options)
  course.check_step(settings)
  if options.from then options.from:settle(settings, options, options.plain and PLAIN) end
  if not settings.script then check_heads(settings.model) end
  if not settings.script then -- a script may make of its words what it likes
    model_options.tell_useless(ROWS, options.given, settings.model)
  end
  train_options.check_sliced(settings)
  carried.check(settings)
  train_options.check_recompute(options, settings)
  return settings
end

--- Rows for each n of an n-gram memory: a power of two, so many as a 32nd of the tokens.
local function buckets_for(tokens)
  local rows = 1024
  while rows < tokens / 32 and rows < 1 << 20 do rows = rows * 2 end
  return rows
end

--- Settles what depends on the data: the vocabulary, the rows of an n-gram memory, and those that
-- are evaluated.
function train_options.fit(settings, data)
  local model = settings.model
  course.fit_length(settings, data)
  course.fit_evaluation(settings, data)
  model.vocab = data:tokenizer():size()
  settings.buckets = settings.buckets or buckets_for(data:info("train").tokens)
  if model.ngrams then model.ngrams.buckets = settings.buckets end
end

--- The settings that a checkpoint holds; those of 0.1.0 had the model's words among the others,
-- and lacked what came later.
function train_options.saved(settings)
  if type(settings.model) ~= "table" then settings = settle(settings) end
  settings.save_minutes = settings.save_minutes or 10
  settings.lanes = settings.lanes or 1
  settings.patience, settings.accumulate = settings.patience or 0, settings.accumulate or 1
  settings.schedule = settings.schedule or schedule.DEFAULT
  settings.schedule_options = settings.schedule_options or {}
  return settings
end

--- --continue finds a run: what its command says must be what the run has, but for what may change.
function train_options.check_same(options, settings, dir)
  local words, may = train_options.words(settings), resumable()
  for name, value in pf.sorted(options.given) do
    local has = words[name]
    if not may[name] and has ~= nil and type(has) ~= "table" and has ~= value then
      cli.fail(2, ("train: the run in %s has --%s %s, and the command says %s; begin another run, "
        .. "or leave it out"):format(dir, (name:gsub("_", "-")), tostring(has), tostring(value)))
    end
  end
end

--- Settings as the words that a model's script is given: the model's options (dim, heads,
-- features, ...) among the others.
function train_options.words(settings)
  local words = model_options.words(settings.model)
  for name, value in pairs(settings) do words[name] = value end
  words.lanes = settings.lanes and lanes.of_rows(settings)
  words.model, words.script, words.vocab = settings.script, nil, settings.model.vocab
  words.optimizer_options, words.schedule_options = nil, nil
  words.ngrams = words.ngrams or 0
  return words
end

return train_options
