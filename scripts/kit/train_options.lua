-- train_options.lua - what `performer train` can be told: its options, what each comes to for
-- proteins and for text, and the settings that a run keeps.
local pf = require "performer"
local cli = require "kit.cli"

local train_options = {}

local map_names = {}
for _, map in ipairs(pf.kernels().maps) do
  -- The word `identity` is the attention of that name here.
  if map.name ~= "identity" then map_names[#map_names + 1] = map.name end
end

local ROWS = {
  { "data", "file", nil, "FASTA (plain or gzip) or text to train on" },
  { "out", "folder", nil, "run folder to make (default runs/NAME-DATE)" },
  { "resume", "folder", nil, "go on exactly where this run's last checkpoint stands" },
  { "model", "file", nil, "a Lua file that returns function(options) -> model" },
  { "attention", "name", "softmax", ("a kernel: %s; exact; auto, exact or "
    .. "softmax by the length; or identity, which returns its values"):format(
    table.concat(map_names, ", ")) },
  { "crossover", "file", nil, "what `performer bench crossover --out` measured, for auto" },
  { "dim", "positive", nil, "model width" },
  { "layers", "positive", nil, "blocks" },
  { "heads", "positive", nil, "attention heads; must divide --dim" },
  { "features", "whole", nil, "random features a head (0: the kernel's own choice)" },
  { "preset", { "own", "authors", "pytorch" }, nil, "whose defaults of a kernel's options" },
  { "scale", "number", nil, "x = scale q before the kernel's map (default: the kernel's)" },
  { "eps", "number", nil, "added to the kernel's features (default: the kernel's)" },
  { "hidden", "positive", nil, "feed-forward width (default 4 x dim)" },
  { "length", "positive", nil, "tokens a row" },
  { "batch", "positive", nil, "rows a step" },
  { "steps", "positive", nil, "training steps (instead of --minutes; with --resume: the new end)" },
  { "minutes", "number", nil, "training time; fixes the steps from the speed of the first ones" },
  { "lr", "number", nil, "peak learning rate" },
  { "warmup", "whole", nil, "steps of linear warm-up" },
  { "decay", "number", nil, "AdamW weight decay" },
  { "clip", "number", nil, "largest gradient norm (0: none)" },
  { "dropout", "number", nil, "dropout in every block" },
  { "redraw", "whole", nil, "steps between draws of the projections (0: never)" },
  { "positions", { "rotary", "sinusoidal", "learned", "none" }, nil, "kind of positions" },
  { "act", "name", nil, "feed-forward activation: gelu, relu, swiglu, ..." },
  { "norm", { "layernorm", "rmsnorm" }, nil, "normalisation" },
  { "conv", "whole", nil, "width of the short convolution before attention (0: none)" },
  { "ngrams", "whole", nil, "longest n-gram of a hashed memory beside the embedding (0: none)" },
  { "buckets", "positive", nil, "rows of that memory for each n (default: a 32nd of the tokens)" },
  { "head-decay", "number", nil, "how fast the steepest head forgets, a token (0: none; causal)" },
  { "seed", "whole", 1, "of everything random" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "memory", "text", nil, "byte budget, such as 4G" },
  { "eval-every", "positive", nil, "steps between evaluations and checkpoints" },
  { "log-every", "positive", 10, "steps between log lines" },
  { "keep", "positive", 2, "checkpoints to keep, beside the best" },
  { "bidirectional", "flag", nil, "masked language model instead of a causal one" },
  { "qk-norm", { "on", "off" }, nil, "normalise queries and keys" },
  { "recompute", "flag", nil, "keep of a block its input only and run it again for its gradient: "
    .. "the same numbers, less memory, about a third more time" },
  { "reversible", "flag", nil, "reversible blocks, whose activations don't grow with depth" },
  { "sliced", "positive", nil, "train on so many parts of a row one after the other: the memory of "
    .. "one part; causal linear attention only" },
  { "json", "flag", nil, "log lines as JSON on stdout" },
}

--- What a user gets who names nothing: found by trying (engine/README.md, speed diary).
local PRESETS = {
  protein = { length = 512, batch = 8, lr = 4e-3, warmup = 60, ngrams = 6 },
  text = { length = 256, batch = 4, lr = 4e-3, warmup = 60, ngrams = 0 },
}
for _, preset in pairs(PRESETS) do
  for name, value in pairs {
    dim = 128, layers = 4, heads = 4, features = 64, conv = 4, head_decay = 1, qk_norm = "on",
    decay = 0.1, clip = 1.0, dropout = 0, redraw = 0, positions = "rotary", act = "gelu",
    norm = "layernorm", minutes = 3, eval_every = 200,
  } do
    preset[name] = value
  end
end

--- What may be given with --resume; all else is the run's own.
local RESUMABLE = { "resume", "out", "data", "model", "steps", "threads", "memory", "keep",
                    "eval_every", "log_every", "recompute", "sliced", "json" }

--- The rows with what the presets say, for the help.
local function documented()
  local rows = {}
  for i, row in ipairs(ROWS) do
    local key = row[1]:gsub("-", "_")
    local protein, text = PRESETS.protein[key], PRESETS.text[key]
    local shown = protein == text and protein or protein and text and
      ("%s, for text %s"):format(protein, text) or nil
    rows[i] = { row[1], row[2], row[3], row[4], shown }
  end
  return rows
end

--- The options of the command line, and those among them that the user typed.
function train_options.parse(arguments)
  local parser = cli.add(cli.parser("train", "Trains a Performer and keeps it in a run folder.", {
    "performer train --data proteins.fasta.gz --minutes 3",
    "performer train --data book.txt --length 512 --steps 2000 --out runs/book",
    "performer train --resume runs/book",
    "performer train --resume runs/book --steps 4000        # longer than planned",
  }), documented())
  return cli.parse(parser, ROWS, arguments)
end

--- Complaints that need no file. `given`: what the user typed.
function train_options.check(options, given)
  if not options.data and not options.resume then
    cli.fail(2, "train: say what to train on with --data FILE (or --resume FOLDER)")
  end
  if options.steps and options.minutes then
    cli.fail(2, "train: give --steps or --minutes, not both")
  end
  if options.minutes and options.minutes <= 0 then
    cli.fail(2, "train: --minutes must be more than 0")
  end
  local names = { "auto", "exact", "identity" }
  for _, map in ipairs(pf.kernels().maps) do names[#names + 1] = map.name end
  cli.check_name("attention", options.attention, names)
  if not options.resume then return end
  local allowed = {}
  for _, name in ipairs(RESUMABLE) do allowed[name] = true end
  for name in pf.sorted(given) do
    if not allowed[name] then
      cli.fail(2, ("train: --%s can't change with --resume: the run keeps its own; leave it out")
        :format((name:gsub("_", "-"))))
    end
  end
end

-- ---- settings: the user's words over the preset, all in one plain table ----

local SETTINGS = { "attention", "dim", "layers", "heads", "features", "preset", "scale", "eps",
                   "hidden", "length", "batch", "steps", "minutes", "lr", "warmup", "decay",
                   "clip", "dropout", "redraw", "positions", "act", "norm", "conv", "ngrams",
                   "buckets", "head_decay", "seed", "eval_every", "log_every", "keep",
                   "bidirectional", "qk_norm", "recompute", "reversible", "sliced", "data",
                   "model" }

local function check_heads(settings)
  if settings.dim % settings.heads == 0 then return end
  local heads = settings.heads
  while settings.dim % heads ~= 0 do heads = heads - 1 end
  cli.fail(2, ("train: --heads %d does not divide --dim %d; try --heads %d"):format(
    settings.heads, settings.dim, heads))
end

--- Slices can be handed on by causal linear attention only, and are to be worth it. `model`, once
-- there is one, knows what auto chose.
function train_options.check_sliced(settings, model)
  local n = settings.sliced or 1
  if n == 1 then return end
  if settings.bidirectional then
    cli.fail(2, "train: --sliced is for causal models: where a position sees what comes after it, "
      .. "a slice can't be told apart; leave out --bidirectional or --sliced")
  end
  local chosen = model and model:options().attention
  if settings.attention == "exact" or chosen == "exact" then
    cli.fail(2, "train: --sliced is for linear attention: exact attention has no state of fixed "
      .. "size to hand from slice to slice; try --recompute")
  end
  if settings.length // n < 16 then
    cli.fail(2, ("train: --sliced %d leaves %d positions of --length %d to a slice, which has at "
      .. "least 16; try --sliced %d"):format(n, settings.length // n, settings.length,
      math.max(1, settings.length // 16)))
  end
end

--- Both others run each block once more as it is: recomputing would save nothing.
function train_options.check_recompute(options, settings)
  local other = settings.reversible and "--reversible"
    or (settings.sliced or 1) > 1 and ("--sliced %d"):format(settings.sliced)
  if not options.recompute or not other then return end
  cli.fail(2, ("train: --recompute does nothing with %s, which saves memory by itself; leave out "
    .. "--recompute"):format(other))
end

--- The user's words over the preset of `kind`: "fasta" or "text".
function train_options.settings(options, kind)
  local settings = {}
  local preset = kind == "fasta" and PRESETS.protein or PRESETS.text
  for _, name in ipairs(SETTINGS) do
    settings[name] = options[name]
    if settings[name] == nil then settings[name] = preset[name] end
  end
  settings.bidirectional = options.bidirectional or false
  settings.recompute = options.recompute or false
  settings.reversible = options.reversible or false
  if options.steps then
    settings.minutes = nil
    -- A short run must get to its peak, and down again.
    if not options.warmup then
      settings.warmup = math.min(settings.warmup, math.max(1, options.steps // 4))
    end
  end
  if not settings.model then check_heads(settings) end
  train_options.check_sliced(settings)
  train_options.check_recompute(options, settings)
  return settings
end

--- Rows for each n of an n-gram memory: a power of two, so many as a 32nd of the tokens.
function train_options.buckets_for(tokens)
  local rows = 1024
  while rows < tokens / 32 and rows < 1 << 20 do rows = rows * 2 end
  return rows
end

return train_options
