--- carried.lua - --carry M: rows that go on where the rows of the step before ended, from a state
-- that a model carries over (pf: model:carry), of windows the keys and values of the last M
-- positions, of linear attention its sums. For training (run.lua, steps.lua) and for evaluation.
local cli = require "kit.cli"
local pf = require "performer"

local carried = {}

--- Before there is a model.
function carried.check(settings)
  if settings.carry_form and not settings.carry then
    cli.fail(2, "train: --carry-form is of what --carry M carries; give that, too")
  end
  if not settings.carry then return end
  if settings.bidirectional then
    cli.fail(2, "train: --carry is for causal models: where a position sees what comes after it, a "
      .. "row needs its whole text; leave out --bidirectional or --carry")
  end
end

local slides = {} -- kinds whose states are a window
for _, kind in ipairs(pf.kinds()) do slides[kind.name] = kind.state_slides end

--- Does some layer of a model's tree slide?
local function has_window(node)
  if slides[(node.options or {}).attention] then return true end
  for _, child in ipairs(node.children or {}) do
    if has_window(child) then return true end
  end
  return false
end

--- How many positions windows are to carry; nil where there are none, whose sums are of all.
local function keep_of(model, settings)
  return has_window(model:tree()) and settings.carry or nil
end

--- Says what --carry M comes to where no layer counts positions.
function carried.describe(model, settings, command)
  if not settings.carry or keep_of(model, settings) then return end
  carried.first(model, settings, 1) -- a model that carries nothing is refused, and that is all
  cli.say("%s: --carry %d: no layer has a window, so what is carried is of all that was before, "
    .. "however far", command, settings.carry)
end

--- What `rows` rows side by side go on from at first; nil without --carry.
function carried.first(model, settings, rows)
  if not settings.carry then return nil end
  return cli.try(2, model.carry, model, { batch = rows or settings.batch,
    keep = keep_of(model, settings), form = settings.carry_form })
end

--- What a run that goes on goes on from, out of its checkpoint at `path`.
function carried.resumed(model, settings, path)
  if not settings.carry then return nil end
  local state, message = pf.checkpoint.carried(path, model)
  if message then cli.fail(1, cli.advise(message)) end
  return state or carried.first(model, settings) -- saved before the first step
end

--- How many of the `size` rows of batch `index` there are, of `rows` in streams of `each`.
function carried.rows(index, size, each, rows)
  local n = 0
  for b = 0, size - 1 do
    if b * each + index <= rows then n = n + 1 end
  end
  return n
end

return carried
