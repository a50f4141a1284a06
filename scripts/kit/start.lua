--- start.lua - how a run of `train` begins: afresh, or where an earlier one stopped. Either way
-- what comes of it is a job: { settings, data, model, optimizer, state, dir [, from] }.
local attention = require "kit.attention"
local carried = require "kit.carried"
local checkpoint_share = require "kit.checkpoint_share"
local cli = require "kit.cli"
local course = require "kit.course"
local init = require "kit.init"
local lanes = require "kit.lanes"
local room = require "kit.room"
local trainable = require "kit.trainable"
local pf = require "performer"
local ranks = require "kit.ranks"
local run_data = require "kit.run_data"
local run_folder = require "kit.run_folder"
local saved = require "kit.saved"
local schedule = require "kit.schedule"
local train_options = require "kit.train_options"
local watched = require "kit.watched"

local start = {}

-- ---- which of the two ----

--- With --continue a run goes on where its folder holds one, and begins where it holds none.
function start.choose(options)
  if not options.continue or not ranks.once(saved.holds_run, options.out) then return end
  options.resume, options.out = options.out, nil
end

-- ---- afresh ----

--- A run from the beginning. make: { model = function(settings), optimizer = function(model,
-- settings) }.
function start.fresh(options, make)
  if options.out and ranks.first() then run_folder.check_free(options.out) end
  if saved.is_run(options.data) then
    cli.fail(2, ("train: %s is a run, and no data: go on with it (--resume %s), or begin with its "
      .. "weights (train FILE --init %s)"):format(options.data, cli.quote(options.data),
      cli.quote(options.data)))
  end
  local data = run_data.open("train", options)
  local from = init.open(options)
  options.from = from
  local settings = train_options.settings(options, data:info().format)
  pf.seed(settings.seed)
  run_data.lay(data, settings, options)
  train_options.fit(settings, data)
  if options.crossover then cli.need(pf.attention.use_crossover(options.crossover)) end
  if from then from:check(settings, data) end
  local stands = room.watch(settings, from and from.model and "init")
  local model = from and from:own_model() or make.model(settings)
  watched.tell(settings, options.given)
  local filled = from and from:fill(model)
  trainable.apply(model, settings)
  train_options.check_sliced(settings, model)
  carried.describe(model, settings, "train")
  local optimizer, once = make.optimizer(model, settings), data:info().once
  local fingerprint = run_data.fingerprint(data)
  run_data.check_everywhere("train", fingerprint)
  lanes.begin(settings, options, model, optimizer)
  stands(model)
  return { settings = settings, data = data, model = model, optimizer = optimizer, init = filled,
           carried = carried.begin(model, settings), near = run_data.nearness(data, settings),
           state = { step = 0, seconds = 0, data = fingerprint, once = once },
           dir = not options.find_lr
             and ranks.once(run_folder.fresh, options.out, settings,
                            once and "pipe" or run_data.title(settings)) }
end

-- ---- where an earlier run stopped ----

--- How a run that has finished is trained on.
local function say_finished(job)
  local s, state = job.settings, job.state
  local command = ("%s --resume %s"):format(train_options.called, cli.quote(job.dir))
  if state.stopped then
    cli.say("train: %s has ended at step %d of %d, after %s without progress; train on with: "
      .. "%s --patience %d", job.dir, state.step, s.steps, cli.count(state.waited, "evaluation"),
      command, 2 * state.waited)
  else
    cli.say("train: %s has finished its %s; train longer with: %s --steps %d", job.dir,
            cli.count(state.step, "step"), command, 2 * state.step)
  end
end

--- Ends with what a finished run said last.
local function already_finished(job, options)
  job.data:close()
  say_finished(job)
  local last
  local file = options.json and io.open(job.dir .. "/log.jsonl", "rb")
  for line in file and file:lines() or function() end do last = line end
  if file then file:close() end
  last = last and pf.json.decode(last)
  if last and last.final then cli.print_json(last) end
  pf.exit(0)
end

--- What may be changed of a run's settings when it goes on.
local function change_settings(settings, options, model)
  for _, name in ipairs { "data", "valid", "format", "skip_bad", "keep", "eval_every", "log_every",
                          "save_minutes", "tensorboard" } do
    if options.given[name] ~= nil then settings[name] = options.given[name] end
  end
  if options.sliced or options.slice_length then
    settings.sliced, settings.slice_length = options.sliced or 1, options.slice_length
  end
  if options.given.valid then settings.split, settings.valid_fraction = "auto", nil end
  settings.script = options.model or settings.script
  if options.recompute ~= nil then settings.model.recompute = options.recompute end
  if options.sliced or options.slice_length then train_options.check_sliced(settings, model) end
  train_options.check_recompute(options, settings)
end

--- --steps moves the end, and with it the course of the learning rate.
local function change_steps(job, options)
  local settings, state = job.settings, job.state
  if not options.steps or options.steps == settings.steps then return end
  if options.steps <= state.step then
    cli.fail(2, ("train: %s has done %s already; --steps must be more"):format(
      options.resume, cli.count(state.step, "step")))
  end
  local before = {}
  for name, value in pairs(settings) do before[name] = value end
  settings.steps, settings.minutes, settings.tokens, state.finished = options.steps, nil, nil, nil
  settings.final_batches = nil -- there is time now
  course.check_warmup(settings)
  schedule.try(settings)
  schedule.say_longer(settings, state.step, before)
end

--- --patience, or a new end, lets a run go on that had ended for want of progress.
local function change_patience(job, options)
  local settings, state = job.settings, job.state
  if options.given.patience then settings.patience = options.patience end
  if not state.stopped then return end
  if options.steps and options.steps == settings.steps and options.steps > state.step then
    state.waited = 0
  end
  if course.has_patience(settings, state) then state.stopped, state.finished = nil, nil end
end

--- Where a run goes on, and the folder that it comes from (nil: its checkpoint stands alone).
local function folders_of(options)
  local run, why = saved.run_folder(options.resume)
  if not run and not options.out and why:find "stands alone" then
    why = why .. "; say with --out FOLDER where to go on"
  end
  if not options.out then cli.need(run, why) end
  local dir = options.out or run
  if dir == run then
    run_folder.hold(dir)
  else
    run_folder.check_free(dir)
  end
  return { dir = dir, run = run }
end

--- The run of a folder, where its last checkpoint stands. `make` as for a fresh one.
function start.resumed(options, make)
  local folders = ranks.once(folders_of, options)
  local dir, run = folders.dir, folders.run
  local stands = room.watch(nil, "resume")
  local opened = cli.need(checkpoint_share.open(options.resume, {
    script = options.model, model = make.model, optimizer = make.optimizer,
    recompute = options.recompute }))
  local state = opened.state
  local settings = state and state.settings
  if not settings or not opened.optimizer then
    cli.fail(1, ("train: the newest checkpoint of %s holds no training state, so `performer "
      .. "train` did not save it; name one that it did, as --resume %s/step-N, or begin "
      .. "a run with its weights: --init %s"):format(options.resume,
      cli.quote(run or options.resume), cli.quote(options.resume)))
  end
  if options.continue then train_options.check_same(options, settings, dir) end
  change_settings(settings, options, opened.model)
  stands(opened.model, settings)
  local job = { settings = settings, model = opened.model, optimizer = opened.optimizer,
                state = state, data = run_data.reopen(settings, state, options), dir = dir,
                from = run }
  run_data.check_everywhere("train", run_data.fingerprint(job.data))
  lanes.begin(settings, options, job.model, job.optimizer)
  job.carried = carried.resumed(job.model, settings, options.resume)
  change_steps(job, options)
  change_patience(job, options)
  if state.finished then already_finished(job, options) end
  if not settings.valid_batches then -- of an older version, whose losses had several measures
    course.fit_evaluation(settings, job.data)
    state.best = nil
  end
  if not ranks.first() then return job end
  if dir ~= run then run_folder.fresh(dir, settings) end
  if dir == run and state.best_step == state.step then -- a kill may have come before the mark
    pf.checkpoint.mark(dir, "BEST", state.step)
  end
  pf.file.remove(dir .. "/LOST") -- of a start that lost a rank
  return job
end

-- ---- what it is ----

--- What the model is, in a few words: the script it comes from, or its attention.
function start.attention_of(job)
  local s = job.settings
  if s.script then return s.script end
  local options = job.model:options()
  return ("%s attention%s"):format(attention.label(options),
    options.chosen and ", chosen by auto" or "")
end

--- 1234567 -> "1,234,567".
local function grouped(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

--- Says on stderr what is trained, on what, and where.
function start.describe(job)
  local settings = job.settings
  run_data.describe(job)
  local memory = trainable.memory_of(job.model)
  local share = memory > 0 and (", %s of them the n-gram memory"):format(grouped(memory)) or ""
  local all, trained = trainable.count(job.model)
  if trained < all then share = ("%s, %s of them trained"):format(share, grouped(trained)) end
  cli.say("model  %s parameters%s", grouped(all), share)
  local threads = pf.info().threads
  cli.say("       %s, %s, kernels %s", start.attention_of(job), cli.count(threads, "thread"),
          pf.info().cpu_name)
  local chosen = not settings.script and job.model:options().chosen
  if chosen then cli.say("       %s", chosen) end
  if ranks.several() then
    for line in ranks.here().warnings:gmatch "[^\n]+" do cli.say("train: %s", line) end
    cli.say("ranks  %s; %d lane%s: the same bits on 1 to %d rank%s", ranks.describe(),
            settings.lanes, settings.lanes == 1 and "" or "s", settings.lanes,
            settings.lanes == 1 and "" or "s")
    if settings.segments then
      cli.say("       rows in %d segments, %d at a time, each shared by %s", settings.segments,
              ranks.size() // ranks.row(), cli.count(ranks.row(), "rank"))
    end
  end
  if settings.tokens then
    cli.say("steps  %d, as many as %s tokens take", settings.steps, grouped(settings.tokens))
  end
  cli.say("run    %s%s", job.dir, job.state.step > 0 and
          (", going on after step %d"):format(job.state.step) or "")
end

return start
