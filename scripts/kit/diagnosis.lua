--- diagnosis.lua - where the first number of a step arose that is none: the step that went wrong is
-- run once more, with every op looked at.
local pf = require "performer"
local ranks = require "kit.ranks"

local diagnosis = {}

--- Rows in segments run to their end on all ranks that share them, and what each has found first is
-- held against the others': a is before b.
local function is_before(a, b)
  if not a.order then return false end -- whole rows: who comes first
  if a.phase ~= b.phase then return a.phase == "forward" end
  if a.order ~= b.order then return a.order < b.order end
  if a.phase == "forward" then return a.segment < b.segment end
  return a.segment > b.segment
end

--- What a batch shows: { message =, phase =, ... }; nil: nothing, or it can't be run again.
local function look(run, step, i)
  local batch, pass = run.step_batches[i], run:pass(step, i)
  local called, fine, message, found
  if pass.segments then
    called, fine, message, found = pcall(pf.check.finite, function()
      run.optimizer:backward_segments(batch, pass)
    end, { step = step })
  else
    called, fine, message, found = pcall(pf.check.finite, run.model, batch, pass, run.loss)
  end
  if not called or fine then return nil end
  return { message = message, phase = found.phase, order = found.order, segment = found.segment }
end

--- The sentence that tells step, layer and op of the first on all ranks; nil: there is none.
function diagnosis.first(run, step)
  local first
  for i = 1, #run.step_batches do
    local found = look(run, step, i)
    if found and (not first or is_before(found, first)) then first = found end
    if first and not first.order then break end
  end
  local all
  for _, found in ipairs(ranks.collect(first or false)) do
    if found and (not all or is_before(found, all)) then all = found end
  end
  return all and all.message
end

return diagnosis
