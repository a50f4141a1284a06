--- find_lr.lua - `train --find-lr`: the loop of train.lua on weights that are thrown away, with a
-- learning rate that grows by the same factor every step; the losses beside it, and what they
-- suggest. To the loop it is a run: it has the calls of run.lua that come before the loop's end.
local advice = require "kit.advice"
local cli = require "kit.cli"
local pf = require "performer"
local Progress = require "kit.progress"
local run_folder = require "kit.run_folder"
local Steps = require "kit.steps"
local svg = require "kit.svg"
local trainable = require "kit.trainable"

local Finder = setmetatable({}, Steps)
Finder.__index = Finder

-- The first and last rate as factors of the run's own --lr: from where little moves to where all
-- comes apart. A hundred steps, where --steps does not say how many, are seventeen a decade; of
-- fewer than twenty the means below are of too much.
local LOW, HIGH = 1 / 400, 300
local STEPS, LEAST = 100, 20

-- What says how a run goes, and nothing here.
local OF_RUNS = { "minutes", "tokens", "warmup", "schedule", "patience", "eval_every", "log_every",
                  "save_minutes", "keep", "tensorboard" }

-- The mean loss around a step is of so many steps on either side.
local AROUND = 4

-- A rate is as good as the best one where the mean loss is within so much of the fall to the
-- lowest; a run takes a third of the highest such rate, for it has to bear it longer.
local NEAR, SHARE = 0.02, 1 / 3

--- Complaints about parsed options that need no file; what does nothing here is told.
function Finder.check(options, given)
  if options.steps and options.steps < LEAST then
    cli.fail(2, ("train: --find-lr takes %d steps at least, got --steps %d"):format(LEAST,
      options.steps))
  end
  local idle = {}
  for _, name in ipairs(OF_RUNS) do
    idle[#idle + 1] = given[name] ~= nil and "--" .. name:gsub("_", "-") or nil
  end
  if #idle == 0 then return end
  cli.say("train: with --find-lr, which trains nothing, %s %s nothing", advice.all(idle),
          #idle == 1 and "does" or "do")
end

--- Makes the search of a job of start.lua's.
function Finder.open(job, options)
  local finder = setmetatable(job, Finder)
  finder.last = options.steps or STEPS
  finder.peak, finder.done, finder.sweep = job.settings.lr, 0, {}
  finder.json, finder.dir = options.json and cli.json_log("train", "nothing else"), options.out
  finder.progress = Progress.new { total = finder.last, live = pf.term.colour(2), clock = pf.clock,
                                   width = function() return pf.term.width(2) end }
  return finder
end

--- The steps, as run:steps(); after the last one the program ends.
function Finder:steps()
  pf.interrupted()
  return function()
    if pf.interrupted() then cli.fail(130, "train: the search for a learning rate was stopped") end
    if self.done == self.last then
      self:report()
      pf.exit(0)
    end
    self:fetch(self.done + 1)
    return self.done + 1, self.step_batches[1]
  end
end

--- The rate of `step`.
function Finder:lr(step)
  self.moving = true
  return self.peak * LOW * (HIGH / LOW) ^ ((step - 1) / (self.last - 1))
end

--- A loss that is no number, or far above the first, ends the search: the rate is too high by far.
function Finder:measure(record)
  local loss = self:loss_of(record)
  local first = self.sweep[1] and self.sweep[1].loss or loss
  if loss ~= loss or loss > 3 * math.max(first, 1) then
    self:report()
    pf.exit(0)
  end
  self:check_taken()
  self.done, self.moving = record.step, false
  self.sweep[record.step] = { lr = record.lr, loss = loss }
  self.progress:show(record.step, { ("lr %.3g"):format(record.lr), ("loss %.4f"):format(loss) })
  return record
end

function Finder.due() return false end -- nothing is judged
function Finder.log() end

--- A gradient that is no number ends the search as well as the steps do.
function Finder:__close(problem)
  self.data:close()
  if type(problem) ~= "table" or problem.code ~= 1 or not self.moving then return end
  if not problem.message:find "gradient of .* is not finite" then return end
  if #self.sweep == 0 then
    problem.message = "train: " .. self:beginning()
    return
  end
  self:report()
  problem.code, problem.message = 0, nil
end

--- Why there is nothing to report.
function Finder:beginning()
  return "the loss is no number before any step is done; "
    .. trainable.advice(self.model, self.peak, self.peak * LOW)
end

-- ---- what it comes to ----

--- The mean loss around each step.
local function smooth(sweep)
  for i, point in ipairs(sweep) do
    local first, last, sum = math.max(1, i - AROUND), math.min(#sweep, i + AROUND), 0
    for j = first, last do sum = sum + sweep[j].loss end
    point.smoothed = sum / (last - first + 1)
  end
end

--- The highest rate that is as good as the best, and the lowest mean loss; nil where the loss has
-- not come down.
local function highest(sweep)
  local lowest = math.huge
  for _, point in ipairs(sweep) do lowest = math.min(lowest, point.smoothed) end
  local fall = sweep[1].smoothed - lowest
  if fall <= 0 then return nil end
  for i = #sweep, 1, -1 do
    if sweep[i].smoothed <= lowest + NEAR * fall then return sweep[i].lr, lowest end
  end
end

--- Two digits of a number: more would say more than is known.
local function rounded(number) return tonumber(("%.2g"):format(number)) end

-- So many lines show the curve.
local LINES = 20

--- The curve of the mean losses, as text, and bars from the lowest to the first.
local function print_table(sweep, lowest)
  local span = math.max(sweep[1].smoothed - lowest, 1e-9)
  cli.say("\n   learning rate       loss")
  for i = 1, #sweep, math.max(1, #sweep // LINES) do
    local share = math.min(1, (sweep[i].smoothed - lowest) / span)
    cli.say("   %13.3g   %8.4f   %s", sweep[i].lr, sweep[i].smoothed,
            ("*"):rep(1 + math.floor(30 * share + 0.5)))
  end
end

--- The picture, beside where the run will be; its path, or nil and why not.
local function draw(finder, sweep)
  local points, means = {}, {}
  for i, point in ipairs(sweep) do
    points[i], means[i] = { point.lr, point.loss }, { point.lr, point.smoothed }
  end
  run_folder.make(finder.dir)
  local path = finder.dir .. "/lr.svg"
  local file, message = io.open(path, "w")
  if not file then return nil, message end
  file:write(svg.chart { title = "loss while the learning rate grows", x = "learning rate",
                         y = "nats a token", log_x = true,
                         series = { { name = "of a batch", points = points },
                                    { name = "mean around", points = means } } })
  return file:close() and path
end

--- Says what the steps have come to, and what they suggest.
function Finder:report()
  local sweep = self.sweep
  self.progress:finish()
  if #sweep == 0 then cli.fail(1, "train: " .. self:beginning()) end
  smooth(sweep)
  local rate, lowest = highest(sweep)
  print_table(sweep, lowest or sweep[1].smoothed)
  local suggested = rate and rounded(SHARE * rate)
  for _, point in ipairs(self.json and sweep or {}) do self.json(point) end
  if self.json then self.json { final = true, suggested_lr = suggested, lowest_loss = lowest } end
  if not suggested then
    return cli.say("\nthe loss has not come down from %.3g on: try another --lr to begin from",
                   sweep[1].lr)
  end
  cli.say("\nsuggestion  --lr %g, a third of the highest rate that is as good as the best; nothing "
    .. "was kept", suggested)
  local picture, message = nil, nil
  if self.dir then picture, message = draw(self, sweep) end
  if picture then cli.say("picture     %s", picture) end
  if message then cli.say("train: no picture: %s", message) end
end

return Finder
