-- performer/training.lua: optimizers and schedules under their names, from the engine's tables.
local core = require "performer.core"
local layers = require "performer.nn"
local tables = require "performer.tables"
local util = require "performer.util"
local words = require "performer.words"

--- Does an optimizer's row have beta1 and beta2, for which betas = {b1, b2} may stand?
local function has_betas(row)
  local found = {}
  for _, option in ipairs(row.options) do found[option.name] = true end
  return found.beta1 and found.beta2
end

--- pf.optim.NAME(model, options), from its row in the engine's table.
local function constructor(row)
  local pairable = has_betas(row)
  return function(model, options)
    if type(model) == "function" then
      util.fail("%s: takes a model, not a function: a step is tape:backward(loss), then opt:step()",
        row.name)
    end
    if options ~= nil and type(options) ~= "table" then
      util.fail("%s: options must be a table, as { lr = 0.001 }, got %s", row.name,
        core.kind(options))
    end
    options = util.copy(options or {})
    util.check_words(options, row)
    if pairable and options.betas ~= nil then
      if type(options.betas) ~= "table" or #options.betas ~= 2 then
        util.fail("%s: betas is a list of two numbers", row.name)
      end
      if options.beta1 ~= nil or options.beta2 ~= nil then
        util.fail("%s: betas says beta1 and beta2; give one or the other", row.name)
      end
      options.beta1, options.beta2 = options.betas[1], options.betas[2]
      options.betas = nil
    end
    return core.new_optimizer(row.name, layers.nn.parameters_of(model), options)
  end
end

local optim = {}
for _, row in ipairs(tables.optimizers()) do optim[row.name] = constructor(row) end


--- pf.schedule.NAME(options), from its row: a function of the step.
local schedule = {}
for _, row in ipairs(tables.schedules()) do
  schedule[row.name] = function(options)
    if options ~= nil and type(options) ~= "table" then
      util.fail("schedule.%s: options must be a table, got %s", row.name, core.kind(options))
    end
    options = util.copy(options or {})
    util.check_words(options, { name = "schedule." .. row.name, options = row.options })
    core.schedule_rate(row.name, options, 0) -- says what is wrong with them, now
    return function(step) return core.schedule_rate(row.name, options, step) end
  end
end

local Optimizer = core.methods("performer.optimizer")

--- f(...) with the averages in the weights' place, which come back however it ends.
function Optimizer:averaged(f, ...)
  if type(f) ~= "function" then
    util.fail("averaged: a function is needed, got %s", core.kind(f))
  end
  self:use_average(true)
  -- luacheck: ignore 211
  local back <close> = setmetatable({}, { __close = function() self:use_average(false) end })
  return f(...)
end

return {
  optim = util.namespace(optim, "pf.optim", words.optim),
  schedule = util.namespace(schedule, "pf.schedule", words.schedule),
}
