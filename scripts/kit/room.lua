--- room.lua - what makes a run of `train` take less memory: a smaller model, where that with its
-- gradient and its optimizer is more than there is whatever a step reads; else smaller steps.
local advice = require "kit.advice"
local cli = require "kit.cli"
local pf = require "performer"
local trainable = require "kit.trainable"

local room = {}

-- What stands may have so much of the budget: a step of one short row takes some, too.
local SHARE = 0.9

--- What makes a model smaller; nil: it is one that stands.
local function smaller_model(settings, given)
  if given then return nil end
  if settings.script then return "make a smaller model in " .. cli.quote(settings.script) end
  local names = { "--dim", "--layers" }
  if settings.model.ngrams then table.insert(names, 1, "--buckets") end
  return ("lower %s: it is the model itself that is too large"):format(advice.either(names))
end

--- What makes a step smaller, of a run that goes on, too.
local function smaller_step(settings, given)
  local names = { settings.batch > 1 and "--batch" or nil }
  names[#names + 1] = "--length"
  local model = settings.model
  local redo = not settings.script and not model.recompute and not model.reversible
  if given == "resume" then return redo and "go on with --recompute" or nil end
  return ("lower %s%s"):format(advice.either(names), redo and "; --recompute saves some" or "")
end

local function live()
  collectgarbage()
  return pf.memory().live
end

--- From here on a model is made, or loaded: given, "init" or "resume", says that it stands. Returns
-- what is to be called with it once its optimizer stands, too.
function room.watch(settings, given)
  local before = live()
  advice.lower(function() return smaller_model(settings, given) end)
  return function(model, now)
    settings = now or settings
    -- An n-gram memory has a gradient for the rows that a step reads alone.
    local numbers = model:count() - trainable.memory_of(model)
    local stands = live() - before + 4 * numbers
    advice.lower(function(budget)
      local all = budget and stands > SHARE * (budget - before)
      return (all and smaller_model or smaller_step)(settings, given)
    end)
  end
end

return room
