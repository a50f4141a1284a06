--- run.lua - all of a training run but its training: the folder, the log, the picture, what
-- stands on stderr, going on where it stopped, Ctrl-C, --minutes. scripts/train.lua shows the loop:
--
--   local run <close> = Run.open(options, { model = ..., optimizer = ... })
--   for step in run:steps() do
--     for batch, pass, share in run:batches(step) do ... forward, backward ... end
--     ... optimizer:step { lr = run:lr(step) } ...
--     local record = run:measure { step = step, losses = losses, lr = lr, norm = norm }
--     if run:due(step) then run:judge(record, ...) end
--     run:log(record)
--     if record.valid_loss then run:keep(record) end
--   end
--   run:save(run.settings.steps)
--   run:finish(...)
--
-- run.settings, run.data, run.model and run.optimizer are what it trains; run.state is what its
-- checkpoints hold beside them, and may hold more; state.pending is the record of a step that was
-- saved before it was judged and logged.
--
-- On several ranks (ranks.lua) all of them run this; rank 0 has the folder, the log and the clock,
-- and what it alone can know is shared before anything depends on it.
local attention = require "kit.attention"
local carried = require "kit.carried"
local cli = require "kit.cli"
local course = require "kit.course"
local diagnosis = require "kit.diagnosis"
local engine = require "kit.engine"
local evaluate = require "kit.evaluate"
local find_lr = require "kit.find_lr"
local finish = require "kit.finish"
local lfs = require "lfs"
local Log = require "kit.log"
local machine = require "kit.machine"
local Pace = require "kit.pace"
local pf = require "performer"
local Progress = require "kit.progress"
local ranks = require "kit.ranks"
local run_data = require "kit.run_data"
local schedule = require "kit.schedule"
local start = require "kit.start"
local Steps = require "kit.steps"
local train_options = require "kit.train_options"
local trainable = require "kit.trainable"

local Run = setmetatable({}, Steps)
Run.__index = Run

-- With --minutes so many steps are timed; fewer when they take a tenth of the time.
local TIMED = 24

-- ---- begin and end ----

--- Opens a run as the options of train_options.parse say: a fresh one, or the one to resume.
-- make.model(settings) and make.optimizer(model, settings) make what it trains; make.loss(logits,
-- target), which a script may leave out, is what it makes small. With --find-lr it is no run, but
-- what find_lr.lua makes of one.
function Run.open(options, make)
  engine.open(options)
  ranks.need("train", train_options.rows, options, options.given)
  start.choose(options)
  if options.find_lr then find_lr.check(options, options.given) end
  local job = options.resume and start.resumed(options, make) or start.fresh(options, make)
  if options.find_lr then return find_lr.open(job, options) end
  local run = setmetatable(job, Run)
  run.loss, run.command = make.loss, options.command
  run.done = run.state.step -- the last step that is whole
  start.describe(run)
  run.records = ranks.first() and cli.need(Log.open { dir = run.dir,
                                    json = options.json and cli.json_log("train", "log.jsonl"),
                                    step = options.resume and run.state.step, from = run.from,
                                    tensorboard = run.settings.tensorboard })
  if run.records and run.records.broken > 0 then
    cli.say("train: log.jsonl: lines left out that are no records: %d", run.records.broken)
  end
  run.progress = Progress.new { total = run.settings.steps, live = pf.term.colour(2),
                                silent = not ranks.first(),
                                clock = pf.clock, first = run.state.step,
                                left = function(...) return run.pace:left(...) end,
                                width = function() return pf.term.width(2) end }
  run.pace = Pace.new(run.settings, evaluate.batches(run.data, "valid", run.settings.batch))
  if not run.settings.bidirectional then run.baselines = evaluate.baselines(run.data) end
  run.saved_at = pf.clock()
  return run
end

function Run:close()
  if self.records then self.records:close() end
end

--- The end of the run's scope. A failure that nobody has told yet (in a script's layer, in the
-- data, for want of memory) is told with what the user has; it loses no step.
function Run:__close(problem)
  if type(problem) == "table" and problem.code == 1 and not self.told then
    self:say_lost(problem)
    self.progress:finish()
    local what = problem.message:match "the gradient of '.-' is not finite"
    if what and self.moving then problem.message = "train: " .. self:diagnose(what) end
    local lines = problem.message:find("\n", 1, true)
    if ranks.first() then
      problem.message = problem.message .. (lines and "\n" or "; ") .. self:rescue()
    end
  end
  self:close()
end

--- The file LOST in the run's folder: a rank was lost, and whoever started them is to start again.
function Run:say_lost(problem)
  if not ranks.several() or not ranks.here():lost() then return end
  if lfs.attributes(self.dir .. "/LOST", "mode") then return end -- who was first knows best
  pf.file.write(self.dir .. "/LOST", problem.message .. "\n")
end

--- How to go on with the run, whose layers may need their script.
function Run:how_to_go_on(more)
  local script = self.settings.script and " --model " .. cli.quote(self.settings.script) or ""
  return ("go on with: %s --resume %s%s%s"):format(train_options.called, cli.quote(self.dir),
    script, more or "")
end

--- Ends the program with a message that says what the user has.
function Run:fail(code, message)
  self.progress:finish()
  self.told = true
  cli.fail(code, "train: " .. message)
end

--- Ctrl-C: keeps what there is, says how to go on, and ends the program.
function Run:stop(step)
  self.progress:finish()
  self:save(step)
  self.told = true
  if not ranks.first() then cli.fail(130, "") end
  self:fail(130, ("stopped at step %d; %s"):format(step, self:how_to_go_on()))
end

--- After a failure: keeps the weights, if they stand as a whole step left them, and says what the
-- user has.
function Run:rescue()
  local whole = self.done > 0 and not self.moving and not ranks.several() -- they save together
  if whole and select(2, pcall(self.try_save, self, self.done)) == true then
    return ("saved at step %d; %s"):format(self.done, self:how_to_go_on())
  end
  return self:what_stands()
end

--- What has made the loss or a gradient of the step that is under way no number: the layer and the
-- op in which one first arose, found by running the step once more; or `otherwise`.
function Run:diagnose(otherwise)
  local step = self.done + 1
  local where = diagnosis.first(self, step) or ("step %d: %s"):format(step, otherwise)
  return ("%s; %s"):format(where, trainable.advice(self.model, self.settings.lr,
    schedule.rate(self.settings, step)))
end

--- Something else than training has failed: keeps what there is, and ends the program.
function Run:give_up(message)
  self:fail(1, ("%s; %s"):format(cli.advise(message), self:rescue()))
end

-- ---- steps ----

--- for step, batch in run:steps() do: the steps from where the run stands to its end, or to
-- Ctrl-C, and the first batch of each.
function Run:steps()
  local s, first = self.settings, self.done + 1
  self.times, self.first = {}, first
  self.last, self.mark, self.tokens = pf.clock(), pf.clock(), 0
  pf.interrupted() -- who asks gets the first Ctrl-C: from here on it means save and leave
  return function()
    if self.done >= first then
      local stop, save = ranks.any(pf.interrupted(), ranks.first() and self:is_save_due())
      if stop then self:stop(self.done) end
      if save then self:save(self.done) end
    end
    if self.done == s.steps or self.state.stopped then return nil end
    if self.logged then self.logged, self.tokens, self.mark = false, 0, pf.clock() end
    if ranks.several() then ranks.here():at(self.done + 1) end
    self:fetch(self.done + 1)
    self.began = pf.clock()
    if self.done >= first then self.pace:between(self.began - self.last, self.judged) end
    self.judged = false
    return self.done + 1, self.step_batches[1]
  end
end

--- The learning rate at `step`, whose weights are about to move.
function Run:lr(step)
  self.moving = true
  return schedule.rate(self.settings, step)
end

--- Is it time to evaluate and save? At the last step only where the evaluation of all rows, which
-- follows, is another than those in passing.
function Run:due(step)
  local s = self.settings
  if step == s.steps then return not self:judges_all() end
  return s.steps ~= nil and step % s.eval_every == 0
end

--- Do evaluations in passing look at all held-out rows?
function Run:judges_all()
  local s = self.settings
  return s.valid_batches == evaluate.batches(self.data, "valid", s.batch)
end

-- ---- what a step says ----

--- How many steps fill `seconds`, from the clock times of the first ones.
local function steps_for(seconds, times)
  local sorted = table.move(times, 1, #times, 1, {})
  table.sort(sorted)
  return seconds / sorted[(#sorted + 1) // 2]
end

--- So many steps fill what is left of --minutes; nil as long as too few are timed.
function Run:room(step, seconds)
  local times, budget = self.times, self.settings.minutes * 60
  if step > self.first + 2 then times[#times + 1] = seconds end -- the first ones are slower
  if #times < TIMED and (#times < 3 or self.state.seconds < 0.1 * budget) then return nil end
  return steps_for(0.97 * (budget - self.state.seconds), times)
end

--- Fixes the number of steps of --minutes once enough of them are timed.
function Run:fix_steps(step, seconds)
  local s = self.settings
  local room, warmup = ranks.once(self.room, self, step, seconds), s.warmup
  if not room then return end
  course.fix_steps(s, self.data, step, room)
  self.progress.total = s.steps
  self.progress:finish()
  cli.say("steps  %d, as many as %g minutes take%s", s.steps, s.minutes, s.warmup == warmup and ""
    or (", %d of them warm-up"):format(s.warmup))
end

--- Says once a run that the estimate of softmax attention is hopeless, and what helps.
function Run:warn()
  local text = not self.state.error_told and attention.warning(self.model)
  if not text then return end
  self.state.error_told = true
  self.progress:finish()
  cli.say("train: %s", text)
end

--- Takes what a step has come to, { step, loss, lr, norm }, right after it: its time, and the mean
-- loss so far. A loss that is no number ends the program. The record, to be logged.
function Run:measure(record)
  local s, state = self.settings, self.state
  local step, loss = record.step, self:loss_of(record)
  local now = pf.clock()
  if loss ~= loss or math.abs(loss) == math.huge then
    local where = self:diagnose(("the loss is %s"):format(loss))
    self:fail(1, ("%s; %s"):format(where, self:what_stands()))
  end
  self:check_taken()
  self.done, self.moving, self.before = step, false, nil
  if self:is_logged(step) then self:warn() end
  local share = math.max(1 / Log.SMOOTH, 1 / step) -- a plain mean at first
  state.smooth = (1 - share) * (state.smooth or 0) + share * loss
  state.seconds, self.last = state.seconds + now - self.last, now
  self.pace:step(now - self.began)
  if not s.steps then self:fix_steps(step, now - self.began) end
  self.tokens = self.tokens + self.step_tokens
  self.rate = self.tokens / (now - self.mark)
  self.progress:show(step, { ("loss %.4f"):format(state.smooth),
                             ("%.0f tokens/s"):format(self.rate) })
  record.smoothed, record.tokens_per_s = state.smooth, self.rate
  if step == 1 or state.tokens_seen then -- of a run of an older version nobody knows
    state.tokens_seen = (state.tokens_seen or 0) + self.step_tokens
  end
  record.tokens_seen = state.tokens_seen
  record.norm = record.norm == record.norm and record.norm < math.huge and record.norm or nil
  state.pending = self:is_logged(step) and record or nil
  return record
end

--- A held-out loss that is no number ends the program: nothing can be the best any more.
function Run:check_judged(step, result)
  local loss = result.loss
  if loss == loss and math.abs(loss) < math.huge then return end
  self:fail(1, ("step %d: the held-out loss is %s, though the training loss is %.4f; %s"):format(
    step, loss, self.state.smooth, self:what_stands()))
end

--- Takes into a record what evaluate.run says of the held-out rows that every evaluation has.
function Run:judge(record, result)
  self:check_judged(record.step, result)
  record.valid_loss, record.valid_tokens = result.loss, result.tokens
  record.valid_rows, self.judged = result.rows, true
  if self.settings.bidirectional then self.baselines = { frequencies = result.baseline } end
end

--- Writes a record to the log, and to stdout with --json, when its step is one that is logged.
function Run:log(record)
  local s, step = self.settings, record.step
  if not self:is_logged(step) then return end
  self:count_waits(record)
  if not self.records then
    self.state.pending, self.logged = nil, true
    return
  end
  if record.valid_loss or step == s.steps then
    record.attention = attention.record(self.model)
  end
  record.seconds, record.steps = self.state.seconds, s.steps
  record.bytes_peak = pf.memory().peak
  if not self.data_told then
    record.data, record.init, self.data_told = run_data.record(self), self.init, true
    record.machine, record.command = machine.describe(), self.command
  end
  self:write(record)
  self.state.pending, self.logged = nil, true
end

--- Over several ranks: how many, how long rank 0 has waited for others since the last line, and for
-- whom all have waited most.
function Run:count_waits(record)
  if not ranks.several() then return end
  local waited = ranks.here():waited()
  local since = waited - (self.waited or 0)
  self.waited, record.ranks, record.wait_s = waited, ranks.size(), since
  record.slowest = ranks.here():most(-since)
end

function Run:write(record)
  if not self.records then return end
  local ok, message = self.records:write(record)
  if not ok then self:give_up("can't write the log: " .. message) end
end

--- Shows that an evaluation at `step` goes on, which may take long.
function Run:show_batch(step, batch, batches)
  if not ranks.several() and self:is_save_due() then self:save(step) end -- others are elsewhere
  if batch < batches then
    self.progress:show(step, { ("evaluating, batch %d of %d"):format(batch, batches) },
                       batches - batch)
  end
end

-- ---- the average of the weights ----

--- f(...) with the average that --ema keeps in the weights' place; without one just so.
function Run:averaged(f, ...)
  if not self.optimizer:has_average() then return f(...) end
  local _ <close> = setmetatable({}, { __close = function() self:lend(false) end })
  self:lend(true)
  return f(...)
end

--- The average in the weights' place, or the weights back.
function Run:lend(average)
  self.lent = average
  self.optimizer:use_average(average)
end

-- ---- checkpoints and the picture ----

--- What the user has when something failed.
function Run:what_stands()
  if lfs.attributes(self.dir .. "/LATEST", "mode") ~= "file" then
    return "no checkpoint was saved yet"
  end
  return "the last good checkpoint stands; " .. self:how_to_go_on()
end

--- Saves a checkpoint at `step`, unless there is one; nil, message.
function Run:try_save(step)
  if self.saved == step then return true end
  self.state.step, self.state.settings = step, self.settings
  local lent = self.lent
  if lent then self:lend(false) end
  local states = self.before or self.carried
  local whole = carried.whole(states, self.model, self.settings)
  local ok, message = pf.checkpoint.save(self.dir, {
    model = self.model, optimizer = self.optimizer, state = self.state, step = step,
    carried = whole, tokenizer = self.data:info().tokenizer, keep = self.settings.keep })
  carried.drop(whole, states)
  if lent then self:lend(true) end
  if not ok then return nil, message end
  self.saved, self.saved_at = step, pf.clock()
  return true
end

--- The same, or ends the program.
function Run:save(step)
  local ok, message = self:try_save(step)
  if not ok then self:fail(1, ("%s; %s"):format(cli.advise(message), self:what_stands())) end
end

--- Is the last checkpoint --save-minutes old? To save one changes no bit of the training.
function Run:is_save_due()
  return pf.clock() - self.saved_at >= 60 * self.settings.save_minutes
end

--- Takes the held-out loss of `step` beside the best: is it better?
function Run:compare(step, loss)
  local state = self.state
  local better = not state.best or loss < state.best
  if better then state.best, state.best_step, state.waited = loss, step, 0 end
  if not better then state.waited = (state.waited or 0) + 1 end
  return better
end

--- Saves, and marks the best so far. A mark that can't be written costs nothing.
function Run:save_best(step, loss)
  local better = self:compare(step, loss)
  local last = step == self.settings.steps
  self.state.stopped = not last and not course.has_patience(self.settings, self.state) or nil
  self.saved = nil -- what the state says has changed
  self:save(step)
  if better then self:mark_best(step) end
end

function Run:mark_best(step)
  if ranks.first() then pf.checkpoint.mark(self.dir, "BEST", step) end
end

--- What the held-out curve is of: all of the rows, or some.
function Run:held_out_name()
  local s = self.settings
  local name = s.bidirectional and "held out, all hidden" or "held out"
  if self.optimizer:has_average() then name = name .. ", averaged" end
  return self:judges_all() and name or ("%s, %d of %d rows"):format(name,
    s.valid_batches * s.batch, self.data:info("valid").rows)
end

--- The loss curve, beside what counting gets.
function Run:draw()
  if not self.records then return nil end
  local baselines = {}
  for _, name in ipairs { "frequencies", "pairs" } do
    local perplexity = self.baselines and self.baselines[name]
    baselines[name] = perplexity and math.log(perplexity)
  end
  local path, message = self.records:draw {
    title = ("%s, %s"):format(run_data.title(self.settings), start.attention_of(self)),
    held_out = self:held_out_name(), baselines = baselines }
  if not path and not self.warned then
    self.warned = true
    self.progress:finish()
    cli.say("train: no picture: %s", message)
  end
  return path
end

--- What an evaluation has come to, in a line that stays: the best so far is marked.
function Run:course_line(record)
  local s, state = self.settings, self.state
  local best = state.best_step == record.step and "* best so far"
    or ("  best %.4f, step %s"):format(state.best, state.best_step or "?")
  local steps = s.steps and ("%d/%d"):format(record.step, s.steps) or ("%d"):format(record.step)
  return ("step %-11s training %.4f  held out %.4f %s"):format(steps, state.smooth,
    record.valid_loss, best)
end

--- Saves a checkpoint of a record that was judged, and draws the curve. Without progress for as
-- long as --patience says the run ends here.
function Run:keep(record)
  self:save_best(record.step, record.valid_loss)
  self:draw()
  self.progress:note(self:course_line(record))
  if not self.state.stopped then return end
  self.progress:finish()
  cli.say("train: no progress in %s, the best held-out loss is %.4f of step %s: the run ends "
    .. "here", cli.count(self.state.waited, "evaluation"), self.state.best,
    self.state.best_step or "?")
end

-- ---- the end ----

--- The end of a run: `result` is what evaluate.run says of the whole held-out part.
function Run:finish(result) finish.run(self, result) end

return Run
