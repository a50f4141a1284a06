--- schedule.lua - `--schedule NAME` and its options on the command line, made from the engine's
-- table of schedules: the learning rate of every step of a run, a function of the step alone.
local cli = require "kit.cli"
local pf = require "performer"

local schedule = {}

schedule.DEFAULT = "cosine"

-- Words of the command line that differ from an option's own name; false: the run's own.
local WORDS = { peak = false, warmup = false, steps = false, floor = "lr-floor",
                every = "drop-every", factor = "drop-factor", shape = "cooldown-shape" }

-- What is said of options whose defaults here follow from the run.
local DOCS = {
  floor = { "the lowest rate, as a share of --lr", "0.05, with step 0" },
  every = { "steps at one rate, the warm-up not counted", "a third of the run" },
  cooldown = { "steps of the fall at the end", "a fifth of the run" },
}

-- A fall to a twentieth ends as well as one to 0, and leaves a rate to go on with.
local FLOOR = 0.05

local KINDS = { int = "positive", number = "number", string = "name" }

local TABLE = {}
for i, row in ipairs(pf.schedules()) do
  TABLE[i], TABLE[row.name] = row, row
end

local function has(name, option_name)
  for _, option in ipairs(TABLE[name].options) do
    if option.name == option_name then return true end
  end
  return false
end

--- The names of the schedules, in the engine's order, but for those without `option_name`.
local function names(option_name)
  local list = {}
  for _, row in ipairs(TABLE) do
    if not option_name or has(row.name, option_name) then list[#list + 1] = row.name end
  end
  return list
end

local function row_of(option, owners)
  local doc, default = option.doc, option.default
  if DOCS[option.name] then doc, default = table.unpack(DOCS[option.name]) end
  return { WORDS[option.name] or option.name, KINDS[option.kind], nil,
           ("%s: %s"):format(table.concat(owners, ", "), doc), default, group = "Training",
           path = option.name, schedules = owners, names = cli.split(option.choices) }
end

--- --schedule and a row for every option of a schedule's own; `path` is its name there.
local function make_rows()
  local rows, found = {}, {}
  for _, entry in ipairs(TABLE) do
    for _, option in ipairs(entry.options) do
      if not found[option.name] and WORDS[option.name] ~= false then
        rows[#rows + 1], found[option.name] = row_of(option, names(option.name)), true
      end
    end
  end
  return rows
end

schedule.options = make_rows()

--- All rows, for cli.add.
schedule.rows = { { "schedule", "name", schedule.DEFAULT, "the learning rate after the warm-up: "
  .. table.concat(names(), ", "), group = "Training", keep = true, names = names() },
  table.unpack(schedule.options) }

--- Ends the command over a schedule that is none, or an option that it does not have.
function schedule.check(options)
  cli.check_name("schedule", options.schedule, names())
  for _, row in ipairs(schedule.options) do
    if options[cli.key(row)] ~= nil and not has(options.schedule, row.path) then
      cli.fail(2, ("train: --%s is for --schedule %s; %s has no such option"):format(row[1],
        table.concat(row.schedules, " or "), options.schedule))
    end
  end
  local ok, why = pcall(pf.schedule.constant, { peak = options.lr or 0 })
  if not ok then
    cli.fail(2, "train: " .. why:gsub("^.-schedule%.%a+: ", ""):gsub("'peak'", "--lr"))
  end
  if (options.lr_floor or 0) > 1 then
    cli.fail(2, ("train: --lr-floor %g is more than --lr itself: it is a share of it, from 0 to 1")
      :format(options.lr_floor))
  end
end

--- What was given of the schedule's own: { floor = 0.1 }, for the settings of a run.
function schedule.collect(words)
  local own = {}
  for _, row in ipairs(schedule.options) do own[row.path] = words[cli.key(row)] end
  return own
end

-- ---- a run's rate ----

--- The options of pf.schedule for a run whose number of steps is known.
local function options_of(s)
  local name, own = s.schedule, s.schedule_options
  local options = { peak = s.lr, warmup = s.warmup, factor = own.factor, shape = own.shape,
                    cooldown = own.cooldown }
  if has(name, "steps") then options.steps = s.steps end
  if has(name, "floor") then
    options.floor = s.lr * (own.floor or has(name, "every") and 0 or FLOOR)
  end
  if has(name, "every") then
    options.every = own.every or math.max(1, math.ceil((s.steps - s.warmup) / 3))
  end
  return options
end

--- The learning rate at `step`: a linear warm-up, then what the schedule says, which begins once
-- the number of steps is known.
function schedule.rate(settings, step)
  local s = settings
  if step <= s.warmup or not s.steps then
    return s.lr * math.min(1, step / math.max(1, s.warmup))
  end
  return pf.schedule[s.schedule](options_of(s))(step)
end

--- Complains now about options that the engine would not take, in the words of the command line.
function schedule.try(settings)
  if not settings.steps then return end
  local ok, message = pcall(schedule.rate, settings, settings.steps)
  if ok then return end
  for _, row in ipairs(schedule.options) do
    message = message:gsub("'" .. row.path .. "'", "--" .. row[1])
  end
  cli.try(2, error, "train: " .. message:gsub("^.-schedule%.%a+: ", ""), 0)
end

--- Where the fall of wsd begins.
local function fall_of(s)
  return math.max(s.warmup, s.steps - (s.schedule_options.cooldown or s.steps // 5))
end

-- What becomes of the rate in a run that is made longer, after step `step`; `before`: its settings.
local AHEAD = {
  cosine = function() return "and falls to its end from there" end,
  linear = function() return "and falls to its end from there" end,
  constant = function() return "and stays there" end,
  step = function(s)
    local options = options_of(s)
    return ("and is multiplied by %g every %s after the warm-up"):format(
      options.factor or 0.1, cli.count(options.every, "step"))
  end,
  wsd = function(s, step, before)
    local stays = ("and falls from step %d on"):format(fall_of(s))
    if step <= fall_of(before) then return stays end
    return ("%s; the fall had begun at step %d: a checkpoint from before it goes on as a run of %d "
      .. "steps would have"):format(stays, fall_of(before), s.steps)
  end,
}

--- Says what becomes of the learning rate where a run with settings `before` that stands at `step`
-- gets those of now.
function schedule.say_longer(settings, step, before)
  local ahead = AHEAD[settings.schedule]
  cli.say("train: the learning rate goes from %.3g at step %d to %.3g at step %d, where a run of "
    .. "%d steps with a warm-up of %d has it%s", schedule.rate(before, step), step,
    schedule.rate(settings, step + 1), step + 1, settings.steps, settings.warmup,
    ahead and ", " .. ahead(settings, step, before) or "")
end

return schedule
