--- performer train - trains a Performer on proteins (FASTA) or text, logs, checkpoints, resumes.
local pf = require "performer"
local cli = require "performer.cli"
local trainer = require "performer.trainer"
local lfs = require "lfs"

local ROWS = {
  { "data", "file", nil, "FASTA (plain or gzip) or text to train on" },
  { "out", "folder", nil, "run folder to make (default runs/NAME-DATE)" },
  { "resume", "folder", nil, "go on with this run, exactly where its last checkpoint stands" },
  { "model", "file", nil, "a Lua file that returns function(options) -> model" },
  { "attention", "name", "softmax", "softmax (FAVOR+), relu, elu, exact or identity" },
  { "dim", "positive", nil, "model width" },
  { "layers", "positive", nil, "blocks" },
  { "heads", "positive", nil, "attention heads; must divide --dim" },
  { "features", "whole", nil, "random features a head (0: the kernel's own choice)" },
  { "hidden", "positive", nil, "feed-forward width (default 4 x dim)" },
  { "length", "positive", nil, "tokens a row" },
  { "batch", "positive", nil, "rows a step" },
  { "steps", "positive", nil, "training steps (instead of --minutes)" },
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
  { "head-decay", "number", nil, "how fast the steepest head forgets, a token (0: none; causal)" },
  { "seed", "whole", 1, "of everything random" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "memory", "text", nil, "byte budget, such as 4G" },
  { "eval-every", "positive", nil, "steps between evaluations and checkpoints" },
  { "keep", "positive", 2, "checkpoints to keep, beside the best" },
  { "bidirectional", "flag", nil, "masked language model instead of a causal one" },
  { "qk-norm", "flag", nil, "normalise queries and keys" },
  { "json", "flag", nil, "log lines as JSON on stdout" },
}

--- What a user gets who names nothing: found by trying (engine/README.md, speed diary).
local PRESETS = {
  protein = { dim = 192, layers = 4, heads = 4, features = 96, length = 512, batch = 8,
              lr = 3e-3, warmup = 60, decay = 0.1, clip = 1.0, dropout = 0, redraw = 0,
              positions = "rotary", act = "gelu", norm = "layernorm", conv = 4,
              minutes = 3, eval_every = 200 },
  text = { dim = 192, layers = 4, heads = 4, features = 96, length = 256, batch = 16,
           lr = 3e-3, warmup = 60, decay = 0.1, clip = 1.0, dropout = 0, redraw = 0,
           positions = "rotary", act = "gelu", norm = "layernorm", conv = 4,
           minutes = 3, eval_every = 200 },
}

local function parse_arguments()
  local parser = cli.add(cli.parser("train", "Trains a Performer and keeps it in a run folder.", {
    "performer train --data proteins.fasta.gz --minutes 3",
    "performer train --data book.txt --length 512 --steps 2000 --out runs/book",
    "performer train --resume runs/book",
  }), ROWS)
  return cli.parse(parser, ROWS, arg)
end

local function check(options)
  if not options.data and not options.resume then
    cli.fail(2, "train: say what to train on with --data FILE (or --resume FOLDER)")
  end
  if options.steps and options.minutes then
    cli.fail(2, "train: give --steps or --minutes, not both")
  end
end

local function say(format, ...) io.stderr:write(format:format(...), "\n") end

-- ---- settings: the user's words over the preset, all in one plain table ----

local SETTINGS = { "attention", "dim", "layers", "heads", "features", "hidden", "length", "batch",
                   "steps", "minutes", "lr", "warmup", "decay", "clip", "dropout", "redraw",
                   "positions", "act", "norm", "conv", "head_decay", "seed", "eval_every", "keep",
                   "bidirectional", "qk_norm", "data", "model" }

local function settings_from(options, tokenizer)
  local settings = {}
  local preset = PRESETS[tokenizer] or PRESETS.text
  for _, name in ipairs(SETTINGS) do
    settings[name] = options[name]
    if settings[name] == nil then settings[name] = preset[name] end
  end
  if options.steps then settings.minutes = nil end
  if settings.dim % settings.heads ~= 0 then
    cli.fail(2, ("train: --heads %d does not divide --dim %d; try --heads %d"):format(
      settings.heads, settings.dim, (function()
        local heads = settings.heads
        while settings.dim % heads ~= 0 do heads = heads - 1 end
        return heads
      end)()))
  end
  return settings
end

local function open_data(settings)
  return cli.need(pf.data.open { path = settings.data, length = settings.length,
                                 seed = settings.seed })
end

local function build_model(settings, vocab)
  if settings.model then
    local chunk, message = loadfile(settings.model)
    if not chunk then cli.fail(1, message) end
    local options = { vocab = vocab }
    for key, value in pairs(settings) do options[key] = value end
    return chunk()(options)
  end
  return pf.nn.performer {
    vocab = vocab, dim = settings.dim, layers = settings.layers, heads = settings.heads,
    hidden = settings.hidden, length = settings.length, causal = not settings.bidirectional,
    act = settings.act, norm = settings.norm, positions = settings.positions,
    dropout = settings.dropout, conv = settings.conv,
    decay = not settings.bidirectional and settings.head_decay or 0, qk_norm = settings.qk_norm or false,
    kernel = { name = settings.attention, features = settings.features,
               redraw = settings.redraw },
  }
end

-- ---- the run ----

local function make_folder(path)
  local made = ""
  for part in path:gmatch("[^/]+") do
    made = made .. ((made == "" and path:sub(1, 1) ~= "/") and "" or "/") .. part
    if lfs.attributes(made, "mode") ~= "directory" then
      local ok, message = lfs.mkdir(made)
      if not ok then cli.fail(1, ("train: can't make the folder %s: %s"):format(made, message)) end
    end
  end
end

local function default_folder(settings)
  local name = settings.data:match("([^/]+)$"):gsub("%.[%w.]+$", "")
  return ("runs/%s-%s"):format(name, os.date("%Y%m%d-%H%M%S"))
end

--- A fresh start, or what a checkpoint holds.
local function start(options)
  if options.resume then
    local saved = cli.need(pf.checkpoint.load(options.resume))
    if not saved.state or not saved.state.settings then
      cli.fail(1, ("train: %s holds no training state; only runs of `performer train` resume")
        :format(options.resume))
    end
    local settings = saved.state.settings
    pf.seed(settings.seed)
    if options.data then settings.data = options.data end
    return { settings = settings, model = saved.model, optimizer = saved.optimizer,
             state = saved.state, data = open_data(settings),
             dir = saved.run or options.resume:gsub("/+$", "") }
  end
  local kind = cli.need(pf.data.kind(options.data))
  local settings = settings_from(options, kind)
  pf.seed(settings.seed)
  local data = open_data(settings)
  local model = build_model(settings, pf.tokenizer[data:info().tokenizer]():size())
  local optimizer = pf.optim.adamw(model, { lr = settings.lr, decay = settings.decay,
                                            betas = { 0.9, 0.98 } })
  return { settings = settings, data = data, model = model, optimizer = optimizer,
           state = { step = 0 }, dir = options.out or default_folder(settings) }
end

local function describe(job)
  local train, valid = job.data:info("train"), job.data:info("valid")
  local s = job.settings
  say("data   %s: %s, %d documents, %d duplicates dropped", s.data, train.format,
      train.documents + valid.documents, train.duplicates)
  say("       %d training tokens, %d held out", train.tokens, valid.tokens)
  say("model  %d parameters, %s attention, %d threads, kernels %s", job.model:count(),
      s.attention, pf.info().threads, pf.info().cpu_name)
end

local function save(job, step)
  job.state.step, job.state.settings = step, job.settings
  local ok, message = pf.checkpoint.save(job.dir, {
    model = job.model, optimizer = job.optimizer, state = job.state, step = step,
    tokenizer = job.data:info().tokenizer, keep = job.settings.keep })
  if not ok then return nil, message end
  return true
end

--- Evaluates (the first rows, or all), logs, saves, remembers the best.
local function milestone(job, run, step, whole)
  local limit = not whole and math.max(1, 24 // job.settings.batch) or nil
  local result = trainer.evaluate(job.model, job.data, {
    batch = job.settings.batch, limit = limit, masked = job.settings.bidirectional })
  run.valid[#run.valid + 1] = { step, result.loss }
  local better = not job.state.best or result.loss < job.state.best
  if better then job.state.best = result.loss end
  job.state.curve = { train = run.train, valid = run.valid }
  local ok, message = save(job, step)
  if not ok then
    cli.fail(1, ("train: the checkpoint at step %d could not be saved: %s; the last good one "
      .. "stands in %s"):format(step, message, job.dir))
  end
  if better then pf.checkpoint.mark(job.dir, "BEST", step) end
  return result
end

local function interrupted(job, run, step)
  local ok, message = save(job, step)
  run:close()
  if ok then
    cli.fail(130, ("train: stopped at step %d; go on with: performer train --resume %s"):format(
      step, job.dir))
  end
  cli.fail(1, ("train: stopped at step %d, but saving failed: %s"):format(step, message))
end

--- Steps until the schedule is known: --minutes is timed by these.
local TIMED = 24

local function lr_at(job, step)
  local s = job.settings
  local total = s.steps or math.huge
  if step <= s.warmup or total == math.huge then
    return s.lr * math.min(1, step / math.max(1, s.warmup))
  end
  return pf.schedule.cosine { warmup = s.warmup, steps = total, peak = s.lr,
                              floor = s.lr * 0.05 } (step)
end

local function train_loop(job, run, progress_live, baselines)
  local s = job.settings
  local first = job.state.step + 1
  local began, times = pf.clock(), {}
  local progress = trainer.Progress.new { total = s.steps or TIMED, live = progress_live,
                                          clock = pf.clock, first = first - 1 }
  local smooth, tokens, mark = nil, 0, pf.clock()
  local last_log = first - 1
  for step, batch in job.data:batches { size = s.batch, steps = s.steps or math.maxinteger,
                                        first = first, seed = s.seed, split = "train",
                                        masked = s.bidirectional or false } do
    local at = pf.clock()
    local loss, norm = trainer.step(job.model, job.optimizer, batch,
                                    { step = step, lr = lr_at(job, step), clip = s.clip })
    tokens = tokens + batch.tokens
    smooth = smooth and 0.95 * smooth + 0.05 * loss or loss
    if not s.steps then
      if step > first + 3 then times[#times + 1] = pf.clock() - at end
      if #times == TIMED then
        local budget = s.minutes * 60 - (pf.clock() - began)
        s.steps = step + trainer.steps_for(budget * 0.97, times) - #times
        progress.total = s.steps
      end
    end
    local now = pf.clock()
    local rate = tokens / (now - mark)
    progress:show(step, { ("loss %.4f"):format(smooth), ("%.0f tokens/s"):format(rate) })
    if step % 10 == 0 or step == s.steps then
      run.train[#run.train + 1] = { step, smooth }
      run:log { step = step, loss = loss, lr = lr_at(job, step), norm = norm,
                tokens_per_s = rate, seconds = now - began, bytes_peak = pf.memory().peak }
      last_log, tokens, mark = step, 0, now
    end
    if pf.interrupted() then interrupted(job, run, step) end
    if step == s.steps then break end
    if s.steps and step % s.eval_every == 0 then
      local result = milestone(job, run, step)
      run:draw(job.title, baselines)
      progress:show(step, { ("loss %.4f"):format(smooth), ("held out %.4f"):format(result.loss) },
                    true)
      mark, tokens = pf.clock(), 0
    end
  end
  progress:finish()
  return smooth, last_log, pf.clock() - began
end

local function finish(job, run, train_loss, seconds, baselines)
  local result = milestone(job, run, job.settings.steps, true)
  local picture = run:draw(job.title, baselines and {
    ["frequencies"] = math.log(baselines.frequencies), ["pairs"] = math.log(baselines.pairs) })
  run:log { final = true, step = job.settings.steps, train_loss = train_loss,
            valid_loss = result.loss, valid_perplexity = result.perplexity,
            valid_accuracy = result.accuracy,
            baseline_perplexity = baselines and baselines.frequencies or nil,
            pair_perplexity = baselines and baselines.pairs or nil,
            tokens = result.tokens, params = job.model:count(), seconds = seconds,
            steps = job.settings.steps, bytes_peak = pf.memory().peak }
  say("")
  say("held out, %d tokens          perplexity   accuracy", result.tokens)
  say("  this Performer             %10.3f   %6.2f %%", result.perplexity, 100 * result.accuracy)
  if baselines then
    say("  pairs (last token)         %10.3f", baselines.pairs)
    say("  frequencies                %10.3f", baselines.frequencies)
    say("  uniform                    %10.3f", baselines.uniform)
  end
  say("\nrun folder  %s (checkpoint step-%d, log.jsonl)", job.dir, job.settings.steps)
  if picture then say("picture     %s", picture) end
end

local function main()
  local options = parse_arguments()
  check(options)
  pf.open { threads = options.threads, memory = options.memory, seed = options.seed }
  local job = start(options)
  make_folder(job.dir)
  describe(job)
  job.title = ("%s, %s attention"):format(job.settings.data:match("([^/]+)$"),
                                          job.settings.attention)
  local run = cli.need(trainer.run { dir = job.dir, json = options.json,
                                     resume = options.resume })
  if job.state.curve then run.train, run.valid = job.state.curve.train, job.state.curve.valid end
  local baselines = not job.settings.bidirectional and trainer.baselines(job.data) or nil
  local lines = baselines and { frequencies = math.log(baselines.frequencies),
                                pairs = math.log(baselines.pairs) } or nil
  if job.settings.steps and job.state.step >= job.settings.steps then
    cli.fail(2, ("train: %s has already finished its %d steps"):format(job.dir, job.state.step))
  end
  local loss, _, seconds = train_loop(job, run, pf.term.isatty(2), lines)
  finish(job, run, loss, seconds, baselines)
  run:close()
end

main()
