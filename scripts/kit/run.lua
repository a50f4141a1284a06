--- run.lua - all of a training run but its training: the folder, the log, the picture, what
-- stands on stderr, going on where it stopped, Ctrl-C, --minutes. scripts/train.lua shows the loop:
--
--   local run <close> = Run.open(options, { model = ..., optimizer = ... })
--   for step, batch in run:steps() do
--     ... forward, backward, optimizer:step { lr = run:lr(step) } ...
--     local record = run:measure { step = step, loss = loss, lr = lr, norm = norm }
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
local attention = require "kit.attention"
local cli = require "kit.cli"
local course = require "kit.course"
local evaluate = require "kit.evaluate"
local lfs = require "lfs"
local Log = require "kit.log"
local pf = require "performer"
local Progress = require "kit.progress"
local start = require "kit.start"
local train_options = require "kit.train_options"

local Run = {}
Run.__index = Run

-- With --minutes so many steps are timed; fewer when they take a tenth of the time.
local TIMED = 24

-- ---- begin and end ----

--- Opens a run as the options of train_options.parse say: a fresh one, or the one to resume.
-- make.model(settings) and make.optimizer(model, settings) make what it trains.
function Run.open(options, make)
  cli.try(2, pf.open, { threads = options.threads, memory = options.memory, seed = options.seed })
  local run = setmetatable(options.resume and start.resumed(options, make)
    or start.fresh(options, make), Run)
  start.describe(run)
  run.records = cli.need(Log.open { dir = run.dir,
                                    json = options.json and cli.json_log("train", "log.jsonl"),
                                    step = options.resume and run.state.step, from = run.from })
  if run.records.broken > 0 then
    cli.say("train: log.jsonl: lines left out that are no records: %d", run.records.broken)
  end
  run.progress = Progress.new { total = run.settings.steps, live = pf.term.colour(2),
                                clock = pf.clock, first = run.state.step,
                                width = function() return pf.term.width(2) end }
  if not run.settings.bidirectional then run.baselines = evaluate.baselines(run.data) end
  run.saved_at = pf.clock()
  return run
end

function Run:close() self.records:close() end
Run.__close = Run.close

function Run:how_to_go_on(more)
  return ("go on with: %s --resume %s%s"):format(train_options.program, cli.quote(self.dir),
    more or "")
end

--- Ctrl-C: keeps what there is, says how to go on, and ends the program.
function Run:stop(step)
  self.progress:finish()
  self:save(step)
  cli.fail(130, ("train: stopped at step %d; %s"):format(step, self:how_to_go_on()))
end

--- Something else than training has failed at `step`: keeps what there is, and ends the program.
function Run:give_up(step, message)
  self.progress:finish()
  local ok = self:try_save(step)
  cli.fail(1, ("train: %s; %s"):format(cli.advise(message), ok
    and ("saved at step %d; %s"):format(step, self:how_to_go_on()) or self:what_stands()))
end

-- ---- steps ----

--- for step, batch in run:steps() do: the batches from where the run stands to its end, or to
-- Ctrl-C.
function Run:steps()
  local s, done = self.settings, self.state.step
  local batches = self.data:batches { size = s.batch, steps = s.steps or math.maxinteger,
                                      first = done + 1, seed = s.seed, split = "train",
                                      masked = s.bidirectional }
  self.times, self.first = {}, done + 1
  self.last, self.mark, self.tokens = pf.clock(), pf.clock(), 0
  pf.interrupted() -- who asks gets the first Ctrl-C: from here on it means save and leave
  return function()
    if done >= self.first and pf.interrupted() then self:stop(done) end
    if done >= self.first then self:save_in_time(done) end
    if done == s.steps then return nil end
    if self.logged then self.logged, self.tokens, self.mark = false, 0, pf.clock() end
    local step, batch = batches()
    done, self.batch, self.began = step, batch, pf.clock()
    return step, batch
  end
end

--- The learning rate at `step`.
function Run:lr(step) return course.rate(self.settings, step) end

--- Is `step` one that is logged?
local function is_logged(s, step)
  return step == 1 or step == s.steps or step % s.log_every == 0 or step % s.eval_every == 0
end

--- How the model is to be run at `step`: in training, and with an eye on its attention when the
-- step is logged.
function Run:pass(step)
  return { training = true, step = step, watch = is_logged(self.settings, step) }
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

--- Fixes the number of steps of --minutes once enough of them are timed.
function Run:fix_steps(step, seconds)
  local s, times, budget = self.settings, self.times, self.settings.minutes * 60
  if step > self.first + 2 then times[#times + 1] = seconds end -- the first ones are slower
  if #times < TIMED and (#times < 3 or self.state.seconds < 0.1 * budget) then return end
  local warmup = s.warmup
  course.fix_steps(s, self.data, step, steps_for(0.97 * (budget - self.state.seconds),
                                                        times))
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
  local s, state, now = self.settings, self.state, pf.clock()
  local step, loss = record.step, record.loss
  if loss ~= loss or math.abs(loss) == math.huge then
    self.progress:finish()
    cli.fail(1, ("train: the loss is %s at step %d: try a lower --lr (it is %g); %s"):format(
      loss, step, record.lr, self:what_stands()))
  end
  if is_logged(s, step) then self:warn() end
  local share = math.max(0.05, 1 / step) -- a plain mean at first
  state.smooth = (1 - share) * (state.smooth or 0) + share * loss
  state.seconds, self.last = state.seconds + now - self.last, now
  if not s.steps then self:fix_steps(step, now - self.began) end
  self.tokens = self.tokens + self.batch.tokens
  self.rate = self.tokens / (now - self.mark)
  self.progress:show(step, { ("loss %.4f"):format(state.smooth),
                             ("%.0f tokens/s"):format(self.rate) })
  record.smoothed, record.tokens_per_s = state.smooth, self.rate
  record.norm = record.norm == record.norm and record.norm < math.huge and record.norm or nil
  state.pending = is_logged(s, step) and record or nil
  return record
end

--- Takes into a record what evaluate.run says of the held-out rows that every evaluation has.
function Run:judge(record, result)
  record.valid_loss, record.valid_tokens = result.loss, result.tokens
  record.valid_rows = result.rows
  if self.settings.bidirectional then self.baselines = { frequencies = result.baseline } end
end

--- Writes a record to the log, and to stdout with --json, when its step is one that is logged.
function Run:log(record)
  local s, step = self.settings, record.step
  if not is_logged(s, step) then return end
  if record.valid_loss or step == s.steps then
    record.attention = attention.record(self.model)
  end
  record.seconds, record.steps = self.state.seconds, s.steps
  record.bytes_peak = pf.memory().peak
  if not self.data_told then record.data, self.data_told = start.data_record(self), true end
  self:write(record)
  self.state.pending, self.logged = nil, true
end

function Run:write(record)
  local ok, message = self.records:write(record)
  if not ok then self:give_up(record.step, "can't write the log: " .. message) end
end

--- Shows that an evaluation at `step` goes on, which may take long.
function Run:show_batch(step, batch, batches)
  self:save_in_time(step)
  if batch < batches then
    self.progress:show(step, { ("evaluating, batch %d of %d"):format(batch, batches) })
  end
end

-- ---- checkpoints and the picture ----

--- What the user has when something failed.
function Run:what_stands()
  if not lfs.attributes(self.dir .. "/LATEST", "mode") then return "no checkpoint was saved yet" end
  return "the last good checkpoint stands; " .. self:how_to_go_on()
end

--- Saves a checkpoint at `step`, unless there is one; nil, message.
function Run:try_save(step)
  if self.saved == step then return true end
  self.state.step, self.state.settings = step, self.settings
  local ok, message = pf.checkpoint.save(self.dir, {
    model = self.model, optimizer = self.optimizer, state = self.state, step = step,
    tokenizer = self.data:info().tokenizer, keep = self.settings.keep })
  if not ok then return nil, message end
  self.saved, self.saved_at = step, pf.clock()
  return true
end

--- The same, or ends the program.
function Run:save(step)
  local ok, message = self:try_save(step)
  if ok then return end
  self.progress:finish()
  cli.fail(1, ("train: %s; %s"):format(cli.advise(message), self:what_stands()))
end

--- Saves when the last checkpoint is --save-minutes old. It changes no bit of the training.
function Run:save_in_time(step)
  if pf.clock() - self.saved_at >= 60 * self.settings.save_minutes then self:save(step) end
end

--- Saves, and marks the best so far. A mark that can't be written costs nothing.
function Run:save_best(step, loss)
  local better = not self.state.best or loss < self.state.best
  if better then self.state.best = loss end
  self.saved = nil -- what the state says has changed
  self:save(step)
  if better then pf.checkpoint.mark(self.dir, "BEST", step) end
end

--- What the held-out curve is of: all of the rows, or some.
function Run:held_out_name()
  local s = self.settings
  local name = s.bidirectional and "held out, all hidden" or "held out"
  return self:judges_all() and name or ("%s, %d of %d rows"):format(name,
    s.valid_batches * s.batch, self.data:info("valid").rows)
end

--- The loss curve, beside what counting gets.
function Run:draw()
  local baselines = {}
  for _, name in ipairs { "frequencies", "pairs" } do
    local perplexity = self.baselines and self.baselines[name]
    baselines[name] = perplexity and math.log(perplexity)
  end
  local path, message = self.records:draw {
    title = ("%s, %s"):format(self.settings.data:match "([^/]+)/*$", start.attention_of(self)),
    held_out = self:held_out_name(), baselines = baselines }
  if not path and not self.warned then
    self.warned = true
    self.progress:finish()
    cli.say("train: no picture: %s", message)
  end
  return path
end

--- Saves a checkpoint of a record that was judged, and draws the curve.
function Run:keep(record)
  self:save_best(record.step, record.valid_loss)
  self:draw()
  self.progress:show(record.step, { ("loss %.4f"):format(self.state.smooth),
                                    ("held out %.4f"):format(record.valid_loss) }, true)
end

-- ---- the end ----

--- The last record: what evaluate.run says of the whole held-out part, beside counting.
function Run:final_record(result)
  local s, state = self.settings, self.state
  local baselines = not s.bidirectional and self.baselines or nil
  return { final = true, step = s.steps, steps = s.steps, train_loss = state.smooth,
           valid_loss = result.loss, valid_perplexity = result.perplexity,
           valid_accuracy = result.accuracy, tokens = result.tokens,
           baseline_perplexity = baselines and baselines.frequencies or result.baseline,
           pair_perplexity = baselines and baselines.pairs or nil,
           params = self.model:count(), params_ngrams = start.memory_of(self.model),
           seconds = state.seconds, bytes_peak = pf.memory().peak }
end

--- A model that does no better than counting has not had its time.
function Run:encourage(record)
  local counting = math.min(record.baseline_perplexity or math.huge,
                            record.pair_perplexity or math.huge)
  if record.valid_perplexity < counting then return end
  cli.say("\nmere counting does better so far, the model needs longer; %s",
          self:how_to_go_on((" --steps %d"):format(4 * record.step)))
end

--- The last record, the last checkpoint, and what came of it, on stderr. Only where evaluations in
-- passing are of all rows, too, can the last one name the best.
function Run:finish(result)
  local step, baselines = self.settings.steps, self.baselines or {}
  self.progress:finish()
  local record = self:final_record(result)
  self:write(record)
  self.state.finished, self.saved = true, nil -- what the state says has changed
  if self.settings.bidirectional then
    self.baselines = self.baselines or { frequencies = result.baseline }
  end
  if self:judges_all() then self:save_best(step, result.loss) else self:save(step) end
  local picture = self:draw()
  cli.say("")
  cli.say("held out, %d tokens          perplexity   accuracy", result.tokens)
  cli.say("  this Performer             %10.3f   %6.2f %%", result.perplexity,
          100 * result.accuracy)
  if baselines.pairs then cli.say("  pairs (last token)         %10.3f", baselines.pairs) end
  if record.baseline_perplexity then
    cli.say("  frequencies                %10.3f", record.baseline_perplexity)
  end
  if baselines.uniform then cli.say("  uniform                    %10.3f", baselines.uniform) end
  self:encourage(record)
  cli.say("\nrun folder  %s (checkpoint step-%d, log.jsonl)", self.dir, step)
  if picture then cli.say("picture     %s", picture) end
end

return Run
