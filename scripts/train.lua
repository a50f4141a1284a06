--- performer train - trains a Performer on proteins (FASTA) or text, logs, checkpoints, resumes.
local pf = require "performer"
local cli = require "kit.cli"
local train_options = require "kit.train_options"
local trainer = require "kit.trainer"
local lfs = require "lfs"

--- Opens the data and sees to it that there is enough to train on.
local function open_data(settings)
  local data = cli.need(pf.data.open { path = settings.data, length = settings.length,
                                       seed = settings.seed })
  cli.try(1, data.batch, data, { size = 1, masked = settings.bidirectional })
  return data
end

local function build_model(settings, vocab)
  if settings.model then
    local options = { vocab = vocab }
    for key, value in pairs(settings) do options[key] = value end
    return cli.need(trainer.model_from(settings.model, options))
  end
  return cli.try(2, pf.nn.performer, {
    vocab = vocab, dim = settings.dim, layers = settings.layers, heads = settings.heads,
    hidden = settings.hidden, length = settings.length, causal = not settings.bidirectional,
    act = settings.act, norm = settings.norm, positions = settings.positions,
    dropout = settings.dropout, conv = settings.conv,
    decay = not settings.bidirectional and settings.head_decay or 0,
    qk_norm = settings.qk_norm == "on", recompute = settings.recompute,
    reversible = settings.reversible,
    ngrams = settings.ngrams > 0 and { shortest = math.min(3, settings.ngrams),
                                       longest = settings.ngrams,
                                       buckets = settings.buckets } or nil,
    -- "identity" is the attention that returns its values, not the map f(u) = u.
    attention = settings.attention == "identity" and "identity" or nil,
    kernel = { name = settings.attention, features = settings.features, redraw = settings.redraw,
               preset = settings.preset, scale = settings.scale, eps = settings.eps },
  })
end

local function new_optimizer(model, settings)
  return pf.optim.adamw(model, { lr = settings.lr, decay = settings.decay, betas = { 0.9, 0.98 } })
end

-- ---- the job: settings, data, model, optimizer, state, and the folder ----

local function make_folder(path)
  local made = path:sub(1, 1) == "/" and "/" or ""
  for part in path:gmatch "[^/]+" do
    made = made .. part
    local mode = lfs.attributes(made, "mode")
    if mode and mode ~= "directory" then
      cli.fail(1, ("train: can't make the folder %s: %s is a file; choose another --out"):format(
        path, made))
    end
    if not mode then
      local ok, message = lfs.mkdir(made)
      if not ok then
        cli.fail(1, cli.advise(("train: can't make the folder %s: %s"):format(made, message)))
      end
    end
    made = made .. "/"
  end
end

local function default_folder(settings)
  local name = settings.data:match("([^/]+)/*$"):gsub("%.gz$", ""):gsub("%.[%w.]+$", "")
  return ("runs/%s-%s"):format(name, os.date("%Y%m%d-%H%M%S"))
end

--- A folder that holds a run is not written over.
local function check_free(dir)
  if lfs.attributes(dir .. "/LATEST", "mode") then
    cli.fail(2, ("train: %s holds a run already; go on with it (--resume %s) or choose another "
      .. "--out"):format(dir, cli.quote(dir)))
  end
end

--- What tells one data file from another, as far as training goes.
local function fingerprint(data)
  local train, valid = data:info "train", data:info "valid"
  return { documents = train.documents + valid.documents, tokens = train.tokens,
           held_out = valid.tokens }
end

local function fresh(options)
  local dir = options.out
  if dir then check_free(dir) end
  local settings = train_options.settings(options, cli.need(pf.data.kind(options.data)))
  pf.seed(settings.seed)
  local data = open_data(settings)
  settings.buckets = settings.buckets or train_options.buckets_for(data:info("train").tokens)
  if options.crossover then cli.need(pf.attention.use_crossover(options.crossover)) end
  local model = build_model(settings, data:tokenizer():size())
  train_options.check_sliced(settings, model)
  return { settings = settings, data = data, model = model,
           optimizer = new_optimizer(model, settings),
           state = { step = 0, seconds = 0, data = fingerprint(data) },
           dir = dir or default_folder(settings) }
end

--- Ends with what a finished run said last.
local function already_finished(job, options)
  job.data:close()
  cli.say("train: %s has finished its %d steps; train longer with: performer train --resume %s "
    .. "--steps %d", job.dir, job.state.step, cli.quote(job.dir), 2 * job.state.step)
  local last
  local file = options.json and io.open(job.dir .. "/log.jsonl", "rb")
  for line in file and file:lines() or function() end do last = line end
  if file then file:close() end
  last = last and pf.json.decode(last)
  if last and last.final then cli.print_json(last) end
  pf.exit(0)
end

local function resumed(options)
  local run = options.out and trainer.run_folder(options.resume)
    or cli.need(trainer.run_folder(options.resume))
  local saved = cli.need(trainer.open(options.resume, {
    script = options.model, optimizer = new_optimizer, recompute = options.recompute }))
  local state = saved.state
  local settings = state and state.settings
  if not settings or not saved.optimizer then
    cli.fail(1, ("train: %s holds no training state; only runs of `performer train` resume")
      :format(options.resume))
  end
  for _, name in ipairs { "data", "model", "keep", "eval_every", "log_every" } do
    settings[name] = options.given[name] or settings[name]
  end
  settings.recompute = options.recompute or settings.recompute or false
  settings.sliced = options.sliced or settings.sliced
  train_options.check_sliced(settings, saved.model)
  train_options.check_recompute(options, settings)
  if options.out and options.out ~= run then check_free(options.out) end
  if not lfs.attributes(settings.data, "mode") then
    cli.fail(1, ("train: %s, which the run trains on, is not there; say with --data FILE where it "
      .. "is"):format(settings.data))
  end
  local job = { settings = settings, model = saved.model, optimizer = saved.optimizer,
                state = state, data = open_data(settings), dir = options.out or run, from = run }
  local now, before = fingerprint(job.data), state.data
  if before and (now.documents ~= before.documents or now.tokens ~= before.tokens) then
    cli.say("train: %s is not what the run began with (%d training tokens, it had %d): the run "
      .. "goes on, but not as it would have", settings.data, now.tokens, before.tokens)
  end
  if options.steps and options.steps ~= settings.steps then
    if options.steps <= state.step then
      cli.fail(2, ("train: %s has done %d steps already; --steps must be more"):format(
        options.resume, state.step))
    end
    settings.steps, settings.minutes, state.finished = options.steps, nil, nil
  end
  if state.finished then already_finished(job, options) end
  return job
end

--- What the model is, in a few words: the script it comes from, or its attention.
local function attention_of(job)
  local s = job.settings
  if s.model then return s.model end
  if s.attention ~= "auto" then return s.attention .. " attention" end
  return (job.model:options().attention == "exact" and "exact" or "softmax")
    .. " attention, chosen by auto"
end

local function describe(job)
  local train, valid = job.data:info("train"), job.data:info("valid")
  local s = job.settings
  local documents = train.format == "fasta" and (", %d sequences, %d duplicates dropped"):format(
    train.documents + valid.documents, train.duplicates + valid.duplicates) or ""
  cli.say("data   %s: %s%s", s.data, train.format, documents)
  cli.say("       %d training tokens, %d held out", train.tokens, valid.tokens)
  cli.say("model  %d parameters, %s, %d threads, kernels %s", job.model:count(),
          attention_of(job), pf.info().threads, pf.info().cpu_name)
  local chosen = not s.model and job.model:options().chosen
  if chosen then cli.say("       %s", chosen) end
  cli.say("run    %s%s", job.dir, job.state.step > 0 and
          (", going on after step %d"):format(job.state.step) or "")
end

-- ---- checkpoints ----

local function save(job, step)
  job.state.step, job.state.settings = step, job.settings
  local ok, message = pf.checkpoint.save(job.dir, {
    model = job.model, optimizer = job.optimizer, state = job.state, step = step,
    tokenizer = job.data:info().tokenizer, keep = job.settings.keep })
  if ok then job.saved = step end
  return ok, message
end

--- What the user has when something failed.
local function what_stands(job)
  if not lfs.attributes(job.dir .. "/LATEST", "mode") then return "no checkpoint was saved yet" end
  return ("the last good checkpoint stands; go on with: performer train --resume %s"):format(
    cli.quote(job.dir))
end

local function save_or_end(job, step)
  local ok, message = save(job, step)
  if ok then return end
  cli.fail(1, ("train: %s; %s"):format(cli.advise(message), what_stands(job)))
end

local function log_or_end(job, record)
  local ok, message = job.run:log(record)
  if ok then return end
  cli.fail(1, ("train: can't write the log: %s; %s"):format(cli.advise(message),
    what_stands(job)))
end

--- Ctrl-C: keeps what there is, and says how to go on.
local function interrupted(job, step)
  job.progress:finish()
  if job.saved ~= step then save_or_end(job, step) end
  cli.fail(130, ("train: stopped at step %d; go on with: performer train --resume %s"):format(
    step, cli.quote(job.dir)))
end

--- Evaluates (the first rows, or the whole split) at `step`. Ctrl-C waits for the first rows,
-- so that a run that goes on later has the same log; the whole split can be done again.
local function evaluate(job, step, whole)
  local result = trainer.evaluate(job.model, job.data, {
    batch = job.settings.batch, masked = job.settings.bidirectional,
    stop = whole and pf.interrupted or nil,
    limit = not whole and math.max(1, 24 // job.settings.batch) or nil,
    baseline = whole and job.settings.bidirectional,
    each = function(batch, batches)
      if batch < batches then
        job.progress:show(step, { ("evaluating, batch %d of %d"):format(batch, batches) })
      end
    end })
  if not result then interrupted(job, step) end
  return result
end

--- Saves, and marks the best so far. A mark that can't be written costs nothing.
local function keep(job, step, loss)
  local better = not job.state.best or loss < job.state.best
  if better then job.state.best = loss end
  save_or_end(job, step)
  if better then pf.checkpoint.mark(job.dir, "BEST", step) end
end

local function draw(job)
  local path, message = job.run:draw(job.title, job.lines)
  if not path and not job.warned then
    job.warned = true
    job.progress:finish()
    cli.say("train: no picture: %s", message)
  end
  return path
end

-- ---- the loop ----

--- With --minutes these steps are timed; fewer when they take a tenth of the time.
local TIMED = 24

--- Fixes the number of steps once enough of them are timed.
local function fix_steps(job, step, times)
  local s = job.settings
  local budget = s.minutes * 60
  if #times < TIMED and (#times < 3 or job.state.seconds < 0.1 * budget) then return end
  s.steps = step + trainer.steps_for(0.97 * (budget - job.state.seconds), times)
  job.progress.total = s.steps
  job.progress:finish()
  cli.say("steps  %d, as many as %g minutes take", s.steps, s.minutes)
end

local function lr_at(job, step)
  local s = job.settings
  if step <= s.warmup or not s.steps then
    return s.lr * math.min(1, step / math.max(1, s.warmup))
  end
  return pf.schedule.cosine { warmup = s.warmup, steps = s.steps, peak = s.lr,
                              floor = s.lr * 0.05 } (step)
end

--- Is `step` one that is logged?
local function is_logged(s, step)
  return step == 1 or step == s.steps or step % s.log_every == 0 or step % s.eval_every == 0
end

--- Says once a run that the estimate of softmax attention is hopeless, and what helps.
local function warn(job)
  local text = not job.state.error_told and trainer.attention_warning(job.model)
  if not text then return end
  job.state.error_told = true
  job.progress:finish()
  cli.say("train: %s", text)
end

--- One step; the loss must stay a number.
local function advance(job, step, batch)
  local s, state = job.settings, job.state
  local watch = is_logged(s, step)
  local lr = lr_at(job, step)
  local loss, norm = trainer.step(job.model, job.optimizer, batch,
                                  { step = step, lr = lr, clip = s.clip, watch = watch,
                                    sliced = s.sliced })
  if loss ~= loss or math.abs(loss) == math.huge then
    job.progress:finish()
    cli.fail(1, ("train: the loss is %s at step %d: try a lower --lr (it is %g); %s"):format(
      loss, step, lr, what_stands(job)))
  end
  if watch then warn(job) end
  local share = math.max(0.05, 1 / step) -- a plain mean at first
  state.smooth = (1 - share) * (state.smooth or 0) + share * loss
  return { step = step, loss = loss, smoothed = state.smooth, lr = lr,
           norm = norm == norm and norm < math.huge and norm or nil }
end

--- Evaluates, logs and saves at `step`, as far as it is time for each.
local function milestone(job, record, rate)
  local s, step = job.settings, record.step
  local last = step == s.steps
  local due = s.steps and not last and step % s.eval_every == 0
  local result = due and evaluate(job, step) or nil
  record.valid_loss = result and result.loss
  if result or last then record.attention = trainer.attention_record(job.model) end
  if is_logged(s, step) then
    record.tokens_per_s, record.seconds, record.steps = rate, job.state.seconds, s.steps
    record.bytes_peak = pf.memory().peak
    log_or_end(job, record)
  end
  if not result then return end
  keep(job, step, result.loss)
  draw(job)
  job.progress:show(step, { ("loss %.4f"):format(record.smoothed),
                            ("held out %.4f"):format(result.loss) }, true)
end

local function train_loop(job)
  local s, state = job.settings, job.state
  local first, times = state.step + 1, {}
  local last, tokens, mark = pf.clock(), 0, pf.clock()
  pf.interrupted() -- who asks gets the first Ctrl-C: from here on it means save and leave
  for step, batch in job.data:batches { size = s.batch, steps = s.steps or math.maxinteger,
                                        first = first, seed = s.seed, split = "train",
                                        masked = s.bidirectional } do
    local at = pf.clock()
    local record = advance(job, step, batch)
    local now = pf.clock()
    tokens = tokens + batch.tokens
    state.seconds, last = state.seconds + now - last, now
    if not s.steps then
      if step > first + 2 then times[#times + 1] = now - at end -- the first ones are slower
      fix_steps(job, step, times)
    end
    local rate = tokens / (now - mark)
    job.progress:show(step, { ("loss %.4f"):format(state.smooth),
                              ("%.0f tokens/s"):format(rate) })
    milestone(job, record, rate)
    if pf.interrupted() then interrupted(job, step) end
    if step == s.steps then break end
    if record.tokens_per_s then tokens, mark = 0, pf.clock() end -- it was logged
  end
end

--- The whole held-out part, the last checkpoint, the last record.
local function finish(job)
  local s, state = job.settings, job.state
  if job.saved ~= s.steps then save_or_end(job, s.steps) end -- before the long evaluation
  local result = evaluate(job, s.steps, true)
  job.progress:finish()
  local baseline = job.baselines and job.baselines.frequencies or result.baseline
  local record = { final = true, step = s.steps, train_loss = state.smooth,
                   valid_loss = result.loss, valid_perplexity = result.perplexity,
                   valid_accuracy = result.accuracy, baseline_perplexity = baseline,
                   pair_perplexity = job.baselines and job.baselines.pairs or nil,
                   tokens = result.tokens, params = job.model:count(), seconds = state.seconds,
                   steps = s.steps, bytes_peak = pf.memory().peak }
  state.finished = true
  keep(job, s.steps, result.loss)
  log_or_end(job, record)
  local picture = draw(job)
  cli.say("")
  cli.say("held out, %d tokens          perplexity   accuracy", result.tokens)
  cli.say("  this Performer             %10.3f   %6.2f %%", result.perplexity,
          100 * result.accuracy)
  if job.baselines then cli.say("  pairs (last token)         %10.3f", job.baselines.pairs) end
  if baseline then cli.say("  frequencies                %10.3f", baseline) end
  if job.baselines then cli.say("  uniform                    %10.3f", job.baselines.uniform) end
  cli.say("\nrun folder  %s (checkpoint step-%d, log.jsonl)", job.dir, s.steps)
  if picture then cli.say("picture     %s", picture) end
end

local function main()
  local options, given = train_options.parse(arg)
  options.given = given
  train_options.check(options, given)
  cli.try(2, pf.open, { threads = options.threads, memory = options.memory, seed = options.seed })
  local job = options.resume and resumed(options) or fresh(options)
  make_folder(job.dir)
  describe(job)
  job.title = ("%s, %s"):format(job.settings.data:match "([^/]+)/*$",
    attention_of(job))
  job.run = cli.need(trainer.run { dir = job.dir, json = options.json and cli.print_json,
                                   step = options.resume and job.state.step, from = job.from })
  job.progress = trainer.Progress.new { total = job.settings.steps, live = pf.term.isatty(2),
                                        clock = pf.clock, first = job.state.step,
                                        width = function() return pf.term.width(2) end }
  if not job.settings.bidirectional then job.baselines = trainer.baselines(job.data) end
  job.lines = job.baselines and { frequencies = math.log(job.baselines.frequencies),
                                  pairs = math.log(job.baselines.pairs) }
  train_loop(job)
  finish(job)
  job.run:close()
end

cli.main(main)
