--- carried.lua - --carry M: rows that go on where the rows of the step before ended, from a state
-- that a model carries over (pf: model:carry), of windows the keys and values of the last M
-- positions, of linear attention its sums. For training (run.lua, steps.lua) and for evaluation.
--
-- In lanes each has a state of its own rows, on the rank that has the lane; checkpoints hold that
-- of all rows, so a run goes on with any number of ranks.
local cli = require "kit.cli"
local pf = require "performer"
local ranks = require "kit.ranks"

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

-- ---- from rank to rank ----

local PLACE = "memory:carried"

local function bytes_of(state)
  cli.need(state:save(PLACE))
  local bytes = cli.need(pf.file.read(PLACE))
  pf.file.remove(PLACE)
  return bytes
end

local function state_of(bytes, model)
  cli.need(pf.file.write(PLACE, bytes))
  local state = cli.need(model:load_state(PLACE))
  pf.file.remove(PLACE)
  return state
end

--- Rank 0's state, or nil, on every rank.
local function share(state, model)
  local here = ranks.here()
  local bytes = here:share_bytes(here:first() and (state and bytes_of(state) or "") or nil)
  if here:first() or bytes == "" then return state end
  return state_of(bytes, model)
end

-- ---- lanes ----

--- Where a run begins: what each lane of this rank's goes on from, { [lane] = state }, out of the
-- state of all rows.
local function part(state, settings)
  local n, parts = settings.batch // settings.lanes, {}
  if settings.lanes == 1 then return { state } end
  for lane in ranks.lanes(settings.lanes) do
    local rows = {}
    for i = 1, n do rows[i] = (lane - 1) * n + i end
    parts[lane] = state:fork():reorder(rows)
  end
  state:close()
  return parts
end

--- Lanes' states are joined for checkpoints, which those of layers in Lua can't be.
local function check_lanes(model, settings)
  if settings.lanes == 1 then return end
  local one <close> = carried.first(model, settings, 1)
  local more <close> = one:fork()
  local fine, message = pcall(one.append, one, more)
  if not fine then
    cli.fail(2, ("train: --carry in %d lanes: %s; give --lanes 1"):format(settings.lanes, message))
  end
end

--- The states of the lanes of a fresh run; nil without --carry.
function carried.begin(model, settings)
  if not settings.carry then return nil end
  check_lanes(model, settings)
  return part(carried.first(model, settings), settings)
end

--- Those of a run that goes on, out of its checkpoint at `path`, which rank 0 alone needs to see.
function carried.resumed(model, settings, path)
  if not settings.carry then return nil end
  local state, message
  if ranks.first() then state, message = pf.checkpoint.carried(path, model) end
  if message then cli.fail(1, cli.advise(message)) end
  if ranks.several() then state = share(state, model) end
  return part(state or carried.first(model, settings), settings) -- none before the first step
end

--- The same states by themselves.
function carried.fork(states)
  local forks = {}
  for lane, state in pairs(states or {}) do forks[lane] = state:fork() end
  return states and forks
end

--- The state of all rows, for a checkpoint, on rank 0: every rank comes here with those of its
-- lanes.
function carried.whole(states, model, settings)
  if not states or settings.lanes == 1 then return states and states[1] end
  local whole
  for lane in ranks.lanes(settings.lanes) do
    whole = whole and whole:append(states[lane]) or states[lane]:fork()
  end
  for rank = 1, ranks.size() - 1 do
    local here = ranks.here()
    local bytes = here:share_bytes(here.rank == rank and bytes_of(whole) or nil, rank)
    if here:first() then
      local more <close> = state_of(bytes, model)
      whole:append(more)
    end
  end
  return whole
end

--- Lets go of what `whole` gave, which may be large.
function carried.drop(whole, states)
  if whole and whole ~= states[1] then whole:close() end
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
