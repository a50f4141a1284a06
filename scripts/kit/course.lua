--- course.lua - the course of a run of `train`: how long it is, and how much of the held-out part
-- is looked at in passing. Sizes decide, not the clock, but for --minutes, which fix the number of
-- steps once. Its learning rate is schedule.lua's.
local cli = require "kit.cli"
local evaluate = require "kit.evaluate"
local schedule = require "kit.schedule"

local course = {}

--- The options, as rows for cli.add; `keep` as in train_options.lua.
course.rows = {
  { "steps", "positive", nil, "training steps (instead of --minutes; with --resume: the new end)",
    group = "Training", keep = true },
  { "minutes", "number", nil, "training time; fixes the steps from the speed of the first ones",
    group = "Training", keep = true },
  { "tokens", "positive", nil, "tokens to train on, in as many steps as that takes",
    group = "Training", keep = true },
  { "accumulate", "positive", 1, "batches a step, one after the other, whose gradients add up: a "
    .. "step of so many times --batch rows in the memory of one", group = "Training",
    keep = true },
  { "patience", "whole", 0, "evaluations without a better one after which the run ends (0: it goes "
    .. "to its end)", group = "Training", keep = true },
  { "lr", "number", nil, "peak learning rate", group = "Training", keep = true },
  { "find-lr", "flag", nil, "instead of training, looks for a good --lr: --steps (default 100) "
    .. "with one that grows, on weights that are not kept; a picture, lr.svg, in --out",
    group = "Training" },
  { "warmup", "whole", nil, "steps of linear warm-up", group = "Training", keep = true },
}
table.move(schedule.rows, 1, #schedule.rows, #course.rows + 1, course.rows)

-- What says how long a run is; one of them at most.
local LENGTHS = { "steps", "minutes", "tokens" }

local function check_lengths(options)
  local given = {}
  for _, name in ipairs(LENGTHS) do
    if options[name] then given[#given + 1] = "--" .. name end
  end
  if #given < 2 then return end
  cli.fail(2, ("train: give %s or %s, not %s"):format(
    table.concat(given, ", ", 1, #given - 1), given[#given], #given == 2 and "both" or "all"))
end

--- Complaints about parsed options that need no file.
function course.check(options)
  check_lengths(options)
  schedule.check(options)
  for _, name in ipairs { "minutes", "lr" } do
    if options[name] and options[name] <= 0 then
      cli.fail(2, ("train: --%s must be more than 0"):format(name))
    end
  end
end

--- The warm-up of a run of so many steps that names none of its own: a short one must get to its
-- peak, and down again.
local function fitting_warmup(warmup, steps) return math.min(warmup, math.max(1, steps // 4)) end

--- Fits a preset's words to what the user has said of the run's length.
function course.fit_words(words, options)
  if options.steps or options.tokens then words.minutes = nil end
end

--- Settles what follows from the length of a run: the steps of --tokens, and a warm-up that is none
-- of the user's. `data` is laid in rows.
function course.fit_length(settings, data)
  local s, info = settings, data:info "train"
  if s.tokens then
    s.steps = math.max(1, math.ceil(s.tokens
      / (s.batch * s.accumulate * info.tokens / info.rows)))
  end
  if s.steps and not s.own_warmup then s.warmup = fitting_warmup(s.warmup, s.steps) end
  course.check_warmup(s)
  schedule.try(s)
end

--- Refuses a warm-up that is longer than the run, which would never come to its --lr.
function course.check_warmup(settings)
  if not settings.steps or settings.warmup <= settings.steps then return end
  cli.fail(2, ("train: a warm-up of %s is longer than the run of %s, which would never come to "
    .. "its --lr; give a smaller --warmup or more --steps"):format(
    cli.count(settings.warmup, "step"), cli.count(settings.steps, "step")))
end

-- ---- a step ----

-- Tokens whose batches are held together while a step of several is made: two gigabytes of ids.
local MOST = 1 << 28

--- Refuses a step that would hold more than that.
function course.check_step(settings)
  local s = settings
  local tokens = 1.0 * s.batch * s.accumulate * s.length
  if s.accumulate == 1 or tokens <= MOST then return end
  cli.fail(2, ("train: --batch %d x --accumulate %d rows of --length %d are %.3g tokens a step; at "
    .. "most %d are possible"):format(s.batch, s.accumulate, s.length, tokens, MOST))
end

-- ---- evaluations, and the time they take ----

-- An evaluation's time for a batch, in batches of training: forward alone, not back and forth.
local FORWARD = 1 / 3

--- The same in steps of training.
local function forward_of(settings) return FORWARD / settings.accumulate end

--- How many held-out batches every evaluation takes: all, when that costs at most about a tenth
-- of the training between two; else as many as cost that. A run keeps to it, so that BEST is the
-- best on one measure.
function course.fit_evaluation(settings, data)
  local tenth = math.floor(0.1 * settings.eval_every / forward_of(settings))
  local share = math.max(1, 24 // settings.batch, tenth)
  settings.valid_batches = math.min(share, evaluate.batches(data, "valid", settings.batch))
end

--- Is it worth to go on, after state.waited evaluations without a better one?
function course.has_patience(settings, state)
  return settings.patience == 0 or (state.waited or 0) < settings.patience
end

--- Fixes the number of steps of --minutes after step `step`: `room`, so many steps fill the time
-- that is left, evaluations among them. Where the last one, of all, would take more than half of
-- it, it is of a sample that takes a fifth (s.final_batches).
function course.fix_steps(settings, data, step, room)
  local s, forward = settings, forward_of(settings)
  local all = evaluate.batches(data, "valid", s.batch)
  local rest = all > s.valid_batches and all or 0
  if rest > 0 and forward * rest > room / 2 then
    rest = math.max(s.valid_batches, math.floor(room / 5 / forward))
    s.final_batches = rest
  end
  local last = math.min(forward * (s.valid_batches + rest), room / 2)
  s.steps = step + math.max(1, math.floor((room - last)
    / (1 + forward * s.valid_batches / s.eval_every)))
  local warmup = s.warmup
  if not s.own_warmup then warmup = fitting_warmup(warmup, s.steps) end
  if warmup > s.steps then warmup = math.max(1, s.steps // 4) end
  s.warmup = warmup
end

return course
